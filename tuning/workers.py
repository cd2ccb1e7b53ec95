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
PATIENCE = 300  # seconds that a worker waits for its chief, which first counts what fits the budget


def address_of(chief, trusted):
    """(host, port) of HOST:PORT.

    Raises:
        UserError: It is no address, or not of this machine alone and the network is not said to be trusted.
    """
    host, _, port = chief.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--chief {chief}: it must be HOST:PORT, as 127.0.0.1:8000.")
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
    """Makes this process the chief, or a worker of a chief that answers.

    Args:
        role: "chief" or "worker".
        chief: HOST:PORT.
        worker: The worker's name, of its own; a worker that is started again must have the same.
        trusted: Whether the network is.
        patience: Seconds to wait for the chief.

    Raises:
        UserError: No chief answers.
    """
    if not chief:
        raise UserError(f"--role {role} needs --chief HOST:PORT, the address of the chief.")
    host, port = address_of(chief, trusted)
    os.environ |= {
        "KERASTUNER_ORACLE_IP": host,
        "KERASTUNER_ORACLE_PORT": str(port),
        "KERASTUNER_TUNER_ID": "chief" if role == "chief" else f"tuner-{worker}",
    }
    if role == "worker":
        wait_for(host, port, patience)


def wait_for(host, port, patience):
    """Waits until a port answers."""
    end = time.monotonic() + patience
    print(f"waiting for the chief at {host}:{port}", file=sys.stderr, flush=True)
    while not answers(host, port):
        if time.monotonic() > end:
            raise UserError(
                f"No chief answers at {host}:{port} since {patience:g} seconds. Start it with --role chief --chief "
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


def supervise(arguments, count):
    """Runs a command with a chief and workers on this machine, and starts a worker that dies again.

    Args:
        arguments: The command line, without --workers.
        count: Number of workers.

    Returns:
        The exit code: the chief's, or that of a worker which a user has to mend.
    """
    port = free_ports(1)[0]
    chief_address = f"127.0.0.1:{port}"
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}

    def start(role, *more):
        words = arguments if role == "chief" else [word for word in arguments if word != "--overwrite"]
        command = [sys.executable, "-m", "tuning", *words, "--role", role, "--chief", chief_address, *more]
        return subprocess.Popen(command, env=environment)

    def stop(number, frame):
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, stop)
    chief = start("chief")
    workers, started, short_lives = {}, {}, dict.fromkeys(range(count), 0)
    try:
        # The chief first counts what fits the budget, for minutes perhaps, before it answers.
        while chief.poll() is None and not answers("127.0.0.1", port):
            time.sleep(0.5)
        if chief.poll() is None:
            for name in range(count):
                workers[name], started[name] = start("worker", "--worker", str(name)), time.monotonic()
        while chief.poll() is None:
            time.sleep(0.5)
            for name, worker in workers.items():
                code = worker.poll()
                if code is None or code == 0:
                    continue
                if 2 <= code <= 5:
                    return code
                short_lives[name] = short_lives[name] + 1 if time.monotonic() - started[name] < SHORT_LIFE else 0
                if short_lives[name] >= 3:
                    raise ResourceError(
                        f"worker {name} ended three times at once, the last time with code {code}. See what it "
                        "printed above; the same command goes on."
                    )
                print(f"worker {name} ended with code {code}; it is started again", file=sys.stderr)
                workers[name], started[name] = start("worker", "--worker", str(name)), time.monotonic()
        if chief.returncode < 0:
            print(f"the chief was ended by signal {-chief.returncode}; the same command goes on", file=sys.stderr)
            return 128 - chief.returncode
        return chief.returncode
    finally:
        for process in (*workers.values(), chief):
            end(process)
        signal.signal(signal.SIGTERM, former)


def end(process):
    """Ends a process that this one started, at best after it has saved."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
