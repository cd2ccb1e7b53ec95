"""Augmentation of training images: every draw is a pure function of a key, so that runs repeat and resume exactly.

A key is an integer tensor (2,). Every kind of augmentation folds a number of its own into the key, so that switching
one on or off does not change the draws of the others.
"""

import math
from typing import NamedTuple

import tensorflow as tf

from training.pixels import decode, resize, resize_window, scale_and_translate, scaled_sides

CROP, FLIP, POLICY, JITTER, LIGHTING, ERASING, MIX = range(7)  # numbers folded into the key

ASPECTS = (3 / 4, 4 / 3)  # of crop="area": width over height (Szegedy et al. 2015, section 6)
ERASED_AREAS, ERASED_ASPECTS = (0.02, 0.33), (0.3, 3.3)  # of random erasing, as in torchvision
TRIES = 10  # draws of a rectangle, of which the first that fits into the image is used, as in torchvision

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in the luma (ITU-R BT.601)

# Principal components of ImageNet's pixels, scaled to 0..1, as published by facebook/fb.resnet.torch; the rows of the
# vectors are red, green and blue.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def augment(image, recipe, key):
    """Augment an image: crop, flip, policy, colour jitter, lighting and random erasing, in this order.

    Args:
        image: Encoded bytes, or a uint8 tensor (height, width, 3).
        recipe: The recipe; gives the augmentations and the image size.
        key: Integer tensor (2,) that determines every draw.

    Returns:
        (image_size, image_size, 3), float32 RGB 0..255.
    """
    image = crop(image, recipe, tf.random.fold_in(key, CROP))
    image = tf.ensure_shape(image, (recipe.image_size, recipe.image_size, 3))
    if recipe.flip:
        mirrored = tf.random.stateless_uniform((), tf.random.fold_in(key, FLIP)) < 0.5
        image = tf.cond(mirrored, lambda: tf.reverse(image, axis=[1]), lambda: image)
    if recipe.policy != "none":
        image = apply_policy(image, recipe, tf.random.fold_in(key, POLICY))
    if recipe.color_jitter:
        image = jitter(image, recipe.color_jitter, tf.random.fold_in(key, JITTER))
    if recipe.lighting:
        image = light(image, recipe.lighting, tf.random.fold_in(key, LIGHTING))
    if recipe.random_erasing:
        image = erase(image, recipe.random_erasing, tf.random.fold_in(key, ERASING))
    return tf.ensure_shape(image, (recipe.image_size, recipe.image_size, 3))


def crop(image, recipe, key):
    """Crop an image (encoded or not) according to recipe.crop: (image_size, image_size, 3), float32."""
    size = recipe.image_size
    if recipe.crop == "area":
        part = random_area(image, (recipe.crop_min, recipe.crop_max), key)
        return scale_and_translate(part, size / tf.cast(tf.shape(part)[:2], tf.float32), tf.zeros(2), size)
    image, draws = decode(image), tf.random.stateless_uniform((2,), tf.random.fold_in(key, 1))
    if recipe.crop == "scale":
        draw = tf.random.stateless_uniform((), key, recipe.crop_min, recipe.crop_max)
        target = scaled_sides(image, tf.round(size * draw))
        return resize_window(image, target, random_position(draws, target - size), size)
    if recipe.crop == "center":
        return resize(image, *recipe.resizing)
    image = resize(image, size)
    border = size // 8
    image = tf.pad(image, [[border, border], [border, border], [0, 0]])
    top, left = tf.unstack(random_position(draws, tf.shape(image)[:2] - size))
    return image[top : top + size, left : left + size]


def random_area(image, areas, key):
    """Return a random rectangle of an image, uint8 (height, width, 3); of a JPEG only the rectangle is decoded."""

    def window(height, width):
        # If no draw fits: the largest center crop within the range of aspect ratios.
        low, high = ASPECTS
        sides = tf.cast(tf.stack([height, width]), tf.float32)
        center = tf.minimum(sides, tf.round(tf.stack([sides[1] / low, sides[0] * high])))
        return random_window(sides, areas, ASPECTS, center, key)

    def of_jpeg():
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(image), 3)
        return tf.image.decode_and_crop_jpeg(image, window(height, width), channels=3)

    def of_pixels():
        pixels = decode(image)
        top, left, height, width = tf.unstack(window(*tf.unstack(tf.shape(pixels)[:2])))
        return pixels[top : top + height, left : left + width]

    if image.dtype != tf.string:
        return of_pixels()
    return tf.cond(tf.io.is_jpeg(image), of_jpeg, of_pixels)


def random_window(sides, areas, aspects, fallback, key):
    """Draw a rectangle inside an image.

    Args:
        sides: Height and width of the image in pixels, float32 (2,).
        areas: Minimum and maximum area, as fractions of the image's.
        aspects: Minimum and maximum width over height, whose logarithm is drawn uniformly.
        fallback: Height and width, float32 (2,), of the rectangle in the center if none of TRIES draws fits.
        key: Integer tensor (2,) that determines the draw.

    Returns:
        top, left, height, width: int32 (4,), in pixels.
    """
    draws = tf.random.stateless_uniform((TRIES + 1, 2), key)
    area = tf.reduce_prod(sides) * (areas[0] + (areas[1] - areas[0]) * draws[:TRIES, 0])
    low, high = math.log(aspects[0]), math.log(aspects[1])
    aspect = tf.exp(low + (high - low) * draws[:TRIES, 1])
    drawn = tf.round(tf.sqrt(tf.stack([area / aspect, area * aspect], axis=1)))
    fits = tf.reduce_all((drawn >= 1) & (drawn <= sides), axis=1)
    window = tf.where(tf.reduce_any(fits), drawn[tf.argmax(tf.cast(fits, tf.int32))], fallback)
    window, free = tf.cast(window, tf.int32), tf.cast(sides - window, tf.int32)
    corner = tf.where(tf.reduce_any(fits), random_position(draws[TRIES], free), free // 2)
    return tf.concat([corner, window], axis=0)


def random_position(draws, free):
    """Map uniform draws in [0, 1) to integers 0..free, all with the same probability."""
    return tf.cast(draws * tf.cast(free + 1, tf.float32), free.dtype)


class Ranges(NamedTuple):
    """The maximum change that each operation of a policy makes."""

    shear: float  # shift per pixel of distance
    shift: float  # pixels
    angle: float  # degrees
    enhance: float  # change of the factor of brightness, colour, contrast and sharpness
    bits: int  # lowest bits of each value that are cleared


def ranges_of(policy, size):
    """Return the Ranges of a policy for images of `size` pixels, as in torchvision."""
    if policy == "randaugment":
        return Ranges(0.3, 150 / 331 * size, 30, 0.9, 4)
    return Ranges(0.99, 32, 135, 0.99, 6)


def apply_policy(image, recipe, key):
    """Apply RandAugment (Cubuk et al. 2020) or TrivialAugment (Mueller and Hutter 2021, wide ranges) to an image.

    RandAugment applies policy_layers random operations of strength policy_magnitude / 30, TrivialAugment one operation
    of random strength.
    """
    ranges = ranges_of(recipe.policy, recipe.image_size)
    image = tf.cast(tf.round(image), tf.uint8)
    for layer in range(recipe.policy_layers if recipe.policy == "randaugment" else 1):
        which, sign, strength = tf.unstack(tf.random.stateless_uniform((3,), tf.random.fold_in(key, layer)))
        strength = recipe.policy_magnitude / 30 if recipe.policy == "randaugment" else tf.floor(strength * 31) / 30
        branches = operations(image, ranges, strength, tf.where(sign < 0.5, -1.0, 1.0))
        image = tf.switch_case(tf.cast(which * len(branches), tf.int32), list(branches.values()))
    return tf.cast(image, tf.float32)


def operations(image, ranges, strength, sign):
    """Return {name: function without arguments} with the operations of the policies on an image.

    Args:
        image: uint8 (size, size, 3).
        ranges: The maximum changes, as Ranges.
        strength: Fraction of the maximum change, 0 to 1.
        sign: 1 or -1, the direction of operations that have two.
    """
    signed = sign * strength
    shear, shift, factor = ranges.shear * signed, tf.round(ranges.shift * signed), 1 + ranges.enhance * signed
    return {
        "identity": lambda: image,
        "shear_x": lambda: transform(image, [1.0, shear, 0.0, 0.0, 1.0, 0.0]),
        "shear_y": lambda: transform(image, [1.0, 0.0, 0.0, shear, 1.0, 0.0]),
        "translate_x": lambda: transform(image, [1.0, 0.0, shift, 0.0, 1.0, 0.0]),
        "translate_y": lambda: transform(image, [1.0, 0.0, 0.0, 0.0, 1.0, shift]),
        "rotate": lambda: rotate(image, ranges.angle * signed),
        "brightness": lambda: enhance(0.0, image, factor),
        "color": lambda: enhance(grey(image), image, factor),
        "contrast": lambda: enhance(tf.round(tf.reduce_mean(grey(image))), image, factor),
        "sharpness": lambda: enhance(smooth(image), image, factor),
        "posterize": lambda: posterize(image, tf.round(ranges.bits * strength)),
        "solarize": lambda: tf.where(tf.cast(image, tf.float32) >= 255 * (1 - strength), 255 - image, image),
        "autocontrast": lambda: autocontrast(image),
        "equalize": lambda: equalize(image),
    }


def transform(image, matrix):
    """Transform a uint8 image: pixel (x, y) becomes the one nearest to (ax + by + c, dx + ey + f), black outside.

    x and y are measured at the centers of pixels, as in PIL, so that the image's center is at half its sides.
    """
    a, b, c, d, e, f = matrix
    rows = [
        a,
        b,
        c + (a + b - 1) / 2,
        d,
        e,
        f + (d + e - 1) / 2,
        0.0,
        0.0,
    ]  # TensorFlow measures at corners
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=[tf.cast(tf.stack(rows), tf.float32)],
        output_shape=image.shape[:2],
        interpolation="NEAREST",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )[0]


def rotate(image, degrees):
    """Rotate a square uint8 image counterclockwise around its center."""
    cosine, sine = tf.cos(degrees * math.pi / 180), tf.sin(degrees * math.pi / 180)
    center = image.shape[0] / 2
    return transform(image, [cosine, -sine, center * (1 - cosine + sine), sine, cosine, center * (1 - sine - cosine)])


def enhance(degenerate, image, factor):
    """Blend a degenerate image with a uint8 image, as PIL's ImageEnhance does; a factor above 1 extrapolates: uint8."""
    return tf.cast(blend(degenerate, tf.cast(image, tf.float32), factor), tf.uint8)


def blend(degenerate, image, factor):
    """Return degenerate + factor * (image - degenerate), clipped to 0..255; all are float32."""
    return tf.clip_by_value(degenerate + factor * (image - degenerate), 0, 255)


def grey(image):
    """Return the luma of a uint8 image, rounded: (height, width, 1), float32."""
    return tf.round(luma(tf.cast(image, tf.float32)))


def luma(image):
    """Return the luma of an image (height, width, 3), float32: (height, width, 1)."""
    return tf.linalg.matmul(image, tf.constant(LUMA)[:, tf.newaxis])


def smooth(image):
    """Average each pixel (weight 5) with its neighbours (weight 1), except at the border, as in PIL: float32."""
    image = tf.cast(image, tf.float32)
    rows = image[:-2] + image[1:-1] + image[2:]
    boxes = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    inner = tf.round((boxes + 4 * image[1:-1, 1:-1]) / 13)
    middle = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], axis=1)
    return tf.concat([image[:1], middle, image[-1:]], axis=0)


def posterize(image, bits):
    """Clear the lowest bits of a uint8 image."""
    step = tf.cast(2.0**bits, tf.int32)
    return tf.bitwise.bitwise_and(image, tf.cast(256 - step, tf.uint8))


def autocontrast(image):
    """Stretch each channel of a uint8 image to 0..255; a constant channel is unchanged."""
    image = tf.cast(image, tf.float32)
    low, high = tf.reduce_min(image, axis=(0, 1)), tf.reduce_max(image, axis=(0, 1))
    stretched = (image - low) * (255 / tf.maximum(high - low, 1))
    return tf.cast(tf.where(high > low, stretched, image), tf.uint8)


def equalize(image):
    """Equalize the histogram of each channel of a uint8 image, in the integer arithmetic of PIL."""
    values = tf.cast(image, tf.int32) + tf.constant((0, 256, 512))  # one table for the three channels
    counts = tf.raw_ops.DenseBincount(
        input=tf.reshape(values, [-1]), size=768, weights=tf.zeros([0], tf.int32), binary_output=False
    )
    counts = tf.reshape(counts, (3, 256))
    highest = tf.reduce_max(tf.where(counts > 0, tf.range(256), 0), axis=1, keepdims=True)
    others = tf.reduce_sum(counts, axis=1, keepdims=True) - tf.gather(counts, highest, batch_dims=1)
    step = others // 255
    table = (step // 2 + tf.cumsum(counts, axis=1, exclusive=True)) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.minimum(table, 255), tf.range(256))
    return tf.gather(tf.cast(tf.reshape(table, [-1]), tf.uint8), values)


def jitter(image, strength, key):
    """Change brightness, contrast and saturation, in this order, by factors from 1 - strength to 1 + strength."""
    brightness, contrast, saturation = tf.unstack(tf.random.stateless_uniform((3,), key, 1 - strength, 1 + strength))
    image = blend(0.0, image, brightness)
    image = blend(tf.reduce_mean(luma(image)), image, contrast)
    return blend(luma(image), image, saturation)


def light(image, deviation, key):
    """Shift the colours along the principal components of ImageNet's pixels (Krizhevsky et al. 2012, section 4.1)."""
    draws = tf.random.stateless_normal((3,), key, stddev=deviation)
    shift = tf.linalg.matvec(EIGENVECTORS, draws * EIGENVALUES)
    return tf.clip_by_value(image + 255 * shift, 0, 255)


def erase(image, probability, key):
    """Replace a random rectangle by noise with a probability: random erasing (Zhong et al. 2020)."""
    size = image.shape[0]

    def erased():
        sides = tf.constant([size, size], tf.float32)
        nothing = tf.zeros(2)
        window = random_window(sides, ERASED_AREAS, ERASED_ASPECTS, nothing, tf.random.fold_in(key, 1))
        noise = tf.random.stateless_uniform(image.shape, tf.random.fold_in(key, 2), 0, 255)
        return tf.where(inside(window, size), noise, image)

    return tf.cond(tf.random.stateless_uniform((), key) < probability, erased, lambda: image)


def inside(window, size):
    """Return which pixels of a square lie inside a window (top, left, height, width): bool (size, size, 1)."""
    top, left, height, width = tf.unstack(window)
    pixels = tf.range(size)
    rows, columns = (pixels >= top) & (pixels < top + height), (pixels >= left) & (pixels < left + width)
    return (rows[:, tf.newaxis] & columns)[..., tf.newaxis]


def mix(images, labels, classes, recipe, key):
    """Return the images and soft targets of a batch.

    With mixup or CutMix every image is mixed with the previous one, in the same ratio for the whole batch.

    Args:
        images: (batch, size, size, 3), float32.
        labels: (batch,), integers.
        classes: Number of classes.
        recipe: The recipe; gives mixup, CutMix and label smoothing.
        key: Integer tensor (2,) that determines every draw.

    Returns:
        Images of the same shape, and targets (batch, classes), float32, each of which sums to 1.
    """
    key = tf.random.fold_in(key, MIX)
    targets = tf.one_hot(labels, classes)
    mixers = []
    if recipe.mixup:
        mixers.append(lambda: mixup(images, targets, recipe.mixup, tf.random.fold_in(key, 1)))
    if recipe.cutmix:
        mixers.append(lambda: cutmix(images, targets, recipe.cutmix, tf.random.fold_in(key, 2)))
    if mixers:
        images, targets = tf.switch_case(tf.random.stateless_uniform((), key, 0, len(mixers), tf.int32), mixers)
    return images, (1 - recipe.label_smoothing) * targets + recipe.label_smoothing / classes


def mixup(images, targets, alpha, key):
    """Return the weighted mean of each image and the previous one (Zhang et al. 2018), and that of their targets."""
    share = beta(alpha, key)
    return tuple(share * values + (1 - share) * tf.roll(values, 1, axis=0) for values in (images, targets))


def cutmix(images, targets, alpha, key):
    """Paste a rectangle of the previous image into each image (Yun et al. 2019); targets are weighted by area."""
    size = images.shape[1]
    half = tf.cast(size * tf.sqrt(1 - beta(alpha, key)) / 2, tf.int32)
    center = tf.random.stateless_uniform((2,), tf.random.fold_in(key, 1), 0, size, tf.int32)
    corner = tf.maximum(center - half, 0)
    pasted = inside(tf.concat([corner, tf.minimum(center + half, size) - corner], axis=0), size)
    share = tf.reduce_mean(tf.cast(pasted, tf.float32))
    images = tf.where(pasted, tf.roll(images, 1, axis=0), images)
    return images, (1 - share) * targets + share * tf.roll(targets, 1, axis=0)


def beta(alpha, key):
    """Draw from the Beta distribution with both parameters alpha: float32."""
    # In float32, both draws would often be zero for a small alpha.
    first, second = tf.unstack(tf.random.stateless_gamma((2,), key, tf.constant(alpha, tf.float64), dtype=tf.float64))
    return tf.cast(tf.math.divide_no_nan(first, first + second), tf.float32)
