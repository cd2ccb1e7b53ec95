"""Deformable ResNet: which layers are deformable, and that they start as the plain network."""

import functools

import keras
import numpy as np
import pytest
import safetensors.numpy

import keras_cnns
from keras_cnns import resnet
from keras_cnns.deformable import deformable_bottleneck, deformable_resnet
from keras_cnns.layers import DeformableConv2D
from tests.structure import structure

STAGES = tuple(resnet.Stage(filters, 1) for filters in (8, 8, 16, 16))
SMALL = {"input_shape": (64, 64, 3), "classes": 10, "classifier_activation": None}


def images(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def shaken(model):
    """Change all variables, including those that start at zero."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign_add(random.uniform(0, 0.1, variable.shape))
    return model


@functools.cache
def plain(version="1.5"):
    return shaken(resnet.resnet(STAGES, block=resnet.bottleneck, version=version, **SMALL))


@pytest.fixture
def plain_file(tmp_path):
    keras_cnns.save_weights(plain(), tmp_path / "plain.safetensors")
    return tmp_path / "plain.safetensors"


# --- which layers


@pytest.mark.parametrize(("version", "modulated"), [("1", False), ("1.5", True)])
def test_every_3x3_of_conv3_to_conv5_is_deformable(version, modulated):
    """13 of 128, 256 and 512 filters, with a stride in the first of a stage as in ResNet."""
    model = structure("DeformableResNet50", version=version, modulated=modulated)
    found = [layer for layer in model.layers if isinstance(layer, DeformableConv2D)]
    counts = {2: (4, 128), 3: (6, 256), 4: (3, 512)}
    blocks = [(s, b, filters) for s, (count, filters) in counts.items() for b in range(1, count + 1)]
    assert [layer.name for layer in found] == [f"stage{s}_block{b}_conv2_conv" for s, b, _ in blocks]
    for layer, (_, block, filters) in zip(found, blocks, strict=True):
        strides = (2, 2) if block == 1 and version == "1.5" else (1, 1)
        assert (layer.filters, layer.strides, layer.padding) == (filters, strides, (1, 1))
        assert (layer.kernel_size, layer.offset_groups, layer.groups, layer.use_bias) == ((3, 3), 1, 1, False)
        assert layer.modulated == modulated
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert sorted(layer.name for layer in convolutions if layer.kernel_size == (3, 3)) == [
        f"stage1_block{block}_conv2_conv" for block in (1, 2, 3)
    ]


def test_the_placement_of_the_first_paper():
    """The 3x3 of conv5 alone, as the docstring says."""
    blocks = (*[resnet.bottleneck] * 3, functools.partial(deformable_bottleneck, modulated=False))
    model = resnet.resnet(STAGES, block=blocks, **SMALL)
    found = [layer.name for layer in model.layers if isinstance(layer, DeformableConv2D)]
    assert found == ["stage4_block1_conv2_conv"]


# --- weights of the plain network


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("version", ["1", "1.5"])
def test_weights_of_the_plain_network_give_its_outputs(version, modulated, tmp_path):
    keras_cnns.save_weights(plain(version), tmp_path / "plain.safetensors")
    build = functools.partial(deformable_resnet, STAGES, version=version, modulated=modulated, **SMALL)
    x = images(2, 64, 64, 3)
    expected = np.asarray(plain(version)(x))
    model = build(weights=tmp_path / "plain.safetensors")
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    # Offsets and masks that the file lacks become zero, whatever they were before.
    model = shaken(build())
    assert not np.allclose(model(x), expected, rtol=1e-2)
    keras_cnns.load_weights(model, tmp_path / "plain.safetensors")
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_weights_of_the_plain_resnet50_give_its_outputs(tmp_path):
    """All 16 blocks, in inference; every branch is scaled down so that activations do not explode."""
    shape = (96, 96, 3)
    model = keras_cnns.ResNet50(classifier_activation=None, input_shape=shape)
    for layer in model.layers:
        if layer.name.endswith("conv3_bn"):
            layer.gamma.assign(np.full(layer.gamma.shape, 0.3))
    keras_cnns.save_weights(model, tmp_path / "plain.safetensors")
    file = tmp_path / "plain.safetensors"
    deformable = keras_cnns.DeformableResNet50(weights=file, classifier_activation=None, input_shape=shape)
    x = images(1, *shape)
    expected = np.asarray(model(x))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(deformable(x), expected, atol=1e-5 * np.abs(expected).max())


def test_weights_without_masks_give_the_same_outputs_with_them(tmp_path):
    model = shaken(deformable_resnet(STAGES, modulated=False, **SMALL))
    keras_cnns.save_weights(model, tmp_path / "unmodulated.safetensors")
    modulated = deformable_resnet(STAGES, weights=tmp_path / "unmodulated.safetensors", **SMALL)
    x = images(2, 64, 64, 3)
    np.testing.assert_allclose(modulated(x), model(x), rtol=1e-4, atol=1e-5 * np.abs(model(x)).max())


# {fault: variables removed from a valid file of the deformable network, variables added, error message}
SPOILED = {
    "an offset alone": (
        ["stage3_block1_conv2_conv/offset_bias"],
        [],
        "1 variables are missing, e.g. stage3_block1",
    ),
    "a mask alone": (
        ["stage2_block1_conv2_conv/mask_kernel"],
        [],
        "missing, e.g. stage2_block1_conv2_conv/mask_kernel",
    ),
    "a kernel": (
        ["stage3_block1_conv2_conv/kernel"],
        [],
        "1 variables are missing, e.g. stage3_block1_conv2_conv/kernel",
    ),
    "an unknown offset": ([], ["stem_conv/offset_kernel"], "1 are not in the model, e.g. stem_conv/offset_kernel"),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_only_all_offsets_together_may_be_missing(fault, tmp_path):
    missing, added, message = SPOILED[fault]
    model = shaken(deformable_resnet(STAGES, **SMALL))
    arrays = {variable.path: np.asarray(variable) for variable in model.weights}
    arrays = {key: array for key, array in arrays.items() if key not in missing} | dict.fromkeys(added, np.ones(1))
    safetensors.numpy.save_file(arrays, tmp_path / "spoiled.safetensors")
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        keras_cnns.load_weights(model, tmp_path / "spoiled.safetensors")
    assert all(np.array_equal(*pair) for pair in zip(model.get_weights(), before, strict=True))


def test_a_plain_file_still_has_to_fit(plain_file):
    """The plain network's file without one of its own variables, and with another number of classes."""
    arrays = safetensors.numpy.load_file(plain_file)
    del arrays["stage4_block1_conv2_conv/kernel"]
    safetensors.numpy.save_file(arrays, plain_file.with_name("less.safetensors"))
    with pytest.raises(ValueError, match=r"1 variables are missing, e.g. stage4_block1_conv2_conv/kernel"):
        deformable_resnet(STAGES, weights=plain_file.with_name("less.safetensors"), **SMALL)
    with pytest.raises(ValueError, match=r"head_dense/kernel is \(64, 10\) in the file and \(64, 7\) in the model"):
        deformable_resnet(STAGES, weights=plain_file, **(SMALL | {"classes": 7}))


def test_weights_of_a_deformable_network_do_not_fit_a_plain_one(tmp_path):
    """Its learned offsets must not be dropped silently."""
    keras_cnns.save_weights(deformable_resnet(STAGES, **SMALL), tmp_path / "deformable.safetensors")
    with pytest.raises(ValueError, match=r"12 are not in the model, e.g. stage2_block1_conv2_conv/mask_bias"):
        resnet.resnet(STAGES, block=resnet.bottleneck, weights=tmp_path / "deformable.safetensors", **SMALL)


# --- training


def test_training_moves_offsets_and_masks():
    keras.utils.set_random_seed(0)
    model = deformable_resnet(STAGES, **(SMALL | {"classifier_activation": "softmax"}))
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy", jit_compile=False)
    history = model.fit(images(20, 64, 64, 3), np.arange(20) % 10, batch_size=20, epochs=8, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[-1] < 0.8 * history[0]
    for layer in model.layers:
        if isinstance(layer, DeformableConv2D):
            for variable in (layer.offset_kernel, layer.offset_bias, layer.mask_kernel, layer.mask_bias):
                assert np.any(variable), variable.path
