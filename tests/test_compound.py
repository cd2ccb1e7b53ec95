"""`compound` and `scale`: the best triple, its coefficients.json, and the networks scaled with them."""

import json

import pytest

from tests.tiny import TRIPLES
from training.recipe import Recipe
from training.scaling import scale
from tuning.__main__ import main
from tuning.budget import formula, grid

pytest_plugins = ["tests.searching"]


def test_the_list_shows_what_fits_without_training(cli, training, tmp_path):
    code, out, _ = cli("compound", "--list", "--triples", *TRIPLES)
    assert code == 0 and "3 triples, 2 networks; the baseline has " in out
    assert "1.25/1.1/1.15, 1.2/1.1/1.15" in out
    assert not training.trained and not (tmp_path / "search").exists()


def test_an_empty_set_lists_the_nearest(cli, training, tmp_path):
    code, _, complaint = cli("compound", "--step", 0.3, "--tolerance", 0.01)
    assert code == 2
    assert "1.9/1/1: 1.900" in complaint and "--tolerance 0.1" in complaint
    assert not (tmp_path / "search").exists()


def test_coefficients_are_written_with_the_mean_of_the_seeds_and_their_spread(cli, training, tmp_path):
    training.accuracy = lambda recipe: 0.25 if recipe.seed else 0.75
    code, out, _ = cli("compound", "--triples", TRIPLES[0], TRIPLES[2], "--seeds", 2)
    assert code == 0
    assert "1.25/1.1/1.15, 1.2/1.1/1.15" in out  # trained once, listed together
    found = json.loads((tmp_path / "search" / "coefficients.json").read_text())
    (best,) = found["trials"]
    assert found["val_accuracy"] == best["val_accuracy"] == 0.5
    assert best["accuracies"] == [0.75, 0.25] and "25.00% to 75.00%" in out
    assert [run.rpartition("/")[2] for run in best["runs"]] == ["seed0", "seed1"]


def test_with_one_seed_the_spread_is_not_measured(cli, training):
    code, out, _ = cli("compound", "--triples", "1/1.4/1")
    assert code == 0 and "spread: not measured" in out


def test_the_best_is_the_most_accurate(cli, training, tmp_path):
    training.accuracy = lambda recipe: recipe.model_args["width"]
    assert cli("compound", "--triples", *TRIPLES)[0] == 0
    found = json.loads((tmp_path / "search" / "coefficients.json").read_text())
    assert (found["alpha"], found["beta"], found["gamma"]) == (1.0, 1.4, 1.0)
    assert [trial["val_accuracy"] for trial in found["trials"]] == [0.35, 0.275]


@pytest.mark.parametrize("oracle", ["bayesian", "hyperband"])
def test_other_oracles_only_try_what_fits(cli, training, tiny, oracle):
    arguments = ("--step", 0.25, "--tolerance", 0.3, "--oracle", oracle, "--max_trials", 6, "--epochs", 3)
    training.accuracy = lambda recipe: 1 / recipe.image_size
    assert cli("compound", *arguments)[0] == 0
    fitting = {scale(tiny, *triple).image_size for triple in grid(0.25, 2.0) if abs(formula(triple) - 2) <= 0.3}
    assert {recipe.image_size for recipe in training.trained} <= fitting
    epochs = {recipe.epochs for recipe in training.trained}
    assert epochs == ({3} if oracle == "bayesian" else {1, 3})


def test_scale_trains_the_family_and_writes_recipes_for_fit(cli, training, tmp_path):
    cli("compound", "--triples", "1.2/1.1/1.15")
    folder = tmp_path / "scaled"
    words = ["scale", "--coefficients", tmp_path / "search" / "coefficients.json", "--phi", 1, 2, "--search", folder]
    assert main(list(map(str, words))) == 0
    files = sorted(folder.glob("trials/*/recipe.json"))
    recipes = [Recipe.from_json(file.read_text(), file) for file in files]
    assert [recipe.image_size for recipe in recipes] == [9, 11]  # 8 * 1.15, 8 * 1.15^2
    assert [recipe.model_args["width"] for recipe in recipes] == [0.275, 0.3025]
