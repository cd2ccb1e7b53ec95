"""ResNet for CIFAR: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv:1512.03385).

Section 4.2's table is `table_cifar`, its first layer `stem_cifar`, its network `cifar`, with the blocks and shortcut
options of resnet.py.

Deviations from the paper:
- drop_connect, off by default, is stochastic depth, as in resnet.py.
- batch_norm=False and kernel_initializer show which of them keeps gradients from vanishing; the paper has batch
  normalization and the initialization of He et al. 2015.
"""

import functools
from typing import Unpack

from keras_cnns import resnet
from keras_cnns._blocks import conv, conv_bn, relu
from keras_cnns._builder import SharedArguments, builder
from keras_cnns.resnet import Stage

SHORTCUTS = {"A": resnet.shortcut_a, "B": resnet.shortcut_b, "C": resnet.shortcut_c}


def table_cifar(*, depth, width=1.0):
    """Return the table of section 4.2: 6n + 2 layers, maps of 32, 16 and 8 pixels; the paper's width is 1.0."""
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        near = ", ".join(str(6 * n + 2) for n in (max(blocks, 1), max(blocks, 1) + 1))
        raise ValueError(f"depth={depth}; a CIFAR network has 6n + 2 layers. Pass a depth such as {near}.")
    if round(16 * width) < 1:
        raise ValueError(f"width={width}; the first stage would have no channels. 1.0 is the paper's 16.")
    return tuple(Stage(round(filters * width), blocks) for filters in (16, 32, 64))


def stem_cifar(x, filters, *, unit=conv_bn):
    """Section 4.2: the first layer is a 3x3 convolution."""
    return relu(unit(x, filters, 3, name="stem"), name="stem")


@builder(classes=10)
def cifar(
    depth,
    *,
    block,
    width=1.0,
    batch_norm=True,
    kernel_initializer="he_normal",
    drop_connect=0.0,
    **shared: Unpack[SharedArguments],
):
    """Section 4.2: the network of `table_cifar` on images of 32 pixels.

    Args:
        depth: Number of layers with weights, 6n + 2, not counting projections.
        block: A block as in `resnet`, with an argument `unit`.
        width: Factor on the channels, which are 16, 32 and 64 in the paper.
        batch_norm: Whether batch normalization follows every convolution, as in the paper; without it each convolution
            has a bias.
        kernel_initializer: Initializer of the convolutions.
        drop_connect: Stochastic depth: fraction of the images whose branch is dropped in training, growing linearly
            from 0 at the first block toward this value. 0 drops none.
    """
    unit = functools.partial(conv_bn if batch_norm else conv, initializer=kernel_initializer)
    return resnet.resnet(
        table_cifar(depth=depth, width=width),
        block=functools.partial(block, unit=unit),
        stem=functools.partial(stem_cifar, unit=unit),
        default_size=32,
        divides_by=4,
        drop_connect=drop_connect,
        **shared,
    )


class CIFARArguments(SharedArguments, total=False):
    """The arguments of PlainNetCIFAR; `cifar` describes them."""

    width: float
    batch_norm: bool
    kernel_initializer: str


class ResNetCIFARArguments(CIFARArguments, total=False):
    """The arguments of ResNetCIFAR but for the shortcut."""

    drop_connect: float


class ResNet20Arguments(SharedArguments, total=False):
    """The arguments of ResNet20 to ResNet110; `ResNetCIFAR` describes them."""

    shortcut: str
    drop_connect: float


@builder(family=cifar, name="resnet_cifar")
def ResNetCIFAR(depth=20, *, shortcut="A", **arguments: Unpack[ResNetCIFARArguments]):
    """A ResNet for CIFAR-10 of any depth 6n + 2 and any width.

    Args:
        shortcut: The option of the shortcuts: "A", without parameters, as in the paper's CIFAR networks; "B"; or "C".
    """
    if shortcut not in SHORTCUTS:
        raise ValueError(f'shortcut={shortcut!r}; it must be "A", "B" or "C".')
    return cifar(depth, block=functools.partial(resnet.basic_block, shortcut=SHORTCUTS[shortcut]), **arguments)


@builder(family=cifar, name="plainnet_cifar")
def PlainNetCIFAR(depth=20, **arguments: Unpack[CIFARArguments]):
    """The plain twin of `ResNetCIFAR`."""
    return cifar(depth, block=resnet.plain_block, **arguments)


@builder(family=ResNetCIFAR)
def ResNet20(**arguments: Unpack[ResNet20Arguments]):
    """ResNet-20 for CIFAR-10: 269,722 parameters, 0.041 G multiply-adds at 32 pixels."""
    return ResNetCIFAR(20, **arguments)


@builder(family=ResNetCIFAR)
def ResNet32(**arguments: Unpack[ResNet20Arguments]):
    """ResNet-32 for CIFAR-10: 464,154 parameters, 0.069 G multiply-adds at 32 pixels."""
    return ResNetCIFAR(32, **arguments)


@builder(family=ResNetCIFAR)
def ResNet44(**arguments: Unpack[ResNet20Arguments]):
    """ResNet-44 for CIFAR-10: 658,586 parameters, 0.097 G multiply-adds at 32 pixels."""
    return ResNetCIFAR(44, **arguments)


@builder(family=ResNetCIFAR)
def ResNet56(**arguments: Unpack[ResNet20Arguments]):
    """ResNet-56 for CIFAR-10: 853,018 parameters, 0.125 G multiply-adds at 32 pixels."""
    return ResNetCIFAR(56, **arguments)


@builder(family=ResNetCIFAR)
def ResNet110(**arguments: Unpack[ResNet20Arguments]):
    """ResNet-110 for CIFAR-10: 1,727,962 parameters, 0.253 G multiply-adds at 32 pixels."""
    return ResNetCIFAR(110, **arguments)


@builder(family=PlainNetCIFAR)
def PlainNet20(**arguments: Unpack[SharedArguments]):
    """The plain twin of ResNet-20: 269,722 parameters, 0.041 G multiply-adds at 32 pixels."""
    return PlainNetCIFAR(20, **arguments)


@builder(family=PlainNetCIFAR)
def PlainNet56(**arguments: Unpack[SharedArguments]):
    """The plain twin of ResNet-56: 853,018 parameters, 0.125 G multiply-adds at 32 pixels."""
    return PlainNetCIFAR(56, **arguments)
