"""A run folder: one process at a time, enough room, the same recipe, versions and data, and files that belong to it."""

import dataclasses
import json
import os
import re
import shutil
import signal
from pathlib import Path

import keras
import pytest
import tensorflow as tf

import keras_cnns
from tests import photos as tiny
from training import checkpoint, files, inference, machine, run
from training.__main__ import main
from training.data_record import DataRecord
from training.errors import Interrupted, UserError
from training.finetuning import trained_on
from training.loop import Progress
from training.run_folder import Run


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return tiny.make_photos(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="module")
def small_run(photos, tmp_path_factory):
    """Return the folder of a run of a small network."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    assert tiny.fit(photos, folder) == 0
    return folder


@pytest.fixture
def finished(small_run, tmp_path):
    """Return a copy of that folder."""
    return shutil.copytree(small_run, tmp_path / "run")


@pytest.fixture
def fit(photos):
    """Return a function (folder, *options) -> exit code of `fit` on the photographs."""
    return lambda folder, *options: tiny.fit(photos, folder, *options)


@pytest.fixture
def unfinished(finished):
    """Return the folder of a run that has been trained but not evaluated yet."""
    (finished / "metrics.json").unlink()
    return finished


def test_a_folder_in_use_is_refused_with_the_process_that_uses_it(unfinished, capsys, fit):
    with files.locked(unfinished):
        assert fit(unfinished) == 2
    complaint = capsys.readouterr().err
    assert f"{unfinished} is in use by process " in complaint
    assert "another folder" in complaint
    with files.locked(unfinished):
        pass  # it is free again


def test_unfinished_files_of_a_killed_process_are_removed(unfinished):
    for name in ("recipe.json.tmp-1", "states/epoch0001-step000001-00.safetensors.tmp-1"):
        (unfinished / name).write_text("half")
    (unfinished / "export.tmp-1").mkdir()
    before = sorted(path.name for path in (unfinished / "states").iterdir() if "tmp" not in path.name)
    with files.locked(unfinished):
        assert not list(unfinished.rglob("*.tmp-*"))
    assert sorted(path.name for path in (unfinished / "states").iterdir()) == before


def test_weights_that_are_loaded_are_not_drawn_before(finished, monkeypatch):
    monkeypatch.setattr(keras_cnns, "load_weights", lambda network, file: None)
    weights = inference.trained_network(Run.open(finished)).weights
    assert weights and not any(keras.ops.any(variable != 0) for variable in weights)


def test_other_versions_are_refused_unless_forced(unfinished, capsys, fit):
    file = unfinished / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"keras": "3.0.0"}))
    assert fit(unfinished) == 2
    complaint = capsys.readouterr().err
    assert "keras: '3.0.0' there" in complaint
    assert "--force" in complaint
    assert "tensorflow" not in complaint
    assert fit(unfinished, "--force") == 0  # all epochs are done: only the evaluation is made again
    assert (unfinished / "metrics.json").exists()


def test_a_disk_that_is_too_small_is_found_before_the_first_step(tmp_path, monkeypatch, capsys, fit):
    monkeypatch.setattr(files, "free_bytes", lambda path: 2**20)
    needed = []
    for options in ((), ("--ema", "0.9")):
        assert fit(tmp_path / "run", "--model_args", '{"depth": 8, "width": 4}', *options) == 4
        complaint = capsys.readouterr().err
        needed.append(
            int(re.search(r"(\d+) MiB are needed for checkpoints and export and 1 MiB are free", complaint)[1])
        )
        assert not (tmp_path / "run").exists()
    assert needed[1] / needed[0] == pytest.approx(19 / 15, rel=0.02)  # the average is in each of four states


def test_a_folder_that_cannot_be_created_is_a_resource_error(tmp_path, monkeypatch, capsys, fit):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert fit(tmp_path / "run") == 4
    assert "could not be written: permission denied" in capsys.readouterr().err


def test_out_of_memory_names_what_to_reduce(tmp_path, monkeypatch, capsys, fit):
    def exhausted(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[32,64]\ndump")

    monkeypatch.setattr(run, "train", exhausted)
    assert fit(tmp_path / "run") == 4
    complaint = capsys.readouterr().err
    assert "out of memory: OOM when allocating" in complaint
    assert "half the --batch_size" in complaint
    assert "dump" not in complaint


def test_a_non_finite_loss_exits_6_and_names_the_images(tmp_path, capsys, fit):
    assert fit(tmp_path / "run", "--optimizer", "sgd", "--learning_rate", "1e30", "--warmup_epochs", "0") == 6
    complaint = capsys.readouterr().err
    assert re.search(r"of epoch 1, at a learning rate of \S+e\+\d+. The images were .*/\d+.png, ", complaint)
    assert "state()" not in complaint  # the dashboards have no state
    assert "No weights and 0 states are kept" in complaint


def test_a_run_without_an_undamaged_state_is_damaged(unfinished, capsys, fit):
    for file in (unfinished / "states").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert fit(unfinished) == 5
    complaint = capsys.readouterr().err
    assert "is damaged" in complaint
    assert "--overwrite" in complaint


def test_a_damaged_newest_state_costs_the_steps_since_the_previous_one(unfinished, small_run, capsys, fit):
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


def damages(content):
    """Return {damage: damaged content of a file}."""
    return {
        "empty": b"",
        "no UTF-8": b"\xff" + content,
        "cut": content[: len(content) // 2],
        "a list": b"[1]",
        "gone": None,
    }


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("recipe.json", ("predict", "evaluate", "export", "fit")),
        ("classes.json", ("predict", "evaluate", "export", "fit")),
        ("best.safetensors", ("predict", "evaluate", "export", "fit")),
        ("data.json", ("evaluate",)),
        ("images.tsv", ("evaluate",)),
        ("environment.json", ("evaluate",)),
        ("metrics.json", ("fit",)),
    ],
)
def test_a_damaged_file_of_a_run_is_named(name, commands, finished, photos, capsys, fit):
    file = finished / name
    content = file.read_bytes()
    for damage, damaged in damages(content).items():
        if damaged is None:
            file.unlink()
        else:
            file.write_bytes(damaged)
        if damage == "gone" and name == "metrics.json":
            continue  # the run is not finished yet
        for command in commands:
            code = (
                fit(finished)
                if command == "fit"
                else main([command, str(finished), *([str(photos)] * (command == "predict"))])
            )
            out, complaint = capsys.readouterr()
            no_run = damage == "gone" and name == "recipe.json" and command != "fit"
            assert (damage, command, code) == (damage, command, 2 if no_run else 5)
            assert name.split(".")[0] in complaint and "SavedModel" not in out


def test_files_of_another_run_are_found(small_run, finished, photos, tmp_path, capsys, fit):
    """Each file is of the same network and has a valid checksum."""
    theirs = Run(tmp_path, dataclasses.replace(Run.open(small_run).recipe, learning_rate=0.5))
    ours = Run.open(finished)
    network = inference.trained_network(ours)
    results, (arrays, progress) = ours.results(), ours.checkpoints.load()

    def check(commands, words):
        for command in commands:
            what = [str(photos)] if command == "predict" else []
            assert (fit(finished) if command == "fit" else main([command, str(finished), *what])) == 5
            complaint = capsys.readouterr().err
            assert re.search(words, complaint) and "--overwrite" in complaint
        for file in ("best.safetensors", "classes.json", "metrics.json", "recipe.json"):
            shutil.copy(small_run / file, finished)
        shutil.rmtree(finished / "states")
        shutil.copytree(small_run / "states", finished / "states")

    reading = ("predict", "evaluate", "export", "fit")
    classes = json.dumps(ours.class_names)
    keras_cnns.save_weights(network, ours.best, {"recipe": theirs.digest, "classes": classes})
    check(reading, "best.safetensors does not belong to the recipe.json")
    keras_cnns.save_weights(network, ours.best, {"recipe": ours.digest, "classes": classes})
    check(["fit"], "best.safetensors is damaged")  # undamaged, but not the one that was tested
    (finished / "classes.json").write_text(json.dumps(["cat", "dog", "fux"]))
    check(reading, "best.safetensors does not belong to the classes.json")
    (finished / "recipe.json").write_text(ours.recipe.to_json().replace('"image_size": 8', '"image_size": 9'))
    check(reading[:-1], "best.safetensors does not belong to the recipe.json")
    shutil.copy(ours.best, theirs.best)
    theirs.write_results(results)
    shutil.copy(theirs.metrics, ours.metrics)
    check(["fit"], "metrics.json is damaged, or does not belong")
    ours.metrics.write_text(ours.metrics.read_text().replace("0.", "1.", 1))
    check(["fit"], "metrics.json is damaged, or does not belong")
    for file in ours.checkpoints.files():
        file.unlink()
    check(["fit"], "states is missing or empty")
    for file in ours.checkpoints.files():
        file.unlink()
    theirs = checkpoint.Checkpoints(ours.checkpoints.folder, theirs.digest)
    theirs.save(arrays, progress)
    check(["fit"], "every state is damaged or of another run")
    assert fit(finished) == 0


def test_a_finished_run_gets_its_export_back(finished, capsys, fit):
    for damage in (shutil.rmtree, lambda export: (export / "saved_model.pb").write_bytes(b"")):
        damage(finished / "export")
        assert fit(finished) == 0
        assert f"{finished / 'export'} is missing or damaged, and is written again" in capsys.readouterr().out
        assert tf.saved_model.load(str(finished / "export")).signatures
    assert fit(finished) == 0
    assert "written again" not in capsys.readouterr().out


class StopInStep(keras.callbacks.Callback):
    """Stops the training in a step, as a kill would."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self.step:
            raise KeyboardInterrupt

    def state(self):
        return {}

    def load_state(self, state):
        pass


def test_the_same_call_resumes_on_another_machine_and_without_init(small_run, photos, tmp_path, monkeypatch, capsys):
    """In the default folder, although "auto" means something else; `evaluate` finds the data from another directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(photos)
    shutil.copy(small_run / "best.safetensors", tmp_path / "init.safetensors")
    recipe = dataclasses.replace(
        Run.open(small_run).recipe,
        init="init.safetensors",
        data="folder:photos",
        **dict.fromkeys(machine.DECIDED_ONCE, "auto"),
    )
    with pytest.raises(KeyboardInterrupt):
        options = run.FitOptions(save_steps=1, picture_epochs=0, export=False)
        run.fit(recipe, callbacks=[StopInStep(2)], options=options)
    opening = capsys.readouterr().out
    assert f"network      ResNetCIFAR, {5007:,} parameters, 8 pixels" in opening
    assert "3 classes, 27 images to train, 3 to validate, 6 to test" in opening
    assert "each epoch leaves out 3, different ones each time, so that all batches have 8" in opening
    (folder,) = (tmp_path / "runs").iterdir()
    (tmp_path / "init.safetensors").unlink()
    monkeypatch.setattr(machine, "found_distribution", lambda: "mirrored")
    there = run.environment()
    monkeypatch.setattr(run, "environment", lambda: there | {"devices": ["GPU", "GPU"]})
    again = run.FitOptions(picture_epochs=0, export=False)
    with pytest.raises(UserError, match=r"devices: \['CPU.* there, \['GPU', 'GPU'\] now.*--force"):
        run.fit(recipe, callbacks=[StopInStep(99)], options=again)
    resumed = run.fit(recipe, callbacks=[StopInStep(99)], options=dataclasses.replace(again, force=True))
    assert resumed.folder.resolve() == folder and list((tmp_path / "runs").iterdir()) == [folder]
    assert resumed.recipe.distribution == "none"
    monkeypatch.chdir("/")
    assert main(["evaluate", str(folder)]) == 0
    assert "6 test images" in capsys.readouterr().out


def test_fit_takes_a_recipe_or_its_name(tmp_path):
    with pytest.raises(UserError, match=r"no recipe 'resnet18_digit'.*resnet18_digits"):
        run.fit("resnet18_digit", tmp_path / "run")
    with pytest.raises(UserError, match="recipe=7: it must be a Recipe, or the name of one"):
        run.fit(7, tmp_path / "run")
    with pytest.raises(UserError, match=r"monitors 'val_acc'.*val_accuracy"):
        run.fit("googlenet_digits", tmp_path / "run", callbacks=[keras.callbacks.EarlyStopping("val_acc")])
    assert not (tmp_path / "run").exists()


def test_after_a_signal_in_the_last_epoch_the_remaining_work_is_named(unfinished, monkeypatch, capsys, fit):
    def train(*_, **__):
        raise Interrupted(signal.SIGTERM, Progress(epoch=2))

    monkeypatch.setattr(run, "train", train)
    assert fit(unfinished) == 143
    assert "training is complete: the same command evaluates the test images and exports" in capsys.readouterr().err


@pytest.mark.parametrize("error", [tf.errors.NotFoundError, tf.errors.PermissionDeniedError, tf.errors.DataLossError])
def test_an_image_that_vanishes_is_named(error, unfinished, photos, tmp_path, monkeypatch, capsys, fit):
    gone = photos / "cat" / "0.png"

    def train(*_, **__):
        gone.rename(tmp_path / "gone")
        raise error(None, None, f"{gone}; No such file or directory")

    monkeypatch.setattr(run, "train", train)
    try:
        assert fit(unfinished) == 3
    finally:
        (tmp_path / "gone").rename(gone)
    assert str(gone) in capsys.readouterr().err


def test_an_image_that_vanishes_before_predict_reads_it_is_named(finished, photos, tmp_path, monkeypatch, capsys):
    gone = str(shutil.copy(photos / "cat" / "0.png", tmp_path / "gone.png"))
    monkeypatch.setattr(inference, "read_header", os.remove)
    assert main(["predict", str(finished), gone]) == 3
    assert "gone.png cannot be" in capsys.readouterr().err


def parts(record):
    """Return {part: digests of its images}."""
    return {part: {image.digest for image in record.images if image.part == part} for part in record.sizes}


def test_no_image_that_a_run_was_trained_on_tests_it_or_its_descendants(
    finished, photos, tmp_path, monkeypatch, capsys
):
    ours = Run.open(finished)
    first = DataRecord.read(finished)
    moved = tiny.make_photos(tmp_path / "moved", count=5)
    for number, file in enumerate(sorted(photos.rglob("*.png"))):
        shutil.copy(file, moved / file.parent.name / f"moved{97 * number % 36}.png")
    for init in (finished, finished / "best.safetensors"):
        recipe = dataclasses.replace(ours.recipe, init=str(init), data=f"folder:{moved}")
        record = run.load_run_data(Run(tmp_path / "child", recipe)).record
        assert len(record.images) == 51 and record.sizes["test"] and record.trained_on >= first.trained_on
        assert not first.trained_on & (parts(record)["test"] | parts(record)["validation"])
    (tmp_path / "child").mkdir()
    record.write(tmp_path / "child")
    shutil.copy(finished / "best.safetensors", tmp_path / "child" / "best.safetensors")
    assert trained_on(tmp_path / "child") == record.trained_on
    # The run itself, on data that have grown.
    added = [tiny.add_photo(photos / "dog" / f"added{number}.png") for number in range(9)]
    shutil.copy(photos / "cat" / "0.png", photos / "cat" / "copy.png")
    monkeypatch.setattr(inference, "make_evaluation", lambda *_: lambda split: split.files)
    try:
        tested = inference.evaluate(ours)
        complaint = capsys.readouterr().err
    finally:
        for file in photos.rglob("*.png"):
            if not file.stem.isdigit():
                file.unlink()
    assert "has changed since the run began" in complaint and "added" in complaint and len(added) == 9
    tests = {image.path for image in first.images if image.part == "test"}
    names = {str(Path(file).relative_to(photos)) for file in tested}
    assert tests <= names and all("added" in name or "copy" in name for name in names - tests)


def test_runs_of_an_earlier_version_are_named(finished, photos, tmp_path, capsys, fit):
    ours = Run.open(finished)
    for name in ("data.json", "images.tsv", "metrics.json"):
        (finished / name).unlink()
    assert main(["evaluate", str(finished)]) == 5
    assert fit(finished) == 5
    assert capsys.readouterr().err.count("has no data.json: an earlier version began it") == 2
    recipe = dataclasses.replace(ours.recipe, init=str(finished))
    run.load_run_data(Run(tmp_path / "child", recipe))
    assert "did not record its training images" in capsys.readouterr().err


def test_a_wrong_value_in_a_recipe_file_names_the_file(tmp_path, capsys):
    (tmp_path / "mine.json").write_text('{"image_size": "x"}')
    assert main(["fit", str(tmp_path / "mine.json")]) == 2
    assert f"{tmp_path / 'mine.json'}: image_size='x'" in capsys.readouterr().err
