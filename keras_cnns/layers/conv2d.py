"""Convolution that trains fast on CPUs too."""

import keras
from keras import ops

from keras_cnns.layers import convolution_forms


@keras.saving.register_keras_serializable("keras_cnns")
class Conv2D(keras.layers.Conv2D):
    """Keras's convolution; on CPUs with TensorFlow, it trains several times as fast on small maps.

    Arguments, variables, results and gradients are those of `keras.layers.Conv2D`, so that weights are interchangeable.
    In training on CPUs, output and gradients are computed in the forms that are measured to be the fastest for the size
    of the kernel and of the feature map (`python -m training benchmark layers`). Keras computes all other cases:
    inference, GPUs, XLA, half precision, groups, dilation, strides above 2 and other backends.

    Shapes: (batch, height, width, channels) -> (batch, new height, new width, filters).

    Example:
        >>> layer = keras_cnns.layers.Conv2D(8, 3, padding="same")
        >>> tuple(layer(keras.ops.ones((1, 5, 5, 4)), training=True).shape)
        (1, 5, 5, 8)
    """

    def call(self, inputs, training=None):
        if not training or self.groups > 1 or not has_fast_forms(self, inputs):
            return super().call(inputs)
        return fast_outputs(self, inputs, convolution_forms.convolution)

    # What `python -m training benchmark layers` measures.
    forms_of = staticmethod(convolution_forms.forms_of)


def has_fast_forms(layer, inputs):
    """Return whether a convolution of this layer can be computed in the forms of `convolution_forms`."""
    return (
        layer.strides in ((1, 1), (2, 2))
        and tuple(layer.dilation_rate) == (1, 1)
        and layer.data_format == "channels_last"
        and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "float64")
        and on_tensorflow_cpu()
    )


def fast_outputs(layer, inputs, convolution):
    """Return the outputs of a layer whose convolution is computed by a function of `convolution_forms`."""
    outputs = convolution(inputs, layer.kernel, layer.strides[0], layer.padding)
    if layer.use_bias:
        outputs = ops.add(outputs, layer.bias)
    return outputs if layer.activation is None else layer.activation(outputs)


def on_tensorflow_cpu():
    """Return whether TensorFlow computes on a CPU here, operation by operation rather than compiled by XLA."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext  # there is no public name for it

    return not (tf.config.list_logical_devices("GPU") or GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))
