"""The forms of the gradients of convolutions at shapes that networks have: what `Conv2D` chooses among."""

import time

# Batch, pixels of the map, kernel, stride, channels, filters; with stride 2 the map is padded by half the kernel.
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
    (32, 4, 3, 2, 128, 256),
    (32, 8, 3, 2, 64, 128),
    (8, 14, 3, 2, 512, 512),
    (8, 28, 3, 2, 256, 256),
    (8, 56, 3, 2, 128, 128),
)


def title(shape):
    """Return a shape as text."""
    batch, size, taps, stride, channels, filters = shape
    return f"({batch}, {size}, {size}, {channels}), {taps}x{taps}, stride {stride}, {filters} filters"


def measure_forms(shapes, rounds, seconds):
    """Measure the forms of both gradients, in turn.

    Args:
        shapes: Some of SHAPES.
        rounds: Turns of each form.
        seconds: Seconds of the turns of all forms of a gradient together, at least one call each.

    Returns:
        A list of (shape, "input" or "filter", {form: seconds per call in each round}, the form that Conv2D uses).
    """
    return [
        (shape, gradient, turns(forms, rounds, seconds), chosen)
        for shape in shapes
        for gradient, (forms, chosen) in forms_of(shape).items()
    ]


def forms_of(shape):
    """Return {gradient: ({form: function that computes it}, the form that Conv2D uses)} of a shape."""
    import numpy as np
    import tensorflow as tf

    from keras_cnns.layers import convolution_gradients as gradients

    batch, pixels, taps, stride, channels, filters = shape
    padding, pixels = ("same", pixels) if stride == 1 else ("valid", pixels + 2 * (taps // 2))
    random, size = np.random.RandomState(0), (pixels, pixels)
    x = tf.constant(random.normal(size=(batch, *size, channels)), tf.float32)
    kernel = tf.constant(random.normal(size=(taps, taps, channels, filters)), tf.float32)
    dy = tf.nn.conv2d(x, kernel, stride, padding.upper())
    used = gradients.without_outer_taps(kernel, size) if stride == 1 else kernel
    chosen = gradients.fastest_forms(used.shape, size, stride, padding, gradients.onednn_is_on())

    def weights(form):
        return kernel if form == "tensorflow" else used  # TensorFlow's own knows nothing of taps outside the map

    single = stride == 1 and used.shape[:2] == (1, 1)
    names = {"taps": "product"} if single else {}  # a single tap is a product of matrices
    of_input = {
        names.get(form, form): compiled(gradient, dy, weights(form), tf.shape(x), size, stride, padding)
        for form, gradient in gradients.INPUT_GRADIENTS.items()
        if form != "convolution" or (stride == 1 and not single)
    }
    of_filter = {
        names.get(form, form): compiled(gradient, x, dy, weights(form).shape, stride, padding)
        for form, gradient in gradients.FILTER_GRADIENTS.items()
    }
    return {"input": (of_input, chosen[0]), "filter": (of_filter, chosen[1])}


def compiled(function, tensor, *others):
    """Return a function without arguments that computes a function of a tensor, and of others, in a graph."""
    import tensorflow as tf

    signature = [tf.TensorSpec(tensor.shape, tensor.dtype)]
    graph = tf.function(lambda tensor: function(tensor, *others), autograph=False, input_signature=signature)
    concrete = graph.get_concrete_function()
    return lambda: concrete(tensor)


def turns(functions, rounds, seconds):
    """Return {name: seconds per call in each round} of functions that have turns, every other round in reverse."""
    for function in functions.values():
        function()
    figures = {name: [] for name in functions}
    names = list(functions)
    for _ in range(rounds):
        for name in names:
            count, started = 0, time.perf_counter()
            while (taken := time.perf_counter() - started) < seconds / (rounds * len(names)) or not count:
                functions[name]()
                count += 1
            figures[name].append(taken / count)
        names.reverse()
    return figures
