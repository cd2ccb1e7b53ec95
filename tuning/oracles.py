"""Oracles, which propose the trials of a search, and the files that they resume from.

The oracles are keras-tuner's, and one that tries everything. Their files only say how far a search is: what a trial
gave is in the trial's own folder. Where an oracle's file is damaged, all of them are removed and the oracle starts
again; every finished trial is then answered from its folder.
"""

import sys
from pathlib import Path

import keras_tuner

from tuning.folder import read_record, report_unusable, write_record

OBJECTIVE = "val_accuracy"


class CheckedFiles:
    """Mixin for oracles: write each file atomically and with a digest, so that damage is detected."""

    def save(self):
        write_record(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial):
        write_record(Path(self._get_trial_dir(trial.trial_id)) / "trial.json", trial.get_state())


class ExhaustiveOracle(CheckedFiles, keras_tuner.Oracle):
    """Every value of a single integer hyperparameter, in order."""

    def populate_space(self, trial_id):
        (candidate,) = self.hyperparameters.space
        number = candidate.min_value + len(self.start_order)
        if number <= candidate.max_value:
            return {"status": "RUNNING", "values": {candidate.name: number}}
        return {"status": "IDLE" if self.ongoing_trials else "STOPPED", "values": None}


class RandomOracle(CheckedFiles, keras_tuner.oracles.RandomSearchOracle):
    """Random values."""


class BayesianOracle(CheckedFiles, keras_tuner.oracles.BayesianOptimizationOracle):
    """Values for which a Gaussian process expects the highest accuracy."""


class HyperbandOracle(CheckedFiles, keras_tuner.oracles.HyperbandOracle):
    """Many trials of few epochs, the best of which are trained for longer."""


def make_oracle(name, hyperparameters, *, trials, epochs, seed):
    """Return the oracle of a search.

    Args:
        name: "exhaustive", "random", "bayesian" or "hyperband".
        hyperparameters: The search space.
        trials: Maximum number of trials of "random" and "bayesian".
        epochs: Maximum number of epochs of a trial of "hyperband".
        seed: Random seed.
    """
    common = {
        "objective": keras_tuner.Objective(OBJECTIVE, "max"),
        "hyperparameters": hyperparameters,
        "tune_new_entries": False,
        "seed": seed + 1,  # keras-tuner treats 0 as no seed
        "max_consecutive_failed_trials": sys.maxsize,
    }
    if name == "exhaustive":
        return ExhaustiveOracle(**common)
    if name == "hyperband":
        return HyperbandOracle(max_epochs=epochs, **common)
    return {"random": RandomOracle, "bayesian": BayesianOracle}[name](max_trials=trials, **common)


def prepare_resume(folder):
    """Return whether an oracle can resume from its files in a search folder.

    Remove trials that the oracle does not know, and all of its files if one of them is damaged or missing.
    """
    for file in (*folder.glob("tuner*.json"), *folder.glob("chief.json")):
        file.unlink()  # from an earlier version; keras-tuner would resume from it on its own and print a message
    oracle, trials = folder / "oracle.json", {file.parent.name: file for file in folder.glob("trial_*/trial.json")}
    if not oracle.exists() and not trials:
        return False
    state = read_record(oracle) or {"start_order": []}
    # A process that is killed between writing the two files leaves a trial that the oracle does not know.
    for name in trials.keys() - {f"trial_{number}" for number in state["start_order"]}:
        trials.pop(name).unlink()
    needed = [oracle, *(folder / f"trial_{number}" / "trial.json" for number in state["start_order"])]
    damaged = [file for file in needed if read_record(file) is None]
    for file in damaged:
        report_unusable(file, "the search starts again and keeps the results of its trials")
    if damaged:
        for file in (oracle, *trials.values()):
            file.unlink(missing_ok=True)
    return not damaged
