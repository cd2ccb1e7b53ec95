"""Several processes at one search: keras-tuner's chief and workers, and a supervisor for those of one machine."""

import contextlib
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

SHORT_LIFE = 30  # seconds; a worker that ends sooner, three times in a row, is not started again
GRACE = 120  # seconds that the workers have to finish a step and save, once a signal has asked for it
PATIENCE = 300  # seconds that a worker waits for its chief, which first counts what fits the budget


def address_of(chief, trusted):
    """Return (host, port) of HOST:PORT.

    Raises:
        UserError: It is no address, or not of this machine alone and the network is not said to be trusted.
    """
    host, _, port = chief.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise UserError(f"--chief {chief}: it must be HOST:PORT, such as 127.0.0.1:8000, with a port below 65536.")
    loopback = host == "localhost"
    with contextlib.suppress(ValueError):
        loopback = loopback or ipaddress.ip_address(host).is_loopback
    if not loopback and not trusted:
        raise UserError(
            f"--chief {chief} is open to other machines, and chief and workers neither encrypt nor check who speaks. "
            "If everybody on that network may be trusted, pass --i_trust_this_network; else use 127.0.0.1."
        )
    return host, int(port)


def join(role, chief, worker, trusted, patience=PATIENCE):
    """Make this process the chief, or a worker of a chief that answers.

    Args:
        role: "chief" or "worker".
        chief: HOST:PORT.
        worker: The worker's name, of its own; a worker that is started again must have the same.
        trusted: Whether the network is.
        patience: Seconds to wait for the chief.

    Raises:
        UserError: No chief answers, or another one does already.
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
    """Wait until a port answers."""
    end = time.monotonic() + patience
    print(f"waiting for the chief at {host}:{port}", file=sys.stderr, flush=True)
    while not answers(host, port):
        if time.monotonic() > end:
            raise UserError(
                f"No chief answers at {host}:{port} after {patience:g} seconds. Start it with --role chief --chief "
                f"{host}:{port}, and see that no firewall is between."
            )
        time.sleep(min(1, patience / 4 + 0.01))


def answers(host, port):
    """Whether something listens on a port."""
    try:
        socket.create_connection((host, port), timeout=5).close()
        return True
    except OSError:
        return False


def supervise(arguments, count, program=(sys.executable, "-m", "tuning")):
    """Run a command with a chief and workers on this machine, and start a worker that dies again.

    A signal to leave is passed on to the workers, which save first; a second one makes them leave at once.

    Args:
        arguments: The command line, without --workers.
        count: Number of workers.
        program: What takes the command line.

    Returns:
        The exit code: the chief's, that of a worker's error that the user has to fix, or 128 + a signal's number.
    """
    port = free_ports(1)[0]
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    workers, started, short_lives, signals = {}, {}, dict.fromkeys(range(count), 0), []

    def start(role, *more):
        """Start a process in a session of its own: Ctrl-C reaches it once, from here, and not from the terminal too."""
        words = arguments if role == "chief" else [word for word in arguments if word != "--overwrite"]
        command = [*program, *words, "--role", role, "--chief", f"127.0.0.1:{port}", *more]
        return subprocess.Popen(command, env=environment, start_new_session=True)

    def start_worker(name):
        workers[name], started[name] = start("worker", "--worker", str(name)), time.monotonic()

    def note(number, frame):
        signals.append(number)

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    chief = start("chief")
    try:
        # The chief first counts what fits the budget, for minutes perhaps, before it answers.
        while not signals and chief.poll() is None and not answers("127.0.0.1", port):
            time.sleep(0.5)
        if not signals and chief.poll() is None:
            for name in range(count):
                start_worker(name)
        while not signals and chief.poll() is None:
            time.sleep(0.5)
            for name, worker in workers.items():
                code = worker.poll()
                if signals or code is None or code == 0:
                    continue
                if 2 <= code <= 5:
                    return code
                short_lives[name] = short_lives[name] + 1 if time.monotonic() - started[name] < SHORT_LIFE else 0
                if short_lives[name] >= 3:
                    raise ResourceError(
                        f"worker {name} ended three times at once, the last time with code {code}. See what it "
                        "printed above; the same command resumes the search."
                    )
                print(f"worker {name} ended with code {code}; it is started again", file=sys.stderr)
                start_worker(name)
        if signals:
            print("the workers save what they have done; once more to leave at once", file=sys.stderr, flush=True)
            return 128 + signals[0]
        if chief.returncode < 0:
            print(f"the chief was ended by signal {-chief.returncode}; the same command resumes", file=sys.stderr)
            return 128 - chief.returncode
        return chief.returncode
    finally:
        for processes in (workers.values(), [chief]):  # the chief answers as long as there are workers
            end_all(processes, lambda: len(signals) > 1)
        for number, handler in former.items():
            signal.signal(number, handler)


def end_all(processes, hurry):
    """Ask processes to leave, and kill those that have not after GRACE seconds, or as soon as `hurry` says so."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    end = time.monotonic() + GRACE
    while any(process.poll() is None for process in processes):
        if hurry() or time.monotonic() > end:
            for process in processes:
                process.kill()
        time.sleep(0.1)
