"""ResNet: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv:1512.03385).

Table 1 is `TABLE_1`; Figure 5, left, is `basic_block`, right, `bottleneck`; section 3.3 is `resnet`, its plain network
`plain_block`, its shortcut options `shortcut_a`, `shortcut_b` and `shortcut_c`; section 4.2, the networks for
CIFAR-10, is resnet_cifar.py. Stages have the same names in every network of this kind: conv1 is `stem`, conv2_x to
conv5_x are `stage1` to `stage4`.

Deviations from the paper:
- version="1.5", the default, puts a bottleneck's stride into its 3x3 convolution instead of its first 1x1, as published
  weights and today's baselines do. version="1" is the paper.
- drop_connect, off by default, is the stochastic depth of Huang et al. 2016, which came later. It grows from 0 at the
  first block, as in EfficientNet; Huang et al. (section 3) count blocks from 1 and reach the whole rate at the last.
"""

import functools
from typing import NamedTuple, Unpack

from keras import layers

from keras_cnns._blocks import conv_bn, drop_rates, first_strides, relu, stem, stochastic_depth
from keras_cnns._builder import SharedArguments, builder
from keras_cnns._model import classifier_head, finish, image_input
from keras_cnns.layers import ZeroPadChannels


class Stage(NamedTuple):
    """A stack of blocks of one width; a cell of Table 1, but for the layers of the block."""

    filters: int  # of the 3x3 convolutions
    blocks: int


class Basic(Stage):
    """A cell of Table 1: [3x3, filters; 3x3, filters] x blocks."""


class Bottleneck(Stage):
    """A cell of Table 1: [1x1, filters; 3x3, filters; 1x1, 4 * filters] x blocks."""


# fmt: off
TABLE_1 = {
    # layer name   conv2_x            conv3_x             conv4_x              conv5_x
    # output size  56 x 56            28 x 28             14 x 14              7 x 7
    "18-layer":   (Basic(64, 2),      Basic(128, 2),      Basic(256,  2),      Basic(512, 2)),
    "34-layer":   (Basic(64, 3),      Basic(128, 4),      Basic(256,  6),      Basic(512, 3)),
    "50-layer":   (Bottleneck(64, 3), Bottleneck(128, 4), Bottleneck(256,  6), Bottleneck(512, 3)),
    "101-layer":  (Bottleneck(64, 3), Bottleneck(128, 4), Bottleneck(256, 23), Bottleneck(512, 3)),
    "152-layer":  (Bottleneck(64, 3), Bottleneck(128, 8), Bottleneck(256, 36), Bottleneck(512, 3)),
}
# fmt: on


def shortcut_a(x, filters, strides, *, unit, name):
    """Option A: the identity, or where the shape changes every second pixel and zeros for the new channels."""
    if strides > 1:
        x = layers.AveragePooling2D(1, strides, name=f"{name}_subsample")(x)
    if x.shape[-1] < filters:
        x = ZeroPadChannels(filters - x.shape[-1], name=f"{name}_pad")(x)
    return x


def shortcut_b(x, filters, strides, *, unit, name):
    """Option B: the identity, or a 1x1 projection where the shape changes."""
    return x if strides == 1 and x.shape[-1] == filters else shortcut_c(x, filters, strides, unit=unit, name=name)


def shortcut_c(x, filters, strides, *, unit, name):
    """Option C: always a 1x1 projection."""
    return unit(x, filters, 1, strides, name=name)


def basic_block(x, filters, strides, *, version, unit=conv_bn, shortcut=shortcut_b, gate=None, drop_connect=0.0, name):
    """Figure 5, left: two 3x3 convolutions and a shortcut, (b, h, w, c) -> (b, h / strides, w / strides, filters).

    Args:
        x: Feature map.
        filters: Width of the block.
        strides: Stride of its first 3x3, in every version.
        version: Not used; see `bottleneck`.
        unit: Builds a convolution and its normalization.
        shortcut: Builds the shortcut.
        gate: A function (x, *, name) -> x applied to the branch before the addition.
        drop_connect: Fraction of the images in training whose branch is dropped.
        name: Name of the block.
    """
    identity = shortcut(x, filters, strides, unit=unit, name=f"{name}_shortcut")
    x = relu(unit(x, filters, 3, strides, name=f"{name}_conv1"), name=f"{name}_conv1")
    x = unit(x, filters, 3, name=f"{name}_conv2")
    x = gate(x, name=f"{name}_gate") if gate else x
    return add_relu(x, identity, drop_connect=drop_connect, name=name)


def bottleneck(
    x,
    filters,
    strides,
    *,
    version,
    unit=conv_bn,
    unit_3x3=conv_bn,
    shortcut=shortcut_b,
    gate=None,
    width=1,
    drop_connect=0.0,
    name,
):
    """Figure 5, right: 1x1, 3x3, 1x1 and a shortcut, (b, h, w, c) -> (b, h / strides, w / strides, 4 * filters).

    Args:
        x: Feature map.
        filters: A quarter of the block's output channels.
        strides: Stride of the block.
        version: Which convolution has the stride: "1.5" the 3x3, "1" the first 1x1.
        unit: Builds a 1x1 convolution and its normalization.
        unit_3x3: Builds the 3x3 convolution and its normalization.
        shortcut: Builds the shortcut.
        gate: A function (x, *, name) -> x applied to the branch before the addition.
        width: Channels inside the block, in units of `filters`.
        drop_connect: Fraction of the images in training whose branch is dropped.
        name: Name of the block.
    """
    strides_1x1, strides_3x3 = {"1": (strides, 1), "1.5": (1, strides)}[version]
    identity = shortcut(x, 4 * filters, strides, unit=unit, name=f"{name}_shortcut")
    x = relu(unit(x, width * filters, 1, strides_1x1, name=f"{name}_conv1"), name=f"{name}_conv1")
    x = relu(unit_3x3(x, width * filters, 3, strides_3x3, name=f"{name}_conv2"), name=f"{name}_conv2")
    x = unit(x, 4 * filters, 1, name=f"{name}_conv3")
    x = gate(x, name=f"{name}_gate") if gate else x
    return add_relu(x, identity, drop_connect=drop_connect, name=name)


def plain_block(x, filters, strides, *, version, unit=conv_bn, name):
    """Figure 3, middle: the two 3x3 convolutions of `basic_block` without a shortcut."""
    x = relu(unit(x, filters, 3, strides, name=f"{name}_conv1"), name=f"{name}_conv1")
    return layers.ReLU(name=f"{name}_out")(unit(x, filters, 3, name=f"{name}_conv2"))


def add_relu(x, shortcut, *, drop_connect, name):
    """End a block of Figure 5: F(x) + x, then ReLU; F(x) is dropped for a fraction `drop_connect` of the images."""
    x = stochastic_depth(x, drop_connect, name=name)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, shortcut]))


CELLS = {Basic: basic_block, Bottleneck: bottleneck}


def blocks_of(table, block=None):
    """Return the function that builds the blocks of each row: `block`, one or one per row, or what the cells say."""
    if block is not None:
        return [block] * len(table) if callable(block) else block
    for row in table:
        if type(row) not in CELLS:
            raise ValueError(f"{row} does not say what its blocks are. Pass `block`, or rows of Basic or Bottleneck.")
    return [CELLS[type(row)] for row in table]


@builder
def resnet(
    table,
    *,
    block=None,
    stem=stem,
    version="1.5",
    dropout=0.0,
    drop_connect=0.0,
    output_stride=32,
    default_size=224,
    divides_by=None,
    **shared: Unpack[SharedArguments],
):
    """Section 3.3: the stem, stages of residual blocks, global average pooling and the classifier.

    Args:
        table: The stages: a column of `TABLE_1` or a sequence of your own of `Basic`, `Bottleneck` or, with `block`,
            `Stage`.
        block: A function (x, filters, strides, *, version, name) -> x that builds one block, or one per stage. By
            default the block of the table's cells.
        stem: A function (x, filters) -> x for what comes before the table; with an `output_stride` below 32 it also
            gets `strides`, its two strides.
        version: Where a bottleneck has its stride: "1.5" in the 3x3, "1" in the first 1x1 as in the paper. A basic
            block is the same in both.
        dropout: Fraction of the pooled features dropped in training.
        drop_connect: Stochastic depth: fraction of the images whose branch is dropped in training, growing linearly
            from 0 at the first block toward this value. 0 drops none. A block for other values has an argument of this
            name.
        output_stride: By how much the network divides the height and width of the input: 32; or 16 or 8, without
            strides in the stem, for small images. It does not change the weights.
        default_size: Height and width in pixels of the default input.
        divides_by: The same, with a `stem` of your own; by default `output_stride`.
    """
    if version not in ("1", "1.5"):
        raise ValueError(f'version={version!r}; it must be "1.5" (stride in the 3x3) or "1" (the paper).')
    divides_by = divides_by or output_stride
    if output_stride != 32:
        stem = functools.partial(stem, strides=first_strides(output_stride))
    image = image_input(
        shared,
        default_size=default_size,
        minimum=divides_by,
        minimum_because=f"the network divides them by {divides_by}",
        or_use=", or use ResNetCIFAR" if divides_by > 4 else "",
    )
    rates = iter(drop_rates(drop_connect, sum(row.blocks for row in table)))
    x = stem(image, table[0].filters)
    for stage, (row, build) in enumerate(zip(table, blocks_of(table, block), strict=True), 1):
        for index in range(1, row.blocks + 1):
            strides = 2 if stage > 1 and index == 1 else 1
            rate = next(rates)
            drop = {"drop_connect": rate} if rate else {}  # a plain block has no branch to drop
            x = build(x, row.filters, strides, version=version, **drop, name=f"stage{stage}_block{index}")
    return finish(image, classifier_head(x, shared, dropout=dropout), shared)


class ResNetArguments(SharedArguments, total=False):
    """The arguments of the variants; `resnet` describes them."""

    version: str
    drop_connect: float
    output_stride: int


@builder(family=resnet)
def ResNet18(**arguments: Unpack[ResNetArguments]):
    """ResNet-18: 11,689,512 parameters, 1.814 G multiply-adds."""
    return resnet(TABLE_1["18-layer"], **arguments)


@builder(family=resnet)
def ResNet34(**arguments: Unpack[ResNetArguments]):
    """ResNet-34: 21,797,672 parameters, 3.664 G multiply-adds."""
    return resnet(TABLE_1["34-layer"], **arguments)


@builder(family=resnet)
def ResNet50(**arguments: Unpack[ResNetArguments]):
    """ResNet-50: 25,557,032 parameters, 4.089 G multiply-adds (version 1: 3.858 G)."""
    return resnet(TABLE_1["50-layer"], **arguments)


@builder(family=resnet)
def ResNet101(**arguments: Unpack[ResNetArguments]):
    """ResNet-101: 44,549,160 parameters, 7.801 G multiply-adds."""
    return resnet(TABLE_1["101-layer"], **arguments)


@builder(family=resnet)
def ResNet152(**arguments: Unpack[ResNetArguments]):
    """ResNet-152: 60,192,808 parameters, 11.514 G multiply-adds."""
    return resnet(TABLE_1["152-layer"], **arguments)


@builder(family=resnet)
def PlainNet18(**arguments: Unpack[SharedArguments]):
    """The plain twin of ResNet-18: 11,515,688 parameters, 1.795 G multiply-adds."""
    return resnet(TABLE_1["18-layer"], block=plain_block, **arguments)


@builder(family=resnet)
def PlainNet34(**arguments: Unpack[SharedArguments]):
    """The plain twin of ResNet-34: 21,623,848 parameters, 3.644 G multiply-adds."""
    return resnet(TABLE_1["34-layer"], block=plain_block, **arguments)
