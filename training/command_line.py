"""What the command lines have in common: an error becomes a line on standard error and an exit code."""

import sys

import tensorflow as tf

from training.errors import ResourceError, TrainingError, out_of_memory


def carry_out(command, arguments):
    """Carries out a command line and returns its exit code.

    Args:
        command: A function (arguments) -> exit code, or None for 0.
        arguments: The words of the command line. With --debug among them errors keep their traceback.
    """
    try:
        return command(arguments) or 0
    except TrainingError as error:
        if "--debug" in arguments:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        if "--debug" in arguments:
            raise
        print(
            f"error: {out_of_memory(error)}. Try half the --batch_size, a smaller --image_size, or --precision "
            "mixed_bfloat16 on a GPU.",
            file=sys.stderr,
        )
        return ResourceError.exit_code
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from what is saved", file=sys.stderr)
        return 130
