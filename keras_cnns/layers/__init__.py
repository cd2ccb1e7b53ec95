"""Layers that are missing in Keras, or faster than those of Keras."""

from keras_cnns.layers.batch_normalization import BatchNormalization
from keras_cnns.layers.conv2d import Conv2D
from keras_cnns.layers.deformable_conv2d import DeformableConv2D
from keras_cnns.layers.depthwise_conv2d import DepthwiseConv2D
from keras_cnns.layers.grouped_conv2d import GroupedConv2D
from keras_cnns.layers.local_response_normalization import LocalResponseNormalization
from keras_cnns.layers.recomputation import RecomputedConv2D, ScaleAndShift
from keras_cnns.layers.zero_pad_channels import ZeroPadChannels

__all__ = [
    "BatchNormalization",
    "Conv2D",
    "DeformableConv2D",
    "DepthwiseConv2D",
    "GroupedConv2D",
    "LocalResponseNormalization",
    "RecomputedConv2D",
    "ScaleAndShift",
    "ZeroPadChannels",
]
