"""Local response normalization: Krizhevsky, Sutskever, Hinton 2012, section 3.3."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_cnns")
class LocalResponseNormalization(keras.layers.Layer):
    """Divide each activation by the energy of neighboring channels at the same position.

    b[c] = a[c] / (bias + alpha * sum of a[j]^2 over the `size` channels j around c)^beta, where missing channels at the
    ends are zero (Krizhevsky et al. 2012, section 3.3). The layer computes in float32, since squares overflow float16,
    and in float64 with a float64 policy.

    Shapes: (batch, height, width, channels) -> the same.

    Args:
        size: Number of channels in the sum, an odd number; n in the paper.
        alpha: Weight of the sum of squares. Caffe and torch divide theirs by `size`: their 1e-4 with size 5 is 2e-5
            here.
        beta: Exponent.
        bias: Constant added to the weighted sum; k in the paper.

    Raises:
        ValueError: `size` is not a positive odd number.

    Example:
        >>> layer = keras_cnns.layers.LocalResponseNormalization()
        >>> tuple(layer(keras.ops.ones((1, 2, 2, 8))).shape)
        (1, 2, 2, 8)
    """

    def __init__(self, size=5, alpha=1e-4, beta=0.75, bias=2.0, **kwargs):
        super().__init__(**kwargs)
        if size < 1 or size % 2 == 0:
            raise ValueError(f"LocalResponseNormalization got size={size}; it must be odd and positive, such as 5.")
        self.size, self.alpha, self.beta, self.bias = size, alpha, beta, bias

    def call(self, inputs):
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        # A product with a band matrix and exp(-beta * log(...)) are several times as fast as slices and a power.
        channel = ops.arange(inputs.shape[-1])
        band = ops.abs(channel[:, None] - channel) <= self.size // 2
        energy = ops.matmul(ops.square(x), ops.cast(band, x.dtype))
        scale = ops.exp(-self.beta * ops.log(self.bias + self.alpha * energy))
        return ops.cast(x * scale, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"size": self.size, "alpha": self.alpha, "beta": self.beta, "bias": self.bias}
