"""What training resumes from: variables, seeds, the optimizer and the callbacks' state."""

import json

import keras
import numpy as np
import pytest

from training import state
from training.errors import StateError


def model(units=3, seed=0, name="dense"):
    keras.utils.set_random_seed(seed)
    image = keras.Input((4,))
    x = keras.layers.Dropout(0.5, name="drop")(image)
    network = keras.Model(image, keras.layers.Dense(units, name=name)(x))
    network.compile(optimizer=keras.optimizers.Adam())
    network.optimizer.build(network.trainable_variables)
    return network


def copy_state(source, target):
    arrays, values = state.to_arrays(state.state_of(source))
    state.restore(state.state_of(target), [], arrays, values, "here")


def test_the_state_has_seeds_and_optimizer():
    first, second = model(seed=1), model(seed=2)
    first(np.ones((2, 4), "float32"), training=True)  # moves the seed of the dropout
    first.optimizer.apply([np.ones(v.shape, "float32") for v in first.trainable_variables])
    copy_state(first, second)
    pairs = list(
        zip(first.variables + first.optimizer.variables, second.variables + second.optimizer.variables, strict=True)
    )
    for one, other in pairs:
        np.testing.assert_array_equal(one, other, err_msg=one.path)
    assert int(second.optimizer.iterations) == 1
    assert any("seed" in one.path for one, _ in pairs)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"units": 5}, r"its variables are not this run's.*--overwrite"),
        (
            {"name": "stage1"},
            r"model/stage1/bias, which the network does not have. An earlier version .* stage2 to stage8.*--overwrite",
        ),
    ],
    ids=["another network", "an earlier version"],
)
def test_a_state_of_another_network_changes_nothing(saved, message):
    network = model(seed=7)
    before = [keras.ops.convert_to_numpy(variable) for variable in network.variables]
    with pytest.raises(StateError, match=message):
        copy_state(model(**saved), network)
    for old, variable in zip(before, network.variables, strict=True):
        np.testing.assert_array_equal(old, variable)


def test_the_state_of_keras_callbacks_is_kept():
    early = keras.callbacks.EarlyStopping(restore_best_weights=True)
    early.wait, early.best, early.best_weights = 2, np.float32(0.5), [np.ones(3, "float32"), np.array(7)]
    arrays, values = state.to_arrays({}, [early])
    other = keras.callbacks.EarlyStopping(restore_best_weights=True)
    state.restore({}, [other], arrays, json.loads(json.dumps(values)), "here")
    assert (other.wait, other.best) == (2, 0.5)
    np.testing.assert_array_equal(other.best_weights[0], np.ones(3))
    assert other.best_weights[1] == 7
