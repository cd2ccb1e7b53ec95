"""ResNet: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv:1512.03385).

Table 1 is `TABLE_1`; Figure 5, left, is `basic_block`, right, `bottleneck`; section 3.3 is `resnet`, its plain network
`plain_block`, its shortcut options `shortcut_a`, `shortcut_b` and `shortcut_c`; section 4.2, the networks for
CIFAR-10, is `table_cifar`. Stages are named by what they are in every such network: conv1 is `stem`, conv2_x to conv5_x
are `stage1` to `stage4`.

Deviations from the paper:
- version="1.5", the default, puts a bottleneck's stride into its 3x3 convolution instead of its first 1x1. Published
  weights and today's baselines do so. version="1" is the paper.
- drop_connect, off by default, is the stochastic depth of Huang et al. 2016, which came later. It grows from 0 at the
  first block, as in EfficientNet; Huang et al. (section 3) count blocks from 1 and reach the whole rate at the last.
"""

import functools
from typing import NamedTuple, Unpack

from keras import layers

from keras_cnns._blocks import conv, conv_bn, stem
from keras_cnns._model import SharedArguments, builder, classifier_head, finish, image_input
from keras_cnns.layers import ZeroPadChannels


class Stage(NamedTuple):
    """A cell of Table 1: how wide a block is and how often it is stacked."""

    filters: int  # of the 3x3 convolutions; a bottleneck's output has four times as many
    blocks: int


# fmt: off
TABLE_1 = {
    # layer name   conv2_x       conv3_x        conv4_x         conv5_x
    # output size  56 x 56       28 x 28        14 x 14         7 x 7
    "18-layer":   (Stage(64, 2), Stage(128, 2), Stage(256,  2), Stage(512, 2)),
    "34-layer":   (Stage(64, 3), Stage(128, 4), Stage(256,  6), Stage(512, 3)),
    "50-layer":   (Stage(64, 3), Stage(128, 4), Stage(256,  6), Stage(512, 3)),
    "101-layer":  (Stage(64, 3), Stage(128, 4), Stage(256, 23), Stage(512, 3)),
    "152-layer":  (Stage(64, 3), Stage(128, 8), Stage(256, 36), Stage(512, 3)),
}
# fmt: on


def table_cifar(depth, width=1.0):
    """Section 4.2: the table of a CIFAR network, 6n + 2 layers deep, with maps of 32, 16 and 8 pixels; the paper's
    width is 1.0."""
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        near = ", ".join(str(6 * n + 2) for n in (max(blocks, 1), max(blocks, 1) + 1))
        raise ValueError(f"depth={depth}; a CIFAR network has 6n + 2 layers. Pass a depth such as {near}.")
    if round(16 * width) < 1:
        raise ValueError(f"width={width}; the first stage would have no channel left. 1.0 is the paper's 16.")
    return tuple(Stage(round(filters * width), blocks) for filters in (16, 32, 64))


def shortcut_a(x, filters, strides, *, unit, name):
    """Option A: the identity, or where the shape changes every second pixel, with channels of zeros; no parameters."""
    if strides > 1:
        x = layers.AveragePooling2D(1, strides, name=f"{name}_subsample")(x)
    if x.shape[-1] < filters:
        x = ZeroPadChannels(filters - x.shape[-1], name=f"{name}_pad")(x)
    return x


def shortcut_b(x, filters, strides, *, unit, name):
    """Option B: the identity, or a 1x1 projection where the shape changes."""
    return x if strides == 1 and x.shape[-1] == filters else shortcut_c(x, filters, strides, unit=unit, name=name)


def shortcut_c(x, filters, strides, *, unit, name):
    """Option C: a 1x1 projection always."""
    return unit(x, filters, 1, strides, name=name)


def basic_block(x, filters, strides, *, version, unit=conv_bn, shortcut=shortcut_b, gate=None, drop_connect=0.0, name):
    """Figure 5, left: two 3x3 convolutions beside a shortcut, (b, h, w, c) -> (b, h/strides, w/strides, filters).

    Args:
        x: Feature map.
        filters: Width of the block.
        strides: Stride of its first 3x3, in every version.
        version: See `resnet`.
        unit: Builds a convolution and its normalization.
        shortcut: Builds what is added to the branch.
        gate: A function (x, *, name) -> x on the branch before the addition, as squeeze and excitation.
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
    """Figure 5, right: 1x1, 3x3, 1x1 beside a shortcut, (b, h, w, c) -> (b, h/strides, w/strides, 4 * filters).

    Args:
        x: Feature map.
        filters: A quarter of the block's output channels.
        strides: Stride of the block; see `resnet` for where it is.
        version: See `resnet`.
        unit: Builds a 1x1 convolution and its normalization.
        unit_3x3: Builds the 3x3 convolution and its normalization, which children replace.
        shortcut: Builds what is added to the branch.
        gate: A function (x, *, name) -> x on the branch before the addition, as squeeze and excitation.
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
    """Figure 3, middle: the two 3x3 convolutions of `basic_block` with no shortcut."""
    x = relu(unit(x, filters, 3, strides, name=f"{name}_conv1"), name=f"{name}_conv1")
    return layers.ReLU(name=f"{name}_out")(unit(x, filters, 3, name=f"{name}_conv2"))


def relu(x, *, name):
    """ReLU after a convolution."""
    return layers.ReLU(name=f"{name}_relu")(x)


def add_relu(x, shortcut, *, drop_connect=0.0, name):
    """The end of both blocks of Figure 5: F(x) + x, then ReLU; F(x) dropped for some images, if asked for."""
    if drop_connect:
        x = layers.Dropout(drop_connect, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(x)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, shortcut]))


def stem_cifar(x, filters, *, unit=conv_bn):
    """Section 4.2: the first layer is a 3x3 convolution."""
    return relu(unit(x, filters, 3, name="stem"), name="stem")


@builder
def resnet(
    table,
    *,
    block,
    stem=stem,
    version="1.5",
    dropout=0.0,
    drop_connect=0.0,
    default_size=224,
    divides_by=32,
    name="resnet",
    **shared: Unpack[SharedArguments],
):
    """Section 3.3: the stem, stages of residual blocks, global average pooling and the classifier.

    Args:
        table: The stages, a column of `TABLE_1` or one's own sequence of `Stage`.
        block: A function (x, filters, strides, *, version, name) -> x that builds one block, or one for each stage.
        stem: A function (x, filters) -> x for what comes before the table.
        version: Where a bottleneck has its stride: "1.5" in the 3x3, "1" in the first 1x1 as in the paper. A basic
            block is the same in both.
        dropout: Fraction of the pooled features dropped in training.
        drop_connect: Fraction of the images in training for which the last block's branch would be dropped; it grows
            linearly from 0 at the first block. 0 is none. A block for another value has an argument of this name.
        default_size: Height and width in pixels of the default input.
        divides_by: How many pixels of the input are one of the last map, in each direction.
        name: Name of the model.
    """
    if version not in ("1", "1.5"):
        raise ValueError(f'version={version!r}; it must be "1.5" (stride in the 3x3) or "1" (the paper).')
    image = image_input(
        name,
        shared,
        default_size=default_size,
        minimum=divides_by,
        minimum_because=f"the network divides them by {divides_by}",
        or_use=", or use ResNetCIFAR" if divides_by > 4 else "",
    )
    blocks = [block] * len(table) if callable(block) else block
    count = sum(row.blocks for row in table)
    x, done = stem(image, table[0].filters), 0
    for stage, (row, block) in enumerate(zip(table, blocks, strict=True), 1):
        for index in range(1, row.blocks + 1):
            strides = 2 if stage > 1 and index == 1 else 1
            rate = drop_connect * done / count
            drop = {"drop_connect": rate} if rate else {}  # a plain block has no branch to drop
            x = block(x, row.filters, strides, version=version, **drop, name=f"stage{stage}_block{index}")
            done += 1
    return finish(image, classifier_head(x, shared, dropout=dropout), shared, name=name)


@builder(family=resnet)
def ResNet18(*, version="1.5", drop_connect=0.0, name="resnet18", **shared: Unpack[SharedArguments]):
    """ResNet-18: 11,689,512 parameters, 1.814 G multiply-adds."""
    return resnet(
        TABLE_1["18-layer"], block=basic_block, version=version, drop_connect=drop_connect, name=name, **shared
    )


@builder(family=resnet)
def ResNet34(*, version="1.5", drop_connect=0.0, name="resnet34", **shared: Unpack[SharedArguments]):
    """ResNet-34: 21,797,672 parameters, 3.664 G multiply-adds."""
    return resnet(
        TABLE_1["34-layer"], block=basic_block, version=version, drop_connect=drop_connect, name=name, **shared
    )


@builder(family=resnet)
def ResNet50(*, version="1.5", drop_connect=0.0, name="resnet50", **shared: Unpack[SharedArguments]):
    """ResNet-50: 25,557,032 parameters, 4.089 G multiply-adds (version 1: 3.858 G)."""
    return resnet(
        TABLE_1["50-layer"], block=bottleneck, version=version, drop_connect=drop_connect, name=name, **shared
    )


@builder(family=resnet)
def ResNet101(*, version="1.5", drop_connect=0.0, name="resnet101", **shared: Unpack[SharedArguments]):
    """ResNet-101: 44,549,160 parameters, 7.801 G multiply-adds."""
    return resnet(
        TABLE_1["101-layer"], block=bottleneck, version=version, drop_connect=drop_connect, name=name, **shared
    )


@builder(family=resnet)
def ResNet152(*, version="1.5", drop_connect=0.0, name="resnet152", **shared: Unpack[SharedArguments]):
    """ResNet-152: 60,192,808 parameters, 11.514 G multiply-adds."""
    return resnet(
        TABLE_1["152-layer"], block=bottleneck, version=version, drop_connect=drop_connect, name=name, **shared
    )


@builder(family=resnet)
def PlainNet18(*, name="plainnet18", **shared: Unpack[SharedArguments]):
    """The plain twin of ResNet-18: 11,515,688 parameters, 1.795 G multiply-adds."""
    return resnet(TABLE_1["18-layer"], block=plain_block, name=name, **shared)


@builder(family=resnet)
def PlainNet34(*, name="plainnet34", **shared: Unpack[SharedArguments]):
    """The plain twin of ResNet-34: 21,623,848 parameters, 3.644 G multiply-adds."""
    return resnet(TABLE_1["34-layer"], block=plain_block, name=name, **shared)


SHORTCUTS = {"A": shortcut_a, "B": shortcut_b, "C": shortcut_c}


@builder
def cifar(
    depth,
    *,
    block,
    width=1.0,
    batch_norm=True,
    kernel_initializer="he_normal",
    drop_connect=0.0,
    name="cifar",
    **shared: Unpack[SharedArguments],
):
    """Section 4.2: the network of `table_cifar` on images of 32 pixels.

    Args:
        depth: Number of layers with weights, 6n + 2, projections aside.
        block: As in `resnet`, with an argument `unit`.
        width: Factor on the channels, which are 16, 32 and 64 in the paper.
        shortcut: The shortcuts' option: "A", no parameters, as in the paper's CIFAR networks; "B"; or "C".
        batch_norm: Whether every convolution is batch-normalised. The paper's are; without, each has a bias.
        kernel_initializer: Initializer of the convolutions.
        drop_connect: See `resnet`; with a plain block it must be 0.
        name: Name of the model.
    """
    unit = functools.partial(conv_bn if batch_norm else conv, initializer=kernel_initializer)
    return resnet(
        table_cifar(depth, width),
        block=functools.partial(block, unit=unit),
        stem=functools.partial(stem_cifar, unit=unit),
        default_size=32,
        divides_by=4,
        drop_connect=drop_connect,
        name=name,
        **shared,
    )


@builder(family=cifar, classes=10)
def ResNetCIFAR(
    depth=20,
    *,
    width=1.0,
    shortcut="A",
    batch_norm=True,
    kernel_initializer="he_normal",
    drop_connect=0.0,
    name="resnet_cifar",
    **shared: Unpack[SharedArguments],
):
    """A ResNet for CIFAR-10 of any depth 6n + 2 and any width."""
    if shortcut not in SHORTCUTS:
        raise ValueError(f'shortcut={shortcut!r}; it must be "A", "B" or "C".')
    block = functools.partial(basic_block, shortcut=SHORTCUTS[shortcut])
    return cifar(
        depth,
        block=block,
        width=width,
        batch_norm=batch_norm,
        kernel_initializer=kernel_initializer,
        drop_connect=drop_connect,
        name=name,
        **shared,
    )


@builder(family=cifar, classes=10)
def PlainNetCIFAR(
    depth=20,
    *,
    batch_norm=True,
    kernel_initializer="he_normal",
    name="plainnet_cifar",
    **shared: Unpack[SharedArguments],
):
    """The plain twin of `ResNetCIFAR`."""
    return cifar(
        depth, block=plain_block, batch_norm=batch_norm, kernel_initializer=kernel_initializer, name=name, **shared
    )


@builder(family=cifar, classes=10)
def ResNet20(*, shortcut="A", drop_connect=0.0, name="resnet20", **shared: Unpack[SharedArguments]):
    """ResNet-20 for CIFAR-10: 269,722 parameters, 0.041 G multiply-adds at 32 pixels."""
    return ResNetCIFAR(20, shortcut=shortcut, drop_connect=drop_connect, name=name, **shared)


@builder(family=cifar, classes=10)
def ResNet32(*, shortcut="A", drop_connect=0.0, name="resnet32", **shared: Unpack[SharedArguments]):
    """ResNet-32 for CIFAR-10: 464,154 parameters, 0.069 G multiply-adds at 32 pixels."""
    return ResNetCIFAR(32, shortcut=shortcut, drop_connect=drop_connect, name=name, **shared)


@builder(family=cifar, classes=10)
def ResNet44(*, shortcut="A", drop_connect=0.0, name="resnet44", **shared: Unpack[SharedArguments]):
    """ResNet-44 for CIFAR-10: 658,586 parameters, 0.097 G multiply-adds at 32 pixels."""
    return ResNetCIFAR(44, shortcut=shortcut, drop_connect=drop_connect, name=name, **shared)


@builder(family=cifar, classes=10)
def ResNet56(*, shortcut="A", drop_connect=0.0, name="resnet56", **shared: Unpack[SharedArguments]):
    """ResNet-56 for CIFAR-10: 853,018 parameters, 0.125 G multiply-adds at 32 pixels."""
    return ResNetCIFAR(56, shortcut=shortcut, drop_connect=drop_connect, name=name, **shared)


@builder(family=cifar, classes=10)
def ResNet110(*, shortcut="A", drop_connect=0.0, name="resnet110", **shared: Unpack[SharedArguments]):
    """ResNet-110 for CIFAR-10: 1,727,962 parameters, 0.253 G multiply-adds at 32 pixels."""
    return ResNetCIFAR(110, shortcut=shortcut, drop_connect=drop_connect, name=name, **shared)


@builder(family=cifar, classes=10)
def PlainNet20(*, name="plainnet20", **shared: Unpack[SharedArguments]):
    """The plain twin of ResNet-20: 269,722 parameters, 0.041 G multiply-adds at 32 pixels."""
    return PlainNetCIFAR(20, name=name, **shared)


@builder(family=cifar, classes=10)
def PlainNet56(*, name="plainnet56", **shared: Unpack[SharedArguments]):
    """The plain twin of ResNet-56: 853,018 parameters, 0.125 G multiply-adds at 32 pixels."""
    return PlainNetCIFAR(56, name=name, **shared)
