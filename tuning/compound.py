"""`compound`: train the networks that fit a budget and find the best triple (Tan & Le 2019, section 3.3)."""

import dataclasses
import functools
import json

from training.scaling import scale
from tuning.budget import baseline_multiply_adds, feasible, formula, triple_text
from tuning.report import OUTCOME, Report, cost, table
from tuning.study import Candidate, Study, list_space

COEFFICIENTS = ("alpha", "beta", "gamma")
RULES = ("rule", "budget", "tolerance", "step")


def study(baseline, classes, *, rule, budget, tolerance, step, triples, oracle, max_trials):
    """Return the study of the networks that fit a budget.

    Args:
        baseline: The baseline recipe.
        classes: Number of classes of its data.
        rule, budget, tolerance, step, triples: What fits, as for `feasible`.
        oracle: "exhaustive", "bayesian" or "hyperband".
        max_trials: Maximum number of trials of "bayesian".
    """
    rules = {"rule": rule, "budget": budget, "tolerance": tolerance, "step": step, "triples": triples}
    return Study(
        "compound",
        baseline,
        classes,
        settings=rules | {"oracle": oracle} | ({"max_trials": max_trials} if oracle == "bayesian" else {}),
        space=functools.partial(network_space, baseline, classes),
        oracle=oracle,
        max_trials=max_trials,
        networks=functools.partial(feasible, baseline, classes, **rules),
    )


def network_space(baseline, classes, networks):
    """Return the space of a list of networks, as `feasible` returned it or as JSON values of the same."""
    baseline_cost = baseline_multiply_adds(baseline, classes)
    candidates = []
    for triples, multiply_adds in networks:
        alpha, beta, gamma = triples[0]
        shown = {
            "alpha": alpha,
            "beta": beta,
            "gamma": gamma,
            "formula": formula(triples[0]),
            "counted": multiply_adds / baseline_cost,
        }
        label = f"alpha{alpha:g}_beta{beta:g}_gamma{gamma:g}"
        candidates.append(Candidate(label, scale(baseline, alpha, beta, gamma), shown, triples))
    return list_space(candidates)


def listing(study):
    """Return the text that lists the networks of a study and what they cost, without training."""
    baseline_cost, networks = baseline_multiply_adds(study.baseline, study.classes), study.networks()
    columns = {
        "depth/width/resolution": lambda network: ", ".join(map(triple_text, network.triples)),
        "formula": lambda network: f"{formula(network.triples[0]):.3f}",
        "counted": lambda network: f"{network.multiply_adds / baseline_cost:.3f}",
    }
    count = sum(len(network.triples) for network in networks)
    summary = f"{count} triples, {len(networks)} networks; the baseline has {baseline_cost:,} multiply-adds"
    return f"{table(networks, columns)}\n{summary}"


def report(study, trials, folder):
    """Return the report on a study of networks: the table of trials, the best triple, and coefficients.json."""
    baseline, best = study.baseline, trials[0]
    alpha, beta, gamma = (best.candidate.shown[name] for name in COEFFICIENTS)
    seeds = len(best.result["accuracies"])
    columns = {
        "depth/width/resolution": lambda trial: ", ".join(map(triple_text, trial.candidate.triples)),
        "formula": lambda trial: f"{trial.candidate.shown['formula']:.3f}",
        "counted": lambda trial: f"{trial.candidate.shown['counted']:.3f}",
        "pixels": lambda trial: str(trial.candidate.recipe.image_size),
        "parameters": cost("parameters"),
        **OUTCOME,
    }
    text = (
        f"{table(trials, columns)}\n\n"
        f"best triple  alpha {alpha:g} (depth), beta {beta:g} (width), gamma {gamma:g} (resolution): "
        f"validation accuracy {best.accuracy:.2%}, spread: {best.spread}\n"
        f"on {baseline.data} at {baseline.image_size} pixels, {best.candidate.recipe.epochs} epochs, "
        f"{seeds} seed{'s' * (seeds > 1)}; this says nothing about other data or longer training\n"
        f"written to   {folder / 'coefficients.json'}\n"
        f"TensorBoard  tensorboard --logdir {folder}"
    )
    return Report(text, {"coefficients.json": json.dumps(coefficients(study, trials), indent=2) + "\n"})


def coefficients(study, trials):
    """Return the JSON values of coefficients.json: the best triple, what it was compared with, and the baseline."""
    best = trials[0]
    return {
        **{name: best.candidate.shown[name] for name in COEFFICIENTS},
        "val_accuracy": best.accuracy,
        "accuracies": best.result["accuracies"],
        "multiply_adds": best.result["multiply_adds"],
        "baseline_multiply_adds": baseline_multiply_adds(study.baseline, study.classes),
        **{name: study.settings[name] for name in RULES},
        "baseline": dataclasses.asdict(study.baseline),
        "trials": [
            trial.candidate.shown
            | {"triples": trial.candidate.triples, "folder": trial.folder.name}
            | {"epochs": trial.candidate.recipe.epochs}
            | trial.result
            for trial in trials
        ],
    }
