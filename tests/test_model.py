"""What all builders share: their signature, their input checks and their head."""

import inspect

import keras
import numpy as np
import pytest

import keras_cnns
from tests.small_networks import (
    CIFAR,
    FLATTENING,
    SMALL,
    assert_same_outputs,
    build,
    every_builder,
    images,
    network,
    same_weights,
)


@every_builder
def test_signature(name):
    """The names and defaults of keras.applications, all visible in the signature, and `name`."""
    shared = {
        "include_top": True,
        "weights": None,
        "input_tensor": None,
        "input_shape": None,
        "pooling": None,
        "classes": 10 if name in CIFAR else 1000,
        "classifier_activation": "softmax",
    }
    parameters = inspect.signature(keras_cnns.builder(name)).parameters
    assert {key: parameters[key].default for key in shared} == shared
    assert parameters["name"].default == name.lower().replace("cifar", "_cifar")
    keyword_only = [p for p in parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert [p.name for p in parameters.values() if p not in keyword_only] == ["depth"] * name.endswith("CIFAR")


@pytest.mark.parametrize(
    ("activation", "logit", "expected"),
    [
        (keras.activations.softmax, 2.0, 0.880797),
        (keras.layers.Softmax(), 2.0, 0.880797),
        ("log_softmax", 2.0, -0.126928),
        (keras.activations.tanh, 2.0, 0.964028),
    ],
    ids=["function", "layer", "logarithm", "other"],
)
def test_one_class_with_a_custom_activation(activation, logit, expected):
    """A softmax, which is constant for one class, is replaced in whatever form it is passed; others are not."""
    head = SMALL["ResNetCIFAR"](classes=1, classifier_activation=activation, input_shape=(8, 8, 3)).get_layer(
        "head_dense"
    )
    np.testing.assert_allclose(head.activation(keras.ops.convert_to_tensor([[logit]])), [[expected]], rtol=1e-5)


@pytest.mark.parametrize("name", FLATTENING)
def test_a_network_that_flattens_has_a_fixed_size(name):
    for size in ((32, 32), (33, 47), (64, 40)):
        out = np.asarray(build(name, input_shape=(*size, 3))(images(2, *size, 3)))
        assert out.shape == (2, 10) and np.isfinite(out).all()
    for size in ((None, None), (None, 64), (64, None)):
        with pytest.raises(keras_cnns.FixedSizeError, match=r"None.*cannot be None because .* flatten.*Pass them,"):
            build(name, input_shape=(*size, 3))


@pytest.mark.filterwarnings("error:The structure of `inputs`")
def test_input_tensor_is_the_input():
    own, model, x = keras.Input((64, 64, 3), name="photo"), network("ResNet18"), images(2, 64, 64, 3)
    on_input = same_weights(build("ResNet18", input_tensor=own), model)
    assert on_input.input is own
    assert_same_outputs(on_input, model, x, rtol=1e-6, atol=1e-7)


# --- errors

ERRORS = [
    # builder, arguments, parts of the message: what happened, where and how to fix it
    ("ResNet50", {"input_shape": (20, 20, 3)}, ["ResNet50", "input_shape=(20, 20, 3)", "at least 32", "larger input_"]),
    ("ResNet20", {"input_shape": (3, 32, 3), "name": "backbone"}, ["ResNet20 got input_shape=(3, 32", "at least 4"]),
    ("GoogLeNet", {"input_shape": (31, 64, 3)}, ["(31, 64, 3)", "at least 32", "divides them by 32", "larger input_"]),
    ("VGG16", {"input_shape": (31, 64, 3)}, ["(31, 64, 3)", "at least 32", "divides them by 32", "larger input_"]),
    ("AlexNet", {"input_shape": (66, 67, 3)}, ["(66, 67, 3)", "at least 67", "leave nothing", "larger input_"]),
    ("AlexNetOneTower", {"input_shape": (63, 62, 3)}, ["AlexNetOneTower", "at least 63", "larger input_"]),
    (
        "VGG19",
        {"input_shape": (None, None, 3)},
        ["VGG19", "(None, None, 3)", "cannot be None", "flatten", "such as (224, 224, 3)", "include_top=False"],
    ),
    ("AlexNet", {"input_tensor": keras.Input((None, 227, 3))}, ["(None, 227, 3)", "Pass them, such as (227, 227, 3)"]),
    ("GoogLeNet", {"input_shape": (3, 224, 224)}, ["input_shape=(3, 224, 224)", "(height, width, channels)"]),
    ("ResNet18", {"input_shape": (224, 224)}, ["input_shape=(224, 224)", "(height, width, channels)", "(224, 224, 3)"]),
    ("ResNet18", {"input_shape": (1, 224, 224, 3)}, ["input_shape=(1, 224, 224, 3)", "(height, width, channels)"]),
    ("ResNet18", {"input_shape": (224, 224, None)}, ["(224, 224, None)", "with the number of channels"]),
    ("ResNet18", {"pooling": "average"}, ["pooling='average'", '"avg" or "max"']),
    ("ResNet18", {"classes": 0}, ["classes=0", "at least 1"]),
    ("ResNet18", {"classes": 2.5}, ["classes=2.5", "whole number"]),
    ("ResNet50", {"version": "2"}, ["version='2'", '"1.5"', '"1"']),
    ("DenseNet121", {"input_shape": (20, 20, 3)}, ["DenseNet121", "(20, 20, 3)", "at least 32", "use DenseNetCIFAR"]),
    ("DenseNetCIFAR", {"depth": 41}, ["depth=41", "bottleneck=False", "3n + 4", "40 or 43"]),
    ("DenseNetCIFAR", {"depth": 43, "bottleneck": True}, ["depth=43", "bottleneck=True", "6n + 4", "40 or 46"]),
    ("DenseNetCIFAR", {"depth": 4}, ["depth=4;", "7 or 10"]),
    ("DenseNetCIFAR", {"growth_rate": 0}, ["growth_rate=0", "at least 1"]),
    ("DenseNetCIFAR", {"compression": 1.5}, ["compression=1.5", "at most 1"]),
    ("SEResNet18", {"ratio": 0}, ["ratio=0", "at least 1", "the paper's 16"]),
    ("ResNet18", {"input_shape": 224}, ["ResNet18", "input_shape=224", "(height, width, channels)"]),
    ("ResNet18", {"input_shape": (64.0, 64, 3)}, ["(64.0, 64, 3)", "(height, width, channels)"]),
    ("ResNet18", {"input_shape": ("a", "b", 3)}, ["('a', 'b', 3)", "(height, width, channels)"]),
    ("ResNet18", {"classes": True}, ["classes=True", "whole number"]),
    ("SEInceptionV1", {"ratio": 0.5}, ["ratio=0.5", "whole number"]),
    ("EfficientNet", {"width": 0.0}, ["width=0.0", "above 0", "1.0 is Table 1"]),
    ("EfficientNet", {"coefficients": (1.2, 0.9, 1.15)}, ["EfficientNet", "(1.2, 0.9, 1.15)", "at least 1", "alpha"]),
    ("EfficientNet", {"coefficients": (1.2, 1.1)}, ["EfficientNet", "(1.2, 1.1)", "three numbers"]),
    ("EfficientNetB0", {"input_shape": (224, 31, 3)}, ["EfficientNetB0", "(224, 31, 3)", "at least 32"]),
    ("GoogLeNet", {"aux_heads": True, "include_top": False}, ["aux_heads=True", "include_top=True", "Leave one"]),
    (
        "GoogLeNet",
        {"aux_heads": True, "input_shape": (None, None, 3)},
        ["GoogLeNet", "(None, None, 3)", "cannot be None", "flatten", "Pass them, such as (224, 224, 3)"],
    ),
    ("GoogLeNet", {"weights": "imagenet"}, ['weights="imagenet"', "there are none for GoogLeNet", "safetensors file"]),
    ("ResNet18", {"weights": "nowhere"}, ["weights='nowhere'", "no such file", "or None"]),
]


@pytest.mark.parametrize(("name", "arguments", "words"), ERRORS, ids=[f"{name}-{kw}" for name, kw, _ in ERRORS])
def test_errors_say_what_happened_and_how_to_fix_it(name, arguments, words):
    with pytest.raises(ValueError) as error:
        keras_cnns.builder(name)(**arguments)
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)


def test_input_tensor_and_shape_that_disagree():
    with pytest.raises(ValueError, match=r"=\(32, 32, 3\) and an input_tensor of shape \(64, 64, 3\)\. Pass one"):
        keras_cnns.ResNet18(input_tensor=keras.Input((64, 64, 3)), input_shape=(32, 32, 3))


@pytest.mark.parametrize("tensor", [np.zeros((1, 64, 64, 3)), keras.KerasTensor((None, 64, 3))], ids=["array", "rank3"])
def test_input_tensor_that_is_not_a_tensor_of_images(tensor):
    with pytest.raises(ValueError, match=r"must be a Keras tensor \(batch, height, width, channels\)\. Make one with"):
        keras_cnns.ResNet18(input_tensor=tensor)


def test_input_tensor_that_is_too_small():
    with pytest.raises(ValueError, match=r"input_tensor of shape \(20, 64, 3\); .* at least 32 .* larger input_tensor"):
        keras_cnns.ResNet18(input_tensor=keras.Input((20, 64, 3)))


@every_builder
def test_unknown_argument(name):
    with pytest.raises(TypeError, match=rf"{name} got the argument 'clases', .* Did you mean classes\?"):
        keras_cnns.builder(name)(clases=10)


@every_builder
def test_channels_first_setting(name):
    keras.config.set_image_data_format("channels_first")
    with pytest.raises(ValueError, match=r"needs channels-last .* Call keras.config.set_image_data_format"):
        keras_cnns.builder(name)()


def test_numpy_integers_are_integers():
    model = SMALL["ResNet18"](classes=np.int64(3), input_shape=tuple(np.array([64, 64, 3])))
    assert (model.input_shape, model.output_shape) == ((None, 64, 64, 3), (None, 3))


@every_builder
def test_arguments_by_position(name):
    """Only a depth may be positional, unlike in keras.applications."""
    with pytest.raises(TypeError, match=rf"{name} got .*True.* by position\. Pass arguments by name, such as {name}\("):
        keras_cnns.builder(name)(*[8] * name.endswith("CIFAR"), True)
