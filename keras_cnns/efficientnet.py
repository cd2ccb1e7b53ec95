"""EfficientNet: Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019
(arXiv:1905.11946).

Table 1, the baseline B0, is `TABLE_1`; its MBConv, from MobileNetV2 (Sandler et al. 2018, Figure 4d) and MnasNet, is
`mbconv`; equation 3, compound scaling, is `compound_coefficients`. Stage 1 of Table 1 is `stem` here, its stages 2 to 8
are `stage2` to `stage8`, and the 1x1 convolution of its stage 9 is `top`.

There are two ways to scale. The variants B1 to B7 have the coefficients that the authors published with their code,
which are rounded and chosen by hand; `compound_coefficients` is the formula. They differ: phi = 1 gives width 1.10 and
depth 1.20 at 258 pixels, B1 has 1.0 and 1.1 at 240.

Deviations from the paper: none in the networks of Table 1. What it leaves open is as in the authors' TensorFlow code:
TensorFlow's padding, rounding of filters and layers, batch normalization's epsilon, stochastic depth growing linearly
from 0. EfficientNet-Lite is not in the paper: it is the authors' later network for phones, with ReLU6 for swish and no
squeeze and excitation; stem, top and the first and last stages' depths are not scaled.
"""

import json
import math
import os
from pathlib import Path
from typing import NamedTuple, Unpack

from keras import initializers, layers

from keras_cnns._model import SharedArguments, builder, classifier_head, finish, image_input
from keras_cnns.layers import BatchNormalization


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
# fmt: on


class Coefficients(NamedTuple):
    """By how much a network is wider and deeper than the baseline, and the size of its images."""

    width: float
    depth: float
    resolution: int  # height and width in pixels


def compound_coefficients(phi, alpha=1.2, beta=1.1, gamma=1.15, resolution=224):
    """Equation 3, compound scaling: width beta^phi, depth alpha^phi, and the baseline's resolution times gamma^phi.

    Each step of phi takes about alpha beta^2 gamma^2 = 1.92 times the multiply-adds. The published B1 to B7 do not
    follow the formula closely: phi = 1 gives width 1.10, depth 1.20 and 257.6 pixels, while B1 has 1.0, 1.1 and 240.

    Args:
        phi: How much more to spend; 0 is the baseline.
        alpha: Growth of depth for each step of phi.
        beta: Growth of width.
        gamma: Growth of resolution.
        resolution: The baseline's, in pixels.

    Returns:
        (width, depth, resolution), the arguments of `EfficientNet`; resolution in pixels, rounded to the nearest.

    Example:
        >>> keras_cnns.compound_coefficients(1)
        Coefficients(width=1.1, depth=1.2, resolution=258)
    """
    return Coefficients(beta**phi, alpha**phi, round(resolution * gamma**phi))


def read_coefficients(path):
    """Reads alpha, beta and gamma, the bases of `compound_coefficients`, from the file of a search for them.

    Args:
        path: A JSON file with the numbers "alpha", "beta" and "gamma", as `python -m tuning compound` writes it.

    Returns:
        (alpha, beta, gamma).

    Raises:
        ValueError: The file is missing, or holds no coefficients.

    Example:
        >>> with open("coefficients.json", "w") as file:
        ...     _ = file.write('{"alpha": 1.2, "beta": 1.1, "gamma": 1.15}')
        >>> keras_cnns.read_coefficients("coefficients.json")
        (1.2, 1.1, 1.15)
    """
    try:
        values = json.loads(Path(path).read_text())
        triple = tuple(float(values[name]) for name in ("alpha", "beta", "gamma"))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} has no coefficients ({type(error).__name__}: {error}). It must be a JSON file with the numbers "
            "alpha, beta and gamma; `python -m tuning compound` writes one."
        ) from error
    return check_coefficients(triple, path)


def check_coefficients(triple, source):
    """Returns (alpha, beta, gamma), or raises a ValueError that names where they are from."""
    if len(triple) != 3 or not all(math.isfinite(value) and value >= 1 for value in triple):
        raise ValueError(
            f"{source} has the coefficients {tuple(triple)}; they must be three numbers of at least 1, alpha (depth), "
            "beta (width) and gamma (resolution), as (1.2, 1.1, 1.15)."
        )
    return triple


def scale(table, width, depth):
    """Scales all channels of a table by `width` and the layers of its stages by `depth`."""
    return tuple(
        row._replace(channels=round_channels(row.channels * width))
        if isinstance(row, Conv)
        else row._replace(channels=round_channels(row.channels * width), layers=math.ceil(row.layers * depth))
        for row in table
    )


def scale_lite(table, width, depth):
    """As `scale`, but stem and top, and the depths of the first and the last stage, stay what they are."""
    stem, first, *_, last, top = table
    _, wide_first, *stages, wide_last, _ = scale(table, width, depth)
    return (stem, wide_first._replace(layers=first.layers), *stages, wide_last._replace(layers=last.layers), top)


def round_channels(channels):
    """The nearest multiple of 8, and the next one if that were less than 90 % of what is asked for."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def swish(x, *, name):
    """x * sigmoid(x), section 5.2."""
    return layers.Activation("swish", name=f"{name}_swish")(x)


def relu6(x, *, name):
    """min(max(x, 0), 6), which survives 8-bit arithmetic."""
    return layers.ReLU(6.0, name=f"{name}_relu")(x)


def fan_out():
    """The authors' initializer; a depthwise kernel has kernel^2 outputs to each input. A new one for each layer."""
    return initializers.VarianceScaling(2.0, "fan_out")


def conv_bn(x, filters, kernel_size, strides=1, *, name):
    """Convolution padded as TensorFlow does, more on the right and bottom where strided, and batch normalization."""
    x = layers.Conv2D(
        filters, kernel_size, strides, "same", use_bias=False, kernel_initializer=fan_out(), name=f"{name}_conv"
    )(x)
    return BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_bn")(x)


def depthwise_bn(x, kernel_size, strides, *, name):
    """The same with a kernel for each channel by itself."""
    x = layers.DepthwiseConv2D(
        kernel_size, strides, "same", use_bias=False, depthwise_initializer=fan_out(), name=f"{name}_conv"
    )(x)
    return BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_bn")(x)


def squeeze_and_excitation(x, channels, *, name):
    """Weighs the channels of a map (Hu et al. 2018), by way of `channels` with a swish, (b, h, w, c) -> the same."""
    weights = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
    weights = layers.Conv2D(channels, 1, kernel_initializer=fan_out(), name=f"{name}_reduce_conv")(weights)
    weights = swish(weights, name=f"{name}_reduce")
    weights = layers.Conv2D(x.shape[-1], 1, kernel_initializer=fan_out(), name=f"{name}_expand_conv")(weights)
    weights = layers.Activation("sigmoid", name=f"{name}_expand_sigmoid")(weights)
    return layers.Multiply(name=f"{name}_out")([x, weights])


def mbconv(x, row, strides, *, activation, gate, drop_connect, name):
    """The inverted bottleneck: 1x1 to more channels, depthwise, gate, 1x1 to fewer, and the input added where it fits.

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
    if drop_connect:
        x = layers.Dropout(drop_connect, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(x)
    return layers.Add(name=f"{name}_out")([x, shortcut])


@builder
def efficientnet(
    table=TABLE_1,
    *,
    resolution=224,
    dropout=0.2,
    drop_connect=0.2,
    activation=swish,
    gate=squeeze_and_excitation,
    name="efficientnet",
    **shared: Unpack[SharedArguments],
):
    """Table 1, or a scaled one: the rows one after another, global average pooling and the classifier.

    Args:
        table: Rows of `Conv` and `MBConv`, as `TABLE_1` or what `scale` makes of it.
        width: Factor on the channels, which are then rounded to multiples of 8.
        depth: Factor on the layers of each stage, rounded up.
        resolution: Height and width in pixels of the default input.
        dropout: Fraction of the pooled features dropped in training.
        drop_connect: Fraction of the images in training for which the last block would be skipped; it grows linearly
            from 0 at the first block. 0 is none.
        activation: A function (x, *, name) -> x after each convolution but the last of a block.
        gate: See `mbconv`.
        name: Name of the model.
    """
    image = image_input(
        name, shared, default_size=resolution, minimum=32, minimum_because="the network divides them by 32"
    )
    blocks = sum(row.layers for row in table if isinstance(row, MBConv))
    x, done = image, 0
    for row in table:
        if isinstance(row, Conv):
            x = activation(conv_bn(x, row.channels, row.kernel, row.strides, name=row.name), name=row.name)
            continue
        for index in range(1, row.layers + 1):
            strides = row.strides if index == 1 else 1
            x = mbconv(
                x,
                row,
                strides,
                activation=activation,
                gate=gate,
                drop_connect=drop_connect * done / blocks,
                name=f"{row.name}_block{index}",
            )
            done += 1
    return finish(image, classifier_head(x, shared, dropout=dropout), shared, name=name)


@builder(family=efficientnet)
def EfficientNet(
    *,
    width=1.0,
    depth=1.0,
    resolution=224,
    coefficients=None,
    phi=1.0,
    dropout=0.2,
    drop_connect=0.2,
    name="efficientnet",
    **shared: Unpack[SharedArguments],
):
    """EfficientNet of any width, depth and resolution, as `compound_coefficients` gives them.

    Args:
        coefficients: (alpha, beta, gamma), or the path of a file with them, see `read_coefficients`: depth, width and
            resolution become alpha^phi, beta^phi and gamma^phi times as large (equation 3). None leaves them.
        phi: How many steps `coefficients` scale; 0 is none.
    """
    if coefficients is not None:
        is_path = isinstance(coefficients, str | os.PathLike)
        triple = read_coefficients(coefficients) if is_path else check_coefficients(coefficients, name)
        wider, deeper, resolution = compound_coefficients(phi, *triple, resolution=resolution)
        # Rounded, so that a product such as 0.6000000001 does not become one layer more.
        width, depth = round(width * wider, 6), round(depth * deeper, 6)
    if width <= 0 or depth <= 0:
        raise ValueError(f"{name} got width={width}, depth={depth}; both must be above 0. 1.0 is Table 1.")
    return efficientnet(
        scale(TABLE_1, width, depth),
        resolution=resolution,
        dropout=dropout,
        drop_connect=drop_connect,
        name=name,
        **shared,
    )


@builder(family=efficientnet)
def EfficientNetB0(*, drop_connect=0.2, name="efficientnetb0", **shared: Unpack[SharedArguments]):
    """EfficientNet-B0, Table 1: 5,288,548 parameters, 0.386 G multiply-adds."""
    return EfficientNet(drop_connect=drop_connect, name=name, **shared)


@builder(family=efficientnet)
def EfficientNetB1(*, drop_connect=0.2, name="efficientnetb1", **shared: Unpack[SharedArguments]):
    """EfficientNet-B1: 7,794,184 parameters, 0.687 G multiply-adds at 240 pixels."""
    return EfficientNet(width=1.0, depth=1.1, resolution=240, drop_connect=drop_connect, name=name, **shared)


@builder(family=efficientnet)
def EfficientNetB2(*, drop_connect=0.2, name="efficientnetb2", **shared: Unpack[SharedArguments]):
    """EfficientNet-B2: 9,109,994 parameters, 0.994 G multiply-adds at 260 pixels."""
    return EfficientNet(
        width=1.1, depth=1.2, resolution=260, dropout=0.3, drop_connect=drop_connect, name=name, **shared
    )


@builder(family=efficientnet)
def EfficientNetB3(*, drop_connect=0.2, name="efficientnetb3", **shared: Unpack[SharedArguments]):
    """EfficientNet-B3: 12,233,232 parameters, 1.827 G multiply-adds at 300 pixels."""
    return EfficientNet(
        width=1.2, depth=1.4, resolution=300, dropout=0.3, drop_connect=drop_connect, name=name, **shared
    )


@builder(family=efficientnet)
def EfficientNetB4(*, drop_connect=0.2, name="efficientnetb4", **shared: Unpack[SharedArguments]):
    """EfficientNet-B4: 19,341,616 parameters, 4.394 G multiply-adds at 380 pixels."""
    return EfficientNet(
        width=1.4, depth=1.8, resolution=380, dropout=0.4, drop_connect=drop_connect, name=name, **shared
    )


@builder(family=efficientnet)
def EfficientNetB5(*, drop_connect=0.2, name="efficientnetb5", **shared: Unpack[SharedArguments]):
    """EfficientNet-B5: 30,389,784 parameters, 10.266 G multiply-adds at 456 pixels."""
    return EfficientNet(
        width=1.6, depth=2.2, resolution=456, dropout=0.4, drop_connect=drop_connect, name=name, **shared
    )


@builder(family=efficientnet)
def EfficientNetB6(*, drop_connect=0.2, name="efficientnetb6", **shared: Unpack[SharedArguments]):
    """EfficientNet-B6: 43,040,704 parameters, 19.068 G multiply-adds at 528 pixels."""
    return EfficientNet(
        width=1.8, depth=2.6, resolution=528, dropout=0.5, drop_connect=drop_connect, name=name, **shared
    )


@builder(family=efficientnet)
def EfficientNetB7(*, drop_connect=0.2, name="efficientnetb7", **shared: Unpack[SharedArguments]):
    """EfficientNet-B7: 66,347,960 parameters, 37.746 G multiply-adds at 600 pixels."""
    return EfficientNet(
        width=2.0, depth=3.1, resolution=600, dropout=0.5, drop_connect=drop_connect, name=name, **shared
    )


def lite(width, depth, **arguments):
    """EfficientNet-Lite: the table scaled in its own way, ReLU6, no gate."""
    return efficientnet(scale_lite(TABLE_1, width, depth), activation=relu6, gate=None, **arguments)


@builder(family=efficientnet)
def EfficientNetLite0(*, drop_connect=0.2, name="efficientnetlite0", **shared: Unpack[SharedArguments]):
    """EfficientNet-Lite0: 4,652,008 parameters, 0.385 G multiply-adds at 224 pixels."""
    return lite(1.0, 1.0, resolution=224, dropout=0.2, drop_connect=drop_connect, name=name, **shared)


@builder(family=efficientnet)
def EfficientNetLite1(*, drop_connect=0.2, name="efficientnetlite1", **shared: Unpack[SharedArguments]):
    """EfficientNet-Lite1: 5,416,680 parameters, 0.600 G multiply-adds at 240 pixels."""
    return lite(1.0, 1.1, resolution=240, dropout=0.2, drop_connect=drop_connect, name=name, **shared)


@builder(family=efficientnet)
def EfficientNetLite2(*, drop_connect=0.2, name="efficientnetlite2", **shared: Unpack[SharedArguments]):
    """EfficientNet-Lite2: 6,092,072 parameters, 0.860 G multiply-adds at 260 pixels."""
    return lite(1.1, 1.2, resolution=260, dropout=0.3, drop_connect=drop_connect, name=name, **shared)


@builder(family=efficientnet)
def EfficientNetLite3(*, drop_connect=0.2, name="efficientnetlite3", **shared: Unpack[SharedArguments]):
    """EfficientNet-Lite3: 8,197,096 parameters, 1.383 G multiply-adds at 280 pixels."""
    return lite(1.2, 1.4, resolution=280, dropout=0.3, drop_connect=drop_connect, name=name, **shared)


@builder(family=efficientnet)
def EfficientNetLite4(*, drop_connect=0.2, name="efficientnetlite4", **shared: Unpack[SharedArguments]):
    """EfficientNet-Lite4: 13,006,568 parameters, 2.553 G multiply-adds at 300 pixels."""
    return lite(1.4, 1.8, resolution=300, dropout=0.3, drop_connect=drop_connect, name=name, **shared)
