"""Weights in safetensors files (arrays only, no code), keyed by variable path and loaded strictly.

The key of a variable is its path in the model, such as `stage3_block1_conv2_conv/kernel`. Names alone decide which
array goes to which variable, never positions, and a file that does not fit is refused before any variable has changed.
"""

import hashlib
import json
import os
import re

import numpy as np
import safetensors
import safetensors.numpy
from keras import ops

from keras_cnns.layer_names import is_head, level_of
from keras_cnns.preprocessing import ImageSize

CHECKSUM = "sha256"  # the first key of the metadata
BLANK = "0" * 64  # the placeholder for the SHA-256 while it is computed
WRITER = "keras_cnns"  # a metadata key: a file that has it must have a checksum, so that damage to the latter is found

# The data types that weights may have, by the names of safetensors and of NumPy.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
KINDS = {"I": "int", "U": "uint", "F": "float", "C": "complex"}
COUNTER = ".num_batches_tracked"  # torch's batch counters are integers, and no network computes with them
NOT_WHOLE = "not a whole safetensors file ({}). Write it again."

# Variables of deformable convolutions, which are plain convolutions as long as these are zero. Files of the plain
# network, or of one without masks, lack them.
ZERO_IF_ABSENT = ("offset_", "mask_")


def save_weights(model, path, metadata=None):
    """Write the weights of a model, moving statistics included, to a safetensors file.

    Equal weights and metadata give equal bytes. The file contains the SHA-256 of its whole content, names and metadata
    included, which `load_weights` verifies.

    Args:
        model: A Keras model.
        path: The file to write.
        metadata: {str: str} to store in the header of the file. The key "preprocessing" is the mode of
            `keras_cnns.preprocess_input` that the weights were trained with; by default that of the weights that were
            loaded into the model, as for the `ImageSize`.

    Raises:
        ValueError: Two variables have the same path, or the metadata are not strings.

    Example:
        >>> model = keras_cnns.ResNet18(classes=10)
        >>> keras_cnns.save_weights(model, "resnet18.safetensors")
        >>> same = keras_cnns.ResNet18(classes=10, weights="resnet18.safetensors")
    """
    arrays = {variable.path: ops.convert_to_numpy(variable) for variable in model.weights}
    if len(arrays) != len(model.weights):
        raise ValueError(f"{model.name} has two variables with the same path; give its layers different names.")
    metadata = _metadata_of(model) | (metadata or {})
    try:
        "".join([*metadata, *metadata.values()]).encode()
    except (TypeError, UnicodeEncodeError) as error:
        raise ValueError(f"metadata={metadata!r}: keys and values must be strings ({error}).") from error
    header, content = _split(safetensors.numpy.save(arrays))
    # safetensors would write the metadata in a random order.
    metadata = {CHECKSUM: BLANK} | dict(sorted(metadata.items())) | {CHECKSUM: BLANK, WRITER: "weights"}
    header = json.dumps({"__metadata__": metadata} | json.loads(header[8:]), separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the arrays begin at a multiple of eight bytes
    header = len(header).to_bytes(8, "little") + header
    with open(path, "wb") as file:
        file.write(header.replace(BLANK.encode(), _sha256(header, content).encode(), 1))
        file.write(content)


def load_weights(model, path, keep=()):
    """Load weights written by `save_weights` into a model: all of them, or none if they do not fit.

    Weights of auxiliary heads or of the classifier are skipped if the model was built without that head. The offsets
    or masks of deformable convolutions become zero if the file has none of them: weights of a plain ResNet fit.

    `model.preprocessing` becomes the mode that the file names, or "imagenet", and `model.image_size` the `ImageSize` in
    it. `resize_and_crop(image, model)` and `preprocess_input(pixels, model)` then prepare images as these weights need.

    Args:
        model: A Keras model.
        path: A safetensors file.
        keep: Prefixes of the paths of variables that keep their values whatever the file contains, such as
            ("head_dense/",); a single prefix may be a string.

    Returns:
        The metadata of the file, {str: str}.

    Raises:
        ValueError: The file is missing, damaged or not a safetensors file, its names or shapes differ from the model's,
            or its values are not floating-point or not finite.

    Example:
        >>> keras_cnns.save_weights(keras_cnns.ResNet18(classes=10), "resnet18.safetensors")
        >>> backbone = keras_cnns.ResNet18(include_top=False)
        >>> keras_cnns.load_weights(backbone, "resnet18.safetensors")
        {}
    """
    if path == "imagenet":
        raise ValueError(
            'load_weights takes the path of a file. For published weights, pass weights="imagenet" to the builder of '
            "the network."
        )
    if not os.path.isfile(path):
        raise ValueError(f"weights={str(path)!r}: there is no such file. Pass the path of a safetensors file, or None.")
    arrays, metadata = read_weights(path)
    assign_weights(model, path, arrays, metadata, keep)
    return metadata


def assign_weights(model, source, arrays, metadata, keep=()):
    """Do what `load_weights` does with the arrays and metadata of a file; `source` names it in errors."""
    keep = (keep,) if isinstance(keep, str) else tuple(keep)
    variables = {variable.path: variable for variable in model.weights if not variable.path.startswith(keep)}
    arrays = {key: array for key, array in arrays.items() if not key.startswith(keep)}
    levels = set(map(level_of, variables))
    arrays = {key: array for key, array in arrays.items() if level_of(key) in levels or not is_head(key)}
    for prefix in ZERO_IF_ABSENT:
        zeros = {
            key: np.zeros(variable.shape, "float32")
            for key, variable in variables.items()
            if key.rpartition("/")[2].startswith(prefix)
        }
        if not zeros.keys() & arrays.keys():
            arrays |= zeros
    check_fit(model, source, variables, arrays)
    try:
        image_size = ImageSize.from_metadata(metadata)
    except ValueError as error:
        raise ValueError(f"{source}: the image size in its metadata is not valid ({error}). Write it again.") from error
    for key, variable in variables.items():
        variable.assign(arrays[key])
    model.preprocessing = metadata.get("preprocessing", "imagenet")
    model.image_size = image_size


def _metadata_of(model):
    """Return what a model knows about images from the weights that were loaded into it, as metadata of a file."""
    if not hasattr(model, "image_size"):
        return {}
    return {"preprocessing": model.preprocessing} | model.image_size.to_metadata()


def read_weights(path):
    """Read the arrays of any safetensors file of weights; torch's batch counters are skipped.

    The checksum of a file written by `save_weights` is verified. Files of earlier versions, whose checksum covers the
    arrays alone, are read too.

    Args:
        path: A safetensors file.

    Returns:
        ({name: array}, metadata {str: str}); arrays of bfloat16 become float32.

    Raises:
        ValueError: The file is damaged or not a safetensors file, or an array is not floating-point.
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
    header, values = _split(content)
    metadata = json.loads(header[8:]).get("__metadata__") or {}
    if {CHECKSUM, WRITER} & metadata.keys():
        checksum = metadata.pop(CHECKSUM, "")
        metadata.pop(WRITER, None)
        header = header.replace(checksum.encode(), BLANK.encode(), 1)
        if checksum != _sha256(header, values) and checksum != _sha256(values):
            raise ValueError(f"{str(path)!r}: {NOT_WHOLE.format('its SHA-256 is not the one it was written with')}")
    arrays = {}
    for name, tensor in tensors:
        if name.endswith(COUNTER):
            continue
        dtype = DTYPES.get(tensor["dtype"]) or _numpy_name(tensor["dtype"])
        check_type(str(path), name, dtype)
        if dtype == "bfloat16":  # the upper half of a float32; NumPy has no bfloat16
            array = (np.frombuffer(tensor["data"], "uint16").astype("uint32") << 16).view("float32")
        else:
            array = np.frombuffer(tensor["data"], dtype)
        arrays[name] = array.reshape(tensor["shape"])
    return arrays, metadata


def _other_format(content):
    """Return which file of Keras or torch this is instead of safetensors and what to do with it; None if neither."""
    if content.startswith(b"\x89HDF"):
        return (
            "an HDF5 file, the format of Keras weights. Load it into its network with model.load_weights(path), and "
            "write a safetensors file with keras_cnns.save_weights."
        )
    is_zip = content.startswith(b"PK")
    if is_zip and b"model.weights.h5" in content:
        return "a whole Keras model. Load it with keras.models.load_model(path), after import keras_cnns."
    is_pickle = re.match(rb"\x80[\2-\5]", content) and content[8:9] != b"{"  # where a safetensors header begins
    if is_pickle or (is_zip and b"data.pkl" in content):
        return (
            "a pickle, the format of torch weights, which can contain code and is not read here. Name it *.pth and "
            "convert it with `python -m training convert SOURCE.pth FILE --model NAME`."
        )
    return None


def _split(content):
    """Split a safetensors file into its header, whose first eight bytes are its length, and the bytes of the arrays."""
    end = 8 + int.from_bytes(content[:8], "little")
    return content[:end], memoryview(content)[end:]


def _sha256(*parts):
    """Return the SHA-256 of bytes in parts, as hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _numpy_name(dtype):
    """Return NumPy's name of a safetensors type: int64 for I64, float8_e4m3 for F8_E4M3, bool for BOOL."""
    return re.sub(r"^(I|U|F|C)(?=\d)", lambda kind: KINDS[kind[0]], dtype).lower()


def check_type(path, name, dtype):
    """Raise a ValueError if the type of an array is not one that weights may have."""
    if dtype not in DTYPES.values():
        raise ValueError(
            f"{path}: {name} is {dtype}; weights are floating-point ({', '.join(DTYPES.values())}). Save it as float32."
        )


def check_fit(model, path, variables, arrays):
    """Raise a ValueError if arrays do not fit the variables of a model: in names, shapes, or values."""
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
                f"{len(names)} {what}, e.g. {', '.join(sorted(names)[:3])}"
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
                f"{path}: {key} has values that are NaN or infinite in {variable.dtype}. Pass the weights of a run "
                "that did not diverge."
            )
