"""The driver of every search: an oracle proposes trials, each is trained, and the oracle is told the result."""

import dataclasses
import functools
import sys
import time
from pathlib import Path

import grpc
from keras_tuner.engine.base_tuner import BaseTuner

from training.data import load_data
from training.errors import StateError, UserError, WorkerLostError
from training.files import locked
from training.machine import resolve
from tuning.folder import check_folder, digest, read_record, start_folder, write_record
from tuning.oracles import OBJECTIVE, make_oracle, prepare_resume
from tuning.study import Candidate, Trial
from tuning.trial import train_candidate

NETWORKS = "networks.json"  # in the search folder: the networks of a study that counts them
PATIENCE = 60  # seconds that a worker waits for its chief to write NETWORKS into the shared folder


def check_baseline(baseline, *, seeds, download=False):
    """Check a baseline and its data, and return its number of classes.

    Raises:
        TrainingError: The network, the seeds or the data cannot be used.
    """
    resolve(baseline)
    dataclasses.replace(baseline, seed=baseline.seed + seeds - 1)
    return len(load_data(baseline, download=download).class_names)


def all_settings(study, seeds):
    """Return the JSON values that identify a search."""
    recipe = dataclasses.asdict(study.baseline)
    return study.settings | {"command": study.command, "recipe": recipe, "seeds": seeds}


def default_folder(study, seeds):
    """Return the search folder of a study for which none is given."""
    return Path(f"runs/{study.command}-{study.baseline.name}-{digest(all_settings(study, seeds))}")


def run(study, folder, *, seeds=1, role="alone", overwrite=False):
    """Train the trials of a study and return them, the best first and the failed ones last.

    Args:
        study: The study.
        folder: The search folder; an unfinished search of the same study in it is resumed.
        seeds: How often each candidate is trained, with consecutive seeds.
        role: "alone"; or "chief", which trains nothing itself, or "worker", which returns no trials.
        overwrite: Whether to replace the search in the folder; a worker never does.

    Raises:
        UserError: The folder is in use, or contains something else.
        StateError: Every trial failed.
        WorkerLostError: The chief does not answer.
    """
    settings, overwrite = all_settings(study, seeds), overwrite and role != "worker"
    check_folder(folder, settings, overwrite)
    networks = find_networks(study, folder, is_worker=role == "worker", overwrite=overwrite)
    space = study.space(networks)
    oracle = make_oracle(
        study.oracle,
        space.hyperparameters,
        trials=min(study.max_trials, space.size or study.max_trials),
        epochs=study.baseline.epochs,
        seed=study.baseline.seed,
    )
    train = functools.partial(train_trial, space=space, folder=folder, seeds=seeds, classes=study.classes)
    if role == "worker":
        Tuner(oracle, folder, train).search()
        return []
    with locked(folder):
        start_folder(folder, settings, overwrite)
        if networks:
            write_record(folder / NETWORKS, {"networks": networks})
        resumable = prepare_resume(folder)
        tuner = Tuner(oracle, folder, train)
        if resumable:
            oracle.reload()
        tuner.search(chief=role == "chief")
        # In order of their numbers: a resumed oracle has them in any order, and equal trials must not change places.
        return ranked([train(trial) for _, trial in sorted(oracle.trials.items())], folder)


def find_networks(study, folder, *, is_worker, overwrite):
    """Return the networks of a study, from the search folder if they are there; a worker does not count them itself."""
    if study.networks is None:
        return []
    for _ in range(PATIENCE if is_worker else 1):
        kept = None if overwrite else read_record(folder / NETWORKS)
        if kept:
            return kept["networks"]
        if is_worker:
            time.sleep(1)
    if is_worker:
        raise UserError(f"{folder / NETWORKS} is missing. Give this worker the chief's command line and folder.")
    return study.networks()


def ranked(trials, folder):
    """Return trials, the best first and the failed ones last, each once even if several values make it.

    Raises:
        StateError: Every trial failed.
    """
    trials = {trial.folder: trial for trial in trials}.values()
    done = [trial for trial in trials if trial.accuracy is not None]
    failed = [trial for trial in trials if trial.accuracy is None]
    if not done:
        raise StateError(
            f"{folder}: every trial failed, the first because: {failed[0].result['failed']}. "
            "Change the baseline recipe and pass --overwrite."
        )
    return sorted(done, key=lambda trial: (-trial.accuracy, trial.result["multiply_adds"])) + failed


class Tuner(BaseTuner):
    """Ask the oracle for trials, train them, and report the results to it.

    Args:
        oracle: The oracle.
        folder: The search folder.
        train: A function (trial of keras-tuner) -> `Trial`.
    """

    def __init__(self, oracle, folder, train):
        self.train = train
        super().__init__(oracle, directory=str(folder.parent), project_name=folder.name)
        oracle.verbose = 0

    def save(self):
        """Write nothing: the oracle keeps everything, and a worker reads none of it."""

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
                "The chief no longer answers. Start it again, and then this worker: the search resumes from what is "
                "saved."
            ) from error

    def train_trials(self):
        """Train what the oracle proposes until it stops."""
        while (trial := self.oracle.create_trial(self.tuner_id)).status != "STOPPED":
            if trial.status == "IDLE":
                time.sleep(
                    0.2
                )  # others still train; if this asked a second after the last stopped, the chief would sleep 20
                continue
            trained = self.train(trial)
            if trained.accuracy is None:
                reason = trained.result["failed"]
                print(f"failed: {trained.folder.name}: {reason}; the search continues", file=sys.stderr)
                trial.status, trial.message = "FAILED", reason
            else:
                self.oracle.update_trial(trial.trial_id, {OBJECTIVE: trained.accuracy})
                trial.status = "COMPLETED"
            self.oracle.end_trial(trial)


def train_trial(trial, *, space, folder, seeds, classes):
    """Return the `Trial` for a trial of keras-tuner, which is trained unless its folder has the result."""
    values = dict(trial.hyperparameters.values)
    epochs = values.get("tuner/epochs")
    try:
        candidate = space.candidate({name: value for name, value in values.items() if not name.startswith("tuner/")})
        if epochs:  # a trial that hyperband trains for longer starts again: its schedule depends on the epochs
            candidate = candidate._replace(recipe=shortened(candidate.recipe, epochs))
    except UserError as error:
        failed = Candidate(f"trial {trial.trial_id}", None, values)
        return Trial(failed, folder / f"trial_{trial.trial_id}", {"failed": str(error)})
    trial_folder = folder / "trials" / f"{candidate.label}-{candidate.recipe.digest}"
    return Trial(candidate, trial_folder, train_candidate(candidate, trial_folder, seeds=seeds, classes=classes))


def shortened(recipe, epochs):
    """Return a recipe of fewer epochs whose schedule is shortened in proportion."""
    share = epochs / recipe.epochs
    return dataclasses.replace(
        recipe,
        epochs=epochs,
        warmup_epochs=recipe.warmup_epochs * epochs / recipe.epochs,
        decay_epochs=recipe.decay_epochs * share,
        milestones=[milestone * share for milestone in recipe.milestones],
    )
