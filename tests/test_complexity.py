"""Counts of parameters, multiply-adds and activations against hand arithmetic on small models."""

import keras
import pytest
from keras import layers

import keras_cnns
from tests.structure import structure


# Layer, input shape, (parameters, multiply-adds, activations) for one image, by hand.
@pytest.mark.parametrize(
    ("layer", "input_shape", "expected"),
    [
        (layers.Dense(7), (5,), (5 * 7 + 7, 5 * 7, 7)),
        (layers.Dense(7, use_bias=False), (5,), (35, 35, 7)),
        (layers.Conv2D(4, 3, padding="same"), (8, 6, 3), (27 * 4 + 4, 8 * 6 * 27 * 4, 8 * 6 * 4)),
        (layers.Conv2D(4, 3, strides=2), (9, 7, 3), (27 * 4 + 4, 4 * 3 * 27 * 4, 4 * 3 * 4)),
        (layers.Conv2D(4, 3, groups=2, padding="same"), (8, 8, 6), (9 * 3 * 4 + 4, 64 * 9 * 3 * 4, 64 * 4)),
        (layers.DepthwiseConv2D(3, padding="same"), (8, 8, 6), (9 * 6 + 6, 64 * 9 * 6, 64 * 6)),
        (layers.SeparableConv2D(4, 3, padding="same"), (8, 8, 6), (54 + 24 + 4, 64 * (54 + 24), 64 * 4)),
        (layers.Conv2DTranspose(4, 3, 2, "same"), (8, 8, 3), (9 * 12 + 4, 64 * 9 * 12, 16 * 16 * 4)),
        (layers.BatchNormalization(), (8, 8, 6), (2 * 6, 0, 0)),
        (layers.MaxPooling2D(2), (8, 8, 6), (0, 0, 0)),
    ],
    ids=[
        "dense",
        "dense_without_bias",
        "conv",
        "strided",
        "grouped",
        "depthwise",
        "separable",
        "transposed",
        "batch_norm",
        "pool",
    ],
)
def test_complexity_of_a_layer(layer, input_shape, expected):
    cost = keras_cnns.complexity(keras.Sequential([keras.Input(input_shape), layer]))
    assert (cost.parameters, cost.multiply_adds, cost.activations) == expected


def backbone(input_shape):
    image = keras.Input(input_shape)
    return keras.Model(image, layers.Conv2D(4, 3, strides=2, padding="same", name="conv")(image))


def classifier(part, input_shape):
    image = keras.Input(input_shape)
    return keras.Model(image, layers.Dense(5, name="dense")(layers.GlobalAveragePooling2D()(part(image))))


def test_complexity_looks_into_nested_models():
    cost = keras_cnns.complexity(classifier(backbone((8, 8, 3)), (8, 8, 3)))
    assert cost.parameters == 27 * 4 + 4 + 4 * 5 + 5
    assert cost.multiply_adds == 4 * 4 * 27 * 4 + 4 * 5
    assert [layer.name for layer in cost.layers if layer.multiply_adds] == ["conv", "dense"]
    assert [layer.output_shape for layer in cost.layers if layer.multiply_adds] == [(4, 4, 4), (5,)]


def test_complexity_counts_each_application():
    """Layers count at the size of each application, nested models too; parameters are counted once."""
    image = keras.Input((8, 8, 3))
    twice = layers.Conv2D(3, 3, padding="same", name="twice")
    part = keras.Model(image, layers.MaxPooling2D(2)(twice(twice(image))))
    convolution, other, dense = layers.Conv2D(3, 1, name="convolution"), keras.Input((8, 8, 3)), layers.Dense(5)
    x = layers.Concatenate()([part(other), part(convolution(other)), convolution(part(other))])
    cost = keras_cnns.complexity(keras.Model(other, dense(layers.GlobalAveragePooling2D()(x))))
    assert cost.parameters == (27 * 3 + 3) + (9 + 3) + (9 * 5 + 5)
    assert cost.multiply_adds == 3 * 2 * 64 * 27 * 3 + 64 * 9 + 16 * 9 + 9 * 5
    assert cost.activations == 3 * 2 * 64 * 3 + 64 * 3 + 16 * 3 + 5


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize("model", [Subclassed(), keras.Sequential([layers.Dense(3)])], ids=["subclassed", "sequential"])
def test_complexity_needs_a_graph(model):
    with pytest.raises(ValueError, match=r"no graph of layers to count: .* Pass a functional model"):
        keras_cnns.complexity(model)


def test_complexity_needs_an_input_shape_if_the_size_is_none():
    with pytest.raises(ValueError, match=r"height or width is None\. Pass input_shape"):
        keras_cnns.complexity(backbone((None, None, 3)))
    with pytest.raises(ValueError, match="a model inside the model must be built with a fixed size"):
        keras_cnns.complexity(classifier(backbone((None, None, 3)), (8, 8, 3)))
    given = keras_cnns.complexity(backbone((None, None, 3)), input_shape=(8, 6, 3))
    assert given.multiply_adds == 4 * 3 * 27 * 4
    assert given.layers[1:] == keras_cnns.complexity(backbone((8, 6, 3))).layers[1:]


def test_complexity_prints_a_row_per_stage():
    text = str(keras_cnns.complexity(classifier(backbone((8, 8, 3)), (8, 8, 3))))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "conv 4 x 4 x 4 112 1,728 64 3 x 3" in lines
    assert lines[-1] == "all 137 1,748 69 3 x 3"


# Araujo, Norris, Sim 2019, the table of section "Receptive fields of well-known networks": TF-Slim's networks, whose
# ResNets have the strides of version 1.
@pytest.mark.parametrize(
    ("name", "arguments", "pixels"),
    [
        ("AlexNet", {}, 195),
        ("VGG16", {}, 212),
        ("ResNet50", {"version": "1"}, 483),
        ("ResNet101", {"version": "1"}, 1027),
        ("ResNet152", {"version": "1"}, 1507),
    ],
)
def test_receptive_fields_are_those_of_araujo_et_al(name, arguments, pixels):
    model = structure(name, include_top=False, input_shape=(224, 224, 3), **arguments)
    assert keras_cnns.complexity(model).receptive_field == (pixels, pixels)


def chain(*parts, size=32):
    image = x = keras.Input((size, size, 3))
    for part in parts:
        x = part(x)
    return keras.Model(image, x)


# By hand: each kernel adds (size - 1) * dilation * stride so far.
@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([layers.Conv2D(2, 3), layers.Conv2D(2, 3)], (5, 5)),
        ([layers.Conv2D(2, 3, strides=2), layers.Conv2D(2, 3)], (7, 7)),
        ([layers.Conv2D(2, (1, 7)), layers.Conv2D(2, (7, 1))], (7, 7)),
        ([layers.Conv2D(2, 3, dilation_rate=4)], (9, 9)),
        ([layers.MaxPooling2D(2), layers.DepthwiseConv2D(3), layers.Conv2D(2, 1)], (6, 6)),
        ([layers.Conv2D(2, 3), layers.GlobalAveragePooling2D(), layers.Dense(3)], (3, 3)),
        ([layers.AveragePooling2D(4), layers.UpSampling2D(2), layers.Conv2D(2, 3)], (8, 8)),
        ([layers.AveragePooling2D(4), layers.Conv2DTranspose(2, 4, 2), layers.Conv2D(2, 3)], (12, 12)),
        ([backbone((32, 32, 3)), layers.Conv2D(2, 3)], (7, 7)),
        ([keras_cnns.layers.DeformableConv2D(2, 3, dilation_rate=2)], (5, 5)),
    ],
)
def test_receptive_fields_follow_kernels_and_strides(parts, expected):
    assert keras_cnns.complexity(chain(*parts)).receptive_field == expected


def test_the_longest_path_counts_and_global_pools_do_not():
    image = keras.Input((32, 32, 3))
    short, long = layers.Conv2D(4, 1)(image), layers.Conv2D(4, 5, padding="same")(image)
    gate = layers.Dense(4)(layers.GlobalAveragePooling2D(keepdims=True)(long))
    model = keras.Model(image, layers.Multiply()([layers.Add()([short, long]), gate]))
    cost = keras_cnns.complexity(model)
    assert cost.receptive_field == cost.layers[-1].receptive_field == (5, 5)
    assert [layer.receptive_field for layer in cost.layers if layer.output_shape == (1, 1, 4)] == [None, None]
