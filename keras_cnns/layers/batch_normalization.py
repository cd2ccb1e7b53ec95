"""Batch normalization (Ioffe and Szegedy 2015) with TensorFlow's fused kernel where possible."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_cnns")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalization, computed on TensorFlow by one fused kernel instead of a dozen elementwise ones.

    Arguments, variables, results and gradients are those of `keras.layers.BatchNormalization`, so that weights are
    interchangeable. The fused kernel is used on the TensorFlow backend for feature maps (batch, height, width,
    channels) normalized per channel; all other cases, such as `synchronized=True`, `renorm=True`, masks and float64,
    are computed by Keras.

    The moving variance is the biased one of Keras, the mean of the squared deviations. The kernel returns the unbiased
    one, n / (n - 1) times that for n elements per channel of the batch, as torch does; it is converted here.

    Shapes: (batch, height, width, channels) -> the same.

    Example:
        >>> layer = keras_cnns.layers.BatchNormalization()
        >>> tuple(layer(keras.ops.ones((2, 4, 4, 8)), training=True).shape)
        (2, 4, 4, 8)
    """

    def call(self, inputs, training=None, mask=None):
        fused = (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and mask is None
            and not self.synchronized
            and not self.renorm
            and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "float16", "bfloat16")
        )
        return self._fused(inputs, training and self.trainable) if fused else super().call(inputs, training, mask)

    def _fused(self, inputs, batch_statistics):
        import tensorflow as tf

        shape = self.moving_mean.shape
        # The kernel accepts half-precision maps, but its statistics and parameters must be float32.
        mean, variance = (ops.cast(v, "float32") for v in (self.moving_mean, self.moving_variance))
        outputs, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            scale=ops.cast(self.gamma, "float32") if self.scale else ops.ones(shape, "float32"),
            offset=ops.cast(self.beta, "float32") if self.center else ops.zeros(shape, "float32"),
            mean=None if batch_statistics else mean,
            variance=None if batch_statistics else variance,
            epsilon=self.epsilon,
            is_training=bool(batch_statistics),
        )
        if batch_statistics:
            n = tf.cast(tf.size(inputs) // inputs.shape[-1], "float32")
            self.moving_mean.assign(mean * self.momentum + batch_mean * (1.0 - self.momentum))
            self.moving_variance.assign(
                variance * self.momentum + batch_variance * ((n - 1.0) / n) * (1.0 - self.momentum)
            )
        return outputs
