"""Files that are whole or not there: the states that training resumes from, and the best weights.

A state is one safetensors file whose name ends in the first digits of its SHA-256, so that damage anywhere in it is
found before it is used.
"""

import collections
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import sys
from pathlib import Path

import keras
import safetensors
import safetensors.numpy
from keras import ops

import keras_cnns
from training.errors import ResourceError, StateError, UserError

KEPT = 3  # states in a run's folder: the newest, and what to fall back on

# What Keras's stateful callbacks resume from, beside the settings that they are made with.
CALLBACK_STATE = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "cooldown_counter", "best"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
}
STATELESS_CALLBACKS = (keras.callbacks.History, keras.callbacks.ProgbarLogger, keras.callbacks.TerminateOnNaN)


@contextlib.contextmanager
def atomic(path, needed=None):
    """Gives a temporary path in the same folder; what is written there takes the name `path` once it is on the disk.

    A crash at any moment leaves the old file, or the new one, never a part of it.

    Args:
        path: The file.
        needed: Its size in bytes for the error, where it is known.

    Raises:
        ResourceError: The disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with disk_errors(path, needed):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder):
    """Make a folder and keep other processes from working in it; the system takes the lock back from one that dies.

    What a killed process left half written in it is removed. The lock is a file in the folder that is there as long as
    someone works in it; a folder that was made for it, and that nothing was written into, is removed too.

    Raises:
        UserError: Another process works in it, or there can be no such folder.
        ResourceError: The disk is full, or the folder cannot be written to.
    """
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = folder / "lock"
    try:
        try:
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                descriptor = lock_file(lock)
        except OSError as error:
            reason = "is a symbolic link" if error.errno == errno.ELOOP else (error.strerror or str(error)).lower()
            raise UserError(
                f"{folder} cannot be worked in: {error.filename or lock}: {reason}. Pass another folder."
            ) from error
        try:
            remove_temporary_files(folder)
            yield
        finally:
            lock.unlink(missing_ok=True)
            os.close(descriptor)
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def lock_file(path):
    """Make a file, lock it, and return its descriptor; links are not followed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had it before may have removed the file between its opening and its locking, and a third made another.
        same = path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor))
        if not same:
            raise BlockingIOError
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace")
        os.close(descriptor)
        raise UserError(
            f"{path.parent} is in use by {holder or 'another process'}. Wait for it, or pass another folder."
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    with contextlib.suppress(OSError):  # only for the message above; there may be no room
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
    return descriptor


def sync_folder(folder):
    """Waits until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(path, needed=None):
    """Turns what the disk refuses into a ResourceError that says the sizes.

    Args:
        path: What is being written.
        needed: Its size in bytes, where it is known.
    """
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error).lower()
        refused = getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS)
        if full:
            size = "" if needed is None else f"{needed / 2**20:.1f} MiB are needed and "
            raise ResourceError(
                f"{path} could not be written: {size}{free_bytes(path) / 2**20:.1f} MiB are free. The files from "
                "before are whole. Make room, then give the same command to resume."
            ) from error
        if refused:
            raise ResourceError(
                f"{path} could not be written: {error.strerror.lower()}. Pass a folder that can be written to."
            ) from error
        raise


def free_bytes(path):
    """Free bytes where a path is, or will be."""
    path = Path(path).absolute()
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.is_dir())).free


def write_weights(model, path, metadata):
    """Writes the weights of a network to a safetensors file, whole or not at all."""
    with atomic(path) as temporary:
        keras_cnns.save_weights(model, temporary, metadata)


def is_state(name):
    """Whether a file of this name is a state, or one that is being written."""
    return re.fullmatch(r"epoch\d+-step\d+-\w+\.safetensors(\.tmp-\d+)?", name) is not None


class Checkpoints:
    """The states in a folder: `epoch0003-step000120-DIGITS.safetensors` is in epoch 3, after 120 steps of it.

    Args:
        folder: The folder.
        run: What tells the run from others. A state of another one is not used; None does not ask.
    """

    def __init__(self, folder, run=None):
        self.folder, self.run = Path(folder), run

    def files(self):
        """The states, the newest first."""

        def progress(path):  # as numbers: names sorted as text would put epoch 10000 before epoch 9999
            return *map(int, re.findall(r"\d+", path.name)[:2]), path.name

        return sorted(self.folder.glob("epoch*-step*-*.safetensors"), key=progress, reverse=True)

    def epochs(self):
        """Number of finished epochs in the newest state, by its name; None if there is no state."""
        return next((int(re.search(r"\d+", file.name)[0]) for file in self.files()), None)

    def save(self, arrays, progress):
        """Writes a state and removes all but the last few.

        Args:
            arrays: {name: array}.
            progress: A JSON value with the numbers "epoch" and "step".
        """
        # One entry only: safetensors would write several in a random order.
        content = safetensors.numpy.save(arrays, {"progress": json.dumps(progress | {"run": self.run})})
        digits = hashlib.sha256(content).hexdigest()[:16]
        path = self.folder / f"epoch{progress['epoch']:04d}-step{progress['step']:06d}-{digits}.safetensors"
        with disk_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
        with atomic(path, len(content)) as temporary:
            temporary.write_bytes(content)
        for old in self.files()[KEPT:]:
            old.unlink()

    def load(self):
        """Return the newest state that is whole, (arrays, progress), or None if there is none at all.

        One that is damaged, or of another run, is named on standard error.

        Raises:
            StateError: There are states, and none of them can be used.
        """
        files = self.files()
        for path in files:
            try:
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest()[:16] != re.search(r"-(\w+)\.safetensors$", path.name)[1]:
                    raise ValueError("its SHA-256 is not the one in its name")
                arrays = safetensors.numpy.load(content)
                with safetensors.safe_open(path, framework="numpy") as file:
                    progress = json.loads(file.metadata()["progress"])
                run = progress.pop("run", None)
                if self.run not in (None, run):
                    raise ValueError("it is of another run, or of an earlier version")
                return arrays, progress
            except (OSError, ValueError, LookupError, TypeError, safetensors.SafetensorError) as error:
                print(f"{path} is damaged ({error}); the state before it is used", file=sys.stderr)
        if files:
            raise StateError(f"{self.folder}: every state is damaged or of another run. Start anew with --overwrite.")
        return None


def is_temporary(name):
    """Whether a file or folder of this name is one that a process had not finished."""
    return re.search(r"\.tmp-\d+$", name) is not None


def remove_temporary_files(folder):
    """Remove what a killed process left half written; only for the one process that works in the folder."""
    for path in [*Path(folder).glob("*.tmp-*"), *Path(folder).glob("*/*.tmp-*")]:
        if is_temporary(path.name):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def state_of(model, averaged=None):
    """{name: variable}: weights, the seeds of random layers, the optimizer's variables, and the averaged weights.

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
    if averaged is not None:
        state |= {f"average/{variable.path}": variable for variable in averaged.weights}
    return state


def arrays_of(state, callbacks=()):
    """The values of a state and of the callbacks': {name: array}, and {callback: JSON value} of what are no arrays."""
    arrays = {name: ops.convert_to_numpy(variable) for name, variable in state.items()}
    values = {}
    for key, callback in _by_name(callbacks).items():
        values[key] = {}
        for name, value in callback_state(callback).items():
            if isinstance(value, list) and all(hasattr(item, "shape") for item in value):
                values[key][name] = {"arrays": len(value)}
                arrays |= {f"callback/{key}/{name}/{place}": item for place, item in enumerate(value)}
            else:
                values[key][name] = value.item() if hasattr(value, "item") else value
    return arrays, values


def restore(state, callbacks, arrays, values, where, *, chief=True):
    """Puts back what `arrays_of` gave.

    Args:
        state, callbacks: As for `arrays_of`.
        arrays, values: What it gave.
        where: Where they are from, for errors.
        chief: Whether this process has all callbacks; others lack those that write.

    Raises:
        StateError: The arrays are of another network, optimizer or set of callbacks; nothing has changed then.
    """
    own = {name: array for name, array in arrays.items() if not name.startswith("callback/")}
    callbacks = _by_name(callbacks)
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
            name: [arrays[f"callback/{key}/{name}/{place}"] for place in range(value["arrays"])]
            if isinstance(value, dict) and "arrays" in value
            else value
            for name, value in values[key].items()
        }
        load_callback_state(callback, saved)


def _by_name(callbacks):
    """{name: callback} of those that remember something."""
    remembering, seen = {}, collections.Counter()
    for callback in callbacks:
        if hasattr(callback, "state") or _known_state(callback):
            kind = type(callback).__name__
            remembering[f"{kind}{seen[kind]}"] = callback
            seen[kind] += 1
    return remembering


def callback_state(callback):
    """What a callback resumes from: its own `state()`, or what is known of Keras's.

    A value is JSON, or a list of arrays. Of a callback with neither nothing is kept.
    """
    if hasattr(callback, "state"):
        return callback.state()
    return {name: getattr(callback, name, None) for name in _known_state(callback)}


def load_callback_state(callback, state):
    """Puts back what `callback_state` gave."""
    if hasattr(callback, "load_state"):
        callback.load_state(state)
        return
    for name, value in state.items():
        setattr(callback, name, value)


def warn_of_stateful_callbacks(callbacks):
    """Says once which callbacks start afresh when a run is resumed."""
    unknown = [
        type(callback).__name__
        for callback in callbacks
        if not hasattr(callback, "state")
        and not isinstance(callback, STATELESS_CALLBACKS)
        and not _known_state(callback)
    ]
    if unknown:
        print(
            f"{', '.join(unknown)}: what these callbacks remember starts afresh when the run is resumed; give them "
            "state() and load_state(state) if that matters",
            file=sys.stderr,
        )


def _known_state(callback):
    for kind, names in CALLBACK_STATE.items():
        if isinstance(callback, kind):
            return names
    return ()
