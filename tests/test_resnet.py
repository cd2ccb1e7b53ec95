"""ResNet: Table 1, where the strides are, what the shortcuts carry."""

import functools

import numpy as np
import pytest
from keras import layers

import keras_cnns
from keras_cnns import resnet
from tests.structure import structure

network = functools.cache(structure)


def blocks(model):
    """Return the names of the residual blocks, in order."""
    return [layer.name.removesuffix("_add") for layer in model.layers if isinstance(layer, layers.Add)]


def test_cells_of_table_1():
    """Table 1 of He et al., typed by hand: the layers of a block, and blocks in conv2_x to conv5_x."""
    basic, bottleneck = resnet.Basic, resnet.Bottleneck
    assert {
        key: ({type(row) for row in rows}, [row.blocks for row in rows]) for key, rows in resnet.TABLE_1.items()
    } == {
        "18-layer": ({basic}, [2, 2, 2, 2]),
        "34-layer": ({basic}, [3, 4, 6, 3]),
        "50-layer": ({bottleneck}, [3, 4, 6, 3]),
        "101-layer": ({bottleneck}, [3, 4, 23, 3]),
        "152-layer": ({bottleneck}, [3, 8, 36, 3]),
    }
    counts = enumerate((3, 4, 6, 3), 1)
    names = [f"stage{stage}_block{block}" for stage, count in counts for block in range(1, count + 1)]
    assert blocks(network("ResNet50")) == names


@pytest.mark.parametrize(("name", "widening"), [("ResNet18", 1), ("ResNet50", 4)])
def test_output_sizes_of_table_1(name, widening):
    model = network(name)
    assert model.get_layer("stem_relu").output.shape[1:] == (112, 112, 64)
    assert model.get_layer("stem_pool_max").output.shape[1:] == (56, 56, 64)
    for block in blocks(model):
        stage = int(block[len("stage")])
        size, filters = {1: (56, 64), 2: (28, 128), 3: (14, 256), 4: (7, 512)}[stage]
        assert model.get_layer(f"{block}_out").output.shape[1:] == (size, size, widening * filters)


# Of the first block of conv3_x, by hand: height, width, channels in, channels out.
KERNELS = {
    "ResNet18": {"conv1": (3, 3, 64, 128), "conv2": (3, 3, 128, 128), "shortcut": (1, 1, 64, 128)},
    "ResNet50": {
        "conv1": (1, 1, 256, 128),
        "conv2": (3, 3, 128, 128),
        "conv3": (1, 1, 128, 512),
        "shortcut": (1, 1, 256, 512),
    },
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_of_figure_5(name):
    model = network(name)
    prefix = "stage2_block1_"
    convolutions = [layer for layer in model.layers if layer.name.startswith(prefix) and layer.name.endswith("_conv")]
    kernels = {layer.name.removeprefix(prefix).removesuffix("_conv"): layer.kernel.shape for layer in convolutions}
    assert kernels == KERNELS[name]


@pytest.mark.parametrize(
    ("name", "arguments", "strided"),
    [
        ("ResNet18", {}, "conv1"),
        ("ResNet18", {"version": "1"}, "conv1"),
        ("ResNet50", {}, "conv2"),
        ("ResNet50", {"version": "1.5"}, "conv2"),
        ("ResNet50", {"version": "1"}, "conv1"),
    ],
)
def test_strides(name, arguments, strided):
    """The stem, and in the first block of conv3_x to conv5_x the shortcut and one convolution of the branch."""
    convolutions = [layer for layer in network(name, **arguments).layers if isinstance(layer, layers.Conv2D)]
    firsts = [f"stage{stage}_block1" for stage in (2, 3, 4)]
    expected = {"stem_conv"} | {f"{first}_{part}_conv" for first in firsts for part in ("shortcut", strided)}
    assert {layer.name for layer in convolutions if layer.strides == (2, 2)} == expected
    assert {layer.strides for layer in convolutions if layer.name not in expected} == {(1, 1)}


# Two 3x3 keep 64 channels, so conv2_x of 18 and 34 layers needs no projection; a bottleneck outputs 256.
@pytest.mark.parametrize(("name", "stages"), [("ResNet18", "234"), ("ResNet34", "234"), ("ResNet50", "1234")])
def test_projections_only_where_the_shape_changes(name, stages):
    projections = [layer.name for layer in network(name).layers if layer.name.endswith("_shortcut_conv")]
    assert sorted(projections) == [f"stage{stage}_block1_shortcut_conv" for stage in stages]


@pytest.mark.parametrize(("name", "last"), [("ResNet18", "conv2"), ("ResNet50", "conv3")])
def test_every_block_adds_its_branch_and_its_shortcut(name, last):
    model = network(name)
    names = {layer.name for layer in model.layers}
    x = model.get_layer("stem_pool_max").output
    for block in blocks(model):
        shortcut = x
        if f"{block}_shortcut_conv" in names:
            assert model.get_layer(f"{block}_shortcut_conv").input is x
            shortcut = model.get_layer(f"{block}_shortcut_bn").output
        add = model.get_layer(f"{block}_add")
        assert list(map(id, add.input)) == [id(model.get_layer(f"{block}_{last}_bn").output), id(shortcut)]
        assert model.get_layer(f"{block}_out").input is add.output
        x = model.get_layer(f"{block}_out").output
    assert model.get_layer("head_pool").input is x


def test_a_block_with_a_silent_branch_is_its_shortcut():
    """F(x) + x: with the last scale of the branch at zero, what remains is x, or its projection, after a ReLU."""
    table = (resnet.Stage(4, 2),) * 4
    model = resnet.resnet(table, block=resnet.basic_block, include_top=False, input_shape=(32, 32, 3))
    model.get_layer("stage1_block2_conv2_bn").gamma.assign(np.zeros(4))
    parts = type(model)(model.input, [model.get_layer(f"stage1_block{block}_out").output for block in (1, 2)])
    before, after = parts(np.random.default_rng(0).normal(size=(1, 32, 32, 3)))
    assert np.any(before) and np.array_equal(before, after)


def test_cells_say_which_block():
    """A table may mix them; a bare Stage needs `block`."""
    table = (resnet.Basic(8, 1), resnet.Bottleneck(8, 1))
    model = resnet.resnet(table, include_top=False, input_shape=(32, 32, 3))
    assert model.get_layer("stage1_block1_out").output.shape[-1] == 8
    assert model.get_layer("stage2_block1_conv3_conv").kernel.shape == (1, 1, 8, 32)
    with pytest.raises(
        ValueError, match=r"Stage\(filters=8, blocks=1\) does not say what its blocks are\. Pass `block`"
    ):
        resnet.resnet((resnet.Stage(8, 1),))


# --- stochastic depth (Huang et al. 2016), which EfficientNet calls drop connect


# By hand: block i of n, counted from 0, is skipped for a fraction drop_connect * i / n of the images.
@pytest.mark.parametrize(
    ("name", "arguments", "rates"),
    [
        ("ResNet18", {}, [0.05 * i for i in range(1, 8)]),  # 0.4 / 8
        ("SEResNet18", {}, [0.05 * i for i in range(1, 8)]),
        ("DeformableResNet50", {}, [0.025 * i for i in range(1, 16)]),  # 0.4 / 16
        ("ResNetCIFAR", {"depth": 14}, [0.4 / 6 * i for i in range(1, 6)]),
    ],
)
def test_later_blocks_are_dropped_more_often(name, arguments, rates):
    model = network(name, drop_connect=0.4, **arguments)
    names = blocks(model)
    drops = [layer for layer in model.layers if layer.name.endswith("_drop")]
    assert [layer.name for layer in drops] == [f"{block}_drop" for block in names[1:]]
    np.testing.assert_allclose([layer.rate for layer in drops], rates)
    for block, drop in zip(names[1:], drops, strict=True):
        assert model.get_layer(f"{block}_add").input[0] is drop.output
        gated = name.startswith("SE")
        last = "gate_out" if gated else "conv2_bn" if name in ("ResNet18", "ResNetCIFAR") else "conv3_bn"
        assert drop.input is model.get_layer(f"{block}_{last}").output
    # Names keep their grammar; without stochastic depth there is no such layer, and weights have the same names.
    layer_names = [layer.name for layer in model.layers]
    assert not [(a, b) for a in layer_names for b in layer_names if b.startswith(f"{a}_")]
    plain = network(name, **arguments)
    assert {layer.name for layer in plain.layers} == {name for name in layer_names if not name.endswith("_drop")}
    assert {variable.path for variable in plain.weights} == {variable.path for variable in model.weights}


def test_a_branch_is_dropped_for_whole_images_and_scaled_up_for_the_others():
    table = (resnet.Stage(4, 2),)
    model = resnet.resnet(table, block=resnet.basic_block, drop_connect=0.8, include_top=False, input_shape=(32, 32, 3))
    drop = model.get_layer("stage1_block2_drop")
    assert drop.rate == pytest.approx(0.4)
    outputs = np.asarray(drop(np.ones((200, 3, 3, 4), "float32"), training=True))
    per_image = outputs.reshape(200, -1)
    assert np.array_equal(per_image.min(axis=1), per_image.max(axis=1))
    assert set(np.round(per_image[:, 0], 4)) == {0.0, np.float32(1.6667)}
    assert 0.25 < np.mean(per_image[:, 0] == 0) < 0.55
    np.testing.assert_array_equal(drop(outputs, training=False), outputs)


def test_a_plain_network_has_no_branch_to_drop():
    with pytest.raises(TypeError, match="drop_connect"):
        keras_cnns.PlainNet18(drop_connect=0.2)
