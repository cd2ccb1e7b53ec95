"""Normalised concatenations that are computed twice instead of kept: Pleiss et al. 2017, arXiv:1707.06990."""

import keras
from keras import ops

from keras_cnns.layers.batch_normalization import BatchNormalization


@keras.saving.register_keras_serializable("keras_cnns")
class ScaleAndShift(BatchNormalization):
    """Batch normalization of feature maps side by side that tells what it would do and leaves the doing to others.

    Arguments, variables and the update of the moving statistics are those of `BatchNormalization` over the
    concatenation of the maps, `synchronized` among them; normalised, it would be scale * concatenation + shift.
    Between the forward and the backward pass nothing is kept but the maps themselves.

    Shapes: a list of (batch, height, width, channels of the map) -> [scale, shift], both (channels of all,) in the
    precision of the variables.

    Example:
        >>> maps = [keras.ops.ones((2, 4, 4, 8)), keras.ops.ones((2, 4, 4, 3))]
        >>> [tuple(vector.shape) for vector in keras_cnns.layers.ScaleAndShift()(maps)]
        [(11,), (11,)]
    """

    def build(self, input_shape):
        super().build(_concatenated(input_shape))
        self.input_spec = None  # the parent's knows one map only

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

        # Only these vectors are exchanged, once: in the recomputed part they would be exchanged twice.
        means, _ = ops.moments(keras.remat(sums)(*maps)[None], axes=[0], synchronized=True)
        mean, square = ops.split(means[1:] / means[0], 2)
        return mean, square - ops.square(mean)

    def compute_output_spec(self, inputs, training=None):
        channels = sum(x.shape[-1] for x in inputs)
        return [keras.KerasTensor((channels,), self.variable_dtype) for _ in ("scale", "shift")]


@keras.saving.register_keras_serializable("keras_cnns")
class RecomputedConv2D(keras.layers.Conv2D):
    """A convolution of relu(scale * concatenation + shift), all of which is computed again in the backward pass.

    Variables are those of `keras.layers.Conv2D` over the concatenation. Between the passes nothing is kept but the
    inputs, so that a feature map that many layers read is stored once, where each of their concatenations would hold a
    copy of it. On the TensorFlow and JAX backends.

    Shapes: a list of maps (batch, height, width, channels of the map), then scale and shift (channels of all,), as
    `ScaleAndShift` gives them -> (batch, new height, new width, filters).

    Args:
        filters: Channels of the output.
        kernel_size: Height and width of the kernel.
        kwargs: As in `keras.layers.Conv2D`.

    Example:
        >>> maps = [keras.ops.ones((2, 4, 4, 8)), keras.ops.ones((2, 4, 4, 3))]
        >>> layer = keras_cnns.layers.RecomputedConv2D(5, 1)
        >>> tuple(layer([*maps, keras.ops.ones(11), keras.ops.zeros(11)]).shape)
        (2, 4, 4, 5)
    """

    def __init__(self, filters, kernel_size, **kwargs):
        super().__init__(filters, kernel_size, autocast=False, **kwargs)  # scale and shift keep their precision
        self.input_spec = None  # the parent's knows one map only

    def build(self, input_shape):
        super().build(_concatenated(input_shape[:-2]))
        self.input_spec = None

    def call(self, inputs):
        def convolution(kernel, scale, shift, *maps):
            x = ops.cast(ops.concatenate(maps, axis=-1), scale.dtype)
            x = ops.cast(ops.relu(x * scale + shift), self.compute_dtype)
            return self.convolution_op(x, ops.cast(kernel, self.compute_dtype))

        *maps, scale, shift = inputs
        # A copy, since TensorFlow would count the gradient of an argument that is a variable twice.
        x = keras.remat(convolution)(ops.copy(self.kernel), scale, shift, *maps)
        if self.use_bias:
            x = x + ops.cast(self.bias, x.dtype)
        return x if self.activation is None else self.activation(x)

    def compute_output_spec(self, inputs):
        shape = self.compute_output_shape(_concatenated([x.shape for x in inputs[:-2]]))
        return keras.KerasTensor(shape, self.compute_dtype)


def _concatenated(shapes):
    """The shape of maps of these shapes when they are concatenated over their channels."""
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
