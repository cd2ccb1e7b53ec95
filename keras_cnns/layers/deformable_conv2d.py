"""Deformable convolution: Dai et al. 2017 (arXiv:1703.06211), section 2.1; Zhu et al. 2019 (arXiv:1811.11168), 3.2.

`deform_conv2d` is equation (2) of Dai et al. with the bilinear kernel of equations (3) and (4), and with a mask it is
equation (1) of Zhu et al. `DeformableConv2D` is the layer, which computes offsets and mask by a convolution of its own.

Deviations from the papers:
- The mask is 2 * sigmoid instead of the sigmoid of Zhu et al. With zero initialization it is 1 instead of 1/2, so that
  a modulated layer too starts as the plain convolution and can take the weights of a plain network.
"""

import keras
from keras import ops

from keras_cnns.layers.conv2d import on_tensorflow_cpu


@keras.saving.register_keras_serializable("keras_cnns")
class DeformableConv2D(keras.layers.Layer):
    """A convolution that samples its input at learned offsets from the points of the kernel.

    A second convolution of the same input computes the offsets in pixels, one pair per position and kernel point, and
    with `modulated=True` a mask by which the samples are multiplied. Its variables start at zero, so that the layer
    starts as the plain convolution with its `kernel` and `bias`. Samples between pixels are interpolated bilinearly;
    outside the map they are zero. Offsets and positions are float32 in half precision too. Zhu et al. train the
    variables of offsets and mask with a tenth of the learning rate.

    Shapes: (batch, height, width, channels) -> (batch, new height, new width, filters). Variables, with
    points = kernel height * kernel width:

    - `kernel` (kernel height, kernel width, channels / groups, filters) and `bias` (filters,), as in `Conv2D`;
    - `offset_kernel` (kernel height, kernel width, channels, offset_groups * points * 2) and `offset_bias`: the groups
      first, then the points row by row, then (down, right), as in torchvision;
    - `mask_kernel` (kernel height, kernel width, channels, offset_groups * points) and `mask_bias`.

    Args:
        filters: Number of output channels.
        kernel_size: Height and width of the kernel, an integer or a pair.
        strides: Strides down and right, an integer or a pair.
        padding: "valid", "same" as in Keras, or the number of zeros on each side, an integer or a pair (rows, columns).
        dilation_rate: Distances between kernel points without offsets, an integer or a pair; may be combined with
            strides.
        groups: Number of groups of channels with separate convolutions.
        offset_groups: Number of groups of channels with separate offsets and masks.
        modulated: Whether to multiply the samples by a mask, as in version 2 of the paper.
        use_bias: Whether to add a bias.
        kernel_initializer: Initializer of `kernel`.
        bias_initializer: Initializer of `bias`.
        kernel_regularizer: Regularizer of `kernel`.

    Raises:
        ValueError: A number is not positive, channels or filters are not multiples of their groups, or the input is
            smaller than the kernel.

    Example:
        >>> layer = keras_cnns.layers.DeformableConv2D(8, 3, padding="same", modulated=True)
        >>> tuple(layer(keras.ops.ones((1, 5, 5, 4))).shape)
        (1, 5, 5, 8)
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        padding="valid",
        dilation_rate=1,
        groups=1,
        offset_groups=1,
        modulated=False,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters, self.groups, self.offset_groups = (
            _positive(name, value, 1)[0]
            for name, value in (("filters", filters), ("groups", groups), ("offset_groups", offset_groups))
        )
        self.kernel_size = _positive("kernel_size", kernel_size, 2)
        self.strides = _positive("strides", strides, 2)
        self.padding = padding if padding in ("valid", "same") else _positive("padding", padding, 2, minimum=0)
        self.dilation_rate = _positive("dilation_rate", dilation_rate, 2)
        self.modulated, self.use_bias = modulated, use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        _check_divides("filters", self.filters, "groups", self.groups)

    def build(self, input_shape):
        channels = input_shape[-1]
        _check_divides("channels", channels, "groups", self.groups)
        _check_divides("channels", channels, "offset_groups", self.offset_groups)
        self.input_spec = keras.InputSpec(ndim=4, axes={-1: channels})
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.kernel_size, channels // self.groups, self.filters),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer=self.bias_initializer)
        samples = self.offset_groups * self.kernel_size[0] * self.kernel_size[1]
        self.offset_kernel, self.offset_bias = self._add_branch("offset", channels, 2 * samples)
        if self.modulated:
            self.mask_kernel, self.mask_bias = self._add_branch("mask", channels, samples)

    def _add_branch(self, name, channels, filters):
        """Add the variables of the convolution that computes offsets or masks: zeros that are never cast to half
        precision."""
        kernel_shape = (*self.kernel_size, channels, filters)
        return (
            self.add_weight(name=f"{name}_kernel", shape=kernel_shape, initializer="zeros", autocast=False),
            self.add_weight(name=f"{name}_bias", shape=(filters,), initializer="zeros", autocast=False),
        )

    def call(self, inputs):
        offsets, mask = self.offsets_and_mask(inputs)
        outputs = deform_conv2d(
            inputs,
            offsets,
            self.kernel,
            mask,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
        )
        return outputs if self.bias is None else outputs + self.bias

    def sampling_points(self, inputs):
        """Return where the layer samples its input (batch, height, width, channels), in pixels with centers 0, 1, ...

        Returns:
            (batch, new height, new width, points, offset_groups, 2), the last as (down, right).
        """
        offsets, _ = self.offsets_and_mask(inputs)
        geometry = self.kernel_size, self.strides, self.padding, self.dilation_rate
        return ops.stack(_sample_positions(ops.shape(inputs)[1:3], offsets, *geometry), axis=-1)

    def offsets_and_mask(self, inputs):
        """Return the offsets and the mask, or None, for an input (batch, height, width, channels).

        They are float32 or float64: half precision would round an offset of 8 pixels to 1/128, bfloat16 to 1/16.
        """
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        kernel, bias = ops.cast(self.offset_kernel, dtype), ops.cast(self.offset_bias, dtype)
        split = bias.shape[0]
        if self.modulated:  # a single convolution computes both
            kernel = ops.concatenate([kernel, ops.cast(self.mask_kernel, dtype)], axis=-1)
            bias = ops.concatenate([bias, ops.cast(self.mask_bias, dtype)], axis=0)
        pads = _pads(ops.shape(inputs)[1:3], self.kernel_size, self.strides, self.padding, self.dilation_rate)
        x = ops.pad(ops.cast(inputs, dtype), [(0, 0), *pads, (0, 0)])
        if max(self.dilation_rate) == 1:
            outputs = ops.conv(x, kernel, self.strides, "valid")
        else:  # Keras has no strided convolution with dilation
            down, right = self.strides
            outputs = ops.conv(x, kernel, 1, "valid", dilation_rate=self.dilation_rate)[:, ::down, ::right]
        outputs = outputs + bias
        return outputs[..., :split], 2 * ops.sigmoid(outputs[..., split:]) if self.modulated else None

    def compute_output_shape(self, input_shape):
        batch, *size, _ = input_shape
        sizes = zip(size, self.kernel_size, self.strides, self.dilation_rate, _zeros(self.padding), strict=True)
        new = tuple(
            length if length is None else _new_length(length, *geometry, same=self.padding == "same")
            for length, *geometry in sizes
        )
        if any(length is not None and length < 1 for length in new):
            raise ValueError(
                f"{self.name} got a map of {size[0]} x {size[1]} pixels, smaller than its kernel of {self.kernel_size} "
                f"with dilation {self.dilation_rate}. Pass larger images or padding='same'."
            )
        return (batch, *new, self.filters)

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "dilation_rate": self.dilation_rate,
            "groups": self.groups,
            "offset_groups": self.offset_groups,
            "modulated": self.modulated,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }


def deform_conv2d(inputs, offsets, kernel, mask=None, *, strides=(1, 1), padding="valid", dilation_rate=(1, 1)):
    """Convolve with given offsets: equation (2) of Dai et al., and with a mask equation (1) of Zhu et al.

    Each sample is the weighted sum of the four pixels around it; samples and kernel are then multiplied as matrices.

    Args:
        inputs: Feature map (batch, height, width, channels).
        offsets: In pixels, (batch, new height, new width, offset_groups * points * 2), the last as (down, right).
        kernel: (kernel height, kernel width, channels / groups, filters).
        mask: Factors of the samples, (batch, new height, new width, offset_groups * points), or None.
        strides: A pair.
        padding: "valid", "same" or a pair, as in `DeformableConv2D`.
        dilation_rate: A pair.

    Returns:
        A feature map (batch, new height, new width, filters) in the precision of `inputs`.
    """
    batch, height, width, channels = ops.shape(inputs)
    kernel_size, filters = kernel.shape[:2], kernel.shape[-1]
    points = kernel_size[0] * kernel_size[1]
    offset_groups = offsets.shape[-1] // (2 * points)
    new_size = ops.shape(offsets)[1:3]

    offsets = ops.cast(offsets, keras.backend.result_type(inputs.dtype, offsets.dtype, "float32"))
    down, right = _sample_positions((height, width), offsets, kernel_size, strides, padding, dilation_rate)
    weight = 1
    if mask is not None:  # in the shape of the positions: (batch, new height, new width, points, offset_groups)
        by_group = ops.reshape(mask, (-1, *new_size, offset_groups, points))
        weight = ops.cast(ops.swapaxes(by_group, 3, 4), down.dtype)

    # A border of zeros stands for everything outside the map. A row of `pixels` has the channels of an offset group.
    pixels = ops.reshape(
        ops.pad(inputs, [(0, 0), (1, 1), (1, 1), (0, 0)]),
        (-1, (height + 2) * (width + 2) * offset_groups, channels // offset_groups),
    )
    indices, factors = [], []
    for row, row_weight in _neighbors(down, height):
        for column, column_weight in _neighbors(right, width):
            index = (row * (width + 2) + column) * offset_groups + ops.arange(offset_groups, dtype="int32")
            indices.append(index)
            factors.append(ops.cast(row_weight * weight * column_weight, inputs.dtype))

    kernel = ops.cast(kernel, inputs.dtype)
    if on_tensorflow_cpu() and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "float64"):
        outputs = _convolve_one_by_one(pixels, indices, factors, kernel)
    else:
        first = ops.arange(batch, dtype="int32") * ops.shape(pixels)[1]
        indices = [index + ops.reshape(first, (-1, 1, 1, 1, 1)) for index in indices]
        outputs = _multiply(_sample(ops.reshape(pixels, (-1, pixels.shape[-1])), indices, factors), kernel)
    return ops.reshape(outputs, (-1, *new_size, filters))


def _sample(pixels, indices, factors):
    """Return the sums of four rows each of `pixels`, weighted by `factors`: (..., points, offset_groups, channels)."""
    return sum(
        ops.take(pixels, index, axis=0) * ops.expand_dims(factor, -1)
        for index, factor in zip(indices, factors, strict=True)
    )


def _multiply(samples, kernel):
    """Multiply samples (..., points, offset_groups, channels) and a kernel as matrices: (positions, filters)."""
    _, _, depth, filters = kernel.shape
    points, channels = samples.shape[-3], samples.shape[-2] * samples.shape[-1]
    if depth == channels:
        return ops.matmul(ops.reshape(samples, (-1, points * channels)), ops.reshape(kernel, (-1, filters)))
    groups = channels // depth
    outputs = ops.einsum(
        "npgc,pcgf->ngf",
        ops.reshape(samples, (-1, points, groups, depth)),
        ops.reshape(kernel, (points, depth, groups, -1)),
    )
    return ops.reshape(outputs, (-1, filters))


def _convolve_one_by_one(pixels, indices, factors, kernel):
    """Sample and multiply image by image, so that the samples of an image stay in the cache of the CPU.

    The samples are as many times the size of the map as the kernel has points. They are computed again in the backward
    pass, which needs the four neighbors of each sample anyway, instead of being stored.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def convolve(pixels, indices, factors, kernel):
        def outputs_of(image):
            pixels, indices, factors = image
            return _multiply(_sample(pixels, tf.unstack(indices), tf.unstack(factors)), kernel)

        signature = tf.TensorSpec((None, kernel.shape[-1]), kernel.dtype)
        outputs = tf.map_fn(outputs_of, (pixels, indices, factors), fn_output_signature=signature)

        def gradient(upstream):
            def add_image(image, d_kernel, d_pixels, d_factors):
                values = pixels[image], indices[image], factors[image], kernel, upstream[image]
                of_pixels, of_factors, of_kernel = _gradients(*values)
                return (
                    image + 1,
                    d_kernel + of_kernel,
                    d_pixels.write(image, of_pixels),
                    d_factors.write(image, of_factors),
                )

            batch = tf.shape(pixels)[0]
            arrays = [tf.TensorArray(kernel.dtype, batch, element_shape=v.shape[1:]) for v in (pixels, factors)]
            start = tf.constant(0), tf.zeros_like(kernel), *arrays
            _, d_kernel, d_pixels, d_factors = tf.while_loop(lambda image, *_: image < batch, add_image, start)
            return d_pixels.stack(), None, d_factors.stack(), d_kernel

        return outputs, gradient

    return convolve(pixels, tf.stack(indices, axis=1), tf.stack(factors, axis=1), kernel)


def _gradients(pixels, indices, factors, kernel, upstream):
    """Return the gradients of one image's pixels (rows, channels), factors (4, ...) and kernel.

    Args:
        pixels, kernel: As in `_convolve_one_by_one`, without the batch.
        indices, factors: Those of the four neighbors, (4, new height, new width, points, offset_groups).
        upstream: Gradient of the outputs (positions, filters).
    """
    import tensorflow as tf

    neighbors = [tf.gather(pixels, index) for index in tf.unstack(indices)]
    samples = sum(
        values * factor[..., tf.newaxis] for values, factor in zip(neighbors, tf.unstack(factors), strict=True)
    )
    with tf.GradientTape() as tape:
        tape.watch((samples, kernel))
        outputs = _multiply(samples, kernel)
    d_samples, d_kernel = tape.gradient(outputs, (samples, kernel), upstream)
    d_factors = tf.stack([tf.reduce_sum(values * d_samples, axis=-1) for values in neighbors])
    # The transposed interpolation, in one pass: rows of d_samples times factors, added to the rows of the pixels.
    d_samples = tf.reshape(d_samples, (-1, pixels.shape[-1]))
    rows, samples = tf.shape(pixels, tf.int64)[0], tf.shape(d_samples, tf.int64)[0]
    places = tf.stack([tf.reshape(tf.cast(indices, tf.int64), [-1]), tf.tile(tf.range(samples), [4])], axis=1)
    interpolation = tf.SparseTensor(places, tf.reshape(factors, [-1]), (rows, samples))
    return tf.sparse.sparse_dense_matmul(interpolation, d_samples), d_factors, d_kernel


def _sample_positions(size, offsets, kernel_size, strides, padding, dilation_rate):
    """Return the rows and columns of all samples, each (batch, new height, new width, points, offset_groups)."""
    new_size, points, dtype = ops.shape(offsets)[1:3], kernel_size[0] * kernel_size[1], offsets.dtype
    offsets = ops.reshape(offsets, (-1, *new_size, offsets.shape[-1] // (2 * points), points, 2))
    offsets = ops.swapaxes(offsets, 3, 4)
    # The positions of the plain convolution in pixels of the unpadded map: (new length, kernel length).
    pads = _pads(size, kernel_size, strides, padding, dilation_rate)
    plain = [
        ops.expand_dims(ops.arange(count, dtype=dtype) * stride - ops.cast(before, dtype), 1)
        + dilation * ops.arange(length, dtype=dtype)
        for count, length, stride, (before, _), dilation in zip(
            new_size, kernel_size, strides, pads, dilation_rate, strict=True
        )
    ]
    down = ops.repeat(plain[0], kernel_size[1], axis=1)[:, None, :, None] + offsets[..., 0]
    right = ops.tile(plain[1], (1, kernel_size[0]))[:, :, None] + offsets[..., 1]
    return down, right


def _neighbors(positions, length):
    """Return (index, weight) of the pixel before and of the pixel after each position, in a map with a border of one.

    Positions are clipped to [-1, length], since everything beyond is zero. Indices are clipped too, for positions that
    are NaN or at the end.
    """
    positions = ops.clip(positions, -1, ops.cast(length, positions.dtype))
    before = ops.floor(positions)
    weight = positions - before
    index = ops.cast(before, "int32") + 1
    return (ops.clip(index, 0, length + 1), 1 - weight), (ops.clip(index + 1, 0, length + 1), weight)


def _pads(size, kernel_size, strides, padding, dilation_rate):
    """Return the zeros (before, after) in each of the two directions."""
    if padding != "same":
        return [(zeros, zeros) for zeros in _zeros(padding)]
    pads = []
    for length, kernel, stride, dilation in zip(size, kernel_size, strides, dilation_rate, strict=True):
        total = (-(-length // stride) - 1) * stride + (kernel - 1) * dilation + 1 - length
        total = max(total, 0) if isinstance(total, int) else ops.maximum(total, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def _zeros(padding):
    """Return the zeros on each side, (rows, columns), for a padding that does not depend on the size."""
    return (0, 0) if isinstance(padding, str) else padding


def _new_length(length, kernel, stride, dilation, zeros, *, same):
    """Return the number of positions of a kernel along one direction."""
    return -(-length // stride) if same else (length + 2 * zeros - (kernel - 1) * dilation - 1) // stride + 1


def _positive(name, value, count, minimum=1):
    """Return an integer or a sequence of `count` integers as a tuple; raise a ValueError for anything else."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * count
    if len(values) != count or not all(isinstance(v, int) and v >= minimum for v in values):
        pair = " or a pair of them" if count == 2 else ""
        or_word = ', "valid" or "same"' if name == "padding" else ""
        raise ValueError(
            f"DeformableConv2D got {name}={value!r}; it must be an integer of at least {minimum}{pair}{or_word}."
        )
    return values


def _check_divides(name, value, divisor, by):
    if value % by:
        raise ValueError(f"DeformableConv2D got {value} {name} and {divisor}={by}; {name} must be a multiple of it.")
