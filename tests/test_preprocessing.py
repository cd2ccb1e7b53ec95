"""What the networks see of a pixel, by hand."""

import numpy as np
import pytest

import keras_cnns

PIXEL = [[[255.0, 127.0, 0.0]]]  # red, green, blue

SEEN = {
    "imagenet": ((1 - 0.485) / 0.229, (127 / 255 - 0.456) / 0.224, -0.406 / 0.225),
    "tf": (1.0, 127 / 127.5 - 1, -1.0),
    "caffe": (0 - 103.939, 127 - 116.779, 255 - 123.68),  # blue, green, red
    "lite": (1.0, 0.0, -127 / 128),
}


@pytest.mark.parametrize("mode", SEEN)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_modes(mode, dtype):
    seen = keras_cnns.preprocess_input(np.array(PIXEL, dtype), mode)
    np.testing.assert_allclose(np.asarray(seen)[0, 0], SEEN[mode], rtol=1e-5, atol=1e-6)
    assert seen.dtype == "float32"


def test_imagenet_is_the_default():
    x = np.array(PIXEL)
    np.testing.assert_array_equal(keras_cnns.preprocess_input(x), keras_cnns.preprocess_input(x, mode="imagenet"))


def test_errors():
    with pytest.raises(ValueError, match=r"mode='torch'; it must be one of imagenet, tf, caffe, lite"):
        keras_cnns.preprocess_input(np.array(PIXEL), mode="torch")
    with pytest.raises(ValueError, match=r"shape \(4, 4, 1\); .* Repeat a grey channel"):
        keras_cnns.preprocess_input(np.zeros((4, 4, 1)))
