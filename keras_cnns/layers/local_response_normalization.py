"""Local response normalization: Krizhevsky, Sutskever, Hinton 2012, section 3.3."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_cnns")
class LocalResponseNormalization(keras.layers.Layer):
    """Divides each activation by the energy of its neighbours in the channel direction.

    b[c] = a[c] / (bias + alpha * sum of a[j]^2 for the `size` channels j around c)^beta, channels outside counting as
    zero (Krizhevsky et al. 2012, section 3.3). Computed in float32, since squares
    overflow float16, and in float64 under a policy of float64.

    Shapes: (batch, height, width, channels) -> the same.

    Args:
        size: Number of neighbouring channels, the channel itself included; odd.
        alpha: Weight of the sum of squares. Caffe and torch divide theirs by `size`, so that their 1e-4 with size 5 is
            2e-5 here.
        beta: Exponent.
        bias: What the sum is added to; k in the paper.

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
            raise ValueError(f"LocalResponseNormalization got size={size}; it must be a positive odd number, as 5.")
        self.size, self.alpha, self.beta, self.bias = size, alpha, beta, bias

    def call(self, inputs):
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        channels, reach = inputs.shape[-1], self.size // 2
        squares = ops.pad(ops.square(x), [[0, 0], [0, 0], [0, 0], [reach, reach]])
        energy = sum(squares[..., offset : offset + channels] for offset in range(self.size))
        return ops.cast(x * ops.power(self.bias + self.alpha * energy, -self.beta), inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"size": self.size, "alpha": self.alpha, "beta": self.beta, "bias": self.bias}
