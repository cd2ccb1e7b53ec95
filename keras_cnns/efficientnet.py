"""EfficientNet: Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019
(arXiv:1905.11946).

Table 1, the baseline B0, is `TABLE_1`; its MBConv, from MobileNetV2 (Sandler et al. 2018, Figure 4d) and MnasNet, is
`mbconv`; equation 3, compound scaling, is `compound_coefficients`. Stages have the numbers of Table 1, but stage 1 is
`stem` and the 1x1 convolution of stage 9 is `top`. B1 to B7 do not follow equation 3: they have the coefficients that
the authors published with their code, `PUBLISHED`, which are rounded and chosen by hand.

Deviations from the paper: none in the networks of Table 1. What it leaves open is as in the authors' TensorFlow code:
TensorFlow's padding, rounding of filters and layers, batch normalization's epsilon, stochastic depth growing linearly
from 0.
"""

import functools
import math
from typing import NamedTuple, Unpack

from keras import layers

from keras_cnns import _blocks
from keras_cnns._builder import SharedArguments, builder
from keras_cnns._model import classifier_head, finish, image_input
from keras_cnns.coefficients import as_coefficients
from keras_cnns.layers import DepthwiseConv2D


class Conv(NamedTuple):
    """A row of Table 1 that is one convolution."""

    name: str
    kernel: int
    strides: int
    channels: int


class MBConv(NamedTuple):
    """A row of Table 1 with the operator MBConv."""

    name: str
    expansion: int  # of the channels inside a block: MBConv1 or MBConv6
    kernel: int
    strides: int  # of the first layer, from the resolutions
    channels: int
    layers: int


class Published(NamedTuple):
    """A network that the authors published, in terms of Table 1."""

    width: float  # factor on the channels
    depth: float  # factor on the layers
    resolution: int  # height and width of the images in pixels
    dropout: float


# fmt: off
TABLE_1 = (
    #       stage    operator  kernel strides  channels  layers     input
    Conv(  "stem",             3,     2,         32),             # 224 x 224
    MBConv("stage2", 1,        3,     1,         16,     1),      # 112 x 112
    MBConv("stage3", 6,        3,     2,         24,     2),      # 112 x 112
    MBConv("stage4", 6,        5,     2,         40,     2),      #  56 x  56
    MBConv("stage5", 6,        3,     2,         80,     3),      #  28 x  28
    MBConv("stage6", 6,        5,     1,        112,     3),      #  14 x  14
    MBConv("stage7", 6,        5,     2,        192,     4),      #  14 x  14
    MBConv("stage8", 6,        3,     1,        320,     1),      #   7 x   7
    Conv(  "top",              1,     1,       1280),             #   7 x   7
)
PUBLISHED = {
    #             width depth resolution dropout
    "B0": Published(1.0, 1.0,    224,      0.2),
    "B1": Published(1.0, 1.1,    240,      0.2),
    "B2": Published(1.1, 1.2,    260,      0.3),
    "B3": Published(1.2, 1.4,    300,      0.3),
    "B4": Published(1.4, 1.8,    380,      0.4),
    "B5": Published(1.6, 2.2,    456,      0.4),
    "B6": Published(1.8, 2.6,    528,      0.5),
    "B7": Published(2.0, 3.1,    600,      0.5),
}
# fmt: on


class Coefficients(NamedTuple):
    """Width and depth relative to Table 1, and the size of the images."""

    width: float
    depth: float
    resolution: int  # height and width in pixels


def compound_coefficients(phi, alpha=1.2, beta=1.1, gamma=1.15, resolution=224, *, width=1.0, depth=1.0):
    """Scale a baseline by equation 3: width times beta^phi, depth times alpha^phi, resolution times gamma^phi.

    Each step of phi takes about alpha beta^2 gamma^2 = 1.92 times the multiply-adds. The published B1 to B7 do not
    follow the formula closely: phi = 1 gives width 1.10, depth 1.20 and 257.6 pixels, while B1 has 1.0, 1.1 and 240.

    Args:
        phi: Number of steps; 0 is the baseline.
        alpha: Growth of depth per step of phi.
        beta: Growth of width per step.
        gamma: Growth of resolution per step.
        resolution: The baseline's height and width in pixels.
        width: The baseline's width.
        depth: The baseline's depth.

    Returns:
        (width, depth, resolution), the arguments of `EfficientNet`; resolution in pixels, rounded to the nearest.

    Example:
        >>> keras_cnns.compound_coefficients(1)
        Coefficients(width=1.1, depth=1.2, resolution=258)
    """
    # Rounded, so that a product such as 2.0000000001 does not become one more layer.
    return Coefficients(round(width * beta**phi, 6), round(depth * alpha**phi, 6), round(resolution * gamma**phi))


def scale(table, *, width, depth):
    """Return a table with all channels scaled by `width` and the layers of its stages by `depth`."""
    wide = (row._replace(channels=round_channels(row.channels * width)) for row in table)
    return tuple(row if isinstance(row, Conv) else row._replace(layers=math.ceil(row.layers * depth)) for row in wide)


def round_channels(channels):
    """Return the nearest multiple of 8, or the next one if that is less than 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def swish(x, *, name):
    """Section 5.2: apply x * sigmoid(x)."""
    return layers.Activation("swish", name=f"{name}_swish")(x)


# The authors' initializer and normalization. A depthwise kernel has kernel^2 outputs per input. As a config, so that
# every layer makes an initializer of its own, with other values.
FAN_OUT = {"class_name": "VarianceScaling", "config": {"scale": 2.0, "mode": "fan_out"}}
NORM = {"momentum": 0.99, "epsilon": 1e-3}
# A convolution padded as in TensorFlow, more on the right and bottom where strided, and batch normalization.
conv_bn = functools.partial(_blocks.conv_bn, padding="same", initializer=FAN_OUT, **NORM)


def depthwise_bn(x, kernel_size, strides, *, name):
    """Apply `conv_bn` with a kernel of its own for each channel."""
    x = DepthwiseConv2D(
        kernel_size, strides, "same", use_bias=False, depthwise_initializer=FAN_OUT, name=f"{name}_conv"
    )(x)
    return _blocks.batch_norm(x, **NORM, name=name)


def squeeze_and_excitation(x, channels, *, name):
    """Scale each channel of a map (Hu et al. 2018), with `channels` and a swish inside, (b, h, w, c) -> the same."""
    weights = _blocks.channel_weights(x, channels, activation=swish, initializer=FAN_OUT, name=name)
    return layers.Multiply(name=f"{name}_out")([x, weights])


def mbconv(x, row, strides, *, activation, gate, drop_connect, name):
    """Apply an inverted bottleneck: 1x1 to more channels, depthwise, gate, 1x1 to fewer; the input added where it fits.

    (b, h, w, c) -> (b, ceil(h / strides), ceil(w / strides), row.channels).

    Args:
        x: Feature map.
        row: The block's row of the table.
        strides: Stride of the depthwise convolution.
        activation: A function (x, *, name) -> x.
        gate: A function (x, channels, *, name) -> x on the widest map, or None. Its `channels` are a quarter of the
            block's input, not of that map.
        drop_connect: Fraction of the images in training whose branch is dropped (stochastic depth, Huang et al. 2016).
        name: Name of the block.
    """
    shortcut, channels = x, x.shape[-1]
    if row.expansion > 1:
        x = activation(conv_bn(x, channels * row.expansion, 1, name=f"{name}_expand"), name=f"{name}_expand")
    x = activation(depthwise_bn(x, row.kernel, strides, name=f"{name}_depthwise"), name=f"{name}_depthwise")
    if gate:
        x = gate(x, max(1, channels // 4), name=f"{name}_gate")
    x = conv_bn(x, row.channels, 1, name=f"{name}_project")
    if strides > 1 or channels != row.channels:
        return layers.Identity(name=f"{name}_out")(x)
    x = _blocks.stochastic_depth(x, drop_connect, name=name)
    return layers.Add(name=f"{name}_out")([x, shortcut])


@builder
def efficientnet(
    table=TABLE_1,
    *,
    resolution=224,
    dropout=0.2,
    drop_connect=0.2,
    output_stride=32,
    activation=swish,
    gate=squeeze_and_excitation,
    **shared: Unpack[SharedArguments],
):
    """Table 1, or a scaled one: the rows one after another, global average pooling and the classifier.

    Args:
        table: Rows of `Conv` and `MBConv`, such as `TABLE_1` or what `scale` returns.
        resolution: Height and width in pixels of the default input.
        dropout: Fraction of the pooled features dropped in training.
        drop_connect: Stochastic depth: fraction of the images whose branch is dropped in training, growing linearly
            from 0 at the first block toward this value. 0 drops none.
        output_stride: By how much the network divides the height and width of the input: 32; or 16 or 8, without
            the first strides of the table, for small images. It does not change the weights.
        activation: A function (x, *, name) -> x after each convolution but the last of a block.
        gate: See `mbconv`.
    """
    strides = iter(_blocks.first_strides(output_stride))
    table = [row._replace(strides=next(strides, 2)) if row.strides == 2 else row for row in table]
    x = image = image_input(
        shared,
        default_size=resolution,
        minimum=output_stride,
        minimum_because=f"the network divides them by {output_stride}",
    )
    rates = iter(_blocks.drop_rates(drop_connect, sum(row.layers for row in table if isinstance(row, MBConv))))
    for row in table:
        if isinstance(row, Conv):
            x = activation(conv_bn(x, row.channels, row.kernel, row.strides, name=row.name), name=row.name)
            continue
        for index in range(1, row.layers + 1):
            strides, name = row.strides if index == 1 else 1, f"{row.name}_block{index}"
            x = mbconv(x, row, strides, activation=activation, gate=gate, drop_connect=next(rates), name=name)
    return finish(image, classifier_head(x, shared, dropout=dropout), shared)


class EfficientNetArguments(SharedArguments, total=False):
    """The arguments of the variants; `efficientnet` describes them."""

    drop_connect: float
    output_stride: int


@builder(family=efficientnet)
def EfficientNet(
    *,
    width=1.0,
    depth=1.0,
    resolution=224,
    coefficients=None,
    phi=1.0,
    dropout=0.2,
    **arguments: Unpack[EfficientNetArguments],
):
    """EfficientNet of any width, depth and resolution, such as `compound_coefficients` returns.

    Args:
        width: Factor on the channels, which are then rounded to multiples of 8.
        depth: Factor on the layers of each stage, rounded up.
        coefficients: (alpha, beta, gamma), or the path of a file with them, see `read_coefficients`: depth, width and
            resolution become alpha^phi, beta^phi and gamma^phi times as large (equation 3). None leaves them.
        phi: Number of steps that `coefficients` scale; 0 is none.
    """
    if coefficients is not None:
        triple = as_coefficients(coefficients, "EfficientNet")
        width, depth, resolution = compound_coefficients(phi, *triple, resolution, width=width, depth=depth)
    if width <= 0 or depth <= 0:
        raise ValueError(f"EfficientNet got width={width}, depth={depth}; both must be above 0. 1.0 is Table 1.")
    table = scale(TABLE_1, width=width, depth=depth)
    return efficientnet(table, resolution=resolution, dropout=dropout, **arguments)


@builder(family=efficientnet)
def EfficientNetB0(**arguments: Unpack[EfficientNetArguments]):
    """EfficientNet-B0, Table 1: 5,288,548 parameters, 0.386 G multiply-adds."""
    return EfficientNet(**PUBLISHED["B0"]._asdict(), **arguments)


@builder(family=efficientnet)
def EfficientNetB1(**arguments: Unpack[EfficientNetArguments]):
    """EfficientNet-B1: 7,794,184 parameters, 0.687 G multiply-adds at 240 pixels."""
    return EfficientNet(**PUBLISHED["B1"]._asdict(), **arguments)


@builder(family=efficientnet)
def EfficientNetB2(**arguments: Unpack[EfficientNetArguments]):
    """EfficientNet-B2: 9,109,994 parameters, 0.994 G multiply-adds at 260 pixels."""
    return EfficientNet(**PUBLISHED["B2"]._asdict(), **arguments)


@builder(family=efficientnet)
def EfficientNetB3(**arguments: Unpack[EfficientNetArguments]):
    """EfficientNet-B3: 12,233,232 parameters, 1.827 G multiply-adds at 300 pixels."""
    return EfficientNet(**PUBLISHED["B3"]._asdict(), **arguments)


@builder(family=efficientnet)
def EfficientNetB4(**arguments: Unpack[EfficientNetArguments]):
    """EfficientNet-B4: 19,341,616 parameters, 4.394 G multiply-adds at 380 pixels."""
    return EfficientNet(**PUBLISHED["B4"]._asdict(), **arguments)


@builder(family=efficientnet)
def EfficientNetB5(**arguments: Unpack[EfficientNetArguments]):
    """EfficientNet-B5: 30,389,784 parameters, 10.266 G multiply-adds at 456 pixels."""
    return EfficientNet(**PUBLISHED["B5"]._asdict(), **arguments)


@builder(family=efficientnet)
def EfficientNetB6(**arguments: Unpack[EfficientNetArguments]):
    """EfficientNet-B6: 43,040,704 parameters, 19.068 G multiply-adds at 528 pixels."""
    return EfficientNet(**PUBLISHED["B6"]._asdict(), **arguments)


@builder(family=efficientnet)
def EfficientNetB7(**arguments: Unpack[EfficientNetArguments]):
    """EfficientNet-B7: 66,347,960 parameters, 37.746 G multiply-adds at 600 pixels."""
    return EfficientNet(**PUBLISHED["B7"]._asdict(), **arguments)
