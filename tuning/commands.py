"""What the commands do: from checked options to a search, its table and its files."""

import dataclasses
import itertools
import math
import time
from pathlib import Path
from typing import NamedTuple

import keras_tuner
from jsonargparse import Namespace

from training.data import load_data
from training.errors import UserError
from training.machine import resolve
from training.recipe import Recipe
from training.scaling import read_coefficients, scale
from tuning.compound import Network, baseline_multiply_adds, feasible, formula, name
from tuning.figure import Point, figure_3, figure_8
from tuning.folder import check_folder, digest, read_json, read_record, write_json, write_text
from tuning.search import Candidate, Search, run_search, save_figure, table
from tuning.spaces import SPACES

PAPER = (1.2, 1.1, 1.15)  # Tan & Le 2019, section 3.3
NETWORKS = "networks.json"  # in the search folder: the feasible networks, which take minutes to count
PATIENCE = 60  # seconds that a worker waits for a file of its chief to appear in the shared folder


class Place(NamedTuple):
    """Where a search works, and on what."""

    folder: Path
    settings: dict  # JSON values that decide the search
    classes: int


def begin(command, baseline, options, **settings):
    """Check the baseline, the data and the folder of a search before anything is written, and return its `Place`."""
    resolve(baseline)
    dataclasses.replace(baseline, seed=baseline.seed + options.seeds - 1)
    classes = len(load_data(baseline, download=options.download).class_names)
    settings |= {"command": command, "recipe": dataclasses.asdict(baseline), "seeds": options.seeds}
    folder = Path(options.search or f"runs/{command}-{baseline.name}-{digest(settings)}")
    check_folder(folder, settings, replaces(options))
    return Place(folder, settings, classes)


def replaces(options):
    """Whether this process replaces the search that the folder has; a worker never does."""
    return options.overwrite and options.role != "worker"


def search_list(place, candidates, options, *, oracle="exhaustive", epochs=1, seed=0, files=None):
    """Search a list of candidates; every number of the list is a point of the space."""
    hp = keras_tuner.HyperParameters()
    hp.Int("candidate", 0, len(candidates) - 1)
    return run_search(
        Search(
            **place._asdict(),
            hyperparameters=hp,
            candidate=lambda values: candidates[values["candidate"]],
            oracle=oracle,
            trials=min(options.max_trials, len(candidates)),
            epochs=epochs,
            seeds=options.seeds,
            seed=seed,
            files=files or {},
        ),
        role=options.role,
        overwrite=replaces(options),
    )


def compound(options: Namespace):
    baseline, triples = options.baseline, options.triples
    rules = {field: options[field] for field in ("rule", "budget", "tolerance", "step")}
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
    place = begin("compound", baseline, options, **rules, triples=triples, **more)
    folder, _, classes = place
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
        place,
        candidates,
        options,
        oracle=options.oracle,
        epochs=baseline.epochs,
        seed=baseline.seed,
        files={NETWORKS: {"networks": networks}},
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
        "parameters": lambda trial: number(trial, "parameters"),
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


def number(trial, name):
    """Return a number of a trial's result as text; none of one that failed."""
    return f"{trial.result[name]:,}" if name in trial.result else ""


def found_networks(folder, options, search):
    """Return the feasible networks of a search: from its folder where it has them, else counted."""
    for _ in range(PATIENCE if options.role == "worker" else 1):
        kept = None if replaces(options) else read_record(folder / NETWORKS)
        if kept:
            return [Network(tuple(map(tuple, triples)), multiply_adds) for triples, multiply_adds in kept["networks"]]
        if options.role == "worker":
            time.sleep(1)
    if options.role == "worker":
        raise UserError(f"{folder / NETWORKS} is missing. Give this worker the chief's command line and folder.")
    return search()


def triple_of(trial):
    return tuple(trial.candidate.shown[field] for field in ("alpha", "beta", "gamma"))


def scale_command(options: Namespace):
    triple = read_coefficients(options.coefficients)
    try:
        baseline = Recipe(**read_json(options.coefficients)["baseline"])
    except UserError as error:
        raise UserError(f"{options.coefficients}: the baseline is wrong: {error}") from error
    except (KeyError, TypeError):
        raise UserError(
            f"{options.coefficients} has no baseline. Write it with `python -m tuning compound`, or train a recipe of "
            "yours with `python -m training fit RECIPE --coefficients`."
        ) from None
    phis = sorted(set(options.phi))
    candidates = [Candidate(f"phi{phi:g}", scale(baseline, *triple, phi), {"phi": phi}) for phi in phis]
    trials = search_list(begin("scale", baseline, options, triple=triple, phi=phis), candidates, options)
    if not trials:
        return
    columns = {
        "phi": lambda trial: f"{trial.candidate.shown['phi']:g}",
        "pixels": lambda trial: str(trial.candidate.recipe.image_size),
        "multiply-adds": lambda trial: number(trial, "multiply_adds"),
        "parameters": lambda trial: number(trial, "parameters"),
        **OUTCOME,
        "recipe for `training fit`": lambda trial: str(write_recipe(trial)),
    }
    print(table(sorted(trials, key=lambda trial: trial.candidate.shown["phi"]), columns))


def write_recipe(trial):
    """Write the recipe of a trial into its folder, for `python -m training fit`, and return the file."""
    file = trial.folder / "recipe.json"
    write_text(file, trial.candidate.recipe.to_json())
    return file


def dimensions(options: Namespace):
    baseline = options.baseline
    triple = read_coefficients(options.coefficients) if options.coefficients else PAPER
    root = math.sqrt(2)
    ways = {"width": (1.0, root, 1.0), "depth": (2.0, 1.0, 1.0), "resolution": (1.0, 1.0, root), "compound": triple}
    phis = sorted(set(options.phi))
    names = ("depth", "width", "resolution")

    def candidate(way, factors, phi):
        grown = dict(zip(names, (factor**phi for factor in factors), strict=True))
        label = f"{way}_phi{phi:g}" if phi else way
        return Candidate(label, scale(baseline, *factors, phi), {"dimension": way, "phi": phi} | grown)

    candidates = [candidate(way, factors, phi) for (way, factors), phi in itertools.product(ways.items(), phis) if phi]
    if 0.0 in phis:  # the baseline is where all curves begin, and is trained once
        candidates.insert(0, candidate("baseline", (1.0, 1.0, 1.0), 0.0))
    place = begin("dimensions", baseline, options, triple=triple, phi=phis)
    trials = search_list(place, candidates, options)
    if not trials:
        return
    curves = {
        way: [
            Point(trial.result["multiply_adds"], tuple(trial.result["accuracies"]), factor(way, trial.candidate.shown))
            for trial in trials
            if trial.candidate.shown["dimension"] in (way, "baseline") and trial.accuracy is not None
        ]
        for way in ways
    }
    columns = {
        "dimension": lambda trial: trial.candidate.shown["dimension"],
        "phi": lambda trial: f"{trial.candidate.shown['phi']:g}",
        "multiply-adds": lambda trial: number(trial, "multiply_adds"),
        **OUTCOME,
    }
    print(table(sorted(trials, key=lambda trial: (trial.candidate.label, trial.candidate.shown["phi"])), columns))
    for title, draw in (("figure3", figure_3), ("figure8", figure_8)):
        print(f"{title}      {save_figure(draw(curves), place.folder, title)}")
    print(f"TensorBoard  tensorboard --logdir {place.folder}")


def factor(way, shown):
    """Return how the paper marks a point of a curve: d=2 for twice the depth."""
    return f"{way[0]}={shown[way]:.3g}" if way in shown else f"phi={shown['phi']:g}"


def recipe(options: Namespace):
    baseline = options.baseline
    space = SPACES[options.space]
    hp = keras_tuner.HyperParameters()
    space(hp, baseline).with_known_network()  # tells keras-tuner the names and ranges
    trials_at_most = {} if options.oracle == "hyperband" else {"max_trials": options.max_trials}
    place = begin("recipe", baseline, options, space=options.space, oracle=options.oracle, **trials_at_most)

    def candidate(values):
        drawn = keras_tuner.HyperParameters.from_config(hp.get_config())
        drawn.values = dict(values)
        return Candidate(options.space, space(drawn, baseline), dict(values))

    trials = run_search(
        Search(
            **place._asdict(),
            hyperparameters=hp,
            candidate=candidate,
            oracle=options.oracle,
            trials=options.max_trials,
            epochs=baseline.epochs,
            seeds=options.seeds,
            seed=baseline.seed,
        ),
        role=options.role,
        overwrite=replaces(options),
    )
    if not trials:
        return
    best, folder = trials[0], place.folder
    write_text(folder / "recipe.json", best.candidate.recipe.to_json())
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
