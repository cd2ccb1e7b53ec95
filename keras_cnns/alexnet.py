"""AlexNet: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012.

Figure 2, whose layers section 3.5 describes, is `FIGURE_2`; section 3.3, local response normalization, is
`RESPONSE_NORMALIZATION`; section 3.4, overlapping pooling, is `max_pool`; section 4.2, dropout, is in `alexnet`, the
whole network. The paper splits the channels between two GPUs, which is two groups in conv2, conv4 and conv5.
`AlexNetOneTower` is the later variant without groups and normalization (Krizhevsky, "One weird trick for parallelizing
convolutional neural networks", 2014, arXiv:1404.5997) with the layers of torchvision, for which there are published
weights.

Deviations from the paper, of AlexNet:
- Images are 227 x 227: from the paper's 224, an unpadded 11x11 with stride 4 does not give the 55 of Figure 2.
- Kernels are initialised as in He et al. 2015 and biases with zeros; the paper draws kernels from N(0, 0.01) and sets
  many biases to 1.

of AlexNetOneTower:
- The filters are torchvision's, 256 in conv4; TF-Slim, for example, has 384.
- Dropout follows the dense layers, as in the 2012 paper. In torchvision it precedes them, which is the same network in
  inference.
"""

from typing import NamedTuple, Unpack

from keras import layers

from keras_cnns._blocks import conv_relu
from keras_cnns._builder import SharedArguments, builder
from keras_cnns._model import classifier_head, finish, image_input
from keras_cnns.layers import LocalResponseNormalization


class Convolution(NamedTuple):
    """A convolutional layer of Figure 2 and what follows it."""

    filters: int
    kernel: int
    strides: int
    padding: int  # zeros on each side, in pixels
    groups: int  # each sees its share of the input channels; the paper's GPUs
    norm: bool  # whether local response normalization follows
    pool: bool  # whether a max pool follows


# fmt: off
FIGURE_2 = (
    #        filters kernel strides padding groups norm   pool             output size, after the pool
    Convolution( 96,  11,      4,      0,     1,   True,  True),   # conv1  55 x 55, 27 x 27
    Convolution(256,   5,      1,      2,     2,   True,  True),   # conv2  27 x 27, 13 x 13
    Convolution(384,   3,      1,      1,     1,   False, False),  # conv3  13 x 13
    Convolution(384,   3,      1,      1,     2,   False, False),  # conv4  13 x 13
    Convolution(256,   3,      1,      1,     2,   False, True),   # conv5  13 x 13,  6 x  6
)
ONE_TOWER = (
    Convolution( 64,  11,      4,      2,     1,   False, True),   # conv1  55 x 55, 27 x 27
    Convolution(192,   5,      1,      2,     1,   False, True),   # conv2  27 x 27, 13 x 13
    Convolution(384,   3,      1,      1,     1,   False, False),  # conv3  13 x 13
    Convolution(256,   3,      1,      1,     1,   False, False),  # conv4  13 x 13
    Convolution(256,   3,      1,      1,     1,   False, True),   # conv5  13 x 13,  6 x  6
)
# fmt: on
RESPONSE_NORMALIZATION = {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 2.0}  # section 3.3: n, alpha, beta, k
POOL, POOL_STRIDES = 3, 2  # section 3.4: z = 3, s = 2


def smallest(table):
    """Return the smallest height and width, in pixels, that leave one pixel after the last row of the table."""
    size = 1
    for row in reversed(table):
        if row.pool:
            size = (size - 1) * POOL_STRIDES + POOL
        size = (size - 1) * row.strides + row.kernel - 2 * row.padding
    return size


def max_pool(x, *, name):
    """Section 3.4: apply a 3x3 max pool with stride 2, whose windows overlap and stay within the map."""
    return layers.MaxPooling2D(POOL, POOL_STRIDES, name=f"{name}_max")(x)


@builder
def alexnet(
    table=FIGURE_2, *, fully_connected=(4096, 4096), dropout=0.5, default_size=227, **shared: Unpack[SharedArguments]
):
    """Figure 2: five convolutions, the first two normalised, three pools, two dense layers and the classifier.

    Args:
        table: The convolutions: `FIGURE_2`, `ONE_TOWER` or a sequence of your own of `Convolution`.
        fully_connected: Widths of the dense layers before the classifier.
        dropout: Fraction of the output of each of those layers dropped in training.
        default_size: Height and width in pixels of the default input.
    """
    x = image = image_input(
        shared,
        default_size=default_size,
        minimum=smallest(table),
        minimum_because="the strides and pools leave nothing of smaller ones",
        fixed_size_because="the dense layers take the flattened map",
    )
    for index, row in enumerate(table, 1):
        x = conv_relu(
            x, row.filters, row.kernel, row.strides, padding=row.padding, groups=row.groups, name=f"conv{index}"
        )
        if row.norm:
            x = LocalResponseNormalization(**RESPONSE_NORMALIZATION, name=f"norm{index}_lrn")(x)
        if row.pool:
            x = max_pool(x, name=f"pool{index}")
    return finish(image, classifier_head(x, shared, dropout=dropout, fully_connected=fully_connected), shared)


@builder(family=alexnet)
def AlexNet(**arguments: Unpack[SharedArguments]):
    """AlexNet of 2012, 8 layers: 60,965,224 parameters, 0.724 G multiply-adds at 227 pixels."""
    return alexnet(FIGURE_2, **arguments)


@builder(family=alexnet)
def AlexNetOneTower(**arguments: Unpack[SharedArguments]):
    """AlexNet in one tower, 8 layers, as in published weights: 61,100,840 parameters, 0.714 G multiply-adds."""
    return alexnet(ONE_TOWER, default_size=224, **arguments)
