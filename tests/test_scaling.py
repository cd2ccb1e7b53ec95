"""Compound scaling by coefficients: in a recipe, in `fit` and in keras_cnns."""

import json

import pytest

from tests.structure import structure
from tests.tiny import TINY
from training import run as runs
from training.__main__ import main
from training.recipe import Recipe
from training.scaling import scale
from tuning.budget import without_weights


@pytest.fixture
def fit(tmp_path, capsys):
    """Return a function that runs `fit` on the tiny recipe and returns its exit code and its error output."""

    def run(*arguments):
        (tmp_path / "tiny.json").write_text(TINY.to_json())
        words = ["fit", tmp_path / "tiny.json", "--run", tmp_path / "run", *arguments]
        return main(list(map(str, words))), capsys.readouterr().err

    return run


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "coefficients.json"
    file.write_text(json.dumps({"alpha": 1.5, "beta": 1.1, "gamma": 1.25}))
    return file


def test_fit_trains_the_scaled_network(fit, file, monkeypatch):
    """Two steps of alpha 1.5 make 2.25 blocks of one, rounded up to 3, a width of 0.3025 and 12.5 pixels."""
    trained = []
    monkeypatch.setattr(runs, "fit", lambda recipe, folder, **_: trained.append(recipe))
    monkeypatch.setattr(runs, "summary", str)
    code, error = fit("--coefficients", file, "--phi", 2)
    assert code == 0, error
    (recipe,) = trained
    assert recipe.model_args == {"depth": 20, "width": 0.3025}
    assert recipe.image_size == 12
    assert recipe.build(10).get_layer("stage1_block3_out") is not None


NONE = '{"depth": null, "width": null}'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--phi", 2), "Pass --coefficients"),
        (("--coefficients", "FILE", "--phi", "nan"), "--phi nan: it must be a finite number"),
        (("--coefficients", "FILE", "--phi", -1), "phi=-1.0: it must be from 0 to 100"),
        (("--coefficients", "FILE", "--phi", 1e9), "it must be from 0 to 100"),
        (("--coefficients", "FILE", "--phi", 99), "alpha to the power of phi, must be from 1 to 32"),
        (("--coefficients", "nowhere.json"), "nowhere.json has no coefficients"),
        (("--coefficients", "FILE", "--model", "AlexNet", "--model_args", NONE), "one of EfficientNet"),
        (("--model", "EfficientNet", "--model_args", '{"coefficients": [1.2, 1.1, 1.15]}'), "--coefficients of `fit`"),
    ],
)
def test_errors_say_how_to_fix_them(fit, file, tmp_path, arguments, message):
    code, error = fit(*(file if word == "FILE" else word for word in arguments))
    assert code == 2 and message in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("alpha", [1e9, 0.5, -1, float("nan"), float("inf"), "high", None, [1.2]])
def test_coefficients_out_of_range_are_refused(fit, file, tmp_path, alpha):
    file.write_text(json.dumps({"alpha": alpha, "beta": 1.1, "gamma": 1.25}))
    code, error = fit("--coefficients", file)
    assert code == 2 and str(file) in error
    assert not (tmp_path / "run").exists()


def test_recipe_and_builder_make_the_same_network(file):
    """The baseline has half the layers and a quarter of the channels of Table 1."""
    baseline = Recipe(model="EfficientNet", model_args={"width": 0.25, "depth": 0.5}, image_size=64)
    recipe = scale(baseline, 1.5, 1.1, 1.25, phi=2)
    assert recipe.image_size == 100
    network = structure("EfficientNet", width=0.25, depth=0.5, resolution=64, coefficients=file, phi=2)
    assert network.input_shape == (None, 100, 100, 3)
    assert [weight.shape for weight in network.weights] == [
        weight.shape for weight in without_weights(recipe, 1000).weights
    ]
    assert without_weights(scale(baseline, 1.5, 1.1, 1.25, phi=0), 1000).count_params() < network.count_params()
