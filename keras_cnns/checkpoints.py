"""Weights in files: safetensors (arrays only, no code), keyed by variable name, loaded strictly.

A variable's key is its path in the model, as `stage3_block1_conv2_conv/kernel`. Names decide what goes where, never
positions, and a file that does not fit is refused before a single variable has changed.
"""

import os

import numpy as np
import safetensors
import safetensors.numpy
from keras import ops

# The auxiliary heads and the classifier: a file may hold them for a model that was built without them.
DETACHABLE = (("aux1_", "aux2_"), ("head_",))
# Variables of deformable convolutions, which are plain ones as long as these are zero: a file of the plain network, or
# of one without masks, has none of them.
ZERO_IF_ABSENT = ("offset_", "mask_")


def save_weights(model, path, metadata=None):
    """Writes the weights of a model, moving statistics included, to a safetensors file.

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
    safetensors.numpy.save_file(arrays, path, metadata)


def load_weights(model, path):
    """Reads weights written by `save_weights` into a model; all of them or none.

    Weights of auxiliary heads, or of the classifier, that the model was built without are passed over. The offsets of
    deformable convolutions, or their masks, become zero if the file has none at all: weights of a plain ResNet fit.

    Args:
        model: A Keras model.
        path: A safetensors file.

    Returns:
        The file's metadata, {str: str}.

    Raises:
        ValueError: The file is missing, is no safetensors file, or its names or shapes are not the model's.

    Example:
        >>> keras_cnns.save_weights(keras_cnns.ResNet18(classes=10), "resnet18.safetensors")
        >>> backbone = keras_cnns.ResNet18(include_top=False)
        >>> keras_cnns.load_weights(backbone, "resnet18.safetensors")
        {}
    """
    if path == "imagenet":
        raise ValueError(
            'weights="imagenet": no published weights are wired into this package. Pass the path of a safetensors file '
            "written by keras_cnns.save_weights, or None."
        )
    if not os.path.isfile(path):
        raise ValueError(f"weights={str(path)!r}: there is no such file. Pass the path of a safetensors file, or None.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(f"weights={str(path)!r}: not a whole safetensors file ({error}). Write it again.") from error
    variables = {variable.path: variable for variable in model.weights}
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
