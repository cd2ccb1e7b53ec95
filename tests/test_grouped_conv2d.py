"""The grouped convolution against Keras's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cnns.layers import GroupedConv2D

# Channels, filters, groups, other arguments. From 16 channels per group on each group is a convolution of its own.
GROUPS = [
    (8, 8, 2, {"padding": "same"}),
    (32, 8, 2, {"padding": "same", "strides": 2}),
    (12, 6, 3, {"padding": "valid", "dilation_rate": 2}),
    (72, 4, 4, {"padding": "same", "use_bias": False, "activation": "relu"}),
    (64, 32, 32, {"padding": "same", "strides": 2}),
    (5, 10, 5, {"padding": "valid"}),
    (4, 6, 1, {"padding": "same"}),
]


@pytest.mark.parametrize(("channels", "filters", "groups", "arguments"), GROUPS)
def test_it_equals_that_of_keras(channels, filters, groups, arguments):
    """In values, gradients and variables, so that weights are interchangeable."""
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(2, 7, 6, channels)), tf.float32)
    results = []
    for kind in (GroupedConv2D, keras.layers.Conv2D):
        layer = kind(filters, 3, groups=groups, name="grouped", **arguments)
        layer.build(x.shape)
        random = np.random.default_rng(1)
        for variable in layer.weights:
            variable.assign(random.normal(size=variable.shape))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            product = tf.reduce_sum(y * random.normal(size=y.shape).astype("float32"))
        gradients = tape.gradient(product, [x, *(variable.value for variable in layer.weights)])
        results.append([y, *gradients])
        assert layer.kernel.shape == (3, 3, channels // groups, filters)
        assert [variable.path for variable in layer.weights] == ["grouped/kernel", "grouped/bias"][: len(layer.weights)]
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_save_and_load(tmp_path):
    layer = GroupedConv2D(8, 3, groups=2, padding="same", name="grouped")
    model = keras.Sequential([keras.Input((4, 5, 6)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("grouped")) is GroupedConv2D and loaded.get_layer("grouped").groups == 2
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 6))
    np.testing.assert_array_equal(loaded(x), model(x))


def test_half_precision():
    layer = GroupedConv2D(8, 3, groups=4, padding="same", dtype="mixed_float16")
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 16)).astype("float32")
    out = layer(x)
    assert out.dtype == "float16" and layer.kernel.dtype == "float32"
    whole = GroupedConv2D(8, 3, groups=4, padding="same")
    whole.build(x.shape)
    whole.set_weights(layer.get_weights())
    np.testing.assert_allclose(out, whole(x), rtol=1e-2, atol=1e-2)


def test_any_size():
    layer = GroupedConv2D(8, 3, groups=2, padding="same")
    model = keras.Sequential([keras.Input((None, None, 6)), layer])
    assert model.output_shape == (None, None, None, 8)
    assert model(np.zeros((1, 4, 5, 6))).shape == (1, 4, 5, 8)
