"""Deformable convolution against plain convolutions, shifted maps, its equations and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from keras_cnns.layers import DeformableConv2D, deformable_conv2d
from keras_cnns.layers.deformable_conv2d import deform_conv2d


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def moved(layer, seed=1, scale=0.05):
    """Set the variables of the offsets and masks of a built layer to random values."""
    for variable in layer.weights:
        if variable.name.startswith(("offset_", "mask_")):
            variable.assign(scale * draw(*variable.shape, seed=seed))
    return layer


# --- zero offsets: Keras's convolution


GEOMETRIES = [
    {"kernel_size": kernel_size, "strides": strides, "dilation_rate": dilation, "padding": padding}
    for kernel_size in (1, 2, 3, (3, 2))
    for strides, dilation in ((1, 1), (2, 1), ((2, 3), 1), (1, 2), (1, (3, 2)))
    for padding in ("same", "valid")
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: "-".join(map(str, g.values())))
def test_zero_offsets_are_the_plain_convolution(geometry):
    """With the weights of Keras's layer, at odd and even sizes, with and without a mask."""
    for height, width in ((9, 12), (10, 11)):
        x = draw(2, height, width, 4)
        plain = keras.layers.Conv2D(6, bias_initializer="random_normal", **geometry)
        expected = plain(x)
        for modulated in (False, True):
            layer = DeformableConv2D(6, modulated=modulated, **geometry)
            assert layer.compute_output_shape(x.shape) == expected.shape
            layer.build(x.shape)
            layer.kernel.assign(plain.kernel)
            layer.bias.assign(plain.bias)
            np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("offset_groups", [1, 2])
def test_groups_are_those_of_the_plain_convolution(groups, offset_groups):
    x, plain = draw(2, 7, 6, 8), keras.layers.Conv2D(12, 3, padding="same", groups=groups)
    expected = plain(x)
    layer = DeformableConv2D(12, 3, padding="same", groups=groups, offset_groups=offset_groups, modulated=True)
    layer.build(x.shape)
    layer.kernel.assign(plain.kernel)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid", 2, (0, 1)])
def test_strides_and_dilation_together(padding):
    """Keras has no such convolution: compare with every second row and third column of an unstrided one."""
    x = draw(2, 11, 13, 3)
    layer = DeformableConv2D(4, 3, strides=(2, 3), dilation_rate=2, padding=padding)
    out = layer(x)
    # "same" needs (ceil(11 / 2) - 1) * 2 + 5 - 11 = 4 rows of zeros and (ceil(13 / 3) - 1) * 3 + 5 - 13 = 4 columns.
    rows, columns = {"same": (2, 2), "valid": (0, 0), 2: (2, 2), (0, 1): (0, 1)}[padding]
    padded = np.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    dense = tf.nn.convolution(padded, layer.kernel.value, padding="VALID", dilations=2)
    np.testing.assert_allclose(out, dense[:, ::2, ::3], rtol=1e-4, atol=1e-5)
    # The convolution of the offsets has the same positions: its bias, and one weight in the middle of its kernel.
    assert layer.compute_output_shape(x.shape) == out.shape
    offsets, _ = moved(layer).offsets_and_mask(x)
    dense = tf.nn.convolution(padded, layer.offset_kernel.value, padding="VALID", dilations=2) + layer.offset_bias
    np.testing.assert_allclose(offsets, dense[:, ::2, ::3], rtol=1e-4, atol=1e-5)


# --- whole offsets: a shifted map; between pixels and outside


@pytest.mark.parametrize("shift", [(1, 0), (-2, 3), (0, -4), (30, 0)])
def test_a_whole_offset_is_a_shifted_map(shift):
    """Everything outside the map is zero, at any distance; offsets are (down, right)."""
    x, kernel = draw(2, 8, 9, 3), draw(3, 3, 3, 5, seed=1)
    down, right = shift
    far = np.pad(x, ((0, 0), (40, 40), (40, 40), (0, 0)))
    shifted = far[:, 39 + down : 49 + down, 39 + right : 50 + right]  # one pixel more on each side
    offsets = np.broadcast_to(np.tile(np.float32(shift), 9), (2, 8, 9, 18))
    out = deform_conv2d(tf.constant(x), tf.constant(offsets), tf.constant(kernel), padding=(1, 1))
    np.testing.assert_allclose(out, tf.nn.convolution(shifted, kernel, padding="VALID"), rtol=1e-4, atol=1e-5)


def sample(image, y, x):
    """Return the value of a map (height, width) at a position by equations (3) and (4) of Dai et al."""
    return sum(
        max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column)) * image[row, column]
        for row in range(image.shape[0])
        for column in range(image.shape[1])
    )


def test_samples_are_those_of_the_papers_equations():
    """Equation (2), one sample at a time: offsets, masks and offset groups, also fractions outside the border."""
    height, width, channels, filters, offset_groups = 4, 5, 4, 3, 2
    x, kernel = draw(1, height, width, channels), draw(2, 3, channels, filters, seed=1)
    offsets = 2 * draw(1, 3, 3, offset_groups * 6 * 2, seed=2)
    mask = draw(1, 3, 3, offset_groups * 6, seed=3)
    out = deform_conv2d(*map(tf.constant, (x, offsets, kernel, mask)))
    expected = np.zeros((3, 3, filters))
    moves, masks = offsets.reshape(3, 3, offset_groups, 2, 3, 2), mask.reshape(3, 3, offset_groups, 2, 3)
    for row, column, down, right, channel in np.ndindex(3, 3, 2, 3, channels):
        place = row, column, channel // 2, down, right
        value = sample(x[0, ..., channel], row + down + moves[place][0], column + right + moves[place][1])
        expected[row, column] += masks[place] * value * kernel[down, right, channel]
    np.testing.assert_allclose(out[0], expected, rtol=1e-4, atol=1e-4)


def test_nan_offsets_give_nan():
    """Diverging training must end in NaN, not in an index out of range."""
    x, kernel, offsets = draw(1, 4, 4, 2), draw(3, 3, 2, 2), np.zeros((1, 4, 4, 18), "float32")
    offsets[0, 0, 0] = np.nan
    offsets[0, 3, 3] = np.inf
    out = np.asarray(deform_conv2d(*map(tf.constant, (x, offsets, kernel)), padding="same"))
    assert np.isnan(out[0, 0, 0]).all() and np.isfinite(out[0, 1:, 1:]).all()


# --- gradients


def test_gradients_are_those_of_finite_differences():
    """In float64, of the map, the offsets, the kernel and the mask."""
    arguments = [draw(1, 4, 5, 4), 1.5 * draw(1, 4, 5, 36, seed=1), draw(3, 3, 2, 2, seed=2), draw(1, 4, 5, 18, seed=3)]
    arguments = [tf.constant(argument, "float64") for argument in arguments]
    direction = tf.constant(draw(1, 4, 5, 2, seed=4), "float64")

    def product(*values):
        return tf.reduce_sum(direction * deform_conv2d(*values, padding="same"))

    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = product(*arguments)
    step = 1e-6
    for place, gradient in enumerate(tape.gradient(value, arguments)):
        towards = tf.constant(draw(*gradient.shape, seed=5), "float64")
        ends = [[*arguments[:place], arguments[place] + s * towards, *arguments[place + 1 :]] for s in (step, -step)]
        difference = (product(*ends[0]) - product(*ends[1])) / (2 * step)
        np.testing.assert_allclose(tf.reduce_sum(gradient * towards), difference, rtol=1e-6)


def values_and_gradients(groups=1, offset_groups=1, strides=(1, 1), precision="float32", jit_compile=False):
    """Return the outputs and the gradients of random arguments, in a graph for any size, or with XLA for this size."""
    height, width = -(-7 // strides[0]), -(-6 // strides[1])
    shapes = (3, 7, 6, 8), (3, height, width, 18 * offset_groups), (3, 3, 8 // groups, 6)
    shapes = *shapes, (3, height, width, 9 * offset_groups)
    arguments = [tf.constant(1.5 * draw(*shape, seed=seed), precision) for seed, shape in enumerate(shapes)]
    any_size = [None, None, None, 8], [None, None, None, shapes[1][3]], shapes[2], [None, None, None, shapes[3][3]]

    @tf.function(
        input_signature=[tf.TensorSpec(shape, precision) for shape in (shapes if jit_compile else any_size)],
        jit_compile=jit_compile,
    )
    def compute(*arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            outputs = deform_conv2d(*arguments, strides=strides, padding="same")
            loss = tf.reduce_sum(tf.sin(outputs))
        return outputs, *tape.gradient(loss, arguments)

    return compute(*arguments)


def assert_near(values, expected, tolerance):
    for one, other in zip(values, expected, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one / scale, other / scale, atol=tolerance)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 5e-6), ("float64", 1e-13)])
@pytest.mark.parametrize("geometry", [(1, 1, (1, 1)), (1, 2, (2, 1)), (2, 4, (1, 2))], ids=str)
def test_images_one_by_one_give_what_they_give_together(geometry, precision, tolerance, monkeypatch):
    """On TensorFlow's CPU images are convolved one by one, with gradients written by hand."""
    one_by_one = values_and_gradients(*geometry, precision)
    monkeypatch.delattr(deformable_conv2d, "_convolve_one_by_one")
    monkeypatch.setattr(deformable_conv2d, "on_tensorflow_cpu", lambda: False)
    assert_near(one_by_one, values_and_gradients(*geometry, precision), tolerance)


def test_xla_takes_the_images_together():
    """Sparse matrices, of which the gradients written by hand make use, are unknown to XLA."""
    assert_near(values_and_gradients(jit_compile=True), values_and_gradients(), 5e-6)


def test_a_small_network_learns_its_offsets():
    """The target is the image shifted by one row and two columns, which the offsets must learn."""
    keras.utils.set_random_seed(0)
    phase = 3 * draw(2, 32, 1, 1, 1)
    rows, columns = np.arange(10.0)[:, None, None], np.arange(12.0)[:, None]
    waves = (np.sin(0.7 * rows + phase[0]) + np.sin(0.7 * columns + phase[1])).astype("float32")
    x, y = waves, waves[:, 2:-1, 3:-2]
    layer = DeformableConv2D(1, 1, modulated=True, use_bias=False, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((10, 12, 1)), layer, keras.layers.Cropping2D(((1, 2), (1, 4)))])
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
    losses = [model.train_on_batch(x, y) for _ in range(150)]
    assert model.test_on_batch(x, y) < 0.02 * losses[0]
    np.testing.assert_allclose(layer.offset_bias, [1, 2], atol=0.3)


# --- the layer


@pytest.mark.parametrize("modulated", [False, True])
def test_variables(modulated):
    layer = DeformableConv2D(6, (3, 2), groups=2, offset_groups=4, modulated=modulated)
    layer.build((None, None, None, 8))
    shapes = {variable.name: tuple(variable.shape) for variable in layer.trainable_variables}
    expected = {"kernel": (3, 2, 4, 6), "bias": (6,), "offset_kernel": (3, 2, 8, 48), "offset_bias": (48,)}
    assert shapes == expected | ({"mask_kernel": (3, 2, 8, 24), "mask_bias": (24,)} if modulated else {})
    assert all(np.any(v) == (v.name == "kernel") for v in layer.weights)


def test_offsets_and_mask_come_from_the_input():
    """By hand: with biases only, 0.5 pixels down and a mask of 2 * sigmoid(1)."""
    layer, x = DeformableConv2D(1, 1, modulated=True, kernel_initializer="ones"), draw(1, 3, 3, 1)
    layer.build(x.shape)
    layer.offset_bias.assign([0.5, 0])
    layer.mask_bias.assign([1])
    below = np.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)))[:, 1:]
    np.testing.assert_allclose(layer(x), 2 / (1 + np.exp(-1)) * (x + below) / 2, rtol=1e-5, atol=1e-6)
    # With a kernel: the value of the pixel is the offset to the right.
    layer.offset_bias.assign([0, 0])
    layer.mask_bias.assign([0])
    layer.offset_kernel.assign([[[[0, 1]]]])
    out = layer(np.float32([[[[1], [2], [-2], [5]]]]))
    np.testing.assert_allclose(np.ravel(out), [2, 5, 1, 0], atol=1e-6)


@pytest.mark.parametrize("modulated", [False, True])
def test_any_size(modulated):
    """A model of size (None, None) equals the layer at each size, in a graph too."""
    for padding in ("same", "valid", 1):
        layer = DeformableConv2D(4, 3, strides=2, padding=padding, modulated=modulated)
        model = keras.Sequential([keras.Input((None, None, 3)), layer])
        moved(layer)
        assert model.output_shape == (None, None, None, 4)
        graph = tf.function(model, input_signature=[tf.TensorSpec((None, None, None, 3))])
        for height, width in ((5, 8), (12, 7)):
            x = draw(2, height, width, 3)
            expected = layer(x)
            assert graph(x).shape == layer.compute_output_shape(x.shape) == expected.shape
            np.testing.assert_allclose(graph(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("modulated", [False, True])
def test_save_and_load(modulated, tmp_path):
    arguments = {"padding": (2, 1), "strides": (1, 2), "dilation_rate": (2, 1), "groups": 2, "offset_groups": 2}
    layer = DeformableConv2D(4, (3, 2), modulated=modulated, kernel_regularizer="l2", name="conv", **arguments)
    model = keras.Sequential([keras.Input((6, 7, 4)), layer])
    moved(layer)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    config = loaded.get_layer("conv").get_config()
    assert type(loaded.get_layer("conv")) is DeformableConv2D and config == layer.get_config()
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in config.items()}.items() >= arguments.items()
    np.testing.assert_array_equal(loaded(draw(2, 6, 7, 4)), model(draw(2, 6, 7, 4)))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    """The map is in half precision, positions are not: 300.3 pixels would be 300.25 or 300."""
    layer = DeformableConv2D(2, 1, modulated=True, kernel_initializer="ones", use_bias=False, dtype=policy)
    x = np.zeros((1, 2, 400, 1), "float32")
    x[..., 300, :] = 1
    layer.build(x.shape)
    layer.offset_bias.assign([0, 300.3])
    out = layer(x)
    assert out.dtype == policy.removeprefix("mixed_")
    assert {variable.dtype for variable in layer.weights} == {"float32"}
    offsets, mask = layer.offsets_and_mask(tf.cast(x, out.dtype))
    assert offsets.dtype == mask.dtype == "float32"
    np.testing.assert_allclose(np.asarray(out, "float32")[0, 0, 0], 0.7, atol=3e-3)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(draw(*x.shape)))
    gradients = tape.gradient(loss, [variable.value for variable in layer.weights])
    assert all(np.isfinite(gradient).all() and np.any(gradient) for gradient in gradients)


def test_complexity_counts_every_kernel():
    layer = DeformableConv2D(6, 3, strides=2, padding="same", groups=2, modulated=True)
    cost = keras_cnns.complexity(keras.Sequential([keras.Input((8, 7, 4)), layer]))
    kernel, offsets, masks = 9 * 2 * 6, 9 * 4 * 18, 9 * 4 * 9
    assert cost.multiply_adds == 4 * 4 * (kernel + offsets + masks)
    assert cost.parameters == kernel + 6 + offsets + 18 + masks + 9
    assert cost.activations == 4 * 4 * 6


@pytest.mark.parametrize(
    ("arguments", "channels", "message"),
    [
        ({"filters": 0}, 4, r"filters=0; it must be an integer of at least 1\."),
        ({"kernel_size": (3, 3, 3)}, 4, r"kernel_size=\(3, 3, 3\); .* at least 1 or a pair of them\."),
        ({"strides": 0}, 4, r"strides=0; it must be an integer of at least 1 or a pair"),
        ({"dilation_rate": 1.5}, 4, r"dilation_rate=1\.5; it must be an integer"),
        ({"padding": "full"}, 4, r"padding='full'; .* at least 0 or a pair of them, \"valid\" or \"same\"\."),
        ({"groups": 3}, 3, r"got 4 filters and groups=3; filters must be a multiple of it"),
        ({"groups": 2}, 3, r"got 3 channels and groups=2; channels must be a multiple of it"),
        ({"offset_groups": 3}, 4, r"got 4 channels and offset_groups=3; channels must be a multiple of it"),
        ({"kernel_size": 7}, 4, r"a map of 5 x 5 pixels, smaller than its kernel of \(7, 7\) .* Pass larger images or"),
    ],
)
def test_errors(arguments, channels, message):
    with pytest.raises(ValueError, match=message):
        DeformableConv2D(**({"filters": 4, "kernel_size": 3} | arguments))(keras.Input((5, 5, channels)))
