"""DenseNet: Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", CVPR 2017
(arXiv:1608.06993).

Table 1 is `TABLE_1`; the composite function and the bottleneck layers of section 3 are `bn_relu_conv` and
`dense_layer`; Figure 1 is `dense_block`; the pooling layers of section 3 are `transition`; Figure 2, the whole network,
is `densenet`; the networks of section 4.2 for images of 32 pixels are `table_cifar`. `memory_efficient=True` is Pleiss
et al., "Memory-Efficient Implementation of DenseNets" (arXiv:1707.06990).

Deviations from the paper:
- The dropout that section 4.2 adds for training without augmentation is left out.
- DenseNet161 (k = 48) is not in Table 1; it is the fourth network that the authors published.
"""

from typing import NamedTuple, Unpack

from keras import layers

from keras_cnns._blocks import batch_norm, conv, stem
from keras_cnns._model import SharedArguments, builder, classifier_head, finish, head_dtype, image_input
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


def table_cifar(depth, growth_rate, bottleneck):
    """Section 4.2: three dense blocks, 3n + 4 layers deep, or 6n + 4 with bottlenecks; maps of 32, 16 and 8 pixels."""
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
    x = layers.ReLU(name=f"{name}_relu")(batch_norm(x, name=name))
    return conv(x, filters, kernel_size, use_bias=False, name=name)


def bn_relu_conv_recomputed(x, filters, kernel_size, *, name):
    """The same of a map or of a list of maps side by side; concatenated and normalised is in the convolution alone.

    What is normalised is computed again in the backward pass (Pleiss et al. 2017). Names and variables stay.
    """
    maps = as_list(x)
    scale_and_shift = batch_norm(maps, layer=ScaleAndShift, name=name)
    # Nothing is left to do here: the convolution applies the ReLU to what it has normalised.
    scale_and_shift = layers.Identity(dtype=head_dtype(), name=f"{name}_relu")(scale_and_shift)
    convolution = RecomputedConv2D(
        filters, kernel_size, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )
    return convolution([*maps, *scale_and_shift])


def as_list(x):
    """A list of maps, be it of one."""
    return x if isinstance(x, list) else [x]


def dense_layer(x, growth_rate, *, bottleneck, unit, name):
    """Section 3: the layer H, 3x3 with a 1x1 to 4k channels before it or not, (b, h, w, c) -> (b, h, w, k)."""
    if not bottleneck:
        return unit(x, growth_rate, 3, name=f"{name}_conv1")
    x = unit(x, 4 * growth_rate, 1, name=f"{name}_conv1")
    return unit(x, growth_rate, 3, name=f"{name}_conv2")


def dense_block(x, count, growth_rate, *, bottleneck, memory_efficient, unit, name):
    """Figure 1: every layer sees the maps of all layers before it, (b, h, w, c) -> (b, h, w, c + count * k).

    Args:
        x: Feature map.
        count: Number of layers.
        growth_rate: Channels that each layer adds, k.
        bottleneck: Whether the layers have a 1x1 before their 3x3.
        memory_efficient: Whether the maps stay side by side, in a list, until the end of the block.
        unit: A function (x, filters, kernel_size, *, name) -> x that builds the composite function.
        name: Name of the block.
    """
    for index in range(1, count + 1):
        layer = f"{name}_layer{index}"
        new = dense_layer(x, growth_rate, bottleneck=bottleneck, unit=unit, name=layer)
        together = layers.Identity if memory_efficient and index < count else layers.Concatenate
        x = together(name=f"{layer}_out")([*as_list(x), new])
    return x


def transition(x, compression, *, unit, name):
    """Section 3, pooling layers and compression: 1x1, average pool, (b, h, w, c) -> (b, h/2, w/2, compression * c)."""
    x = unit(x, int(compression * x.shape[-1]), 1, name=name)
    return layers.AveragePooling2D(2, name=f"{name}_pool")(x)


def stem_cifar(x, filters):
    """Section 3, implementation details: the first layer is a 3x3 convolution."""
    return conv(x, filters, 3, use_bias=False, name="stem")


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
    name="densenet",
    **shared: Unpack[SharedArguments],
):
    """Figure 2: the stem, dense blocks with transitions between them, global average pooling and the classifier.

    Args:
        table: A column of `TABLE_1`, or one's own `Column`.
        bottleneck: Whether every 3x3 has a 1x1 to four times the growth rate before it (the B of DenseNet-BC).
        compression: Fraction of the channels that a transition keeps (below one it is the C of DenseNet-BC).
        stem: A function (x, filters) -> x for what comes before the table.
        stem_filters: Channels of the stem; by default twice the growth rate.
        memory_efficient: Whether concatenations and batch normalizations are computed again in the backward pass
            instead of kept, which takes less memory and more time (Pleiss et al. 2017). Names, variables and results
            stay the same; `dense1_layer1_out` and the like, but the last of its block, give their maps as a list.
        default_size: Height and width in pixels of the default input.
        divides_by: How many pixels of the input are one of the last map, in each direction.
        name: Name of the model.
    """
    if not 0 < compression <= 1:
        raise ValueError(f"compression={compression}; it must be above 0 and at most 1 (1 keeps every channel).")
    if not isinstance(table.growth_rate, int) or table.growth_rate < 1:
        raise ValueError(f"growth_rate={table.growth_rate!r}; it must be a whole number of at least 1.")
    image = image_input(
        name,
        shared,
        default_size=default_size,
        minimum=divides_by,
        minimum_because=f"the network divides them by {divides_by}",
        or_use=", or use DenseNetCIFAR" if divides_by > 4 else "",
    )
    unit = bn_relu_conv_recomputed if memory_efficient else bn_relu_conv
    x = stem(image, stem_filters or 2 * table.growth_rate)
    for block, count in enumerate(table.layers, 1):
        if block > 1:
            x = transition(x, compression, unit=unit, name=f"transition{block - 1}")
        x = dense_block(
            x,
            count,
            table.growth_rate,
            bottleneck=bottleneck,
            memory_efficient=memory_efficient,
            unit=unit,
            name=f"dense{block}",
        )
    x = layers.ReLU(name="final_relu")(batch_norm(x, name="final"))
    return finish(image, classifier_head(x, shared), shared, name=name)


@builder(family=densenet)
def DenseNet121(*, memory_efficient=False, name="densenet121", **shared: Unpack[SharedArguments]):
    """DenseNet-121 (k = 32): 7,978,856 parameters, 2.834 G multiply-adds."""
    return densenet(TABLE_1["DenseNet-121"], memory_efficient=memory_efficient, name=name, **shared)


@builder(family=densenet)
def DenseNet161(*, memory_efficient=False, name="densenet161", **shared: Unpack[SharedArguments]):
    """DenseNet-161 (k = 48): 28,681,000 parameters, 7.728 G multiply-adds."""
    return densenet(TABLE_1["DenseNet-161"], memory_efficient=memory_efficient, name=name, **shared)


@builder(family=densenet)
def DenseNet169(*, memory_efficient=False, name="densenet169", **shared: Unpack[SharedArguments]):
    """DenseNet-169 (k = 32): 14,149,480 parameters, 3.360 G multiply-adds."""
    return densenet(TABLE_1["DenseNet-169"], memory_efficient=memory_efficient, name=name, **shared)


@builder(family=densenet)
def DenseNet201(*, memory_efficient=False, name="densenet201", **shared: Unpack[SharedArguments]):
    """DenseNet-201 (k = 32): 20,013,928 parameters, 4.291 G multiply-adds."""
    return densenet(TABLE_1["DenseNet-201"], memory_efficient=memory_efficient, name=name, **shared)


@builder(family=densenet)
def DenseNet264(*, memory_efficient=False, name="densenet264", **shared: Unpack[SharedArguments]):
    """DenseNet-264 (k = 32): 33,337,704 parameters, 5.752 G multiply-adds."""
    return densenet(TABLE_1["DenseNet-264"], memory_efficient=memory_efficient, name=name, **shared)


@builder(family=densenet, classes=10)
def DenseNetCIFAR(
    depth=40,
    *,
    growth_rate=12,
    bottleneck=False,
    compression=1.0,
    memory_efficient=False,
    name="densenet_cifar",
    **shared: Unpack[SharedArguments],
):
    """A DenseNet for CIFAR-10 of any depth 3n + 4, or 6n + 4 with bottlenecks; by default L = 40, k = 12.

    1,019,722 parameters, 0.265 G multiply-adds at 32 pixels. The paper's DenseNet-BC (L = 100, k = 12) is
    DenseNetCIFAR(100, bottleneck=True, compression=0.5): 769,162 parameters, 0.288 G multiply-adds.

    Args:
        depth: Number of layers with weights, L.
        growth_rate: Channels that each layer adds, k.
    """
    return densenet(
        table_cifar(depth, growth_rate, bottleneck),
        bottleneck=bottleneck,
        compression=compression,
        stem=stem_cifar,
        # Section 4.2: 16 channels, or twice the growth rate for DenseNet-BC.
        stem_filters=2 * growth_rate if bottleneck and compression < 1 else 16,
        memory_efficient=memory_efficient,
        default_size=32,
        divides_by=4,
        name=name,
        **shared,
    )
