"""`recipe`: the best recipe of a space, and the spaces."""

import dataclasses

import keras_tuner
import pytest

from training.recipe import Recipe
from training.recipes import DIGITS
from tuning.spaces import SPACES

pytest_plugins = ["tests.searching"]


@pytest.mark.parametrize("oracle", ["random", "bayesian", "hyperband"])
def test_trials_are_ranked_by_validation_accuracy(cli, training, tmp_path, oracle):
    training.accuracy = lambda recipe: recipe.learning_rate
    code, out, _ = cli("recipe", "--space", "rate", "--oracle", oracle, "--max_trials", 5, "--epochs", 3)
    assert code == 0
    winner = Recipe.from_json((tmp_path / "search" / "recipe.json").read_text(), "recipe.json")
    assert winner.learning_rate == max(recipe.learning_rate for recipe in training.trained)
    assert winner in training.trained
    assert len({recipe.learning_rate for recipe in training.trained}) >= 3
    assert "python -m training fit" in out


@pytest.mark.parametrize("space", SPACES)
def test_spaces_return_recipes(space):
    recipe = dataclasses.replace(DIGITS, model="SEResNet18" if space == "reduction" else "GoogLeNet")
    hp = keras_tuner.HyperParameters()
    assert SPACES[space](hp, recipe) != recipe
    assert hp.space


def test_spaces_put_their_values_into_the_recipe():
    hp = keras_tuner.HyperParameters()
    hp.values = {"ratio": 4, "policy_layers": 1, "policy_magnitude": 7.5}
    recipe = SPACES["reduction"](hp, dataclasses.replace(DIGITS, model="SEResNet18", model_args={"version": "1"}))
    assert recipe.model_args == {"version": "1", "ratio": 4}
    recipe = SPACES["augmentation"](hp, DIGITS)
    assert (recipe.policy, recipe.policy_layers, recipe.policy_magnitude) == ("randaugment", 1, 7.5)
