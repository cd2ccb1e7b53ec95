"""Weights and images drawn by a formula, so that two implementations can use the same ones without sharing a file.

The golden files contain only the outputs of an independent implementation for these weights and images. The generator
is NumPy's RandomState, because NumPy guarantees that its stream never changes.
"""

import math
import re
import zlib

import numpy as np

# Shape (batch, height, width, channels) of the images of one training step.
TRAINING_SHAPE = (4, 64, 64, 3)
# And of the image whose feature maps are compared.
FEATURES_SHAPE = (1, 96, 128, 3)


def draw(name, shape, seed=0):
    """Draw a variable so that activations neither vanish nor explode and no value is a default.

    Args:
        name: Path of the variable in our network, such as "stage1_block1_conv1_conv/kernel".
        shape: Its shape in our layout: (height, width, in, out) for a convolution, (height, width, channels, 1) for a
            depthwise one, (in, out) for a dense layer.
        seed: Seed of the generator.

    Returns:
        A float32 array.
    """
    normal = _normal(name, shape, seed)
    kind = name.rpartition("/")[2]
    if kind in ("kernel", "offset_kernel", "mask_kernel"):  # He et al. 2015: the following ReLU keeps the energy
        fan_in = math.prod(shape[:2] if "_depthwise_" in name else shape[:-1])
        values = normal * math.sqrt(2 / fan_in)
    elif kind in ("bias", "offset_bias", "mask_bias", "beta", "moving_mean"):
        values = 0.2 * normal
    elif kind == "gamma":
        # Every residual block adds energy. Without damping of the branches, 16 blocks would multiply it by 10^6, and
        # biases would have no effect.
        damping = 0.7 if re.search(r"block\d+_conv\d", name) else 1
        if re.search(r"block([2-9]|\d\d)_project", name):  # EfficientNet; the first block of a stage has no shortcut
            damping = 0.3
        values = damping * (1 + 0.2 * normal)
    elif kind == "moving_variance":
        values = np.exp(0.3 * normal)
    else:
        raise ValueError(f"{name}: there is no formula for variables called {kind!r}.")
    return values.astype("float32")


def set_formula_weights(model, seed=0):
    """Set every variable of a Keras model by the formula."""
    for variable in model.weights:
        variable.assign(draw(variable.path, tuple(variable.shape), seed))


def output_direction(output, shape):
    """Draw the factors of an output in the loss of one training step."""
    return _normal(f"{output}/direction", tuple(shape), 0)


def summary(name, value):
    """Return the norm of a gradient or variable and its products with two drawn directions, as in golden files.

    Args:
        name: Path of the variable in our network.
        value: The array, in our layout.

    Returns:
        A float64 array (3,).
    """
    directions = [_normal(f"{name}/direction{number}", value.shape, 0) for number in (1, 2)]
    return np.array([np.linalg.norm(value), *(np.sum(value * direction) for direction in directions)])


def image(name, shape, seed=0):
    """Draw images (batch, height, width, channels) in the range of normalized pixels, in float32.

    They are patches of 32 pixels with noise: a network averages pure noise, so that all images would be the same to it.
    """
    batch, height, width, channels = shape
    patches = _normal(f"{name}/patches", (batch, -(-height // 32), -(-width // 32), channels), seed)
    patches = patches.repeat(32, axis=1).repeat(32, axis=2)[:, :height, :width]
    return np.clip(patches + 0.5 * _normal(name, shape, seed), -2.1, 2.6).astype("float32")


# Grouped convolutions of a map 6 pixels high and 5 wide.
GROUPED = {
    # name: groups, channels, filters, kernel, strides, padding in pixels on each side
    "one": (1, 4, 6, 3, 1, 1),
    "two": (2, 12, 8, 5, 1, 2),  # conv2 of AlexNet
    "three": (3, 48, 6, 3, 1, 1),
    "four": (4, 8, 16, 3, 2, 1),
    "many": (32, 64, 64, 3, 2, 1),  # ResNeXt
    "depthwise": (6, 6, 12, 3, 1, 0),
}

# Deformable convolutions of a map (2, 4, 5, 6) with a kernel (3, 2) and 6 filters.
# fmt: off
DEFORMABLE = {
    # name       strides  padding  dilation  groups  offset groups  mask
    "version1": ((1, 1),  (1, 1),  (1, 1),   1,      1,             False),
    "version2": ((1, 1),  (1, 1),  (1, 1),   1,      1,             True),
    "whole":    ((1, 1),  (2, 1),  (1, 1),   1,      1,             True),   # offsets of whole pixels, zero among them
    "strided":  ((2, 3),  (1, 2),  (1, 1),   2,      1,             True),
    "dilated":  ((1, 1),  (2, 1),  (2, 3),   1,      3,             False),
    "all":      ((2, 1),  (2, 3),  (2, 1),   3,      2,             True),
}
# fmt: on


def deformable_arguments(name):
    """Draw inputs, offsets, kernel, mask (or None) and a direction for gradients for a row of `DEFORMABLE`.

    Offsets are a few pixels, so that samples are on both sides of the borders, and every fifth is ten times as long.
    """
    strides, padding, dilation, groups, offset_groups, masked = DEFORMABLE[name]
    size = [
        (length + 2 * zeros - (kernel - 1) * rate - 1) // stride + 1
        for length, zeros, kernel, rate, stride in zip((4, 5), padding, (3, 2), dilation, strides, strict=True)
    ]
    offsets = 1.5 * _normal("offsets", (2, *size, 12 * offset_groups), 0)
    offsets.reshape(-1)[::5] *= 10
    return (
        _normal("inputs", (2, 4, 5, 6), 0),
        np.round(offsets) if name == "whole" else offsets,
        _normal("kernel", (3, 2, 6 // groups, 6), 0),
        np.abs(_normal("mask", (2, *size, 6 * offset_groups), 0)) if masked else None,
        _normal("direction", (2, *size, 6), 0),
    )


def _normal(name, shape, seed):
    return np.random.RandomState(zlib.crc32(name.encode()) ^ seed).standard_normal(shape)
