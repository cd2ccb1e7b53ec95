"""Fixtures for tests of searches that do not train: `pytest_plugins = ["tests.searching"]`."""

import dataclasses
import json

import pytest

from tests.tiny import TINY
from training.recipe import Recipe
from tuning import trial
from tuning.__main__ import main

BUILD, NETWORKS = Recipe.build, {}


@pytest.fixture
def tiny(photos):
    """Return a recipe that is quickly loaded and built."""
    return dataclasses.replace(TINY, data=f"folder:{photos}", batch_size=8)


@pytest.fixture
def cli(capsys, tiny, tmp_path):
    """Return a function (command, *arguments) that searches from `tiny` in the folder `search`.

    The function returns the exit code, standard output and standard error.
    """
    baseline = tmp_path / "tiny.json"
    baseline.write_text(tiny.to_json())

    def run(command, *arguments):
        words = [command, str(baseline), "--search", str(tmp_path / "search"), *map(str, arguments)]
        code = main(words)
        return (code, *capsys.readouterr())

    return run


class Training:
    """A substitute for training.

    Attributes:
        accuracy: A function (recipe) -> validation accuracy, which tests replace.
        trained: The recipes that were trained, in order.
    """

    def __init__(self):
        self.accuracy, self.trained = lambda recipe: 0.5, []

    def train(self, recipe, folder):
        self.trained.append(recipe)
        folder.mkdir(parents=True, exist_ok=True)
        accuracy = self.accuracy(recipe)
        (folder / "metrics.json").touch()
        return accuracy


@pytest.fixture
def training(monkeypatch):
    """Replace training, and build each network once for all tests."""

    def build(recipe, classes):
        key = json.dumps([recipe.model, recipe.model_args, recipe.image_size, classes])
        if key not in NETWORKS:
            NETWORKS[key] = BUILD(recipe, classes)
        return NETWORKS[key]

    training = Training()
    monkeypatch.setattr(trial, "train", training.train)
    monkeypatch.setattr(Recipe, "build", build)
    return training
