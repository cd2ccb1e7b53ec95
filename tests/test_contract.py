"""What all networks have in common: names, inputs, outputs, gradients and files."""

import functools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from tests.small_networks import (
    CIFAR,
    DISTINCT,
    FLATTENING,
    PRE_ACTIVATION,
    WITH_HEADS,
    assert_same_outputs,
    build,
    case_of,
    every_network,
    images,
    network,
    outputs,
    same_weights,
    shaken,
)

# Pixels of the last feature map of an image of 64 pixels, by hand, if it is not 64 // 32.
LAST_MAP = {"AlexNet": 6, "AlexNetOneTower": 7}
LAST_MAP |= dict.fromkeys(CIFAR, 16)
HEAD_WEIGHTS = {"main": 1.0, "aux1": 0.3, "aux2": 0.3}
VARIANTS = [(name, {}) for name in DISTINCT]
VARIANTS += [(name, {"aux_heads": True}) for name in WITH_HEADS]
VARIANTS += [(name, {"version": "1"}) for name in ("ResNet50", "SEResNet50")]
VARIANTS += [("VGG11", {"batch_norm": True})]
VARIANTS += [(name, {"memory_efficient": True}) for name in ("DenseNet121", "DenseNetCIFAR")]
VARIANTS += [("DenseNetCIFAR", {"bottleneck": True, "compression": 0.5})]
VARIANTS += [("DeformableResNet50", {"modulated": False})]

every_variant = pytest.mark.parametrize(
    ("name", "arguments"), [case_of(n, kw, id=f"{n}({kw or ''})") for n, kw in VARIANTS]
)


# --- names


def producers(model):
    """Return {id of a tensor: name of the layer whose output it is}."""
    return {id(tensor): layer.name for layer in model.layers for tensor in keras.tree.flatten(layer.output)}


@every_variant
def test_names_are_levels(name, arguments):
    names = [layer.name for layer in network(name, **arguments).layers]
    assert all(re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", layer) for layer in names)
    assert not [(a, b) for a in names for b in names if b.startswith(f"{a}_")]


BLOCK = r"(stage\d+_block\d+|inception\d[a-z]|dense\d_layer\d+|conv\d(?=_\d|_out))(?=_)"  # the last is VGG's


@pytest.mark.parametrize("name", [case_of(n) for n in DISTINCT if not n.startswith("AlexNet")])  # without blocks
def test_every_block_ends_in_out(name):
    """The only tensor of a block that is used outside the block is its last one, whose name ends in _out."""
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
    """conv1_conv -> conv1_bn -> conv1_relu, or with pre-activation conv1_bn -> conv1_relu -> conv1_conv."""
    model = network(name, **arguments)
    made_by = producers(model)
    after = {"bn": ("conv",), "relu": ("bn", "conv"), "swish": ("bn", "conv")}
    before = {"relu": ("bn",), "conv": ("relu",)}
    met = set()
    for layer in model.layers:
        unit, _, kind = layer.name.rpartition("_")
        expected = before if name in PRE_ACTIVATION and unit != "stem" else after
        if kind in expected:
            # The last input: a recomputed convolution takes feature maps and then their normalization.
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


def classified(model, x):
    """Return {head: (output, input @ kernel + bias)} of the last dense layer of each head, as arrays."""
    outputs = model.output if isinstance(model.output, dict) else {"main": model.output}
    made_by = producers(model)
    layers = {head: model.get_layer(made_by[id(output)]) for head, output in outputs.items()}
    tensors = {head: (outputs[head], layer.input) for head, layer in layers.items()}
    results = {}
    for head, values in keras.Model(model.input, tensors)(x, training=False).items():
        output, features = map(np.asarray, values)
        kernel, bias = layers[head].get_weights()
        results[head] = output, features @ kernel + bias
    return results


@every_variant
def test_outputs_are_probabilities(name, arguments):
    for head, (output, logits) in classified(network(name, **arguments), images(2, 64, 64, 3)).items():
        assert output.shape == (2, 10) and output.dtype == np.float32, head
        np.testing.assert_allclose(output, tf.nn.softmax(logits), rtol=1e-4, atol=1e-6)


@every_variant
def test_no_activation_gives_logits(name, arguments):
    """With seven classes; all other layers are those of the network with ten classes and an activation."""
    model = network(name, classes=7, classifier_activation=None, **arguments)
    assert [v.path for v in model.weights] == [v.path for v in network(name, **arguments).weights]
    for output, logits in classified(model, images(2, 64, 64, 3)).values():
        assert output.shape == (2, 7)
        np.testing.assert_allclose(output, logits, rtol=1e-4, atol=1e-5)
        assert not np.allclose(output[0], output[1], rtol=1e-3)  # the logits of two images differ


@every_variant
def test_one_class_is_a_sigmoid(name, arguments):
    """Not a softmax, which is always 1 for a single logit."""
    for output, logits in classified(shaken(build(name, classes=1, **arguments)), images(2, 64, 64, 3)).values():
        assert output.shape == (2, 1)
        np.testing.assert_allclose(output, 1 / (1 + np.exp(-logits)), rtol=1e-4, atol=1e-6)


@every_network
def test_without_top(name, tmp_path):
    """A backbone skips the classifier's weights in a file; with pooling its default size is (None, None)."""
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
    # The classifier applied to the backbone's features gives the output of the whole network.
    features = maps.reshape(2, -1) if name in FLATTENING else maps.mean((1, 2))
    for fully_connected in ("head_fc1", "head_fc2") if name in FLATTENING else ():
        kernel, bias = model.get_layer(fully_connected).get_weights()
        features = np.maximum(features @ kernel + bias, 0)
    kernel, bias = model.get_layer("head_dense").get_weights()
    np.testing.assert_allclose(tf.nn.softmax(features @ kernel + bias), model(x), rtol=1e-4, atol=1e-6)


# --- inputs


@every_network
def test_any_size_and_number_of_channels(name):
    """A network of size (None, None) equals those of fixed sizes, odd and oblong ones too, on gray images."""
    top = {"include_top": False, "pooling": "avg"} if name in FLATTENING else {}
    model = shaken(build(name, input_shape=(None, None, 1), **top))
    assert model.input_shape == (None, None, None, 1)
    assert next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)).kernel.shape[2] == 1
    for height, width in ((33, 47), (64, 40)):
        fixed = same_weights(build(name, input_shape=(height, width, 1), **top), model)
        assert fixed.input_shape == (None, height, width, 1) and fixed.output_shape == model.output_shape
        assert_same_outputs(model, fixed, images(2, height, width, 1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", WITH_HEADS)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 40), (100, 79)])
def test_any_size_with_heads(name, size):
    out = outputs(build(name, input_shape=(*size, 3), aux_heads=True), images(2, *size, 3))
    assert {key: value.shape for key, value in out.items()} == dict.fromkeys(HEAD_WEIGHTS, (2, 10))
    assert all(np.isfinite(value).all() for value in out.values())


@every_network
def test_input_tensor(name):
    """The output of a user's own layer; the model begins at the input of that layer."""
    own, model, x = keras.Input((64, 64, 3), name="photo"), network(name), images(2, 64, 64, 3)
    on_layer = same_weights(build(name, input_tensor=keras.layers.Rescaling(0.5, name="half")(own)), model)
    assert on_layer.input is own
    np.testing.assert_allclose(on_layer(x), model(0.5 * x), rtol=1e-5, atol=1e-7)


# --- numbers


# bfloat16 for every network, float16 for every variant: NumPy and TensorFlow support different operations of the two.
HALVES = [(name, {}, "bfloat16") for name in DISTINCT] + [(name, arguments, "float16") for name, arguments in VARIANTS]


@pytest.mark.parametrize(
    ("name", "arguments", "half"), [case_of(n, kw, half, id=f"{n}({kw or ''})-{half}") for n, kw, half in HALVES]
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
    with keras.StatelessScope(initialize_variables=False):  # no value is looked at
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
            assert np.isfinite(gradient).all(), variable.path  # rounding errors: the normalization removes biases
            continue
        assert np.isfinite(gradient).all() and np.any(gradient), variable.path


# --- weight files


@every_variant
def test_weight_file_round_trip(name, arguments, tmp_path):
    """A second build has the same names, whatever has been built in between."""
    model, path = network(name, **arguments), tmp_path / "weights.safetensors"
    keras_cnns.save_weights(model, path, {"epoch": "3"})
    keras.layers.Dense(1), keras.layers.ReLU()  # increments Keras's counters of unnamed layers
    loaded = build(name, weights=str(path), **arguments)
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    assert [variable.path for variable in loaded.weights] == [variable.path for variable in model.weights]
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
    assert keras_cnns.load_weights(loaded, path) == {"epoch": "3"}
