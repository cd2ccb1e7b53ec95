"""The values of a search: a study, decided before anything is trained, its candidates, and trials with results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras_tuner

from training.recipe import Recipe
from tuning.oracles import OBJECTIVE


class Candidate(NamedTuple):
    """A recipe that a trial trains."""

    label: str  # the beginning of the name of the trial's folder
    recipe: Recipe
    shown: dict[str, Any]  # {column of TensorBoard's HParams: number or string}
    triples: tuple = ()  # all (alpha, beta, gamma) that make it, for the report


class Space(NamedTuple):
    """The candidates that a search chooses from."""

    hyperparameters: keras_tuner.HyperParameters
    candidate: Callable[[dict[str, Any]], Candidate]  # (values of the hyperparameters) -> candidate
    size: int | None = None  # the number of candidates, if it is finite


class Study(NamedTuple):
    """Everything that is decided before training, except for the folder and the number of seeds."""

    command: str  # the command line's name of it
    baseline: Recipe
    classes: int  # number of classes of the baseline's data
    settings: dict[str, Any]  # JSON values; a folder whose search has equal settings is resumed
    space: Callable[[list], Space]  # (networks, or an empty list) -> space
    oracle: str = "exhaustive"  # or "random", "bayesian", "hyperband"
    max_trials: int = 1  # of the oracles "random" and "bayesian"; the others have their own number
    networks: Callable[[], list] | None = None  # JSON values that `space` needs; counting them may take minutes


class Trial(NamedTuple):
    """A candidate and its result."""

    candidate: Candidate
    folder: Path
    result: dict[str, Any]  # as `train_candidate` returns it; {"failed": reason} if the trial failed

    @property
    def accuracy(self):
        """Mean validation accuracy over the seeds; None if the trial failed."""
        return self.result.get(OBJECTIVE)

    @property
    def spread(self):
        """The lowest and highest accuracy as text."""
        accuracies = self.result.get("accuracies", [])
        if len(accuracies) < 2:
            return "not measured"
        return f"{min(accuracies):.2%} to {max(accuracies):.2%}"


def list_space(candidates):
    """Return the space that consists of a list of candidates."""
    hyperparameters = keras_tuner.HyperParameters()
    hyperparameters.Int("candidate", 0, len(candidates) - 1)
    return Space(hyperparameters, lambda values: candidates[values["candidate"]], len(candidates))
