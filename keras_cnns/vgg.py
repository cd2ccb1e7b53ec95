"""VGG: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015
(arXiv:1409.1556).

Table 1's columns A, B, D and E are `TABLE_1`; section 2.1, the whole network, is `vgg`. The convolutions between two
pools are a block: conv1 to conv5, as in the authors' own files, with conv1_1 for its first convolution and its pool at
the end.

Deviations from the paper:
- Weights are initialised as in He et al. 2015. The paper initialises its deep networks with the weights of column A,
  though section 3.1 adds that random initialisation by Glorot and Bengio's rule does as well.
- batch_norm=True, which is later than the paper, normalises after every convolution. As in torchvision, whose weights
  are published, the convolutions keep their biases.
"""

import functools
import math
from typing import NamedTuple, Unpack

from keras import layers

from keras_cnns._blocks import conv_bn_relu, conv_relu, first_strides
from keras_cnns._builder import SharedArguments, builder
from keras_cnns._model import classifier_head, finish, image_input


class Block(NamedTuple):
    """A cell of Table 1 between two lines: 3x3 convolutions; a max pool follows."""

    filters: int
    convolutions: int


# fmt: off
TABLE_1 = {
    # size of the maps  224 x 224      112 x 112      56 x 56        28 x 28        14 x 14
    "A":               (Block(64, 1),  Block(128, 1), Block(256, 2), Block(512, 2), Block(512, 2)),
    "B":               (Block(64, 2),  Block(128, 2), Block(256, 2), Block(512, 2), Block(512, 2)),
    "D":               (Block(64, 2),  Block(128, 2), Block(256, 3), Block(512, 3), Block(512, 3)),
    "E":               (Block(64, 2),  Block(128, 2), Block(256, 4), Block(512, 4), Block(512, 4)),
}
# fmt: on


def block(x, row, *, unit, strides=2, name):
    """Apply 3x3 convolutions, each a `unit` with its ReLU, and a 2x2 pool, (b, h, w, c) -> (b, h//2, w//2, filters).

    With a stride of 1 the pool is 1x1, the identity.
    """
    for index in range(1, row.convolutions + 1):
        x = unit(x, row.filters, 3, name=f"{name}_{index}")
    return layers.MaxPooling2D(strides, strides, name=f"{name}_out")(x)


@builder
def vgg(
    table,
    *,
    batch_norm=False,
    fully_connected=(4096, 4096),
    dropout=0.5,
    output_stride=32,
    **shared: Unpack[SharedArguments],
):
    """Section 2.1: blocks of 3x3 convolutions, two dense layers and the classifier.

    Args:
        table: The blocks: a column of `TABLE_1` or a sequence of your own of `Block`.
        batch_norm: Whether batch normalization follows every convolution.
        fully_connected: Widths of the dense layers before the classifier.
        dropout: Fraction of the output of each of those layers dropped in training.
        output_stride: By how much the five pools divide the height and width of the input: 32; or 16 or 8, without
            the first ones, for small images. The convolutions' weights stay the same.
    """
    strides = [*first_strides(output_stride), 2, 2, 2, *[2] * len(table)][: len(table)]
    divides_by = math.prod(strides)
    x = image = image_input(
        shared,
        default_size=224,
        minimum=divides_by,
        minimum_because=f"the network divides them by {divides_by}",
        fixed_size_because="the dense layers take the flattened map",
    )
    unit = functools.partial(conv_bn_relu, use_bias=True) if batch_norm else conv_relu
    for index, (row, stride) in enumerate(zip(table, strides, strict=True), 1):
        x = block(x, row, unit=unit, strides=stride, name=f"conv{index}")
    return finish(image, classifier_head(x, shared, dropout=dropout, fully_connected=fully_connected), shared)


class VGGArguments(SharedArguments, total=False):
    """The arguments of the variants; `vgg` describes them."""

    batch_norm: bool
    output_stride: int


@builder(family=vgg)
def VGG11(**arguments: Unpack[VGGArguments]):
    """VGG-11: 132,863,336 parameters (132,868,840 with batch norm), 7.609 G multiply-adds."""
    return vgg(TABLE_1["A"], **arguments)


@builder(family=vgg)
def VGG13(**arguments: Unpack[VGGArguments]):
    """VGG-13: 133,047,848 parameters (133,053,736 with batch norm), 11.308 G multiply-adds."""
    return vgg(TABLE_1["B"], **arguments)


@builder(family=vgg)
def VGG16(**arguments: Unpack[VGGArguments]):
    """VGG-16: 138,357,544 parameters (138,365,992 with batch norm), 15.470 G multiply-adds."""
    return vgg(TABLE_1["D"], **arguments)


@builder(family=vgg)
def VGG19(**arguments: Unpack[VGGArguments]):
    """VGG-19: 143,667,240 parameters (143,678,248 with batch norm), 19.632 G multiply-adds."""
    return vgg(TABLE_1["E"], **arguments)
