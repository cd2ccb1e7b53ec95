"""What every network promises, whatever its paper: its names, its inputs, its outputs, its files and its errors.

Each network stands here with a small table, so that the same promises can be tried on all of them in seconds.
"""

import functools
import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from keras_cnns import alexnet, deformable, densenet, efficientnet, googlenet, resnet, senet, vgg
from keras_cnns.alexnet import Convolution
from keras_cnns.efficientnet import Conv, MBConv
from keras_cnns.googlenet import Inception, MaxPool
from keras_cnns.resnet import Stage
from keras_cnns.vgg import Block

STAGES = tuple(Stage(filters, 1) for filters in (8, 8, 16, 16))
MODULES = (
    MaxPool("pool3", 3, 2),
    Inception("inception4a", 16, 8, 16, 8, 8, 8),
    Inception("inception4d", 8, 8, 16, 8, 16, 8),
    MaxPool("pool4", 3, 2),
    Inception("inception5a", 16, 8, 16, 8, 8, 8),
)
# fmt: off
TWO_GPUS = (
    Convolution( 8, 5, 2, 0, 1, True,  True),
    Convolution(16, 5, 1, 2, 2, True,  True),
    Convolution(16, 3, 1, 1, 1, False, False),
)
ONE_TOWER = (
    Convolution( 8, 7, 2, 2, 1, False, True),
    Convolution(16, 3, 1, 1, 1, False, True),
)
# fmt: on
BLOCKS = (Block(8, 1), Block(8, 1), Block(16, 2), Block(16, 1), Block(16, 1))
# Every kind of block: with and without expansion, stride, more channels, and a shortcut with drop connect.
ROWS = (
    Conv("stem", 3, 2, 8),
    MBConv("stage1", 1, 3, 1, 8, 1),
    MBConv("stage2", 6, 5, 2, 8, 2),
    MBConv("stage3", 6, 3, 2, 16, 1),
    MBConv("stage4", 6, 3, 2, 16, 1),
    MBConv("stage5", 6, 5, 2, 16, 1),
    Conv("top", 1, 1, 64),
)
V1 = {"stem": googlenet.stem_v1, "module": googlenet.inception_v1, "head": googlenet.auxiliary_head_v1}
basic = functools.partial(resnet.resnet, STAGES, block=resnet.basic_block)
bottleneck = functools.partial(resnet.resnet, STAGES, block=resnet.bottleneck)
plain = functools.partial(resnet.resnet, STAGES, block=resnet.plain_block)
deformable_bottleneck = functools.partial(deformable.deformable_resnet, STAGES)
cifar = functools.partial(keras_cnns.ResNetCIFAR, 8)
se_basic = functools.partial(senet.senet, STAGES, block=resnet.basic_block, ratio=2)
se_bottleneck = functools.partial(senet.senet, STAGES, block=resnet.bottleneck, ratio=2)
STAGES_OF_GROUPS = (Stage(32, 1),) * 4  # 64 channels between the 1x1 convolutions, in up to 64 groups
resnext = functools.partial(senet.senet, STAGES_OF_GROUPS, block=senet.resnext_bottleneck)
V1_GATED = V1 | {"module": functools.partial(senet.se_inception, ratio=2)}
SENET154 = {"block": senet.wide_bottleneck, "stem": senet.stem_3x3, "dropout": 0.2}
plain_cifar = functools.partial(keras_cnns.PlainNetCIFAR, 8)
two_gpus = functools.partial(alexnet.alexnet, TWO_GPUS, fully_connected=(32, 16))
one_tower = functools.partial(alexnet.alexnet, ONE_TOWER, fully_connected=(32, 16))
vgg_blocks = functools.partial(vgg.vgg, BLOCKS, fully_connected=(32, 16))
dense = functools.partial(densenet.densenet, densenet.Column((1, 2, 1, 1), growth_rate=8))
dense_cifar = functools.partial(keras_cnns.DenseNetCIFAR, 10, growth_rate=4)
efficient = functools.partial(efficientnet.efficientnet, ROWS)
lite = functools.partial(efficientnet.efficientnet, ROWS, activation=efficientnet.relu6, gate=None)
# Networks that differ in their tables alone share a small one, which is then tried once.
SMALL = {
    "AlexNet": two_gpus,
    "AlexNetOneTower": one_tower,
    "VGG11": vgg_blocks,
    "VGG13": vgg_blocks,
    "VGG16": vgg_blocks,
    "VGG19": vgg_blocks,
    "GoogLeNet": lambda **kw: googlenet.googlenet(MODULES, **kw),
    "InceptionV1": lambda **kw: googlenet.googlenet(MODULES, **V1, **kw),
    "ResNet18": basic,
    "ResNet34": basic,
    "ResNet50": bottleneck,
    "ResNet101": bottleneck,
    "ResNet152": bottleneck,
    "PlainNet18": plain,
    "PlainNet34": plain,
    "ResNetCIFAR": cifar,
    "ResNet20": cifar,
    "ResNet32": cifar,
    "ResNet44": cifar,
    "ResNet56": cifar,
    "ResNet110": cifar,
    "PlainNetCIFAR": plain_cifar,
    "PlainNet20": plain_cifar,
    "PlainNet56": plain_cifar,
    "DenseNet121": dense,
    "DenseNet161": dense,
    "DenseNet169": dense,
    "DenseNet201": dense,
    "DenseNet264": dense,
    "DenseNetCIFAR": dense_cifar,
    "SEResNet18": se_basic,
    "SEResNet34": se_basic,
    "SEResNet50": se_bottleneck,
    "SEResNet101": se_bottleneck,
    "SEResNet152": se_bottleneck,
    "SEResNeXt50": resnext,
    "SEResNeXt101": resnext,
    "SEInceptionV1": lambda **kw: googlenet.googlenet(MODULES, **V1_GATED, **kw),
    "SENet154": lambda **kw: senet.senet(STAGES_OF_GROUPS, **SENET154, **kw),
    "EfficientNet": efficient,
    "EfficientNetB0": efficient,
    "EfficientNetB1": efficient,
    "EfficientNetB2": efficient,
    "EfficientNetB3": efficient,
    "EfficientNetB4": efficient,
    "EfficientNetB5": efficient,
    "EfficientNetB6": efficient,
    "EfficientNetB7": efficient,
    "EfficientNetLite0": lite,
    "EfficientNetLite1": lite,
    "EfficientNetLite2": lite,
    "EfficientNetLite3": lite,
    "EfficientNetLite4": lite,
    "DeformableResNet50": deformable_bottleneck,
    "DeformableResNet101": deformable_bottleneck,
}
DISTINCT = [name for place, name in enumerate(SMALL) if list(SMALL.values()).index(SMALL[name]) == place]
CIFAR = [name for name in SMALL if SMALL[name] in (cifar, plain_cifar, dense_cifar)]
FLATTENING = [name for name in DISTINCT if SMALL[name] in (two_gpus, one_tower, vgg_blocks)]
# Networks whose normalization and activation come before their convolution, but in the stem.
PRE_ACTIVATION = [name for name in SMALL if SMALL[name] in (dense, dense_cifar)]
LAST_MAP = {"AlexNet": 6, "AlexNetOneTower": 7}  # of 64 pixels, where it is not 64 // 32: by hand
LAST_MAP |= dict.fromkeys(CIFAR, 16)
WITH_HEADS = ("GoogLeNet", "InceptionV1", "SEInceptionV1")
HEAD_WEIGHTS = {"main": 1.0, "aux1": 0.3, "aux2": 0.3}
VARIANTS = [(name, {}) for name in DISTINCT]
VARIANTS += [(name, {"aux_heads": True}) for name in WITH_HEADS]
VARIANTS += [(name, {"version": "1"}) for name in ("ResNet50", "SEResNet50")]
VARIANTS += [("VGG11", {"batch_norm": True})]
VARIANTS += [(name, {"memory_efficient": True}) for name in ("DenseNet121", "DenseNetCIFAR")]
VARIANTS += [("DenseNetCIFAR", {"bottleneck": True, "compression": 0.5})]
VARIANTS += [("DeformableResNet50", {"modulated": False})]

every_builder = pytest.mark.parametrize("name", keras_cnns.list_models())
every_network = pytest.mark.parametrize("name", DISTINCT)
every_variant = pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=[f"{n}({kw or ''})" for n, kw in VARIANTS])


def build(name, **arguments):
    """A small network at 64 pixels and 10 classes, if not said otherwise."""
    sizes = {} if {"input_shape", "input_tensor"} & arguments.keys() else {"input_shape": (64, 64, 3)}
    return SMALL[name](**({"classes": 10} | sizes | arguments))


@functools.cache
def network(name, **arguments):
    """A small network for tests that change no more than its moving statistics; always the same one."""
    keras.utils.set_random_seed(0)
    return shaken(build(name, **arguments))


def shaken(model):
    """Moves what starts at zero or one off it, so that none of it can get lost unseen; kernels are random already."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        if not variable.path.endswith("kernel"):
            variable.assign_add(random.uniform(0, 0.1, variable.shape))
    return model


def same_weights(model, source):
    """Gives a model the weights of another by their paths."""
    values = {variable.path: variable for variable in source.weights}
    for variable in model.weights:
        variable.assign(values[variable.path])
    return model


def images(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def outputs(model, x):
    """The outputs in inference as a dictionary of arrays; that of a network without heads is "main"."""
    out = model(x, training=False)
    return {key: np.asarray(value) for key, value in (out if isinstance(out, dict) else {"main": out}).items()}


def assert_same_outputs(model, other, x, **tolerance):
    ours, theirs = outputs(model, x), outputs(other, x)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        np.testing.assert_allclose(value, theirs[key], err_msg=key, **tolerance)


def test_every_network_is_here():
    assert list(SMALL) == keras_cnns.list_models()


# --- the signature


@every_builder
def test_signature(name):
    """keras.applications' spelling and defaults, all of it visible, and one's own name for the model."""
    shared = {
        "include_top": True,
        "weights": None,
        "input_tensor": None,
        "input_shape": None,
        "pooling": None,
        "classes": 10 if name in CIFAR else 1000,
        "classifier_activation": "softmax",
    }
    parameters = inspect.signature(keras_cnns.builder(name)).parameters
    assert {key: parameters[key].default for key in shared} == shared
    assert parameters["name"].default == name.lower().replace("cifar", "_cifar")
    keyword_only = [p for p in parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert [p.name for p in parameters.values() if p not in keyword_only] == ["depth"] * name.endswith("CIFAR")


# --- names


def producers(model):
    """The layer that makes a tensor, by the tensor's id."""
    return {id(tensor): layer.name for layer in model.layers for tensor in keras.tree.flatten(layer.output)}


@every_variant
def test_names_are_levels(name, arguments):
    names = [layer.name for layer in network(name, **arguments).layers]
    assert all(re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", layer) for layer in names)
    assert not [(a, b) for a in names for b in names if b.startswith(f"{a}_")]


BLOCK = r"(stage\d+_block\d+|inception\d[a-z]|dense\d_layer\d+|conv\d(?=_\d|_out))(?=_)"  # the last of them VGG's


@pytest.mark.parametrize("name", [name for name in DISTINCT if not name.startswith("AlexNet")])  # it has no blocks
def test_every_block_ends_in_out(name):
    """What leaves a block is its last tensor, whose name ends in _out."""
    model = network(name)
    made_by = producers(model)
    block = {layer.name: match[0] for layer in model.layers if (match := re.match(BLOCK, layer.name))}
    leaving = {
        source
        for layer in model.layers
        for source in (made_by[id(tensor)] for tensor in keras.tree.flatten(layer.input))
        if source in block and block.get(layer.name) != block[source]
    }
    assert leaving == {f"{prefix}_out" for prefix in block.values()} and leaving


@every_variant
def test_normalization_and_activation_are_named_as_their_convolution(name, arguments):
    """conv1_conv -> conv1_bn -> conv1_relu, or where they come before it conv1_bn -> conv1_relu -> conv1_conv."""
    model = network(name, **arguments)
    made_by = producers(model)
    after = {"bn": ("conv",), "relu": ("bn", "conv"), "swish": ("bn", "conv")}
    before = {"relu": ("bn",), "conv": ("relu",)}
    met = set()
    for layer in model.layers:
        unit, _, kind = layer.name.rpartition("_")
        expected = before if name in PRE_ACTIVATION and unit != "stem" else after
        if kind in expected:
            # Of several inputs the last: the normalization of what the others are.
            source = made_by[id(keras.tree.flatten(layer.input)[-1])]
            assert source in {f"{unit}_{expected_kind}" for expected_kind in expected[kind]}, layer.name
            met.add(kind)
    assert {"relu", "swish"} & met and (name not in PRE_ACTIVATION or "conv" in met)


# --- serialization


@every_variant
def test_keras_file_round_trip(name, arguments, tmp_path):
    model = network(name, **arguments)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    assert_same_outputs(loaded, model, images(2, 64, 64, 3), rtol=1e-6, atol=1e-7)


# --- outputs


def classifiers(model, x):
    """What enters the last dense layer of each head, with that layer's kernel and bias: {head: three arrays}."""
    outputs = model.output if isinstance(model.output, dict) else {"main": model.output}
    layers = {head: model.get_layer(producers(model)[id(output)]) for head, output in outputs.items()}
    features = keras.Model(model.input, {head: layer.input for head, layer in layers.items()})(x, training=False)
    return {head: (np.asarray(features[head]), *layer.get_weights()) for head, layer in layers.items()}


@every_variant
def test_outputs_are_probabilities(name, arguments):
    model, x = network(name, **arguments), images(2, 64, 64, 3)
    out = outputs(model, x)
    for head, (features, kernel, bias) in classifiers(model, x).items():
        assert out[head].shape == (2, 10) and out[head].dtype == np.float32, head
        np.testing.assert_allclose(out[head], tf.nn.softmax(features @ kernel + bias), rtol=1e-4, atol=1e-6)


@every_variant
def test_no_activation_gives_logits(name, arguments):
    """Of seven classes; all else is the network of ten with its activation."""
    x, model = images(2, 64, 64, 3), network(name, classes=7, classifier_activation=None, **arguments)
    assert [v.path for v in model.weights] == [v.path for v in network(name, **arguments).weights]
    out = outputs(model, x)
    for head, (features, kernel, bias) in classifiers(model, x).items():
        assert out[head].shape == (2, 7)
        np.testing.assert_allclose(out[head], features @ kernel + bias, rtol=1e-4, atol=1e-5)
        assert not np.allclose(out[head][0], out[head][1], rtol=1e-3)  # each image has its own


@every_variant
def test_one_class_is_a_sigmoid(name, arguments):
    """The softmax of one logit is always 1."""
    x, model = images(2, 64, 64, 3), shaken(build(name, classes=1, **arguments))
    out = outputs(model, x)
    for head, (features, kernel, bias) in classifiers(model, x).items():
        assert out[head].shape == (2, 1)
        np.testing.assert_allclose(out[head], 1 / (1 + np.exp(-features @ kernel - bias)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("activation", "logit", "expected"),
    [
        (keras.activations.softmax, 2.0, 0.880797),
        (keras.layers.Softmax(), 2.0, 0.880797),
        ("log_softmax", 2.0, -0.126928),
        (keras.activations.tanh, 2.0, 0.964028),
    ],
    ids=["function", "layer", "logarithm", "other"],
)
def test_one_class_with_an_activation_of_ones_own(activation, logit, expected):
    """What is constant over one class is replaced however it is passed, and nothing else."""
    head = cifar(classes=1, classifier_activation=activation, input_shape=(8, 8, 3)).get_layer("head_dense")
    np.testing.assert_allclose(head.activation(keras.ops.convert_to_tensor([[logit]])), [[expected]], rtol=1e-5)


@every_network
def test_without_top(name, tmp_path):
    """A backbone, which passes over the classifier's weights in a file; with pooling its size is open by default."""
    x, model, path = images(2, 64, 64, 3), network(name), tmp_path / "weights.safetensors"
    keras_cnns.save_weights(model, path)
    shapes = {None: (64, 64, 3), "avg": None, "max": (64, 64, 3)}
    parts = {p: build(name, include_top=False, pooling=p, input_shape=s, weights=path) for p, s in shapes.items()}
    values = {variable.path: variable for variable in model.weights}
    for variable in parts[None].weights:
        np.testing.assert_array_equal(variable, values[variable.path])
    assert parts["avg"].input_shape == (None, None, None, 3)
    maps = np.asarray(parts[None](x))
    size = LAST_MAP.get(name, 64 // 32)
    assert maps.shape[:3] == (2, size, size) and parts[None].output_shape == (None, *maps.shape[1:])
    np.testing.assert_allclose(parts["avg"](x), maps.mean((1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(parts["max"](x), maps.max((1, 2)), rtol=1e-5, atol=1e-6)
    # The classifier stands on the average, or on dense layers on the whole map: the backbone's features are those that
    # the whole network sees.
    features = maps.reshape(2, -1) if name in FLATTENING else maps.mean((1, 2))
    for fully_connected in ("head_fc1", "head_fc2") if name in FLATTENING else ():
        kernel, bias = model.get_layer(fully_connected).get_weights()
        features = np.maximum(features @ kernel + bias, 0)
    kernel, bias = model.get_layer("head_dense").get_weights()
    np.testing.assert_allclose(tf.nn.softmax(features @ kernel + bias), model(x), rtol=1e-4, atol=1e-6)


# --- inputs


@every_network
def test_any_size_and_number_of_channels(name):
    """A network whose size is open equals the one whose size is fixed, odd and oblong ones too; images are grey."""
    top = {"include_top": False, "pooling": "avg"} if name in FLATTENING else {}
    model = shaken(build(name, input_shape=(None, None, 1), **top))
    assert model.input_shape == (None, None, None, 1)
    assert next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)).kernel.shape[2] == 1
    for height, width in ((33, 47), (64, 40)):
        fixed = same_weights(build(name, input_shape=(height, width, 1), **top), model)
        assert fixed.input_shape == (None, height, width, 1) and fixed.output_shape == model.output_shape
        assert_same_outputs(model, fixed, images(2, height, width, 1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", FLATTENING)
def test_a_network_that_flattens_has_a_fixed_size(name):
    for size in ((32, 32), (33, 47), (64, 40)):
        out = np.asarray(build(name, input_shape=(*size, 3))(images(2, *size, 3)))
        assert out.shape == (2, 10) and np.isfinite(out).all()
    for size in ((None, None), (None, 64), (64, None)):
        with pytest.raises(keras_cnns.FixedSizeError, match=r"None.*cannot be None because .* flatten.*Pass them,"):
            build(name, input_shape=(*size, 3))


@pytest.mark.parametrize("name", WITH_HEADS)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 40), (100, 79)])
def test_any_size_with_heads(name, size):
    out = outputs(build(name, input_shape=(*size, 3), aux_heads=True), images(2, *size, 3))
    assert {key: value.shape for key, value in out.items()} == dict.fromkeys(HEAD_WEIGHTS, (2, 10))
    assert all(np.isfinite(value).all() for value in out.values())


@every_network
def test_input_tensor(name):
    """What one's own layers make of an input; the network begins before them."""
    own, model, x = keras.Input((64, 64, 3), name="photo"), network(name), images(2, 64, 64, 3)
    on_layer = same_weights(build(name, input_tensor=keras.layers.Rescaling(0.5, name="half")(own)), model)
    assert on_layer.input is own
    np.testing.assert_allclose(on_layer(x), model(0.5 * x), rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("error:The structure of `inputs`")
def test_an_input_of_ones_own():
    own, model, x = keras.Input((64, 64, 3), name="photo"), network("ResNet18"), images(2, 64, 64, 3)
    on_input = same_weights(build("ResNet18", input_tensor=own), model)
    assert on_input.input is own
    assert_same_outputs(on_input, model, x, rtol=1e-6, atol=1e-7)


# --- numbers


# Both half precisions for every network, one for its variants: they differ in what NumPy and TensorFlow can compute.
HALVES = [(name, {}, "bfloat16") for name in DISTINCT] + [(name, arguments, "float16") for name, arguments in VARIANTS]


@pytest.mark.parametrize(
    ("name", "arguments", "half"), HALVES, ids=[f"{n}({kw or ''})-{half}" for n, kw, half in HALVES]
)
def test_head_is_float32_in_half_precision(name, arguments, half):
    keras.config.set_dtype_policy(f"mixed_{half}")
    model = build(name, **arguments)
    dense = [layer for layer in model.layers if layer.name.endswith("_dense")]
    assert len(dense) == len(model.outputs) and {layer.compute_dtype for layer in dense} == {"float32"}
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {layer.compute_dtype for layer in convolutions} == {half}
    assert {variable.dtype for variable in model.weights} == {"float32"}
    for out in outputs(model, images(2, 64, 64, 3)).values():
        assert out.dtype == np.float32 and np.isfinite(out).all()


@every_network
def test_pooled_features_are_float32_in_half_precision(name):
    keras.config.set_dtype_policy("mixed_float16")
    backbone = build(name, include_top=False, pooling="avg", input_shape=(32, 32, 4))
    assert backbone.output.dtype == "float32" and backbone.input_shape == (None, 32, 32, 4)


@every_variant
def test_every_variable_has_a_gradient(name, arguments):
    model = network(name, classes=7, classifier_activation=None, **arguments)
    labels = np.array([0, 2, 4, 6])
    with tf.GradientTape() as tape:
        out = model(images(4, 64, 64, 3), training=True)
        heads = out if isinstance(out, dict) else {"main": out}
        entropy = functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True)
        losses = {key: entropy(labels, value) for key, value in heads.items()}
        loss = sum(HEAD_WEIGHTS[key] * tf.reduce_mean(value) for key, value in losses.items())
    variables = [variable.value for variable in model.trainable_variables]
    for variable, gradient in zip(model.trainable_variables, tape.gradient(loss, variables), strict=True):
        assert gradient is not None, variable.path
        if arguments.get("batch_norm") and variable.path.endswith("_conv/bias"):
            assert np.isfinite(gradient).all(), variable.path  # zero but for rounding: the normalization takes it out
            continue
        assert np.isfinite(gradient).all() and np.any(gradient), variable.path


# --- weight files


@every_variant
def test_weight_file_round_trip(name, arguments, tmp_path):
    """Into a second build, which has the same names, whatever else has been built."""
    model, path = network(name, **arguments), tmp_path / "weights.safetensors"
    keras_cnns.save_weights(model, path, {"epoch": "3"})
    keras.layers.Dense(1), keras.layers.ReLU()  # moves Keras's counters for layers without a name
    loaded = build(name, weights=str(path), **arguments)
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    assert [variable.path for variable in loaded.weights] == [variable.path for variable in model.weights]
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
    assert keras_cnns.load_weights(loaded, path) == {"epoch": "3"}


@pytest.mark.parametrize("name", WITH_HEADS)
def test_a_network_without_heads_passes_over_their_weights(name, tmp_path):
    model, path, x = network(name, aux_heads=True), tmp_path / "weights.safetensors", images(2, 64, 64, 3)
    keras_cnns.save_weights(model, path)
    np.testing.assert_allclose(build(name, weights=path)(x), model(x)["main"], rtol=1e-6)
    keras_cnns.save_weights(network(name), path)
    with pytest.raises(ValueError, match=r"variables are missing, as aux1_"):
        build(name, weights=path, aux_heads=True)


# --- errors

ERRORS = [
    # builder, arguments, what the message must hold: what happened, where and how to fix it
    ("ResNet50", {"input_shape": (20, 20, 3)}, ["resnet50", "input_shape=(20, 20, 3)", "at least 32", "larger input_"]),
    ("GoogLeNet", {"input_shape": (31, 64, 3)}, ["(31, 64, 3)", "at least 32", "divides them by 32", "larger input_"]),
    ("VGG16", {"input_shape": (31, 64, 3)}, ["(31, 64, 3)", "at least 32", "divides them by 32", "larger input_"]),
    ("AlexNet", {"input_shape": (66, 67, 3)}, ["(66, 67, 3)", "at least 67", "leave nothing", "larger input_"]),
    ("AlexNetOneTower", {"input_shape": (63, 62, 3)}, ["alexnetonetower", "at least 63", "larger input_"]),
    (
        "VGG19",
        {"input_shape": (None, None, 3)},
        ["vgg19", "(None, None, 3)", "cannot be None", "flatten", "Pass them, as (224, 224, 3)", "include_top=False"],
    ),
    ("AlexNet", {"input_tensor": keras.Input((None, 227, 3))}, ["(None, 227, 3)", "Pass them, as (227, 227, 3)"]),
    ("GoogLeNet", {"input_shape": (3, 224, 224)}, ["input_shape=(3, 224, 224)", "(height, width, channels)"]),
    ("ResNet18", {"input_shape": (224, 224)}, ["input_shape=(224, 224)", "(height, width, channels)", "(224, 224, 3)"]),
    ("ResNet18", {"input_shape": (1, 224, 224, 3)}, ["input_shape=(1, 224, 224, 3)", "(height, width, channels)"]),
    ("ResNet18", {"input_shape": (224, 224, None)}, ["(224, 224, None)", "with the number of channels"]),
    ("ResNet18", {"pooling": "average"}, ["pooling='average'", '"avg" or "max"']),
    ("ResNet18", {"classes": 0}, ["classes=0", "at least 1"]),
    ("ResNet18", {"classes": 2.5}, ["classes=2.5", "whole number"]),
    ("ResNet50", {"version": "2"}, ["version='2'", '"1.5"', '"1"']),
    ("DenseNet121", {"input_shape": (20, 20, 3)}, ["densenet121", "(20, 20, 3)", "at least 32", "use DenseNetCIFAR"]),
    ("DenseNetCIFAR", {"depth": 41}, ["depth=41", "bottleneck=False", "3n + 4", "40 or 43"]),
    ("DenseNetCIFAR", {"depth": 43, "bottleneck": True}, ["depth=43", "bottleneck=True", "6n + 4", "40 or 46"]),
    ("DenseNetCIFAR", {"depth": 4}, ["depth=4;", "7 or 10"]),
    ("DenseNetCIFAR", {"growth_rate": 0}, ["growth_rate=0", "at least 1"]),
    ("DenseNetCIFAR", {"compression": 1.5}, ["compression=1.5", "at most 1"]),
    ("SEResNet18", {"ratio": 0}, ["ratio=0", "at least 1", "the paper's 16"]),
    ("ResNet18", {"input_shape": 224}, ["resnet18", "input_shape=224", "(height, width, channels)"]),
    ("ResNet18", {"input_shape": (64.0, 64, 3)}, ["(64.0, 64, 3)", "(height, width, channels)"]),
    ("ResNet18", {"input_shape": ("a", "b", 3)}, ["('a', 'b', 3)", "(height, width, channels)"]),
    ("ResNet18", {"classes": True}, ["classes=True", "whole number"]),
    ("SEInceptionV1", {"ratio": 0.5}, ["ratio=0.5", "whole number"]),
    ("EfficientNet", {"width": 0.0}, ["width=0.0", "above 0", "1.0 is Table 1"]),
    ("EfficientNet", {"coefficients": (1.2, 0.9, 1.15)}, ["efficientnet", "(1.2, 0.9, 1.15)", "at least 1", "alpha"]),
    ("EfficientNet", {"coefficients": (1.2, 1.1)}, ["efficientnet", "(1.2, 1.1)", "three numbers"]),
    ("EfficientNetB0", {"input_shape": (224, 31, 3)}, ["efficientnetb0", "(224, 31, 3)", "at least 32"]),
    ("GoogLeNet", {"aux_heads": True, "include_top": False}, ["aux_heads=True", "include_top=True", "Leave one"]),
    (
        "GoogLeNet",
        {"aux_heads": True, "input_shape": (None, None, 3)},
        ["googlenet", "(None, None, 3)", "cannot be None", "flatten", "Pass them, as (224, 224, 3)"],
    ),
    ("ResNet18", {"weights": "imagenet"}, ['weights="imagenet"', "no published weights", "safetensors file"]),
    ("ResNet18", {"weights": "nowhere"}, ["weights='nowhere'", "no such file", "or None"]),
]


@pytest.mark.parametrize(("name", "arguments", "words"), ERRORS, ids=[f"{name}-{kw}" for name, kw, _ in ERRORS])
def test_errors_say_what_and_where_and_the_mend(name, arguments, words):
    with pytest.raises(ValueError) as error:
        keras_cnns.builder(name)(**arguments)
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)


def test_input_tensor_and_shape_that_disagree():
    with pytest.raises(ValueError, match=r"=\(32, 32, 3\) and an input_tensor of shape \(64, 64, 3\)\. Pass one"):
        keras_cnns.ResNet18(input_tensor=keras.Input((64, 64, 3)), input_shape=(32, 32, 3))


@pytest.mark.parametrize("tensor", [np.zeros((1, 64, 64, 3)), keras.KerasTensor((None, 64, 3))], ids=["array", "rank3"])
def test_input_tensor_that_is_no_tensor_of_images(tensor):
    with pytest.raises(ValueError, match=r"must be a Keras tensor \(batch, height, width, channels\)\. Make one with"):
        keras_cnns.ResNet18(input_tensor=tensor)


def test_input_tensor_that_is_too_small():
    with pytest.raises(ValueError, match=r"input_tensor of shape \(20, 64, 3\); .* at least 32 .* larger input_tensor"):
        keras_cnns.ResNet18(input_tensor=keras.Input((20, 64, 3)))


@every_builder
def test_unknown_argument(name):
    with pytest.raises(TypeError, match=rf"{name} got the argument 'clases', .* Did you mean classes\?"):
        keras_cnns.builder(name)(clases=10)


@every_builder
def test_channels_first_setting(name):
    keras.config.set_image_data_format("channels_first")
    with pytest.raises(ValueError, match=r"needs channels-last .* Call keras.config.set_image_data_format"):
        keras_cnns.builder(name)()


def test_numpys_whole_numbers_are_whole_numbers():
    model = basic(classes=np.int64(3), input_shape=tuple(np.array([64, 64, 3])))
    assert (model.input_shape, model.output_shape) == ((None, 64, 64, 3), (None, 3))


@every_builder
def test_arguments_by_position(name):
    """keras.applications takes them; here only a depth is."""
    with pytest.raises(TypeError, match=rf"{name} got .*True.* by position\. Pass arguments by name, such as {name}\("):
        keras_cnns.builder(name)(*[8] * name.endswith("CIFAR"), True)


def test_a_part_of_a_name_or_a_pattern_lists_networks():
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
