"""From an image to what a network takes: its size, and the normalization of its pixels.

One rule for all networks of this package, and the rules of published weights, which a network knows after they have
been loaded into it.
"""

import warnings
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

# Mean and standard deviation of ImageNet's pixels from 0 to 1, as in torchvision.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Caffe's means of the blue, green and red channel, of pixels from 0 to 255.
CAFFE_MEAN = (103.939, 116.779, 123.68)

# {mode: (mean, scale)}: the output is (x - mean) / scale, each for three channels in the order of the output.
MODES = {
    "imagenet": (tuple(255 * mean for mean in IMAGENET_MEAN), tuple(255 * std for std in IMAGENET_STD)),
    "tf": ((127.5,) * 3, (127.5,) * 3),
    "caffe": (CAFFE_MEAN, (1.0,) * 3),
    "lite": ((127.0,) * 3, (128.0,) * 3),
}

INTERPOLATIONS = ("bilinear", "bicubic")
# {field of ImageSize: (its key in the metadata of a file, its type)}
IMAGE_SIZE_KEYS = {"size": ("image_size", int), "crop": ("center_crop", float), "interpolation": ("interpolation", str)}


class ImageSize(NamedTuple):
    """How an image is brought to the size of a network: scaled, and the central square cut out.

    Attributes:
        size: Height and width of the square in pixels.
        crop: The square's side, in units of the shorter side of the scaled image.
        interpolation: "bilinear" or "bicubic", with antialiasing where the image shrinks.

    Raises:
        ValueError: By `from_metadata`, for values that are not possible.

    Example:
        >>> keras_cnns.ImageSize(224, crop=0.875)
        ImageSize(size=224, crop=0.875, interpolation='bilinear')
    """

    size: int = 224
    crop: float = 1.0
    interpolation: str = "bilinear"

    @property
    def shorter_side(self):
        """The shorter side of the scaled image, in pixels."""
        return int(self.size / self.crop)

    @classmethod
    def of(cls, model):
        """Return that of the weights that were last loaded into a model, at the size that the model takes."""
        how = getattr(model, "image_size", cls())
        return how._replace(size=model.inputs[0].shape[1] or how.size)

    def to_metadata(self):
        """Return it as metadata of a file of weights, {str: str}."""
        return {key: str(getattr(self, name)) for name, (key, _) in IMAGE_SIZE_KEYS.items()}

    @classmethod
    def from_metadata(cls, metadata):
        """Return the one in the metadata of a file; raise a ValueError if it is not valid."""
        found = {name: kind(metadata[key]) for name, (key, kind) in IMAGE_SIZE_KEYS.items() if key in metadata}
        how = cls(**found)
        if how.size < 1 or not 0 < how.crop <= 1 or how.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"{how}: size is at least 1, crop above 0 and at most 1, interpolation one of {INTERPOLATIONS}"
            )
        return how


def keep_preprocessing(model, other):
    """Give a model that shares the weights of another one what these weights need of images."""
    other.preprocessing = getattr(model, "preprocessing", "imagenet")
    other.image_size = getattr(model, "image_size", ImageSize())


def resize_and_crop(image, how):
    """Bring an image to the size of a network: scale it, its aspect ratio kept, and cut out the central square.

    Args:
        image: RGB pixels from 0 to 255, (height, width, 3), of any size.
        how: A model, for the rule that its weights were evaluated by, at the size that it takes; or an `ImageSize`.

    Returns:
        A float32 tensor (size, size, 3), with values from 0 to 255.

    Raises:
        ValueError: The image does not have this shape.

    Example:
        >>> model = keras_cnns.ResNet18()
        >>> tuple(keras_cnns.resize_and_crop(numpy.zeros((300, 400, 3), "uint8"), model).shape)
        (224, 224, 3)
    """
    if isinstance(how, keras.Model):
        how = ImageSize.of(how)
    if len(image.shape) != 3 or image.shape[-1] != 3:
        raise ValueError(f"resize_and_crop got an image of shape {tuple(image.shape)}; it must be (height, width, 3).")
    height, width = image.shape[:2]
    shorter = how.shorter_side
    scaled = [max(how.size, round(side * shorter / min(height, width))) for side in (height, width)]
    image = ops.image.resize(
        ops.cast(image, "float32"), scaled, how.interpolation, antialias=True, data_format="channels_last"
    )
    top, left = ((side - how.size) // 2 for side in scaled)
    return ops.clip(image[top : top + how.size, left : left + how.size], 0, 255)


def preprocessing_modes():
    """Return the names of the modes of `preprocess_input`.

    Example:
        >>> keras_cnns.preprocessing_modes()
        ('imagenet', 'tf', 'caffe', 'lite')
    """
    return tuple(MODES)


def preprocess_input(x, mode="imagenet"):
    """Normalize RGB pixels by the mean and standard deviation of ImageNet, or by the rule of published weights.

    Pixels from 0 to 1 are not an error, since they may be a dark image, but cause a warning if their values are known.

    Args:
        x: RGB pixels from 0 to 255, (batch, height, width, 3) or (height, width, 3); an array or a tensor of integers
            or floats.
        mode: "imagenet", the rule of this package and of torchvision, with values from about -2.1 to 2.6; "tf",
            x / 127.5 - 1; "lite", (x - 127) / 128, the rule of EfficientNet-Lite; or "caffe", the channels blue, green,
            red with their means subtracted. The file of converted weights names theirs in its metadata. Or a model, for
            the mode of the weights that were last loaded into it by `weights=` or `keras_cnns.load_weights`; copies of
            the model and files written by `model.save` do not keep it.

    Returns:
        A float32 tensor of the same shape.

    Raises:
        ValueError: The last axis is not three channels, or the mode is unknown.

    Example:
        >>> pixels = keras.ops.full((1, 2, 2, 3), 255)
        >>> [round(float(value), 2) for value in keras_cnns.preprocess_input(pixels)[0, 0, 0]]
        [2.25, 2.43, 2.64]
    """
    if isinstance(mode, keras.Model):
        mode = getattr(mode, "preprocessing", "imagenet")
    if mode not in MODES:
        raise ValueError(f"preprocess_input got mode={mode!r}; it must be one of {', '.join(MODES)}.")
    is_known = isinstance(x, np.ndarray) or hasattr(x, "numpy")  # tensors of a graph or of Keras have no values
    if is_known and "float" in str(x.dtype) and 0 not in x.shape:
        largest = float(ops.max(x))
        if 0 < largest <= 1:
            warnings.warn(
                f"preprocess_input got no pixel above {largest:.3g}, but expects pixels from 0 to 255. Multiply pixels "
                "from 0 to 1 by 255.",
                stacklevel=2,
            )
    x = ops.cast(x, "float32")
    if x.shape[-1] != 3:
        raise ValueError(
            f"preprocess_input got an array of shape {tuple(x.shape)}; the last axis must be the three channels RGB. "
            "Repeat a gray channel three times."
        )
    if mode == "caffe":
        x = x[..., ::-1]
    # As arrays, which are constants of a graph; a converter to another format takes tensors for inputs.
    mean, scale = (np.array(values, "float32") for values in MODES[mode])
    return ops.divide(ops.subtract(x, mean), scale)
