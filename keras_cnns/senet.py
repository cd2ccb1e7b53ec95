"""SENet: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018 (arXiv:1709.01507).

Equations 2 and 3 are `_blocks.channel_weights`; equation 4 is `squeeze_and_excitation`; Figure 2 is `se_inception`;
Figure 3, a residual block with a gate before the addition, is the `gate` of ResNet's blocks, which `senet` passes.
Table 1's SE-ResNet-50 and SE-ResNeXt-50 have the stages of `resnet.TABLE_1`. SENet-154, as the section on it says, has
the stages of the 152-layer column with `stem_3x3`, `shortcut_3x3` and `wide_bottleneck`.

Deviations from the paper:
- The fully connected layers of the gate are 1x1 convolutions on its 1x1 map: the same numbers, in the form of published
  weights.
- version="1.5", SE-ResNet's default, has the stride in the 3x3 convolution, as in ResNet; version="1" is the paper. The
  other networks have it there in the paper, too.
- SEResNet18 and SEResNet34, which the paper does not have, have a gate in the same place of the basic block.
- SEInceptionV1 is based on InceptionV1, the batch-normalised network of TF-Slim and torchvision; the paper's
  SE-Inception is based on BN-Inception, which has two 3x3 in place of a 5x5 and other filters.
- The stem's pool is padded on all sides, as in ResNet; the authors' extends over the right and bottom border.
"""

import functools
from collections.abc import Callable
from typing import Unpack

from keras import layers

from keras_cnns import googlenet, resnet
from keras_cnns._blocks import FIRST_STRIDES, channel_weights, conv_bn, conv_bn_relu, stem_pool
from keras_cnns._builder import SharedArguments, builder
from keras_cnns.resnet import TABLE_1


def squeeze_and_excitation(x, *, ratio=16, name):
    """Equation 4: scale each channel of a map by a weight computed from the whole map, (b, h, w, c) -> (b, h, w, c).

    Global average, fully connected to c / ratio, ReLU, fully connected to c, sigmoid; the map is multiplied by the
    result. It can follow any map of any network.

    Args:
        x: Feature map, (batch, height, width, channels).
        ratio: By how much the channels are reduced inside the gate, to at least one; r in the paper.
        name: Name of the block.

    Returns:
        The scaled map, (batch, height, width, channels).

    Raises:
        ValueError: `ratio` is not a whole number of at least 1.

    Example:
        >>> image = keras.Input((32, 32, 64))
        >>> keras_cnns.squeeze_and_excitation(image, name="gate").shape
        (None, 32, 32, 64)
    """
    weights = channel_weights(x, reduced(x.shape[-1], ratio), name=name)
    return layers.Multiply(name=f"{name}_out")([x, weights])


def reduced(channels, ratio):
    """Return c / r of equation 3, the channels inside a gate; raise a ValueError if the ratio is not valid."""
    if not isinstance(ratio, int) or ratio < 1:
        raise ValueError(f"ratio={ratio!r}; it must be a whole number of at least 1, such as the paper's 16.")
    return max(1, channels // ratio)


def se_inception(x, row, *, ratio=16):
    """Figure 2: an inception module with a gate, (b, h, w, c) -> (b, h, w, filters of all branches).

    Args:
        x: Feature map.
        row: The filters of each convolution.
        ratio: See `squeeze_and_excitation`.
    """
    x = googlenet.inception_v1(x, row, last="concat")
    weights = channel_weights(x, reduced(x.shape[-1], ratio), name=f"{row.name}_gate")
    return layers.Multiply(name=f"{row.name}_out")([x, weights])


# Table 1, 32x4d: the 3x3 has 32 groups, 4 channels wide where the bottleneck's `filters` are 64.
resnext_bottleneck = functools.partial(resnet.bottleneck, unit_3x3=functools.partial(conv_bn, groups=32), width=2)


def wide_conv_bn(x, filters, kernel_size, strides, *, name):
    """SENet-154's 3x3: 64 groups and twice the channels of the 1x1 before it, which the paper halves alone."""
    return conv_bn(x, 2 * filters, kernel_size, strides, groups=64, name=name)


def shortcut_3x3(x, filters, strides, *, unit, name):
    """SENet-154's shortcut: the projection is 3x3 where it has a stride, so that it sees every pixel."""
    if strides == 1:
        return resnet.shortcut_b(x, filters, strides, unit=unit, name=name)
    return unit(x, filters, 3, strides, name=name)


# SENet-154's block, based on ResNeXt's 64x4d.
wide_bottleneck = functools.partial(resnet.bottleneck, unit_3x3=wide_conv_bn, shortcut=shortcut_3x3, width=2)


def stem_3x3(x, filters, *, strides=FIRST_STRIDES[32]):
    """SENet-154's stem: three 3x3 convolutions in place of the 7x7, the last one twice as wide, and ResNet's pool."""
    x = conv_bn_relu(x, filters, 3, strides[0], name="stem_conv1")
    x = conv_bn_relu(x, filters, 3, name="stem_conv2")
    x = conv_bn_relu(x, 2 * filters, 3, name="stem_conv3")
    return stem_pool(x, strides[1])


class FamilyArguments(resnet.ResNetArguments, total=False):
    """The arguments that `senet` passes on to `resnet.resnet`, which describes them."""

    stem: Callable
    dropout: float


@builder(family=resnet.resnet)
def senet(table, *, block=None, ratio=16, **arguments: Unpack[FamilyArguments]):
    """Figure 3: a residual network with squeeze and excitation before every addition.

    Args:
        table: The stages: a column of `TABLE_1` or a sequence of your own of `resnet.Stage`.
        block: A block of ResNet's form, such as `resnet.bottleneck`, with an argument `gate`. By default the block of
            the table's cells.
        ratio: By how much the channels are reduced inside a gate; r in the paper.
    """
    gate = functools.partial(squeeze_and_excitation, ratio=ratio)
    blocks = [functools.partial(build, gate=gate) for build in resnet.blocks_of(table, block)]
    return resnet.resnet(table, block=blocks, **arguments)


class SEResNetArguments(resnet.ResNetArguments, total=False):
    """The arguments of the SE-ResNets; `senet` describes them."""

    ratio: int


class SENetArguments(SharedArguments, total=False):
    """The arguments of the other networks, whose stride is always in the 3x3; `senet` describes them."""

    ratio: int
    drop_connect: float
    output_stride: int


@builder(family=senet)
def SEResNet18(**arguments: Unpack[SEResNetArguments]):
    """SE-ResNet-18: 11,778,592 parameters, 1.814 G multiply-adds."""
    return senet(TABLE_1["18-layer"], **arguments)


@builder(family=senet)
def SEResNet34(**arguments: Unpack[SEResNetArguments]):
    """SE-ResNet-34: 21,958,868 parameters, 3.664 G multiply-adds."""
    return senet(TABLE_1["34-layer"], **arguments)


@builder(family=senet)
def SEResNet50(**arguments: Unpack[SEResNetArguments]):
    """SE-ResNet-50: 28,088,024 parameters, 4.092 G multiply-adds (version 1: 3.860 G)."""
    return senet(TABLE_1["50-layer"], **arguments)


@builder(family=senet)
def SEResNet101(**arguments: Unpack[SEResNetArguments]):
    """SE-ResNet-101: 49,326,872 parameters, 7.806 G multiply-adds (version 1: 7.575 G)."""
    return senet(TABLE_1["101-layer"], **arguments)


@builder(family=senet)
def SEResNet152(**arguments: Unpack[SEResNetArguments]):
    """SE-ResNet-152: 66,821,848 parameters, 11.520 G multiply-adds (version 1: 11.289 G)."""
    return senet(TABLE_1["152-layer"], **arguments)


@builder(family=senet)
def SEResNeXt50(**arguments: Unpack[SENetArguments]):
    """SE-ResNeXt-50 (32x4d): 27,559,896 parameters, 4.233 G multiply-adds."""
    return senet(TABLE_1["50-layer"], block=resnext_bottleneck, **arguments)


@builder(family=senet)
def SEResNeXt101(**arguments: Unpack[SENetArguments]):
    """SE-ResNeXt-101 (32x4d): 48,955,416 parameters, 7.975 G multiply-adds."""
    return senet(TABLE_1["101-layer"], block=resnext_bottleneck, **arguments)


@builder(family=senet)
def SENet154(**arguments: Unpack[SENetArguments]):
    """SENet-154 (64x4d): 115,088,984 parameters, 20.688 G multiply-adds."""
    return senet(TABLE_1["152-layer"], block=wide_bottleneck, stem=stem_3x3, dropout=0.2, **arguments)


@builder(family=googlenet.googlenet)
def SEInceptionV1(*, ratio=16, **arguments: Unpack[googlenet.GoogLeNetArguments]):
    """SE-InceptionV1: 7,105,007 parameters (13,484,991 with heads), 1.499 G multiply-adds.

    Args:
        ratio: By how much the channels are reduced inside a gate; r in the paper.
    """
    module = functools.partial(se_inception, ratio=ratio)
    return googlenet.googlenet(**googlenet.INCEPTION_V1, module=module, **arguments)
