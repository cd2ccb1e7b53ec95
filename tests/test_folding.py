"""Folded batch normalization: the same outputs, without the normalization."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from keras_cnns import fold_batch_norm
from tests.small_networks import DISTINCT, WITH_HEADS, case_of, images, network, outputs

WITHOUT = ("AlexNet", "AlexNetOneTower", "VGG11", "GoogLeNet")  # their papers are older
VARIANTS = [(name, {}) for name in DISTINCT]
VARIANTS += [("VGG11", {"batch_norm": True}), ("DenseNet121", {"memory_efficient": True})]
VARIANTS += [(name, {"aux_heads": True}) for name in WITH_HEADS]


def norms(model):
    return [layer.name for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


@pytest.mark.parametrize(("name", "arguments"), [case_of(n, kw, id=f"{n}({kw or ''})") for n, kw in VARIANTS])
def test_the_outputs_stay(name, arguments):
    model = network(name, **arguments)
    folded, x = fold_batch_norm(model), images(2, 64, 64, 3)
    for head, theirs in outputs(model, x).items():
        assert np.abs(outputs(folded, x)[head] - theirs).max() <= 1e-5 * np.abs(theirs).max()
    left = {layer.name for layer in folded.layers}
    assert {layer.name for layer in model.layers} - left <= set(norms(model))


@pytest.mark.parametrize("name", [case_of(name) for name in DISTINCT if name not in WITHOUT])
def test_what_is_folded(name):
    """Everything but what DenseNet normalizes before a ReLU and a convolution."""
    model, folded = network(name), fold_batch_norm(network(name))
    left = norms(folded)
    assert norms(model)
    if name.startswith("DenseNet"):
        assert left and not [n for n in left if n.startswith("stem") or n.endswith("conv2_bn")]
        assert len(left) < len(norms(model)) or name == "DenseNetCIFAR"  # which has no 1x1 between two
    else:
        assert left == []
    assert folded.count_params() <= model.count_params()


def test_what_cannot_be_folded_stays():
    """A convolution that something else takes too, one with an activation, and one that is an output."""
    image = keras.Input((8, 8, 3))
    twice = keras.layers.Conv2D(4, 3, name="twice")(image)
    active = keras.layers.Conv2D(4, 3, activation="relu", name="active")(image)
    last = keras.layers.Conv2D(4, 3, name="last")(image)
    sums = [keras.layers.BatchNormalization(name=f"norm{i}")(x) for i, x in enumerate((twice, active, last))]
    model = keras.Model(image, [keras.layers.Add()([sums[0], twice]), sums[1], sums[2], last])
    for layer in model.layers:
        layer.set_weights([np.random.RandomState(0).uniform(0.5, 1, w.shape) for w in layer.get_weights()])
    folded = fold_batch_norm(model)
    assert norms(folded) == norms(model)
    x = images(1, 8, 8, 3)
    for ours, theirs in zip(folded(x), model(x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_statistics_without_scale_or_shift_and_a_dense_layer():
    image = keras.Input((6,))
    x = keras.layers.Dense(5, name="dense")(image)
    x = keras.layers.BatchNormalization(scale=False, center=False, epsilon=0.1, name="norm")(x)
    model = keras.Model(image, x)
    model.get_layer("norm").set_weights([np.arange(5.0), np.arange(1.0, 6.0)])
    folded = fold_batch_norm(model)
    assert norms(folded) == []
    x = images(3, 6)
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-5, atol=1e-6)


def test_the_graph_of_a_folded_network_has_no_normalization():
    """What makes TensorFlow slow for one image with oneDNN is its fusion of a convolution with a normalization."""
    folded = fold_batch_norm(network("ResNet18"))
    concrete = tf.function(lambda x: folded(x, training=False)).get_concrete_function(tf.TensorSpec((1, 64, 64, 3)))
    operations = {node.type for node in concrete.graph.get_operations()}
    assert not [kind for kind in operations if "BatchNorm" in kind] and "Rsqrt" not in operations


def test_it_knows_its_preprocessing():
    model = keras_cnns.ResNet20()
    model.preprocessing, model.image_size = "tf", keras_cnns.ImageSize(32, 0.5)
    folded = fold_batch_norm(model)
    assert (folded.preprocessing, folded.image_size) == ("tf", model.image_size)
