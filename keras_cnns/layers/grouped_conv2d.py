"""Grouped convolution: Krizhevsky et al. 2012, figure 2; Xie et al. 2017 (ResNeXt), section 3."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_cnns")
class GroupedConv2D(keras.layers.Conv2D):
    """Keras's grouped convolution, as fast as a dense one on CPUs too.

    Arguments, variables and results are those of `keras.layers.Conv2D` with `groups`. TensorFlow's grouped CPU kernel
    takes 20 to 75 times as long as a dense convolution. On CPUs this layer computes dense convolutions of a few
    neighboring groups each, with block-diagonal kernels.

    Shapes: (batch, height, width, channels) -> (batch, new height, new width, filters); channels and filters are
    multiples of `groups`.

    Example:
        >>> layer = keras_cnns.layers.GroupedConv2D(8, 3, groups=2, padding="same")
        >>> tuple(layer(keras.ops.ones((1, 5, 5, 4))).shape)
        (1, 5, 5, 8)
    """

    # Dense convolutions with fewer input channels than this are not faster.
    NARROW = 16

    def convolution_op(self, inputs, kernel):
        if self.groups == 1 or not on_tensorflow_cpu():
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


def on_tensorflow_cpu():
    """Return whether layers are computed by TensorFlow on a CPU."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_logical_devices("GPU")


def _block_diagonal(kernel, groups):
    """Return a grouped kernel (h, w, c, groups * filters) as a dense one (h, w, groups * c, groups * filters)."""
    height, width, channels, _ = kernel.shape
    blocks = ops.reshape(kernel, (height, width, 1, channels, groups, -1))
    mask = ops.reshape(ops.eye(groups, dtype=kernel.dtype), (1, 1, groups, 1, groups, 1))
    return ops.reshape(blocks * mask, (height, width, groups * channels, -1))
