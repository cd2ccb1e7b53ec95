"""Check first, then change: a command that fails before its first step leaves the run in the folder as it was."""

import errno
import fcntl
import json
import os
import shutil
from pathlib import Path

import keras
import pytest
import tensorflow as tf

import keras_cnns
from tests.photos import add_photo, content, fit, make_photos
from training import files as durable
from training import formats
from training import run as runs
from training.__main__ import main
from training.errors import UserError
from training.run_folder import Run


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """Return the folder of a finished run on photographs."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert fit(photos, folder) == 0
    return folder


@pytest.fixture
def old(finished, tmp_path):
    """Return a copy of that folder."""
    return shutil.copytree(finished, tmp_path / "old")


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


# What is done before the command, with the photographs, the run's folder and an empty one: the command's options.


def one_class(photos, old, empty):
    shutil.copytree(photos / "cat", empty / "one" / "cat")
    return "--data", f"folder:{empty / 'one'}"


def class_without_images(photos, old, empty):
    shutil.copytree(photos, empty / "some")
    (empty / "some" / "elk").mkdir()
    return "--data", f"folder:{empty / 'some'}"


def no_image(photos, old, empty):
    shutil.copytree(photos, empty / "some")
    (empty / "some" / "cat" / "0.png").write_text("not a picture")
    return "--data", f"folder:{empty / 'some'}"


def broken_validation(photos, old, empty):
    for part in ("train", "val", "test"):
        make_photos(empty / "some" / part, count=4)
    for file in (empty / "some" / "val").rglob("*.png"):
        file.write_bytes(file.read_bytes()[:60])  # the header is whole
    return "--data", f"folder:{empty / 'some'}"


def damaged_init(photos, old, empty):
    (empty / "x.safetensors").write_bytes((old / "best.safetensors").read_bytes()[:-9])
    return "--init", empty / "x.safetensors"


def other_init(photos, old, empty):
    keras_cnns.save_weights(keras_cnns.ResNetCIFAR(depth=14, input_shape=(8, 8, 3)), empty / "x.safetensors")
    return "--init", empty / "x.safetensors"


def wrong_classes_in_init(text):
    def prepare(photos, old, empty):
        network = keras_cnns.ResNetCIFAR(depth=8, width=0.25, input_shape=(8, 8, 3), classes=3)
        keras_cnns.save_weights(network, empty / "x.safetensors", {"classes": text})
        return "--init", empty / "x.safetensors"

    return prepare


def wrong_freeze(photos, old, empty):
    shutil.copy(old / "best.safetensors", empty / "x.safetensors")
    return "--init", empty / "x.safetensors", "--freeze", "stage9"


def itself(photos, old, empty):
    return "--init", old


def foreign_file(photos, old, empty):
    (old / "thesis.tex").write_text("years of work")
    return ()


def foreign_state(photos, old, empty):
    (old / "states" / "texas.csv").write_text("years of work")
    return ()


def project(photos, old, empty):
    for name in ("environment.json", "best.safetensors", "states", "export", "tensorboard"):
        (old / name).rename(empty / name)
    return ()


def search(photos, old, empty):
    (old / "search.json").write_text("{}")
    return ()


def linked_lock(photos, old, empty):
    (empty / "file").write_text("precious")
    (old / "lock").symlink_to(empty / "file")
    return ()


def folder_as_lock(photos, old, empty):
    (old / "lock").mkdir()
    return ()


FAILING = {
    "no data": (lambda *_: ("--data", "folder:/nowhere"), 2, "no such folder"),
    "one class": (one_class, 3, "only one class"),
    "a class without images": (class_without_images, 3, "no images"),
    "no image": (no_image, 3, "0.png"),
    "a broken image": (broken_validation, 3, "cannot be decoded"),
    "a large batch": (lambda *_: ("--batch_size", 1000), 2, "batch_size=1000"),
    "no recipe": (lambda *_: ("--epochs", 0), 2, "epochs=0"),
    "wrong model_args": (lambda *_: ("--model_args", '{"depth": 9}'), 2, "cannot be built"),
    "no init": (lambda *_: ("--init", "/nowhere"), 2, "there is no /nowhere"),
    "damaged init": (damaged_init, 2, "not a whole safetensors file"),
    "init of another network": (other_init, 2, "does not fit"),
    "classes of init no JSON": (wrong_classes_in_init("cat"), 2, "not a list of names"),
    "classes of init a number": (wrong_classes_in_init("7"), 2, "not a list of names"),
    "classes of init nested": (wrong_classes_in_init("[" * 100_000), 2, "not a list of names"),
    "wrong freeze": (wrong_freeze, 2, "no level 'stage9'"),
    "init that would be replaced": (itself, 2, "copy the weights to another place"),
    "no cluster": (lambda *_: ("--distribution", "multiworker"), 2, "TF_CONFIG"),
    "a foreign file": (foreign_file, 2, "thesis.tex"),
    "a foreign file among states": (foreign_state, 2, "states/texas.csv"),
    "a project": (project, 2, "holds files but no run"),
    "a search": (search, 2, "search.json"),
    "a lock that is a link": (linked_lock, 2, "symbolic link"),
    "a lock that is a folder": (folder_as_lock, 2, "lock: is a directory"),
}


@pytest.mark.parametrize("case", FAILING)
def test_overwrite_that_fails_leaves_the_run_as_it_was(case, photos, old, tmp_path, capsys):
    prepare, code, words = FAILING[case]
    (tmp_path / "empty").mkdir()
    options = prepare(photos, old, tmp_path / "empty")
    before = content(tmp_path)
    assert fit(photos, old, "--overwrite", *options) == code
    assert words in capsys.readouterr().err
    assert content(tmp_path) == before


@pytest.mark.parametrize("case", ["one class", "a large batch", "wrong model_args", "init of another network"])
def test_a_new_run_that_fails_leaves_no_folder(case, photos, finished, tmp_path, capsys):
    prepare, code, words = FAILING[case]
    options = prepare(photos, finished, tmp_path)
    before = content(tmp_path)
    assert fit(photos, tmp_path / "some" / "where", *options) == code
    assert words in capsys.readouterr().err
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("where", "name", "code"),
    [
        (durable, "free_bytes", 4),  # not enough for a larger network
        (Path, "write_text", 4),  # the first files of the new run
        (durable.os, "fsync", 4),
        (runs, "load_data", 130),
        (runs, "environment", 2),
    ],
)
def test_overwrite_on_a_full_disk_or_stopped_leaves_the_run_as_it_was(where, name, code, photos, old, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    def fail(*_, **__):
        raise UserError("no device")

    before = content(old)
    fault = {"free_bytes": lambda path: 1, "load_data": stop, "environment": fail}.get(name, no_space)
    monkeypatch.setattr(where, name, fault)
    assert fit(photos, old, "--overwrite", "--model_args", '{"depth": 8}') == code
    monkeypatch.undo()
    assert content(old) == before


def test_overwrite_leaves_the_run_and_the_lock_of_another_process(photos, old, capsys):
    with durable.locked(old):
        before = content(old)
        assert fit(photos, old, "--overwrite") == 2
        assert f"in use by process {os.getpid()}" in capsys.readouterr().err
        assert main(["export", str(old)]) == 2
        assert content(old) == before
        with open(old / "lock") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_lock_holds_until_the_new_run_is_done(photos, old, tmp_path):
    """No process can begin in the folder while it is overwritten, and none of the old files is left."""
    link = tmp_path / "link"
    link.symlink_to(old)
    (old / "init.json").write_text("{}")
    (old / "x.tmp-1").symlink_to(tmp_path)  # as if left by a killed process
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if not seen:
                seen.append(sorted(path.name for path in old.iterdir()))
                with pytest.raises(UserError, match="in use"), durable.locked(link):
                    pass

        def state(self):
            return {}

        def load_state(self, state):
            pass

    recipe = Run.open(old).recipe
    run = runs.fit(recipe, link, callbacks=[Look()], options=runs.FitOptions(overwrite=True, picture_epochs=0))
    names = ["classes.json", "data.json", "environment.json", "images.tsv", "lock", "recipe.json", "tensorboard"]
    assert seen == [names]
    assert link.is_symlink() and run.results()["best_epoch"]
    assert not (old / "lock").exists() and tmp_path.exists()


def test_wrong_callbacks_are_found_before_the_run_is_replaced(old):
    before = content(old)
    with pytest.raises(UserError, match="monitors"):
        callbacks = [keras.callbacks.EarlyStopping("no")]
        runs.fit(Run.open(old).recipe, old, callbacks=callbacks, options=runs.FitOptions(overwrite=True))
    assert content(old) == before


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("file", "file exists"),
        ("file/run", "not a directory"),
        ("/proc/run", "no such file or directory"),
        ("a\0b", "unprintable characters"),
        ("caf\udce9", "unprintable characters"),
        ("x" * 300, "File name too long"),
    ],
)
def test_an_impossible_run_folder_is_refused(place, words, photos, tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    for options in ((), ("--overwrite",)):
        assert fit(photos, tmp_path / place, *options) == 2
        assert words in capsys.readouterr().err
    assert content(tmp_path) == {"file": b"precious"}


def test_a_run_is_not_begun_among_other_files(photos, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert fit(photos, tmp_path) == 2
    assert "holds files but no run (thesis.tex)" in capsys.readouterr().err
    assert content(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_read_only_folder_is_reported(old, photos, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    before = content(old)
    monkeypatch.setattr(durable.os, "open", refuse)
    for words in (["export", str(old)], ["fit", str(old / "recipe.json"), "--run", str(old), "--overwrite"]):
        assert main(words) == 4
        assert "could not be written: read-only file system" in capsys.readouterr().err
    monkeypatch.undo()
    assert content(old) == before


def test_an_export_that_fails_leaves_the_old_one(old, monkeypatch, capsys):
    def full(network, description, folder):
        folder.mkdir()
        (folder / "saved_model.pb").write_text("half")
        raise tf.errors.ResourceExhaustedError(None, None, "saved_model.pb; No space left on device")

    before = content(old)
    with monkeypatch.context() as patch:
        patch.setattr(formats, "write_saved_model", full)
        assert main(["export", str(old)]) == 4
    assert "the disk is full" in capsys.readouterr().err
    assert content(old) == before
    (old / "export.tmp-1").mkdir()  # of a killed one
    assert main(["export", str(old)]) == 0
    assert content(old).keys() == before.keys()
    assert Run.open(old).has_whole_export()


def test_resuming_other_data_is_refused_with_the_differences(photos, old, tmp_path, capsys):
    for name in ("metrics.json", "export.json"):
        (old / name).unlink()
    grown, renamed = shutil.copytree(photos, tmp_path / "grown"), shutil.copytree(photos, tmp_path / "renamed")
    recipe = json.loads((old / "recipe.json").read_text())
    add_photo(grown / "cat" / "new.png")
    (renamed / "cat").rename(renamed / "zebra")
    before = content(old)
    shutil.move(photos, tmp_path / "away")
    try:
        for data, words in ((grown, "new.png"), (renamed, "classes: cat, dog, fox there, dog, fox, zebra now")):
            shutil.copytree(data, photos)
            assert main(["fit", str(old / "recipe.json"), "--run", str(old)]) == 2
            complaint = capsys.readouterr().err
            assert words in complaint and ("--force" in complaint) == (data == grown)
            assert content(old) == before
            if data == renamed:
                assert main(["fit", str(old / "recipe.json"), "--run", str(old), "--force"]) == 2
                assert main(["evaluate", str(old)]) == 3
            shutil.rmtree(photos)
        assert content(old) == before
        shutil.copytree(grown, photos)
        assert main(["fit", str(old / "recipe.json"), "--run", str(old), "--force"]) == 0
        assert recipe == json.loads((old / "recipe.json").read_text())
        assert "new.png" in (old / "images.tsv").read_text()
    finally:
        shutil.rmtree(photos, ignore_errors=True)
        shutil.move(tmp_path / "away", photos)
