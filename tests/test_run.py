"""A run folder: one process at a time, enough room, the same recipe and the same versions."""

import json
import re
import shutil

import pytest

from training import checkpoint, run
from training.__main__ import main
from training.errors import UserError

SMALL = ("--model", "ResNetCIFAR", "--model_args", '{"depth": 8}', "--image_size", "8", "--batch_size", "128")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """The folder of a run of a small network."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    assert fit(folder) == 0
    return folder


@pytest.fixture
def unfinished(small_run, tmp_path):
    """A run that has been trained but not evaluated yet."""
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    (folder / "metrics.json").unlink()
    return folder


def fit(folder, *arguments):
    return main(["fit", "resnet18_digits", *SMALL, "--epochs", "2", "--run", str(folder), *arguments])


def test_a_folder_in_use_is_refused_with_who_uses_it(unfinished, capsys):
    with checkpoint.locked(unfinished):
        assert fit(unfinished) == 2
    complaint = capsys.readouterr().err
    assert f"{unfinished} is in use by process " in complaint
    assert "another folder" in complaint
    with checkpoint.locked(unfinished):
        pass  # nobody has it now


def test_what_a_killed_process_left_half_written_is_removed(unfinished):
    for name in ("recipe.json.tmp-1", "states/epoch0001-step000001-00.safetensors.tmp-1"):
        (unfinished / name).write_text("half")
    (unfinished / "export.tmp-1").mkdir()
    before = sorted(path.name for path in (unfinished / "states").iterdir() if "tmp" not in path.name)
    with checkpoint.locked(unfinished):
        assert not list(unfinished.rglob("*.tmp-*"))
    assert sorted(path.name for path in (unfinished / "states").iterdir()) == before


def test_other_versions_are_refused_unless_forced(unfinished, capsys):
    file = unfinished / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"keras": "3.0.0"}))
    assert fit(unfinished) == 2
    complaint = capsys.readouterr().err
    assert "keras: '3.0.0' there" in complaint
    assert "--force" in complaint
    assert "tensorflow" not in complaint
    assert fit(unfinished, "--force") == 0  # all epochs are done: only the evaluation is made again
    assert (unfinished / "metrics.json").exists()


def test_a_disk_that_is_too_small_is_found_before_the_first_step(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "free_bytes", lambda path: 2**20)
    assert fit(tmp_path / "run") == 4
    complaint = capsys.readouterr().err
    assert "MiB are needed for checkpoints and export and 1 MiB are free" in complaint
    assert not (tmp_path / "run" / "states").exists()


def test_a_folder_that_cannot_be_made_is_a_lack_of_resources(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run.Path, "mkdir", refuse)
    assert fit(tmp_path / "run") == 4
    assert "could not be written: permission denied" in capsys.readouterr().err


def test_out_of_memory_names_what_to_make_smaller(tmp_path, monkeypatch, capsys):
    import tensorflow as tf

    def exhausted(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[32,64]\ndump")

    monkeypatch.setattr(run, "train", exhausted)
    assert fit(tmp_path / "run") == 4
    complaint = capsys.readouterr().err
    assert "out of memory: OOM when allocating" in complaint
    assert "half the --batch_size" in complaint
    assert "dump" not in complaint


def test_a_loss_that_is_no_number_exits_6_and_names_the_images(tmp_path, capsys):
    assert fit(tmp_path / "run", "--optimizer", "sgd", "--learning_rate", "1e30", "--warmup_epochs", "0") == 6
    complaint = capsys.readouterr().err
    assert re.search(r"of epoch 1, at a learning rate of \S+e\+\d+. The images were number \d+, ", complaint)
    assert "state()" not in complaint  # the dashboards remember nothing
    assert "No weights and 0 states are kept" in complaint


def test_every_state_damaged_is_a_damaged_run(unfinished, capsys):
    for file in (unfinished / "states").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert fit(unfinished) == 5
    complaint = capsys.readouterr().err
    assert "is damaged" in complaint
    assert "--overwrite" in complaint


def test_a_damaged_newest_state_costs_the_steps_since_the_one_before(unfinished, small_run, capsys):
    newest = checkpoint.Checkpoints(unfinished / "states").files()[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    assert fit(unfinished) == 0
    assert f"{newest} is damaged" in capsys.readouterr().err
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (unfinished, small_run))
    assert ours == theirs


def test_damaged_weights_are_not_evaluated(unfinished, capsys):
    weights = unfinished / "best.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    assert main(["evaluate", str(unfinished)]) == 5
    complaint = capsys.readouterr().err
    assert "best.safetensors" in complaint
    assert "SHA-256" in complaint
    assert "--overwrite" in complaint


def test_a_callback_that_waits_for_what_is_not_logged_is_refused(tmp_path):
    import keras

    from training.recipes import RECIPES

    with pytest.raises(UserError, match=r"monitors 'val_acc'.*val_accuracy"):
        run.fit(RECIPES["googlenet_digits"], tmp_path / "run", callbacks=[keras.callbacks.EarlyStopping("val_acc")])
