"""Convert a published file of weights, of torch or keras.applications, to a safetensors file of this package.

A .pth file is a pickle, which can contain code. It is read by torch alone with `weights_only=True`, which refuses code.
A .h5 file is read by Keras into the network of keras.applications that it is from.
"""

import hashlib
import pickle
import re
import warnings
from pathlib import Path

import h5py
import keras

import keras_cnns
from training.errors import DataError, UserError
from training.files import atomic, check_exists, check_replaceable


def convert(source, file, model, *, model_args=None, preprocessing=None):
    """Write the weights of another package's network as a file for `weights=` and return its metadata.

    An existing file is replaced only after everything has been read and checked.

    Args:
        source: A .pth file with a state dict, a safetensors file with torch's names, or a .h5 or .weights.h5 file of
            keras.applications, with or without the classifier.
        file: The safetensors file to write.
        model: Name of the network that the weights are for.
        model_args: Arguments of its builder, such as {"aux_heads": True} or {"classes": 10}.
        preprocessing: The mode of `keras_cnns.preprocess_input` that the weights were trained with. The default is
            the one of the published weights: "lite" for EfficientNet-Lite, "tf" for InceptionV1, which torchvision
            converted from TensorFlow (transform_input=True there), "caffe" for the VGGs and ResNets of Keras, and
            "imagenet" for the others.

    Raises:
        UserError: A path, name or argument is wrong, torch is missing, or the weights do not fit the network.
        DataError: The source is damaged or contains something other than weights.
    """
    check_exists(source)
    check_replaceable(file, [source])
    kind = Path(source).suffix
    try:
        builder = keras_cnns.builder(model)
        network = builder(**(model_args or {}))
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
    preprocessing = preprocessing or published_preprocessing(builder.__name__, kind)
    if kind == ".h5":
        state, include_top = read_keras(source, builder.__name__, model_args or {})
        network = network if include_top else builder(**(model_args or {}) | {"include_top": False})
    else:
        state = read_safetensors(source) if kind == ".safetensors" else read_torch(source)
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


def published_preprocessing(network, kind):
    """Return the preprocessing mode of the published weights of a network, in a file with the suffix `kind`."""
    modes = {"EfficientNetLite": "lite", "InceptionV1": "tf"}
    modes |= {"VGG": "caffe", "ResNet": "caffe"} if kind == ".h5" else {}
    return next((mode for name, mode in modes.items() if network.startswith(name)), "imagenet")


def read_keras(source, network, arguments):
    """Read weights of keras.applications.

    Args:
        source: A .h5 or .weights.h5 file.
        network: Name of the network, there and here.
        arguments: Arguments of our builder.

    Returns:
        ({path of a variable: array}, whether the classifier is in the file).
    """
    of_keras = getattr(keras.applications, network, None)
    if of_keras is None:
        raise UserError(f"{source}: keras.applications has no {network}, so that the file cannot be of that network.")
    if network.startswith("ResNet") and arguments.get("version") != "1":
        raise UserError(
            f"{source}: the ResNets of keras.applications have their strides where the paper has them. Pass "
            '--model_args \'{"version": "1"}\'.'
        )
    try:
        with h5py.File(source) as file:
            names = []
            file.visit(names.append)
        # The classifier is a Dense layer, whose name in published files depends on their age.
        include_top = any(re.search(r"(^|/)(dense|predictions|probs|fc1000)(/|$)", name) for name in names)
        peer = of_keras(weights=None, include_top=include_top, classes=arguments.get("classes", 1000))
        with warnings.catch_warnings(action="ignore"):  # one for each layer that does not fit
            peer.load_weights(source)
    except (ValueError, KeyError, OSError) as error:  # other layers or shapes, or not an HDF5 file
        raise DataError(
            f"{source} has no weights of keras.applications.{network} ({str(error).splitlines()[0]}). Pass another "
            "file, --model or --model_args."
        ) from error
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in peer.weights}, include_top


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
