"""The grammar of layer names: levels, and which of them are heads."""

import pytest

import keras_cnns


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("stage3_block1_conv2_conv", ["stage3", "block1", "conv2", "conv"]),
        ("inception4a_5x5_bn/moving_mean", ["inception4a", "5x5", "bn"]),
        ("head", ["head"]),
    ],
)
def test_levels(name, levels):
    assert keras_cnns.split_levels(name) == levels
    assert keras_cnns.level_of(name) == levels[0]


@pytest.mark.parametrize(
    ("name", "head", "auxiliary"),
    [
        ("head", True, False),
        ("head_dense/kernel", True, False),
        ("aux1", True, True),
        ("aux2_conv_bn/gamma", True, True),
        ("header_conv", False, False),
        ("auxiliary_dense", False, False),
        ("stage1_head_conv", False, False),
    ],
)
def test_heads(name, head, auxiliary):
    assert (keras_cnns.is_head(name), keras_cnns.is_auxiliary(name)) == (head, auxiliary)
