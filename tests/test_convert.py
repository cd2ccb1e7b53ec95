"""Conversion of published weights: every array becomes one variable in our layout, or nothing is written."""

import hashlib
import json
import os
import pickle
import sys
import types

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from keras import layers
from keras.src.legacy.saving import legacy_h5_format

import keras_cnns
from keras_cnns import efficientnet, vgg
from keras_cnns.conversion import NAMES, count_features, rename
from keras_cnns.efficientnet import Conv, MBConv
from keras_cnns.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from training.__main__ import main
from training.convert import convert, read_torch
from training.errors import DataError, UserError

# {package: {its name of a layer: our name}}, typed by hand.
RENAMED = {
    "torchvision resnet": {
        "conv1": "stem_conv",
        "bn1": "stem_bn",
        "layer1.0.conv1": "stage1_block1_conv1_conv",
        "layer3.11.bn3": "stage3_block12_conv3_bn",
        "layer2.0.downsample.0": "stage2_block1_shortcut_conv",
        "layer2.0.downsample.1": "stage2_block1_shortcut_bn",
        "fc": "head_dense",
        # timm's SENets, new and old.
        "layer4.2.se.fc1": "stage4_block3_gate_reduce_conv",
        "layer4.2.se_module.fc2": "stage4_block3_gate_expand_conv",
        "layer0.conv1": "stem_conv",
        "last_linear": "head_dense",
    },
    "timm senet154": {
        "conv1.0": "stem_conv1_conv",
        "conv1.1": "stem_conv1_bn",
        "conv1.3": "stem_conv2_conv",
        "conv1.4": "stem_conv2_bn",
        "conv1.6": "stem_conv3_conv",
        "bn1": "stem_conv3_bn",
        "layer0.bn2": "stem_conv2_bn",
        "layer1.0.bn1": "stage1_block1_conv1_bn",
        "fc": "head_dense",
    },
    "torchvision alexnet and vgg": {  # `count_features` has numbered the convolutions
        "block1_conv": "stage3_block1_conv",
        "block2_bn": "stage3_block2_bn",
        "classifier.0": "head_fc1",
        "classifier.1": "head_fc1",
        "classifier.3": "head_fc2",
        "classifier.4": "head_fc2",
        "classifier.6": "head_dense",
    },
    "timm vgg": {"pre_logits.fc1": "head_fc1", "pre_logits.fc2": "head_fc2", "head.fc": "head_dense"},
    "torchvision densenet": {
        "features.conv0": "stem_conv",
        "features.norm0": "stem_bn",
        "features.denseblock3.denselayer24.norm1": "dense3_layer24_conv1_bn",
        "features.denseblock1.denselayer2.conv2": "dense1_layer2_conv2_conv",
        # The names in the published files, which torchvision changes when it loads them.
        "features.denseblock4.denselayer16.norm.2": "dense4_layer16_conv2_bn",
        "features.denseblock1.denselayer1.conv.1": "dense1_layer1_conv1_conv",
        "features.transition2.norm": "transition2_bn",
        "features.transition2.conv": "transition2_conv",
        "features.norm5": "final_bn",
        "classifier": "head_dense",
    },
    "torchvision googlenet": {
        "conv1.conv": "conv1_conv",
        "conv3.bn": "conv2_main_bn",
        "inception3a.branch1.conv": "inception3a_1x1_conv",
        "inception3a.branch2.0.conv": "inception3a_3x3reduce_conv",
        "inception4e.branch3.1.bn": "inception4e_5x5_bn",
        "inception5b.branch4.1.conv": "inception5b_poolproj_conv",
        "aux2.conv.conv": "aux2_conv",
        "aux2.fc1": "aux2_fc",
        "aux2.fc2": "aux2_dense",
        "fc": "head_dense",
    },
    "timm efficientnet": {
        "conv_stem": "stem_conv",
        "bn1": "stem_bn",
        "blocks.0.0.conv_dw": "stage2_block1_depthwise_conv",
        "blocks.0.0.bn1": "stage2_block1_depthwise_bn",
        "blocks.0.1.conv_pw": "stage2_block2_project_conv",
        "blocks.0.1.bn2": "stage2_block2_project_bn",
        "blocks.1.0.conv_pw": "stage3_block1_expand_conv",
        "blocks.1.0.bn1": "stage3_block1_expand_bn",
        "blocks.5.10.bn2": "stage7_block11_depthwise_bn",
        "blocks.5.10.se.conv_reduce": "stage7_block11_gate_reduce_conv",
        "blocks.5.10.se.conv_expand": "stage7_block11_gate_expand_conv",
        "blocks.6.0.conv_pwl": "stage8_block1_project_conv",
        "blocks.6.0.bn3": "stage8_block1_project_bn",
        "conv_head": "top_conv",
        "bn2": "top_bn",
        "classifier": "head_dense",
    },
    "efficientnet-pytorch": {
        "_conv_stem": "stem_conv",
        "_bn0": "stem_bn",
        "_blocks.0._depthwise_conv": "stage2_block1_depthwise_conv",
        "_blocks.1._expand_conv": "stage3_block1_expand_conv",
        "_blocks.1._bn0": "stage3_block1_expand_bn",
        "_blocks.2._bn1": "stage3_block2_depthwise_bn",
        "_blocks.2._bn2": "stage3_block2_project_bn",
        "_blocks.2._se_reduce": "stage3_block2_gate_reduce_conv",
        "_conv_head": "top_conv",
        "_bn1": "top_bn",
        "_fc": "head_dense",
    },
    "keras resnet": {
        "conv1_bn": "stem_bn",
        "conv2_block1_0_conv": "stage1_block1_shortcut_conv",
        "conv4_block23_3_bn": "stage3_block23_conv3_bn",
        "predictions": "head_dense",
    },
    "keras vgg": {"block5_conv3": "conv5_3_conv", "fc1": "head_fc1", "predictions": "head_dense"},
    "keras densenet": {
        "conv1_conv": "stem_conv",
        "conv2_block6_0_bn": "dense1_layer6_conv1_bn",
        "conv5_block16_1_conv": "dense4_layer16_conv1_conv",
        "conv5_block16_1_bn": "dense4_layer16_conv2_bn",
        "conv5_block16_2_conv": "dense4_layer16_conv2_conv",
        "pool4_conv": "transition3_conv",
        "bn": "final_bn",
        "predictions": "head_dense",
    },
    "keras efficientnet": {
        "stem_conv": "stem_conv",
        "block1a_dwconv": "stage2_block1_depthwise_conv",
        "block2b_expand_bn": "stage3_block2_expand_bn",
        "block7a_bn": "stage8_block1_depthwise_bn",
        "block7a_se_reduce": "stage8_block1_gate_reduce_conv",
        "block7a_project_conv": "stage8_block1_project_conv",
        "top_bn": "top_bn",
        "predictions": "head_dense",
    },
}


@pytest.mark.parametrize("package", NAMES)
def test_names(package):
    blocks = ["stage2_block1", "stage3_block1", "stage3_block2"]
    assert {name: rename(name, NAMES[package], blocks) for name in RENAMED[package]} == RENAMED[package]


STEM, TOP = Conv("stem", 3, 2, 8), Conv("top", 1, 1, 16)


@pytest.fixture
def small():
    """Return an EfficientNet of two blocks without gates and a state dict for it as in efficientnet-pytorch."""
    table = (STEM, MBConv("stage2", 1, 3, 1, 8, 1), MBConv("stage3", 6, 5, 2, 12, 1), TOP)
    model = efficientnet.efficientnet(table, gate=None, classes=5, input_shape=(32, 32, 3))
    random = np.random.default_rng(0)
    shapes = {
        "_conv_stem.weight": (8, 3, 3, 3),
        "_blocks.0._depthwise_conv.weight": (8, 1, 3, 3),
        "_blocks.0._project_conv.weight": (8, 8, 1, 1),
        "_blocks.1._expand_conv.weight": (48, 8, 1, 1),
        "_blocks.1._depthwise_conv.weight": (48, 1, 5, 5),
        "_blocks.1._project_conv.weight": (12, 48, 1, 1),
        "_conv_head.weight": (16, 12, 1, 1),
        "_fc.weight": (5, 16),
        "_fc.bias": (5,),
    }
    norms = {"_bn0": 8, "_blocks.0._bn1": 8, "_blocks.0._bn2": 8, "_blocks.1._bn0": 48, "_blocks.1._bn1": 48}
    for name, channels in {**norms, "_blocks.1._bn2": 12, "_bn1": 16}.items():
        shapes |= {f"{name}.{kind}": (channels,) for kind in ("weight", "bias", "running_mean", "running_var")}
    state = {key: random.normal(size=shape).astype("float32") for key, shape in shapes.items()}
    return model, state | {"_bn0.num_batches_tracked": np.array(7)}


def test_every_array_goes_to_its_variable_in_our_layout(small):
    model, state = small
    arrays = keras_cnns.convert_weights(model, state)
    assert {key: array.shape for key, array in arrays.items()} == {v.path: tuple(v.shape) for v in model.weights}
    assert arrays["stem_conv/kernel"][0, 1, 2, 7] == state["_conv_stem.weight"][7, 2, 0, 1]
    depthwise = arrays["stage3_block1_depthwise_conv/kernel"]
    assert depthwise[4, 1, 47, 0] == state["_blocks.1._depthwise_conv.weight"][47, 0, 4, 1]
    assert arrays["head_dense/kernel"][15, 4] == state["_fc.weight"][4, 15]
    for kind, theirs in {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }.items():
        np.testing.assert_array_equal(arrays[f"stage3_block1_expand_bn/{kind}"], state[f"_blocks.1._bn0.{theirs}"])


def test_rows_after_a_flattened_map_are_reordered():
    """torch flattens (channels, height, width), Keras (height, width, channels); dropout in between is skipped."""
    image = keras.Input((2, 3, 4))
    x = layers.Dropout(0.5)(layers.Flatten()(image))
    model = keras.Model(image, layers.Dense(5, use_bias=False, name="head_dense")(x))
    weight = np.random.default_rng(0).normal(size=(5, 24)).astype("float32")
    kernel = keras_cnns.convert_weights(model, {"fc.weight": weight})["head_dense/kernel"]
    pixels = np.random.default_rng(1).normal(size=(1, 2, 3, 4)).astype("float32")
    theirs = pixels.transpose(0, 3, 1, 2).reshape(1, -1) @ weight.T
    np.testing.assert_allclose(pixels.reshape(1, -1) @ kernel, theirs, rtol=1e-5)


SPOILED = {
    "missing": (
        lambda s: {k: v for k, v in s.items() if k != "_bn1.bias"},
        "1 variables are missing, e.g. top_bn/beta",
    ),
    "unexpected": (lambda s: s | {"_new.weight": np.ones(3)}, "1 are not in the model, e.g. _new/kernel"),
    "a block too many": (
        lambda s: s | {"_blocks.2._bn1.bias": np.ones(3)},
        "not in the model, e.g. block2_depthwise_bn",
    ),
    "shape": (lambda s: s | {"_fc.bias": np.ones(6)}, r"head_dense/bias is \(6,\) in the file and \(5,\) in the model"),
    "twice": (
        lambda s: s | {"stem_conv.weight": np.ones(3)},
        "both _conv_stem.weight and stem_conv.weight would",
    ),
    "other": (lambda s: {"fc.weight": np.ones((5, 16))}, "variables are missing"),
    "int64": (lambda s: s | {"_fc.bias": np.ones(5, "int64")}, "_fc.bias is int64; weights are floating-point"),
    "NaN": (lambda s: s | {"_fc.bias": np.full(5, np.nan)}, "head_dense/bias has values that are NaN"),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_a_state_dict_that_does_not_fit_is_refused(small, fault):
    model, state = small
    spoil, message = SPOILED[fault]
    with pytest.raises(ValueError, match=message):
        keras_cnns.convert_weights(model, spoil(state))


# --- AlexNet and VGG, whose layers torch numbers


def test_features_are_counted():
    state = {"features.0.weight": 0, "features.0.bias": 0, "features.1.running_mean": 0, "features.4.weight": 0}
    expected = {"features.0": "block0_conv", "features.1": "block0_bn", "features.4": "block1_conv"}
    assert count_features(state) == expected


def small_vgg(**arguments):
    table = (vgg.Block(4, 1), vgg.Block(6, 2))
    return vgg.vgg(table, fully_connected=(5, 7), input_shape=(16, 16, 3), classes=3, **arguments)


@pytest.mark.parametrize("publisher", ["torchvision", "timm"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_vgg_of_both_publishers(publisher, batch_norm):
    """The first dense layer takes channels, rows and columns in torch, rows, columns and channels here."""
    model, random = small_vgg(batch_norm=batch_norm), np.random.default_rng(0)
    steps = (0, 4, 7) if batch_norm else (0, 3, 5)  # convolution, (normalization,) ReLU; pools after the first and last
    shapes = {}
    for index, (out, into) in zip(steps, ((4, 3), (6, 4), (6, 6)), strict=True):
        shapes |= {f"features.{index}.weight": (out, into, 3, 3), f"features.{index}.bias": (out,)}
        if batch_norm:
            kinds = ("weight", "bias", "running_mean", "running_var")
            shapes |= {f"features.{index + 1}.{kind}": (out,) for kind in kinds}
    names = ("classifier.0", "classifier.3", "classifier.6")
    names = names if publisher == "torchvision" else ("pre_logits.fc1", "pre_logits.fc2", "head.fc")
    for name, (out, into) in zip(names, ((5, 96), (7, 5), (3, 7)), strict=True):
        shapes |= {f"{name}.weight": (out, into), f"{name}.bias": (out,)}
    if publisher == "timm":
        shapes |= {"pre_logits.fc1.weight": (5, 6, 4, 4), "pre_logits.fc2.weight": (7, 5, 1, 1)}
    state = {key: random.normal(size=shape).astype("float32") for key, shape in shapes.items()}
    arrays = keras_cnns.convert_weights(model, state)
    dense = arrays["head_fc1/kernel"].reshape(4, 4, 6, 5)
    theirs = state[f"{names[0]}.weight"].reshape(5, 6, 4, 4)
    assert dense[1, 2, 3, 4] == theirs[4, 3, 1, 2]
    assert arrays["conv2_2_conv/kernel"][2, 1, 3, 5] == state[f"features.{steps[2]}.weight"][5, 3, 2, 1]
    if batch_norm:
        np.testing.assert_array_equal(arrays["conv2_1_bn/moving_variance"], state["features.5.running_var"])


# --- keras.applications


def shaken(peer, seed=0):
    """Give every variable of a network of keras.applications other values than the default ones."""
    random = np.random.default_rng(seed)
    for variable in peer.weights:
        kind = variable.path.rpartition("/")[2]
        if kind in ("beta", "bias", "moving_mean"):
            variable.assign(0.1 * random.normal(size=variable.shape))
        elif kind in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.5, 1, size=variable.shape))
        elif variable.path.startswith("normalization") and kind != "count":
            variable.assign(np.reshape(IMAGENET_MEAN if kind == "mean" else np.square(IMAGENET_STD), variable.shape))


OF_KERAS = {
    "ResNet50": ({"version": "1"}, "caffe"),
    "DenseNet121": ({}, "imagenet"),
    "EfficientNetB0": ({}, "imagenet"),
    "VGG16": ({}, "caffe"),
}


# One in each of the two formats here, the rest with `make test-all`.
FAST = (("ResNet50", "weights.h5"), ("VGG16", "h5"))
CASES = [
    pytest.param(name, ending, marks=[] if (name, ending) in FAST else [pytest.mark.slow])
    for name in OF_KERAS
    for ending in ("weights.h5", "h5")
]


@pytest.mark.parametrize(("name", "ending"), CASES)
def test_weights_of_keras_applications(name, ending, tmp_path, capsys):
    """Outputs to 1e-4: a convolution's bias and another epsilon are folded exactly."""
    arguments, mode = OF_KERAS[name]
    top = name != "VGG16"  # without its dense layers, which are half a gigabyte
    size = (64, 64, 3)
    peer = getattr(keras.applications, name)(weights=None, classes=1000, include_top=top, input_shape=size)
    shaken(peer)
    source, file = tmp_path / f"theirs.{ending}", tmp_path / "ours.safetensors"
    if ending == "h5":
        with h5py.File(source, "w") as group:  # the format of the published files
            legacy_h5_format.save_weights_to_hdf5_group(group, peer)
    else:
        peer.save_weights(source)
    words = ["convert", str(source), str(file), "--model", name, "--model_args", json.dumps(arguments)]
    assert main(words) == 0
    assert f"preprocessing {mode}" in capsys.readouterr().out
    ours = keras_cnns.builder(name)(weights=file, include_top=top, input_shape=size, **arguments)
    pixels = np.random.default_rng(1).uniform(0, 255, (2, *size)).astype("float32")
    normalized = keras_cnns.preprocess_input(pixels, ours)
    theirs = np.asarray(peer(pixels if name.startswith("Efficient") else normalized, training=False))
    found = np.asarray(ours(normalized, training=False))
    assert np.abs(found - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_other_pixels_than_imagenets_are_refused():
    state = {"normalization/mean": np.zeros(3), "normalization/variance": np.ones(3), "normalization/count": np.ones(1)}
    with pytest.raises(ValueError, match="none of the modes of preprocess_input"):
        keras_cnns.convert_weights(keras_cnns.ResNet20(), state)
    published = {"normalization/mean": np.array(IMAGENET_MEAN), "normalization/variance": np.array(IMAGENET_STD)}
    with pytest.raises(ValueError, match="variables are missing"):  # these pixels are right
        keras_cnns.convert_weights(keras_cnns.ResNet20(), published | {"stem_conv/kernel": np.zeros((3, 3, 3, 16))})


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("ResNet50", [], "strides where the paper has them. Pass --model_args"),
        ("ResNet18", [], "keras.applications has no ResNet18"),
        ("DenseNet121", [], "has no weights of keras.applications.DenseNet121"),
    ],
)
def test_a_keras_file_that_is_not_of_the_network(name, words, message, tmp_path, capsys):
    source = tmp_path / "theirs.weights.h5"
    keras_cnns.ResNet20().save_weights(source)
    assert main(["convert", str(source), str(tmp_path / "ours"), "--model", name, *words]) in (2, 3)
    assert message in capsys.readouterr().err and not (tmp_path / "ours").exists()


# --- the command


def torchvision_resnet18(classes):
    """Return random weights with the names and shapes of torchvision's ResNet-18, typed by hand."""
    shapes = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (classes, 512), "fc.bias": (classes,)}
    norms = {"bn1": 64}
    for stage, (into, out) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512)), 1):
        for block in (0, 1):
            prefix = f"layer{stage}.{block}"
            shapes[f"{prefix}.conv1.weight"] = (out, out if block else into, 3, 3)
            shapes[f"{prefix}.conv2.weight"] = (out, out, 3, 3)
            norms |= {f"{prefix}.bn1": out, f"{prefix}.bn2": out}
        if stage > 1:
            shapes[f"layer{stage}.0.downsample.0.weight"] = (out, into, 1, 1)
            norms[f"layer{stage}.0.downsample.1"] = out
    for norm, channels in norms.items():
        shapes |= {f"{norm}.{kind}": (channels,) for kind in ("weight", "bias", "running_mean", "running_var")}
    random = np.random.default_rng(0)
    return {key: random.uniform(0.1, 1, size=shape).astype("float32") for key, shape in shapes.items()}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "resnet18.safetensors"
    safetensors.numpy.save_file(torchvision_resnet18(classes=7), path)
    return path


def test_the_command_writes_weights_and_their_source(source, tmp_path, capsys):
    file = tmp_path / "ours.safetensors"
    assert main(["convert", str(source), str(file), "--model", "resnet18", "--model_args", '{"classes": 7}']) == 0
    assert f"{file}: ResNet18, preprocessing imagenet" in capsys.readouterr().out
    model = keras_cnns.ResNet18(classes=7)
    metadata = keras_cnns.load_weights(model, file)
    assert metadata == {
        "model": "ResNet18",
        "preprocessing": "imagenet",
        "source": "resnet18.safetensors",
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    theirs = safetensors.numpy.load_file(source)["layer4.0.downsample.0.weight"]
    kernel = np.asarray(model.get_layer("stage4_block1_shortcut_conv").kernel)
    np.testing.assert_array_equal(kernel[0, 0], theirs[:, :, 0, 0].T)
    assert keras_cnns.ResNet18(include_top=False, weights=str(file)).count_params() == 11_186_112


def test_the_preprocessing_mode_can_be_passed(source, tmp_path):
    arguments = {"model_args": {"classes": 7}, "preprocessing": "caffe"}
    assert convert(source, tmp_path / "file", "ResNet18", **arguments)["preprocessing"] == "caffe"


@pytest.fixture
def small_builder(small, monkeypatch):
    """Return a function that makes a name stand for a small network and returns a state dict for it."""
    model, state = small

    def build(**arguments):
        return keras.models.clone_model(model)

    def named(name):
        build.__name__ = name
        monkeypatch.setattr(keras_cnns, "builder", lambda _: build)
        return state

    return named


@pytest.mark.parametrize(
    ("name", "mode"), [("InceptionV1", "tf"), ("EfficientNetLite3", "lite"), ("SEInceptionV1", "imagenet")]
)
def test_the_default_mode_is_that_of_the_published_weights(name, mode, small_builder, tmp_path):
    safetensors.numpy.save_file(small_builder(name), tmp_path / "theirs.safetensors")
    assert convert(tmp_path / "theirs.safetensors", tmp_path / "ours", name)["preprocessing"] == mode


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
def test_half_precision_is_read(dtype, small_builder, tmp_path):
    state = {key: value.astype(dtype) if value.ndim else value for key, value in small_builder("ResNet18").items()}
    safetensors.numpy.save_file(state, tmp_path / "theirs.safetensors")
    convert(tmp_path / "theirs.safetensors", tmp_path / "ours", "ResNet18")
    bias = keras_cnns.read_weights(tmp_path / "ours")[0]["head_dense/bias"]
    np.testing.assert_array_equal(bias, state["_fc.bias"].astype("float32"))


def test_only_a_regular_file_is_replaced_and_only_after_all_checks(small_builder, tmp_path):
    source, old, fifo = tmp_path / "theirs.safetensors", tmp_path / "old", tmp_path / "fifo"
    state = small_builder("ResNet18")
    safetensors.numpy.save_file(state, source)
    whole = source.read_bytes()
    old.write_text("old")
    os.mkfifo(fifo)
    (tmp_path / "link").symlink_to(old)
    for file, message in {
        source: "it is what is being read",
        tmp_path / "." / source.name: "it is what is being read",
        fifo: "is not a regular file",
        tmp_path: "is not a regular file",
        tmp_path / "link": "is not a regular file",
        tmp_path / "nowhere" / "file": "there is no such folder",
    }.items():
        with pytest.raises(UserError, match=message):
            convert(source, file, "ResNet18")
    source.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        convert(source, old, "ResNet18")
    safetensors.numpy.save_file(state | {"_fc.bias": np.full(5, np.inf, "float32")}, source)
    with pytest.raises(UserError, match="NaN or infinite"):
        convert(source, old, "ResNet18")
    assert old.read_text() == "old" and fifo.is_fifo() and (tmp_path / "link").is_symlink()
    source.write_bytes(whole)
    convert(source, old, "ResNet18")
    assert keras_cnns.read_weights(old)[1]["model"] == "ResNet18"


class Tensor:
    """The part of a torch tensor that convert uses; with an error it is sparse or on the device "meta"."""

    def __init__(self, array, error=None):
        self.array, self.error = array, error

    def is_floating_point(self):
        return self.array.dtype.kind == "f"

    def float(self):
        return Tensor(self.array.astype("float32"), self.error)

    def numpy(self):
        if self.error:
            raise self.error
        return self.array


ADVICE = "Weights only load failed. Re-run torch.load with weights_only=False"
# {case: (what torch.load returns or raises, the error)}
FROM_TORCH = {
    "empty": (EOFError(), r"weights\.pth is not a whole file of torch weights \(EOFError\)"),
    "cut off": (
        RuntimeError("failed finding central directory\nmore"),
        r"\(failed finding central directory\)\. Download",
    ),
    "code": (pickle.UnpicklingError(ADVICE), r"\(UnpicklingError\)\. .* a file that contains code is not read"),
    "list": ([Tensor(np.ones(3))], "something other than tensors by name"),
    "numbers as names": ({0: Tensor(np.ones(3))}, "something other than tensors by name"),
    "no tensor": ({"epoch": 3}, "something other than tensors by name"),
    "sparse": (
        {"fc.weight": Tensor(np.ones(3), TypeError("can't convert Sparse layout"))},
        r"fc\.weight cannot be read as a plain array \(can't convert Sparse layout\)",
    ),
    "meta": (
        {"fc.weight": Tensor(np.ones(3), NotImplementedError("Cannot copy out of meta"))},
        r"fc\.weight cannot be",
    ),
}


@pytest.mark.parametrize("what", FROM_TORCH)
def test_what_torch_does_not_read_as_weights_is_refused(what, tmp_path, monkeypatch):
    result, message = FROM_TORCH[what]

    def load(file, map_location, weights_only):
        assert weights_only
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load, Tensor=Tensor))
    with pytest.raises(DataError, match=message) as error:
        read_torch(tmp_path / "weights.pth")
    assert "weights_only" not in str(error.value)


def test_torch_tensors_become_arrays(tmp_path, monkeypatch):
    """Integers stay integers, so that they are refused as weights."""
    state = {"half": Tensor(np.ones(3, "float16")), "whole": Tensor(np.array(7))}
    torch = types.SimpleNamespace(load=lambda *_, **__: state, Tensor=Tensor)
    monkeypatch.setitem(sys.modules, "torch", torch)
    arrays = read_torch(tmp_path / "weights.pth")
    assert {name: array.dtype.name for name, array in arrays.items()} == {"half": "float32", "whole": "int64"}


def test_mistakes_are_named_and_nothing_is_written(source, tmp_path, monkeypatch):
    file = tmp_path / "file"
    with pytest.raises(UserError, match=r"head_dense/kernel is \(512, 7\) in the file .* --model_args"):
        convert(source, file, "ResNet18")
    with pytest.raises(UserError, match=r"do(es)? not fit resnet34.*--model"):
        convert(source, file, "ResNet34", model_args={"classes": 7})
    with pytest.raises(UserError, match=r"no network 'ResNet19'\. Did you mean"):
        convert(source, file, "ResNet19")
    with pytest.raises(UserError, match=r"argument 'clases'"):
        convert(source, file, "ResNet18", model_args={"clases": 7})
    with pytest.raises(UserError, match="there is no such file"):
        convert(tmp_path / "nowhere.pth", file, "ResNet18")
    (tmp_path / "cut.safetensors").write_bytes(source.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"cut\.safetensors': not a whole safetensors file"):
        convert(tmp_path / "cut.safetensors", file, "ResNet18")
    (tmp_path / "weights.pth").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"only with torch, which is not installed\. Run `pip install torch`"):
        convert(tmp_path / "weights.pth", file, "ResNet18")
    assert not file.exists()


def test_the_error_about_imagenet_names_a_command_that_exists(capsys):
    with pytest.raises(ValueError, match=r"python -m training convert \S+ FILE --model InceptionV1"):
        keras_cnns.InceptionV1(weights="imagenet")
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    assert "source" in capsys.readouterr().out
