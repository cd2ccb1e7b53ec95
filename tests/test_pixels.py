"""Decoding and resizing of images."""

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.image_files import black_png
from training.augment import augment
from training.pixels import KERNELS, decode, resize, resize_window, scale_and_translate, scaled_sides
from training.recipe import Recipe


@pytest.mark.parametrize(("height", "width"), [(40, 40), (20, 60), (61, 17), (5, 5)])
def test_resize_keeps_the_aspect_ratio_and_the_center(height, width):
    # A horizontal and a vertical ramp around the middle: after any scaling their middle is zero, and they stay ramps.
    rows, columns = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    image = np.stack(np.broadcast_arrays(rows[:, None], columns[None, :], 0.0), axis=-1)
    resized = resize(tf.constant(image, tf.float32), 10).numpy()
    scale = min(height, width) / 10
    expected = (np.arange(10) - 4.5) * scale
    inner = slice(1, 9)  # the border is blurred by the clamped edge
    tolerance = 0.51 * scale * 1.1 + 0.51  # the crop falls between pixels
    np.testing.assert_allclose(resized[inner, 5, 0], expected[inner], atol=tolerance)
    np.testing.assert_allclose(resized[5, inner, 1], expected[inner], atol=tolerance)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(300, 400, 224), (333, 1999, 97), (7, 9, 50), (1, 30, 32), (90, 2, 16), (5, 5, 10)]
)
def test_resize_window_equals_a_crop_of_the_whole_resized_image(height, width, size):
    image = np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)
    target = scaled_sides(image, size)
    whole = tf.image.resize(image, tf.cast(target, tf.int32), antialias=True).numpy()
    for corner in (target * 0, (target - size) // 2, target - size):
        top, left = corner.numpy()
        window = resize_window(tf.constant(image), target, corner, size).numpy()
        np.testing.assert_allclose(window, whole[top : top + size, left : left + size], atol=0.02)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width", "size"), [(300, 400, 224), (7, 9, 50), (1, 30, 32), (90, 2, 16)])
def test_one_axis_after_the_other_gives_the_bits_of_both_at_once(height, width, size, interpolation):
    image = np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)
    scale, translation = np.float32([0.8, 1.1]) * size / np.float32([height, width]), np.float32([-3.5, 2.25])
    both = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=[size, size],
        scale=scale,
        translation=translation,
        kernel_type=KERNELS[interpolation][0],
        antialias=True,
    )
    each = scale_and_translate(tf.constant(image), scale, translation, size, interpolation)
    np.testing.assert_array_equal(each, np.clip(both[0], 0, 255))


def peak_memory(function, *arguments):
    """Return by how many MB a function raised the peak memory of the process."""

    def status(name):
        return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    function(*arguments)
    return status("VmHWM") - before


@pytest.mark.parametrize("crop", ["evaluation", "area", "scale", "pad"])
def test_no_image_within_the_limits_takes_more_than_500_mb(crop):
    """The largest and the thinnest images, whose shorter side becomes 224 pixels."""
    limits = {"crop_min": 1.0, "crop_max": 2.0} if crop == "scale" else {}
    recipe = Recipe(image_size=224, crop="center" if crop == "evaluation" else crop, **limits)

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def prepare(image):
        if crop == "evaluation":
            return resize(decode(image), recipe.image_size)
        return augment(image, recipe, tf.constant([1, 2]))

    prepare(black_png(8, 8))
    for width, height in ((8000, 8000), (1_000_000, 1), (1, 1_000_000)):
        assert peak_memory(prepare, black_png(width, height)) < 500, (width, height)


@pytest.mark.parametrize("encode", ["png", "jpeg", "gif", "bmp"])
def test_every_format_decodes_to_rgb(encode):
    grey = np.full((4, 6, 1), 100, np.uint8)
    encoded = {
        "png": tf.io.encode_png(grey).numpy(),
        "jpeg": tf.io.encode_jpeg(grey).numpy(),
        "gif": bytes.fromhex("47494638396101000100800000646464ffffff21f90400000000002c00000000010001000002024401003b"),
        "bmp": b"BM"
        + (62).to_bytes(4, "little")
        + bytes(4)
        + (54).to_bytes(4, "little")
        + (40).to_bytes(4, "little")
        + (1).to_bytes(4, "little") * 2
        + b"\x01\x00\x18\x00"
        + bytes(24)
        + b"\x64\x64\x64\x00",
    }[encode]
    image = decode(tf.constant(encoded)).numpy()
    assert image.dtype == np.uint8
    assert image.shape[-1] == 3
    assert (image == 100).all()
