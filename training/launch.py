"""Several workers on one machine, to try out a run on several machines."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

from training.errors import WorkerLostError
from training.interruption import SIGNALS

GRACE = 30  # seconds for the other workers to end by themselves after one has failed


def launch(workers, arguments):
    """Run `python -m training ARGUMENTS` in several processes, as TF_CONFIG would start them on several machines.

    The output of the first worker is shown; if another worker fails first, the end of its standard error is shown too.
    SIGINT and SIGTERM are passed on to the workers, which save and exit; a second one kills them. When a worker fails,
    the others have `GRACE` seconds to end before they are killed. No worker outlives this process.

    Args:
        workers: Number of processes.
        arguments: The command line of each, without `python -m training`.

    Returns:
        The exit code of the worker that failed first, or 128 + the signal that killed it or was passed on to it; 0 if
        no worker failed.
    """
    addresses = [f"localhost:{port}" for port in free_ports(workers)]
    errors = [None, *(tempfile.TemporaryFile("w+") for _ in range(1, workers))]  # noqa: SIM115
    processes, passed = [], []
    begun, failed, deadline = False, None, None

    def pass_on(number, frame):
        passed.append(number)
        for process in processes:
            process.send_signal(number)

    former = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        for worker in range(workers):
            processes.append(start(arguments, addresses, worker, errors[worker]))
        begun = not passed  # otherwise some workers did not get the signal, and none has anything to save
        print(f"workers: processes {', '.join(str(process.pid) for process in processes)}", file=sys.stderr, flush=True)
        while begun and len(passed) < 2 and any(process.poll() is None for process in processes):
            if failed is None:
                failed = first_failed(processes)
                deadline = time.monotonic() + GRACE
            elif time.monotonic() > deadline:
                break
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for number, handler in former.items():
            signal.signal(number, handler)
    failed = first_failed(processes) if failed is None else failed
    code = 0 if failed is None else processes[failed].returncode
    if passed and (code < 0 or code == WorkerLostError.exit_code):  # it stopped because another worker had ended
        return 128 + passed[-1]
    if code < 0:
        print(
            f"worker {failed} was killed by {signal.Signals(-code).name}; the same command resumes from the last saved "
            "state",
            file=sys.stderr,
        )
    elif failed:
        errors[failed].seek(0)
        print(f"worker {failed} failed:", *errors[failed].read().splitlines()[-20:], sep="\n", file=sys.stderr)
    return 128 - code if code < 0 else code


def first_failed(processes):
    """Return the number of a process that was killed, else of one that ended with an error, or None."""
    codes = [process.poll() for process in processes]
    killed = [number for number, code in enumerate(codes) if code and code < 0]
    return next((number for number in killed or range(len(codes)) if codes[number]), None)


def start(arguments, addresses, worker, stderr):
    """Start a worker in its own session, so that Ctrl-C reaches it once, from here, and not from the terminal too."""
    import tensorflow as tf

    task = {"type": "worker", "index": worker}
    settings = {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task})}
    gpus = len(tf.config.list_physical_devices("GPU"))
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpus else []
    names = names if len(names) >= gpus else [str(number) for number in range(gpus)]
    share = gpus // len(addresses)  # 0, so that all use the CPU, if there are fewer GPUs than workers
    settings["CUDA_VISIBLE_DEVICES"] = ",".join(names[worker * share : (worker + 1) * share]) or "-1"
    return subprocess.Popen(
        [sys.executable, "-m", "training", *arguments],
        env=os.environ | settings,
        stdout=subprocess.DEVNULL if worker else None,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=ending_with_parent(),
    )


def ending_with_parent():
    """Return a function with which a child asks for SIGTERM when its parent ends, even by SIGKILL; Linux only."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # before the fork: a forked child should not load libraries
    return lambda: libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def free_ports(count):
    """Return the numbers of free ports."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for opened in sockets:
            opened.bind(("localhost", 0))
        return [opened.getsockname()[1] for opened in sockets]
    finally:
        for opened in sockets:
            opened.close()
