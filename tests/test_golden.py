"""Our networks equal independent implementations, whose answers tests/golden/make_golden.py has stored."""

import functools
import pathlib

import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from keras_cnns.layers import LocalResponseNormalization
from tests.formula import image, set_formula_weights

FOLDER = pathlib.Path(__file__).parent / "golden"
# File: the network whose answers it holds.
NETWORKS = {
    "resnet18": keras_cnns.ResNet18,
    "resnet50": keras_cnns.ResNet50,
    "resnet50_version1": functools.partial(keras_cnns.ResNet50, version="1"),
    "inceptionv1": functools.partial(keras_cnns.InceptionV1, aux_heads=True),
    "efficientnetb0": keras_cnns.EfficientNetB0,
    "efficientnetb4": keras_cnns.EfficientNetB4,
    "efficientnetlite0": keras_cnns.EfficientNetLite0,
    "efficientnetb0_keras": keras_cnns.EfficientNetB0,
    "efficientnetb4_keras": keras_cnns.EfficientNetB4,
}
SIZES = ("2x224x224", "1x149x193")  # batch x height x width
SIZES_OF = dict.fromkeys(("efficientnetb4", "efficientnetb4_keras"), ("1x380x380", "2x149x193"))
CASES = [(name, size) for name in NETWORKS for size in SIZES_OF.get(name, SIZES)]


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


def assert_equal(ours, theirs):
    """To 1e-4 of the largest value; that sums are taken in another order costs some 1e-6."""
    ours = np.array(ours)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize(("name", "size"), CASES)
def test_network_equals_its_peer(name, size):
    images = image("image", (*map(int, size.split("x")), 3))
    model = NETWORKS[name](input_shape=images.shape[1:], classifier_activation=None)
    set_formula_weights(model)
    outputs = model(images, training=False)
    outputs = outputs if isinstance(outputs, dict) else {"main": outputs}
    theirs = golden(name)
    assert {f"{output}_{size}" for output in outputs} == {key for key in theirs if key.endswith(size)}
    for output, logits in outputs.items():
        assert_equal(logits, theirs[f"{output}_{size}"])


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_logits_tell_classes_and_images_apart(name):
    for logits in golden(name).values():
        largest = np.abs(logits).max()
        assert logits.dtype == np.float32
        assert 0.1 < largest < 100
        assert (logits.std(axis=1) > 0.1 * largest).all()
        assert (np.abs(logits[1:] - logits[0]).max(axis=1) > 0.02 * largest).all()


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
