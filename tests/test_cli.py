"""The command line as users see it: output, exit codes and error messages."""

import csv
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from training.__main__ import main, parse
from training.inference import trained_network
from training.run_folder import Run


@pytest.fixture
def cli(capsys):
    """Return a function that runs a command line: exit code, standard output, standard error."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    return run


def test_fit_evaluates_exports_and_leaves_everything_in_the_folder(digits_run):
    assert sorted(path.name for path in digits_run.iterdir()) == [
        "best.safetensors",
        "classes.json",
        "data.json",
        "environment.json",
        "export",
        "export.json",
        "images.tsv",
        "metrics.json",
        "recipe.json",
        "states",
        "tensorboard",
    ]
    metrics = json.loads((digits_run / "metrics.json").read_text())
    assert metrics["test"]["images"] == 360
    assert metrics["test"]["accuracy"] > 0.5  # two epochs: far above one in ten


def test_a_finished_run_prints_its_summary_at_once(cli, digits_run):
    before = (digits_run / "best.safetensors").stat().st_mtime_ns
    code, out, _ = cli("fit", "googlenet_digits", "--epochs", 2, "--run", digits_run)
    accuracy = json.loads((digits_run / "metrics.json").read_text())["test"]["accuracy"]
    assert code == 0
    assert f"{accuracy:.2%} of 360 test images right" in out
    assert f"run folder   {digits_run}" in out
    assert f"tensorboard --logdir {digits_run.parent}" in out
    assert f"SavedModel   {digits_run}/export" in out
    assert (digits_run / "best.safetensors").stat().st_mtime_ns == before


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


def test_predict_prints_the_five_most_probable_classes(cli, digits_run, tmp_path):
    file = tmp_path / "image.png"
    tf.io.write_file(str(file), tf.io.encode_png(np.full((20, 30, 1), 128, np.uint8)))
    code, out, _ = cli("predict", digits_run, file)
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == str(file)
    shares = [float(line.split("%")[0]) for line in lines[1:]]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)


def test_export_writes_the_saved_model_again(cli, photo_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(photo_run, copy, ignore=shutil.ignore_patterns("export"))
    code, out, _ = cli("export", copy)
    assert code == 0
    assert out.startswith(f"{copy}/export: ")
    assert (copy / "export" / "saved_model.pb").is_file()


def test_recipes_are_listed(cli):
    code, out, _ = cli("recipes")
    assert code == 0
    assert "googlenet_digits" in out


def test_a_recipe_file_is_accepted_too(cli, digits_run, tmp_path):
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
        (["evaluate", "nowhere"], 2, "nowhere is not a run folder"),
        (["predict", "nowhere", "image.png"], 2, "nowhere is not a run folder"),
        (["export", "nowhere"], 2, "nowhere is not a run folder"),
    ],
)
def test_errors_have_an_exit_code_and_a_fix_and_leave_nothing(cli, tmp_path, monkeypatch, arguments, code, words):
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


def write_image(file, value, shape=(9, 9, 3)):
    tf.io.write_file(str(file), tf.io.encode_png(np.full(shape, value, np.uint8)))
    return str(file)


def test_predict_refuses_an_image_of_too_many_pixels_before_it_decodes_it(cli, digits_run, tmp_path, monkeypatch):
    file = write_image(tmp_path / "huge.png", 0, (8000, 8001, 1))
    monkeypatch.setattr(tf.io, "decode_image", None)
    code, _, complaint = cli("predict", digits_run, file)
    assert code == 3
    assert f"{file} has 8001x8000 = 64.0 megapixels" in complaint


def test_predict_takes_folders_and_writes_the_rows_of_the_good_files(cli, digits_run, tmp_path):
    folder = tmp_path / "images"
    files = [write_image(folder / f"{index % 3}" / f"{index:02d}.png", 3 * index) for index in range(70)]
    single = write_image(tmp_path / "single", 250)  # named on the command line, it needs no suffix
    write_image(folder / ".hidden.png", 0)
    (folder / "0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (folder / "2" / "zero.jpg").write_bytes(b"")
    table = tmp_path / "table.csv"
    code, out, complaint = cli("predict", digits_run, single, folder, "--csv", table)
    assert code == 3
    assert out == f"{table}: 71 images\n"
    assert "2 of 73 files could not be classified" in complaint
    assert f"{folder}/0/broken.png cannot be decoded" in complaint
    assert f"{folder}/2/zero.jpg is empty" in complaint

    with open(table, newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["file"] for row in rows] == [single, *sorted(files)]
    assert list(rows[0])[1:] == [f"{what}{number}" for number in range(1, 6) for what in ("class", "probability")]
    run = Run.open(digits_run)
    network = trained_network(run)
    for row, value in [(rows[0], 250), *((row, 3 * int(row["file"][-6:-4])) for row in rows[1::9])]:
        image = keras_cnns.preprocess_input(np.full((1, 32, 32, 3), value, np.float32))
        expected = tf.nn.softmax(network(image, training=False) / run.temperature)[0].numpy()
        probabilities = [float(row[f"probability{number}"]) for number in range(1, 6)]
        np.testing.assert_allclose(probabilities, np.sort(expected)[::-1][:5], atol=1e-5)
        assert [expected[int(row[f"class{number}"])] for number in (1, 5)] == pytest.approx(
            [probabilities[0], probabilities[4]], abs=1e-5
        )


def test_predict_prints_the_good_files_of_a_folder_too(cli, digits_run, tmp_path):
    files = [write_image(tmp_path / f"{index}.png", 50 * index) for index in range(3)]
    (tmp_path / "1.png").write_bytes(b"")
    code, out, complaint = cli("predict", digits_run, tmp_path)
    assert code == 3
    assert [line for line in out.splitlines() if line[0] != " "] == [files[0], files[2]]
    assert f"1 of 3 files could not be classified:\n{files[1]} is empty" in complaint


def test_predict_names_a_folder_without_images_and_a_table_that_cannot_be_written(cli, digits_run, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, complaint = cli("predict", digits_run, tmp_path / "empty")
    assert (code, f"{tmp_path}/empty has no images" in complaint) == (2, True)
    file = write_image(tmp_path / "image.png", 0)
    code, _, complaint = cli("predict", digits_run, file, "--csv", tmp_path / "no" / "table.csv")
    assert (code, "there is no such folder" in complaint) == (2, True)


def test_a_broken_image_in_training_is_named_and_exits_3(cli, tmp_path):
    for name in ("cat", "dog"):
        for index in range(6):
            file = tmp_path / "images" / name / f"{index}.png"
            tf.io.write_file(str(file), tf.io.encode_png(np.full((9, 9, 3), 40 * index + (name == "dog"), np.uint8)))
    broken = tmp_path / "images" / "dog" / "4.png"
    broken.write_bytes(broken.read_bytes()[:50])
    write_image(tmp_path / "images" / "cat" / "grey.png", 90, (9, 9, 1))
    arguments = ("--data", f"folder:{tmp_path / 'images'}", "--batch_size", 2, "--epochs", 1, "--run", tmp_path / "run")
    code, out, complaint = cli("fit", "googlenet_digits", *arguments)
    assert code == 3
    assert "13 images: 1 grey" in out
    assert f"{broken} cannot be decoded" in complaint
    assert "Remove it" in complaint


def test_debug_shows_the_error_itself(tmp_path):
    from training.errors import UserError

    with pytest.raises(UserError, match="not a run folder"):
        main(["--debug", "evaluate", str(tmp_path)])


def test_a_run_opens_with_its_recipe(digits_run):
    run = Run.open(digits_run)
    assert run.recipe.model_args == {"aux_heads": True}
    assert run.recipe.epochs == 2
    assert run.class_names == list("0123456789")


@pytest.mark.parametrize("words", [["--epochs", "3", "resnet18_digits"], ["resnet18_digits", "--epochs", "3"]])
def test_an_option_may_come_before_the_name_of_the_recipe(words):
    options = parse(["fit", *words]).fit
    assert (options.name, options.model, options.image_size, options.epochs) == ("resnet18_digits", "ResNet18", 32, 3)


def test_an_unknown_recipe_after_an_option_is_refused(cli):
    code, _, complaint = cli("fit", "--epochs", 3, "no_such_recipe")
    assert code == 2
    assert "no_such_recipe" in complaint


def test_there_is_at_least_one_step_between_states(cli, tmp_path):
    code, _, complaint = cli("fit", "googlenet_digits", "--save_steps", 0, "--run", tmp_path / "run")
    assert code == 2
    assert "--save_steps 0: it must be above 0." in complaint
    assert not (tmp_path / "run").exists()
