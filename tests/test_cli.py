"""The command line as its users meet it: what it prints, its exit codes, and what it says of mistakes."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from training.__main__ import main
from training.run import Run


@pytest.fixture
def cli(capsys):
    """Runs a command line and gives its exit code, what it printed and what it complained of."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    return run


def test_fit_evaluates_exports_and_leaves_everything_in_the_folder(digits_run):
    assert sorted(path.name for path in digits_run.iterdir()) == [
        "best.safetensors",
        "classes.json",
        "environment.json",
        "export",
        "last.safetensors",
        "metrics.json",
        "recipe.json",
        "tensorboard",
    ]
    metrics = json.loads((digits_run / "metrics.json").read_text())
    assert metrics["test"]["images"] == 360
    assert metrics["test"]["accuracy"] > 0.5  # two epochs: far above one in ten


def test_a_finished_run_prints_its_summary_at_once(cli, digits_run):
    before = (digits_run / "last.safetensors").stat().st_mtime_ns
    code, out, _ = cli("fit", "googlenet_digits", "--epochs", 2, "--run", digits_run)
    accuracy = json.loads((digits_run / "metrics.json").read_text())["test"]["accuracy"]
    assert code == 0
    assert f"{accuracy:.2%} of 360 test images right" in out
    assert f"run folder   {digits_run}" in out
    assert f"tensorboard --logdir {digits_run.parent}" in out
    assert f"SavedModel   {digits_run}/export" in out
    assert (digits_run / "last.safetensors").stat().st_mtime_ns == before


def test_another_recipe_in_the_same_folder_is_refused_with_the_differences(cli, digits_run):
    code, _, complaint = cli("fit", "googlenet_digits", "--epochs", 3, "--run", digits_run)
    assert code == 2
    assert "epochs: 2 there, 3 now" in complaint
    assert "--overwrite" in complaint
    assert "batch_size" not in complaint


def test_overwrite_removes_runs_only(cli, tmp_path):
    (tmp_path / "letters").write_text("dear")
    code, _, complaint = cli("fit", "googlenet_digits", "--run", tmp_path, "--overwrite")
    assert code == 2
    assert "holds files but no run" in complaint
    assert (tmp_path / "letters").read_text() == "dear"


def test_evaluate_prints_every_class_and_the_same_accuracy(cli, digits_run):
    code, out, _ = cli("evaluate", digits_run)
    metrics = json.loads((digits_run / "metrics.json").read_text())["test"]
    assert code == 0
    assert f"360 test images: accuracy {metrics['accuracy']:.2%}" in out
    rows = [line.split() for line in out.splitlines() if line[:1].isdigit() and "test images" not in line]
    assert [row[0] for row in rows] == list("0123456789")
    assert sum(int(row[1]) for row in rows) == 360
    right = sum(int(row[1]) * float(row[2].rstrip("%")) / 100 for row in rows)
    assert right / 360 == pytest.approx(metrics["accuracy"], abs=2e-3)


def test_predict_prints_the_five_best_classes(cli, digits_run, tmp_path):
    file = tmp_path / "image.png"
    tf.io.write_file(str(file), tf.io.encode_png(np.full((20, 30, 1), 128, np.uint8)))
    code, out, _ = cli("predict", digits_run, file)
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == str(file)
    shares = [float(line.split("%")[0]) for line in lines[1:]]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)


def test_export_writes_the_saved_model_again(cli, digits_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(digits_run, copy, ignore=shutil.ignore_patterns("export"))
    code, out, _ = cli("export", copy)
    assert code == 0
    assert out.strip() == str(copy / "export")
    assert (copy / "export" / "saved_model.pb").is_file()


def test_recipes_are_listed(cli):
    code, out, _ = cli("recipes")
    assert code == 0
    assert "googlenet_digits" in out


def test_a_recipe_file_is_taken_too(cli, digits_run, tmp_path):
    code, out, _ = cli("fit", digits_run / "recipe.json", "--run", digits_run)
    assert code == 0
    assert "test images right" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fit", "googlenet_digit"], 2, "Did you mean googlenet_digits"),
        (["fit", "googlenet_digits", "--epoch", "3"], 2, "--epoch"),
        (["fit", "googlenet_digits", "--learning_rat", "3"], 2, "Did you mean --learning_rate"),
        (["fit", "googlenet_digits", "--epochs", "many"], 2, "epochs"),
        (["fit", "googlenet_digits", "--epochs", "0"], 2, "epochs=0: it must be at least 1"),
        (["fit", "googlenet_digits", "--image_size", "20"], 2, "must be at least 32"),
        (["fit", "googlenet_digits", "--model", "GoogNet"], 2, "Did you mean GoogLeNet"),
        (["fit", "googlenet_digits", "--model", "ResNet18"], 2, "has aux_heads; ResNet18 takes version"),
        (["fit", "googlenet_digits", "--data", "folder:nowhere"], 2, "there is no such folder"),
        (["fit", "googlenet_digits", "--data", "mnits"], 2, "Did you mean"),
        (["fit", "googlenet_digits", "--batch_size", "5000"], 2, "0 steps per epoch"),
        (["fit"], 2, "recipe"),
        (["train", "googlenet_digits"], 2, "train"),
        (["evaluate", "nowhere"], 2, "nowhere is no run folder"),
        (["predict", "nowhere", "image.png"], 2, "nowhere is no run folder"),
        (["export", "nowhere"], 2, "nowhere is no run folder"),
    ],
)
def test_mistakes_get_an_exit_code_and_the_mend_and_leave_nothing(cli, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    exit_code, _, complaint = cli(*arguments)
    assert exit_code == code
    assert words in complaint
    assert "Traceback" not in complaint
    assert not list(tmp_path.iterdir())


def test_an_image_that_is_broken_or_missing_is_named(cli, digits_run, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    code, _, complaint = cli("predict", digits_run, tmp_path / "broken.png")
    assert (code, "broken.png cannot be decoded" in complaint) == (3, True)
    code, _, complaint = cli("predict", digits_run, tmp_path / "missing.png")
    assert (code, "missing.png: there is no such file" in complaint) == (2, True)


def test_a_broken_image_in_training_is_named_and_exits_3(cli, tmp_path):
    for name in ("cat", "dog"):
        for index in range(6):
            file = tmp_path / "images" / name / f"{index}.png"
            tf.io.write_file(str(file), tf.io.encode_png(np.full((9, 9, 3), 40 * index, np.uint8)))
    broken = tmp_path / "images" / "dog" / "4.png"
    broken.write_bytes(broken.read_bytes()[:50])
    arguments = ("--data", f"folder:{tmp_path / 'images'}", "--batch_size", 2, "--epochs", 1, "--run", tmp_path / "run")
    code, _, complaint = cli("fit", "googlenet_digits", *arguments)
    assert code == 3
    assert f"{broken} cannot be decoded" in complaint
    assert "Remove it" in complaint


def test_debug_shows_the_error_itself(tmp_path):
    from training.errors import UserError

    with pytest.raises(UserError, match="no run folder"):
        main(["--debug", "evaluate", str(tmp_path)])


def test_a_run_opens_with_its_recipe(digits_run):
    run = Run.open(digits_run)
    assert run.recipe.model_args == {"aux_heads": True}
    assert run.recipe.epochs == 2
    assert run.class_names == list("0123456789")
