"""SENet: the gate, where it is, the groups and widths of Table 1, the changes of SENet-154."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

import keras_cnns
from keras_cnns import resnet, senet
from keras_cnns.layers import GroupedConv2D
from tests.structure import structure

network = functools.cache(structure)


def of_type(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# --- the block


def gated(size=(5, 4, 8), **arguments):
    """Return a model that is one squeeze-and-excitation block with random kernels and biases."""
    image = keras.Input(size)
    model = keras.Model(image, keras_cnns.squeeze_and_excitation(image, name="gate", **arguments))
    random = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(random.normal(size=variable.shape))
    return model


def test_block_is_equations_2_to_4():
    model, x = gated(ratio=2), np.random.default_rng(1).normal(size=(3, 5, 4, 8)).astype("float32")
    w1, b1, w2, b2 = (np.asarray(variable).squeeze() for variable in model.weights)
    assert (w1.shape, b1.shape, w2.shape, b2.shape) == ((8, 4), (4,), (4, 8), (8,))
    z = x.mean((1, 2))
    s = sigmoid(np.maximum(z @ w1 + b1, 0) @ w2 + b2)
    np.testing.assert_allclose(model(x), x * s[:, None, None, :], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("channels", "ratio", "inside"), [(64, 16, 4), (528, 16, 33), (480, 32, 15), (8, 16, 1)])
def test_ratio(channels, ratio, inside):
    model = gated((2, 2, channels), ratio=ratio)
    assert [layer.filters for layer in of_type(model, layers.Conv2D)] == [inside, channels]


def test_ratio_is_16_by_default():
    assert of_type(gated((2, 2, 64)), layers.Conv2D)[0].filters == 4


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_block_in_half_precision(policy):
    """The average of many large values does not overflow; the largest float16 is 65,504."""
    keras.config.set_dtype_policy(policy)
    out = gated((64, 64, 8))(np.full((1, 64, 64, 8), 100, "float32"))
    assert out.dtype == policy.removeprefix("mixed_")
    assert np.isfinite(keras.ops.convert_to_numpy(keras.ops.cast(out, "float32"))).all()


# --- where it is

LAST = {"SEResNet18": "conv2", "SEResNet50": "conv3", "SEResNeXt50": "conv3", "SENet154": "conv3"}


@pytest.mark.parametrize(("name", "last"), LAST.items())
def test_a_gate_precedes_every_addition(name, last):
    """Figure 3: the branch's last normalization, the gate, the addition; the shortcut is not gated."""
    model = network(name)
    additions = of_type(model, layers.Add)
    for addition in additions:
        block = addition.name.removesuffix("_add")
        scaled = model.get_layer(f"{block}_gate_out")
        branch = model.get_layer(f"{block}_{last}_bn").output
        assert [id(x) for x in scaled.input] == [id(branch), id(model.get_layer(f"{block}_gate_sigmoid").output)]
        assert model.get_layer(f"{block}_gate_pool").input is branch
        assert addition.input[0] is scaled.output and "_gate_" not in addition.input[1].name
    assert len(of_type(model, layers.Multiply)) == len(additions)


def test_a_gate_follows_every_inception_module():
    """Figure 2: the gate scales the concatenation, and the next module takes the result."""
    model = network("SEInceptionV1")
    scaled = [layer.name for layer in of_type(model, layers.Multiply)]
    assert scaled == [f"inception{module}_out" for module in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")]
    for name in scaled:
        module = name.removesuffix("_out")
        whole, weights = model.get_layer(f"{module}_concat").output, model.get_layer(f"{module}_gate_sigmoid").output
        assert [id(x) for x in model.get_layer(name).input] == [id(whole), id(weights)]
        assert model.get_layer(f"{module}_gate_pool").input is whole
    assert model.get_layer("inception3b_1x1_conv").input is model.get_layer("inception3a_out").output
    assert model.get_layer("head_pool").input is model.get_layer("inception5b_out").output
    assert model.get_layer("head_dropout").rate == 0.2


# Table 1 of Hu et al., typed by hand: "fc" of each stage: channels inside the gate and after it.
FC = {1: (16, 256), 2: (32, 512), 3: (64, 1024), 4: (128, 2048)}


@pytest.mark.parametrize("name", ["SEResNet50", "SEResNet101", "SEResNeXt50", "SENet154"])
def test_fc_of_table_1(name):
    gates = [layer for layer in of_type(network(name), layers.Conv2D) if "_gate_" in layer.name]
    assert {(layer.name[:6], layer.name.rpartition("_gate_")[2]): layer.filters for layer in gates} == {
        (f"stage{stage}", f"{part}_conv"): filters
        for stage, row in FC.items()
        for part, filters in zip(("reduce", "expand"), row, strict=True)
    }


@pytest.mark.parametrize(
    "name",
    ["SEResNet18", "SEResNet50", "SEResNeXt50", "SEInceptionV1", pytest.param("SENet154", marks=pytest.mark.slow)],
)
def test_ratio_of_a_network(name):
    model = network(name, ratio=8)
    gates = [layer for layer in of_type(model, layers.Conv2D) if layer.name.endswith("_gate_reduce_conv")]
    assert gates and all(layer.filters == layer.kernel.shape[2] // 8 for layer in gates)


@pytest.mark.parametrize(("version", "strided"), [("1.5", "conv2"), ("1", "conv1")])
def test_version_is_resnets(version, strided):
    model = network("SEResNet50", version=version)
    assert model.get_layer(f"stage2_block1_{strided}_conv").strides == (2, 2)


# --- groups and widths

# Of the first block of conv3_x, by hand: kernel (height, width, a group's channels in, channels out), groups, stride.
BLOCKS = {
    "SEResNeXt50": {
        "conv1": ((1, 1, 256, 256), 1, 1),
        "conv2": ((3, 3, 8, 256), 32, 2),
        "conv3": ((1, 1, 256, 512), 1, 1),
        "shortcut": ((1, 1, 256, 512), 1, 2),
    },
    "SENet154": {
        "conv1": ((1, 1, 256, 256), 1, 1),
        "conv2": ((3, 3, 4, 512), 64, 2),
        "conv3": ((1, 1, 512, 512), 1, 1),
        "shortcut": ((3, 3, 256, 512), 1, 2),
    },
}


@pytest.mark.parametrize("name", BLOCKS)
def test_block_of_conv3_x(name):
    model = network(name)
    parts = {part: model.get_layer(f"stage2_block1_{part}_conv") for part in BLOCKS[name]}
    assert {p: (layer.kernel.shape, layer.groups, layer.strides[0]) for p, layer in parts.items()} == BLOCKS[name]
    blocks = [layer.name.removesuffix("_add") for layer in of_type(model, layers.Add)]
    assert [layer.name for layer in of_type(model, GroupedConv2D)] == [f"{block}_conv2_conv" for block in blocks]


def test_stem_and_first_projection_of_senet154():
    model = network("SENet154")
    stem = [layer for layer in of_type(model, layers.Conv2D) if layer.name.startswith("stem_")]
    assert [layer.kernel.shape for layer in stem] == [(3, 3, 3, 64), (3, 3, 64, 64), (3, 3, 64, 128)]
    assert [layer.strides[0] for layer in stem] == [2, 1, 1]
    assert model.get_layer("stem_pool_max").output.shape[1:] == (56, 56, 128)
    assert model.get_layer("stage1_block1_shortcut_conv").kernel.shape == (1, 1, 128, 256)
    assert model.get_layer("head_dropout").rate == 0.2
    assert len(of_type(model, layers.Add)) == 3 + 8 + 36 + 3


def test_a_closed_gate_leaves_the_shortcut():
    """With every channel's weight at zero, the last block outputs the map before it."""
    table = (resnet.Stage(4, 2),) * 4
    model = senet.senet(table, block=resnet.basic_block, include_top=False, input_shape=(32, 32, 3))
    model.get_layer("stage1_block2_gate_expand_conv").bias.assign(np.full(4, -1e4))
    parts = keras.Model(model.input, [model.get_layer(f"stage1_block{block}_out").output for block in (1, 2)])
    before, after = parts(np.random.default_rng(0).normal(size=(1, 32, 32, 3)))
    assert np.any(before) and np.array_equal(before, after)
