"""Tuning: what fits the budget and what it costs, and that searches go on, fail and end as they should."""

import dataclasses
import json
import shutil
import signal
from fractions import Fraction
from itertools import product
from types import SimpleNamespace

import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_cnns
from tests.tiny import TINY
from training import run as runs
from training.errors import DivergedError, Interrupted, UserError
from training.recipe import Recipe
from training.recipes import DIGITS
from training.scaling import scale
from tuning import commands
from tuning import search as searches
from tuning.__main__ import main
from tuning.compound import Counter, feasible, formula, grid
from tuning.figure import Point, figure_3, figure_8
from tuning.spaces import SPACES
from tuning.workers import address_of, join

B0 = Recipe(model="EfficientNetB0", image_size=224)
TRIPLES = ("1.2/1.1/1.15", "1/1.4/1", "1.25/1.1/1.15")  # the first and the last build the same network
BUILD, BUILT = Recipe.build, {}


@pytest.fixture
def baseline(tmp_path):
    file = tmp_path / "tiny.json"
    file.write_text(TINY.to_json())
    return file


@pytest.fixture
def cli(capsys, baseline, tmp_path):
    """Runs a command on the tiny baseline in the folder `search` and gives its exit code and what it said."""

    def run(command, *arguments):
        words = [command, str(baseline), "--search", str(tmp_path / "search"), *map(str, arguments)]
        code = main(words)
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def quick(monkeypatch):
    """Training that only writes what a run leaves: accuracies by recipe, and the recipes that were trained."""
    trained, accuracy = [], lambda recipe: 0.5

    class Quick:
        def __init__(self):
            self.trained, self.accuracy = trained, accuracy

        def fit(self, recipe, folder, **shown):
            trained.append(recipe)
            value = self.accuracy(recipe)
            folder.mkdir(parents=True, exist_ok=True)
            run = runs.Run(folder, recipe)
            run.metrics.write_text(json.dumps({"best_epoch": 1, "history": [{"val_accuracy": value}]}))
            return run

    def build(recipe, classes):
        """Each network once for all tests that do not train it."""
        key = json.dumps([recipe.model, recipe.model_args, recipe.image_size, classes])
        if key not in BUILT:
            BUILT[key] = BUILD(recipe, classes)
        return BUILT[key]

    quick = Quick()
    monkeypatch.setattr(searches.runs, "fit", quick.fit)
    monkeypatch.setattr(Recipe, "build", build)
    monkeypatch.setattr(searches.keras.backend, "clear_session", lambda **_: None)
    monkeypatch.setattr(commands, "load_data", lambda *_, **__: SimpleNamespace(class_names=list("0123456789")))
    return quick


def test_the_papers_triple_fits_by_the_formula():
    values = [1 + Fraction(number, 20) for number in range(21)]
    exact = {t for t in product(values, repeat=3) if abs(t[0] * t[1] ** 2 * t[2] ** 2 - 2) <= Fraction(1, 10)}
    fitting = [triple for triple in grid(0.05, 2.0) if abs(formula(triple) - 2) <= 0.1 + 1e-9]
    assert fitting == sorted(tuple(map(float, triple)) for triple in exact)
    assert (1.2, 1.1, 1.15) in fitting
    assert formula((1.2, 1.1, 1.15)) == pytest.approx(1.92027)
    assert max(grid(0.2, 1.4)) == (1.4, 1.4, 1.4)  # a step in floating point loses no maximum


def test_counting_by_parts_equals_counting_the_network():
    """For B0 the paper's triple counts 2.57 times the baseline: the layers of each stage are rounded up."""
    triple = (1.2, 1.1, 1.15)
    counter = Counter(B0, 1000, deepest=1.2)
    built = keras_cnns.complexity(
        keras_cnns.EfficientNet(width=1.1, depth=1.2, input_shape=(258, 258, 3))
    ).multiply_adds
    assert counter.multiply_adds(triple) == built
    assert built / 386e6 == pytest.approx(2.57, abs=0.005)  # 0.386 G: B0's in the table of multiply-adds
    assert scale(B0, *triple).image_size == 258


@pytest.mark.parametrize("triple", [(1.0, 1.0, 1.0), (1.5, 1.0, 1.0), (1.0, 1.5, 1.25), (2.0, 2.0, 2.0)])
def test_counting_by_parts_equals_counting_the_network_in_resnets(triple):
    counter = Counter(TINY, 10, deepest=2.0)
    assert counter.multiply_adds(triple) == keras_cnns.complexity(scale(TINY, *triple).build(10)).multiply_adds


def test_triples_that_build_the_same_network_are_one():
    networks = feasible(TINY, 10, step=0.25, tolerance=0.3)
    listed = [triple for network in networks for triple in network.triples]
    assert len(listed) == len(set(listed)) == sum(abs(formula(t) - 2) <= 0.3 for t in grid(0.25, 2.0))
    assert len(networks) < len(listed)

    def built(triple):
        recipe = scale(TINY, *triple)
        return recipe.image_size, *(weight.shape for weight in recipe.build(10).weights)

    assert len({built(network.triples[0]) for network in networks}) == len(networks)
    largest = max(networks, key=lambda network: len(network.triples))
    assert len({built(triple) for triple in largest.triples}) == 1


def test_the_counted_rule_counts():
    smallest = keras_cnns.complexity(TINY.build(10)).multiply_adds
    networks = feasible(TINY, 10, rule="counted", step=0.25, tolerance=0.3)
    ratios = [keras_cnns.complexity(scale(TINY, *n.triples[0]).build(10)).multiply_adds / smallest for n in networks]
    assert networks and all(1.7 <= ratio <= 2.3 for ratio in ratios)
    assert all((1.2, 1.1, 1.15) not in network.triples for network in networks)


def test_an_empty_set_lists_the_nearest(cli, tmp_path):
    code, _, complaint = cli("compound", "--step", 0.3, "--tolerance", 0.01)
    assert code == 2
    assert "1.9/1/1: 1.900" in complaint and "--tolerance 0.1" in complaint
    assert not (tmp_path / "search").exists()


def test_a_real_search_writes_coefficients_and_its_winner_is_reproduced(cli, tmp_path):
    code, out, _ = cli("compound", "--triples", TRIPLES[0], TRIPLES[2], "--seeds", 2)
    assert code == 0
    assert "1.25/1.1/1.15, 1.2/1.1/1.15" in out  # trained once, listed together
    folder = tmp_path / "search"
    found = json.loads((folder / "coefficients.json").read_text())
    (best,) = found["trials"]
    assert found["val_accuracy"] == best["val_accuracy"] == pytest.approx(sum(best["accuracies"]) / 2)
    assert f"{min(best['accuracies']):.2%} to {max(best['accuracies']):.2%}" in out
    # The same recipe trained elsewhere gives the same accuracy, to the last bit.
    run = runs.Run.open(folder / best["runs"][1])
    again = runs.fit(run.recipe, tmp_path / "again")
    assert json.loads(again.metrics.read_text()) == json.loads(run.metrics.read_text())
    assert run.recipe.seed == 1


def test_with_one_seed_the_spread_is_not_measured(cli, quick):
    code, out, _ = cli("compound", "--triples", "1/1.4/1")
    assert code == 0 and "spread: not measured" in out


def test_a_search_that_was_stopped_keeps_what_is_done(cli, quick, monkeypatch):
    fit, seen = quick.fit, []

    def stopped(recipe, folder, **shown):
        if len(seen) == 1:
            raise Interrupted(signal.SIGTERM, {"epoch": 0, "step": 3})
        seen.append(recipe)
        return fit(recipe, folder)

    monkeypatch.setattr(searches.runs, "fit", stopped)
    assert cli("compound", "--triples", *TRIPLES)[0] == 143
    assert len(quick.trained) == 1
    monkeypatch.setattr(searches.runs, "fit", fit)
    code, out, _ = cli("compound", "--triples", *TRIPLES)
    assert code == 0 and out.count("50.00%") >= 2
    assert len(quick.trained) == 2  # each network once


@pytest.mark.parametrize("file", ["oracle.json", "trial_0000/trial.json", "tuner0.json"])
def test_a_torn_file_does_not_block_the_search(cli, quick, tmp_path, file):
    cli("compound", "--triples", *TRIPLES)
    path = tmp_path / "search" / file
    path.write_text(path.read_text()[: len(path.read_text()) // 2 or 1] + "{")
    code, _, complaint = cli("compound", "--triples", *TRIPLES)
    assert code == 0 and f"{file} is damaged" in complaint
    assert len(quick.trained) == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DivergedError("The loss is nan in step 3"), "The loss is nan in step 3"),
        (MemoryError("cannot allocate"), "out of memory"),
    ],
)
def test_a_failed_trial_is_marked_and_the_search_goes_on(cli, quick, tmp_path, error, reason):
    def accuracy(recipe):
        if recipe.model_args["width"] > 0.3:
            raise error
        return 0.5

    quick.accuracy = accuracy
    code, out, complaint = cli("compound", "--triples", *TRIPLES)
    assert code == 0 and reason in complaint and "failed" in out
    trials = json.loads((tmp_path / "search" / "coefficients.json").read_text())["trials"]
    assert [("failed" in trial) for trial in trials] == [False, True]
    cli("compound", "--triples", *TRIPLES)
    assert len(quick.trained) == 2  # what failed is not tried again


def test_more_failures_than_keras_tuner_allows_do_not_end_the_search(cli, quick):
    def accuracy(recipe):
        if recipe.image_size == 8:
            return 0.25
        raise DivergedError("nan")

    quick.accuracy = accuracy
    # In the order of the search four fail before the last succeeds.
    code, out, _ = cli("compound", "--triples", "1/1/1.4", "1.05/1/1.4", "1.25/1/1.25", "1.2/1.1/1.2", "1/1.4/1")
    assert code == 0 and "25.00%" in out


@pytest.mark.parametrize(("deaths", "expected"), [(1, 0), (2, 5)])
def test_a_trial_that_ended_its_process_twice_is_given_up(cli, quick, tmp_path, deaths, expected):
    folder = tmp_path / "search"
    counted = []

    def accuracy(recipe):
        (file,) = folder.glob("trials/*/begun.json")
        counted.append(json.loads(file.read_text()))
        return 0.5

    quick.accuracy = accuracy
    cli("compound", "--triples", "1/1.4/1")
    (trial,) = folder.glob("trials/*")
    assert counted == [1]  # what a killed process leaves
    assert not (trial / "begun.json").exists()
    # As killed processes leave the folder:
    (trial / "result.json").unlink()
    shutil.rmtree(trial / "seed0")
    (folder / "oracle.json").unlink()
    (trial / "begun.json").write_text(str(deaths))
    code, _, complaint = cli("compound", "--triples", "1/1.4/1")
    assert code == expected
    assert ("died 2 times" in complaint) == bool(expected)


def test_another_search_in_the_folder_is_refused_with_the_differences(cli, quick):
    cli("compound", "--triples", "1/1.4/1")
    code, _, complaint = cli("compound", "--triples", "1/1.4/1", "--epochs", 2)
    assert code == 2 and "recipe.epochs: 1 there, 2 now" in complaint and "budget" not in complaint
    assert cli("compound", "--triples", "1/1.4/1", "--epochs", 2, "--overwrite")[0] == 0


@pytest.mark.parametrize("oracle", ["bayesian", "hyperband"])
def test_other_oracles_only_try_what_fits(cli, quick, oracle, tmp_path):
    arguments = ("--step", 0.25, "--tolerance", 0.3, "--oracle", oracle, "--max_trials", 6, "--epochs", 3)
    quick.accuracy = lambda recipe: 1 / recipe.image_size
    assert cli("compound", *arguments)[0] == 0
    fitting = {scale(TINY, *t).image_size for t in grid(0.25, 2.0) if abs(formula(t) - 2) <= 0.3}
    assert {recipe.image_size for recipe in quick.trained} <= fitting
    epochs = {recipe.epochs for recipe in quick.trained}
    assert epochs == ({3} if oracle == "bayesian" else {1, 3})


def test_the_best_is_the_most_accurate(cli, quick, tmp_path):
    quick.accuracy = lambda recipe: recipe.model_args["width"]
    assert cli("compound", "--triples", *TRIPLES)[0] == 0
    found = json.loads((tmp_path / "search" / "coefficients.json").read_text())
    assert (found["alpha"], found["beta"], found["gamma"]) == (1.0, 1.4, 1.0)
    assert [trial["val_accuracy"] for trial in found["trials"]] == [0.35, 0.275]


def test_a_trial_that_the_oracle_does_not_know_is_forgotten(cli, quick, tmp_path):
    """A process that is killed between the writing of a trial and of the oracle leaves one."""
    assert cli("recipe", "--space", "rate", "--oracle", "random", "--max_trials", 3)[0] == 0
    folder = tmp_path / "search"
    oracle = json.loads((folder / "oracle.json").read_text())
    oracle["start_order"].remove("2"), oracle["end_order"].remove("2")
    (folder / "oracle.json").write_text(json.dumps(oracle | {"ongoing_trials": {}}))
    unknown = json.loads((folder / "trial_2" / "trial.json").read_text())
    unknown |= {"status": "RUNNING", "score": None, "hyperparameters": unknown["hyperparameters"]}
    unknown["hyperparameters"]["values"]["learning_rate"] = 5e-4
    (folder / "trial_2" / "trial.json").write_text(json.dumps(unknown))
    code, out, _ = cli("recipe", "--space", "rate", "--oracle", "random", "--max_trials", 3)
    assert code == 0 and "not finished" not in out and out.count("50.00%") == 4  # three rows and the best


def test_scale_trains_the_family_and_its_recipes_fit(cli, quick, tmp_path, capsys):
    cli("compound", "--triples", "1.2/1.1/1.15")
    folder = tmp_path / "scaled"
    words = ["scale", "--coefficients", tmp_path / "search" / "coefficients.json", "--phi", 1, 2, "--search", folder]
    assert main(list(map(str, words))) == 0
    files = sorted(folder.glob("trials/*/recipe.json"))
    recipes = [Recipe.from_json(file.read_text(), file) for file in files]
    assert [recipe.image_size for recipe in recipes] == [9, 11]  # 8 * 1.15, 8 * 1.15^2
    assert [recipe.model_args["width"] for recipe in recipes] == [0.275, 0.3025]


def test_dimensions_draws_the_papers_figures(cli, quick, tmp_path):
    assert cli("dimensions", "--phi", 0, 1)[0] == 0
    assert len(quick.trained) == 5  # the baseline once
    images = EventAccumulator(str(tmp_path / "search" / "figures"), size_guidance={"tensors": 0}).Reload()
    for name in ("figure3", "figure8"):
        file = (tmp_path / "search" / f"{name}.png").read_bytes()
        assert file.startswith(b"\x89PNG")
        (event,) = images.Tensors(name)
        width, height, image = event.tensor_proto.string_val
        assert int(width) > int(height) > 400
        np.testing.assert_array_equal(tf.io.decode_png(image), tf.io.decode_png(file, channels=3))


def test_figures_show_what_was_measured():
    curve = [Point(3_000_000, (0.8, 0.9), "d=2"), Point(1_000_000, (0.5,), "d=1")]
    curves = dict.fromkeys(("width", "depth", "resolution", "compound"), curve)
    plots, (together,) = figure_3(curves).axes, figure_8(curves).axes
    assert [plot.get_title() for plot in plots] == ["width", "depth", "resolution"]
    assert [text.get_text() for text in plots[1].texts] == ["d=1", "d=2"]
    assert [text.get_text() for text in together.get_legend().get_texts()] == list(curves)
    for plot in (*plots, together):
        line, _, (bars,) = plot.containers[0].lines
        assert line.get_xdata().tolist() == [1, 3] and line.get_ydata() == pytest.approx([50, 85])
        assert bars.get_segments()[1][:, 1] == pytest.approx([80, 90])  # from the least seed to the greatest


@pytest.mark.parametrize("oracle", ["random", "bayesian", "hyperband"])
def test_a_recipe_search_ranks_by_validation_accuracy(cli, quick, tmp_path, oracle):
    quick.accuracy = lambda recipe: recipe.learning_rate
    code, out, _ = cli("recipe", "--space", "rate", "--oracle", oracle, "--max_trials", 5, "--epochs", 3)
    assert code == 0
    winner = Recipe.from_json((tmp_path / "search" / "recipe.json").read_text(), "recipe.json")
    assert winner.learning_rate == max(recipe.learning_rate for recipe in quick.trained)
    assert winner in quick.trained
    assert len({recipe.learning_rate for recipe in quick.trained}) >= 3
    assert "python -m training fit" in out


@pytest.mark.parametrize("space", SPACES)
def test_spaces_give_recipes(space):
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


def test_mistakes_say_the_mend(cli, quick, tmp_path):
    for arguments, said in (
        (("compound", "--triples", "1.2/1.1"), "three numbers"),
        (("compound", "--triples", "3/1/1"), "--tolerance 1"),
        (("compound", "--model", "AlexNet", "--model_args", "{}"), "ResNetCIFAR"),
        (("recipe", "--space", "nonsense"), "rate"),
        (("recipe", "--space", "reduction"), "has ratio; ResNetCIFAR takes"),
        (("compound", "--role", "worker"), "--chief HOST:PORT"),
        (("compound", "--role", "chief", "--chief", "0.0.0.0:8000"), "--i_trust_this_network"),
    ):
        code, _, complaint = cli(*arguments)
        assert code == 2 and said in complaint, arguments


def test_a_worker_without_a_chief_says_so(monkeypatch):
    for name in ("IP", "PORT"):
        monkeypatch.setenv(f"KERASTUNER_ORACLE_{name}", "")  # what `join` sets goes again
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "")
    with pytest.raises(UserError, match="No chief answers at 127"):
        join("worker", "127.0.0.1:9", "0", trusted=False, patience=0.1)
    assert address_of("10.0.0.1:80", trusted=True) == ("10.0.0.1", 80)
