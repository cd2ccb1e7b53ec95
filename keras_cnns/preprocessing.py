"""From pixels to what the networks take: one rule for all of them."""

from keras import ops

# Mean and standard deviation of ImageNet's pixels, in units of 0..1, as torchvision gives them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def preprocess_input(x):
    """Normalises RGB pixels by the mean and standard deviation of ImageNet's.

    Args:
        x: RGB pixels from 0 to 255, (batch, height, width, 3) or (height, width, 3); an array or a tensor of integers
            or floats.

    Returns:
        A float32 tensor of the same shape, about -2.1 to 2.6.

    Raises:
        ValueError: The last axis is not three channels.

    Example:
        >>> pixels = keras.ops.full((1, 2, 2, 3), 255)
        >>> [round(float(value), 2) for value in keras_cnns.preprocess_input(pixels)[0, 0, 0]]
        [2.25, 2.43, 2.64]
    """
    x = ops.cast(x, "float32")
    if x.shape[-1] != 3:
        raise ValueError(
            f"preprocess_input got an array of shape {tuple(x.shape)}; the last axis must be the three channels RGB. "
            "Repeat a grey channel three times."
        )
    mean, std = (ops.convert_to_tensor(values, "float32") for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (x / 255.0 - mean) / std
