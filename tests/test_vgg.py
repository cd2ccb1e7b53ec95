"""VGG: the columns of Table 1, 3x3 convolutions that keep the size of their maps, five 2x2 pools."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from keras_cnns import vgg
from tests.structure import structure

# Table 1 of Simonyan and Zisserman, typed by hand: the filters of the convolutions in each block.
TABLE_1 = {
    "VGG11": [[64], [128], [256, 256], [512, 512], [512, 512]],
    "VGG13": [[64, 64], [128, 128], [256, 256], [512, 512], [512, 512]],
    "VGG16": [[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512, 512, 512]],
    "VGG19": [[64, 64], [128, 128], [256, 256, 256, 256], [512, 512, 512, 512], [512, 512, 512, 512]],
}
COLUMNS = {"VGG11": "A", "VGG13": "B", "VGG16": "D", "VGG19": "E"}
every_column = pytest.mark.parametrize("name", COLUMNS)
with_and_without_batch_norm = pytest.mark.parametrize("batch_norm", [False, True])


@functools.cache
def network(name, batch_norm=False):
    """Return the network of a column with narrow dense layers and without weights."""
    with keras.StatelessScope(initialize_variables=False):  # layers and shapes are all that is looked at
        return vgg.vgg(vgg.TABLE_1[COLUMNS[name]], batch_norm=batch_norm, fully_connected=(32, 16))


def of_type(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


@every_column
@with_and_without_batch_norm
def test_table_1(name, batch_norm):
    """Layer by layer: every convolution with its ReLU, a pool that halves the map after every block, the head."""
    expected, size = [("image", (224, 224, 3))], 224
    for block, filters in enumerate(TABLE_1[name], 1):
        for index, channels in enumerate(filters, 1):
            kinds = ("conv", "bn", "relu") if batch_norm else ("conv", "relu")
            expected += [(f"conv{block}_{index}_{kind}", (size, size, channels)) for kind in kinds]
        size //= 2
        expected += [(f"conv{block}_out", (size, size, filters[-1]))]
    expected += [("head_flatten", (7 * 7 * 512,)), ("head_fc1", (32,)), ("head_dropout1", (32,))]
    expected += [("head_fc2", (16,)), ("head_dropout2", (16,)), ("head_dense", (1000,))]
    model = network(name, batch_norm)
    assert [(layer.name, layer.output.shape[1:]) for layer in model.layers] == expected
    for before, layer in zip(model.layers, model.layers[1:], strict=False):
        assert layer.input is before.output


@every_column
@with_and_without_batch_norm
def test_convolutions_are_3x3_with_a_bias(name, batch_norm):
    convolutions = of_type(network(name, batch_norm), layers.Conv2D)
    settings = {(layer.kernel_size, layer.strides, layer.padding, layer.use_bias) for layer in convolutions}
    assert settings == {((3, 3), (1, 1), "same", True)}


@every_column
def test_pools_are_2x2(name):
    pools = of_type(network(name), layers.MaxPooling2D)
    assert [(pool.pool_size, pool.strides, pool.padding) for pool in pools] == 5 * [((2, 2), (2, 2), "valid")]


def test_batch_norm_is_torchvisions():
    norms = of_type(network("VGG16", batch_norm=True), layers.BatchNormalization)
    assert len(norms) == 13 and {(norm.epsilon, norm.momentum) for norm in norms} == {(1e-5, 0.9)}
    assert not of_type(network("VGG16"), layers.BatchNormalization)


def test_dropout_and_the_width_of_the_dense_layers():
    """At 32 pixels, where the last map has one pixel."""
    model = structure("VGG11", input_shape=(32, 32, 3), classes=10)
    dense = {layer.name: layer.kernel.shape for layer in of_type(model, layers.Dense)}
    assert dense == {"head_fc1": (512, 4096), "head_fc2": (4096, 4096), "head_dense": (4096, 10)}
    assert [layer.activation.__name__ for layer in of_type(model, layers.Dense)] == ["relu", "relu", "softmax"]
    assert [layer.rate for layer in of_type(model, layers.Dropout)] == [0.5, 0.5]


def test_pools_leave_out_a_border_narrower_than_the_window():
    """As in torch and in Caffe's VGG; Caffe's GoogLeNet rounds up."""
    model = vgg.vgg((vgg.Block(4, 1),), include_top=False)
    x = np.random.default_rng(0).normal(size=(1, 7, 5, 3)).astype("float32")
    out = np.asarray(model(x))
    assert out.shape == (1, 3, 2, 4)
    below = type(model)(model.input, model.get_layer("conv1_1_relu").output)
    maps = np.asarray(below(x))[:, :6, :4]
    np.testing.assert_array_equal(out, maps.reshape(1, 3, 2, 2, 2, 4).max((2, 4)))


def test_the_smallest_size_is_what_the_pools_divide_by():
    for blocks in (1, 3):
        table = blocks * (vgg.Block(4, 1),)
        assert vgg.vgg(table, include_top=False, input_shape=(2**blocks, 2**blocks, 3)).output_shape == (None, 1, 1, 4)
        with pytest.raises(ValueError, match=f"at least {2**blocks} because the network divides them by {2**blocks}"):
            vgg.vgg(table, input_shape=(2**blocks, 2**blocks - 1, 3))
