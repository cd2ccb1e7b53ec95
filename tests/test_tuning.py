"""Tuning: what fits the budget and what it costs, and that searches resume, fail and end as they should."""

import dataclasses
import errno
import json
import os
import signal
import threading
from fractions import Fraction
from itertools import product
from types import SimpleNamespace

import grpc
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_cnns
from tests.tiny import TINY
from training import run as runs
from training.checkpoint import locked
from training.errors import DataError, DivergedError, Interrupted, StateError, UserError, WorkerLostError
from training.recipe import Recipe
from training.recipes import DIGITS, RECIPES
from training.scaling import scale
from tuning import commands
from tuning import search as searches
from tuning.__main__ import main, parse
from tuning.compound import Counter, feasible, formula, grid
from tuning.figure import Point, figure_3, figure_8
from tuning.folder import read_record, write_record
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
            folder.mkdir(parents=True, exist_ok=True)
            value = self.accuracy(recipe)
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


def test_counting_by_parts_equals_counting_the_network_in_resnets():
    counter = Counter(TINY, 10, deepest=2.0)
    for triple in ((1.0, 1.0, 1.0), (1.5, 1.0, 1.0), (1.0, 1.5, 1.25), (2.0, 2.0, 2.0)):
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


def test_a_search_writes_coefficients_the_mean_of_its_seeds_and_their_spread(cli, quick, tmp_path):
    quick.accuracy = lambda recipe: 0.25 if recipe.seed else 0.75
    code, out, _ = cli("compound", "--triples", TRIPLES[0], TRIPLES[2], "--seeds", 2)
    assert code == 0
    assert "1.25/1.1/1.15, 1.2/1.1/1.15" in out  # trained once, listed together
    found = json.loads((tmp_path / "search" / "coefficients.json").read_text())
    (best,) = found["trials"]
    assert found["val_accuracy"] == best["val_accuracy"] == 0.5
    assert best["accuracies"] == [0.75, 0.25] and "25.00% to 75.00%" in out
    assert [run.rpartition("/")[2] for run in best["runs"]] == ["seed0", "seed1"]


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


def test_a_damaged_file_is_found_and_changes_nothing(cli, quick, tmp_path):
    """Torn, of another type, with other values, emptied or removed: the same coefficients come out, nothing else."""
    quick.accuracy = lambda recipe: recipe.model_args["width"]
    cli("compound", "--triples", *TRIPLES)
    folder = tmp_path / "search"
    before = (folder / "coefficients.json").read_bytes()
    best = next(folder.glob("trials/alpha1_*/result.json"))
    changes = {
        "torn": lambda text: text[: len(text) // 2] + "{",
        "empty": lambda text: "{}",
        "a list": lambda text: "[]",
        "nested": lambda text: "[" * 100_000,
        "a digit": lambda text: text.replace("1", "7", 1),
        "not UTF-8": lambda text: text.encode() + b"\xff",
        "another type": lambda text: text.replace("0.35", '"high"'),
    }
    oracle, networks = folder / "oracle.json", folder / "networks.json"
    trial = folder / "trial_0000" / "trial.json"
    for file, change in (
        *((oracle, "torn"), (oracle, "empty"), (networks, "a list"), (networks, "empty")),
        *((trial, "empty"), (trial, "a digit"), (trial, "removed")),
        *((best, "torn"), (best, "nested"), (best, "not UTF-8"), (best, "another type"), (best, "removed")),
    ):
        text = file.read_text()
        if change == "removed":
            file.unlink()
        else:
            changed = changes[change](text)
            assert changed not in (text, text.encode()), (file, change)
            file.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
        code, out, complaint = cli("compound", "--triples", *TRIPLES)
        assert code == 0, (file, change, complaint)
        assert (folder / "coefficients.json").read_bytes() == before, (file, change)
        named = f"{file} is missing, damaged" in complaint
        assert named or file.name == "networks.json" or (file, change) == (best, "removed"), (file, change)
        assert "Reloading" not in out


def test_a_search_whose_settings_are_damaged_is_not_continued(cli, quick, tmp_path):
    cli("compound", "--triples", *TRIPLES)
    for content in ("[]", '{"recipe": 1}', "{"):
        (tmp_path / "search" / "search.json").write_text(content)
        code, _, complaint = cli("compound", "--triples", *TRIPLES)
        assert code == 5 and "search.json is damaged. Pass --overwrite" in complaint
    assert cli("compound", "--triples", *TRIPLES, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DivergedError("The loss is nan in step 3"), "The loss is nan in step 3"),
        (MemoryError("cannot allocate"), "out of memory"),
        (UserError("batch_size=128, but there are 44 training images."), "44 training images"),
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


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "state"), 4),
        (tf.errors.ResourceExhaustedError(None, None, "/dev/full; No space left on device"), 4),
        (DataError("a.png is broken."), 3),
        (StateError("every state is damaged."), 5),
    ],
)
def test_what_is_not_the_fault_of_a_trial_ends_the_search_and_is_tried_again(cli, quick, tmp_path, error, code):
    def accuracy(recipe):
        if recipe.model_args["width"] > 0.3 and error:
            raise error
        return 0.5

    quick.accuracy = accuracy
    assert cli("compound", "--triples", *TRIPLES)[0] == code
    assert not list((tmp_path / "search").glob("trials/*/begun.json"))
    error = None
    ended, out, _ = cli("compound", "--triples", *TRIPLES)
    assert ended == 0 and "failed" not in out


def test_a_run_that_cannot_be_resumed_says_what_to_delete(cli, quick, tmp_path):
    """Such as one that other versions began: its trial is not to blame."""

    def accuracy(recipe):
        (run,) = (tmp_path / "search").glob("trials/*/seed0")
        (run / "recipe.json").write_text(recipe.to_json())
        raise UserError("begun with other versions.")

    quick.accuracy = accuracy
    code, _, complaint = cli("compound", "--triples", "1/1.4/1")
    assert code == 2 and "seed0 to train this trial anew" in complaint
    assert not list((tmp_path / "search").glob("trials/*/result.json"))


def test_more_failures_than_keras_tuner_allows_do_not_end_the_search(cli, quick):
    def accuracy(recipe):
        if recipe.image_size == 8:
            return 0.25
        raise DivergedError("nan")

    quick.accuracy = accuracy
    # In the order of the search four fail before the last succeeds.
    code, out, _ = cli("compound", "--triples", "1/1/1.4", "1.05/1/1.4", "1.25/1/1.25", "1.2/1.1/1.2", "1/1.4/1")
    assert code == 0 and "25.00%" in out


@pytest.fixture
def killed(cli, quick, tmp_path):
    """Search one trial as if the process had been killed in it: gives (exit code, complaint)."""

    def run(*happens):
        """Search anew; `happens` are functions (trial's folder) that are called while it trains."""
        folder, left = tmp_path / "search", []

        def accuracy(recipe):
            (begun,) = folder.glob("trials/*/begun.json")
            for happen in happens:
                happen(begun.parent)
            left.append(begun.read_bytes())
            return 0.5

        quick.accuracy = accuracy
        code, _, complaint = cli("compound", "--triples", "1/1.4/1")
        (trial,) = folder.glob("trials/*")
        assert not (trial / "begun.json").exists()
        # As a killed process leaves the folder:
        (folder / "oracle.json").unlink()
        if left:
            (trial / "result.json").unlink()
            (trial / "seed0" / "metrics.json").unlink()
            (trial / "begun.json").write_bytes(left[0])
        return code, complaint

    return run


def save_state(trial):
    states = trial / "seed0" / "states"
    states.mkdir(exist_ok=True)
    (states / f"epoch0000-step{len(list(states.iterdir())):06d}-x.safetensors").touch()


def be_asked_to_leave(trial):
    """As training takes the first signal: it is noted. A second one would end the process at once."""
    former = signal.signal(signal.SIGTERM, lambda *_: None)
    os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, former)


def test_a_trial_that_ended_its_process_twice_is_given_up(killed, quick, tmp_path):
    assert killed()[0] == killed()[0] == 0
    code, complaint = killed()
    assert code == 5 and "died 2 times" in complaint
    assert len(quick.trained) == 2
    (result,) = (tmp_path / "search").glob("trials/*/result.json")
    assert f"Delete {result} to try it again" in complaint
    result.unlink()
    assert killed()[0] == 0 and len(quick.trained) == 3


@pytest.mark.parametrize("happens", [save_state, be_asked_to_leave])
def test_a_trial_that_saves_or_is_interrupted_is_never_given_up(killed, quick, happens):
    assert [killed(happens)[0] for _ in range(4)] == [0] * 4
    assert len(quick.trained) == 4


def test_a_signal_outside_of_the_training_leaves_in_order(killed, quick, tmp_path):
    try:
        code, _ = killed(lambda trial: os.kill(os.getpid(), signal.SIGTERM))
    except SystemExit as ended:
        code = ended.code
    assert code == 143
    assert not list((tmp_path / "search").glob("trials/*/begun.json"))


def test_two_workers_with_equal_values_train_once(quick, tmp_path):
    """The second waits for the first one's result."""
    search = SimpleNamespace(folder=tmp_path, seeds=1, classes=10)
    candidate, folder, results = searches.Candidate("same", TINY, {"width": 1.0}), tmp_path / "trial", []

    def train():
        results.append(searches.train_candidate(search, candidate, folder))

    second = threading.Thread(target=train)

    def accuracy(recipe):
        second.start()
        second.join(0.3)
        assert second.is_alive() and (folder / "begun.json").exists()
        return 0.5

    quick.accuracy = accuracy
    train()
    second.join()
    assert results[0] == results[1] and len(quick.trained) == 1
    assert read_record(folder / "result.json") == results[0]


def test_another_search_in_the_folder_is_refused_with_the_differences(cli, quick):
    cli("compound", "--triples", "1/1.4/1")
    code, _, complaint = cli("compound", "--triples", "1/1.4/1", "--epochs", 2)
    assert code == 2 and "recipe.epochs: 1 there, 2 now" in complaint and "budget" not in complaint
    assert cli("compound", "--triples", "1/1.4/1", "--epochs", 2, "--overwrite")[0] == 0


def content(folder):
    """{file: content} of everything in a folder but the lock."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_an_overwriting_command_that_fails_leaves_the_search_untouched(cli, quick, tmp_path, monkeypatch):
    cli("compound", "--triples", *TRIPLES)
    folder = tmp_path / "search"
    before = content(folder)

    def fails(code, said, *arguments):
        ended, _, complaint = cli(*arguments, "--overwrite")
        assert ended == code and said in complaint, (arguments, complaint)
        assert content(folder) == before, arguments

    fails(2, "Did you mean", "compound", "--model", "ResNetCIFARR")
    fails(2, "cannot be scaled", "compound", "--model", "VGG11", "--model_args", '{"depth": null, "width": null}')
    fails(2, "nearest", "compound", "--tolerance", 0.001, "--step", 0.3)
    fails(2, "seed=2147483648", "compound", "--triples", *TRIPLES, "--seed", 2**31 - 1, "--seeds", 2)
    fails(2, "no coefficients", "dimensions", "--coefficients", tmp_path / "none.json")
    fails(2, "takes depth", "recipe", "--space", "reduction")
    with locked(folder):
        fails(2, "in use by process", "compound", "--triples", "1/1.4/1")
    with monkeypatch.context() as patch:
        patch.setattr(commands, "load_data", lambda *_, **__: load_nothing())
        fails(3, "no images", "compound", "--triples", "1/1.4/1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        fails(4, "could not be written", "compound", "--triples", "1/1.4/1")
    (trial,) = folder.glob("trials/alpha1_*")
    for file in (folder / "thesis.tex", trial / "notes.txt"):
        file.write_text("mine")
        before = content(folder)
        fails(2, f"holds more than a search ({file})", "compound", "--triples", "1/1.4/1")
        file.unlink()
    locks = []
    quick.accuracy = lambda recipe: locks.append((folder / "lock").exists()) or 0.5
    assert cli("compound", "--triples", "1/1.4/1", "--overwrite")[0] == 0
    assert locks == [True] and [path.name for path in folder.glob("trials/*")] == [trial.name]


def load_nothing():
    raise DataError("There are no images.")


def full(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("names", [("recipe.json", "src"), ("search.json", "src"), ("search.json",)])
def test_one_name_does_not_make_a_folder_a_search(cli, quick, tmp_path, names):
    folder = tmp_path / "search"
    folder.mkdir()
    for name in names:
        (folder / name).write_text('{"mine": 1}')
    before = content(folder)
    for arguments in ((), ("--overwrite",)):
        code, _, complaint = cli("compound", "--triples", "1/1.4/1", *arguments)
        assert code == 2 and "holds files but no search" in complaint
    assert content(folder) == before and not (folder / "lock").exists()


@pytest.mark.parametrize("oracle", ["bayesian", "hyperband"])
def test_other_oracles_only_try_what_fits(cli, quick, oracle, tmp_path):
    arguments = ("--step", 0.25, "--tolerance", 0.3, "--oracle", oracle, "--max_trials", 6, "--epochs", 3)
    quick.accuracy = lambda recipe: 1 / recipe.image_size
    assert cli("compound", *arguments)[0] == 0
    fitting = {scale(TINY, *t).image_size for t in grid(0.25, 2.0) if abs(formula(t) - 2) <= 0.3}
    assert {recipe.image_size for recipe in quick.trained} <= fitting
    epochs = {recipe.epochs for recipe in quick.trained}
    assert epochs == ({3} if oracle == "bayesian" else {1, 3})


def test_hyperband_shortens_the_whole_schedule():
    recipe = dataclasses.replace(
        DIGITS, epochs=90, warmup_epochs=5.0, schedule="steps", milestones=[30.0, 60.0], decay_epochs=9.0
    )
    short = searches.shortened(recipe, 3)
    assert (short.epochs, short.milestones) == (3, [1.0, 2.0])
    assert (short.warmup_epochs, short.decay_epochs) == (pytest.approx(5 / 30), pytest.approx(0.3))
    whole = dataclasses.replace(DIGITS, epochs=7, warmup_epochs=7.0)
    assert searches.shortened(whole, 3).warmup_epochs == 3


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
    oracle = read_record(folder / "oracle.json")
    oracle["start_order"].remove("2"), oracle["end_order"].remove("2")
    write_record(folder / "oracle.json", oracle | {"ongoing_trials": {}})
    unknown = read_record(folder / "trial_2" / "trial.json") | {"status": "RUNNING", "score": None}
    unknown["hyperparameters"]["values"]["learning_rate"] = 5e-4
    write_record(folder / "trial_2" / "trial.json", unknown)
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


def test_dimensions_lists_what_failed(cli, quick):
    def accuracy(recipe):
        if recipe.model_args["depth"] > 8:
            raise DivergedError("The loss is nan")
        return 0.5

    quick.accuracy = accuracy
    code, out, _ = cli("dimensions", "--phi", 0, 1)
    rows = {line.split()[0]: line for line in out.splitlines() if line.count("  ") > 2}
    assert code == 0 and {"width", "depth", "resolution", "compound", "baseline"} <= rows.keys()
    assert ["failed" in rows[way] for way in ("width", "depth", "compound")] == [False, True, True]
    assert "The loss is nan" in rows["depth"]


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
        (("compound", "--model", "AlexNet", "--model_args", '{"depth": null, "width": null}'), "ResNetCIFAR"),
        (("recipe", "--space", "nonsense"), "rate"),
        (("recipe", "--space", "reduction"), "it has ratio; ResNetCIFAR takes"),
        (("compound", "--role", "worker"), "--chief HOST:PORT"),
        (("compound", "--role", "chief", "--chief", "0.0.0.0:8000"), "--i_trust_this_network"),
        (("compound", "--role", "chief", "--chief", "127.0.0.1:99999"), "below 65536"),
        (("compound", "--role", "worker", "--chief", "127.0.0.1:1", "--worker", "chief2"), "must not contain chief"),
        (("compound", "--role", "worker", "--workers", "2"), "Pass one of them"),
        (("compound", "--budget", "32", "--step", "0.01"), "Pass a larger --step"),
    ):
        code, _, complaint = cli(*arguments)
        assert code == 2 and said in complaint, arguments


def test_a_worker_reads_no_state_and_says_so_when_its_chief_is_gone(monkeypatch, tmp_path):
    """The chief may write the files just then."""
    for name, value in (("ORACLE_IP", "127.0.0.1"), ("ORACLE_PORT", "9"), ("TUNER_ID", "tuner-0")):
        monkeypatch.setenv(f"KERASTUNER_{name}", value)
    (tmp_path / "oracle.json").write_text("{}")
    hp = keras_tuner.HyperParameters()
    hp.Int("candidate", 0, 1)
    search = searches.Search(tmp_path, {}, hp, None, "exhaustive", trials=2, epochs=1, seeds=1, classes=10)
    tuner = searches.Tuner(search, searches.oracle_of(search))

    def create_trial(tuner_id):
        raise grpc.RpcError

    monkeypatch.setattr(tuner.oracle, "create_trial", create_trial)
    with pytest.raises(WorkerLostError, match="The chief no longer answers"):
        tuner.search()


def test_a_worker_without_a_chief_says_so(monkeypatch):
    for name in ("IP", "PORT"):
        monkeypatch.setenv(f"KERASTUNER_ORACLE_{name}", "")  # what `join` sets goes again
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "")
    with pytest.raises(UserError, match="No chief answers at 127"):
        join("worker", "127.0.0.1:9", "0", trusted=False, patience=0.1)
    assert address_of("10.0.0.1:80", trusted=True) == ("10.0.0.1", 80)


def test_the_place_of_an_option_makes_no_difference():
    def baseline(*words):
        return parse(list(words))[1].baseline

    assert baseline("compound", "--list", "resnet56_cifar") == RECIPES["resnet56_cifar"]
    assert baseline("compound", "resnet56_cifar", "--list") == RECIPES["resnet56_cifar"]
    assert baseline("recipe", "--space", "rate", "resnet18_digits") == RECIPES["resnet18_digits"]
    assert baseline("recipe", "--space", "rate", "--epochs", "3").epochs == 3
    with pytest.raises(UserError, match="There is no recipe 'no_such'"):
        parse(["dimensions", "--epochs", "3", "no_such"])
    # As `fit` takes them: arguments of the network are merged, and another network has another name.
    narrow = RECIPES["efficientnet_narrow_digits"].model_args
    arguments = ("--model_args", '{"drop_connect": 0.5}')
    assert baseline("compound", *arguments).model_args == narrow | {"drop_connect": 0.5} != {"drop_connect": 0.5}
    assert baseline("compound", "resnet18_digits", "--model", "ResNetCIFAR").name == "resnet18_digits-ResNetCIFAR"


def test_numbers_that_make_no_sense_are_refused():
    commands = {
        "compound": {"budget": "0", "tolerance": "-0.1", "step": "0", "seeds": "0", "max_trials": "-1", "workers": "0"},
        "scale": {"phi": "-1"},
        "dimensions": {"phi": "101", "epochs": "0"},
    }
    for command, options in commands.items():
        for option, wrong in options.items():
            for value in (wrong, "nan", "inf"):
                with pytest.raises(UserError, match=option):
                    parse(
                        [command, "--coefficients=c.json"] * (command == "scale")
                        + [command] * (command != "scale")
                        + [f"--{option}={value}"]
                    )
