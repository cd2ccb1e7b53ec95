"""Normalized concatenations that are recomputed in the backward pass: Pleiss et al. 2017, arXiv:1707.06990."""

import keras
from keras import ops

from keras_cnns.layers.batch_normalization import BatchNormalization


@keras.saving.register_keras_serializable("keras_cnns")
class ScaleAndShift(BatchNormalization):
    """Scale and shift of the batch normalization of concatenated feature maps, without applying them.

    Arguments (`synchronized` included), variables and the update of the moving statistics are those of
    `BatchNormalization` on the concatenation of the maps, whose output would be scale * concatenation + shift. Only the
    maps themselves are kept for the backward pass.

    Shapes: a list of (batch, height, width, channels of the map) -> [scale, shift], each (sum of the channels,) in the
    precision of the variables.

    Example:
        >>> maps = [keras.ops.ones((2, 4, 4, 8)), keras.ops.ones((2, 4, 4, 3))]
        >>> [tuple(vector.shape) for vector in keras_cnns.layers.ScaleAndShift()(maps)]
        [(11,), (11,)]
    """

    def build(self, input_shape):
        super().build(_concatenated(input_shape))
        self.input_spec = None  # the parent's allows a single map only

    def call(self, inputs, training=None):
        dtype = self.variable_dtype
        mean, variance = self.moving_mean, self.moving_variance
        if training and self.trainable:
            mean, variance = self._moments(inputs)
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        scale = ops.cast(self.gamma, dtype) * ops.rsqrt(variance + self.epsilon)
        return [scale, ops.cast(self.beta, dtype) - scale * mean]

    def _moments(self, maps):
        def concatenated(maps):
            return ops.cast(ops.concatenate(maps, axis=-1), self.variable_dtype)

        if not self.synchronized:
            return keras.remat(lambda *maps: ops.moments(concatenated(maps), axes=[0, 1, 2]))(*maps)

        def sums(*maps):
            x = concatenated(maps)
            ones = ops.ones_like(x[..., :1])
            return ops.concatenate([ops.sum(y, axis=[0, 1, 2]) for y in (ones, x, ops.square(x))], axis=0)

        # Replicas exchange only these vectors, and once: within keras.remat they would be exchanged twice.
        means, _ = ops.moments(keras.remat(sums)(*maps)[None], axes=[0], synchronized=True)
        mean, square = ops.split(means[1:] / means[0], 2)
        return mean, square - ops.square(mean)

    def compute_output_spec(self, inputs, training=None):
        channels = sum(x.shape[-1] for x in inputs)
        return [keras.KerasTensor((channels,), self.variable_dtype) for _ in ("scale", "shift")]


@keras.saving.register_keras_serializable("keras_cnns")
class RecomputedConv2D(keras.layers.Conv2D):
    """A convolution of relu(scale * concatenation + shift) whose input is recomputed in the backward pass.

    Variables are those of `keras.layers.Conv2D` on the concatenation. Only the inputs of the layer are kept for the
    backward pass, so that a feature map that many layers use is stored once instead of once per concatenation. For the
    TensorFlow and JAX backends.

    Shapes: a list of maps (batch, height, width, channels of the map), then scale and shift (sum of the channels,) of
    `ScaleAndShift` -> (batch, new height, new width, filters).

    Args:
        filters: Number of output channels.
        kernel_size: Height and width of the kernel.
        kwargs: Other arguments of `keras.layers.Conv2D`.

    Example:
        >>> maps = [keras.ops.ones((2, 4, 4, 8)), keras.ops.ones((2, 4, 4, 3))]
        >>> layer = keras_cnns.layers.RecomputedConv2D(5, 1)
        >>> tuple(layer([*maps, keras.ops.ones(11), keras.ops.zeros(11)]).shape)
        (2, 4, 4, 5)
    """

    def __init__(self, filters, kernel_size, **kwargs):
        super().__init__(filters, kernel_size, autocast=False, **kwargs)  # scale and shift keep their precision
        self.input_spec = None  # the parent's allows a single map only

    def build(self, input_shape):
        super().build(_concatenated(input_shape[:-2]))
        self.input_spec = None

    def call(self, inputs):
        def convolution(kernel, scale, shift, *maps):
            x = ops.cast(ops.concatenate(maps, axis=-1), scale.dtype)
            x = ops.cast(ops.relu(x * scale + shift), self.compute_dtype)
            return self.convolution_op(x, ops.cast(kernel, self.compute_dtype))

        *maps, scale, shift = inputs
        # A copy, since TensorFlow would count the gradient twice for an argument that is a variable.
        x = keras.remat(convolution)(ops.copy(self.kernel), scale, shift, *maps)
        if self.use_bias:
            x = x + ops.cast(self.bias, x.dtype)
        return x if self.activation is None else self.activation(x)

    def compute_output_spec(self, inputs):
        shape = self.compute_output_shape(_concatenated([x.shape for x in inputs[:-2]]))
        return keras.KerasTensor(shape, self.compute_dtype)


def _concatenated(shapes):
    """Return the shape of the concatenation, along the channels, of maps with these shapes."""
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
