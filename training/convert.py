"""Convert a published file of torch weights to a safetensors file of this package.

A .pth file is a pickle, which can contain code. It is read by torch alone with `weights_only=True`, which refuses code.
"""

import hashlib
import pickle
from pathlib import Path

import keras_cnns
from training.errors import DataError, UserError
from training.files import atomic, check_exists, check_replaceable


def convert(source, file, model, *, model_args=None, preprocessing=None):
    """Write the weights of a torch state dict as a file for `weights=` and return its metadata.

    An existing file is replaced only after everything has been read and checked.

    Args:
        source: A .pth file with a state dict, or a safetensors file with torch's names.
        file: The safetensors file to write.
        model: Name of the network that the weights are for.
        model_args: Arguments of its builder, such as {"aux_heads": True} or {"classes": 10}.
        preprocessing: The mode of `keras_cnns.preprocess_input` that the weights were trained with. The default is
            the one of the published weights: "lite" for EfficientNet-Lite, "tf" for InceptionV1, which torchvision
            converted from TensorFlow (transform_input=True there), and "imagenet" for the others.

    Raises:
        UserError: A path, name or argument is wrong, torch is missing, or the weights do not fit the network.
        DataError: The source is damaged or contains something other than weights.
    """
    try:
        builder = keras_cnns.builder(model)
        network = builder(**(model_args or {}))
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
    if preprocessing is None:
        modes = {"EfficientNetLite": "lite", "InceptionV1": "tf"}
        preprocessing = next((modes[name] for name in modes if builder.__name__.startswith(name)), "imagenet")
    check_exists(source)
    check_replaceable(file, [source])
    state = read_safetensors(source) if Path(source).suffix == ".safetensors" else read_torch(source)
    try:
        arrays = keras_cnns.convert_weights(network, state)
    except ValueError as error:
        raise UserError(
            f"{source}: {error} Pass the right --model and --model_args, such as '{{\"classes\": 10}}'."
        ) from error
    metadata = {
        "model": builder.__name__,
        "preprocessing": preprocessing,
        "source": Path(source).name,
        "source_sha256": hashlib.sha256(Path(source).read_bytes()).hexdigest(),
    }
    for variable in network.weights:
        variable.assign(arrays[variable.path])
    with atomic(file) as temporary:
        keras_cnns.save_weights(network, temporary, metadata)
    return metadata


def read_torch(source):
    """Read a state dict with torch and return {name: array}."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{source} can be read only with torch, which is not installed. Run `pip install torch`; only this command "
            "needs it, the converted file does not."
        ) from error
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch raises whatever unpickling and unzipping can raise
        # torch's message about a file that it refuses says how to run the code in it.
        reason = "" if isinstance(error, pickle.UnpicklingError) else str(error)
        raise DataError(
            f"{source} is not a whole file of torch weights ({(reason or type(error).__name__).splitlines()[0]}). "
            "Download it again, or save model.state_dict() alone: a file that contains code is not read."
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise DataError(f"{source} contains something other than tensors by name. Save model.state_dict() alone.")
    arrays = {}
    for name, tensor in state.items():
        try:
            arrays[name] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        except (TypeError, RuntimeError) as error:  # sparse, quantized, or without values on the device "meta"
            raise DataError(
                f"{source}: {name} cannot be read as a plain array ({str(error).splitlines()[0]}). Save a dense tensor "
                "with its values."
            ) from error
    return arrays


def read_safetensors(source):
    """Read a safetensors file and return {name: array}."""
    try:
        return keras_cnns.read_weights(source)[0]
    except ValueError as error:
        raise DataError(str(error)) from error
