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

CHECKSUM = "sha256"  # the name in a file's metadata, where it comes first
BLANK = "0" * 64  # what stands there while the SHA-256 of the file is computed
WRITER = "keras_cnns"  # another name there: a file that has it must have a checksum, so that damage to that is found

# safetensors' names of the types that weights may have, and NumPy's.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
KINDS = {"I": "int", "U": "uint", "F": "float", "C": "complex"}
COUNTER = ".num_batches_tracked"  # torch's counters of batches are whole numbers, and no network computes with them
NOT_WHOLE = "not a whole safetensors file ({}). Write it again."

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
        # The first stage does not expand, so that its names count one less.
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


def save_weights(model, path, metadata=None):
    """Write the weights of a model, moving statistics included, to a safetensors file: equal weights, equal bytes.

    The file has a SHA-256 of the whole of it, names and metadata included, which `load_weights` compares.

    Args:
        model: A Keras model.
        path: The file to write.
        metadata: {str: str} that travels in the file's header. Under "preprocessing" it has the mode of
            `keras_cnns.preprocess_input` that the weights were trained with, if that is not "imagenet".

    Raises:
        ValueError: Two variables have one name, or the metadata are not text.

    Example:
        >>> model = keras_cnns.ResNet18(classes=10)
        >>> keras_cnns.save_weights(model, "resnet18.safetensors")
        >>> same = keras_cnns.ResNet18(classes=10, weights="resnet18.safetensors")
    """
    arrays = {variable.path: ops.convert_to_numpy(variable) for variable in model.weights}
    if len(arrays) != len(model.weights):
        raise ValueError(f"{model.name} has two variables of one name; give its layers different names.")
    metadata = metadata or {}
    try:
        "".join([*metadata, *metadata.values()]).encode()
    except (TypeError, UnicodeEncodeError) as error:
        raise ValueError(f"metadata={metadata!r}: names and values must be text ({error}).") from error
    content = safetensors.numpy.save(arrays)
    end = _header_end(content)
    # safetensors would write the metadata in a random order.
    metadata = {CHECKSUM: BLANK} | dict(sorted(metadata.items())) | {CHECKSUM: BLANK, WRITER: "weights"}
    header = json.dumps({"__metadata__": metadata} | json.loads(content[8:end]), separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the arrays begin at a multiple of eight
    header, content = len(header).to_bytes(8, "little") + header, memoryview(content)[end:]
    with open(path, "wb") as file:
        file.write(header.replace(BLANK.encode(), _sha256(header, content).encode(), 1))
        file.write(content)


def load_weights(model, path, keep=()):
    """Read weights written by `save_weights` into a model; all of them or none.

    Weights of auxiliary heads, or of the classifier, that the model was built without are passed over. The offsets of
    deformable convolutions, or their masks, become zero if the file has none at all: weights of a plain ResNet fit.

    The model remembers in `model.preprocessing` what the file says of it, "imagenet" if nothing:
    `keras_cnns.preprocess_input(pixels, model)` then gives the images that the weights were trained with.

    Args:
        model: A Keras model.
        path: A safetensors file.
        keep: Beginnings of names of variables that keep their values whatever the file has, such as ("head_dense/",);
            a single one may be a string.

    Returns:
        The file's metadata, {str: str}.

    Raises:
        ValueError: The file is missing, damaged or no safetensors file, its names or shapes are not the model's, or
            its values are not floating-point, or not finite.

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
    arrays, metadata = read_weights(path)
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
    model.preprocessing = metadata.get("preprocessing", "imagenet")
    return metadata


def read_weights(path):
    """Read a safetensors file of weights, whoever wrote it; torch's counters of batches are passed over.

    A file by `save_weights` is compared with its checksum; one that was written while that was of the arrays alone is
    read too.

    Args:
        path: A safetensors file.

    Returns:
        ({name: array}, metadata {str: str}); arrays of bfloat16 become float32.

    Raises:
        ValueError: The file is damaged or no safetensors file, or an array is not floating-point.
        OSError: The file cannot be read.

    Example:
        >>> keras_cnns.save_weights(keras_cnns.ResNet20(), "resnet20.safetensors", {"epoch": "3"})
        >>> arrays, metadata = keras_cnns.read_weights("resnet20.safetensors")
        >>> arrays["head_dense/kernel"].shape, metadata
        ((64, 10), {'epoch': '3'})
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        tensors = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{str(path)!r}: {_other_format(content) or NOT_WHOLE.format(error)}") from error
    end = _header_end(content)
    metadata = json.loads(content[8:end]).get("__metadata__") or {}
    if {CHECKSUM, WRITER} & metadata.keys():
        checksum = metadata.pop(CHECKSUM, "")
        metadata.pop(WRITER, None)
        header, values = content[:end].replace(checksum.encode(), BLANK.encode(), 1), memoryview(content)[end:]
        if checksum != _sha256(header, values) and checksum != _sha256(values):
            raise ValueError(f"{str(path)!r}: {NOT_WHOLE.format('its SHA-256 is not the one it was written with')}")
    arrays = {}
    for name, tensor in tensors:
        if name.endswith(COUNTER):
            continue
        dtype = DTYPES.get(tensor["dtype"]) or _spelled_out(tensor["dtype"])
        _check_type(str(path), name, dtype)
        if dtype == "bfloat16":  # the upper half of a float32; NumPy does not know it
            array = (np.frombuffer(tensor["data"], "uint16").astype("uint32") << 16).view("float32")
        else:
            array = np.frombuffer(tensor["data"], dtype)
        arrays[name] = array.reshape(tensor["shape"])
    return arrays, metadata


def _other_format(content):
    """What a file is instead of safetensors, and what to do with it; None if neither Keras nor torch writes such."""
    if content.startswith(b"\x89HDF"):
        return (
            "an HDF5 file, as Keras writes weights. Load it into the network that it is of with "
            "model.load_weights(path); keras_cnns.save_weights makes a safetensors file of it."
        )
    is_zip = content.startswith(b"PK")
    if is_zip and b"model.weights.h5" in content:
        return "a whole model, as Keras saves it. Load it with keras.models.load_model(path), after import keras_cnns."
    is_pickle = re.match(rb"\x80[\2-\5]", content) and content[8:9] != b"{"  # where a safetensors header begins
    if is_pickle or (is_zip and b"data.pkl" in content):
        return (
            "a pickle, as torch writes weights, which can hold code and is not read here. Let its name end in .pth, "
            "and convert it with `python -m training convert SOURCE.pth FILE --model NAME`."
        )
    return None


def _header_end(content):
    """Where the arrays of a safetensors file begin; its first eight bytes are the length of the header after them."""
    return 8 + int.from_bytes(content[:8], "little")


def _sha256(*parts):
    """The SHA-256 of bytes in parts, as hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _spelled_out(dtype):
    """NumPy's name of safetensors' name of a type: int64 of I64, float8_e4m3 of F8_E4M3, bool of BOOL."""
    return re.sub(r"^(I|U|F|C)(?=\d)", lambda kind: KINDS[kind[0]], dtype).lower()


def _check_type(path, name, dtype):
    """Raise a ValueError if an array is not of a type that weights may have."""
    if dtype not in DTYPES.values():
        raise ValueError(
            f"{path}: {name} is {dtype}; weights are floating-point ({', '.join(DTYPES.values())}). Save it as float32."
        )


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
    state = {key: np.asarray(array) for key, array in state.items() if not key.endswith(COUNTER)}
    for key, array in state.items():
        _check_type("The state dict", key, array.dtype.name)
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
        arrays[path] = _transpose(state[key], layer, model)
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
    """Raise a ValueError that says what does not fit: names, then shapes, then values."""
    missing, unexpected = variables.keys() - arrays.keys(), arrays.keys() - variables.keys()
    if any(key.startswith("stage8_") for key in missing) and any(key.startswith("stage1_") for key in unexpected):
        raise ValueError(
            f"{path} does not fit {model.name}: an earlier version wrote it, which called EfficientNet's stages stage1 "
            "to stage7; they are stage2 to stage8 now, as in the paper's Table 1. Convert the published weights again, "
            "or train again."
        )
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
    for key, variable in variables.items():
        if not ops.all(ops.isfinite(ops.cast(arrays[key], variable.dtype))):
            raise ValueError(
                f"{path}: {key} has values that are NaN or infinite in {variable.dtype}. Pass weights of a "
                "training that did not diverge."
            )
