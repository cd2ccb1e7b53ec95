"""`fit --seeds`: a run for each seed, what they have in common, and their comparison."""

import dataclasses
import json
import statistics

import pytest

from tests.dashboard_helpers import events, series
from tests.tiny import TINY
from training import __main__ as training
from training import compare
from training.group import group_summary
from training.run import summary
from training.run_folder import Run

SEEDS = ["fit", "resnet18_digits", "--name", "tiny", "--picture_epochs", "0", "--export", "false"]
SEEDS += [
    word
    for name in ("model", "image_size", "batch_size", "epochs", "optimizer", "warmup_epochs")
    for word in (f"--{name}", str(getattr(TINY, name)))
]
SEEDS += ["--model_args", json.dumps(TINY.model_args)]


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """The folder of two runs with the seeds 3 and 4."""
    folder = tmp_path_factory.mktemp("groups") / "pair"
    assert training.main([*SEEDS, "--seed", "3", "--seeds", "2", "--run", str(folder)]) == 0
    return folder


def results(folder):
    return [Run.open(folder / f"seed{seed}").results() for seed in (3, 4)]


def test_each_seed_has_its_run(group):
    runs = [Run.open(folder) for folder in sorted(group.glob("seed*"))]
    assert [run.recipe.seed for run in runs] == [3, 4]
    assert dataclasses.replace(runs[0].recipe, seed=4) == runs[1].recipe
    assert not any(run.export.exists() or "SavedModel" in summary(run) for run in runs)  # --export false
    accuracies = [run.results()["test"]["accuracy"] for run in runs]
    assert f"{statistics.mean(accuracies):.2%} of the test images right" in group_summary(runs)
    assert f"{min(accuracies):.2%} to {max(accuracies):.2%}" in group_summary(runs)


def test_tensorboard_shows_mean_least_and_greatest(group):
    accuracies = [found["history"][0]["val_accuracy"] for found in results(group)]
    losses = [found["history"][0]["val_loss"] for found in results(group)]
    for name, over in (("mean", statistics.mean), ("least", min), ("greatest", max)):
        assert series(events(group, name), "accuracy/main") == [(1, pytest.approx(over(accuracies)))]
        assert series(events(group, name), "loss/main") == [(1, pytest.approx(over(losses)))]


def test_the_same_command_finds_all_runs_finished(group, capsys):
    states = {file: file.stat().st_mtime_ns for file in group.glob("seed*/states/*")}
    assert training.main([*SEEDS, "--seed", "3", "--seeds", "2", "--run", str(group)]) == 0
    assert {file: file.stat().st_mtime_ns for file in group.glob("seed*/states/*")} == states
    assert "2 seeds: on average" in capsys.readouterr().out


def test_a_run_folder_is_not_a_group(group, capsys):
    assert training.main([*SEEDS, "--seeds", "2", "--run", str(group / "seed3")]) == 2
    assert "holds a single run" in capsys.readouterr().err


def test_several_processes_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert training.main([*SEEDS, "--seeds", "2", "--run", str(tmp_path / "new")]) == 2
    assert "several processes train one run at a time" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_comparison_has_a_row_for_all_seeds(group, tmp_path):
    (row,) = compare.compare([group.parent], tmp_path, measure=lambda folder: (2.5, 64.0))
    accuracies = [found["test"]["accuracy"] for found in results(group)]
    assert row.accuracies == dict(zip((3, 4), accuracies, strict=True))
    assert (row.run, row.accuracy) == ("pair", statistics.mean(accuracies))
    assert f"| {min(accuracies):.2%} to {max(accuracies):.2%} | 2 |" in (tmp_path / "compare.md").read_text()
    assert len((tmp_path / "compare.csv").read_text().splitlines()) == 3
