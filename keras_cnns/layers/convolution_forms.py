"""Convolutions and their gradients in several forms, and the choice of the fastest on a CPU; for TensorFlow only.

TensorFlow's own kernels are slow where maps are small or channels many. The forms, for stride 1 or 2:

- product: a 1x1 convolution is a product of matrices, and so are its gradients.
- eigen: the kernel that TensorFlow has without oneDNN, for the output and for the gradient of a depthwise filter.
  oneDNN's rearranges the weights in every call, which takes longer than the convolution where they outnumber the
  pixels; and its gradient of depthwise filters is slow for more than three columns.
- taps: one product of matrices per tap, that is position, of the kernel; the input's gradient is the sum of the moved
  products, the filter's the products themselves. With stride 2, even and odd positions of the input meet different taps
  and are summed separately.
- convolution: the input's gradient for stride 1 is a convolution of the output's gradient with the kernel turned by 180
  degrees, input and output channels exchanged.
"""

import functools
import itertools
import math

WIDE = 2**14  # channels times filters from which TensorFlow's kernels are slow on small maps


def onednn_is_on():
    """Return whether TensorFlow computes with oneDNN in this process."""
    from tensorflow.python.util import _pywrap_util_port

    return _pywrap_util_port.IsMklEnabled()


def convolution(x, kernel, stride, padding):
    """Return `tf.nn.conv2d(x, kernel, stride, padding)` and its gradients, computed in the fastest known forms.

    Args:
        x: Feature maps (batch, height, width, channels), float32 or float64; the sizes may be unknown.
        kernel: Kernel (height, width, channels, filters).
        stride: 1 or 2, in both directions.
        padding: "same" or "valid".
    """
    import tensorflow as tf

    size, kernel, forms = choose(x, tf.convert_to_tensor(kernel), stride, padding)
    output_form, input_form, filter_form = forms
    if set(forms) in ({"tensorflow"}, {"product"}):  # gradients of its own would take time to trace
        return OUTPUTS[output_form](x, kernel, stride, padding)

    @tf.custom_gradient
    def with_gradients(x, kernel):
        def gradients(dy):
            return (
                INPUT_GRADIENTS[input_form](dy, kernel, tf.shape(x), size, stride, padding),
                FILTER_GRADIENTS[filter_form](x, dy, kernel.shape, stride, padding),
            )

        return OUTPUTS[output_form](x, kernel, stride, padding), gradients

    return with_gradients(x, kernel)


def depthwise_convolution(x, kernel, stride, padding):
    """Return `tf.nn.depthwise_conv2d` and its gradients, computed in the fastest known forms.

    Args:
        x, stride, padding: As for `convolution`.
        kernel: Kernel (height, width, channels, multiplier).
    """
    import tensorflow as tf

    kernel, form = choose_depthwise(x, tf.convert_to_tensor(kernel), stride, padding)
    options = {"strides": [1, stride, stride, 1], "padding": padding.upper()}
    if form == "tensorflow":
        return tf.nn.depthwise_conv2d(x, kernel, **options)

    @tf.custom_gradient
    def with_gradients(x, kernel):
        def gradients(dy):
            return (
                tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                    input_sizes=tf.shape(x), filter=kernel, out_backprop=dy, **options
                ),
                DEPTHWISE_FILTER_GRADIENTS[form](x, dy, kernel.shape, stride, padding),
            )

        return tf.nn.depthwise_conv2d(x, kernel, **options), gradients

    return with_gradients(x, kernel)


def choose_depthwise(x, kernel, stride, padding):
    """Return the part of a depthwise kernel that is needed, and the fastest form of its gradient."""
    size, kernel = needed_part(x, kernel, stride, padding)
    slow = kernel.shape[1] > 3 or outputs_of(kernel.shape, size, stride, padding) <= 2
    return kernel, "eigen" if onednn_is_on() and slow and None not in size else "tensorflow"


def depthwise_forms_of(x, kernel, stride, padding):
    """Return what `forms_of` returns, of a depthwise convolution."""
    kernel, used = choose_depthwise(x, kernel, stride, padding)
    forms = {
        form: lambda dy, gradient=gradient: gradient(x, dy, kernel.shape, stride, padding)
        for form, gradient in DEPTHWISE_FILTER_GRADIENTS.items()
        if form != "eigen" or onednn_is_on()
    }
    return {"gradient of the filter": (forms, used)}


def choose(x, kernel, stride, padding):
    """Return the size of the map, the part of the kernel that is needed, and the fastest forms."""
    size, kernel = needed_part(x, kernel, stride, padding)
    return size, kernel, fastest_forms(kernel.shape, size, stride, padding, onednn_is_on())


def forms_of(x, kernel, stride, padding):
    """Return {"output", "gradient of the input" or "of the filter": ({form: function}, the form that is used)}.

    The function of an output takes x, the maps; that of a gradient takes the gradient of the output.

    Args:
        x, kernel, stride, padding: As for `convolution`; sizes are known.
    """
    import tensorflow as tf

    size, needed, used = choose(x, kernel, stride, padding)
    single = stride == 1 and tuple(needed.shape[:2]) == (1, 1)
    left_out = {"eigen", "convolution", "taps"} if single else {"product"}
    left_out |= set() if stride == 1 else {"convolution"}
    left_out |= set() if onednn_is_on() else {"eigen"}

    def forms(functions, compute):
        """TensorFlow's own forms know nothing of taps outside the map."""
        return {
            form: functools.partial(compute, function, kernel if form == "tensorflow" else needed)
            for form, function in functions.items()
            if form not in left_out
        }

    def output(function, kernel, x):
        return function(x, kernel, stride, padding)

    def of_input(gradient, kernel, dy):
        return gradient(dy, kernel, tf.shape(x), size, stride, padding)

    def of_filter(gradient, kernel, dy):
        return gradient(x, dy, kernel.shape, stride, padding)

    return {
        "output": (forms(OUTPUTS, output), used[0]),
        "gradient of the input": (forms(INPUT_GRADIENTS, of_input), used[1]),
        "gradient of the filter": (forms(FILTER_GRADIENTS, of_filter), used[2]),
    }


def needed_part(x, kernel, stride, padding):
    """Return the size of the map, and the part of the kernel that is needed."""
    size = tuple(x.shape[1:3])
    return size, without_outer_taps(kernel, size) if stride == 1 and padding == "same" else kernel


def without_outer_taps(kernel, size):
    """Return the part of an odd kernel that meets a map of this size, such as the center of 3x3 on a single pixel."""
    reach = [taps // 2 for taps in kernel.shape[:2]]
    unused = [max(0, r - (pixels - 1)) if pixels else 0 for r, pixels in zip(reach, size, strict=True)]
    if not any(unused) or not all(taps % 2 for taps in kernel.shape[:2]):
        return kernel
    import tensorflow as tf

    (top, left), (height, width, *channels) = unused, kernel.shape
    # The gradient of tf.slice is padding, which is faster than that of Python's slices.
    return tf.slice(kernel, (top, left, 0, 0), (height - 2 * top, width - 2 * left, *channels))


def fastest_forms(kernel, size, stride, padding, onednn):
    """Return the names of the fastest forms of the output and of the input's and the filter's gradient.

    The limits are those of `python -m training benchmark layers`.

    Args:
        kernel: Shape of the kernel (height, width, channels, filters).
        size: Height and width of the map, which may be None.
        stride: 1 or 2.
        padding: "same" or "valid".
        onednn: Whether TensorFlow computes with oneDNN.
    """
    height, width, channels, filters = kernel
    one_by_one, outputs = (height, width) == (1, 1), outputs_of(kernel, size, stride, padding)
    wide = channels * filters >= WIDE
    if one_by_one and stride == 1:
        if onednn and outputs > 8:
            return ("tensorflow",) * 3
        return "tensorflow" if 8 < outputs < math.inf else "product", "product", "product"
    if onednn:
        output_form = "eigen" if outputs <= 3 and wide else "tensorflow"
        filter_form = "taps" if outputs <= (3 if stride == 1 else 1) and not one_by_one else "tensorflow"
        few = outputs <= 2 or (stride == 2 and outputs <= 7 and (wide or one_by_one))
        return output_form, "taps" if few else "tensorflow", filter_form
    symmetric = padding == "same" and height % 2 == width % 2 == 1
    if stride == 2:
        input_form = "taps" if outputs <= 14 and (wide or one_by_one) else "tensorflow"
    else:
        input_form = "convolution" if symmetric and (wide or outputs >= 12 or filters < 32) else "tensorflow"
    return "tensorflow", input_form, "tensorflow"


def outputs_of(kernel, size, stride, padding):
    """Return the greater side of the output; infinity if the size of the input is unknown."""
    if None in size:
        return math.inf
    return max(output_size(*pair, stride, padding) for pair in zip(size, kernel[:2], strict=True))


def output_size(pixels, taps, stride, padding):
    """Return the number of outputs along an axis."""
    return -(-pixels // stride) if padding == "same" else (pixels - taps) // stride + 1


def padded_before(pixels, taps, stride, padding):
    """Return the zeros that TensorFlow adds before the first pixel along an axis."""
    outputs = output_size(pixels, taps, stride, padding)
    return max((outputs - 1) * stride + taps - pixels, 0) // 2 if padding == "same" else 0


def output_by_tensorflow(x, kernel, stride, padding):
    import tensorflow as tf

    return tf.nn.conv2d(x, kernel, stride, padding.upper())


def output_by_eigen(x, kernel, stride, padding):
    import tensorflow as tf

    # oneDNN takes the place of Conv2D, but not of the general Conv.
    return tf.raw_ops.Conv(input=x, filter=kernel, strides=[1, stride, stride, 1], padding=padding.upper())


def output_by_product(x, kernel, stride, padding):
    import tensorflow as tf

    channels, filters = kernel.shape[2:]
    y = tf.matmul(tf.reshape(x, (-1, channels)), tf.reshape(kernel, (channels, filters)))
    sizes = x.shape[1:3]
    return tf.reshape(y, (-1, *(sizes if None not in sizes else tf.unstack(tf.shape(x)[1:3])), filters))


def input_gradient_by_tensorflow(dy, kernel, shape, size, stride, padding):
    import tensorflow as tf

    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=shape, filter=kernel, out_backprop=dy, strides=[1, stride, stride, 1], padding=padding.upper()
    )


def input_gradient_by_convolution(dy, kernel, shape, size, stride, padding):
    import tensorflow as tf

    height, width, channels, filters = kernel.shape
    # TensorFlow transposes three axes several times as fast as four.
    turned = tf.reverse(tf.reshape(kernel, (height * width, channels, filters)), [0])
    turned = tf.reshape(tf.transpose(turned, (0, 2, 1)), (height, width, filters, channels))
    return tf.nn.conv2d(dy, turned, 1, "SAME")


def input_gradient_by_taps(dy, kernel, shape, size, stride, padding):
    import tensorflow as tf

    height, width, channels, filters = kernel.shape
    # A slice of the first axis needs no copy.
    vectors, matrices = tf.reshape(dy, (-1, filters)), tf.reshape(kernel, (-1, channels, filters))

    def product_of(row, column):
        maps = tf.matmul(vectors, matrices[row * width + column], transpose_b=True)
        return tf.reshape(maps, (shape[0], *dy.shape[1:3], channels))

    before = [padded_before(*pair, stride, padding) for pair in zip(size, (height, width), strict=True)]
    columns = [
        sum_of_moved([product_of(row, column) for row in range(height)], 1, stride, before[0], size[0])
        for column in range(width)
    ]
    return sum_of_moved(columns, 2, stride, before[1], size[1])


def sum_of_moved(parts, axis, stride, before, size):
    """Return the sum of the parts of the input's gradient that the taps along an axis contribute.

    Args:
        parts: A map per tap with the outputs along the axis; output o of tap t contributes to the input's position
            stride * o + t - before.
        axis: 1 or 2.
        stride: 1 or 2.
        before: Zeros that were added before the first position.
        size: Number of positions in the input.
    """
    import tensorflow as tf

    length = -(-size // stride)
    phases = []
    for phase in range(stride):
        taps = [tap for tap in range(len(parts)) if (tap - before - phase) % stride == 0]
        moved = [move(parts[tap], axis, (tap - before - phase) // stride, length) for tap in taps]
        phases.append(tf.add_n(moved) if moved else None)
    if stride == 1:
        return phases[0]
    zeros = tf.zeros_like(next(phase for phase in phases if phase is not None))
    both = tf.stack([zeros if phase is None else phase for phase in phases], axis + 1)
    shape = tf.shape(zeros)
    both = tf.reshape(both, [*tf.unstack(shape)[:axis], stride * length, *zeros.shape[axis + 1 :]])
    return both[:, :size] if axis == 1 else both[:, :, :size]


def move(x, axis, distance, length):
    """Move a map along an axis, zeros where nothing comes, and return `length` positions of it."""
    import tensorflow as tf

    pixels = x.shape[axis]
    begin = max(0, -distance)
    end = max(begin, min(pixels, length - distance))
    if (begin, end) != (0, pixels):
        x = x[:, begin:end] if axis == 1 else x[:, :, begin:end]
    before = min(max(0, distance), length)
    padding = [[0, 0]] * 4
    padding[axis] = [before, length - before - (end - begin)]
    return tf.pad(x, padding) if any(padding[axis]) else x


def filter_gradient_by_tensorflow(x, dy, shape, stride, padding):
    import tensorflow as tf

    return tf.raw_ops.Conv2DBackpropFilter(
        input=x, filter_sizes=shape, out_backprop=dy, strides=[1, stride, stride, 1], padding=padding.upper()
    )


def filter_gradient_by_taps(x, dy, shape, stride, padding):
    import tensorflow as tf

    height, width, channels, filters = shape
    x, vectors = tf.pad(x, borders(x, shape, stride, padding)), tf.reshape(dy, (-1, filters))
    rows, columns = ((outputs - 1) * stride + 1 for outputs in dy.shape[1:3])
    return tf.reshape(
        [
            tf.matmul(
                tf.reshape(x[:, row : row + rows : stride, column : column + columns : stride], (-1, channels)),
                vectors,
                transpose_a=True,
            )
            for row in range(height)
            for column in range(width)
        ],
        shape,
    )


def borders(x, kernel, stride, padding):
    """Return the zeros before and after each axis of a map that a kernel of this shape meets."""
    sides = []
    for pixels, taps in zip(x.shape[1:3], kernel[:2], strict=True):
        before = padded_before(pixels, taps, stride, padding)
        used = (output_size(pixels, taps, stride, padding) - 1) * stride + taps
        sides.append([before, max(0, used - pixels - before)])
    return [[0, 0], *sides, [0, 0]]


def depthwise_filter_gradient_by_tensorflow(x, dy, shape, stride, padding):
    import tensorflow as tf

    return tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=x, filter_sizes=shape, out_backprop=dy, strides=[1, stride, stride, 1], padding=padding.upper()
    )


def depthwise_filter_gradient_by_eigen(x, dy, shape, stride, padding):
    import tensorflow as tf

    # oneDNN takes the place of this operation unless its padding is explicit.
    return tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=x,
        filter_sizes=shape,
        out_backprop=dy,
        strides=[1, stride, stride, 1],
        padding="EXPLICIT",
        explicit_paddings=[*itertools.chain(*borders(x, shape, stride, padding))],
    )


OUTPUTS = {"tensorflow": output_by_tensorflow, "eigen": output_by_eigen, "product": output_by_product}
INPUT_GRADIENTS = {
    "tensorflow": input_gradient_by_tensorflow,
    "convolution": input_gradient_by_convolution,
    "taps": input_gradient_by_taps,
    "product": input_gradient_by_taps,  # of a single tap
}
FILTER_GRADIENTS = {
    "tensorflow": filter_gradient_by_tensorflow,
    "taps": filter_gradient_by_taps,
    "product": filter_gradient_by_taps,  # of a single tap
}
DEPTHWISE_FILTER_GRADIENTS = {
    "tensorflow": depthwise_filter_gradient_by_tensorflow,
    "eigen": depthwise_filter_gradient_by_eigen,
}
