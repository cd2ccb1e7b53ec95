"""What the command lines have in common: how a recipe and its fields are parsed, and what becomes of errors."""

import difflib
import sys

from training.errors import UserError, explained
from training.recipe import Recipe

SHORT = {"bs": "batch_size", "lr": "learning_rate", "size": "image_size", "wd": "weight_decay", "network": "model"}


def parsed(parser, arguments):
    """Parse a command line.

    Raises:
        UserError: It does not fit the parser.
    """
    from argparse import ArgumentError

    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        raise UserError(f"{error.message}{suggest_field(error.message)}") from error


def parsed_with_recipe(make_parser, arguments, find):
    """Parse a command line whose recipe, wherever in the line it stands, gives the defaults of the options.

    Args:
        make_parser: A function (defaults=None) -> parser, where the defaults are a Recipe.
        arguments: The words of the command line.
        find: A function (parsed options) -> the Recipe that they name, or None.
    """
    asked = [word for word in arguments if word in ("-h", "--help")]
    try:
        named = parsed(make_parser(), [word for word in arguments if word not in asked])
    except UserError:
        if not asked:
            raise
        return parsed(make_parser(), arguments)
    return parsed(make_parser(find(named)), arguments)


def suggest_field(message):
    """For a message about an unknown option: the field of Recipe that comes near it."""
    unknown = message.partition("--")[2].split(" ")[0].split("=")[0] if "unrecognized" in message.lower() else ""
    near = [SHORT[unknown]] if unknown in SHORT else difflib.get_close_matches(unknown, Recipe.__dataclass_fields__)
    return f". Did you mean --{near[0]}?" if near else ""


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
