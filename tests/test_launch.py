"""`launch` and its workers: signals reach them, and none outlives it. The workers here are small programs."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from training import launch
from training.launch import ending_with_parent

BEGIN = "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, {})\nopen(sys.argv[1], 'w').close()\n"
SAVES = BEGIN.format("lambda *_: sys.exit(143)") + "time.sleep(60)"
LOSES = BEGIN.format("lambda *_: sys.exit(7)") + "time.sleep(60)"
IGNORES = BEGIN.format("signal.SIG_IGN") + "time.sleep(60)"
DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
FAILS = "import sys; sys.exit('the reason')"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function (programs, signals) -> exit code of launch; None stands for a program that cannot be started.

    The signals are sent once every program has begun. Afterwards none of them may be left.
    """
    processes = []
    monkeypatch.setattr(launch, "GRACE", 1)

    def run(programs, signals=()):
        marks = [tmp_path / f"begun{number}" for number in range(len(programs))]

        def start(arguments, addresses, worker, stderr):
            command = [sys.executable, "-c", programs[worker], marks[worker]]
            processes.append(subprocess.Popen(command, stderr=stderr, start_new_session=True))
            return processes[-1]

        def send():
            while not all(mark.exists() for mark in marks):
                time.sleep(0.01)
            for number in signals:
                os.kill(os.getpid(), number)
                time.sleep(0.3)

        monkeypatch.setattr(launch, "start", start)
        if signals:
            threading.Thread(target=send, daemon=True).start()
        return launch.launch(len(programs), [])

    yield run
    assert all(process.poll() is not None for process in processes)


@pytest.mark.parametrize(
    ("programs", "signals", "code"),
    [
        ([SAVES, SAVES], [signal.SIGTERM], 143),
        ([LOSES, SAVES], [signal.SIGTERM], 143),  # it lost a worker that was told to leave, too
        ([IGNORES, IGNORES], [signal.SIGTERM, signal.SIGINT], 130),
        ([IGNORES, DIES], [], 137),  # and what does not end by itself is killed
        ([FAILS, IGNORES], [], 1),
    ],
)
def test_no_worker_outlives_launch_which_exits_with_the_signal_or_the_code_of_the_first_failure(
    run, programs, signals, code
):
    assert run(programs, signals) == code


def test_the_failure_of_a_worker_is_reported(run, capfd):
    assert run([SAVES, DIES]) == 137
    assert "worker 1 was killed by SIGKILL; the same command resumes" in capfd.readouterr().err
    assert run([SAVES, FAILS]) == 1
    assert "worker 1 failed:\nthe reason" in capfd.readouterr().err


def test_a_worker_that_cannot_be_started_ends_the_others(run):
    with pytest.raises(TypeError):
        run([SAVES, None])


PARENT = """
import subprocess, time
from training.launch import ending_with_parent
subprocess.Popen(["sleep", "60"], preexec_fn=ending_with_parent())
print("begun", flush=True)
time.sleep(60)
"""


def test_a_worker_ends_with_a_parent_that_is_killed():
    if sys.platform != "linux":
        assert ending_with_parent() is None
        return
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    parent.stdout.readline()
    parent.kill()
    parent.communicate(timeout=10)  # the output ends when the last process that has it does
