"""Deformable ResNets: Dai et al., "Deformable Convolutional Networks", ICCV 2017 (arXiv:1703.06211).

Version 2 is Zhu, Hu, Lin, Dai, "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019
(arXiv:1811.11168). The layer of both is `keras_cnns.layers.DeformableConv2D`, of version 2 with `modulated=True`.
`deformable_resnet` is section 3.1 of Zhu et al.: every 3x3 of conv3, conv4 and conv5 (stage2, stage3, stage4) is
deformable, and with the masks of section 3.2 it is their DCNv2. Dai et al., section 2.3, use the three 3x3 of conv5
only: that is `resnet.resnet` with `block=(bottleneck, bottleneck, bottleneck, deformable_bottleneck)`.

The networks are ResNets but for these layers, whose names and kernels are those of the plain convolutions: weights of
ResNet50 load into DeformableResNet50, which then has the outputs of ResNet50, since offsets are initialised with zeros.

Deviations from the papers:
- Masks are 2 * sigmoid, not sigmoid, so that the network starts as the plain one and not with halved branches.
- The papers' backbones are those of detectors: Dai et al. remove the stride from conv5 and dilate it. These networks
  classify, with ResNet's strides.
- version="1.5", the default, is ResNet's deviation.
"""

import functools
from typing import Unpack

from keras_cnns._blocks import batch_norm
from keras_cnns._builder import builder
from keras_cnns.layers import DeformableConv2D
from keras_cnns.resnet import TABLE_1, ResNetArguments, bottleneck, resnet


def deformable_conv_bn(x, filters, kernel_size, strides=1, *, modulated=True, name):
    """Apply a deformable convolution without bias, padded as in `conv_bn`, and batch normalization."""
    x = DeformableConv2D(
        filters,
        kernel_size,
        strides,
        padding=kernel_size // 2,
        modulated=modulated,
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    return batch_norm(x, name=name)


def deformable_bottleneck(x, filters, strides, *, version, modulated=True, drop_connect=0.0, name):
    """ResNet's bottleneck with a deformable 3x3, (b, h, w, c) -> (b, h / strides, w / strides, 4 * filters)."""
    unit = functools.partial(deformable_conv_bn, modulated=modulated)
    return bottleneck(x, filters, strides, version=version, unit_3x3=unit, drop_connect=drop_connect, name=name)


@builder(family=resnet)
def deformable_resnet(table, *, modulated=True, **arguments: Unpack[ResNetArguments]):
    """Zhu et al., section 3.1: a ResNet of bottlenecks whose 3x3 are deformable from the second stage on.

    Args:
        table: The stages: a column of `resnet.TABLE_1` or a sequence of your own of `resnet.Stage`.
        modulated: Whether samples are also weighted by masks: True is version 2, whose placement of the layers this
            is; False has offsets alone, as in version 1.
    """
    deformable = functools.partial(deformable_bottleneck, modulated=modulated)
    return resnet(table, block=(bottleneck, *[deformable] * (len(table) - 1)), **arguments)


class DeformableArguments(ResNetArguments, total=False):
    """The arguments of the variants; `deformable_resnet` describes them."""

    modulated: bool


@builder(family=deformable_resnet)
def DeformableResNet50(**arguments: Unpack[DeformableArguments]):
    """Deformable ResNet-50: 26,428,295 parameters, 4.278 G multiply-adds (without masks 26,137,874 and 4.215 G)."""
    return deformable_resnet(TABLE_1["50-layer"], **arguments)


@builder(family=deformable_resnet)
def DeformableResNet101(**arguments: Unpack[DeformableArguments]):
    """Deformable ResNet-101: 46,478,418 parameters, 8.198 G multiply-adds (without masks 45,835,332 and 8.066 G)."""
    return deformable_resnet(TABLE_1["101-layer"], **arguments)
