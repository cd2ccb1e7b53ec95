"""Errors on the command lines: a line and an exit code, or with --debug the traceback."""

import errno
import gc
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from training import __main__ as training
from training.command_line import carry_out, hidden_stderr, import_tensorflow
from training.errors import DataError
from tuning import __main__ as tuning

EXHAUSTED = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nwith pages of hints")

FULL = tf.errors.ResourceExhaustedError(None, None, "/dev/full; No space left on device")


def test_no_garbage_is_collected_while_tensorflow_is_imported(tmp_path, monkeypatch):
    (tmp_path / "tensorflow.py").write_text("import gc\ncollected = gc.isenabled()\n")
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(gc.isenabled()))
    frozen = []
    import_tensorflow(())
    assert sys.modules["tensorflow"].collected is False
    assert frozen == [False] and gc.isenabled()


def raising(error):
    def command(arguments):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("a.png is broken. Remove it."), 3, "error: a.png is broken. Remove it.\n"),
        (EXHAUSTED, 4, "error: out of memory: OOM when allocating tensor. Try half the --batch_size"),
        (MemoryError(), 4, "error: out of memory: no bytes left. Try half"),
        (FULL, 4, "error: the disk is full: /dev/full; No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device", "a.csv"), 4, "error: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "a.csv"), 4, "'a.csv'. Change the permissions"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), 2, "Is a directory: 'a'. Pass another path"),
        (ModuleNotFoundError("No module named 'keras_tuner'"), 2, "pip install -r requirements.txt"),
        (KeyboardInterrupt(), 130, "the same command resumes"),
    ],
)
def test_errors_become_a_line_and_a_code(capsys, error, code, message):
    assert carry_out(raising(error), []) == code
    complaint = capsys.readouterr().err
    assert message in complaint and "Traceback" not in complaint and "hints" not in complaint
    if code != 130:
        with pytest.raises(type(error)):
            carry_out(raising(error), ["--debug"])


def test_programming_errors_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        carry_out(lambda arguments: 1 // 0, [])


def test_the_exit_code_of_a_command_is_returned():
    assert carry_out(lambda arguments: None, []) == 0
    assert carry_out(lambda arguments: 7, []) == 7


@pytest.mark.parametrize(
    ("program", "commands", "words"),
    [
        (training, training.COMMANDS, ["recipes"]),
        (tuning, tuning.STUDIES, ["recipe", "--space", "rate"]),
    ],
    ids=["training", "tuning"],
)
def test_both_programs_suggest_a_fix_when_memory_is_exhausted(capsys, monkeypatch, program, commands, words):
    monkeypatch.setitem(commands, words[0], raising(EXHAUSTED))
    assert program.main(words) == 4
    assert "out of memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "words", "code"),
    [
        ("training", ["--help"], 0),
        ("training", ["fit", "googlenet_digits", "--help"], 0),
        ("training", ["recipes"], 0),
        ("training", ["study", "list"], 0),
        ("training", ["study", "gradient"], 2),
        ("training", ["fit", "googlenet_digit"], 2),
        ("training", ["fit", "googlenet_digits", "--epochs", "0"], 2),
        ("training", ["fit", "googlenet_digits", "--lr", "1"], 2),
        ("training", ["fit", "googlenet_digits", "--model", "GoogNet"], 2),
        ("training", ["fit", "googlenet_digits", "--data", "folder:nothing"], 2),
        ("training", ["fit", "googlenet_digits", "--coefficients", "nothing.json"], 2),
        ("training", ["evaluate", "nothing"], 2),
        ("training", ["predict", "nothing", "image.png"], 2),
        ("training", ["compare", "nothing"], 2),
        ("training", ["convert", "nothing.pth", "weights.safetensors", "--model", "ResNet50"], 2),
        ("tuning", ["compound", "--help"], 0),
        ("tuning", ["compound", "--list", "--triples", "1.2/1.1"], 2),
        ("tuning", ["scale", "--coefficients", "nothing.json"], 2),
    ],
)
def test_help_and_errors_do_not_wait_for_tensorflow(program, words, code):
    program = f"""
import sys
from {program}.__main__ import main
try:
    code = main({words})
except SystemExit as ended:
    code = ended.code
heavy = {{"tensorflow", "keras", "keras_tuner", "matplotlib"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else code)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_of_a_recipe_shows_its_own_values(capsys):
    with pytest.raises(SystemExit):
        training.main(["fit", "googlenet_digits", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "(type: float, default: 0.001)" in out and "Passes over the training images. (type: int, default: 16)" in out


def test_tensorflow_prints_nothing_before_the_command_does():
    ended = subprocess.run([sys.executable, "-m", "training", "evaluate", "nothing"], capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1 and ended.stderr.startswith("error: nothing "), ended.stderr


def test_standard_error_is_hidden_within_the_context_only(capfd):
    with pytest.raises(ImportError), hidden_stderr():
        os.write(2, b"a log line\n")
        raise ImportError
    os.write(2, b"an error\n")
    assert capfd.readouterr().err == "an error\n"


@pytest.mark.parametrize(
    ("program", "words", "message"),
    [
        (training, ["fit", "digits", "--epochs", "1.5"], "--epochs 1.5: it must be a whole number."),
        (training, ["fit", "digits", "--flip", "maybe"], "--flip maybe: it must be true or false."),
        (
            training,
            ["fit", "digits", "--optimizer", "adamw"],
            "--optimizer adamw: it must be one of sgd, adam, rmsprop.",
        ),
        (training, ["fit", "digits", "--jit", "x"], "--jit x: it must be true or false or one of auto."),
        (training, ["fit", "digits", "--save_steps", "0"], "--save_steps 0: it must be above 0."),
        (training, ["fit", "digits", "--save_steps", "0.5"], "--save_steps 0.5: it must be a whole number."),
        (training, ["benchmark", "--rounds", "x"], "--rounds x: it must be a whole number."),
        (training, ["fit", "digits", "--milestones", "1,2"], "--milestones 1,2: it must be a list, such as [30,60]."),
        (tuning, ["compound", "--budget", "0.5"], "--budget 0.5: it must be at least 1.0 and at most 32.0."),
        (tuning, ["scale", "--coefficients", "c.json", "--phi", "x"], "--phi x: it must be a finite number."),
    ],
)
def test_an_invalid_value_is_refused_in_plain_words(program, words, message, capsys):
    assert program.main(words) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
