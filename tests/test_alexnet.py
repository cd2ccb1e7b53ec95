"""AlexNet: Figure 2, two groups, response normalization, overlapping pools, the smallest size."""

import functools

import numpy as np
import pytest
from keras import layers

import keras_cnns
from keras_cnns import alexnet
from keras_cnns.layers import GroupedConv2D, LocalResponseNormalization
from tests.structure import structure

# Figure 2 of Krizhevsky et al. 2012 and torchvision's variant, typed by hand: the output sizes, layer by layer.
OUTPUT_SIZES = {
    "AlexNet": {
        "image": (227, 227, 3),
        "conv1_relu": (55, 55, 96),
        "norm1_lrn": (55, 55, 96),
        "pool1_max": (27, 27, 96),
        "conv2_relu": (27, 27, 256),
        "norm2_lrn": (27, 27, 256),
        "pool2_max": (13, 13, 256),
        "conv3_relu": (13, 13, 384),
        "conv4_relu": (13, 13, 384),
        "conv5_relu": (13, 13, 256),
        "pool5_max": (6, 6, 256),
        "head_flatten": (9216,),
        "head_fc1": (4096,),
        "head_dropout1": (4096,),
        "head_fc2": (4096,),
        "head_dropout2": (4096,),
        "head_dense": (1000,),
    },
    "AlexNetOneTower": {
        "image": (224, 224, 3),
        "conv1_pad": (228, 228, 3),
        "conv1_relu": (55, 55, 64),
        "pool1_max": (27, 27, 64),
        "conv2_relu": (27, 27, 192),
        "pool2_max": (13, 13, 192),
        "conv3_relu": (13, 13, 384),
        "conv4_relu": (13, 13, 256),
        "conv5_relu": (13, 13, 256),
        "pool5_max": (6, 6, 256),
        "head_flatten": (9216,),
        "head_fc1": (4096,),
        "head_dropout1": (4096,),
        "head_fc2": (4096,),
        "head_dropout2": (4096,),
        "head_dense": (1000,),
    },
}
# The kernels: height, width, channels that one group sees, filters.
KERNELS = {
    "AlexNet": [(11, 11, 3, 96), (5, 5, 48, 256), (3, 3, 256, 384), (3, 3, 192, 384), (3, 3, 192, 256)],
    "AlexNetOneTower": [(11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256)],
}
both = pytest.mark.parametrize("name", OUTPUT_SIZES)


network = functools.cache(structure)


def of_type(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


@both
def test_output_sizes_and_order_of_figure_2(name):
    """One layer after another: convolution, ReLU, normalization, pool (sections 3.3 and 3.5), dense layers, dropout."""
    model = network(name)
    after = iter(model.layers)
    for layer, size in OUTPUT_SIZES[name].items():
        assert layer in (later.name for later in after), f"{layer} is missing or out of order"
        assert model.get_layer(layer).output.shape[1:] == size
    assert len(model.layers) == len(OUTPUT_SIZES[name]) + 5  # the convolutions, each before its ReLU
    for before, layer in zip(model.layers, model.layers[1:], strict=False):
        assert layer.input is before.output


@both
def test_kernels_and_strides_of_figure_2(name):
    convolutions = of_type(network(name), layers.Conv2D)
    assert [layer.name for layer in convolutions] == [f"conv{index}_conv" for index in range(1, 6)]
    assert [layer.kernel.shape for layer in convolutions] == KERNELS[name]
    assert [layer.strides for layer in convolutions] == [(4, 4)] + 4 * [(1, 1)]


def test_conv2_conv4_and_conv5_have_two_groups():
    grouped = {layer.name: layer.groups for layer in of_type(network("AlexNet"), GroupedConv2D)}
    assert grouped == {"conv2_conv": 2, "conv4_conv": 2, "conv5_conv": 2}
    assert not of_type(network("AlexNetOneTower"), GroupedConv2D)


def test_a_group_sees_only_its_gpu():
    """Section 3.5: conv4 takes only the maps of conv3 on the same GPU, conv3 those on both."""
    model = keras_cnns.AlexNet(include_top=False, input_shape=(227, 227, 3))
    x = np.zeros((1, 13, 13, 384), "float32")
    x[..., :192] = 1
    model.get_layer("conv4_conv").bias.assign(np.zeros(384))
    out = np.asarray(model.get_layer("conv4_conv")(x))
    assert np.any(out[..., :192]) and not np.any(out[..., 192:])
    out = np.asarray(model.get_layer("conv3_conv")(x[..., :256]))
    assert np.any(out[..., :192]) and np.any(out[..., 192:])


def test_responses_are_normalized_with_the_papers_constants():
    norms = of_type(network("AlexNet"), LocalResponseNormalization)
    assert [(norm.name, norm.bias, norm.size, norm.alpha, norm.beta) for norm in norms] == [
        ("norm1_lrn", 2.0, 5, 1e-4, 0.75),
        ("norm2_lrn", 2.0, 5, 1e-4, 0.75),
    ]
    assert not of_type(network("AlexNetOneTower"), LocalResponseNormalization)


@both
def test_pools_overlap(name):
    pools = of_type(network(name), layers.MaxPooling2D)
    assert [pool.name for pool in pools] == ["pool1_max", "pool2_max", "pool5_max"]
    assert {(pool.pool_size, pool.strides, pool.padding) for pool in pools} == {((3, 3), (2, 2), "valid")}


@both
def test_dropout(name):
    rates = {layer.name: layer.rate for layer in of_type(network(name), layers.Dropout)}
    assert rates == {"head_dropout1": 0.5, "head_dropout2": 0.5}


# By hand, from the end: the last pool needs 3 pixels, so pool2 needs 7 and pool1 15; 15 positions of an 11x11 with
# stride 4 are 67 pixels, four of which are padding in the one tower.
@pytest.mark.parametrize(("table", "size"), [(alexnet.FIGURE_2, 67), (alexnet.ONE_TOWER, 63)])
def test_the_smallest_size_leaves_one_pixel(table, size):
    assert alexnet.smallest(table) == size
    for pixels in (size, size + 15):  # the strides map 16 sizes to one
        model = alexnet.alexnet(table, fully_connected=(2, 2), input_shape=(pixels, pixels, 3), classes=2)
        assert model.get_layer("head_flatten").input.shape == (None, 1, 1, 256)
    two = alexnet.alexnet(table, fully_connected=(2, 2), input_shape=(size, size + 32, 3), classes=2)
    assert two.get_layer("head_flatten").input.shape == (None, 1, 2, 256)
    with pytest.raises(ValueError, match=f"at least {size} because the strides and pools leave nothing of smaller"):
        alexnet.alexnet(table, input_shape=(size, size - 1, 3))


@pytest.mark.parametrize(("kernel", "strides", "padding"), [(3, 1, 0), (3, 1, 1), (3, 2, 1), (5, 3, 1), (4, 1, 2)])
def test_padding_is_in_pixels_on_each_side(kernel, strides, padding):
    row = alexnet.Convolution(4, kernel, strides, padding, 1, norm=False, pool=False)
    x = np.random.default_rng(0).normal(size=(1, 9, 8, 3)).astype("float32")
    model = alexnet.alexnet((row,), include_top=False, input_shape=(9, 8, 3))
    plain = layers.Conv2D(4, kernel, strides, "valid")
    around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(x, around)
    plain.build(padded.shape)
    plain.set_weights(model.get_layer("conv1_conv").get_weights())
    np.testing.assert_allclose(model(x), np.maximum(plain(padded), 0), rtol=1e-5, atol=1e-6)
