"""Weights of other packages, translated from torch's names and layout to those of this package."""

import re

import numpy as np
from keras import layers

from keras_cnns.checkpoints import COUNTER, check_fit, check_type

# Substitutions from the layer names of a package to ours, made one after the other. A name that then begins with
# `block7_` is in block 7 of the whole network, counted from 0: `rename` replaces it by stage and block.
NAMES = {
    "torchvision resnet": (
        (r"^(conv|bn)1$", r"stem_\1"),
        (r"^layer(\d)\.(\d+)\.", lambda match: f"stage{match[1]}_block{int(match[2]) + 1}_"),
        (r"_(conv|bn)(\d)$", r"_conv\2_\1"),
        (r"_downsample\.0$", "_shortcut_conv"),
        (r"_downsample\.1$", "_shortcut_bn"),
        (r"^fc$", "head_dense"),
    ),
    "torchvision googlenet": (
        (r"^conv2\.", "conv2_reduce."),
        (r"^conv3\.", "conv2_main."),
        (r"\.branch1\.", "_1x1."),
        (r"\.branch2\.0\.", "_3x3reduce."),
        (r"\.branch2\.1\.", "_3x3."),
        (r"\.branch3\.0\.", "_5x5reduce."),
        (r"\.branch3\.1\.", "_5x5."),
        (r"\.branch4\.1\.", "_poolproj."),
        (r"^(aux\d)\.conv\.", r"\1."),
        (r"^(aux\d)\.fc1$", r"\1_fc"),
        (r"^(aux\d)\.fc2$", r"\1_dense"),
        (r"\.(conv|bn)$", r"_\1"),
        (r"^fc$", "head_dense"),
    ),
    "torchvision densenet": (
        (r"^features\.(conv|norm)0$", r"stem_\1"),
        (r"^features\.norm5$", "final_bn"),
        (r"^features\.denseblock(\d)\.denselayer(\d+)\.(conv|norm)\.?(\d)$", r"dense\1_layer\2_conv\4_\3"),
        (r"^features\.transition(\d)\.(conv|norm)$", r"transition\1_\2"),
        (r"_norm$", "_bn"),
        (r"^classifier$", "head_dense"),
    ),
    "timm efficientnet": (
        (r"^conv_stem$", "stem_conv"),
        (r"^bn1$", "stem_bn"),
        (r"^conv_head$", "top_conv"),
        (r"^bn2$", "top_bn"),
        (r"^classifier$", "head_dense"),
        # The blocks of the first stage have no expansion, so that their layers are numbered from the depthwise one.
        (r"^(blocks\.0\..*)\.conv_pw$", r"\1.conv_pwl"),
        (r"^(blocks\.0\..*)\.bn2$", r"\1.bn3"),
        (r"^(blocks\.0\..*)\.bn1$", r"\1.bn2"),
        (r"^blocks\.(\d)\.(\d+)\.", lambda match: f"stage{int(match[1]) + 2}_block{int(match[2]) + 1}_"),
        (r"_conv_pw$", "_expand_conv"),
        (r"_bn1$", "_expand_bn"),
        (r"_conv_dw$", "_depthwise_conv"),
        (r"_bn2$", "_depthwise_bn"),
        (r"_se\.conv_(reduce|expand)$", r"_gate_\1_conv"),
        (r"_conv_pwl$", "_project_conv"),
        (r"_bn3$", "_project_bn"),
    ),
    "efficientnet-pytorch": (
        (r"^_conv_stem$", "stem_conv"),
        (r"^_bn0$", "stem_bn"),
        (r"^_conv_head$", "top_conv"),
        (r"^_bn1$", "top_bn"),
        (r"^_fc$", "head_dense"),
        (r"^_blocks\.(\d+)\._", r"block\1_"),
        (r"_bn0$", "_expand_bn"),
        (r"_bn1$", "_depthwise_bn"),
        (r"_bn2$", "_project_bn"),
        (r"_se_(reduce|expand)$", r"_gate_\1_conv"),
    ),
}


def convert_weights(model, state):
    """Translate the weights of a torch network to the names and the layout of this package.

    The names decide where the weights are from: a ResNet, DenseNet or GoogLeNet of torchvision, an EfficientNet of
    timm, efficientnet-pytorch or efficientnet-lite-pytorch. Every array is used once and every variable gets one;
    torch's batch counters are dropped.

    Args:
        model: The network that the weights are for; its own weights do not change.
        state: {torch's name: array}, a state dict with its tensors as NumPy arrays.

    Returns:
        {path of a variable: array} for every variable of the model.

    Raises:
        ValueError: The names or shapes do not fit the model, or an array is not floating-point or not finite.

    Example:
        >>> image = keras.Input((4,))
        >>> model = keras.Model(image, keras.layers.Dense(3, name="head_dense")(image))
        >>> state = {"fc.weight": numpy.ones((3, 4)), "fc.bias": numpy.ones(3)}
        >>> keras_cnns.convert_weights(model, state)["head_dense/kernel"].shape
        (4, 3)
    """
    variables = {variable.path: variable for variable in model.weights}
    state = {key: np.asarray(array) for key, array in state.items() if not key.endswith(COUNTER)}
    for key, array in state.items():
        check_type("The state dict", key, array.dtype.name)
    blocks = list(dict.fromkeys(re.findall(r"^stage\d+_block\d+(?=_)", "\n".join(variables), re.MULTILINE)))
    translations = [{key: _translate(key, state, rules, blocks) for key in state} for rules in NAMES.values()]
    # The weights are from the package whose names become ours, or nearly so if they do not fit.
    ours = min(translations, key=lambda names: len(variables.keys() ^ set(names.values())))
    taken = {}
    for key, path in ours.items():
        if path in taken:
            raise ValueError(
                f"The weights do not fit {model.name}: both {taken[path]} and {key} would become {path}. "
                "Build the network that the weights are from."
            )
        taken[path] = key
    arrays = {}
    for key, path in ours.items():
        layer = model.get_layer(path.partition("/")[0]) if path in variables else None
        arrays[path] = _transpose(state[key], layer, model)
    check_fit(model, "The state dict", variables, arrays)
    return arrays


def rename(layer, rules, blocks=()):
    """Translate the name of another package's layer to ours.

    Args:
        layer: The name in that package.
        rules: A table of `NAMES`.
        blocks: Our names of the blocks in order, for packages that number the blocks of all stages consecutively.
    """
    for pattern, replacement in rules:
        layer = re.sub(pattern, replacement, layer)
    counted = re.match(r"block(\d+)(?=_)", layer)
    if counted and int(counted[1]) < len(blocks):
        layer = blocks[int(counted[1])] + layer[counted.end() :]
    return layer


def _translate(key, state, rules, blocks):
    """Translate the name of a torch parameter or buffer to the path of our variable."""
    layer, _, kind = key.rpartition(".")
    kinds = {"weight": "kernel", "bias": "bias"}
    if f"{layer}.running_mean" in state:  # only batch normalization has moving statistics
        kinds = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    return f"{rename(layer, rules, blocks)}/{kinds.get(kind, kind)}"


def _transpose(array, layer, model):
    """Transpose a torch kernel to our layout: (out, in, h, w) -> (h, w, in, out), (out, in) -> (in, out)."""
    if isinstance(layer, layers.DepthwiseConv2D) and array.ndim == 4:  # (channels, 1, h, w) -> (h, w, channels, 1)
        array = array.transpose(2, 3, 0, 1)
    elif array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    elif array.ndim == 2:
        array = array.T
        shape = _flattened(layer, model)
        if shape and array.shape[0] == np.prod(shape):  # torch flattens channels first
            height, width, channels = shape
            array = array.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(array.shape)
    return np.ascontiguousarray(array, "float32")


def _flattened(layer, model):
    """Return the shape (height, width, channels) of the feature map that a dense layer gets flattened, or None."""
    producers = {id(layer.output): layer for layer in model.layers}
    while layer is not None:
        layer = producers.get(id(layer.input))
        if isinstance(layer, layers.Flatten):
            return layer.input.shape[1:] if len(layer.input.shape) == 4 else None
        if not isinstance(layer, layers.Dropout):
            return None
    return None
