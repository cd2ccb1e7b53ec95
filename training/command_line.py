"""What the command lines have in common: an error becomes a line on standard error and an exit code."""

import os
import stat
import sys
from pathlib import Path

from training.errors import UserError, explained


def carry_out(command, arguments):
    """Carry out a command line and return its exit code.

    Args:
        command: A function (arguments) -> exit code, or None for 0.
        arguments: The words of the command line. With --debug among them errors keep their traceback.
    """
    try:
        return command(arguments) or 0
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from what is saved", file=sys.stderr)
        return 130
    except Exception as error:
        known = explained(error)
        if known is None or "--debug" in arguments:
            raise
        print(f"error: {known}", file=sys.stderr)
        return known.exit_code


def check_replaceable(path, inputs):
    """Raise a UserError unless nothing is at `path`, or a regular file that is not among the inputs."""
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: there is no such folder. Make it first.")
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise UserError(f"{path}: it is not a regular file and is left alone. Pass another path.")
    if path.exists() and any(os.path.exists(file) and path.samefile(file) for file in inputs):
        raise UserError(f"{path}: it is what is being read. Pass another path.")
