"""Several workers on one machine, to try what several machines would do."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

GRACE = 30  # seconds that the workers have to end by themselves once one of them has failed


def launch(workers, arguments):
    """Runs `python -m training ARGUMENTS` in several processes, as TF_CONFIG would start them on several machines.

    The first worker's output is shown; of another one's the end of its complaints, if it is the first to fail. SIGINT
    and SIGTERM go on to the workers. When one fails, the others have `GRACE` seconds to end, and are killed then.

    Args:
        workers: Number of processes.
        arguments: The command line of each, without `python -m training`.

    Returns:
        The exit code of the worker that failed first, 128 + the signal if one killed it; 0 if all went well.
    """
    addresses = [f"localhost:{port}" for port in free_ports(workers)]
    complaints = [None, *(tempfile.TemporaryFile("w+") for _ in range(1, workers))]  # noqa: SIM115
    processes = [start(arguments, addresses, worker, complaints[worker]) for worker in range(workers)]

    def forward(number, frame):
        for process in processes:
            process.send_signal(number)

    print(f"workers: processes {', '.join(str(process.pid) for process in processes)}", file=sys.stderr, flush=True)
    former = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    failed, deadline = None, None
    try:
        while any(process.poll() is None for process in processes):
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
    if failed is None:
        return 0
    if failed:
        complaints[failed].seek(0)
        print(f"worker {failed} failed:", *complaints[failed].read().splitlines()[-20:], sep="\n", file=sys.stderr)
    code = processes[failed].returncode
    return 128 - code if code < 0 else code


def first_failed(processes):
    """The number of a process that has ended with an error, one that was killed before others, or None."""
    codes = [process.poll() for process in processes]
    killed = [number for number, code in enumerate(codes) if code and code < 0]
    return next((number for number in killed or range(len(codes)) if codes[number]), None)


def start(arguments, addresses, worker, complaints):
    """Starts one worker, in a session of its own: Ctrl-C reaches it once, from here, and not from the terminal too."""
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
    )


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
