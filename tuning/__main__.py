"""The command line: python -m tuning compound|scale|dimensions|recipe."""

from training.interruption import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # until `main` has something to say

    from training.errors import check_requirements

    check_requirements()

import functools
import sys

# TensorFlow takes seconds to import. What needs it is in tuning.commands: help and mistakes are answered at once.
from training.command_line import carry_out, import_tensorflow, parsed_with_recipe
from training.errors import UserError
from training.recipe import Recipe
from training.recipes import DIGITS, RECIPES, find_recipe, recipe_from
from training.scaling import MAX_GROWTH, MAX_PHI
from tuning.spaces import SPACES
from tuning.workers import join, supervise

DEFAULTS = {"compound": "efficientnet_narrow_digits", "dimensions": "efficientnet_narrow_digits"}
MAX_GRID = 101  # values of each of the three coefficients: a million triples


def parser(defaults=None):
    """Return the parser of every command; a baseline's values are the defaults of the fields of Recipe."""
    commands, with_recipe = parsers()
    for command in with_recipe:
        command.set_defaults({name: getattr(defaults or Recipe(), name) for name in Recipe.__dataclass_fields__})
    return commands


@functools.cache
def parsers():
    """Return the parser of every command, and those of the commands that take a baseline."""
    from jsonargparse import ArgumentParser
    from jsonargparse.typing import PositiveInt, restricted_number_type

    def number(name, least, most, kind=float):
        return restricted_number_type(name, kind, [(">=", least), ("<=", most)])

    factor, steps = number("Factor", 1.0, MAX_GROWTH), number("Steps", 0.0, MAX_PHI)
    compound = ArgumentParser(
        description="Train the networks that cost about twice the baseline, and find how best to spend it.",
        allow_abbrev=False,
    )
    compound.add_argument("--rule", choices=("formula", "counted"), default="formula", help="what must fit the budget")
    compound.add_argument("--budget", type=factor, default=2.0, help="multiply-adds in units of the baseline's")
    compound.add_argument(
        "--tolerance",
        type=number("Tolerance", 0.0, MAX_GROWTH),
        default=0.1,
        help="how far from the budget still fits; 0 is exact",
    )
    compound.add_argument("--step", type=number("Step", 1e-3, MAX_GROWTH), default=0.05, help="step of the grid")
    compound.add_argument("--triples", nargs="+", help="only these, such as 1.2/1.1/1.15 1/1.4/1")
    compound.add_argument("--oracle", choices=("exhaustive", "bayesian", "hyperband"), default="exhaustive")
    compound.add_argument("--list", action="store_true", help="list what fits, and train nothing")

    scaled = ArgumentParser(description="Train the baseline scaled with found coefficients.", allow_abbrev=False)
    scaled.add_argument("--coefficients", required=True, help="coefficients.json of `compound`")
    scaled.add_argument("--phi", type=steps, nargs="+", default=[1.0, 2.0, 3.0], help="how many steps; 0 is none")

    dimensions = ArgumentParser(
        description="Scale depth, width and resolution alone and together, and draw accuracy against multiply-adds.",
        allow_abbrev=False,
    )
    dimensions.add_argument("--coefficients", help="coefficients.json for the compound curve (default: the paper's)")
    dimensions.add_argument(
        "--phi", type=steps, nargs="+", default=[0.0, 1.0, 2.0], help="how many doublings; 0 is the baseline"
    )

    recipe = ArgumentParser(description="Search a space of recipes.", allow_abbrev=False)
    recipe.add_argument("--space", required=True, choices=tuple(SPACES), help="see tuning/spaces.py")
    recipe.add_argument("--oracle", choices=("random", "bayesian", "hyperband"), default="bayesian")

    commands = ArgumentParser(prog="python -m tuning", description=__doc__, exit_on_error=False, allow_abbrev=False)
    commands.add_argument("--debug", action="store_true", help="show the traceback of an error")  # taken by `main`
    subcommands = commands.add_subcommands()
    for title, command in (("compound", compound), ("scale", scaled), ("dimensions", dimensions), ("recipe", recipe)):
        command.add_argument("--search", help="the search folder (default: runs/COMMAND-NAME-DIGEST)")
        command.add_argument("--seeds", type=PositiveInt, default=1, help="how often each is trained, with other seeds")
        command.add_argument("--max_trials", type=PositiveInt, default=20, help="trials of random and bayesian")
        command.add_argument("--overwrite", action="store_true", help="replace the search that the folder has")
        command.add_argument("--download", action="store_true", help="let TFDS download what is missing")
        command.add_argument(
            "--workers", type=number("Workers", 1, 1000, int), help="processes that train at once on this machine"
        )
        command.add_argument(
            "--role", choices=("alone", "chief", "worker"), default="alone", help="of several machines"
        )
        command.add_argument("--chief", help="HOST:PORT of the chief")
        command.add_argument("--worker", default="0", help="the name of this worker")
        command.add_argument("--i_trust_this_network", action="store_true", help="let chief and workers leave loopback")
        if title != "scale":
            command.add_argument("recipe", nargs="?", help="the baseline: a named recipe or a recipe.json")
            command.add_class_arguments(Recipe)
        subcommands.add_subcommand(title, command, help=command.description)
    return commands, (compound, dimensions, recipe)


def baseline_named(options):
    """Return the recipe that a parsed command line names, or the command's own; None for `scale`, which takes none."""
    command = options.subcommand
    if command == "scale":
        return None
    named = options[command].recipe
    return find_recipe(named) if named else RECIPES[DEFAULTS[command]] if command in DEFAULTS else DIGITS


def parse(arguments):
    """Return the command and its options, checked, among them the baseline as a Recipe."""
    words = [word for word in arguments if word != "--debug"]
    line = parsed_with_recipe(parser, words, baseline_named)
    command, options = line.subcommand, line[line.subcommand]
    if command != "scale":
        options.baseline = recipe_from(options, baseline_named(line))
    if command == "compound":
        options.triples = [triple_from(words) for words in options.triples] if options.triples else None
        if (options.budget - 1) / options.step >= MAX_GRID:
            raise UserError(
                f"--step {options.step:g}: up to the budget {options.budget:g} it makes more than {MAX_GRID} values of "
                "each coefficient. Pass a larger --step."
            )
    if options.workers and options.role != "alone":
        raise UserError("--workers is for one machine, --role for several. Pass one of them.")
    return command, options


def triple_from(words):
    """Return a triple from "1.2/1.1/1.15"."""
    try:
        alpha, beta, gamma = map(float, words.split("/"))
    except ValueError:
        raise UserError(f"--triples {words}: each must be three numbers, such as 1.2/1.1/1.15.") from None
    if not all(1 <= value <= MAX_GROWTH for value in (alpha, beta, gamma)):
        raise UserError(f"--triples {words}: each number must be from 1 to {MAX_GROWTH:g}.")
    return alpha, beta, gamma


def main(arguments):
    """Carry out a command line and return its exit code."""
    return carry_out(run_command, arguments)


def run_command(arguments):
    command, options = parse(arguments)
    if options.workers:
        return supervise(without_workers(arguments), options.workers)
    if options.role != "alone":
        join(options.role, options.chief, options.worker, options.i_trust_this_network)
    import_tensorflow(arguments)
    from tuning.commands import COMMANDS

    return COMMANDS[command](options)


def without_workers(arguments):
    """Return a command line without --workers N."""
    words = iter(arguments)
    kept = []
    for word in words:
        if word == "--workers":
            next(words)
        elif not word.startswith("--workers="):
            kept.append(word)
    return kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
