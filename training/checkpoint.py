"""Files that are whole or not there: the run's last state and its best weights."""

import contextlib
import json
import os
from pathlib import Path

import safetensors
import safetensors.numpy
from keras import ops

import keras_cnns
from training.errors import StateError


@contextlib.contextmanager
def atomic(path):
    """Gives a temporary path in the same folder; what is written there takes the name `path` once it is on the disk.

    A crash at any moment leaves the old file, or the new one, never a part of it.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)  # the new name is in the folder, which has to reach the disk too
    os.fsync(folder)
    os.close(folder)


def save_best(model, path, metadata):
    """Writes the weights alone, for use."""
    with atomic(path) as temporary:
        keras_cnns.save_weights(model, temporary, metadata)


def save_state(model, path, progress):
    """Writes everything that training goes on from: weights, moving statistics, seeds, optimizer, and the progress.

    Args:
        model: The compiled model; its optimizer is built.
        path: The file.
        progress: A JSON value.
    """
    arrays = {key: ops.convert_to_numpy(variable) for key, variable in _state(model).items()}
    with atomic(path) as temporary:
        safetensors.numpy.save_file(arrays, temporary, {"progress": json.dumps(progress)})


def load_state(model, path):
    """Reads what `save_state` wrote into the model and its optimizer and returns the progress."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
            progress = json.loads(file.metadata()["progress"])
        state = _state(model)
        if {key: tuple(variable.shape) for key, variable in state.items()} != {
            key: array.shape for key, array in arrays.items()
        }:
            raise ValueError("its variables are not this run's")
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise StateError(f"{path} cannot be resumed from: {error}. Start anew with --overwrite.") from error
    for key, variable in state.items():
        variable.assign(arrays[key])
    return progress


def _state(model):
    """{name: variable}: weights, the seeds of random layers, and the optimizer's variables.

    Keras numbers seed generators and optimizers through a process, so that their own paths differ from run to run: a
    seed is named by its layer and an optimizer's variable by its place.
    """
    state = {f"model/{variable.path}": variable for variable in model.weights}
    weights = {id(variable) for variable in model.weights}
    for layer in model.layers:
        seeds = [variable for variable in layer.variables if id(variable) not in weights]
        state |= {f"model/{layer.name}/seed{index}": seed for index, seed in enumerate(seeds)}
    assert len(state) == len(model.variables), "every variable has a name of its own"
    for index, variable in enumerate(model.optimizer.variables):
        state[f"optimizer/{index}/{variable.path.partition('/')[2]}"] = variable
    return state
