"""The networks by name."""

import fnmatch

from keras_cnns._model import did_you_mean
from keras_cnns.efficientnet import (
    EfficientNet,
    EfficientNetB0,
    EfficientNetB1,
    EfficientNetB2,
    EfficientNetB3,
    EfficientNetB4,
    EfficientNetB5,
    EfficientNetB6,
    EfficientNetB7,
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    EfficientNetLite3,
    EfficientNetLite4,
)
from keras_cnns.googlenet import GoogLeNet, InceptionV1
from keras_cnns.resnet import (
    PlainNet18,
    PlainNet20,
    PlainNet34,
    PlainNet56,
    PlainNetCIFAR,
    ResNet18,
    ResNet20,
    ResNet32,
    ResNet34,
    ResNet44,
    ResNet50,
    ResNet56,
    ResNet101,
    ResNet110,
    ResNet152,
    ResNetCIFAR,
)

BUILDERS = (
    GoogLeNet,
    InceptionV1,
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    ResNet152,
    PlainNet18,
    PlainNet34,
    ResNetCIFAR,
    ResNet20,
    ResNet32,
    ResNet44,
    ResNet56,
    ResNet110,
    PlainNetCIFAR,
    PlainNet20,
    PlainNet56,
    EfficientNet,
    EfficientNetB0,
    EfficientNetB1,
    EfficientNetB2,
    EfficientNetB3,
    EfficientNetB4,
    EfficientNetB5,
    EfficientNetB6,
    EfficientNetB7,
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    EfficientNetLite3,
    EfficientNetLite4,
)


def list_models(pattern="*"):
    """The names of the networks, in the lecture's order.

    Args:
        pattern: Only names like this, upper and lower case alike; * stands for anything.

    Example:
        >>> keras_cnns.list_models("inception*")
        ['InceptionV1']
    """
    return [b.__name__ for b in BUILDERS if fnmatch.fnmatch(b.__name__.lower(), pattern.lower())]


def builder(name):
    """The builder of a network by its name.

    Args:
        name: A name from `list_models`, upper and lower case alike.

    Raises:
        ValueError: There is no such network; the message names those that come near.

    Example:
        >>> keras_cnns.builder("resnet50") is keras_cnns.ResNet50
        True
    """
    for candidate in BUILDERS:
        if candidate.__name__.lower() == name.lower():
            return candidate
    raise ValueError(f"There is no network {name!r}.{did_you_mean(name, list_models())}")
