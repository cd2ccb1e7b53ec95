"""AlexNet: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012.

Figure 2, whose layers section 3.5 describes, is `FIGURE_2`; section 3.3 is `LocalResponseNormalization`; section 3.4,
pools that overlap, is `max_pool`; section 4.2, dropout, is in `alexnet`, the whole network. The paper splits the
channels between two GPUs, which is two groups in conv2, conv4 and conv5. `AlexNetOneTower` is the later variant without
groups and normalization (Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014,
arXiv:1404.5997) with the layers of torchvision, for which there are published weights.

Deviations from the paper, of AlexNet:
- Images are 227 x 227: from the 224 that the paper names, an unpadded 11x11 with stride 4 does not make Figure 2's 55.
- Kernels start as He et al. 2015 have them and biases at zero; the paper's start at N(0, 0.01) and many biases at 1.

of AlexNetOneTower:
- The filters are torchvision's, 256 in conv4, where TF-Slim, for one, has 384.
- Dropout follows the dense layers as in the 2012 paper. torchvision's precedes them, which in use is the same network.
"""

from typing import NamedTuple, Unpack

from keras import layers

from keras_cnns._model import SharedArguments, builder, classifier_head, finish, image_input
from keras_cnns.layers import GroupedConv2D, LocalResponseNormalization


class Convolution(NamedTuple):
    """A convolutional layer of Figure 2 and what follows it."""

    filters: int
    kernel: int
    strides: int
    padding: int  # pixels on each side
    groups: int  # each sees its share of the channels below; the GPUs of the paper
    norm: bool  # whether local response normalization follows
    pool: bool  # whether a max pool follows


# fmt: off
FIGURE_2 = (
    #        filters kernel strides padding groups norm   pool        output size, after the pool
    Convolution( 96,  11,      4,      0,     1,   True,  True),    # 55 x 55, 27 x 27
    Convolution(256,   5,      1,      2,     2,   True,  True),    # 27 x 27, 13 x 13
    Convolution(384,   3,      1,      1,     1,   False, False),   # 13 x 13
    Convolution(384,   3,      1,      1,     2,   False, False),   # 13 x 13
    Convolution(256,   3,      1,      1,     2,   False, True),    # 13 x 13,  6 x  6
)
ONE_TOWER = (
    Convolution( 64,  11,      4,      2,     1,   False, True),    # 55 x 55, 27 x 27
    Convolution(192,   5,      1,      2,     1,   False, True),    # 27 x 27, 13 x 13
    Convolution(384,   3,      1,      1,     1,   False, False),   # 13 x 13
    Convolution(256,   3,      1,      1,     1,   False, False),   # 13 x 13
    Convolution(256,   3,      1,      1,     1,   False, True),    # 13 x 13,  6 x  6
)
# fmt: on
POOL, POOL_STRIDES = 3, 2  # section 3.4: z = 3, s = 2


def smallest(table):
    """Return the smallest height and width in pixels: those from which the table's rows leave one pixel."""
    size = 1
    for row in reversed(table):
        if row.pool:
            size = (size - 1) * POOL_STRIDES + POOL
        size = (size - 1) * row.strides + row.kernel - 2 * row.padding
    return size


def convolution(x, row, *, name):
    """A convolution and its ReLU, (b, h, w, c) -> (b, (h + 2 * padding - kernel) // strides + 1, ..., filters)."""
    # Keras's "same" is this padding where the map keeps its size; otherwise it pads differently.
    same = row.strides == 1 and 2 * row.padding == row.kernel - 1
    if row.padding and not same:
        x = layers.ZeroPadding2D(row.padding, name=f"{name}_pad")(x)
    layer, groups = (GroupedConv2D, {"groups": row.groups}) if row.groups > 1 else (layers.Conv2D, {})
    x = layer(
        row.filters,
        row.kernel,
        row.strides,
        "same" if same else "valid",
        kernel_initializer="he_normal",
        name=f"{name}_conv",
        **groups,
    )(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def max_pool(x, *, name):
    """Section 3.4: a pool whose windows overlap, 3x3 with stride 2; nothing hangs over the border."""
    return layers.MaxPooling2D(POOL, POOL_STRIDES, name=f"{name}_max")(x)


@builder
def alexnet(
    table=FIGURE_2,
    *,
    fully_connected=(4096, 4096),
    dropout=0.5,
    default_size=227,
    name="alexnet",
    **shared: Unpack[SharedArguments],
):
    """Figure 2: convolutions, the first two normalised, three pools, two dense layers and the classifier.

    Args:
        table: The convolutions, `FIGURE_2`, `ONE_TOWER` or one's own sequence of `Convolution`.
        fully_connected: Widths of the dense layers before the classifier.
        dropout: Fraction of each of those layers dropped in training.
        default_size: Height and width in pixels of the default input.
        name: Name of the model.
    """
    image = image_input(
        name,
        shared,
        default_size=default_size,
        minimum=smallest(table),
        minimum_because="the strides and pools leave nothing of smaller ones",
        fixed_size_because="the dense layers take the flattened map",
    )
    x = image
    for index, row in enumerate(table, 1):
        x = convolution(x, row, name=f"conv{index}")
        if row.norm:
            x = LocalResponseNormalization(name=f"norm{index}_lrn")(x)
        if row.pool:
            x = max_pool(x, name=f"pool{index}")
    return finish(
        image, classifier_head(x, shared, dropout=dropout, fully_connected=fully_connected), shared, name=name
    )


@builder(family=alexnet)
def AlexNet(*, name="alexnet", **shared: Unpack[SharedArguments]):
    """AlexNet of 2012, 8 layers: 60,965,224 parameters, 0.724 G multiply-adds at 227 pixels."""
    return alexnet(FIGURE_2, name=name, **shared)


@builder(family=alexnet)
def AlexNetOneTower(*, name="alexnetonetower", **shared: Unpack[SharedArguments]):
    """AlexNet in one tower, 8 layers, as published weights have it: 61,100,840 parameters, 0.714 G multiply-adds."""
    return alexnet(ONE_TOWER, default_size=224, name=name, **shared)
