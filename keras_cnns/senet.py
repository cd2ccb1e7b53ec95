"""SENet: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018 (arXiv:1709.01507).

Equations 2 and 3 are `channel_weights`; equation 4 is `squeeze_and_excitation`; Figure 2 is `se_inception`; Figure 3, a
residual block gated before the addition, is the `gate` of ResNet's blocks, which `senet` passes. Table 1's SE-ResNet-50
and SE-ResNeXt-50 have the stages of `resnet.TABLE_1`. SENet-154, as the section on it says, has the stages of the
152-layer column with `stem_3x3`, `shortcut_3x3` and `wide_bottleneck`.

Deviations from the paper:
- The fully connected layers of the gate are 1x1 convolutions on its 1x1 map: the same numbers, in the form that
  published weights have.
- version="1.5", SE-ResNet's default, has the stride in the 3x3 convolution, as in ResNet; version="1" is the paper. The
  other networks have it there in the paper, too.
- SEResNet18 and SEResNet34, which the paper does not have, gate the basic block in the same place.
- SEInceptionV1 stands on InceptionV1, the batch-normalised network of TF-Slim and torchvision; the paper's SE-Inception
  stands on BN-Inception, which has two 3x3 for a 5x5 and other filters.
- The stem's pool is padded on all sides, as in ResNet; the authors' hangs over the right and bottom border.
"""

import functools
from typing import Unpack

from keras import layers

from keras_cnns import googlenet, resnet
from keras_cnns._blocks import conv, conv_bn, conv_bn_relu, conv_relu, stem_pool
from keras_cnns._model import SharedArguments, builder
from keras_cnns.resnet import TABLE_1


def channel_weights(x, *, ratio, name):
    """Equations 2 and 3: a weight between 0 and 1 for every channel of every image, (b, h, w, c) -> (b, 1, 1, c)."""
    if not isinstance(ratio, int) or ratio < 1:
        raise ValueError(f"ratio={ratio!r}; it must be a whole number of at least 1, as the paper's 16.")
    channels = x.shape[-1]
    x = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
    x = conv_relu(x, max(1, channels // ratio), 1, name=f"{name}_reduce")
    return layers.Activation("sigmoid", name=f"{name}_sigmoid")(conv(x, channels, 1, name=f"{name}_expand"))


def squeeze_and_excitation(x, *, ratio=16, name):
    """Equation 4: weighs the channels of a map by what all of it shows, (b, h, w, c) -> (b, h, w, c).

    Global average, fully connected to c / ratio, ReLU, fully connected to c, sigmoid; the map is multiplied by that.
    Any network can have it after any of its maps.

    Args:
        x: Feature map.
        ratio: How many times fewer channels the gate has inside, at least one of them left; r in the paper.
        name: Name of the block.

    Raises:
        ValueError: `ratio` is not a whole number of at least 1.

    Example:
        >>> image = keras.Input((32, 32, 64))
        >>> keras_cnns.squeeze_and_excitation(image, name="gate").shape
        (None, 32, 32, 64)
    """
    return layers.Multiply(name=f"{name}_out")([x, channel_weights(x, ratio=ratio, name=name)])


def se_inception(x, row, *, ratio=16):
    """Figure 2: an inception module whose concatenation is gated, (b, h, w, c) -> (b, h, w, filters of all branches).

    Args:
        x: Feature map.
        row: The filters of each convolution.
        ratio: See `squeeze_and_excitation`.
    """
    x = googlenet.inception_v1(x, row, last="concat")
    weights = channel_weights(x, ratio=ratio, name=f"{row.name}_gate")
    return layers.Multiply(name=f"{row.name}_out")([x, weights])


# Table 1, 32x4d: the 3x3 has 32 groups, 4 channels wide where the bottleneck's `filters` are 64.
resnext_bottleneck = functools.partial(resnet.bottleneck, unit_3x3=functools.partial(conv_bn, groups=32), width=2)


def wide_conv_bn(x, filters, kernel_size, strides, *, name):
    """SENet-154's 3x3: 64 groups and twice the channels of the 1x1 before it, which alone the paper halves."""
    return conv_bn(x, 2 * filters, kernel_size, strides, groups=64, name=name)


def shortcut_3x3(x, filters, strides, *, unit, name):
    """SENet-154's shortcut: the projection is 3x3 where it has a stride, so that it sees every pixel."""
    if strides == 1:
        return resnet.shortcut_b(x, filters, strides, unit=unit, name=name)
    return unit(x, filters, 3, strides, name=name)


# SENet-154's block on ResNeXt's 64x4d.
wide_bottleneck = functools.partial(resnet.bottleneck, unit_3x3=wide_conv_bn, shortcut=shortcut_3x3, width=2)


def stem_3x3(x, filters):
    """SENet-154's stem: three 3x3 convolutions for the 7x7, the last one twice as wide, and ResNet's pool."""
    x = conv_bn_relu(x, filters, 3, strides=2, name="stem_conv1")
    x = conv_bn_relu(x, filters, 3, name="stem_conv2")
    x = conv_bn_relu(x, 2 * filters, 3, name="stem_conv3")
    return stem_pool(x)


@builder
def senet(
    table,
    *,
    block,
    stem=resnet.stem,
    ratio=16,
    version="1.5",
    dropout=0.0,
    drop_connect=0.0,
    name="senet",
    **shared: Unpack[SharedArguments],
):
    """Figure 3: a residual network with a squeeze-and-excitation block before every addition.

    Args:
        table: The stages, a column of `TABLE_1` or one's own sequence of `Stage`.
        block: A block of ResNet's form, as `resnet.bottleneck`, with an argument `gate`.
        stem: A function (x, filters) -> x for what comes before the table.
        ratio: How many times fewer channels a gate has inside than the map it gates; r in the paper.
        version: Where a bottleneck has its stride: "1.5" in the 3x3, "1" in the first 1x1 as in the paper. A basic
            block is the same in both.
        dropout: Fraction of the pooled features dropped in training.
        drop_connect: Fraction of the images in training for which the last block's branch would be dropped; it grows
            linearly from 0 at the first block. 0 is none.
        name: Name of the model.
    """
    gate = functools.partial(squeeze_and_excitation, ratio=ratio)
    block = functools.partial(block, gate=gate)
    return resnet.resnet(
        table,
        block=block,
        stem=stem,
        version=version,
        dropout=dropout,
        drop_connect=drop_connect,
        name=name,
        **shared,
    )


@builder(family=senet)
def SEResNet18(*, ratio=16, version="1.5", drop_connect=0.0, name="seresnet18", **shared: Unpack[SharedArguments]):
    """SE-ResNet-18: 11,778,592 parameters, 1.814 G multiply-adds."""
    return senet(
        TABLE_1["18-layer"],
        block=resnet.basic_block,
        ratio=ratio,
        version=version,
        drop_connect=drop_connect,
        name=name,
        **shared,
    )


@builder(family=senet)
def SEResNet34(*, ratio=16, version="1.5", drop_connect=0.0, name="seresnet34", **shared: Unpack[SharedArguments]):
    """SE-ResNet-34: 21,958,868 parameters, 3.664 G multiply-adds."""
    return senet(
        TABLE_1["34-layer"],
        block=resnet.basic_block,
        ratio=ratio,
        version=version,
        drop_connect=drop_connect,
        name=name,
        **shared,
    )


@builder(family=senet)
def SEResNet50(*, ratio=16, version="1.5", drop_connect=0.0, name="seresnet50", **shared: Unpack[SharedArguments]):
    """SE-ResNet-50: 28,088,024 parameters, 4.092 G multiply-adds (version 1: 3.860 G)."""
    return senet(
        TABLE_1["50-layer"],
        block=resnet.bottleneck,
        ratio=ratio,
        version=version,
        drop_connect=drop_connect,
        name=name,
        **shared,
    )


@builder(family=senet)
def SEResNet101(*, ratio=16, version="1.5", drop_connect=0.0, name="seresnet101", **shared: Unpack[SharedArguments]):
    """SE-ResNet-101: 49,326,872 parameters, 7.806 G multiply-adds (version 1: 7.575 G)."""
    return senet(
        TABLE_1["101-layer"],
        block=resnet.bottleneck,
        ratio=ratio,
        version=version,
        drop_connect=drop_connect,
        name=name,
        **shared,
    )


@builder(family=senet)
def SEResNet152(*, ratio=16, version="1.5", drop_connect=0.0, name="seresnet152", **shared: Unpack[SharedArguments]):
    """SE-ResNet-152: 66,821,848 parameters, 11.520 G multiply-adds (version 1: 11.289 G)."""
    return senet(
        TABLE_1["152-layer"],
        block=resnet.bottleneck,
        ratio=ratio,
        version=version,
        drop_connect=drop_connect,
        name=name,
        **shared,
    )


@builder(family=senet)
def SEResNeXt50(*, ratio=16, drop_connect=0.0, name="seresnext50", **shared: Unpack[SharedArguments]):
    """SE-ResNeXt-50 (32x4d): 27,559,896 parameters, 4.233 G multiply-adds."""
    return senet(
        TABLE_1["50-layer"], block=resnext_bottleneck, ratio=ratio, drop_connect=drop_connect, name=name, **shared
    )


@builder(family=senet)
def SEResNeXt101(*, ratio=16, drop_connect=0.0, name="seresnext101", **shared: Unpack[SharedArguments]):
    """SE-ResNeXt-101 (32x4d): 48,955,416 parameters, 7.975 G multiply-adds."""
    return senet(
        TABLE_1["101-layer"], block=resnext_bottleneck, ratio=ratio, drop_connect=drop_connect, name=name, **shared
    )


@builder(family=senet)
def SENet154(*, ratio=16, drop_connect=0.0, name="senet154", **shared: Unpack[SharedArguments]):
    """SENet-154 (64x4d): 115,088,984 parameters, 20.688 G multiply-adds."""
    block, table = wide_bottleneck, TABLE_1["152-layer"]
    return senet(
        table, block=block, stem=stem_3x3, ratio=ratio, dropout=0.2, drop_connect=drop_connect, name=name, **shared
    )


@builder(family=googlenet.googlenet)
def SEInceptionV1(*, ratio=16, aux_heads=False, name="seinceptionv1", **shared: Unpack[SharedArguments]):
    """SE-InceptionV1: 7,105,007 parameters (13,484,991 with heads), 1.499 G multiply-adds.

    Args:
        ratio: How many times fewer channels a gate has inside than the map it gates; r in the paper.
    """
    return googlenet.googlenet(
        googlenet.TABLE_V1,
        stem=googlenet.stem_v1,
        module=functools.partial(se_inception, ratio=ratio),
        head=googlenet.auxiliary_head_v1,
        dropout=0.2,
        aux_heads=aux_heads,
        name=name,
        **shared,
    )
