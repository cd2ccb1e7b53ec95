"""Batch normalization (Ioffe and Szegedy 2015), trained with TensorFlow's fused kernel where possible."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_cnns")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalization, trained on TensorFlow by one fused kernel instead of a dozen elementwise ones.

    Arguments, variables, results and gradients are those of `keras.layers.BatchNormalization`, so that weights are
    interchangeable. The fused kernel is used in training, on the TensorFlow backend, for feature maps (batch, height,
    width, channels) normalized per channel; all other cases, such as `synchronized=True`, `renorm=True`, masks and
    float64, are computed by Keras.

    Inference, a scale and a shift per channel, is computed by Keras too: TensorFlow merges the fused kernel with the
    convolution before it, and for one image oneDNN's merged kernel is many times slower than the two.

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
            training
            and self.trainable
            and keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and mask is None
            and not self.synchronized
            and not self.renorm
            and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "float16", "bfloat16")
        )
        return self._fused(inputs) if fused else super().call(inputs, training, mask)

    def _fused(self, inputs):
        import tensorflow as tf

        shape = self.moving_mean.shape
        # The kernel accepts half-precision maps, but its statistics and parameters must be float32.
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            scale=ops.cast(self.gamma, "float32") if self.scale else ops.ones(shape, "float32"),
            offset=ops.cast(self.beta, "float32") if self.center else ops.zeros(shape, "float32"),
            epsilon=self.epsilon,
        )
        n = tf.cast(tf.size(inputs) // inputs.shape[-1], "float32")
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance * ((n - 1.0) / n))):
            moving.assign(ops.cast(moving, "float32") * self.momentum + value * (1.0 - self.momentum))
        # TensorFlow would merge the kernel with a ReLU directly after it. oneDNN's merged kernel takes half the time if
        # channels are a multiple of 8, and twice the time of the two if not.
        return outputs if inputs.shape[-1] % 8 == 0 else tf.ensure_shape(outputs, outputs.shape)
