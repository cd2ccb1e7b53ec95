"""What the command lines have in common: an error becomes a line on standard error and an exit code."""

import signal
import sys

from training.errors import explained
from training.interruption import Interruption


def carry_out(command, arguments):
    """Carry out a command line and return its exit code.

    Args:
        command: A function (arguments) -> exit code, or None for 0.
        arguments: The words of the command line. With --debug among them errors keep their traceback.
    """
    try:
        with Interruption() as interruption, interruption.at_once():
            return command(arguments) or 0
    except KeyboardInterrupt as stop:
        print("\nstopped; the same command goes on from what is saved", file=sys.stderr)
        return 128 + getattr(stop, "signal", signal.SIGINT)
    except Exception as error:
        known = explained(error)
        if known is None or "--debug" in arguments:
            raise
        print(f"error: {known}", file=sys.stderr)
        return known.exit_code
