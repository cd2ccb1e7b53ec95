"""Ctrl-C and SIGTERM: noted while something is unsaved; otherwise, and on a second signal, they end the process."""

import os
import signal
import subprocess
import sys
import time

import pytest

from training.command_line import carry_out
from training.interruption import SIGNALS, Interruption, Stopped

PROGRAM = """
import time
from training.interruption import Interruption, leave_at_once
{}
print("ready", flush=True)
while True:
    time.sleep(0.01)
"""


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_handlers_are_restored(number):
    before = handlers()
    with Interruption() as interruption:
        assert interruption.signal is None
        os.kill(os.getpid(), number)
        assert interruption.signal == number
    assert handlers() == before


def test_a_signal_stops_what_has_nothing_unsaved_even_if_it_came_before():
    with Interruption() as interruption:
        with pytest.raises(Stopped) as stopped, interruption.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.value.signal == signal.SIGTERM
        with pytest.raises(Stopped), interruption.at_once():
            pytest.fail("the block was entered")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_a_destructor_is_not_lost(number, capsys):
    """Python ignores exceptions of destructors and of weak references' functions, wherever they run."""

    class Interrupted:
        def __del__(self):
            os.kill(os.getpid(), number)
            time.sleep(0.01)

    before = sys.unraisablehook
    with Interruption() as interruption:
        with pytest.raises(Stopped) as stopped, interruption.at_once():
            Interrupted()
            time.sleep(10)
        assert stopped.value.signal == interruption.signal == number
    assert sys.unraisablehook is before
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_ends_at_once_with_a_line_and_the_code_of_the_signal(capsys, number):
    before, cleaned = handlers(), []

    def command(arguments):
        try:
            os.kill(os.getpid(), number)
            pytest.fail("the command went on")
        except Exception:  # which libraries catch
            pytest.fail("the signal was taken for an error")
        finally:
            cleaned.append(True)

    assert carry_out(command, []) == 128 + number
    assert cleaned
    assert "stopped; the same command" in capsys.readouterr().err
    assert handlers() == before


def ended(block, signals):
    """Return the exit code of a process after signals, and its output."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(block)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    for number in signals[:-1]:
        process.send_signal(number)
        time.sleep(0.2)
        assert process.poll() is None
    process.send_signal(signals[-1])
    _, complaint = process.communicate(timeout=5)
    return process.returncode, complaint


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_exits_at_once(number):
    code, complaint = ended("Interruption().__enter__()", [number, number])
    assert code == 128 + number
    assert "repeat the signal to exit at once" in complaint


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_imports_exits_without_a_traceback(number):
    assert ended("leave_at_once()", [number]) == (128 + number, "")


# Sends SIGINT when the first of the other modules is looked for.
INTERRUPTED = """
import os, runpy, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("training.", "tuning.", "keras")) and name not in FIRST:
            os.kill(os.getpid(), signal.SIGINT)
FIRST = "training.__main__", "tuning.__main__", "training.interruption"
sys.meta_path.insert(0, Interrupt())
runpy.run_module("{}", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("name", ["training", "tuning"])
def test_the_programs_handle_signals_before_their_other_imports(name):
    process = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(name)], capture_output=True, text=True, timeout=60
    )
    assert (process.returncode, process.stderr) == (130, "")
