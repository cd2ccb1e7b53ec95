"""The list of networks and the lookup by name."""

import pytest

import keras_cnns
from tests.small_networks import SMALL


def test_every_network_has_a_small_one():
    assert list(SMALL) == keras_cnns.list_models()


def test_networks_are_listed_by_part_of_a_name_or_pattern():
    assert keras_cnns.list_models("PLAINNET") == [name for name in SMALL if name.startswith("PlainNet")]
    assert keras_cnns.list_models("resnext") == ["SEResNeXt50", "SEResNeXt101"]
    assert keras_cnns.list_models("resnet?") == [] and keras_cnns.list_models("*inception*") == [
        "InceptionV1",
        "SEInceptionV1",
    ]
    assert keras_cnns.list_models("vgg1[13]") == ["VGG11", "VGG13"] and keras_cnns.list_models("nothing") == []


def test_unknown_network():
    with pytest.raises(ValueError, match=r"no network 'resnet5'\. Did you mean .*ResNet50"):
        keras_cnns.builder("resnet5")
