"""The forms of convolutions and their gradients at shapes that networks have, among which our layers choose."""

from training.benchmarks.frame import seconds_per_step

# Batch, pixels of the map, kernel, stride, channels, filters; with stride 2 the map is padded by half the kernel. A
# depthwise convolution has None for its filters.
SHAPES = (
    (32, 1, 1, 1, 832, 384),
    (32, 4, 1, 1, 256, 64),
    (32, 16, 1, 1, 64, 24),
    (8, 7, 1, 1, 512, 2048),
    (8, 14, 1, 1, 1024, 256),
    (8, 28, 1, 1, 512, 128),
    (8, 56, 1, 1, 64, 256),
    (8, 14, 1, 2, 1024, 2048),
    (8, 56, 1, 2, 256, 512),
    (32, 1, 3, 1, 512, 512),
    (32, 2, 3, 1, 64, 64),
    (32, 2, 3, 1, 256, 256),
    (32, 2, 3, 1, 192, 384),
    (32, 4, 3, 1, 128, 128),
    (32, 8, 3, 1, 64, 64),
    (32, 8, 3, 1, 200, 12),
    (32, 16, 3, 1, 120, 12),
    (32, 4, 5, 1, 32, 64),
    (32, 8, 5, 1, 16, 48),
    (8, 7, 3, 1, 512, 512),
    (8, 14, 3, 1, 256, 256),
    (8, 28, 3, 1, 128, 32),
    (8, 28, 3, 1, 128, 128),
    (8, 56, 3, 1, 64, 64),
    (32, 2, 3, 2, 256, 512),
    (32, 4, 3, 2, 128, 256),
    (32, 8, 3, 2, 64, 128),
    (8, 14, 3, 2, 512, 512),
    (8, 28, 3, 2, 256, 256),
    (8, 56, 3, 2, 128, 128),
    (32, 2, 3, 1, 480, None),
    (32, 4, 5, 1, 240, None),
    (8, 7, 5, 1, 1152, None),
    (8, 14, 5, 1, 672, None),
    (8, 28, 5, 1, 240, None),
    (8, 56, 5, 2, 144, None),
)


def title(shape):
    """Return a shape as text."""
    batch, size, taps, stride, channels, filters = shape
    kind = "depthwise" if filters is None else f"{filters} filters"
    return f"({batch}, {size}, {size}, {channels}), {taps}x{taps}, stride {stride}, {kind}"


def measure_forms(shapes, rounds, seconds):
    """Measure the forms of the output and of both gradients, in turn.

    Args:
        shapes: Some of SHAPES.
        rounds: Turns of each form.
        seconds: Seconds of the turns of all forms together, at least one call each.

    Returns:
        A list of (shape, what is computed, {form: seconds per call in each round}, the form that Conv2D uses).
    """
    return [
        (shape, what, turns(forms, rounds, seconds), chosen)
        for shape in shapes
        for what, (forms, chosen) in forms_of(shape).items()
    ]


def forms_of(shape):
    """Return {what is computed: ({form: function that computes it}, the form that Conv2D uses)}."""
    import numpy as np
    import tensorflow as tf

    import keras_cnns

    batch, pixels, taps, stride, channels, filters = shape
    padding, pixels = ("same", pixels) if stride == 1 else ("valid", pixels + 2 * (taps // 2))
    random = np.random.RandomState(0)
    x = tf.constant(random.normal(size=(batch, pixels, pixels, channels)), tf.float32)
    kernel = tf.constant(random.normal(size=(taps, taps, channels, filters or 1)), tf.float32)
    if filters is None:
        layer, dy = "DepthwiseConv2D", tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], padding.upper())
    else:
        layer, dy = "Conv2D", tf.nn.conv2d(x, kernel, stride, padding.upper())
    forms_of_layer = getattr(keras_cnns.layers, layer).forms_of(x, kernel, stride, padding)
    return {
        what: ({form: compiled(function, x if what == "output" else dy) for form, function in forms.items()}, used)
        for what, (forms, used) in forms_of_layer.items()
    }


def compiled(function, tensor):
    """Return a function without arguments that computes a function of a tensor in a graph."""
    import tensorflow as tf

    signature = [tf.TensorSpec(tensor.shape, tensor.dtype)]
    graph = tf.function(lambda tensor: function(tensor), autograph=False, input_signature=signature)
    concrete = graph.get_concrete_function()
    return lambda: concrete(tensor)


def turns(functions, rounds, seconds):
    """Return {name: seconds per call in each round} of functions that have turns, every other round in reverse."""
    figures, names = {name: [] for name in functions}, list(functions)
    for _ in range(rounds):
        for name in names:
            figures[name].append(seconds_per_step(functions[name], seconds / (rounds * len(names))))
        names.reverse()
    return figures
