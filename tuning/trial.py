"""One trial: a candidate is trained with each seed, and its result is kept in its own folder."""

import contextlib
import dataclasses
import fcntl
import os
import signal
import statistics

import keras
from tensorboard.plugins.hparams import api as hparams

import keras_cnns
from training import run as runs
from training.dashboards import Log
from training.errors import DivergedError, OutOfMemoryError, StateError, UserError, explained
from tuning.folder import read_json, read_record, report_unusable, write_record
from tuning.oracles import OBJECTIVE

MAX_DEATHS = 2  # a trial whose process died this often without saving a new state in between has failed


def train_candidate(candidate, folder, *, seeds, classes):
    """Return what a candidate costs and reaches, from its folder or by training it there.

    Args:
        candidate: The candidate.
        folder: The trial's folder.
        seeds: How often the candidate is trained, with consecutive seeds.
        classes: Number of classes.

    Returns:
        JSON values: "val_accuracy", the mean over the seeds, "accuracies", "parameters", "multiply_adds", "pixels" and
        "runs"; or {"failed": reason}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "result.json"
    # Oracles may give equal values to two workers: the second one waits here for the result of the first.
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = read_record(file)
        if result is None:
            if file.exists():
                report_unusable(file, "the result is taken from the trial's runs again")
            result = measure(candidate, folder, seeds, classes)
            show_in_tensorboard(folder, candidate, result)
            write_record(file, result)
    return result


def measure(candidate, folder, seeds, classes):
    """Train a candidate with each seed and return its result, as `train_candidate` does."""
    begun, deaths = folder / "begun.json", count_deaths(folder)
    retry = f"Delete {folder / 'result.json'} to try it again"
    if deaths >= MAX_DEATHS:
        begun.unlink()
        return {"failed": f"its process died {deaths} times without a new state; was the memory too small? {retry}"}
    write_record(begun, {"deaths": deaths, "saved": saved_files(folder)})
    print(f"trial {candidate.label}", flush=True)
    run = folder
    try:
        with signals_recorded(begun):
            cost = keras_cnns.complexity(candidate.recipe.build(classes))
            accuracies, runs_trained = [], []
            for number in range(seeds):
                recipe = dataclasses.replace(candidate.recipe, seed=candidate.recipe.seed + number)
                run = folder / f"seed{recipe.seed}"
                accuracies.append(train(recipe, run))
                runs_trained.append(str(run.relative_to(folder.parent.parent)))
        return {
            OBJECTIVE: statistics.mean(accuracies),
            "accuracies": accuracies,
            "parameters": cost.parameters,
            "multiply_adds": cost.multiply_adds,
            "pixels": candidate.recipe.image_size,
            "runs": runs_trained,
        }
    except Exception as error:
        known, has_run = explained(error), (run / "recipe.json").exists()
        # Failures that the candidate itself caused. A full disk, broken images or a changed machine end the search:
        # the same command tries the trial again.
        if isinstance(known, DivergedError | OutOfMemoryError) or (isinstance(error, UserError) and not has_run):
            return {"failed": f"{known} {retry}"}
        if isinstance(error, UserError | StateError):
            raise type(error)(f"{error} In a search, delete {run} to train this trial again.") from error
        raise
    finally:
        begun.unlink(missing_ok=True)


def train(recipe, folder):
    """Train a recipe in a run folder, or resume it there, and return the validation accuracy of its best epoch."""
    keras.backend.clear_session()  # frees the networks of earlier trials
    run = runs.fit(recipe, folder, options=runs.FitOptions(picture_epochs=0, hparams_row=False, export=False))
    metrics = read_json(run.metrics)
    try:
        return float(metrics["history"][metrics["best_epoch"] - 1][OBJECTIVE])
    except (LookupError, TypeError, ValueError) as error:
        raise StateError(f"{run.metrics} is damaged.") from error


def count_deaths(folder):
    """Return how often the process of a trial was killed since the trial's runs last saved a state.

    begun.json exists while a trial is trained. If it still exists later, the process was killed, unless a signal was
    appended to the file: then the process was asked to stop.
    """
    begun = read_record(folder / "begun.json")
    return begun["deaths"] + 1 if begun and begun["saved"] == saved_files(folder) else 0


def saved_files(folder):
    """Return the names of the states that a trial's runs have saved, and of the metrics of finished runs."""
    files = [*folder.glob("seed*/states/*.safetensors"), *folder.glob("seed*/metrics.json")]
    return sorted(str(file.relative_to(folder)) for file in files)


@contextlib.contextmanager
def signals_recorded(file):
    """Append each signal that this process handles to a file, as soon as it arrives.

    Python's handlers run only after the current training step, which may take minutes.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    former = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        os.close(descriptor)


def show_in_tensorboard(folder, candidate, result):
    """Write the trial's row of TensorBoard's HParams."""
    numbers = {f"trial/{name}": value for name, value in result.items() if isinstance(value, int | float)}
    log = Log(folder)
    with log.at(0, "hparams"):
        hparams.hparams(candidate.shown, trial_id=folder.name)
    log.scalars(0, numbers, "hparams")
    log.flush()
