"""The networks by name."""

import fnmatch
import inspect

from keras_cnns._builder import did_you_mean
from keras_cnns.alexnet import AlexNet, AlexNetOneTower
from keras_cnns.deformable import DeformableResNet50, DeformableResNet101
from keras_cnns.densenet import DenseNet121, DenseNet161, DenseNet169, DenseNet201, DenseNet264, DenseNetCIFAR
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
)
from keras_cnns.efficientnet_lite import (
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    EfficientNetLite3,
    EfficientNetLite4,
)
from keras_cnns.googlenet import GoogLeNet, InceptionV1
from keras_cnns.published import PUBLISHED, find
from keras_cnns.resnet import PlainNet18, PlainNet34, ResNet18, ResNet34, ResNet50, ResNet101, ResNet152
from keras_cnns.resnet_cifar import (
    PlainNet20,
    PlainNet56,
    PlainNetCIFAR,
    ResNet20,
    ResNet32,
    ResNet44,
    ResNet56,
    ResNet110,
    ResNetCIFAR,
)
from keras_cnns.senet import (
    SEInceptionV1,
    SENet154,
    SEResNet18,
    SEResNet34,
    SEResNet50,
    SEResNet101,
    SEResNet152,
    SEResNeXt50,
    SEResNeXt101,
)
from keras_cnns.vgg import VGG11, VGG13, VGG16, VGG19

BUILDERS = (
    AlexNet,
    AlexNetOneTower,
    VGG11,
    VGG13,
    VGG16,
    VGG19,
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
    DenseNet121,
    DenseNet161,
    DenseNet169,
    DenseNet201,
    DenseNet264,
    DenseNetCIFAR,
    SEResNet18,
    SEResNet34,
    SEResNet50,
    SEResNet101,
    SEResNet152,
    SEResNeXt50,
    SEResNeXt101,
    SEInceptionV1,
    SENet154,
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
    DeformableResNet50,
    DeformableResNet101,
)


def list_models(pattern="*"):
    """Return the names of the networks, family by family.

    Args:
        pattern: Which names, ignoring case: a part of the name, such as "resnet", or a pattern for the whole name with
            * for any text, ? for any letter and letters in [].

    Example:
        >>> keras_cnns.list_models("inception*")
        ['InceptionV1']
    """
    if not set("*?[") & set(pattern):
        pattern = f"*{pattern}*"
    return [b.__name__ for b in BUILDERS if fnmatch.fnmatchcase(b.__name__.lower(), pattern.lower())]


def builder(name):
    """Return the builder of a network by its name.

    Args:
        name: A name from `list_models`, ignoring case.

    Raises:
        ValueError: There is no such network; the message names similar ones.

    Example:
        >>> keras_cnns.builder("resnet50") is keras_cnns.ResNet50
        True
    """
    for candidate in BUILDERS:
        if candidate.__name__.lower() == str(name).lower():
            return candidate
    raise ValueError(f"There is no network {name!r}.{did_you_mean(str(name), list_models())}")


def list_weights(name=None):
    """Return the published ImageNet weights that `weights="imagenet"` loads.

    Args:
        name: Name of a network, ignoring case; None for all.

    Returns:
        A list of named tuples: network, arguments of its builder, repository on the hub, top1 and top5 in percent as
        published, image_size, preprocessing, licence as stated, and the properties commit and sha256, where pinned.
        Empty for a network that has none.

    Raises:
        ValueError: There is no such network.

    Example:
        >>> keras_cnns.list_weights("ResNet50")[0].repository
        'timm/resnet50.tv_in1k'
    """
    network = None if name is None else builder(name).__name__
    return [entry for entry in PUBLISHED if network in (None, entry.network)]


def find_weights(name, **arguments):
    """Return the published weights of a network whose builder is called with these arguments.

    Args:
        name: Name of a network, ignoring case.
        arguments: Arguments of its builder, such as batch_norm=True for a VGG.

    Returns:
        An entry of `list_weights`, which `entry.load(model, keep=())` loads into a network.

    Raises:
        ValueError: There are none; the message says why.

    Example:
        >>> keras_cnns.find_weights("VGG16", batch_norm=True).repository
        'timm/vgg16_bn.tv_in1k'
    """
    build = builder(name)
    return find(build.__name__, arguments, inspect.signature(build).parameters)
