"""The probes: they leave the network unchanged, and find its gates and gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from tests.dashboard_helpers import one_layer
from tests.stripes import network
from training.dashboards.probes import activations_of, gradients_of, restored


def test_moving_statistics_and_seeds_are_restored():
    model = network()
    variables = model.non_trainable_variables
    assert {"moving_mean", "seed_generator_state"} <= {variable.path.rpartition("/")[2] for variable in variables}
    before = [variable.numpy() for variable in variables]
    with restored(model.non_trainable_variables):
        model(tf.random.stateless_normal((4, 8, 8, 3), (0, 0)), training=True)
        assert any((one != variable.numpy()).any() for one, variable in zip(before, variables, strict=True))
    assert all((one == variable.numpy()).all() for one, variable in zip(before, variables, strict=True))


def test_activations_include_the_gates():
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, keras_cnns.squeeze_and_excitation(image, name="block_gate", ratio=1))
    _, gates, _ = activations_of(model)(tf.zeros((2, 4, 4, 3)))
    assert {name: tuple(gate.shape) for name, gate in gates.items()} == {"block_gate_sigmoid": (2, 1, 1, 3)}


def test_gradients_of_probabilities_equal_those_of_logits():
    logits = one_layer()
    image = keras.Input((8, 8, 3))
    probabilities = keras.Model(image, keras.layers.Softmax()(logits(image)))
    batch = tf.random.stateless_uniform((4, 8, 8, 3), (0, 0)), tf.one_hot([0, 1, 1, 0], 2)
    found = []
    for model, from_logits in ((logits, True), (probabilities, False)):
        model.compile("sgd")
        found.append(gradients_of(model, 0.3, from_logits)(*batch)[0].numpy())
    assert np.abs(found[0]).max() > 0
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-6)
