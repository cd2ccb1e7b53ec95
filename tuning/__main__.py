"""The command line: python -m tuning compound|scale|dimensions|recipe."""

from training.interruption import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # until `main` handles signals

    from training.errors import check_requirements

    check_requirements()

import functools
import sys
from pathlib import Path

# TensorFlow takes seconds to import. Modules that need it are imported in functions: --help and errors in the command
# line do not wait for it.
from training.command_line import carry_out, import_tensorflow, parsed_with_recipe
from training.errors import UserError
from training.onednn import choose
from training.recipe import Recipe
from training.recipes import DIGITS, RECIPES, find_recipe, recipe_from
from training.scaling import MAX_GROWTH, MAX_PHI, check_file, read_coefficients
from tuning.folder import read_baseline
from tuning.spaces import SPACES
from tuning.workers import join, supervise

DEFAULTS = {"compound": "efficientnet_narrow_digits", "dimensions": "efficientnet_narrow_digits"}
MAX_GRID = 101  # values of each of the three coefficients: a million triples


def parser(defaults=None):
    """Return the parser of all commands, with a baseline's values as the defaults of the fields of Recipe."""
    commands, with_recipe = parsers()
    for command in with_recipe:
        command.set_defaults({name: getattr(defaults or Recipe(), name) for name in Recipe.__dataclass_fields__})
    return commands


@functools.cache
def parsers():
    """Return the parser of all commands, and those of the commands that take a baseline."""
    from jsonargparse import ArgumentParser

    programs = {
        "compound": ("Train the networks that cost about twice the baseline, and find the best.", add_compound_options),
        "scale": ("Train the baseline scaled with found coefficients.", add_scale_options),
        "dimensions": (
            "Scale depth, width and resolution alone and together, and draw accuracy against multiply-adds.",
            add_dimensions_options,
        ),
        "recipe": ("Search a space of recipes.", add_recipe_options),
    }
    commands = ArgumentParser(prog="python -m tuning", description=__doc__, exit_on_error=False, allow_abbrev=False)
    commands.add_argument("--debug", action="store_true", help="show the traceback of an error")  # handled by `main`
    subcommands, with_recipe = commands.add_subcommands(), []
    for title, (description, add_options) in programs.items():
        command = ArgumentParser(description=description, allow_abbrev=False)
        add_options(command)
        add_search_options(command)
        if title != "scale":
            command.add_argument("recipe", nargs="?", help="the baseline: a named recipe or a recipe.json")
            command.add_class_arguments(Recipe)
            with_recipe.append(command)
        subcommands.add_subcommand(title, command, help=description)
    return commands, with_recipe


def number(name, least, most, kind=float):
    """Return the type of an option that is a number in a range."""
    from jsonargparse.typing import restricted_number_type

    return restricted_number_type(name, kind, [(">=", least), ("<=", most)])


def add_compound_options(command):
    command.add_argument("--rule", choices=("formula", "counted"), default="formula", help="what must fit the budget")
    command.add_argument(
        "--budget", type=number("Factor", 1.0, MAX_GROWTH), default=2.0, help="multiply-adds relative to the baseline's"
    )
    command.add_argument(
        "--tolerance",
        type=number("Tolerance", 0.0, MAX_GROWTH),
        default=0.1,
        help="largest distance from the budget; 0 means exactly the budget",
    )
    command.add_argument("--step", type=number("Step", 1e-3, MAX_GROWTH), default=0.05, help="step of the grid")
    command.add_argument("--triples", nargs="+", help="only these, e.g. 1.2/1.1/1.15 1/1.4/1")
    command.add_argument(
        "--oracle", choices=("exhaustive", "bayesian", "hyperband"), default="exhaustive", help="how trials are chosen"
    )
    command.add_argument("--list", action="store_true", help="list what fits, and train nothing")


def add_scale_options(command):
    phi = number("Steps", 0.0, MAX_PHI)
    command.add_argument("--coefficients", required=True, help="coefficients.json of `compound`")
    command.add_argument(
        "--phi", type=phi, nargs="+", default=[1.0, 2.0, 3.0], help="exponents of the coefficients; 0 is the baseline"
    )


def add_dimensions_options(command):
    phi = number("Steps", 0.0, MAX_PHI)
    command.add_argument("--coefficients", help="coefficients.json for the compound curve (default: the paper's)")
    command.add_argument(
        "--phi", type=phi, nargs="+", default=[0.0, 1.0, 2.0], help="number of doublings; 0 is the baseline"
    )


def add_recipe_options(command):
    command.add_argument("--space", required=True, choices=tuple(SPACES), help="see tuning/spaces.py")
    command.add_argument(
        "--oracle", choices=("random", "bayesian", "hyperband"), default="bayesian", help="how trials are chosen"
    )


def add_search_options(command):
    """Add the options that all commands have."""
    from jsonargparse.typing import PositiveInt

    workers = number("Workers", 1, 1000, int)
    command.add_argument("--search", help="the search folder (default: runs/COMMAND-NAME-DIGEST)")
    command.add_argument("--seeds", type=PositiveInt, default=1, help="trainings per trial, with consecutive seeds")
    command.add_argument("--max_trials", type=PositiveInt, default=20, help="trials of random and bayesian, at most")
    command.add_argument("--overwrite", action="store_true", help="replace the search in the folder")
    command.add_argument("--download", action="store_true", help="let TFDS download what is missing")
    command.add_argument("--workers", type=workers, help="processes that train at the same time on this machine")
    command.add_argument(
        "--role", choices=("alone", "chief", "worker"), default="alone", help="role of this process among several"
    )
    command.add_argument("--chief", help="HOST:PORT of the chief")
    command.add_argument("--worker", default="0", help="name of this worker")
    command.add_argument(
        "--i_trust_this_network", action="store_true", help="allow a chief that other machines can reach"
    )


def default_baseline(options):
    """Return the recipe that a parsed command line names, or the command's default; None for `scale`."""
    command = options.subcommand
    if command == "scale":
        return None
    named = options[command].recipe
    return find_recipe(named) if named else RECIPES[DEFAULTS[command]] if command in DEFAULTS else DIGITS


def parse(arguments):
    """Return the command and its checked options, with the baseline among them as a Recipe."""
    words = [word for word in arguments if word != "--debug"]
    line, baseline = parsed_with_recipe(parser, words, default_baseline)
    command, options = line.subcommand, line[line.subcommand]
    if command != "scale":
        options.baseline = recipe_from(options, baseline)
    if command == "compound":
        options.triples = [triple_from(words) for words in options.triples] if options.triples else None
        if (options.budget - 1) / options.step >= MAX_GRID:
            raise UserError(
                f"--step {options.step:g}: up to the budget {options.budget:g} that is more than {MAX_GRID} values of "
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


def compound_study(options):
    from tuning import compound

    names = ("rule", "budget", "tolerance", "step", "triples", "oracle", "max_trials")
    return study_of(compound, options, **{name: options[name] for name in names})


def scale_study(options):
    from tuning import scale

    triple = read_coefficients(options.coefficients)
    return study_of(scale, options, triple=triple, phis=options.phi)


def dimensions_study(options):
    from tuning import dimensions

    triple = read_coefficients(options.coefficients) if options.coefficients else dimensions.PAPER_TRIPLE
    return study_of(dimensions, options, triple=triple, phis=options.phi)


def recipe_study(options):
    from tuning import recipe_search

    names = ("space", "oracle", "max_trials")
    return study_of(recipe_search, options, **{name: options[name] for name in names})


def study_of(module, options, **arguments):
    """Return the study that a module makes of the baseline, which is checked first, and its function that reports."""
    from tuning.search import check_baseline

    classes = check_baseline(options.baseline, seeds=options.seeds, download=options.download)
    return module.study(options.baseline, classes, **arguments), module.report


# {command: function (options) -> (study, function that reports on it)}
STUDIES = {
    "compound": compound_study,
    "scale": scale_study,
    "dimensions": dimensions_study,
    "recipe": recipe_study,
}


def main(arguments):
    """Run a command line and return its exit code."""
    return carry_out(run_command, arguments)


def run_command(arguments):
    command, options = parse(arguments)
    if options.get("coefficients"):
        check_file(options.coefficients)
    if command == "scale":
        options.baseline = read_baseline(options.coefficients)
    if options.workers:
        return supervise(without_workers(arguments), options.workers)
    if options.role != "alone":
        join(options.role, options.chief, options.worker, options.i_trust_this_network)
    choose(options.baseline)  # all trials use the same kernels
    import_tensorflow(arguments)
    study, make_report = STUDIES[command](options)
    from tuning.compound import listing
    from tuning.report import write
    from tuning.search import default_folder, run

    if options.get("list"):
        print(listing(study))
        return
    folder = Path(options.search) if options.search else default_folder(study, options.seeds)
    trials = run(study, folder, seeds=options.seeds, role=options.role, overwrite=options.overwrite)
    if trials:  # a worker has none
        report = make_report(study, trials, folder)
        write(report, folder)
        print(report.text)


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
