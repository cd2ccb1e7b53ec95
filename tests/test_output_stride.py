"""Networks for small images: the same weights without the first strides."""

import numpy as np
import pytest

import keras_cnns
from tests.structure import structure
from training.recipes import RECIPES

NETWORKS = ("VGG11", "GoogLeNet", "InceptionV1", "ResNet18", "SEResNet18", "SEResNeXt50", "SENet154", "SEInceptionV1")
NETWORKS += ("EfficientNetB0", "EfficientNetLite0", "DeformableResNet50")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("output_stride", [8, *(pytest.param(s, marks=pytest.mark.slow) for s in (16, 32))])
def test_the_last_map_of_a_small_image(name, output_stride):
    shape = {"input_shape": (32, 32, 3), "include_top": False}
    model = structure(name, output_stride=output_stride, **shape)
    assert model.output_shape[1:3] == (32 // output_stride,) * 2
    plain = structure(name, **shape)
    assert [(v.path, v.shape) for v in model.weights] == [(v.path, v.shape) for v in plain.weights]
    strides = [s for s in (4, 8, 16) if s <= output_stride]
    maps = keras_cnns.features(model, strides[-1:])
    assert maps.output_shape[1:3] == (32 // strides[-1],) * 2


def test_the_pixels_that_a_stride_keeps():
    """A convolution with a stride of 1 has, at every second pixel, the values of the one with a stride of 2."""
    whole, plain = (
        keras_cnns.InceptionV1(include_top=False, input_shape=(32, 32, 3), output_stride=stride) for stride in (16, 32)
    )
    whole.set_weights(plain.get_weights())
    x = np.random.RandomState(0).normal(size=(1, 32, 32, 3)).astype("float32")
    first = [keras_cnns.features(model, [stride])(x) for model, stride in ((whole, 1), (plain, 2))]
    np.testing.assert_allclose(np.asarray(first[0])[:, ::2, ::2], first[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["VGG11", "GoogLeNet", "ResNet18", "EfficientNetB0"])
def test_other_strides_are_refused(name):
    with pytest.raises(ValueError, match="output_stride=4; it must be 32, or 16 or 8 for small images"):
        structure(name, output_stride=4)


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name.endswith("_small_digits")])
def test_the_recipes_for_small_images(recipe):
    recipe = RECIPES[recipe]
    model = structure(recipe.model, input_shape=(recipe.image_size,) * 2 + (3,), include_top=False, output_stride=8)
    assert recipe.model_args["output_stride"] == 8
    assert model.output_shape[1] == recipe.image_size // 8 > 1
