"""What both command lines share: parsing a recipe, importing TensorFlow quietly, and exit codes for errors."""

import contextlib
import difflib
import gc
import os
import re
import signal
import sys

from training.errors import UserError, explained
from training.interruption import Interruption
from training.recipe import Recipe

SHORT = {"bs": "batch_size", "lr": "learning_rate", "size": "image_size", "wd": "weight_decay", "network": "model"}


def parsed(parser, arguments):
    """Parse a command line.

    Raises:
        UserError: The parser rejects it.
    """
    from argparse import ArgumentError

    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        raise UserError(f"{in_plain_words(error.message)}{suggest_field(error.message)}") from error


def parsed_with_recipe(make_parser, arguments, find):
    """Parse a command line whose recipe, at any position, gives the defaults of the options.

    Args:
        make_parser: A function (defaults=None) -> parser; the defaults are a Recipe.
        arguments: The words of the command line.
        find: A function (parsed options) -> the Recipe that they name, or None.

    Returns:
        The parsed options and the Recipe that they name.
    """
    asked = [word for word in arguments if word in ("-h", "--help")]
    try:
        named = parsed(make_parser(), [word for word in arguments if word not in asked])
    except UserError:
        if not asked:
            raise
        return parsed(make_parser(), arguments)
    recipe = find(named)
    return parsed(make_parser(recipe), arguments), recipe


# jsonargparse's names of types and bounds, and plain words for them.
KINDS = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a finite number",
    "<class 'bool'>": "true or false",
    "<class 'list'>": "a list, such as [30,60]",
    "<class 'dict'>": 'an object, such as {"depth": 20}',
}
BOUNDS = {"v>=": "at least ", "v<=": "at most ", "v>": "above ", "v<": "below "}


def in_plain_words(message):
    """Return jsonargparse's message about an invalid value in the words of a recipe's own errors."""
    option = re.match(r'Parser key "(.+?)"', message)
    expected = re.findall(r"Expected a (<class '\w+'>|typing\.Literal\[.*?\])", message)
    value = re.search(
        r"(?:Got|Given) value: (.*)|Not of type \w+: (?:(?:could not|invalid literal) .*: '(.*)'|(\S+))", message
    )
    bounds = re.search(r"restriction (.*)", message)
    if not (option and value):
        return message
    kinds = [KINDS.get(kind) or "one of " + ", ".join(re.findall("'(.*?)'", kind)) for kind in expected]
    number = "a whole number" if re.search(r"Not of type \w*Int:", message) else "a finite number"
    must = bounds[1] if bounds else " or ".join(kinds) or number
    for sign, words in BOUNDS.items():
        must = must.replace(sign, words)
    return f"--{option[1]} {value[1] or value[2] or value[3]}: it must be {must}."


def suggest_field(message):
    """Return a hint at the most similar field of Recipe for a message about an unknown option, else an empty text."""
    unknown = message.partition("--")[2].split(" ")[0].split("=")[0] if "unrecognized" in message.lower() else ""
    near = [SHORT[unknown]] if unknown in SHORT else difflib.get_close_matches(unknown, Recipe.__dataclass_fields__)
    return f". Did you mean --{near[0]}?" if near else ""


def carry_out(command, arguments):
    """Carry out a command line and return its exit code.

    Args:
        command: A function (arguments) -> exit code; None means 0.
        arguments: The words of the command line. With --debug among them, errors are raised with their traceback.
    """
    try:
        with Interruption() as interruption, interruption.at_once():
            return command(arguments) or 0
    except KeyboardInterrupt as stop:
        print("\nstopped; the same command resumes from the saved state", file=sys.stderr)
        return 128 + getattr(stop, "signal", signal.SIGINT)
    except Exception as error:
        known = explained(error)
        if known is None or "--debug" in arguments:
            raise
        print(f"error: {known}", file=sys.stderr)
        return known.exit_code


def import_tensorflow(arguments):
    """Import TensorFlow, and hide its messages unless --debug is among the arguments."""
    if "tensorflow" in sys.modules:
        return
    debug = "--debug" in arguments
    if not debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors are raised as exceptions all the same
    # Python's garbage collection would go through all that is imported again and again, and once more at the end of the
    # process: more than a second.
    gc.disable()
    try:
        with contextlib.nullcontext() if debug else hidden_stderr():
            import tensorflow  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
    if not debug:
        import absl.logging

        absl.logging.set_verbosity(absl.logging.ERROR)  # TensorFlow Datasets too


@contextlib.contextmanager
def hidden_stderr():
    """Hide standard error, that of C++ too: TensorFlow writes some lines before it reads its log level."""
    sys.stderr.flush()
    shown, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        os.close(nothing)
