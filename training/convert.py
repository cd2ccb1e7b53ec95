"""From a published file of torch weights to a safetensors file of ours.

A .pth file is a pickle, which can carry code: it is read by torch alone, with `weights_only=True`, which refuses code.
"""

import hashlib
import pickle
from pathlib import Path

import keras_cnns
from training.errors import DataError, UserError
from training.files import atomic, check_replaceable


def convert(source, file, model, *, model_args=None, preprocessing=None):
    """Write the weights in a torch state dict as a file for `weights=` and return its metadata.

    A file that is there is replaced only after everything has been read and checked.

    Args:
        source: A .pth file that holds a state dict, or a safetensors file with torch's names.
        file: The safetensors file to write.
        model: Name of the network that the weights are for.
        model_args: Arguments of its builder, as {"aux_heads": True} or {"classes": 10}.
        preprocessing: How pixels were normalised in training, a mode of `keras_cnns.preprocess_input`. By default
            what the network's publisher used: "lite" for EfficientNet-Lite, "tf" for InceptionV1, whose weights
            torchvision took over from TensorFlow (transform_input=True there), and "imagenet" for the others.

    Raises:
        UserError: A wrong path, name or argument, torch is missing, or the weights are not the network's.
        DataError: The source is damaged or holds something else than weights.
    """
    try:
        builder = keras_cnns.builder(model)
        network = builder(**(model_args or {}))
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
    if preprocessing is None:
        modes = {"EfficientNetLite": "lite", "InceptionV1": "tf"}
        preprocessing = next((modes[name] for name in modes if builder.__name__.startswith(name)), "imagenet")
    if not Path(source).is_file():
        raise UserError(f"{source}: there is no such file.")
    check_replaceable(file, [source])
    state = read_safetensors(source) if Path(source).suffix == ".safetensors" else read_torch(source)
    try:
        arrays = keras_cnns.convert_weights(network, state)
    except ValueError as error:
        raise UserError(
            f"{source}: {error} --model names the network, --model_args its arguments, as '{{\"classes\": 10}}'."
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
    """Read a state dict, {name: array}, with torch."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{source} can be read only with torch, which is not installed. Run `pip install torch`, for this command "
            "alone; what it writes needs no torch."
        ) from error
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch raises whatever unpickling and unzipping can raise
        # Of a file that is refused, torch's message says how to run the code in it.
        reason = "" if isinstance(error, pickle.UnpicklingError) else str(error)
        raise DataError(
            f"{source} is not a whole file of torch weights ({(reason or type(error).__name__).splitlines()[0]}). "
            "Download it again, or save model.state_dict() alone: a file that holds code is not read."
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise DataError(f"{source} holds something else than tensors by name. Save model.state_dict() alone.")
    arrays = {}
    for name, tensor in state.items():
        try:
            arrays[name] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        except (TypeError, RuntimeError) as error:  # it is sparse, quantized, or on the device "meta", without values
            raise DataError(
                f"{source}: {name} cannot be read as a plain array ({str(error).splitlines()[0]}). Save a dense tensor "
                "with its values."
            ) from error
    return arrays


def read_safetensors(source):
    """Read a safetensors file, {name: array}."""
    try:
        return keras_cnns.read_weights(source)[0]
    except ValueError as error:
        raise DataError(str(error)) from error
