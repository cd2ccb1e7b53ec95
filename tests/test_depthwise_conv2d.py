"""DepthwiseConv2D is Keras's: the same variables, values and gradients, whichever form its gradient is computed in."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from keras_cnns.layers import DepthwiseConv2D
from keras_cnns.layers.convolution_forms import DEPTHWISE_FILTER_GRADIENTS, choose_depthwise
from tests.test_conv2d import assert_close, onednn, operations, results  # noqa: F401 - a fixture among them

KERNELS = [(3, 1, "same"), (5, 1, "same"), ((2, 4), 1, "same"), (5, 1, "valid"), (5, 2, "same"), (5, 2, "valid")]


def pair(x, size, stride, padding, **options):
    """Return Keras's layer and ours with the same weights."""
    layers = [
        kind(size, stride, padding, bias_initializer="ones", **options)
        for kind in (keras.layers.DepthwiseConv2D, DepthwiseConv2D)
    ]
    for layer in layers:
        layer.build(x.shape)
    layers[1].set_weights(layers[0].get_weights())
    return layers


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("float32", 2e-6)])
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 2), (5, 6), (9, 8)], ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_values_and_gradients_are_those_of_keras(kernel, size, dtype, tolerance, onednn):  # noqa: F811
    if kernel[2] == "valid":
        size = tuple(max(5, pixels) for pixels in size)
    x = np.random.RandomState(0).normal(size=(2, *size, 3)).astype(dtype)
    reference, ours = pair(x, *kernel, depth_multiplier=2, dtype=dtype)
    assert_close(results(ours, x), results(reference, x), tolerance)


@pytest.mark.parametrize("kernel", [(5, 1, "same"), (5, 2, "same"), (5, 2, "valid")], ids=str)
def test_sizes_may_be_unknown(kernel, onednn):  # noqa: F811
    x = np.random.RandomState(0).normal(size=(2, 6, 7, 3))
    reference, ours = pair(x, *kernel, dtype="float64")
    unknown = results(ours, x, tf.TensorSpec((None, None, None, 3), "float64"))
    assert_close(unknown, results(reference, x), 1e-13)


@pytest.mark.parametrize(
    "options",
    [
        {"dilation_rate": 2},
        {"dtype": "mixed_float16"},
        {"dtype": "mixed_bfloat16"},
        {"activation": "relu", "use_bias": False},
    ],
    ids=str,
)
def test_the_other_cases_equal_keras_too(options, onednn):  # noqa: F811
    x = np.random.RandomState(0).normal(size=(2, 6, 6, 4)).astype("float32")
    reference, ours = pair(x, 5, 1, "same", **options)
    assert_close(results(ours, x), results(reference, x), 2e-6)


@pytest.mark.parametrize("stride, padding", [*itertools.product((1, 2), ("same", "valid"))])
@pytest.mark.parametrize("kernel, size", [((5, 5), (6, 7)), ((1, 4), (3, 4)), ((3, 3), (3, 4))], ids=str)
def test_both_forms_of_the_gradient_of_the_filter(kernel, size, stride, padding):
    random = np.random.RandomState(0)
    size = [max(pair) for pair in zip(size, kernel, strict=True)]
    x, weights = random.normal(size=(2, *size, 3)), random.normal(size=(*kernel, 3, 2))
    strides = [1, stride, stride, 1]
    dy = tf.constant(random.normal(size=tf.nn.depthwise_conv2d(x, weights, strides, padding.upper()).shape))
    gradients = [
        form(tf.constant(x), dy, weights.shape, stride, padding) for form in DEPTHWISE_FILTER_GRADIENTS.values()
    ]
    assert_close(gradients[1:], gradients[:1], 1e-13)


@pytest.mark.parametrize(
    "kernel, size, stride, form",
    [
        ((5, 5), (14, 14), 1, "eigen"),
        ((5, 5), (28, 28), 2, "eigen"),
        ((3, 3), (14, 14), 1, "tensorflow"),
        ((5, 3), (14, 14), 1, "tensorflow"),
        ((3, 3), (2, 2), 1, "eigen"),
        ((3, 3), (4, 4), 2, "eigen"),
        ((5, 5), (None, None), 1, "tensorflow"),
    ],
)
def test_with_onednn_wide_kernels_and_small_maps_have_another_form(monkeypatch, kernel, size, stride, form):
    x, weights = keras.Input((*size, 3)), tf.ones((*kernel, 3, 1))
    for on, expected in ((True, form), (False, "tensorflow")):
        monkeypatch.setattr("keras_cnns.layers.convolution_forms.onednn_is_on", lambda on=on: on)
        assert choose_depthwise(x, weights, stride, "same")[1] == expected


def test_keras_computes_inference_so_that_exports_have_plain_convolutions(monkeypatch):
    monkeypatch.setattr("keras_cnns.layers.convolution_forms.onednn_is_on", lambda: True)
    x, layer = tf.ones((2, 7, 7, 8)), DepthwiseConv2D(5, padding="same")
    assert "IdentityN" in operations(lambda x: layer(x, training=True), x)
    for training in (False, None):
        assert "IdentityN" not in operations(lambda x, training=training: layer(x, training=training), x)


def test_config_and_variables_are_those_of_keras():
    reference, ours = (kind(5, 2, "same", name="unit") for kind in (keras.layers.DepthwiseConv2D, DepthwiseConv2D))
    assert ours.get_config() == reference.get_config()
    for layer in (reference, ours):
        layer.build((None, 8, 8, 3))
    assert [v.path for v in ours.variables] == [v.path for v in reference.variables]


def test_networks_train_with_these_convolutions():
    model = keras_cnns.EfficientNetB0(weights=None, classes=10)
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
    assert layers and all(type(layer) is DepthwiseConv2D for layer in layers)
