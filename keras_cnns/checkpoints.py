"""Weights in files: safetensors (arrays only, no code), keyed by variable name, loaded strictly.

A variable's key is its path in the model, as `stage3_block1_conv2_conv/kernel`. Names decide what goes where, never
positions, and a file that does not fit is refused before a single variable has changed.

Published weights have names of their own: `convert_weights` translates those of torch by one of the tables `NAMES`.
"""

import hashlib
import json
import os
import re

import numpy as np
import safetensors
import safetensors.numpy
from keras import layers, ops

CHECKSUM = "sha256"  # the name in a file's metadata

# The auxiliary heads and the classifier: a file may hold them for a model that was built without them.
DETACHABLE = (("aux1_", "aux2_"), ("head_",))
# Variables of deformable convolutions, which are plain ones as long as these are zero: a file of the plain network, or
# of one without masks, has none of them.
ZERO_IF_ABSENT = ("offset_", "mask_")

# From a torch network's layers to ours: every substitution is made, in this order. What is then called `block7_` is the
# block in place 7 of the network, counted from 0, which has its stage's name here.
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
        (r"^features\.denseblock(\d)\.denselayer(\d+)\.(conv|norm)(\d)$", r"dense\1_layer\2_conv\4_\3"),
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
        # The first stage does not expand, so that its names count one less.
        (r"^(blocks\.0\..*)\.conv_pw$", r"\1.conv_pwl"),
        (r"^(blocks\.0\..*)\.bn2$", r"\1.bn3"),
        (r"^(blocks\.0\..*)\.bn1$", r"\1.bn2"),
        (r"^blocks\.(\d)\.(\d+)\.", lambda match: f"stage{int(match[1]) + 1}_block{int(match[2]) + 1}_"),
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


def save_weights(model, path, metadata=None):
    """Writes the weights of a model, moving statistics included, to a safetensors file: equal weights, equal bytes.

    The file has a SHA-256 of the arrays, which `load_weights` compares.

    Args:
        model: A Keras model.
        path: The file to write.
        metadata: {str: str} that travels in the file's header.

    Raises:
        ValueError: Two variables have one name.

    Example:
        >>> model = keras_cnns.ResNet18(classes=10)
        >>> keras_cnns.save_weights(model, "resnet18.safetensors")
        >>> same = keras_cnns.ResNet18(classes=10, weights="resnet18.safetensors")
    """
    arrays = {variable.path: ops.convert_to_numpy(variable) for variable in model.weights}
    if len(arrays) != len(model.weights):
        raise ValueError(f"{model.name} has two variables of one name; give its layers different names.")
    header, content = _split(safetensors.numpy.save(arrays))
    metadata = {**(metadata or {}), CHECKSUM: hashlib.sha256(content).hexdigest()}
    # safetensors would write the metadata in a random order.
    header = {"__metadata__": dict(sorted(metadata.items()))} | header
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of eight
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(content)


def load_weights(model, path, keep=()):
    """Reads weights written by `save_weights` into a model; all of them or none.

    Weights of auxiliary heads, or of the classifier, that the model was built without are passed over. The offsets of
    deformable convolutions, or their masks, become zero if the file has none at all: weights of a plain ResNet fit.

    Args:
        model: A Keras model.
        path: A safetensors file.
        keep: Beginnings of names of variables that keep their values whatever the file has, such as ("head_dense/",);
            a single one may be a string.

    Returns:
        The file's metadata, {str: str}.

    Raises:
        ValueError: The file is missing, damaged or no safetensors file, or its names or shapes are not the model's.

    Example:
        >>> keras_cnns.save_weights(keras_cnns.ResNet18(classes=10), "resnet18.safetensors")
        >>> backbone = keras_cnns.ResNet18(include_top=False)
        >>> keras_cnns.load_weights(backbone, "resnet18.safetensors")
        {}
    """
    if path == "imagenet":
        raise ValueError(
            'weights="imagenet": no published weights come with this package. Convert a file that you have, with '
            "`python -m training convert SOURCE FILE`, and pass the path of the safetensors file, or None."
        )
    if not os.path.isfile(path):
        raise ValueError(f"weights={str(path)!r}: there is no such file. Pass the path of a safetensors file, or None.")
    try:
        arrays, metadata = _read_safetensors(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"weights={str(path)!r}: not a whole safetensors file ({error}). Write it again.") from error
    keep = (keep,) if isinstance(keep, str) else tuple(keep)
    variables = {variable.path: variable for variable in model.weights if not variable.path.startswith(keep)}
    arrays = {key: array for key, array in arrays.items() if not key.startswith(keep)}
    for prefixes in DETACHABLE:
        if not any(key.startswith(prefixes) for key in variables):
            arrays = {key: array for key, array in arrays.items() if not key.startswith(prefixes)}
    for prefix in ZERO_IF_ABSENT:
        zeros = {
            key: np.zeros(variable.shape, "float32")
            for key, variable in variables.items()
            if key.rpartition("/")[2].startswith(prefix)
        }
        if not zeros.keys() & arrays.keys():
            arrays |= zeros
    _check_fit(model, path, variables, arrays)
    for key, variable in variables.items():
        variable.assign(arrays[key])
    return metadata


def _read_safetensors(path):
    """({name: array}, {str: str}) of a safetensors file; its arrays are compared with its checksum, if it has one."""
    with open(path, "rb") as file:
        content = file.read()
    arrays = safetensors.numpy.load(content)
    header, content = _split(content)
    metadata = header.get("__metadata__", {})
    checksum = metadata.pop(CHECKSUM, None)
    if checksum not in (None, hashlib.sha256(content).hexdigest()):
        raise safetensors.SafetensorError("the SHA-256 of its arrays is not the one that it was written with")
    return arrays, metadata


def _split(content):
    """The header, a JSON value, and the bytes of the arrays of a safetensors file; its first eight bytes are the
    header's length."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), memoryview(content)[end:]


def convert_weights(model, state):
    """Translates the weights of a torch network to the names and the layout of ours.

    The names decide which network of which package they are from: the ResNets and GoogLeNet of torchvision, the
    EfficientNets of timm, or those of efficientnet-pytorch and efficientnet-lite-pytorch. Every array is used once and
    every variable gets one; torch's counters of batches are dropped.

    Args:
        model: The network that the weights are for, which keeps its own.
        state: {torch's name: array}, a state dict with its tensors as NumPy arrays.

    Returns:
        {path of a variable: array}, what `save_weights` writes.

    Raises:
        ValueError: Names or shapes are not the model's.

    Example:
        >>> image = keras.Input((4,))
        >>> model = keras.Model(image, keras.layers.Dense(3, name="head_dense")(image))
        >>> state = {"fc.weight": numpy.ones((3, 4)), "fc.bias": numpy.ones(3)}
        >>> keras_cnns.convert_weights(model, state)["head_dense/kernel"].shape
        (4, 3)
    """
    variables = {variable.path: variable for variable in model.weights}
    state = {key: array for key, array in state.items() if not key.endswith(".num_batches_tracked")}
    blocks = list(dict.fromkeys(re.findall(r"^stage\d+_block\d+(?=_)", "\n".join(variables), re.MULTILINE)))
    translations = [{key: _translate(key, state, rules, blocks) for key in state} for rules in NAMES.values()]
    # The package that the weights are from is the one whose names become ours; of several that do not, the nearest.
    ours = min(translations, key=lambda names: len(variables.keys() ^ set(names.values())))
    taken = {}
    for key, path in ours.items():
        if path in taken:
            raise ValueError(
                f"The weights do not fit {model.name}: {taken[path]} and {key} would both be {path}. "
                "Build the network that the weights are from."
            )
        taken[path] = key
    arrays = {}
    for key, path in ours.items():
        layer = model.get_layer(path.partition("/")[0]) if path in variables else None
        arrays[path] = _transpose(np.asarray(state[key]), layer, model)
    _check_fit(model, "The state dict", variables, arrays)
    return arrays


def rename(layer, rules, blocks=()):
    """Our name of another package's layer, by one of the tables `NAMES`.

    Args:
        layer: Its name there.
        rules: The table.
        blocks: Names of the network's blocks in order, where the package counts them through.
    """
    for pattern, replacement in rules:
        layer = re.sub(pattern, replacement, layer)
    counted = re.match(r"block(\d+)(?=_)", layer)
    if counted and int(counted[1]) < len(blocks):
        layer = blocks[int(counted[1])] + layer[counted.end() :]
    return layer


def _translate(key, state, rules, blocks):
    """Our path of a torch parameter or buffer; only batch normalization has moving statistics."""
    layer, _, kind = key.rpartition(".")
    kinds = {"weight": "kernel", "bias": "bias"}
    if f"{layer}.running_mean" in state:
        kinds = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    return f"{rename(layer, rules, blocks)}/{kinds.get(kind, kind)}"


def _transpose(array, layer, model):
    """A torch kernel in our layout: (out, in, h, w) -> (h, w, in, out), (out, in) -> (in, out)."""
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
    """Shape (height, width, channels) of the map that a dense layer takes flattened; None if it takes none."""
    made_by = {id(layer.output): layer for layer in model.layers}
    while layer is not None:
        layer = made_by.get(id(layer.input))
        if isinstance(layer, layers.Flatten):
            return layer.input.shape[1:] if len(layer.input.shape) == 4 else None
        if not isinstance(layer, layers.Dropout):
            return None
    return None


def _check_fit(model, path, variables, arrays):
    """Raises a ValueError that lists what does not fit, first names, then shapes."""
    missing, unexpected = variables.keys() - arrays.keys(), arrays.keys() - variables.keys()
    if missing or unexpected:
        raise ValueError(
            f"{path} does not fit {model.name}: "
            + "; ".join(
                f"{len(names)} {what}, as {', '.join(sorted(names)[:3])}"
                for what, names in (("variables are missing", missing), ("are not in the model", unexpected))
                if names
            )
            + ". Build the network that the file was written from."
        )
    for key, variable in variables.items():
        if tuple(variable.shape) != arrays[key].shape:
            raise ValueError(
                f"{path} does not fit {model.name}: {key} is {arrays[key].shape} in the file and "
                f"{tuple(variable.shape)} in the model. Pass the classes and the arguments that the file was written "
                "with, or include_top=False to leave the classifier out."
            )
