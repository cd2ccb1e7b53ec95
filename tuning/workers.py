"""Several processes in one search: keras-tuner's chief and workers, and a supervisor that runs them on one machine."""

import contextlib
import functools
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from training.errors import ResourceError, UserError
from training.launch import free_ports

SHORT_LIFE = 30  # seconds; a worker that dies sooner, three times in a row, is not started again
GRACE = 120  # seconds that the workers have to finish a step and save after a signal
PATIENCE = 300  # seconds that a worker waits for its chief, which first counts what fits the budget


def address_of(chief, trusted):
    """Return (host, port) of HOST:PORT.

    Raises:
        UserError: It is not an address, or other machines can reach it and the network is not trusted.
    """
    host, _, port = chief.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise UserError(f"--chief {chief}: it must be HOST:PORT, such as 127.0.0.1:8000, with a port below 65536.")
    loopback = host == "localhost"
    with contextlib.suppress(ValueError):
        loopback = loopback or ipaddress.ip_address(host).is_loopback
    if not loopback and not trusted:
        raise UserError(
            f"--chief {chief} can be reached from other machines, and chief and workers neither encrypt nor "
            "authenticate. If you trust everybody on that network, pass --i_trust_this_network; otherwise use "
            "127.0.0.1."
        )
    return host, int(port)


def join(role, chief, worker, trusted, patience=PATIENCE):
    """Make this process the chief of a search, or one of its workers.

    Args:
        role: "chief" or "worker".
        chief: HOST:PORT of the chief.
        worker: Name of this worker, unique in the search; a worker that is started again needs the same name.
        trusted: Whether the network is trusted.
        patience: Seconds that a worker waits for the chief.

    Raises:
        UserError: No chief answers, or the chief's port is in use.
    """
    if not chief:
        raise UserError(f"--role {role} needs --chief HOST:PORT, the address of the chief.")
    if "chief" in worker:
        raise UserError(f"--worker {worker}: the name of a worker must not contain chief. Pass a number.")
    host, port = address_of(chief, trusted)
    if role == "chief" and answers(host, port):
        raise UserError(f"--chief {chief}: another program answers there. Pass another port.")
    os.environ |= {
        "KERASTUNER_ORACLE_IP": host,
        "KERASTUNER_ORACLE_PORT": str(port),
        "KERASTUNER_TUNER_ID": "chief" if role == "chief" else f"tuner-{worker}",
    }
    if role == "worker":
        wait_for(host, port, patience)


def wait_for(host, port, patience):
    """Wait until something listens on a port.

    Raises:
        UserError: Nothing does after `patience` seconds.
    """
    end = time.monotonic() + patience
    print(f"waiting for the chief at {host}:{port}", file=sys.stderr, flush=True)
    while not answers(host, port):
        if time.monotonic() > end:
            raise UserError(
                f"No chief answers at {host}:{port} after {patience:g} seconds. Start it with --role chief --chief "
                f"{host}:{port}, and check that no firewall is in between."
            )
        time.sleep(min(1, patience / 4 + 0.01))


def answers(host, port):
    """Return whether something listens on a port."""
    try:
        socket.create_connection((host, port), timeout=5).close()
        return True
    except OSError:
        return False


class Worker:
    """A worker process of `supervise`, which is started again when it dies.

    Args:
        name: Its name.
        start: A function () that starts the process and returns it.
    """

    def __init__(self, name, start):
        self.name, self.start, self.short_lives = name, start, 0
        self.process, self.started = start(), time.monotonic()

    def start_again(self):
        """Start the process again after it died.

        Raises:
            ResourceError: It died shortly after its start for the third time in a row.
        """
        code = self.process.returncode
        self.short_lives = self.short_lives + 1 if time.monotonic() - self.started < SHORT_LIFE else 0
        if self.short_lives >= 3:
            raise ResourceError(
                f"worker {self.name} died shortly after its start three times in a row, the last time with code "
                f"{code}. See what it printed above; the same command resumes the search."
            )
        print(f"worker {self.name} died with code {code}; it is started again", file=sys.stderr)
        self.process, self.started = self.start(), time.monotonic()


def supervise(arguments, count, program=(sys.executable, "-m", "tuning")):
    """Run a command with a chief and several workers on this machine.

    The workers get the first SIGINT, SIGTERM or SIGHUP and save before they leave; a second one kills them.

    Args:
        arguments: The command line, without --workers.
        count: Number of workers.
        program: The program that takes the command line.

    Returns:
        The exit code: the chief's; that of a worker, if its error is one that the user has to fix; or 128 + the number
        of a signal.

    Raises:
        ResourceError: A worker dies again and again.
    """
    port, signals, workers = free_ports(1)[0], [], []
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}

    def start(role, words):
        """Start a process in its own session, so that Ctrl-C in the terminal reaches it only through this process."""
        command = [*program, *words, "--role", role, "--chief", f"127.0.0.1:{port}"]
        return subprocess.Popen(command, env=environment, start_new_session=True)

    def start_worker(name):
        return start("worker", [*(word for word in arguments if word != "--overwrite"), "--worker", str(name)])

    former = {
        number: signal.signal(number, lambda number, frame: signals.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    chief = start("chief", arguments)
    try:
        # The chief counts what fits the budget, perhaps for minutes, before it answers.
        while not signals and chief.poll() is None and not answers("127.0.0.1", port):
            time.sleep(0.5)
        if not signals and chief.poll() is None:
            for name in range(count):
                workers.append(Worker(name, functools.partial(start_worker, name)))
        code = keep_running(chief, workers, signals)
        return exit_code(chief, signals) if code is None else code
    finally:
        end([worker.process for worker in workers], signals)
        end([chief], signals)  # last: workers need its answers
        for number, handler in former.items():
            signal.signal(number, handler)


def keep_running(chief, workers, signals):
    """Start workers again when they die, until the chief ends or a signal arrives.

    Returns:
        The exit code of a worker that ended with an error that the user has to fix; None if there is none.
    """
    while not signals and chief.poll() is None:
        time.sleep(0.5)
        for worker in workers:
            code = worker.process.poll()
            if signals or code is None or code == 0:
                continue
            if 2 <= code <= 5:
                return code
            worker.start_again()
    return None


def exit_code(chief, signals):
    """Return the exit code after a signal arrived or the chief ended, and print what the user has to know."""
    if signals:
        print("the workers save their progress; a second signal kills them", file=sys.stderr, flush=True)
        return 128 + signals[0]
    if chief.returncode < 0:
        print(f"the chief was killed by signal {-chief.returncode}; the same command resumes", file=sys.stderr)
        return 128 - chief.returncode
    return chief.returncode


def end(processes, signals):
    """Terminate processes, and kill those that run after GRACE seconds or when a second signal has arrived."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + GRACE
    while any(process.poll() is None for process in processes):
        if len(signals) > 1 or time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.1)
