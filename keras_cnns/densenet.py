"""DenseNet: Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", CVPR 2017
(arXiv:1608.06993).

Table 1 is `TABLE_1`; the composite function and the bottleneck layers of section 3 are `bn_relu_conv` and
`dense_layer`; Figure 1 is `dense_block`; the pooling layers of section 3 are `transition`; Figure 2, the whole network,
is `densenet`; the networks of section 4.2 for images of 32 pixels are `table_cifar`. `memory_efficient=True` is Pleiss
et al., "Memory-Efficient Implementation of DenseNets" (arXiv:1707.06990): `bn_relu_conv_recomputed` and `keep_apart`.

Deviations from the paper:
- The dropout that section 4.2 adds for training without augmentation is left out.
- DenseNet161 (k = 48) is not in Table 1; it is the fourth network that the authors published.
"""

from typing import NamedTuple, Unpack

import keras
from keras import layers

from keras_cnns._blocks import batch_norm, conv, relu, stem
from keras_cnns._builder import SharedArguments, builder
from keras_cnns._model import classifier_head, finish, head_dtype, image_input
from keras_cnns.layers import RecomputedConv2D, ScaleAndShift


class Column(NamedTuple):
    """A column of Table 1: a network."""

    layers: tuple[int, ...]  # in each dense block
    growth_rate: int = 32  # k: the channels that each layer adds


# fmt: off
TABLE_1 = {
    # dense block          (1) (2) (3) (4)
    # output size          56  28  14   7
    "DenseNet-121": Column((6, 12, 24, 16)),
    "DenseNet-169": Column((6, 12, 32, 32)),
    "DenseNet-201": Column((6, 12, 48, 32)),
    "DenseNet-264": Column((6, 12, 64, 48)),
    "DenseNet-161": Column((6, 12, 36, 24), growth_rate=48),
}
# fmt: on


def table_cifar(*, depth, growth_rate, bottleneck):
    """Return the table of section 4.2: three dense blocks, 3n + 4 layers, or 6n + 4 with bottlenecks."""
    step = 6 if bottleneck else 3
    count, rest = divmod(depth - 4, step)
    if rest or count < 1:
        near = " or ".join(str(step * n + 4) for n in (max(count, 1), max(count, 1) + 1))
        raise ValueError(
            f"depth={depth}; a CIFAR network with bottleneck={bottleneck} has {step}n + 4 layers. "
            f"Pass a depth such as {near}."
        )
    return Column((count,) * 3, growth_rate)


def bn_relu_conv(x, filters, kernel_size, *, name):
    """Section 3, composite function: batch normalization, ReLU, convolution, (b, h, w, c) -> (b, h, w, filters)."""
    return conv(relu(batch_norm(x, name=name), name=name), filters, kernel_size, use_bias=False, name=name)


def concatenate(maps, *, name):
    """Concatenate a list of maps, which may hold lists of maps, along the channels."""
    return layers.Concatenate(name=name)(keras.tree.flatten(maps))


def dense_layer(x, growth_rate, *, bottleneck, unit, name):
    """Section 3: the function H, a 3x3 or a 1x1 to 4k channels and a 3x3, (b, h, w, c) -> (b, h, w, k)."""
    if not bottleneck:
        return unit(x, growth_rate, 3, name=f"{name}_conv1")
    x = unit(x, 4 * growth_rate, 1, name=f"{name}_conv1")
    return unit(x, growth_rate, 3, name=f"{name}_conv2")


def dense_block(x, count, growth_rate, *, bottleneck, unit=bn_relu_conv, join=concatenate, name):
    """Figure 1: every layer takes the maps of all layers before it, (b, h, w, c) -> (b, h, w, c + count * k).

    Args:
        x: Feature map.
        count: Number of layers.
        growth_rate: Channels that each layer adds, k.
        bottleneck: Whether the layers have a 1x1 before their 3x3.
        unit: A function (x, filters, kernel_size, *, name) -> x that builds the composite function.
        join: A function (maps, *, name) -> x that joins the maps within the block; at its end they are concatenated.
        name: Name of the block.
    """
    for index in range(1, count + 1):
        layer = f"{name}_layer{index}"
        new = dense_layer(x, growth_rate, bottleneck=bottleneck, unit=unit, name=layer)
        x = (join if index < count else concatenate)([x, new], name=f"{layer}_out")
    return x


def transition(x, compression, *, unit=bn_relu_conv, name):
    """Section 3, pooling layers and compression: 1x1, average pool, (b, h, w, c) -> (b, h/2, w/2, compression * c)."""
    x = unit(x, int(compression * x.shape[-1]), 1, name=name)
    return layers.AveragePooling2D(2, name=f"{name}_pool")(x)


def stem_cifar(x, filters):
    """Section 3, implementation details: the first layer is a 3x3 convolution."""
    return conv(x, filters, 3, use_bias=False, name="stem")


# Pleiss et al.: within a block maps stay apart, and what is concatenated and normalised exists in the convolution only,
# which computes it again in the backward pass. Names and variables are those of the plain network.


def bn_relu_conv_recomputed(x, filters, kernel_size, *, name):
    """The composite function of a map or a list of maps, recomputed in the backward pass."""
    maps = keras.tree.flatten(x)
    scale_and_shift = batch_norm(maps, layer=ScaleAndShift, name=name)
    # The convolution applies the ReLU to what it has normalised; this layer stands for it among the names.
    scale_and_shift = layers.Identity(dtype=head_dtype(), name=f"{name}_relu")(scale_and_shift)
    convolution = RecomputedConv2D(
        filters, kernel_size, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )
    return convolution([*maps, *scale_and_shift])


def keep_apart(maps, *, name):
    """Return a list of maps as it is, in place of `concatenate`."""
    return layers.Identity(name=name)(keras.tree.flatten(maps))


@builder
def densenet(
    table,
    *,
    bottleneck=True,
    compression=0.5,
    stem=stem,
    stem_filters=None,
    memory_efficient=False,
    default_size=224,
    divides_by=32,
    **shared: Unpack[SharedArguments],
):
    """Figure 2: the stem, dense blocks with transitions between them, global average pooling and the classifier.

    Args:
        table: A column of `TABLE_1` or a `Column` of your own.
        bottleneck: Whether every 3x3 has a 1x1 to four times the growth rate before it (the B of DenseNet-BC).
        compression: Fraction of the channels that a transition keeps (below one it is the C of DenseNet-BC).
        stem: A function (x, filters) -> x for what comes before the table.
        stem_filters: Channels of the stem; by default twice the growth rate.
        memory_efficient: Whether concatenations and batch normalizations are recomputed in the backward pass instead of
            kept, which takes less memory and more time (Pleiss et al. 2017). Names, variables and results stay the
            same; layers such as `dense1_layer1_out`, but the last of each block, return their maps as a list.
        default_size: Height and width in pixels of the default input.
        divides_by: By how much the network divides the height and width of the input.
    """
    if not 0 < compression <= 1:
        raise ValueError(f"compression={compression}; it must be above 0 and at most 1 (1 keeps every channel).")
    growth_rate = table.growth_rate
    if not isinstance(growth_rate, int) or growth_rate < 1:
        raise ValueError(f"growth_rate={growth_rate!r}; it must be a whole number of at least 1.")
    image = image_input(
        shared,
        default_size=default_size,
        minimum=divides_by,
        minimum_because=f"the network divides them by {divides_by}",
        or_use=", or use DenseNetCIFAR" if divides_by > 4 else "",
    )
    unit, join = (bn_relu_conv_recomputed, keep_apart) if memory_efficient else (bn_relu_conv, concatenate)
    x = stem(image, stem_filters or 2 * growth_rate)
    for block, count in enumerate(table.layers, 1):
        if block > 1:
            x = transition(x, compression, unit=unit, name=f"transition{block - 1}")
        x = dense_block(x, count, growth_rate, bottleneck=bottleneck, unit=unit, join=join, name=f"dense{block}")
    x = relu(batch_norm(x, name="final"), name="final")
    return finish(image, classifier_head(x, shared), shared)


class DenseNetArguments(SharedArguments, total=False):
    """The arguments of the variants; `densenet` describes them."""

    memory_efficient: bool


@builder(family=densenet)
def DenseNet121(**arguments: Unpack[DenseNetArguments]):
    """DenseNet-121 (k = 32): 7,978,856 parameters, 2.834 G multiply-adds."""
    return densenet(TABLE_1["DenseNet-121"], **arguments)


@builder(family=densenet)
def DenseNet161(**arguments: Unpack[DenseNetArguments]):
    """DenseNet-161 (k = 48): 28,681,000 parameters, 7.728 G multiply-adds."""
    return densenet(TABLE_1["DenseNet-161"], **arguments)


@builder(family=densenet)
def DenseNet169(**arguments: Unpack[DenseNetArguments]):
    """DenseNet-169 (k = 32): 14,149,480 parameters, 3.360 G multiply-adds."""
    return densenet(TABLE_1["DenseNet-169"], **arguments)


@builder(family=densenet)
def DenseNet201(**arguments: Unpack[DenseNetArguments]):
    """DenseNet-201 (k = 32): 20,013,928 parameters, 4.291 G multiply-adds."""
    return densenet(TABLE_1["DenseNet-201"], **arguments)


@builder(family=densenet)
def DenseNet264(**arguments: Unpack[DenseNetArguments]):
    """DenseNet-264 (k = 32): 33,337,704 parameters, 5.752 G multiply-adds."""
    return densenet(TABLE_1["DenseNet-264"], **arguments)


@builder(family=densenet, name="densenet_cifar", classes=10)
def DenseNetCIFAR(
    depth=40, *, growth_rate=12, bottleneck=False, compression=1.0, **arguments: Unpack[DenseNetArguments]
):
    """A DenseNet for CIFAR-10 of any depth 3n + 4, or 6n + 4 with bottlenecks; by default L = 40, k = 12.

    1,019,722 parameters, 0.265 G multiply-adds at 32 pixels. The paper's DenseNet-BC (L = 100, k = 12) is
    DenseNetCIFAR(100, bottleneck=True, compression=0.5): 769,162 parameters, 0.288 G multiply-adds.

    Args:
        depth: Number of layers with weights, L.
        growth_rate: Channels that each layer adds, k.
    """
    return densenet(
        table_cifar(depth=depth, growth_rate=growth_rate, bottleneck=bottleneck),
        bottleneck=bottleneck,
        compression=compression,
        stem=stem_cifar,
        # Section 4.2: 16 channels, or twice the growth rate for DenseNet-BC.
        stem_filters=2 * growth_rate if bottleneck and compression < 1 else 16,
        default_size=32,
        divides_by=4,
        **arguments,
    )
