"""Errors that the user can fix, each kind with an exit code of the command line."""

import errno
import importlib.util
import sys


class TrainingError(Exception):
    """Base class; the message says what happened, where, and how to fix it, and is shown without a traceback."""

    exit_code = 1


class UserError(TrainingError):
    """A wrong argument, name or path."""

    exit_code = 2


class DataError(TrainingError):
    """Images or labels that cannot be trained on."""

    exit_code = 3


class ImageError(DataError):
    """One image that cannot be trained on.

    Attributes:
        file: Its path, or another name of it.
        kind: One of "unreadable", "empty", "large", "oversized", "unsupported" and "broken".
        reason: What is wrong, as the end of a sentence that begins with the file.
    """

    def __init__(self, file, kind, reason, fix="Remove it, or save it again as an image."):
        super().__init__(f"{file} {reason}. {fix}")
        self.file, self.kind, self.reason = file, kind, reason


class ResourceError(TrainingError):
    """Not enough memory or disk."""

    exit_code = 4


class OutOfMemoryError(ResourceError):
    """Not enough memory."""


class StateError(TrainingError):
    """A run folder that is damaged or not what the command needs."""

    exit_code = 5


class DivergedError(TrainingError):
    """The loss, a gradient or a weight is not finite."""

    exit_code = 6


class WorkerLostError(TrainingError):
    """Another process of the run has ended, and the others cannot continue without it."""

    exit_code = 7


class Interrupted(TrainingError):
    """A signal ended the run after its state was saved.

    Args:
        signal: Its number.
        progress: The training.loop.Progress of the run.
    """

    def __init__(self, signal, progress):
        self.exit_code = 128 + (signal or 15)  # the number is unknown if another worker received it
        epoch, step = progress.epoch, progress.step
        if step:
            where = f"in epoch {epoch + 1} after {step} steps of it, which are saved"
        else:
            where = f"after epoch {epoch}, which is saved" if epoch else "before the first step"
        super().__init__(f"stopped {where}; the same command resumes from there")


def out_of_memory(error):
    """Return a line on a MemoryError, or on TensorFlow's ResourceExhaustedError, whose own text fills pages."""
    return f"out of memory: {(str(error) or 'no bytes left').splitlines()[0]}"


def explained(error):
    """Return the TrainingError that explains an error of Python or TensorFlow to a user; None if there is none.

    TensorFlow reports a full disk and a full memory by the same class. It is recognised by its name, so that nothing
    has to be imported here.
    """
    if isinstance(error, TrainingError):
        return error
    text = (str(error) or type(error).__name__).splitlines()[0]
    exhausted = type(error).__name__ == "ResourceExhaustedError"
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or (exhausted and ("No space left" in text or "quota exceeded" in text)):
        return ResourceError(f"the disk is full: {text}. Free some space, then run the same command to resume.")
    if exhausted or isinstance(error, MemoryError):
        return OutOfMemoryError(
            f"{out_of_memory(error)}. Try half the --batch_size, a smaller --image_size, or --precision "
            "mixed_bfloat16 on a GPU."
        )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ResourceError(f"{text}. Change the permissions, or pass another path.")
    if isinstance(error, OSError) and error.filename is not None:
        return UserError(f"{text}. Pass another path.")
    if isinstance(error, ModuleNotFoundError):
        return UserError(f"{text}. Install what this project needs: pip install -r requirements.txt.")
    return None


def check_requirements():
    """End the process with a line, not a traceback, if a package that every command needs is not installed."""
    for name in ("jsonargparse", "pydantic"):
        if importlib.util.find_spec(name) is None:
            print(f"error: {explained(ModuleNotFoundError(f'No module named {name!r}'))}", file=sys.stderr)
            sys.exit(2)
