"""Preprocessing modes against hand arithmetic."""

import warnings
from typing import get_args, get_type_hints

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from training.recipe import Recipe

PIXEL = [[[255.0, 127.0, 0.0]]]  # red, green, blue

EXPECTED = {
    "imagenet": ((1 - 0.485) / 0.229, (127 / 255 - 0.456) / 0.224, -0.406 / 0.225),
    "tf": (1.0, 127 / 127.5 - 1, -1.0),
    "caffe": (0 - 103.939, 127 - 116.779, 255 - 123.68),  # blue, green, red
    "lite": (1.0, 0.0, -127 / 128),
}


@pytest.mark.parametrize("mode", EXPECTED)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_modes(mode, dtype):
    outputs = keras_cnns.preprocess_input(np.array(PIXEL, dtype), mode)
    np.testing.assert_allclose(np.asarray(outputs)[0, 0], EXPECTED[mode], rtol=1e-5, atol=1e-6)
    assert outputs.dtype == "float32"


def test_recipes_know_the_same_modes():
    assert keras_cnns.preprocessing_modes() == tuple(EXPECTED)
    assert get_args(get_type_hints(Recipe)["preprocessing"]) == ("auto", *EXPECTED)


def test_imagenet_is_the_default():
    x = np.array(PIXEL)
    np.testing.assert_array_equal(keras_cnns.preprocess_input(x), keras_cnns.preprocess_input(x, mode="imagenet"))


def warnings_of(x):
    """Return the preprocessed pixels and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outputs = keras_cnns.preprocess_input(x)
    return outputs, [str(warning.message) for warning in caught if "preprocess_input" in str(warning.message)]


@pytest.mark.parametrize("kind", [np.asarray, keras.ops.convert_to_tensor], ids=["array", "tensor"])
def test_pixels_from_zero_to_one_cause_a_warning(kind):
    outputs, (warning,) = warnings_of(kind(np.full((1, 2, 2, 3), 0.5, "float32")))
    assert "no pixel above 0.5, but expects pixels from 0 to 255" in warning and outputs.shape == (1, 2, 2, 3)
    for array in (np.full((2, 2, 3), 1.5), np.ones((2, 2, 3), "uint8"), np.zeros((2, 2, 3)), np.zeros((0, 2, 2, 3))):
        assert warnings_of(kind(array))[1] == []


def test_pixels_with_unknown_values_cause_no_warning():
    assert warnings_of(keras.Input((2, 2, 3)))[1] == []
    function = tf.function(keras_cnns.preprocess_input)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert function(tf.constant(0.5, shape=(1, 2, 2, 3))).shape == (1, 2, 2, 3)


def test_errors():
    with pytest.raises(ValueError, match=r"mode='torch'; it must be one of imagenet, tf, caffe, lite"):
        keras_cnns.preprocess_input(np.array(PIXEL), mode="torch")
    with pytest.raises(ValueError, match=r"shape \(4, 4, 1\); .* Repeat a grey channel"):
        keras_cnns.preprocess_input(np.zeros((4, 4, 1)))
