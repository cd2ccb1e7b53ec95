"""Networks as backbones of detectors and segmenters."""

import keras
import numpy as np
import pytest

import keras_cnns
from keras_cnns import resnet
from tests.formula import FEATURES_SHAPE, image, set_formula_weights, summary
from tests.small_networks import DISTINCT
from tests.structure import structure
from tests.test_golden import golden


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("GoogLeNet", ["norm2_lrn", "inception3b_out", "inception4e_out", "inception5b_out"]),
        ("InceptionV1", ["conv2_main_relu", "inception3b_out", "inception4e_out", "inception5b_out"]),
        ("ResNet18", ["stage1_block2_out", "stage2_block2_out", "stage3_block2_out", "stage4_block2_out"]),
        ("ResNet50", ["stage1_block3_out", "stage2_block4_out", "stage3_block6_out", "stage4_block3_out"]),
    ],
)
def test_each_stride_has_the_end_of_its_last_block(name, layers):
    model = structure(name, include_top=False, input_shape=(64, 96, 3))
    maps = keras_cnns.features(model)
    assert [tensor is model.get_layer(layer).output for tensor, layer in zip(maps.outputs, layers, strict=True)] == [
        True
    ] * 4
    assert [shape[1:3] for shape in maps.output_shape] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert maps.name == f"{name.lower()}_features"


# {golden file: (network, its arguments)}
PROVEN = {
    "features_vgg11": ("VGG11", {}),
    "features_vgg16_batchnorm": ("VGG16", {"batch_norm": True}),
    "features_resnet18": ("ResNet18", {}),
    "features_seresnet50": ("SEResNet50", {}),
    "features_densenet121": ("DenseNet121", {}),
    "features_efficientnetb0": ("EfficientNetB0", {}),
}


@pytest.mark.parametrize("file", PROVEN)
def test_the_maps_are_those_that_timm_gives_detectors(file):
    """Of VGG the maps before the pools, such as conv5_3; of DenseNet the last one after its final normalization."""
    name, arguments = PROVEN[file]
    theirs = golden(file)
    strides = sorted(int(key.removeprefix("shape_")) for key in theirs if key.startswith("shape_"))
    model = keras_cnns.builder(name)(include_top=False, **arguments)
    set_formula_weights(model)
    maps = keras_cnns.features(model, strides)(image("image", FEATURES_SHAPE), training=False)
    for stride, found in zip(strides, maps, strict=True):
        found = np.asarray(found, "float64")[0]
        assert found.shape == tuple(theirs[f"shape_{stride}"])
        expected = theirs[f"summary_{stride}"]
        assert np.abs(summary(f"map{stride}", found) - expected).max() <= 1e-4 * expected[0]


ALL = [pytest.param(n, marks=[] if n in DISTINCT else [pytest.mark.slow]) for n in keras_cnns.list_models()]


@pytest.mark.parametrize("name", ALL)
def test_every_network_has_a_map_at_each_of_its_strides(name):
    """The contract of a backbone: maps as large as their strides say, and the last one is the network's output."""
    size = 224 if name.startswith("AlexNet") else 64
    model = structure(name, include_top=False, input_shape=(size, size, 3))
    strides = (1, 2, 4) if size // model.output_shape[1] == 4 else (2, 4, 8, 16, 32)
    strides = (4, 8, 16, 32) if name.startswith("AlexNet") else strides
    maps = keras_cnns.features(model, strides)
    for stride, output in zip(strides, maps.output, strict=True):
        if not name.startswith("AlexNet"):  # whose convolutions and pools do not pad
            assert output.shape[1:3] == (size // stride,) * 2
    if not name.startswith("EfficientNet"):  # which has another 1x1 convolution before its classifier
        assert maps.output[-1] is model.output
    assert not any(keras_cnns.is_head(layer.name) for layer in maps.layers)


def test_the_maps_are_those_of_the_network_at_any_size():
    model = keras_cnns.ResNet18(include_top=False)
    maps = keras_cnns.features(model, strides=(2, 32))
    x = np.random.RandomState(0).normal(size=(1, 64, 32, 3)).astype("float32")
    half, last = maps(x)
    assert half.shape == (1, 32, 16, 64)
    np.testing.assert_allclose(last, model(x), rtol=1e-5, atol=1e-5)


def test_cifar_networks_have_other_strides():
    maps = keras_cnns.features(structure("ResNet20"), strides=(1, 2, 4))
    assert maps.output_shape == [(None, 32, 32, 16), (None, 16, 16, 32), (None, 8, 8, 64)]


def test_heads_are_not_part_of_a_backbone():
    model = keras_cnns.GoogLeNet(aux_heads=True, input_shape=(224, 224, 3))
    maps = keras_cnns.features(model, strides=(16,))
    last = maps(np.zeros((1, 224, 224, 3), "float32"))
    assert last.shape == (1, 14, 14, 832)
    assert not any(layer.name.startswith(("aux", "head")) for layer in maps.layers)


def test_a_missing_stride_is_named():
    with pytest.raises(ValueError, match=r"resnet18 has no feature map at stride 64\. Its strides are 2, 4, 8, 16, 32"):
        keras_cnns.features(structure("ResNet18"), strides=(8, 64))


def test_a_segmentation_network_trains_on_a_backbone():
    """The example of the README on a small backbone: all maps are upsampled to the finest, added and classified."""
    stages = [resnet.Stage(filters, 1) for filters in (8, 16, 32, 64)]
    backbone = keras_cnns.features(resnet.resnet(stages, block=resnet.basic_block, include_top=False))
    finest, *coarser = backbone.outputs
    total = keras.layers.Conv2D(16, 1)(finest)
    for factor, tensor in zip((2, 4, 8), coarser, strict=True):
        tensor = keras.layers.Conv2D(16, 1)(tensor)
        total = keras.layers.Add()([total, keras.layers.UpSampling2D(factor, interpolation="bilinear")(tensor)])
    logits = keras.layers.UpSampling2D(4, interpolation="bilinear")(keras.layers.Conv2D(2, 1)(total))
    network = keras.Model(backbone.inputs, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.03, momentum=0.9), loss, jit_compile=False)
    keras.utils.set_random_seed(0)
    images = np.random.RandomState(0).normal(size=(8, 64, 64, 3)).astype("float32")
    images[:, :, 32:] += 2.0
    masks = np.zeros((8, 64, 64), "int32")
    masks[:, :, 32:] = 1
    losses = network.fit(images, masks, batch_size=4, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
