"""Our networks equal independent implementations, whose answers tests/golden/make_golden.py has stored."""

import functools
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from docs.networks_table import PROOFS
from keras_cnns import densenet, resnet
from keras_cnns.layers import GroupedConv2D, LocalResponseNormalization
from keras_cnns.layers.deformable_conv2d import deform_conv2d
from tests.formula import (
    DEFORMABLE,
    GROUPED,
    TRAINING_SHAPE,
    deformable_arguments,
    draw,
    image,
    output_direction,
    set_formula_weights,
    summary,
)

FOLDER = pathlib.Path(__file__).parent / "golden"
NETWORKS = {file: network for file, (network, _) in PROOFS.items()}
SMALL_DENSENET = functools.partial(densenet.densenet, densenet.Column((2, 2), growth_rate=8))
# The same in training: file and network.
TRAINED = [
    (
        "resnet_training",
        functools.partial(resnet.resnet, [resnet.Stage(f, 1) for f in (64, 128, 256, 512)], block=resnet.basic_block),
    ),
    ("inceptionv1_training", NETWORKS["inceptionv1"]),
    ("densenet_training", SMALL_DENSENET),
    ("densenet_training", functools.partial(SMALL_DENSENET, memory_efficient=True)),
]
SIZES = ("2x224x224", "1x149x193")  # batch x height x width
SIZES_OF = {name: ("2x224x224", "1x95x127") for name in NETWORKS if name.startswith("vgg")}
SIZES_OF |= dict.fromkeys(("efficientnetb4", "efficientnetb4_keras"), ("1x380x380", "2x149x193"))


# Deeper or larger than another one, with the same blocks.
DEEPER = ("densenet161", "resnet101", "efficientnetb4", "senet154")


def slow(name, size):
    """Return whether a network is left to `make test-all`: of VGG with its large dense layer, too."""
    return name in DEEPER or (name.startswith("vgg") and size == "2x224x224")


CASES = [
    pytest.param(name, size, marks=[pytest.mark.slow] if slow(name, size) else [])
    for name in NETWORKS
    for size in SIZES_OF.get(name, SIZES)
]


@pytest.fixture(autouse=True)
def whole_float32():
    """Recent GPUs multiply float32 with 10 of its 23 bits unless told not to."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(before)


def golden(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: file[key] for key in file.files if key != "versions"}


def assert_equal(ours, theirs, tolerance=1e-4):
    """To 1e-4 of the largest value; that sums are taken in another order costs some 1e-6."""
    ours = np.array(ours)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@functools.lru_cache(maxsize=1)
def with_formula_weights(network, input_shape):
    """Return a function (images) -> the outputs of a network with the weights of the formula.

    The network has no weights of its own, whose initial values would take longer than all else.
    """
    with keras.StatelessScope(initialize_variables=False):
        model = network(input_shape=input_shape, classifier_activation=None)
    weights = {id(variable) for variable in model.weights}

    def values(variables):  # others are the seeds of random layers
        return [draw(v.path, tuple(v.shape)) if id(v) in weights else np.zeros(v.shape, v.dtype) for v in variables]

    arguments = [values(model.trainable_variables), values(model.non_trainable_variables)]
    arguments = [[tf.constant(value) for value in group] for group in arguments]
    return lambda images: model.stateless_call(*arguments, images, training=False)[0]


@functools.cache
def answers(network, size):
    """Return a network's logits, {output: array}; two files may share a network, and two sizes a build."""
    images = image("image", (*map(int, size.split("x")), 3))
    try:
        model = with_formula_weights(network, (None, None, 3))
    except keras_cnns.FixedSizeError:
        model = with_formula_weights(network, images.shape[1:])
    outputs = model(images)
    return {
        key: np.array(value) for key, value in (outputs if isinstance(outputs, dict) else {"main": outputs}).items()
    }


@pytest.mark.parametrize(("name", "size"), CASES)
def test_network_equals_its_peer(name, size):
    outputs, theirs = answers(NETWORKS[name], size), golden(name)
    assert {f"{output}_{size}" for output in outputs} == {key for key in theirs if key.endswith(size)}
    for output, logits in outputs.items():
        assert_equal(logits, theirs[f"{output}_{size}"])


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_logits_tell_classes_and_images_apart(name):
    for logits in golden(name).values():
        largest = np.abs(logits).max()
        assert logits.dtype == np.float32
        assert 0.1 < largest < 400  # 1e-4 of it is then a fifth of a bias, which is about 0.2, at the most
        assert (logits.std(axis=1) > 0.1 * largest).all()
        assert (np.abs(logits[1:] - logits[0]).max(axis=1) > 0.02 * largest).all()


@pytest.mark.parametrize("name", GROUPED)
def test_grouped_convolution_equals_torch(name):
    groups, channels, filters, size, strides, padding = GROUPED[name]
    x = tf.constant(image(f"{name}/input", (1, 6, 5, channels)))
    layer = GroupedConv2D(filters, size, strides, groups=groups)
    layer.build((None, None, None, channels))
    layer.kernel.assign(draw(f"{name}/kernel", layer.kernel.shape))
    layer.bias.assign(draw(f"{name}/bias", layer.bias.shape))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(tf.pad(x, [[0, 0], [padding, padding], [padding, padding], [0, 0]]))
        product = tf.reduce_sum(y * image(f"{name}/direction", y.shape))
    to_input, to_kernel = tape.gradient(product, [x, layer.kernel.value])
    theirs = golden("grouped_convolution")
    assert_equal(y, theirs[f"values_{name}"])
    assert_equal(to_input, theirs[f"input_{name}"])
    assert_equal(to_kernel, theirs[f"kernel_{name}"])


@pytest.fixture
def float64():
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")  # which conftest.py puts back
    yield
    keras.config.set_floatx(before)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("name", "network"), TRAINED, ids=["resnet", "inceptionv1", "densenet", "densenet_efficient"])
def test_training_step_equals_its_peers(name, network):
    """Outputs with the statistics of the batch, gradients of every variable and updated moving statistics, to 1e-6."""
    model = network(input_shape=TRAINING_SHAPE[1:], classes=10, classifier_activation=None)
    set_formula_weights(model)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    theirs = golden(name)
    with tf.GradientTape() as tape:
        outputs = model(image("image", TRAINING_SHAPE).astype("float64"), training=True)
        outputs = outputs if isinstance(outputs, dict) else {"main": outputs}
        loss = sum(tf.reduce_sum(value * output_direction(key, value.shape)) for key, value in outputs.items())
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    assert outputs.keys() == theirs.keys() - {"variables", "summaries"}
    for output, logits in outputs.items():
        assert np.abs(logits - theirs[output]).max() <= 1e-6 * np.abs(theirs[output]).max()
    values = {v.path: np.array(gradient) for v, gradient in zip(model.trainable_variables, gradients, strict=True)}
    values |= {variable.path: np.array(variable) for variable in model.weights if not variable.trainable}
    expected = dict(zip((path.decode() for path in theirs["variables"]), theirs["summaries"], strict=True))
    assert values.keys() == expected.keys()
    for path, value in values.items():
        assert value.dtype == np.float64 and expected[path][0] > 0
        # A product with a direction is about as large as the norm.
        assert np.abs(summary(path, value) - expected[path]).max() <= 1e-6 * expected[path][0], path


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 5, "alpha": 1e-4 / 5, "beta": 0.75, "bias": 1.0},
        {"size": 3, "alpha": 0.5 / 3, "beta": 0.6, "bias": 2.0},
    ],
    ids=["caffe", "strong"],
)
def test_local_response_normalization_equals_torch(arguments):
    x = tf.constant(20 * image("input", (2, 5, 4, 12)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = LocalResponseNormalization(**arguments)(x)
        product = tf.reduce_sum(y * image("direction", x.shape))
    theirs = golden("local_response_normalization")
    assert_equal(y, theirs[f"values_size{arguments['size']}"])
    assert_equal(tape.gradient(product, x), theirs[f"gradient_size{arguments['size']}"])


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("float64", 1e-7)])
@pytest.mark.parametrize("name", DEFORMABLE)
def test_deform_conv2d_equals_torchvision(name, precision, tolerance):
    """Values and gradients; the file has them in float32, rounded from float64."""
    strides, padding, dilation_rate, *_ = DEFORMABLE[name]
    *arguments, direction = deformable_arguments(name)
    arguments = [tf.constant(a, precision) for a in arguments if a is not None]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        y = deform_conv2d(*arguments, strides=strides, padding=padding, dilation_rate=dilation_rate)
        product = tf.reduce_sum(y * tf.constant(direction, precision))
    theirs = golden("deform_conv2d")
    assert_equal(y, theirs[f"{name}_values"], tolerance)
    gradients = tape.gradient(product, arguments)
    for what, gradient in zip(("inputs", "offsets", "kernel", "mask"), gradients, strict=False):
        assert_equal(gradient, theirs[f"{name}_gradient_{what}"], tolerance)
