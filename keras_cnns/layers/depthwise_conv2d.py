"""Depthwise convolution that trains fast on CPUs too."""

import keras

from keras_cnns.layers import convolution_forms
from keras_cnns.layers.conv2d import fast_outputs, has_fast_forms


@keras.saving.register_keras_serializable("keras_cnns")
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras's depthwise convolution; on CPUs with TensorFlow, it trains faster on small maps or with wide kernels.

    Arguments, variables, results and gradients are those of `keras.layers.DepthwiseConv2D`, so that weights are
    interchangeable. Keras computes the cases that it computes for `Conv2D`.

    Shapes: (batch, height, width, channels) -> (batch, new height, new width, channels * depth_multiplier).

    Example:
        >>> layer = keras_cnns.layers.DepthwiseConv2D(5, padding="same")
        >>> tuple(layer(keras.ops.ones((1, 7, 7, 4)), training=True).shape)
        (1, 7, 7, 4)
    """

    def call(self, inputs, training=None):
        if not training or not has_fast_forms(self, inputs):
            return super().call(inputs)
        return fast_outputs(self, inputs, convolution_forms.depthwise_convolution)

    # What `python -m training benchmark layers` measures.
    forms_of = staticmethod(convolution_forms.depthwise_forms_of)
