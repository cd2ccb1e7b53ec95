"""Preprocessing modes against hand arithmetic."""

import warnings
from typing import get_args, get_type_hints

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_cnns
from training.pixels import resize
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
    with pytest.raises(ValueError, match=r"shape \(4, 4, 1\); .* Repeat a gray channel"):
        keras_cnns.preprocess_input(np.zeros((4, 4, 1)))


# --- sizes


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(300, 420), (211, 97)])
def test_images_are_resized_and_cropped_as_published(interpolation, height, width):
    """As in torchvision and timm, whose images are Pillow's: the shorter side to 256, the central 224 pixels."""
    coarse = np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype("uint8")
    photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    shorter = 256 / min(height, width)
    scaled = photo.resize((round(width * shorter), round(height * shorter)), Image.Resampling[interpolation.upper()])
    left, top = (scaled.width - 224) // 2, (scaled.height - 224) // 2
    expected = np.asarray(scaled.crop((left, top, left + 224, top + 224)), "float32")
    how = keras_cnns.ImageSize(224, 0.875, interpolation)
    ours = np.asarray(keras_cnns.resize_and_crop(np.asarray(photo), how))
    assert ours.shape == (224, 224, 3) and ours.dtype == np.float32
    assert np.abs(ours - expected).max() <= 1.5  # Pillow rounds to whole numbers after each of two passes
    in_training = resize(tf.constant(np.asarray(photo)), *how)
    assert np.abs(ours - in_training.numpy()).max() <= 0.05


def test_a_network_knows_its_size_and_its_rule(tmp_path):
    model = keras_cnns.ResNet20(input_shape=(24, 24, 3))
    model.preprocessing, model.image_size = "tf", keras_cnns.ImageSize(32, 0.5, "bicubic")
    keras_cnns.save_weights(model, tmp_path / "file")
    again = keras_cnns.ResNet20(weights=tmp_path / "file", input_shape=(24, 24, 3))
    assert (again.preprocessing, again.image_size) == ("tf", model.image_size)
    photo = np.random.RandomState(0).randint(0, 256, (40, 50, 3)).astype("uint8")
    cut = keras_cnns.resize_and_crop(photo, again)
    np.testing.assert_array_equal(cut, keras_cnns.resize_and_crop(photo, keras_cnns.ImageSize(24, 0.5, "bicubic")))
    assert keras_cnns.resize_and_crop(photo, keras_cnns.ResNet20(input_shape=(None, None, 3))).shape == (224, 224, 3)
    with pytest.raises(ValueError, match=r"shape \(1, 40, 50, 3\); it must be \(height, width, 3\)"):
        keras_cnns.resize_and_crop(photo[None], again)


@pytest.mark.parametrize(
    "wrong", [{"image_size": "x"}, {"image_size": "0"}, {"center_crop": "1.5"}, {"interpolation": "nearest"}]
)
def test_a_file_with_an_impossible_size_changes_nothing(wrong, tmp_path):
    model = keras_cnns.ResNet20()
    keras_cnns.save_weights(model, tmp_path / "file", wrong)
    before = model.get_weights()
    with pytest.raises(ValueError, match="the image size in its metadata is not valid"):
        keras_cnns.load_weights(model, tmp_path / "file")
    assert all(map(np.array_equal, before, model.get_weights()))
