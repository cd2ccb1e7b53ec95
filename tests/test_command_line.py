"""What becomes of errors on the command lines: a line and an exit code, or with --debug the traceback."""

import pytest
import tensorflow as tf

from training import __main__ as training
from training.command_line import carry_out
from training.errors import DataError
from tuning import __main__ as tuning

EXHAUSTED = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nwith pages of hints")


def raising(error):
    def command(arguments):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("a.png is broken. Remove it."), 3, "error: a.png is broken. Remove it.\n"),
        (EXHAUSTED, 4, "error: out of memory: OOM when allocating tensor. Try half the --batch_size"),
        (MemoryError(), 4, "error: out of memory: no bytes left. Try half"),
        (KeyboardInterrupt(), 130, "the same command goes on"),
    ],
)
def test_errors_become_a_line_and_a_code(capsys, error, code, said):
    assert carry_out(raising(error), []) == code
    complaint = capsys.readouterr().err
    assert said in complaint and "Traceback" not in complaint and "hints" not in complaint
    if code != 130:
        with pytest.raises(type(error)):
            carry_out(raising(error), ["--debug"])


def test_mistakes_of_the_code_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        carry_out(lambda arguments: 1 // 0, [])


def test_the_code_of_a_command_is_given_back():
    assert carry_out(lambda arguments: None, []) == 0
    assert carry_out(lambda arguments: 7, []) == 7


@pytest.mark.parametrize(
    ("program", "words"),
    [(training, ["recipes"]), (tuning, ["scale", "--coefficients", "c.json"])],
    ids=["training", "tuning"],
)
def test_both_programs_say_what_to_do_without_memory(capsys, monkeypatch, program, words):
    monkeypatch.setitem(program.COMMANDS, words[0], raising(EXHAUSTED))
    assert program.main(words) == 4
    assert "out of memory" in capsys.readouterr().err
