"""A search: keras-tuner's oracles say what to try, `training.run.fit` tries it, files keep what came out.

What a trial gave is in its own folder, named by its recipe. keras-tuner's files only say where the search is: when
they are damaged the search is asked anew, and every trial that is done answers at once.
"""

import contextlib
import dataclasses
import fcntl
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import keras
import keras_tuner
import tensorflow as tf
from keras_tuner.engine.base_tuner import BaseTuner
from tensorboard.plugins.hparams import api as hparams

import keras_cnns
from training import run as runs
from training.checkpoint import atomic, locked
from training.dashboards import Log, png
from training.errors import (
    DivergedError,
    OutOfMemoryError,
    StateError,
    UserError,
    WorkerLostError,
    explained,
)
from training.recipe import Recipe
from tuning import folder as folders
from tuning.folder import read_json, read_record, report_unusable, write_record
from tuning.oracles import OBJECTIVE, make_oracle, prepare_resume

DEATHS = 2  # after so many ends of its process without a new state in between a trial is not tried again


class Candidate(NamedTuple):
    """What a trial trains."""

    label: str  # the trial's folder begins with it
    recipe: Recipe
    shown: dict[str, Any]  # {column of TensorBoard's HParams: number or string}


class Trial(NamedTuple):
    """What came out of a trial."""

    candidate: Candidate
    folder: Path
    result: dict[str, Any]  # what `train_candidate` gave; {"failed": reason} of one that failed

    @property
    def accuracy(self):
        """Mean validation accuracy over the seeds; None of one that failed."""
        return self.result.get(OBJECTIVE)

    @property
    def spread(self):
        """The least and greatest accuracy as text."""
        accuracies = self.result.get("accuracies", [])
        if len(accuracies) < 2:
            return "not measured"
        return f"{min(accuracies):.2%} to {max(accuracies):.2%}"


@dataclass(frozen=True)
class Search:
    """Everything that decides a search.

    Args:
        folder: The search folder.
        settings: JSON values; the folder holds the same search where they are equal.
        hyperparameters: The space.
        candidate: A function (values of the hyperparameters) -> `Candidate`.
        oracle: "exhaustive", "random", "bayesian" or "hyperband".
        trials: How many trials at most; hyperband and exhaustive have their own number.
        epochs: The most epochs of a trial, for hyperband.
        seeds: How often each candidate is trained, with consecutive seeds.
        classes: Number of classes of the data.
        seed: Seed of the oracle.
        files: {name: dictionary} of further files that workers need, written when the search begins.
    """

    folder: Path
    settings: dict[str, Any]
    hyperparameters: keras_tuner.HyperParameters
    candidate: Callable[[dict[str, Any]], Candidate]
    oracle: str
    trials: int
    epochs: int
    seeds: int
    classes: int
    seed: int = 0
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


def oracle_of(search):
    """Return the oracle of a search."""
    return make_oracle(
        search.oracle, search.hyperparameters, trials=search.trials, epochs=search.epochs, seed=search.seed
    )


class Tuner(BaseTuner):
    """Asks the oracle, trains, tells the oracle."""

    def __init__(self, searched, oracle):
        self.searched = searched
        super().__init__(oracle, directory=str(searched.folder.parent), project_name=searched.folder.name)
        oracle.verbose = 0

    def save(self):
        """Write nothing: all that has to be kept is the oracle's, and a worker of a chief reads none of it."""

    def search(self, chief=False):
        """Search to the end; the chief of several processes only answers the others.

        Raises:
            WorkerLostError: The chief does not answer.
        """
        try:
            if chief:
                super().search(verbose=0)
            else:
                self.train_trials()
        except grpc.RpcError as error:
            raise WorkerLostError(
                "The chief no longer answers. Start it again, and then this worker: the search continues from what is "
                "saved."
            ) from error

    def train_trials(self):
        """Train what the oracle asks for until it stops."""
        while (trial := self.oracle.create_trial(self.tuner_id)).status != "STOPPED":
            if trial.status == "IDLE":
                time.sleep(0.2)  # others still train; the chief gives up 20 s where one asks a second late
                continue
            tried = outcome(self.searched, trial)
            if tried.accuracy is None:
                print(f"failed: {tried.folder.name}: {tried.result['failed']}; the search continues", file=sys.stderr)
                trial.status, trial.message = "FAILED", tried.result["failed"]
            else:
                self.oracle.update_trial(trial.trial_id, {OBJECTIVE: tried.accuracy})
                trial.status = "COMPLETED"
            self.oracle.end_trial(trial)


def make_candidate(search, trial):
    """Return the candidate of a trial of keras-tuner.

    Raises:
        UserError: The values make no recipe.
    """
    values = dict(trial.hyperparameters.values)
    epochs = values.get("tuner/epochs")
    candidate = search.candidate({name: value for name, value in values.items() if not name.startswith("tuner/")})
    # A trial that hyperband trains longer is trained anew: its schedule depends on the number of epochs.
    return candidate._replace(recipe=shortened(candidate.recipe, epochs)) if epochs else candidate


def shortened(recipe, epochs):
    """Return a recipe of fewer epochs with the same schedule, every length in epochs shortened alike."""
    share = epochs / recipe.epochs
    return dataclasses.replace(
        recipe,
        epochs=epochs,
        warmup_epochs=recipe.warmup_epochs * epochs / recipe.epochs,
        decay_epochs=recipe.decay_epochs * share,
        milestones=[milestone * share for milestone in recipe.milestones],
    )


def outcome(search, trial):
    """Return what comes out of a trial of keras-tuner, which is trained unless that is known already."""
    try:
        candidate = make_candidate(search, trial)
    except UserError as error:
        candidate = Candidate(f"trial {trial.trial_id}", None, dict(trial.hyperparameters.values))
        return Trial(candidate, search.folder / f"trial_{trial.trial_id}", {"failed": str(error)})
    folder = search.folder / "trials" / f"{candidate.label}-{candidate.recipe.digest}"
    return Trial(candidate, folder, train_candidate(search, candidate, folder))


def train_candidate(search, candidate, folder):
    """Return what a candidate costs and reaches, or {"failed": reason}, from its folder or by training it there."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "result.json"
    # Oracles give equal values to two workers: the second waits here for the first one's result.
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = read_record(file)
        if result is None:
            if file.exists():
                report_unusable(file, "the trial is measured again from its runs")
            result = measure(search, candidate, folder)
            show_in_tensorboard(folder, candidate, result)
            write_record(file, result)
    return result


def measure(search, candidate, folder):
    """Train a candidate with each seed: return what it costs and reaches, or {"failed": reason}."""
    begun, deaths = folder / "begun.json", deaths_of(folder)
    again = f"Delete {folder / 'result.json'} to try it again"
    if deaths >= DEATHS:
        begun.unlink()
        return {"failed": f"its process died {deaths} times without a new state; was the memory too small? {again}"}
    write_record(begun, {"deaths": deaths, "saved": saved_in(folder)})
    print(f"trial {candidate.label}", flush=True)
    run = folder
    try:
        with signals_noted(begun):
            cost = keras_cnns.complexity(candidate.recipe.build(search.classes))
            accuracies, folders = [], []
            for number in range(search.seeds):
                recipe = dataclasses.replace(candidate.recipe, seed=candidate.recipe.seed + number)
                run = folder / f"seed{recipe.seed}"
                keras.backend.clear_session()  # the networks of earlier trials
                accuracies.append(best_accuracy(runs.fit(recipe, run, picture_epochs=0, row=False)))
                folders.append(str(run.relative_to(search.folder)))
        return {
            OBJECTIVE: statistics.mean(accuracies),
            "accuracies": accuracies,
            "parameters": cost.parameters,
            "multiply_adds": cost.multiply_adds,
            "pixels": candidate.recipe.image_size,
            "runs": folders,
        }
    except Exception as error:
        known, began = explained(error), (run / "recipe.json").exists()
        # What the candidate itself is to blame for. A full disk, broken images or a machine that changed end the
        # search: the same command tries the trial again.
        if isinstance(known, DivergedError | OutOfMemoryError) or (isinstance(error, UserError) and not began):
            return {"failed": f"{known} {again}"}
        if isinstance(error, UserError | StateError):
            raise type(error)(f"{error} In a search, delete {run} to train this trial anew.") from error
        raise
    finally:
        begun.unlink(missing_ok=True)


def best_accuracy(run):
    """Return the validation accuracy of the best epoch of a run."""
    metrics = read_json(run.metrics)
    try:
        return float(metrics["history"][metrics["best_epoch"] - 1][OBJECTIVE])
    except (LookupError, TypeError, ValueError) as error:
        raise StateError(f"{run.metrics} is damaged.") from error


def deaths_of(folder):
    """Return how often the process of a trial was killed since a state of its runs was last saved.

    begun.json is there while a trial is trained. After that it is the trace of a process that was killed, unless a
    signal was appended to it: a process that was asked to leave is not dead.
    """
    begun = read_record(folder / "begun.json")
    return begun["deaths"] + 1 if begun and begun["saved"] == saved_in(folder) else 0


def saved_in(folder):
    """Return the names of the states that a trial's runs have saved, and of the runs that are finished."""
    files = [*folder.glob("seed*/states/*.safetensors"), *folder.glob("seed*/metrics.json")]
    return sorted(str(file.relative_to(folder)) for file in files)


@contextlib.contextmanager
def signals_noted(file):
    """Append to a file any signal that asks this process to leave, at once: the middle of a step may last minutes.

    SIGTERM, which would end the process without a word to anybody, ends it in order, as Ctrl-C does.
    """

    def leave(number, frame):
        sys.exit(128 + number)

    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    wakeup = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    former = signal.getsignal(signal.SIGTERM)
    if former == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
        signal.set_wakeup_fd(wakeup)
        os.close(descriptor)


def show_in_tensorboard(folder, candidate, result):
    """Write the trial's row of TensorBoard's HParams."""
    figures = {name: value for name, value in result.items() if isinstance(value, int | float)}
    log = Log(folder)
    with log.at(0, "hparams"):
        hparams.hparams(candidate.shown, trial_id=folder.name)
    log.scalars(0, {f"trial/{name}": value for name, value in figures.items()}, "hparams")
    log.flush()


def save_figure(figure, folder, name):
    """Write a figure of matplotlib as NAME.png and as an image of TensorBoard, and return the file."""
    file, content = folder / f"{name}.png", png(figure)
    with atomic(file) as temporary:
        temporary.write_bytes(content)
    log = Log(folder)
    with log.at(0, "figures"):
        tf.summary.image(name, tf.io.decode_png(content, channels=3)[tf.newaxis])
    log.flush()
    return file


def run_search(search, *, role="alone", overwrite=False):
    """Search to the end and return the trials, the best first and the failed ones last.

    Args:
        search: The search, everything in it checked.
        role: "alone", "chief", which only answers workers, or "worker", which returns no trials.
        overwrite: Whether to replace the search that the folder holds.

    Raises:
        UserError: The folder is in use, or holds something else.
        StateError: Every trial failed.
    """
    if role == "worker":
        Tuner(search, oracle_of(search)).search()
        return []
    folders.check_folder(search.folder, search.settings, overwrite)  # a folder of others gets no lock from here
    with locked(search.folder):
        folders.start(search.folder, search.settings, overwrite)
        for name, values in search.files.items():
            write_record(search.folder / name, values)
        tuner = Tuner(search, oracle_of(search))
        if prepare_resume(search.folder):
            tuner.oracle.reload()
        tuner.search(chief=role == "chief")
        # Different values may make the same candidate: it is one trial.
        trials = {trial.folder: trial for trial in (outcome(search, trial) for trial in tuner.oracle.trials.values())}
    done = [trial for trial in trials.values() if trial.accuracy is not None]
    failed = [trial for trial in trials.values() if trial.accuracy is None]
    if not done:
        raise StateError(
            f"{search.folder}: every trial failed, the first because: {failed[0].result['failed']}. "
            "Change the baseline recipe and pass --overwrite."
        )
    return sorted(done, key=lambda trial: (-trial.accuracy, trial.result["multiply_adds"])) + failed


def table(trials, columns):
    """Return trials as lines of text.

    Args:
        trials: The trials.
        columns: {heading: function (trial) -> text}
    """
    rows = [list(columns), *([show(trial) for show in columns.values()] for trial in trials)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
