"""Several runs of one recipe that differ in the seed: `fit --seeds`."""

import dataclasses
import os
import shutil
import statistics
from pathlib import Path

import keras

from training.dashboards import Log
from training.errors import UserError
from training.intervals import interval
from training.run import fit, summary
from training.run_folder import SEED, TENSORBOARD, holds_run

EXTREMES = {"mean": statistics.mean, "least": min, "greatest": max}
# {name in the logs of an epoch: TensorBoard's tag of the same curve of a single run}
CURVES = {"val_accuracy": "accuracy/main", "val_loss": "loss/main"}


def fit_seeds(recipe, folder, seeds, options):
    """Train a recipe with consecutive seeds, each in a run folder of its own. The same call resumes the runs.

    Args:
        recipe: The recipe; its seed is the first one.
        folder: The folder for the run folders, which also gets the curves of the mean, the least and the greatest
            value for TensorBoard; None for runs/NAME-DIGEST-seeds.
        seeds: Number of runs.
        options: How they are carried out.

    Returns:
        A list of Run.

    Raises:
        UserError: The folder is a run folder, or there are several processes.
        TrainingError: As `fit`.
    """
    folder = Path(folder or f"runs/{recipe.run_name}-seeds")
    if holds_run(folder):
        raise UserError(f"{folder} holds a single run. Pass another --run for several seeds.")
    if "TF_CONFIG" in os.environ:
        raise UserError(f"seeds={seeds}: several processes train one run at a time. Pass --seed instead.")
    runs = []
    for seed in range(recipe.seed, recipe.seed + seeds):
        keras.backend.clear_session()  # frees the networks of earlier runs
        runs.append(fit(dataclasses.replace(recipe, seed=seed), folder / f"{SEED}{seed}", options=options))
        print(summary(runs[-1]), flush=True)
    show_in_tensorboard(folder / TENSORBOARD, [run.results() for run in runs])
    return runs


def show_in_tensorboard(folder, results):
    """Write the mean, the least and the greatest validation accuracy and loss by epoch, and test accuracy.

    Args:
        folder: A folder of event files.
        results: What the runs' metrics.json hold.
    """
    log = Log(folder)
    for name, over in EXTREMES.items():
        shutil.rmtree(folder / name, ignore_errors=True)  # TensorBoard may ignore a second file
        # A callback can end a run early.
        epochs = zip(*(values["history"] for values in results), strict=False)
        for epoch, histories in enumerate(epochs, start=1):
            log.scalars(epoch, {tag: over(logs[key] for logs in histories) for key, tag in CURVES.items()}, name)
        log.scalars(epoch, {"accuracy/test": over(values["test"]["accuracy"] for values in results)}, name)
    log.flush()


def group_summary(runs):
    """Return what several finished runs of a recipe have in common as text."""
    recipe, accuracies = runs[0].recipe, [run.results()["test"]["accuracy"] for run in runs]
    low, high = interval(accuracies)
    lines = [
        f"{recipe.model} on {recipe.data}, {len(runs)} seeds: on average {statistics.mean(accuracies):.2%} of the test "
        f"images right, {min(accuracies):.2%} to {max(accuracies):.2%}"
    ]
    if len(runs) > 1:
        lines.append(f"             the mean of many seeds is from {low:.2%} to {high:.2%} with a confidence of 95 %")
    return "\n".join([*lines, f"TensorBoard  tensorboard --logdir {runs[0].folder.parent}"])
