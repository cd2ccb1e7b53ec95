"""Augmentation: every draw is a function of its key, and every operation equals its reference."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from training import augment as a
from training.batches import training_batches
from training.data import load_data
from training.pixels import resize
from training.recipe import Recipe

EVERYTHING = {"crop": "area", "flip": True, "policy": "randaugment", "color_jitter": 0.4, "lighting": 0.1}


def key(number):
    return tf.constant([7, number], tf.int64)


def photograph(height=40, width=52, seed=0):
    random = np.random.RandomState(seed)
    coarse = tf.image.resize(random.uniform(0, 255, (5, 6, 3)), (height, width), "bicubic")
    return np.clip(coarse + random.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


def ramps(height, width):
    """Return an image in which red is the row and green the column of a pixel."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)


def many(recipe, image, count):
    """Augment an image with many keys, in a tf.data pipeline as in training."""
    numbers, image = tf.data.Dataset.range(count), tf.constant(image)
    images = numbers.map(lambda number: a.augment(image, recipe, tf.stack([tf.constant(7, tf.int64), number])))
    return np.stack(list(images.as_numpy_iterator()))


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_a_draw_is_a_function_of_its_key(policy):
    recipe = Recipe(image_size=24, random_erasing=1.0, **EVERYTHING | {"policy": policy})
    first, again = (many(recipe, photograph(), 12) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (12, 24, 24, 3)
    assert first.dtype == np.float32
    assert 0 <= first.min() < first.max() <= 255
    assert len({image.tobytes() for image in first}) == 12


def test_switching_one_augmentation_off_does_not_change_the_draws_of_others():
    both = many(Recipe(image_size=24, crop="area", flip=True), photograph(), 20)
    crop = many(Recipe(image_size=24, crop="area"), photograph(), 20)
    flipped = [not np.array_equal(one, other) for one, other in zip(both, crop, strict=True)]
    assert 3 <= sum(flipped) <= 17
    for one, other, flip in zip(both, crop, flipped, strict=True):
        np.testing.assert_array_equal(one, other[:, ::-1] if flip else other)


def test_crops_by_area_have_areas_and_aspect_ratios_in_their_ranges():
    height, width, size = 120, 200, 60
    crops = many(Recipe(image_size=size, crop="area", crop_min=0.1, crop_max=0.5), ramps(height, width), 200)
    # The difference between the last and the first pixel of a ramp shows how large the crop was.
    heights = (crops[:, -1, :, 0] - crops[:, 0, :, 0]).mean(1) * size / (size - 1)
    widths = (crops[:, :, -1, 1] - crops[:, :, 0, 1]).mean(1) * size / (size - 1)
    shares, aspects = heights * widths / (height * width), widths / heights
    assert 0.09 < shares.min() < 0.15
    assert 0.44 < shares.max() < 0.52
    assert abs(np.mean(shares) - 0.3) < 0.03
    assert 0.72 < aspects.min() < 0.8
    assert 1.25 < aspects.max() < 1.39
    assert abs(np.log(aspects).mean()) < 0.05
    assert crops[:, 0, 0, 1].max() - crops[:, 0, 0, 1].min() > 80  # crops are spread over the image


@pytest.mark.parametrize("encode", [tf.io.encode_jpeg, tf.io.encode_png])
def test_encoded_images_are_cropped_like_decoded_ones(encode):
    pixels = photograph(60, 80)
    encoded = encode(pixels)
    recipe = Recipe(image_size=24, crop="area", crop_min=0.3)
    decoded = tf.io.decode_image(encoded, channels=3)
    for number in range(4):
        # JPEG stores colours at half the resolution; at the edge of a crop they are interpolated differently.
        difference = np.abs(a.augment(encoded, recipe, key(number)) - a.augment(decoded, recipe, key(number)))
        assert difference.mean() < (0.5 if encode is tf.io.encode_jpeg else 1e-6)
    assert a.augment(encode(pixels[..., :1]), recipe, key(0)).shape == (24, 24, 3)


def test_scale_and_pad_shift_over_their_whole_range():
    scaled = many(Recipe(image_size=32, crop="scale", crop_min=1.0, crop_max=2.0), ramps(64, 64), 200)
    zoom = 31 * 64 / (32 * (scaled[:, 16, -1, 1] - scaled[:, 16, 0, 1]))
    assert 0.99 < zoom.min() < 1.05
    assert 1.9 < zoom.max() < 2.05
    white = np.full((32, 32, 3), 255, np.uint8)
    padded = many(Recipe(image_size=32, crop="pad"), white, 400)
    rows = [int(np.argmax(image[:, 16, 0] > 0)) - int(np.argmax(image[::-1, 16, 0] > 0)) for image in padded]
    assert set(rows) == set(range(-4, 5))


def test_center_crops_equal_those_of_evaluation():
    np.testing.assert_array_equal(
        a.augment(photograph(), Recipe(image_size=24), key(0)), resize(tf.constant(photograph()), 24)
    )


# The operations as PIL has them, with their factor or offset.
PIL = {
    "identity": lambda image, *_: image,
    "shear_x": lambda image, shear, *_: affine(image, (1, shear, 0, 0, 1, 0)),
    "shear_y": lambda image, shear, *_: affine(image, (1, 0, 0, shear, 1, 0)),
    "translate_x": lambda image, _, shift, *__: affine(image, (1, 0, shift, 0, 1, 0)),
    "translate_y": lambda image, _, shift, *__: affine(image, (1, 0, 0, 0, 1, shift)),
    "rotate": lambda image, _, __, angle, *___: image.rotate(angle),
    "brightness": lambda image, *rest: ImageEnhance.Brightness(image).enhance(rest[3]),
    "color": lambda image, *rest: ImageEnhance.Color(image).enhance(rest[3]),
    "contrast": lambda image, *rest: ImageEnhance.Contrast(image).enhance(rest[3]),
    "sharpness": lambda image, *rest: ImageEnhance.Sharpness(image).enhance(rest[3]),
    "posterize": lambda image, *rest: ImageOps.posterize(image, 8 - rest[4]),
    "solarize": lambda image, *rest: ImageOps.solarize(image, rest[5]),
    "autocontrast": lambda image, *_: ImageOps.autocontrast(image),
    "equalize": lambda image, *_: ImageOps.equalize(image),
}


def affine(image, matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("name", PIL)
def test_operations_equal_those_of_pil(name, sign):
    pixels = photograph(48, 48)
    ranges, strength = a.ranges_of("randaugment", 48), 0.6
    operations = a.operations(tf.constant(pixels), ranges, tf.constant(strength), tf.constant(sign))
    assert operations.keys() == PIL.keys()
    ours = operations[name]().numpy().astype(int)
    signed = sign * strength
    values = (0.3 * signed, round(150 / 331 * 48 * signed), 30 * signed, 1 + 0.9 * signed, round(4 * strength), 102)
    theirs = np.asarray(PIL[name](Image.fromarray(pixels), *values)).astype(int)
    # Coordinates and values are rounded differently: few pixels may differ, or all by very little.
    difference = np.abs(ours - theirs)
    assert (difference > 2).mean() < 0.01 or (name == "rotate" and (difference > 2).mean() < 0.04)
    assert np.median(difference) <= 1


def test_every_operation_is_drawn_and_magnitude_0_changes_little():
    image = photograph(32, 32)
    drawn = many(Recipe(image_size=32, policy="randaugment", policy_layers=1, policy_magnitude=20), image, 300)
    assert 13 <= len({each.tobytes() for each in drawn}) <= 24  # 14 operations, most in two directions
    none = many(Recipe(image_size=32, policy="randaugment", policy_layers=1, policy_magnitude=0), image, 60)
    unchanged = [np.abs(each - image).max() <= 1 for each in none]
    assert np.mean(unchanged) > 0.6  # all but solarize, autocontrast and equalize


def test_random_erasing_has_its_probability_and_area():
    grey = np.full((40, 40, 3), 128, np.uint8)
    erased = many(Recipe(image_size=40, random_erasing=0.5), grey, 200)
    shares = (erased != 128).any(-1).mean((1, 2))
    assert 70 < (shares > 0).sum() < 130
    assert 0.01 < shares[shares > 0].min() < shares.max() < 0.35


def test_lighting_shifts_colours_along_the_principal_components():
    grey = np.full((8, 8, 3), 128, np.uint8)
    shifts = many(Recipe(image_size=8, lighting=0.1), grey, 300)[:, 0, 0] - 128
    values, vectors = np.linalg.eigh(np.cov(shifts.T))
    np.testing.assert_allclose(np.sqrt(values[::-1][:2]), 255 * 0.1 * np.array([0.2175, 0.0188]), rtol=0.15)
    assert abs(vectors[:, 2] @ [0.5675, 0.5808, 0.5836]) > 0.99


@pytest.mark.parametrize("fields", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_targets_are_the_fractions_of_the_mixed_pixels(fields):
    labels = tf.constant([0, 1, 2, 3], tf.int64)
    images = tf.one_hot(labels, 4)[:, tf.newaxis, tf.newaxis] * tf.ones((4, 32, 32, 1))  # the class is the channel
    recipe, shares = Recipe(image_size=32, **fields), []
    for number in range(40):
        mixed, targets = a.mix(images, labels, 4, recipe, key(number))
        np.testing.assert_allclose(targets, np.mean(mixed, axis=(1, 2)), atol=1e-4)
        np.testing.assert_allclose(np.sum(targets, axis=-1), 1, rtol=1e-6)
        cut = bool(np.isin(mixed, (0, 1)).all())
        shares.append((float(targets[0, 0]), cut))
    assert len({share for share, _ in shares}) > 25
    cuts = sum(cut for _, cut in shares)
    assert {("mixup",): cuts <= 10, ("cutmix",): cuts == 40}.get(tuple(fields), 5 < cuts < 35)


def test_targets_with_and_without_label_smoothing():
    labels, images = tf.constant([2, 0], tf.int64), tf.ones((2, 8, 8, 3))
    same, targets = a.mix(images, labels, 4, Recipe(image_size=8), key(0))
    np.testing.assert_array_equal(same, images)
    np.testing.assert_array_equal(targets, [[0, 0, 1, 0], [1, 0, 0, 0]])
    _, targets = a.mix(images, labels, 4, Recipe(image_size=8, label_smoothing=0.2), key(0))
    np.testing.assert_allclose(targets, [[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]], rtol=1e-6)


def test_augmentation_differs_by_epoch_and_repeats_after_a_resume():
    recipe = Recipe(image_size=32, batch_size=16, crop="pad", mixup=0.2)
    data = load_data(recipe)

    def batch(epoch, start=0):
        return next(iter(training_batches(data, recipe, epoch, start)))

    for one, other in zip(batch(0, 3), list(training_batches(data, recipe, 0).take(4))[3], strict=True):
        np.testing.assert_array_equal(one, other)
    (first, _, examples), (second, _, others) = batch(0), batch(1)
    shared = set(examples.numpy()) & set(others.numpy())
    assert not np.array_equal(first, second)
    assert len(shared) < 16
