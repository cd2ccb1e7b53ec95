"""Chief and workers: their addresses, and the supervisor that starts workers again and passes signals on."""

import os
import signal
import sys
import threading
import time

import pytest

from training.errors import ResourceError, UserError
from tuning.workers import address_of, join, supervise


def test_a_worker_without_a_chief_says_so(monkeypatch):
    for name in ("IP", "PORT"):
        monkeypatch.setenv(f"KERASTUNER_ORACLE_{name}", "")  # so that what `join` sets is restored afterwards
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "")
    with pytest.raises(UserError, match="No chief answers at 127"):
        join("worker", "127.0.0.1:9", "0", trusted=False, patience=0.1)
    assert address_of("10.0.0.1:80", trusted=True) == ("10.0.0.1", 80)


def wait_for(condition, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# A substitute for chief and workers that does only what their supervisor sees of them.
STUB = """
import os, signal, socket, sys, time
from pathlib import Path
folder, words = Path(sys.argv[1]), dict(zip(sys.argv[2::2], sys.argv[3::2]))
if words["--role"] == "chief":
    host, port = words["--chief"].split(":")
    server = socket.create_server((host, int(port)))
    while not (folder / "done").exists():
        time.sleep(0.02)
    sys.exit()
log = folder / ("worker" + words["--worker"])
def save(number, frame):
    with open(log, "a") as file:
        file.write("signal " + str(os.getsid(0) == os.getpid()) + chr(10))
    time.sleep(0.3)  # a second signal meanwhile would be a second line
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
with open(log, "a") as file:
    file.write("training " + str(os.getpid()) + chr(10))
time.sleep(60)
"""


def supervised(tmp_path, interfere):
    """Supervise two substitutes and return the exit code; `interfere`, a function (logs of the workers), runs in a
    thread once both train."""
    logs = [tmp_path / "worker0", tmp_path / "worker1"]

    def act():
        wait_for(lambda: all(log.exists() and log.read_text().count("\n") for log in logs))
        interfere(logs)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        return supervise([], 2, program=(sys.executable, "-c", STUB, str(tmp_path)))
    finally:
        thread.join()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_reaches_each_worker_once_and_lets_it_save(tmp_path, number, code):
    assert supervised(tmp_path, lambda logs: os.kill(os.getpid(), number)) == code
    for log in (tmp_path / "worker0", tmp_path / "worker1"):
        assert log.read_text().splitlines()[1:] == ["signal True"]  # in a session of its own


def test_a_worker_that_dies_is_started_again_until_it_dies_three_times_in_a_row(tmp_path, capfd):
    def kill_both(logs):
        for log in logs:
            os.kill(int(log.read_text().split()[-1]), signal.SIGKILL)
        wait_for(lambda: all(log.read_text().count("training") == 2 for log in logs))
        (tmp_path / "done").touch()

    assert supervised(tmp_path, kill_both) == 0
    assert capfd.readouterr().err.count("died with code -9; it is started again") == 2
    (tmp_path / "done").unlink()

    def kill_always(logs):
        for deaths in range(1, 4):
            wait_for(lambda: logs[0].read_text().count("training") == 2 + deaths)  # noqa: B023, called at once
            os.kill(int(logs[0].read_text().split()[-1]), signal.SIGKILL)

    with pytest.raises(ResourceError, match="worker 0 died shortly after its start three times in a row"):
        supervised(tmp_path, kill_always)
