"""From pixels to what the networks take: one rule for all of them, and those that published weights bring along."""

import warnings

import keras
import numpy as np
from keras import ops

# Mean and standard deviation of ImageNet's pixels, in units of 0..1, as torchvision gives them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Caffe's mean, blue, green, red, in units of 0..255.
CAFFE_MEAN = (103.939, 116.779, 123.68)

# What each mode subtracts, for the three channels in the order in which it gives them, and what it then divides by.
MODES = {
    "imagenet": (tuple(255 * mean for mean in IMAGENET_MEAN), tuple(255 * std for std in IMAGENET_STD)),
    "tf": ((127.5,) * 3, (127.5,) * 3),
    "caffe": (CAFFE_MEAN, (1.0,) * 3),
    "lite": ((127.0,) * 3, (128.0,) * 3),
}


def preprocess_input(x, mode="imagenet"):
    """Normalise RGB pixels by the mean and standard deviation of ImageNet's, or as published weights want them.

    Pixels from 0 to 1 are no error, since a dark image may have them, but a warning says so where values are known.

    Args:
        x: RGB pixels from 0 to 255, (batch, height, width, 3) or (height, width, 3); an array or a tensor of integers
            or floats.
        mode: "imagenet", the rule of this package and of torchvision, about -2.1 to 2.6; for converted weights what
            their file's metadata say under "preprocessing": "tf", x / 127.5 - 1; "lite", (x - 127) / 128, of
            EfficientNet-Lite; "caffe", channels blue, green, red with their means subtracted. Or a model: the mode of
            the weights that were last loaded into it, by `weights=` or `keras_cnns.load_weights`. Only this very
            object remembers it, not a copy, nor what `save` writes.

    Returns:
        A float32 tensor of the same shape.

    Raises:
        ValueError: The last axis is not three channels, or there is no such mode.

    Example:
        >>> pixels = keras.ops.full((1, 2, 2, 3), 255)
        >>> [round(float(value), 2) for value in keras_cnns.preprocess_input(pixels)[0, 0, 0]]
        [2.25, 2.43, 2.64]
    """
    if isinstance(mode, keras.Model):
        mode = getattr(mode, "preprocessing", "imagenet")
    if mode not in MODES:
        raise ValueError(f"preprocess_input got mode={mode!r}; it must be one of {', '.join(MODES)}.")
    is_known = isinstance(x, np.ndarray) or hasattr(x, "numpy")  # an eager tensor; a graph's and Keras's have no values
    if is_known and "float" in str(x.dtype) and 0 not in x.shape:
        largest = float(ops.max(x))
        if 0 < largest <= 1:
            warnings.warn(
                f"preprocess_input got no pixel above {largest:.3g}, where white is 255. If white is 1 in them, "
                "multiply them by 255.",
                stacklevel=2,
            )
    x = ops.cast(x, "float32")
    if x.shape[-1] != 3:
        raise ValueError(
            f"preprocess_input got an array of shape {tuple(x.shape)}; the last axis must be the three channels RGB. "
            "Repeat a grey channel three times."
        )
    if mode == "caffe":
        x = x[..., ::-1]
    mean, std = (ops.convert_to_tensor(values, "float32") for values in MODES[mode])
    return (x - mean) / std
