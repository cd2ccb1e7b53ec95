"""Zero padding of channels: He et al. 2016, section 3.3, option A."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_cnns")
class ZeroPadChannels(keras.layers.Layer):
    """Append channels of zeros, so that a feature map can be added to a wider one without parameters.

    Shapes: (batch, height, width, channels) -> (batch, height, width, channels + count).

    Args:
        count: Number of channels to append.

    Raises:
        ValueError: `count` is negative.

    Example:
        >>> tuple(keras_cnns.layers.ZeroPadChannels(2)(keras.ops.ones((1, 4, 4, 3))).shape)
        (1, 4, 4, 5)
    """

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        if count < 0:
            raise ValueError(f"ZeroPadChannels got count={count}; it must be at least 0.")
        self.count = count

    def call(self, inputs):
        return ops.pad(inputs, [[0, 0], [0, 0], [0, 0], [0, self.count]])

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] + self.count)

    def get_config(self):
        return super().get_config() | {"count": self.count}
