"""A search: keras-tuner's oracles say what to try, `training.run.fit` tries it, files keep what came out.

What a trial gave is in its own folder, named by its recipe. keras-tuner's files only say where the search is: when
they are damaged the search is asked anew, and every trial that is done answers at once.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import keras_tuner
import tensorflow as tf
from keras_tuner.engine.base_tuner import BaseTuner
from tensorboard.plugins.hparams import api as hparams

import keras_cnns
from training import run as runs
from training.checkpoint import atomic, locked
from training.dashboards import Log, png
from training.errors import DivergedError, StateError, UserError, out_of_memory
from training.recipe import Recipe

DEATHS = 2  # after so many ends of its process a trial is not tried again
OBJECTIVE = "val_accuracy"


class Candidate(NamedTuple):
    """What a trial trains."""

    label: str  # the trial's folder begins with it
    recipe: Recipe
    shown: dict[str, Any]  # {column of TensorBoard's HParams: number or string}


class Trial(NamedTuple):
    """What came out of a trial."""

    candidate: Candidate
    folder: Path
    result: dict[str, Any]  # what `train_candidate` wrote; {"failed": reason} of one that failed

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
        hyperparameters: The space.
        candidate: A function (values of the hyperparameters) -> `Candidate`.
        oracle: "exhaustive", "random", "bayesian" or "hyperband".
        trials: How many trials at most; hyperband and exhaustive have their own number.
        epochs: The most epochs of a trial, for hyperband.
        seeds: How often each candidate is trained, with consecutive seeds.
        classes: Number of classes of the data.
        seed: Seed of the oracle.
    """

    folder: Path
    hyperparameters: keras_tuner.HyperParameters
    candidate: Callable[[dict[str, Any]], Candidate]
    oracle: str
    trials: int
    epochs: int
    seeds: int
    classes: int
    seed: int = 0


class Durable:
    """What all oracles here share: files that are whole whenever the process ends, and no limit on failures."""

    def save(self):
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial):
        write_json(Path(self._get_trial_dir(trial.trial_id)) / "trial.json", trial.get_state())


class ExhaustiveOracle(Durable, keras_tuner.Oracle):
    """Tries every value of the one hyperparameter, in order."""

    def populate_space(self, trial_id):
        (candidate,) = self.hyperparameters.space
        number = candidate.min_value + len(self.start_order)
        if number <= candidate.max_value:
            return {"status": "RUNNING", "values": {candidate.name: number}}
        return {"status": "IDLE" if self.ongoing_trials else "STOPPED", "values": None}


class RandomOracle(Durable, keras_tuner.oracles.RandomSearchOracle):
    """Random values."""


class BayesianOracle(Durable, keras_tuner.oracles.BayesianOptimizationOracle):
    """Values where a Gaussian process expects the best."""


class HyperbandOracle(Durable, keras_tuner.oracles.HyperbandOracle):
    """Many trials of few epochs, of which the best are trained longer."""


def make_oracle(search):
    """The oracle that a search names."""
    common = {
        "objective": keras_tuner.Objective(OBJECTIVE, "max"),
        "hyperparameters": search.hyperparameters,
        "tune_new_entries": False,
        "seed": search.seed + 1,  # keras-tuner takes 0 for none
        "max_consecutive_failed_trials": sys.maxsize,
    }
    if search.oracle == "exhaustive":
        return ExhaustiveOracle(**common)
    if search.oracle == "hyperband":
        return HyperbandOracle(max_epochs=search.epochs, **common)
    return {"random": RandomOracle, "bayesian": BayesianOracle}[search.oracle](max_trials=search.trials, **common)


class Tuner(BaseTuner):
    """Asks the oracle, trains, tells the oracle."""

    def __init__(self, searched, oracle):
        self.searched = searched
        # keras-tuner takes a search up only where this process's own file is there.
        state = searched.folder / f"{os.environ.get('KERASTUNER_TUNER_ID', 'tuner0')}.json"
        if (searched.folder / "oracle.json").exists() and not state.exists():
            write_json(state, {})
        super().__init__(oracle, directory=str(searched.folder.parent), project_name=searched.folder.name)
        oracle.verbose = 0
        self.save()

    def save(self):
        write_json(self._get_tuner_fname(), self.get_state())

    def search(self, chief=False):
        """Searches to the end; the chief of several processes only answers the others."""
        if chief:
            super().search(verbose=0)
            return
        while (trial := self.oracle.create_trial(self.tuner_id)).status != "STOPPED":
            if trial.status == "IDLE":
                time.sleep(0.2)  # others still train; the chief gives up 20 s where one asks a second late
                continue
            try:
                accuracy = train_candidate(self.searched, make_candidate(self.searched, trial))
                self.oracle.update_trial(trial.trial_id, {OBJECTIVE: accuracy})
                trial.status = "COMPLETED"
            except keras_tuner.errors.FailedTrialError as error:
                print(f"failed: {error}; the search goes on", file=sys.stderr)
                trial.status, trial.message = "FAILED", str(error)
            self.oracle.end_trial(trial)


def make_candidate(search, trial):
    """The candidate of a trial of keras-tuner.

    Raises:
        FailedTrialError: The values make no recipe.
    """
    values = dict(trial.hyperparameters.values)
    epochs = values.get("tuner/epochs")
    try:
        candidate = search.candidate({name: value for name, value in values.items() if not name.startswith("tuner/")})
        if epochs:
            # A trial that goes on to the next round is trained anew: its schedule depends on the number of epochs.
            recipe = candidate.recipe
            warmup = recipe.warmup_epochs * epochs / recipe.epochs
            candidate = candidate._replace(recipe=dataclasses.replace(recipe, epochs=epochs, warmup_epochs=warmup))
        return candidate
    except UserError as error:
        raise keras_tuner.errors.FailedTrialError(str(error)) from error


def trial_folder(search, candidate):
    """Where a candidate is trained."""
    return search.folder / "trials" / f"{candidate.label}-{candidate.recipe.digest}"


def train_candidate(search, candidate):
    """Trains a candidate with each seed and returns its mean validation accuracy.

    Raises:
        FailedTrialError: It diverged, does not fit into memory, cannot be built, or ended its process twice.
    """
    folder = trial_folder(search, candidate)
    result = read_json(folder / "result.json")
    if result is None:
        folder.mkdir(parents=True, exist_ok=True)
        result = measure(search, candidate, folder)
        show_in_tensorboard(folder, candidate, result)
        write_json(folder / "result.json", result)
    if "failed" in result:
        raise keras_tuner.errors.FailedTrialError(f"{folder.name}: {result['failed']}")
    return result[OBJECTIVE]


def measure(search, candidate, folder):
    """Trains a candidate with each seed: what it costs and reaches, or {"failed": reason}."""
    # What is left of this file tells that the process was killed: every other end removes it.
    begun = folder / "begun.json"
    deaths = read_json(begun) or 0
    if deaths >= DEATHS:
        return {"failed": f"its process died {deaths} times; was the memory too small?"}
    write_json(begun, deaths + 1)
    print(f"trial {candidate.label}", flush=True)
    try:
        try:
            cost = keras_cnns.complexity(candidate.recipe.build(search.classes))
        except UserError as error:
            return {"failed": f"cannot be built: {error}"}
        accuracies, folders = [], []
        for number in range(search.seeds):
            recipe = dataclasses.replace(candidate.recipe, seed=candidate.recipe.seed + number)
            folders.append(str((folder / f"seed{recipe.seed}").relative_to(search.folder)))
            keras.backend.clear_session()  # the networks of earlier trials
            run = runs.fit(recipe, folder / f"seed{recipe.seed}", picture_epochs=0, row=False)
            metrics = json.loads(run.metrics.read_text())
            accuracies.append(metrics["history"][metrics["best_epoch"] - 1][OBJECTIVE])
        return {
            OBJECTIVE: statistics.mean(accuracies),
            "accuracies": accuracies,
            "parameters": cost.parameters,
            "multiply_adds": cost.multiply_adds,
            "pixels": candidate.recipe.image_size,
            "runs": folders,
        }
    except DivergedError as error:
        return {"failed": str(error)}
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        return {"failed": out_of_memory(error)}
    finally:
        begun.unlink(missing_ok=True)


def show_in_tensorboard(folder, candidate, result):
    """Writes the trial's row of TensorBoard's HParams."""
    figures = {name: value for name, value in result.items() if isinstance(value, int | float)}
    log = Log(folder)
    with log.at(0, "hparams"):
        hparams.hparams(candidate.shown, trial_id=folder.name)
    log.scalars(0, {f"trial/{name}": value for name, value in figures.items()}, "hparams")
    log.flush()


def save_figure(figure, folder, name):
    """Writes a figure of matplotlib as NAME.png and as an image of TensorBoard, and returns the file."""
    file, content = folder / f"{name}.png", png(figure)
    with atomic(file) as temporary:
        temporary.write_bytes(content)
    log = Log(folder)
    with log.at(0, "figures"):
        tf.summary.image(name, tf.io.decode_png(content, channels=3)[tf.newaxis])
    log.flush()
    return file


def run_search(search, *, role="alone"):
    """Searches to the end and returns the trials, the best first and the failed ones last.

    Args:
        search: The search; `prepare_folder` has made its folder.
        role: "alone", "chief", which only answers workers, or "worker", which returns no trials.

    Raises:
        StateError: Every trial failed.
    """
    if role == "worker":
        Tuner(search, make_oracle(search)).search()
        return []
    with locked(search.folder):
        remove_damaged_state(search.folder)
        tuner = Tuner(search, make_oracle(search))
        tuner.search(chief=role == "chief")
    # Different values may make the same candidate: it is one trial.
    trials = {trial.folder: trial for trial in (outcome(search, trial) for trial in tuner.oracle.trials.values())}
    done = [trial for trial in trials.values() if trial.accuracy is not None]
    failed = [trial for trial in trials.values() if trial.accuracy is None]
    if not done:
        raise StateError(
            f"{search.folder}: every trial failed, the first because: {failed[0].result['failed']} "
            "Mend the baseline recipe and pass --overwrite."
        )
    return sorted(done, key=lambda trial: (-trial.accuracy, trial.result["multiply_adds"])) + failed


def outcome(search, trial):
    """What came out of a trial of keras-tuner."""
    try:
        candidate = make_candidate(search, trial)
    except keras_tuner.errors.FailedTrialError as error:
        candidate = Candidate(f"trial {trial.trial_id}", None, dict(trial.hyperparameters.values))
        return Trial(candidate, search.folder / trial.trial_id, {"failed": str(error)})
    folder = trial_folder(search, candidate)
    return Trial(candidate, folder, read_json(folder / "result.json") or {"failed": trial.message or "not finished"})


def prepare_folder(folder, settings, overwrite=False):
    """Makes a search folder, or checks that it holds the same search.

    Args:
        folder: The folder.
        settings: JSON values that decide the search.
        overwrite: Whether to remove the search that it holds.

    Raises:
        UserError: The folder holds another search, or something else.
    """
    file = folder / "search.json"
    if overwrite and file.exists():
        shutil.rmtree(folder)
    there = read_json(file)
    if there is not None and (different := runs.differences(fields(there), fields(json.loads(json.dumps(settings))))):
        raise UserError(
            f"{folder} holds a search with other settings ({'; '.join(different)}). Pass another --search, or "
            "--overwrite."
        )
    if not file.exists() and folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} holds files but no search. Pass another --search.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)


def fields(settings):
    """Settings in the order of their names, the recipe's fields among them as recipe.NAME."""
    flat = {name: value for name, value in settings.items() if name != "recipe"}
    flat |= {f"recipe.{name}": value for name, value in settings.get("recipe", {}).items()}
    return dict(sorted(flat.items()))


def remove_damaged_state(folder):
    """Removes keras-tuner's files where one of them is damaged; the trials' own files stay."""
    files = [*folder.glob("trial_*/trial.json"), *folder.glob("tuner*.json"), *folder.glob("chief.json")]
    oracle = folder / "oracle.json"
    files += [oracle] * oracle.exists()
    damaged = [file for file in files if read_json(file) is None]
    missing = not oracle.exists() and bool(files)
    for file in damaged:
        print(f"{file} is damaged; what the trials gave is kept, the search is gone through anew", file=sys.stderr)
    if damaged or missing:
        for file in files:
            file.unlink()
    elif oracle.exists():
        # A process that is killed between writing the two leaves a trial that the oracle does not know.
        known = read_json(oracle)["start_order"]
        for file in folder.glob("trial_*/trial.json"):
            if file.parent.name.removeprefix("trial_") not in known:
                file.unlink()


def read_json(path):
    """The value in a JSON file; None if it is not there or damaged."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return None


def write_json(path, value):
    """Writes a JSON file that is whole or not there."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def digest(settings):
    """Eight hexadecimal digits that differ where settings differ."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def table(trials, columns):
    """Trials as lines of text.

    Args:
        trials: The trials.
        columns: {heading: function (trial) -> text}
    """
    rows = [list(columns), *([show(trial) for show in columns.values()] for trial in trials)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
