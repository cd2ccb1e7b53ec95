"""Searches: they resume, survive damaged files, list failed trials, and leave other folders alone."""

import dataclasses
import errno
import os
import signal

import grpc
import pytest
import tensorflow as tf

from tests.tiny import TINY, TRIPLES
from training.errors import DivergedError, Interrupted, WorkerLostError
from training.files import locked
from training.loop import Progress
from training.recipes import DIGITS
from tuning.__main__ import main
from tuning.folder import read_record, write_record
from tuning.oracles import make_oracle
from tuning.search import Tuner, shortened
from tuning.study import Candidate, list_space

pytest_plugins = ["tests.searching"]


def test_an_interrupted_search_keeps_its_finished_trials(cli, training):
    def accuracy(recipe):
        if len(training.trained) == 2:
            raise Interrupted(signal.SIGTERM, Progress(step=3))
        return 0.5

    training.accuracy = accuracy
    assert cli("compound", "--triples", *TRIPLES)[0] == 143
    code, out, _ = cli("compound", "--triples", *TRIPLES)
    assert code == 0 and out.count("50.00%") >= 2
    first, second, again = training.trained
    assert first != second == again


def test_the_best_of_equal_trials_stays_the_same(cli, training, tmp_path, monkeypatch):
    """keras-tuner reads its trials in any order."""
    words = ("recipe", "--space", "rate", "--oracle", "random", "--max_trials", 3)
    _, first, _ = cli(*words)
    glob = tf.io.gfile.glob
    monkeypatch.setattr(tf.io.gfile, "glob", lambda pattern: sorted(glob(pattern), reverse=True))
    _, again, _ = cli(*words)
    assert first.endswith(again) and again.count("50.00%") == 4


def test_damaged_files_are_detected_and_do_not_change_the_result(cli, training, tmp_path):
    """Truncated, of another type, with other values, emptied or removed: coefficients.json is the same afterwards."""
    training.accuracy = lambda recipe: recipe.model_args["width"]
    cli("compound", "--triples", *TRIPLES)
    folder = tmp_path / "search"
    (folder / "tuner0.json").write_text("{}")  # as an earlier version wrote
    before = (folder / "coefficients.json").read_bytes()
    best = next(folder.glob("trials/alpha1_*/result.json"))
    changes = {
        "truncated": lambda text: text[: len(text) // 2] + "{",
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
        *((oracle, "truncated"), (oracle, "empty"), (networks, "a list"), (networks, "empty")),
        *((trial, "empty"), (trial, "a digit"), (trial, "removed")),
        *((best, "truncated"), (best, "nested"), (best, "not UTF-8"), (best, "another type"), (best, "removed")),
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


def test_a_search_whose_settings_are_damaged_is_not_resumed(cli, training, tmp_path):
    cli("compound", "--triples", *TRIPLES)
    for content in ("[]", '{"recipe": 1}', "{"):
        (tmp_path / "search" / "search.json").write_text(content)
        code, _, complaint = cli("compound", "--triples", *TRIPLES)
        assert code == 5 and "search.json is damaged. Pass --overwrite" in complaint
    assert cli("compound", "--triples", *TRIPLES, "--overwrite")[0] == 0


def test_a_trial_that_the_oracle_does_not_know_is_removed(cli, training, tmp_path):
    """A process that is killed between writing a trial and writing the oracle leaves one."""
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


@pytest.mark.parametrize(
    "words",
    [
        ("compound", "--triples", *TRIPLES),
        ("recipe", "--space", "rate", "--oracle", "random", "--max_trials", "2"),
    ],
    ids=lambda words: words[0],
)
def test_failed_trials_are_listed_with_the_reason(cli, training, words):
    training.accuracy = fail_except_first(training)
    code, out, _ = cli(*words)
    assert code == 0
    assert [line for line in out.splitlines() if "failed" in line and "The loss is nan" in line]


def test_scale_lists_failed_trials_with_the_reason(cli, training, tmp_path, capsys):
    cli("compound", "--triples", "1/1.4/1")
    training.trained.clear()
    training.accuracy = fail_except_first(training)
    coefficients = str(tmp_path / "search" / "coefficients.json")
    assert main(["scale", "--coefficients", coefficients, "--search", str(tmp_path / "scaled")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "failed" in line and "The loss is nan" in line]) == 2


def fail_except_first(training):
    def accuracy(recipe):
        if len(training.trained) > 1:
            raise DivergedError("The loss is nan")
        return 0.5

    return accuracy


def test_more_failures_than_keras_tuner_allows_do_not_end_the_search(cli, training):
    def accuracy(recipe):
        if recipe.image_size == 8:
            return 0.25
        raise DivergedError("nan")

    training.accuracy = accuracy
    # In the order of the search four fail before the last succeeds.
    code, out, _ = cli("compound", "--triples", "1/1/1.4", "1.05/1/1.4", "1.25/1/1.25", "1.2/1.1/1.2", "1/1.4/1")
    assert code == 0 and "25.00%" in out


def test_another_search_in_the_folder_is_refused_with_the_differences(cli, training):
    cli("compound", "--triples", "1/1.4/1")
    code, _, complaint = cli("compound", "--triples", "1/1.4/1", "--epochs", 2)
    assert code == 2 and "recipe.epochs: 1 there, 2 now" in complaint and "budget" not in complaint
    assert cli("compound", "--triples", "1/1.4/1", "--epochs", 2, "--overwrite")[0] == 0


def content(folder):
    """Return {file: its bytes} of everything in a folder except for locks."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_an_overwriting_command_that_fails_leaves_the_search_unchanged(cli, training, tmp_path, monkeypatch):
    cli("compound", "--triples", *TRIPLES)
    folder = tmp_path / "search"
    before = content(folder)

    def fails(code, message, *arguments):
        ended, _, complaint = cli(*arguments, "--overwrite")
        assert ended == code and message in complaint, (arguments, complaint)
        assert content(folder) == before, arguments

    fails(2, "Did you mean", "compound", "--model", "ResNetCIFARR")
    fails(2, "cannot be scaled", "compound", "--model", "VGG11", "--model_args", '{"depth": null, "width": null}')
    fails(2, "nearest", "compound", "--tolerance", 0.001, "--step", 0.3)
    fails(2, "seed=2147483648", "compound", "--triples", *TRIPLES, "--seed", 2**31 - 1, "--seeds", 2)
    fails(2, "no coefficients", "dimensions", "--coefficients", tmp_path / "none.json")
    fails(2, "takes depth", "recipe", "--space", "reduction")
    with locked(folder):
        fails(2, "in use by process", "compound", "--triples", "1/1.4/1")
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    fails(3, "no images", "compound", "--triples", "1/1.4/1", "--data", f"folder:{tmp_path / 'photos'}")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        fails(4, "could not be written", "compound", "--triples", "1/1.4/1")
    (trial,) = folder.glob("trials/alpha1_*")
    for file in (folder / "thesis.tex", trial / "notes.txt"):
        file.write_text("mine")
        before = content(folder)
        fails(2, f"contains more than a search ({file})", "compound", "--triples", "1/1.4/1")
        file.unlink()
    locks = []
    training.accuracy = lambda recipe: locks.append((folder / "lock").exists()) or 0.5
    assert cli("compound", "--triples", "1/1.4/1", "--overwrite")[0] == 0
    assert locks == [True] and [path.name for path in folder.glob("trials/*")] == [trial.name]


def full(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("names", [("recipe.json", "src"), ("search.json", "src"), ("search.json",)])
def test_one_file_name_does_not_make_a_folder_a_search(cli, training, tmp_path, names):
    folder = tmp_path / "search"
    folder.mkdir()
    for name in names:
        (folder / name).write_text('{"mine": 1}')
    before = content(folder)
    for arguments in ((), ("--overwrite",)):
        code, _, complaint = cli("compound", "--triples", "1/1.4/1", *arguments)
        assert code == 2 and "contains files but no search" in complaint
    assert content(folder) == before and not (folder / "lock").exists()


def test_hyperband_shortens_the_whole_schedule():
    recipe = dataclasses.replace(
        DIGITS, epochs=90, warmup_epochs=5.0, schedule="steps", milestones=[30.0, 60.0], decay_epochs=9.0
    )
    short = shortened(recipe, 3)
    assert (short.epochs, short.milestones) == (3, [1.0, 2.0])
    assert (short.warmup_epochs, short.decay_epochs) == (pytest.approx(5 / 30), pytest.approx(0.3))
    whole = dataclasses.replace(DIGITS, epochs=7, warmup_epochs=7.0)
    assert shortened(whole, 3).warmup_epochs == 3


def test_a_worker_reads_no_state_and_says_so_when_its_chief_is_gone(monkeypatch, tmp_path):
    """The chief may be writing the files at that moment."""
    for name, value in (("ORACLE_IP", "127.0.0.1"), ("ORACLE_PORT", "9"), ("TUNER_ID", "tuner-0")):
        monkeypatch.setenv(f"KERASTUNER_{name}", value)
    (tmp_path / "oracle.json").write_text("{}")
    space = list_space([Candidate("tiny", TINY, {})] * 2)
    oracle = make_oracle("exhaustive", space.hyperparameters, trials=2, epochs=1, seed=0)
    tuner = Tuner(oracle, tmp_path, train=None)

    def create_trial(tuner_id):
        raise grpc.RpcError

    monkeypatch.setattr(tuner.oracle, "create_trial", create_trial)
    with pytest.raises(WorkerLostError, match="The chief no longer answers"):
        tuner.search()
