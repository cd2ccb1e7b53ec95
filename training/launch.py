"""Several workers on one machine, to try what several machines would do."""

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

GRACE = 30  # seconds that the workers have to end by themselves once one of them has failed


def launch(workers, arguments):
    """Run `python -m training ARGUMENTS` in several processes, as TF_CONFIG would start them on several machines.

    The first worker's output is shown, and the last lines of what another one complained of if it is the first to fail.
    SIGINT and SIGTERM are passed to the workers, which save and leave; a second one ends all at once. When a worker
    fails, the others have `GRACE` seconds to end, and are killed then. No worker outlives this process.

    Args:
        workers: Number of processes.
        arguments: The command line of each, without `python -m training`.

    Returns:
        The exit code of the worker that failed first, 128 + the signal if one killed it or was passed to it; 0 if all
        went well.
    """
    addresses = [f"localhost:{port}" for port in free_ports(workers)]
    complaints = [None, *(tempfile.TemporaryFile("w+") for _ in range(1, workers))]  # noqa: SIM115
    processes, passed = [], []
    begun, failed, deadline = False, None, None

    def pass_on(number, frame):
        passed.append(number)
        for process in processes:
            process.send_signal(number)

    former = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        for worker in range(workers):
            processes.append(start(arguments, addresses, worker, complaints[worker]))
        begun = not passed  # else some were not told, and none has anything to save
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
    if passed and (code < 0 or code == WorkerLostError.exit_code):  # of another worker that had to stop
        return 128 + passed[-1]
    if code < 0:
        print(
            f"worker {failed} was killed by {signal.Signals(-code).name}; the same command resumes from the last saved "
            "state",
            file=sys.stderr,
        )
    elif failed:
        complaints[failed].seek(0)
        print(f"worker {failed} failed:", *complaints[failed].read().splitlines()[-20:], sep="\n", file=sys.stderr)
    return 128 - code if code < 0 else code


def first_failed(processes):
    """The number of a process that has ended with an error, one that was killed before others, or None."""
    codes = [process.poll() for process in processes]
    killed = [number for number, code in enumerate(codes) if code and code < 0]
    return next((number for number in killed or range(len(codes)) if codes[number]), None)


def start(arguments, addresses, worker, complaints):
    """Start one worker, in a session of its own: Ctrl-C reaches it once, from here, and not from the terminal too."""
    import tensorflow as tf

    task = {"type": "worker", "index": worker}
    settings = {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task})}
    gpus = len(tf.config.list_physical_devices("GPU"))
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpus else []
    names = names if len(names) >= gpus else [str(number) for number in range(gpus)]
    share = gpus // len(addresses)  # none, so that all compute on CPUs, where there are fewer GPUs than workers
    settings["CUDA_VISIBLE_DEVICES"] = ",".join(names[worker * share : (worker + 1) * share]) or "-1"
    return subprocess.Popen(
        [sys.executable, "-m", "training", *arguments],
        env=os.environ | settings,
        stdout=subprocess.DEVNULL if worker else None,
        stderr=complaints,
        start_new_session=True,
        preexec_fn=ending_with_parent(),
    )


def ending_with_parent():
    """Return what a child calls to be sent SIGTERM when its parent ends, even by SIGKILL; None where it cannot."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # before the fork, after which a child should load nothing
    return lambda: libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def free_ports(count):
    """Numbers of ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for opened in sockets:
            opened.bind(("localhost", 0))
        return [opened.getsockname()[1] for opened in sockets]
    finally:
        for opened in sockets:
            opened.close()
