"""What training resumes from: the variables of the model, the optimizer and the average, and the callbacks' state."""

import collections
import sys

import keras
from keras import ops

from training.errors import StateError

# Attributes of Keras's stateful callbacks that change during training.
CALLBACK_STATE = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "cooldown_counter", "best"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
}
STATELESS_CALLBACKS = (keras.callbacks.History, keras.callbacks.ProgbarLogger, keras.callbacks.TerminateOnNaN)


def state_of(model, averaged=None):
    """Return {name: variable} of the weights, the seeds of random layers, the optimizer and the averaged weights.

    Keras numbers seed generators and optimizers per process, so that their own paths differ from run to run: a seed is
    named after its layer, and a variable of the optimizer by its position.
    """
    state = {f"model/{variable.path}": variable for variable in model.weights}
    weights = {id(variable) for variable in model.weights}
    for layer in model.layers:
        seeds = [variable for variable in layer.variables if id(variable) not in weights]
        state |= {f"model/{layer.name}/seed{index}": seed for index, seed in enumerate(seeds)}
    assert len(state) == len(model.variables), "every variable needs a name of its own"
    for index, variable in enumerate(model.optimizer.variables):
        state[f"optimizer/{index}/{variable.path.partition('/')[2]}"] = variable
    if averaged is not None:
        state |= {f"average/{variable.path}": variable for variable in averaged.weights}
    return state


def to_arrays(state, callbacks=()):
    """Return a state and the callbacks' state as {name: array} and {callback: JSON values of all that is no array}."""
    arrays = {name: ops.convert_to_numpy(variable) for name, variable in state.items()}
    values = {}
    for key, callback in _stateful(callbacks).items():
        values[key] = {}
        for name, value in callback_state(callback).items():
            if isinstance(value, list) and all(hasattr(item, "shape") for item in value):
                values[key][name] = {"arrays": len(value)}
                arrays |= {f"callback/{key}/{name}/{index}": item for index, item in enumerate(value)}
            else:
                values[key][name] = value.item() if hasattr(value, "item") else value
    return arrays, values


def restore(state, callbacks, arrays, values, where, *, chief=True):
    """Restore what `to_arrays` returned.

    Args:
        state, callbacks: As for `to_arrays`.
        arrays, values: Its result.
        where: Where they were read, for error messages.
        chief: Whether this process has all callbacks; other processes lack those that write.

    Raises:
        StateError: The arrays are of another network, optimizer or set of callbacks; nothing has changed then.
    """
    own = {name: array for name, array in arrays.items() if not name.startswith("callback/")}
    callbacks = _stateful(callbacks)
    unknown = sorted(own.keys() - state.keys())
    if unknown and state.keys() - own.keys():
        raise StateError(
            f"{where} cannot be resumed from: it has {unknown[0]}, which the network does not have. An earlier version "
            "may have written it, with other layer names: EfficientNet's stage1 to stage7 are stage2 to stage8 now. "
            "Start anew with --overwrite, or resume with the version that wrote it."
        )
    if {name: tuple(variable.shape) for name, variable in state.items()} != {
        name: array.shape for name, array in own.items()
    }:
        raise StateError(
            f"{where} cannot be resumed from: its variables are not this run's. Start anew with --overwrite."
        )
    if values.keys() != callbacks.keys() if chief else not callbacks.keys() <= values.keys():
        raise StateError(
            f"{where} cannot be resumed from: its callbacks were {', '.join(values) or 'none'} and now "
            f"are {', '.join(callbacks) or 'none'}. Pass the same ones, or start anew with --overwrite."
        )
    for name, variable in state.items():
        variable.assign(own[name])
    for key, callback in callbacks.items():
        saved = {
            name: [arrays[f"callback/{key}/{name}/{index}"] for index in range(value["arrays"])]
            if isinstance(value, dict) and "arrays" in value
            else value
            for name, value in values[key].items()
        }
        load_callback_state(callback, saved)


def callback_state(callback):
    """Return what a callback resumes from: its own `state()`, or the known attributes of one of Keras's.

    Each value is JSON or a list of arrays. Nothing is kept of a callback with neither.
    """
    if hasattr(callback, "state"):
        return callback.state()
    return {name: getattr(callback, name, None) for name in _known_state(callback)}


def load_callback_state(callback, state):
    """Restore what `callback_state` returned."""
    if hasattr(callback, "load_state"):
        callback.load_state(state)
        return
    for name, value in state.items():
        setattr(callback, name, value)


def warn_of_stateful_callbacks(callbacks):
    """Name on standard error the callbacks whose state is lost when the run is resumed."""
    unknown = [
        type(callback).__name__
        for callback in callbacks
        if not _is_stateful(callback) and not isinstance(callback, STATELESS_CALLBACKS)
    ]
    if unknown:
        print(
            f"{', '.join(unknown)}: the state of these callbacks is lost when the run is resumed; give them state() "
            "and load_state(state) if that matters",
            file=sys.stderr,
        )


def _stateful(callbacks):
    """Return {class name and number: callback} of those whose state is kept."""
    stateful, numbers = {}, collections.Counter()
    for callback in filter(_is_stateful, callbacks):
        kind = type(callback).__name__
        stateful[f"{kind}{numbers[kind]}"] = callback
        numbers[kind] += 1
    return stateful


def _is_stateful(callback):
    return hasattr(callback, "state") or bool(_known_state(callback))


def _known_state(callback):
    return next((names for kind, names in CALLBACK_STATE.items() if isinstance(callback, kind)), ())
