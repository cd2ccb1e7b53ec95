"""Convolution in groups: Krizhevsky et al. 2012, figure 2; Xie et al. 2017 (ResNeXt), section 3."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_cnns")
class GroupedConv2D(keras.layers.Conv2D):
    """Keras's grouped convolution, at the speed of a dense one on CPUs too.

    Arguments, variables and results are those of `keras.layers.Conv2D` with `groups`. TensorFlow's CPU kernel for
    groups takes 20 to 75 times as long as a dense convolution; there the groups are computed by dense convolutions, a
    few neighbouring groups each, whose kernels are zero between one group and another.

    Shapes: (batch, height, width, channels) -> (batch, new height, new width, filters); channels and filters are
    multiples of `groups`.

    Example:
        >>> layer = keras_cnns.layers.GroupedConv2D(8, 3, groups=2, padding="same")
        >>> tuple(layer(keras.ops.ones((1, 5, 5, 4))).shape)
        (1, 5, 5, 8)
    """

    # Input channels below which a dense convolution is no faster for being narrower.
    NARROW = 16

    def convolution_op(self, inputs, kernel):
        if self.groups == 1 or not _on_tensorflow_cpu():
            return super().convolution_op(inputs, kernel)
        together = min(self.groups, max(1, self.NARROW // kernel.shape[2]))
        while self.groups % together:
            together -= 1
        parts = self.groups // together
        outputs = [
            ops.conv(
                x,
                _block_diagonal(part, together),
                strides=list(self.strides),
                padding=self.padding,
                data_format=self.data_format,
                dilation_rate=self.dilation_rate,
            )
            for x, part in zip(ops.split(inputs, parts, axis=-1), ops.split(kernel, parts, axis=-1), strict=True)
        ]
        return ops.concatenate(outputs, axis=-1)


def _on_tensorflow_cpu():
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_logical_devices("GPU")


def _block_diagonal(kernel, groups):
    """A grouped kernel (h, w, channels, groups * filters) as a dense one, (h, w, groups * channels, the same)."""
    height, width, channels, _ = kernel.shape
    blocks = ops.reshape(kernel, (height, width, 1, channels, groups, -1))
    mask = ops.reshape(ops.eye(groups, dtype=kernel.dtype), (1, 1, groups, 1, groups, 1))
    return ops.reshape(blocks * mask, (height, width, groups * channels, -1))
