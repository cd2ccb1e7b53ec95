"""Conv2D is Keras's: the same variables, values and gradients, whichever forms they are computed in."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from keras_cnns.layers import Conv2D, conv2d, convolution_forms
from keras_cnns.layers.convolution_forms import FILTER_GRADIENTS, INPUT_GRADIENTS, OUTPUTS, fastest_forms

# Kernel, stride and padding; map; channels and filters.
CASES = [
    *itertools.product([(1, 1, "same")], [(1, 1), (4, 5), (13, 13)], [(3, 8)]),
    *itertools.product([(1, 2, "same"), (1, 2, "valid")], [(1, 1), (4, 5), (7, 7)], [(3, 8)]),
    *itertools.product(
        [(3, 1, "same"), (5, 1, "same")], [(1, 1), (1, 3), (2, 2), (3, 2), (5, 4)], [(3, 40), (130, 128)]
    ),
    *itertools.product([(3, 1, "same")], [(12, 13)], [(3, 40)]),
    *itertools.product(
        [(3, 1, "valid"), (3, 2, "valid"), (3, 2, "same")], [(3, 3), (4, 5), (7, 6)], [(3, 8), (130, 128)]
    ),
    *itertools.product([(2, 1, "same"), (2, 2, "same"), (4, 2, "valid")], [(4, 5), (6, 6)], [(3, 8)]),
]


@pytest.fixture(params=[False, True], ids=["without oneDNN", "with oneDNN"])
def onednn(request, monkeypatch):
    """The choice of forms with and without oneDNN, whatever this process computes with."""
    monkeypatch.setattr(convolution_forms, "onednn_is_on", lambda: request.param)
    return request.param


def results(layer, x, specification=None):
    """Return a layer's output in training, and the gradients of a weighted sum of it to the input and the variables."""

    def compute(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y * tf.reshape(tf.cast(tf.range(tf.size(y)) % 7, y.dtype), tf.shape(y)))
        return y, *tape.gradient(loss, [x, *(variable.value for variable in layer.trainable_variables)])

    if specification is not None:
        compute = tf.function(compute, input_signature=[specification], autograph=False)
    return [result.numpy().astype("float64") for result in compute(tf.constant(x))]


def pair(x, filters, size, stride, padding, **options):
    """Return Keras's layer and ours with the same weights."""
    layers = [
        kind(filters, size, stride, padding, bias_initializer="ones", **options)
        for kind in (keras.layers.Conv2D, Conv2D)
    ]
    for layer in layers:
        layer.build(x.shape)
    layers[1].set_weights(layers[0].get_weights())
    return layers


def assert_close(ours, reference, tolerance):
    for our, expected in zip(ours, reference, strict=True):
        assert our.shape == expected.shape
        assert np.abs(our - expected).max() <= tolerance * max(1e-3, np.abs(expected).max())


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("float32", 2e-6)])
@pytest.mark.parametrize("kernel, size, channels", CASES, ids=str)
def test_values_and_gradients_are_those_of_keras(kernel, size, channels, dtype, tolerance, onednn):
    x = np.random.RandomState(0).normal(size=(2, *size, channels[0])).astype(dtype)
    reference, ours = pair(x, channels[1], *kernel, dtype=dtype)
    assert_close(results(ours, x), results(reference, x), tolerance)


@pytest.mark.parametrize("kernel", [(1, 1, "same"), (1, 2, "same"), (3, 1, "same"), (3, 2, "valid")], ids=str)
def test_sizes_may_be_unknown(kernel, onednn):
    x = np.random.RandomState(0).normal(size=(2, 6, 7, 130))
    reference, ours = pair(x, 128, *kernel, dtype="float64")
    unknown = results(ours, x, tf.TensorSpec((None, None, None, 130), "float64"))
    assert_close(unknown, results(reference, x), 1e-13)


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2},
        {"dilation_rate": 2},
        {"strides": (2, 1)},
        {"strides": 3},
        {"dtype": "mixed_float16"},
        {"dtype": "mixed_bfloat16"},
        {"activation": "relu", "use_bias": False},
    ],
    ids=str,
)
def test_the_other_cases_equal_keras_too(options):
    x = np.random.RandomState(0).normal(size=(2, 6, 6, 4)).astype("float32")
    options = {"strides": 1, "padding": "same", **options}
    reference, ours = pair(x, 8, 3, options.pop("strides"), **options)
    assert_close(results(ours, x), results(reference, x), 2e-6)


@pytest.mark.parametrize("form", [form for form in OUTPUTS if form != "product"])
@pytest.mark.parametrize("stride, padding", [*itertools.product((1, 2), ("same", "valid"))])
@pytest.mark.parametrize("kernel, size", [((3, 5), (6, 7)), ((1, 1), (3, 3)), ((3, 3), (3, 4))], ids=str)
def test_every_form_of_the_output(form, kernel, size, stride, padding):
    random = np.random.RandomState(0)
    x, weights = random.normal(size=(2, *size, 3)), random.normal(size=(*kernel, 3, 4))
    arguments = tf.constant(x), tf.constant(weights), stride, padding
    assert_close([OUTPUTS[form](*arguments)], [OUTPUTS["tensorflow"](*arguments)], 1e-13)


@pytest.mark.parametrize("form", INPUT_GRADIENTS)
@pytest.mark.parametrize("kernel, size", [((3, 5), (6, 7)), ((1, 1), (3, 3)), ((5, 3), (2, 3))], ids=str)
def test_every_form_of_the_gradient_of_the_input(form, kernel, size):
    random = np.random.RandomState(0)
    dy, weights = tf.constant(random.normal(size=(2, *size, 4))), tf.constant(random.normal(size=(*kernel, 3, 4)))
    arguments = dy, weights, tf.constant([2, *size, 3]), size, 1, "same"
    assert_close([INPUT_GRADIENTS[form](*arguments)], [INPUT_GRADIENTS["tensorflow"](*arguments)], 1e-13)


@pytest.mark.parametrize("form", FILTER_GRADIENTS)
@pytest.mark.parametrize("stride, padding", [*itertools.product((1, 2), ("same", "valid"))])
@pytest.mark.parametrize("kernel, size", [((3, 5), (6, 7)), ((1, 1), (3, 3)), ((3, 3), (3, 4))], ids=str)
def test_every_form_of_the_gradient_of_the_filter(form, kernel, size, stride, padding):
    if size[0] < kernel[0] or size[1] < kernel[1]:
        size = kernel
    random = np.random.RandomState(0)
    x, weights = random.normal(size=(2, *size, 3)), random.normal(size=(*kernel, 3, 4))
    dy = tf.constant(random.normal(size=tf.nn.conv2d(x, weights, stride, padding.upper()).shape))
    arguments = tf.constant(x), dy, weights.shape, stride, padding
    assert_close([FILTER_GRADIENTS[form](*arguments)], [FILTER_GRADIENTS["tensorflow"](*arguments)], 1e-13)


# The forms of the output and of the gradients of the input and the filter.
PRODUCT, TENSORFLOW = ("product",) * 3, ("tensorflow",) * 3
TAPS, TURNED = ("tensorflow", "taps", "tensorflow"), ("tensorflow", "convolution", "tensorflow")
TINY = ("eigen", "taps", "taps")


@pytest.mark.parametrize(
    "kernel, size, stride, padding, without, with_onednn",
    [
        ((1, 1, 512, 128), (2, 2), 1, "same", PRODUCT, PRODUCT),
        ((1, 1, 64, 256), (56, 56), 1, "same", ("tensorflow", "product", "product"), TENSORFLOW),
        ((1, 1, 64, 256), (None, None), 1, "same", PRODUCT, TENSORFLOW),
        ((1, 1, 1024, 2048), (14, 14), 2, "valid", TAPS, TAPS),
        ((1, 1, 512, 1024), (28, 28), 2, "valid", TAPS, TENSORFLOW),
        ((1, 1, 256, 512), (56, 56), 2, "valid", TENSORFLOW, TENSORFLOW),
        ((3, 3, 256, 256), (2, 2), 1, "same", TURNED, TINY),
        ((3, 3, 256, 256), (14, 14), 1, "same", TURNED, TENSORFLOW),
        ((3, 3, 32, 32), (8, 8), 1, "same", TENSORFLOW, TENSORFLOW),
        ((3, 3, 200, 12), (8, 8), 1, "same", TURNED, TENSORFLOW),
        ((3, 3, 256, 512), (4, 4), 2, "valid", TAPS, TINY),
        ((3, 3, 256, 512), (10, 10), 2, "valid", TAPS, TAPS),
        ((3, 3, 64, 64), (58, 58), 2, "valid", TENSORFLOW, TENSORFLOW),
        ((3, 3, 256, 256), (None, None), 2, "valid", TENSORFLOW, TENSORFLOW),
        ((2, 2, 256, 256), (14, 14), 1, "same", TENSORFLOW, TENSORFLOW),
    ],
)
def test_forms_that_were_measured_to_be_the_fastest(kernel, size, stride, padding, without, with_onednn):
    assert fastest_forms(kernel, size, stride, padding, False) == without
    assert fastest_forms(kernel, size, stride, padding, True) == with_onednn


def operations(function, x):
    graph = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec(x.shape, x.dtype)).graph
    return [operation.type for operation in graph.get_operations()]


def test_keras_computes_inference_so_that_exports_have_plain_convolutions():
    x, layer = tf.ones((2, 2, 2, 8)), Conv2D(8, 3, padding="same")  # own gradients with and without oneDNN
    assert "IdentityN" in operations(lambda x: layer(x, training=True), x)
    for training in (False, None):
        assert "IdentityN" not in operations(lambda x, training=training: layer(x, training=training), x)


def test_keras_computes_where_xla_compiles():
    found = []
    tf.function(lambda: found.append(conv2d.on_tensorflow_cpu()), jit_compile=True, autograph=False)()
    tf.function(lambda: found.append(conv2d.on_tensorflow_cpu()), autograph=False)()
    assert found == [False, True]


def test_keras_computes_on_gpus(monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    assert not conv2d.on_tensorflow_cpu()


def test_taps_outside_the_map_are_left_out():
    kernel = tf.reshape(tf.range(25.0), (5, 5, 1, 1))
    assert convolution_forms.without_outer_taps(kernel, (1, 1)).numpy().ravel() == [12]
    assert convolution_forms.without_outer_taps(kernel, (2, 9)).shape == (3, 5, 1, 1)
    assert convolution_forms.without_outer_taps(kernel, (3, None)).shape == (5, 5, 1, 1)


def test_second_derivatives():
    layer = Conv2D(4, 3, padding="same", dtype="float64")
    x = tf.constant(np.random.RandomState(0).normal(size=(1, 2, 2, 130)))

    def gradient_of_gradient(training):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.reduce_sum(layer(x, training=training) ** 2)
            gradient = tf.reduce_sum(inner.gradient(y, x) ** 2)
        return outer.gradient(gradient, x)

    assert_close([gradient_of_gradient(True)], [gradient_of_gradient(False)], 1e-12)


def test_config_and_variables_are_those_of_keras():
    reference, ours = (kind(4, 3, 2, "same", name="unit") for kind in (keras.layers.Conv2D, Conv2D))
    assert ours.get_config() == reference.get_config()
    for layer in (reference, ours):
        layer.build((None, 8, 8, 3))
    assert [v.path for v in ours.variables] == [v.path for v in reference.variables]


def test_networks_train_with_these_convolutions():
    model = keras_cnns.ResNetCIFAR(depth=8, weights=None)
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert layers and all(type(layer) is Conv2D for layer in layers)
