"""Local response normalization against its definition."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cnns.layers import LocalResponseNormalization


def reference(x, size, alpha, beta, bias):
    """Section 3.3 of Krizhevsky et al. 2012, one channel at a time."""
    out, channels = np.empty_like(x), x.shape[-1]
    for c in range(channels):
        low, high = max(0, c - size // 2), min(channels - 1, c + size // 2)
        energy = sum(x[..., j] ** 2 for j in range(low, high + 1))
        out[..., c] = x[..., c] / (bias + alpha * energy) ** beta
    return out


@pytest.mark.parametrize("channels", [2, 8, 70])  # fewer than the window, and more
@pytest.mark.parametrize(
    "arguments", [(5, 1e-4, 0.75, 2.0), (3, 0.5, 0.5, 1.0), (1, 0.2, 2.0, 1.5), (3, 0.5, 0.75, 0.0), (3, 0, 0.5, 2.0)]
)
def test_it_equals_its_definition(channels, arguments):
    x = np.random.default_rng(0).normal(0, 10, (2, 3, 4, channels))
    out = LocalResponseNormalization(*arguments)(x.astype("float32"))
    np.testing.assert_allclose(out, reference(x, *arguments), rtol=1e-5, atol=1e-6)


def test_without_bias_a_neighborhood_of_zeros_is_nan_and_others_are_not():
    """0 / 0 in the definition."""
    x = np.array([[[[0.0, 0, 0, 0, 3, 4, 0]]]])
    out = LocalResponseNormalization(3, alpha=1.0, beta=0.5, bias=0.0)(x.astype("float32"))
    np.testing.assert_allclose(np.ravel(out), [np.nan, np.nan, np.nan, 0, 0.6, 0.8, 0], rtol=1e-6)


def test_any_size():
    layer, x = LocalResponseNormalization(), np.random.default_rng(0).normal(0, 10, (2, 3, 4, 8))
    graph = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 8))])
    np.testing.assert_allclose(graph(x.astype("float32")), reference(x, 5, 1e-4, 0.75, 2.0), rtol=1e-5)


def test_it_has_the_papers_constants():
    layer = LocalResponseNormalization()
    assert (layer.size, layer.alpha, layer.beta, layer.bias) == (5, 1e-4, 0.75, 2.0)


def test_save_and_load(tmp_path):
    arguments = {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 1.5}
    model = keras.Sequential([keras.Input((2, 2, 4)), LocalResponseNormalization(**arguments, name="norm")])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("norm")) is LocalResponseNormalization
    assert loaded.get_layer("norm").get_config().items() >= arguments.items()
    x = np.random.default_rng(0).normal(size=(1, 2, 2, 4))
    np.testing.assert_array_equal(loaded(x), model(x))


def test_half_precision():
    """Five times 200 squared overflows float16, whose maximum is 65504."""
    x = np.full((1, 2, 2, 8), 200.0)
    out = LocalResponseNormalization(dtype="mixed_float16")(x)
    assert out.dtype == "float16"
    np.testing.assert_allclose(out, reference(x, 5, 1e-4, 0.75, 2.0), rtol=1e-3)


def test_double_precision():
    x = np.random.default_rng(0).normal(0, 10, (2, 3, 4, 8))
    out = LocalResponseNormalization(dtype="float64")(x)
    assert out.dtype == "float64"
    np.testing.assert_allclose(out, reference(x, 5, 1e-4, 0.75, 2.0), rtol=1e-13)


def test_gradients_are_those_of_finite_differences():
    layer, random = LocalResponseNormalization(3, alpha=0.5, bias=1.0), np.random.default_rng(0)
    x, weights = random.normal(size=(2, 1, 1, 2, 6)).astype("float32")
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(weights * layer(variable))
    differences, step = np.empty_like(x), 1e-2
    for index in np.ndindex(x.shape):
        change = np.zeros_like(x)
        change[index] = step
        rise = weights * (layer(x + change) - layer(x - change))
        differences[index] = np.sum(rise) / (2 * step)
    np.testing.assert_allclose(tape.gradient(loss, variable), differences, atol=1e-3)


@pytest.mark.parametrize("size", [0, 4, -3])
def test_an_even_size_is_refused(size):
    with pytest.raises(ValueError, match=rf"size={size}; it must be odd and positive, such as 5"):
        LocalResponseNormalization(size)
