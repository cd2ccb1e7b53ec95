"""The command line: python -m tuning compound|scale|dimensions|recipe."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow reads it when it is imported

from training.interruption import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # until `main` has something to say

import argparse
import dataclasses
import itertools
import math
import time
from pathlib import Path

import keras_tuner
from jsonargparse import ArgumentParser, Namespace

from training.command_line import carry_out
from training.data import load_data
from training.errors import UserError
from training.recipe import Recipe
from training.recipes import DIGITS, RECIPES, find_recipe
from training.scaling import read_coefficients, scale
from tuning.compound import Network, baseline_multiply_adds, feasible, formula, name
from tuning.figure import Point, figure_3, figure_8
from tuning.search import (
    Candidate,
    Search,
    digest,
    prepare_folder,
    read_json,
    run_search,
    save_figure,
    table,
    write_json,
)
from tuning.spaces import SPACES
from tuning.workers import join, supervise

PAPER = (1.2, 1.1, 1.15)  # Tan & Le 2019, section 3.3
DEFAULTS = {"compound": "efficientnet_narrow_digits", "dimensions": "efficientnet_narrow_digits"}


def parser(defaults=None):
    """The parser of every command; a baseline's values are the defaults of the fields of Recipe."""
    compound = ArgumentParser(
        description="Train the networks that cost about twice the baseline, and find how best to spend it.",
        allow_abbrev=False,
    )
    compound.add_argument("--rule", choices=("formula", "counted"), default="formula", help="what must fit the budget")
    compound.add_argument("--budget", type=float, default=2.0, help="multiply-adds in units of the baseline's")
    compound.add_argument("--tolerance", type=float, default=0.1, help="how far from the budget still fits")
    compound.add_argument("--step", type=float, default=0.05, help="step of the grid")
    compound.add_argument("--triples", nargs="+", help="only these, as 1.2/1.1/1.15 1/1.4/1")
    compound.add_argument("--oracle", choices=("exhaustive", "bayesian", "hyperband"), default="exhaustive")
    compound.add_argument("--list", action="store_true", help="list what fits, and train nothing")

    scaled = ArgumentParser(description="Train the baseline scaled with found coefficients.", allow_abbrev=False)
    scaled.add_argument("--coefficients", required=True, help="coefficients.json of `compound`")
    scaled.add_argument("--phi", type=float, nargs="+", default=[1.0, 2.0, 3.0], help="how many steps")

    dimensions = ArgumentParser(
        description="Scale depth, width and resolution alone and together, and draw accuracy against multiply-adds.",
        allow_abbrev=False,
    )
    dimensions.add_argument("--coefficients", help="coefficients.json for the compound curve (default: the paper's)")
    dimensions.add_argument("--phi", type=float, nargs="+", default=[0.0, 1.0, 2.0], help="how many doublings")

    recipe = ArgumentParser(description="Search a space of recipes.", allow_abbrev=False)
    recipe.add_argument("--space", required=True, choices=tuple(SPACES), help="see tuning/spaces.py")
    recipe.add_argument("--oracle", choices=("random", "bayesian", "hyperband"), default="bayesian")

    commands = ArgumentParser(prog="python -m tuning", description=__doc__, exit_on_error=False, allow_abbrev=False)
    commands.add_argument("--debug", action="store_true", help="show the traceback of an error")  # taken by `main`
    subcommands = commands.add_subcommands()
    for title, command in (("compound", compound), ("scale", scaled), ("dimensions", dimensions), ("recipe", recipe)):
        command.add_argument("--search", help="the search folder (default: runs/COMMAND-NAME-DIGEST)")
        command.add_argument("--seeds", type=int, default=1, help="how often each is trained, with other seeds")
        command.add_argument("--max_trials", type=int, default=20, help="trials of random and bayesian")
        command.add_argument("--overwrite", action="store_true", help="start anew where the folder has a search")
        command.add_argument("--download", action="store_true", help="let TFDS download what is missing")
        command.add_argument("--workers", type=int, default=0, help="processes that train at once on this machine")
        command.add_argument(
            "--role", choices=("alone", "chief", "worker"), default="alone", help="of several machines"
        )
        command.add_argument("--chief", help="HOST:PORT of the chief")
        command.add_argument("--worker", default="0", help="the name of this worker")
        command.add_argument("--i_trust_this_network", action="store_true", help="let chief and workers leave loopback")
        if title != "scale":
            command.add_argument("recipe", nargs="?", help="the baseline: a named recipe or a recipe.json")
            command.add_class_arguments(Recipe)
            if defaults:
                command.set_defaults({field: getattr(defaults, field) for field in Recipe.__dataclass_fields__})
        subcommands.add_subcommand(title, command)
    return commands


def baseline_of(words):
    """The recipe whose values are the defaults of a command line."""
    command, *rest = words
    named = rest and not rest[0].startswith("-")
    return find_recipe(rest[0]) if named else RECIPES[DEFAULTS[command]] if command in DEFAULTS else DIGITS


def parse(arguments):
    """Parses the command line; the baseline is looked up first, since its values are the defaults."""
    words = [word for word in arguments if word != "--debug"]
    defaults = baseline_of(words) if words and words[0] in ("compound", "dimensions", "recipe") else None
    try:
        return parser(defaults).parse_args(words)
    except argparse.ArgumentError as error:
        raise UserError(error.message) from error


def main(arguments):
    """Carries out a command line and returns its exit code."""
    return carry_out(run_command, arguments)


def run_command(arguments):
    options = parse(arguments)
    command = options.subcommand
    options = options[command]
    check(options)
    if options.workers:
        return supervise(without_workers(arguments), options.workers)
    if options.role != "alone":
        join(options.role, options.chief, options.worker, options.i_trust_this_network)
    return COMMANDS[command](options)


def check(options):
    """Raises a UserError for a number that makes no sense."""
    for field, least in (("seeds", 1), ("max_trials", 1), ("workers", 0), ("step", 1e-3), ("budget", 1.0)):
        if field in options and options[field] < least:
            raise UserError(f"--{field} {options[field]}: it must be at least {least}.")
    if options.workers and options.role != "alone":
        raise UserError("--workers is for one machine, --role for several. Pass one of them.")


def without_workers(arguments):
    """A command line without --workers N."""
    words = iter(arguments)
    kept = []
    for word in words:
        if word == "--workers":
            next(words)
        elif not word.startswith("--workers="):
            kept.append(word)
    return kept


def begin(command, baseline, options, **settings):
    """Makes or checks the search folder; returns it and the number of classes."""
    classes = len(load_data(baseline, download=options.download).class_names)
    settings |= {"command": command, "recipe": dataclasses.asdict(baseline), "seeds": options.seeds}
    folder = Path(options.search or f"runs/{command}-{baseline.name}-{digest(settings)}")
    if options.role != "worker":
        prepare_folder(folder, settings, options.overwrite)
    return folder, classes


def search_list(folder, classes, candidates, options, *, oracle="exhaustive", epochs=1, seed=0):
    """Searches a list of candidates; every number of the list is a point of the space."""
    hp = keras_tuner.HyperParameters()
    hp.Int("candidate", 0, len(candidates) - 1)
    return run_search(
        Search(
            folder=folder,
            hyperparameters=hp,
            candidate=lambda values: candidates[values["candidate"]],
            oracle=oracle,
            trials=min(options.max_trials, len(candidates)),
            epochs=epochs,
            seeds=options.seeds,
            classes=classes,
            seed=seed,
        ),
        role=options.role,
    )


def baseline_from(options):
    return Recipe(**{field: options[field] for field in Recipe.__dataclass_fields__})


def compound(options: Namespace):
    baseline = baseline_from(options)
    rules = {field: options[field] for field in ("rule", "budget", "tolerance", "step")}
    triples = [triple_from(words) for words in options.triples] if options.triples else None
    if options.list:
        classes = len(load_data(baseline, download=options.download).class_names)
        networks = feasible(baseline, classes, **rules, triples=triples)
        smallest = baseline_multiply_adds(baseline, classes)
        columns = {
            "depth/width/resolution": lambda network: ", ".join(map(name, network.triples)),
            "formula": lambda network: f"{formula(network.triples[0]):.3f}",
            "counted": lambda network: f"{network.multiply_adds / smallest:.3f}",
        }
        print(table(networks, columns))
        count = sum(len(network.triples) for network in networks)
        print(f"{count} triples, {len(networks)} networks; the baseline has {smallest:,} multiply-adds")
        return
    more = {"oracle": options.oracle} | ({"max_trials": options.max_trials} if options.oracle == "bayesian" else {})
    folder, classes = begin("compound", baseline, options, **rules, triples=triples, **more)
    smallest = baseline_multiply_adds(baseline, classes)
    networks = found_networks(folder, options, lambda: feasible(baseline, classes, **rules, triples=triples))
    candidates = []
    for network in networks:
        alpha, beta, gamma = network.triples[0]
        candidates.append(
            Candidate(
                f"alpha{alpha:g}_beta{beta:g}_gamma{gamma:g}",
                scale(baseline, alpha, beta, gamma),
                {
                    "alpha": alpha,
                    "beta": beta,
                    "gamma": gamma,
                    "formula": formula(network.triples[0]),
                    "counted": network.multiply_adds / smallest,
                },
            )
        )
    trials = search_list(
        folder, classes, candidates, options, oracle=options.oracle, epochs=baseline.epochs, seed=baseline.seed
    )
    if not trials:
        return
    same = {network.triples[0]: network.triples for network in networks}
    best = trials[0]
    alpha, beta, gamma = triple_of(best)
    result = {
        "alpha": alpha,
        "beta": beta,
        "gamma": gamma,
        "val_accuracy": best.accuracy,
        "accuracies": best.result["accuracies"],
        "multiply_adds": best.result["multiply_adds"],
        "baseline_multiply_adds": smallest,
        **rules,
        "baseline": dataclasses.asdict(baseline),
        "trials": [
            trial.candidate.shown
            | {"triples": same[triple_of(trial)], "folder": trial.folder.name, "epochs": trial.candidate.recipe.epochs}
            | trial.result
            for trial in trials
        ],
    }
    write_json(folder / "coefficients.json", result)
    columns = {
        "depth/width/resolution": lambda trial: ", ".join(map(name, same[triple_of(trial)])),
        "formula": lambda trial: f"{trial.candidate.shown['formula']:.3f}",
        "counted": lambda trial: f"{trial.candidate.shown['counted']:.3f}",
        "pixels": lambda trial: str(trial.candidate.recipe.image_size),
        "parameters": lambda trial: f"{trial.result.get('parameters', 0):,}" if trial.accuracy is not None else "",
        **OUTCOME,
    }
    print(table(trials, columns))
    print(
        f"\nbest triple  alpha {alpha:g} (depth), beta {beta:g} (width), gamma {gamma:g} (resolution): "
        f"{best.accuracy:.2%} of the validation images right, spread: {best.spread}\n"
        f"on {baseline.data} at {baseline.image_size} pixels, {best.candidate.recipe.epochs} epochs, "
        f"{options.seeds} seed{'s' * (options.seeds > 1)}; it says nothing about other data or longer training\n"
        f"written to   {folder / 'coefficients.json'}\n"
        f"TensorBoard  tensorboard --logdir {folder}"
    )


OUTCOME = {
    "accuracy": lambda trial: "failed" if trial.accuracy is None else f"{trial.accuracy:.2%}",
    "spread": lambda trial: trial.spread if trial.accuracy is not None else trial.result["failed"][:60],
}


def found_networks(folder, options, search):
    """The feasible networks of a search, counted once and kept in its folder, where its workers find them."""
    file = folder / "networks.json"
    while (rows := read_json(file)) is None and options.role == "worker":
        time.sleep(1)
    if rows is None:
        try:
            networks = search()
        except UserError:  # nothing fits: the folder that was made for it goes again
            (folder / "search.json").unlink()
            folder.rmdir()
            raise
        write_json(file, networks)
        return networks
    return [Network(tuple(map(tuple, triples)), multiply_adds) for triples, multiply_adds in rows]


def triple_of(trial):
    return tuple(trial.candidate.shown[field] for field in ("alpha", "beta", "gamma"))


def triple_from(words):
    """A triple from "1.2/1.1/1.15"."""
    try:
        alpha, beta, gamma = map(float, words.split("/"))
    except ValueError:
        raise UserError(f"--triples {words}: each must be three numbers, as 1.2/1.1/1.15.") from None
    if min(alpha, beta, gamma) < 1:
        raise UserError(f"--triples {words}: each number must be at least 1.")
    return alpha, beta, gamma


def scale_command(options: Namespace):
    triple = read_coefficients(options.coefficients)
    try:
        baseline = Recipe(**read_json(options.coefficients)["baseline"])
    except (KeyError, TypeError):
        raise UserError(
            f"{options.coefficients} has no baseline. Write it with `python -m tuning compound`, or train a recipe of "
            "yours with `python -m training fit RECIPE --coefficients`."
        ) from None
    phis = sorted(set(options.phi))
    folder, classes = begin("scale", baseline, options, triple=triple, phi=phis)
    candidates = [Candidate(f"phi{phi:g}", scale(baseline, *triple, phi), {"phi": phi}) for phi in phis]
    trials = search_list(folder, classes, candidates, options)
    if not trials:
        return
    columns = {
        "phi": lambda trial: f"{trial.candidate.shown['phi']:g}",
        "pixels": lambda trial: str(trial.candidate.recipe.image_size),
        "multiply-adds": lambda trial: f"{trial.result.get('multiply_adds', 0):,}",
        "parameters": lambda trial: f"{trial.result.get('parameters', 0):,}",
        **OUTCOME,
        "recipe for `training fit`": lambda trial: str(write_recipe(trial)),
    }
    print(table(sorted(trials, key=lambda trial: trial.candidate.shown["phi"]), columns))


def write_recipe(trial):
    """Writes the recipe of a trial into its folder, for `python -m training fit`, and returns the file."""
    file = trial.folder / "recipe.json"
    file.write_text(trial.candidate.recipe.to_json())
    return file


def dimensions(options: Namespace):
    baseline = baseline_from(options)
    triple = read_coefficients(options.coefficients) if options.coefficients else PAPER
    root = math.sqrt(2)
    ways = {"width": (1.0, root, 1.0), "depth": (2.0, 1.0, 1.0), "resolution": (1.0, 1.0, root), "compound": triple}
    phis = sorted(set(options.phi))
    folder, classes = begin("dimensions", baseline, options, triple=triple, phi=phis)
    names = ("depth", "width", "resolution")

    def candidate(way, factors, phi):
        grown = dict(zip(names, (factor**phi for factor in factors), strict=True))
        label = f"{way}_phi{phi:g}" if phi else way
        return Candidate(label, scale(baseline, *factors, phi), {"dimension": way, "phi": phi} | grown)

    candidates = [candidate(way, factors, phi) for (way, factors), phi in itertools.product(ways.items(), phis) if phi]
    if 0.0 in phis:  # the baseline is where all curves begin, and is trained once
        candidates.insert(0, candidate("baseline", (1.0, 1.0, 1.0), 0.0))
    trials = search_list(folder, classes, candidates, options)
    if not trials:
        return
    trials = [trial for trial in trials if trial.accuracy is not None]
    curves = {
        way: [
            Point(trial.result["multiply_adds"], tuple(trial.result["accuracies"]), factor(way, trial.candidate.shown))
            for trial in trials
            if trial.candidate.shown["dimension"] in (way, "baseline")
        ]
        for way in ways
    }
    columns = {
        "dimension": lambda trial: trial.candidate.shown["dimension"],
        "phi": lambda trial: f"{trial.candidate.shown['phi']:g}",
        "multiply-adds": lambda trial: f"{trial.result['multiply_adds']:,}",
        **OUTCOME,
    }
    print(table(sorted(trials, key=lambda trial: (trial.candidate.label, trial.candidate.shown["phi"])), columns))
    for title, draw in (("figure3", figure_3), ("figure8", figure_8)):
        print(f"{title}      {save_figure(draw(curves), folder, title)}")
    print(f"TensorBoard  tensorboard --logdir {folder}")


def factor(way, shown):
    """How the paper marks a point of a curve: d=2 for twice the depth."""
    return f"{way[0]}={shown[way]:.3g}" if way in shown else f"phi={shown['phi']:g}"


def recipe(options: Namespace):
    baseline = baseline_from(options)
    space = SPACES[options.space]
    hp = keras_tuner.HyperParameters()
    space(hp, baseline)  # tells keras-tuner the names and ranges
    trials_at_most = {} if options.oracle == "hyperband" else {"max_trials": options.max_trials}
    folder, classes = begin("recipe", baseline, options, space=options.space, oracle=options.oracle, **trials_at_most)

    def candidate(values):
        drawn = keras_tuner.HyperParameters.from_config(hp.get_config())
        drawn.values = dict(values)
        return Candidate(options.space, space(drawn, baseline), dict(values))

    trials = run_search(
        Search(
            folder=folder,
            hyperparameters=hp,
            candidate=candidate,
            oracle=options.oracle,
            trials=options.max_trials,
            epochs=baseline.epochs,
            seeds=options.seeds,
            classes=classes,
            seed=baseline.seed,
        ),
        role=options.role,
    )
    if not trials:
        return
    best = trials[0]
    (folder / "recipe.json").write_text(best.candidate.recipe.to_json())
    fields = list(best.candidate.shown)
    columns = {field: lambda trial, field=field: show(trial.candidate.shown.get(field)) for field in fields}
    print(table(trials, columns | OUTCOME))
    print(
        f"\nbest recipe  {folder / 'recipe.json'}: {best.accuracy:.2%} of the validation images right, spread: "
        f"{best.spread}\ntrain it     python -m training fit {folder / 'recipe.json'}\n"
        f"TensorBoard  tensorboard --logdir {folder}"
    )


def show(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


COMMANDS = {"compound": compound, "scale": scale_command, "dimensions": dimensions, "recipe": recipe}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
