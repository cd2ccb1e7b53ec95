"""Tools that measure: time, memory, the speed of the device, and a function in a process of its own."""

import functools
import multiprocessing
import os
import re
import resource
import signal
import statistics
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

# TensorFlow is imported when it is used: processes that measure other libraries do without it.
from training.errors import ResourceError


def device():
    """Return the name of the device that computes."""
    import tensorflow as tf

    return "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"


def memory():
    """Return {name: MiB} with the peak memory so far: of the GPU, or of the process if there is none."""
    if device().startswith("GPU"):
        import tensorflow as tf

        return {"device_memory_mib": tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20}
    return {"process_memory_mib": process_memory()}


def process_memory():
    """Return the peak memory of this process so far in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; there getrusage would start from the peak of the parent process
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes


def peak_memory():
    """Return the peak memory so far in MiB, of the GPU or of this process."""
    return next(iter(memory().values()))


def seconds_per_call(function, repetitions):
    """Return a list with the seconds that each call of a function took, after a first one, which compiles."""
    function()
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return seconds


def seconds_per_image(network, shape, batch, repetitions):
    """Return the median seconds per image of the forward passes of a network, compiled, in inference.

    Args:
        network: The network.
        shape: Shape of an image, (height, width, channels).
        batch: Images per pass.
        repetitions: Number of passes.
    """
    import tensorflow as tf

    forward = tf.function(lambda images: network(images, training=False), autograph=False)
    images = tf.zeros((batch, *shape))
    return statistics.median(seconds_per_call(lambda: forward(images).numpy(), repetitions)) / batch


@functools.cache
def peak_flops(device, dtype):
    """Return the floating-point operations per second of a large matrix product, the best of five.

    Measured once per process.
    """
    import tensorflow as tf

    size, products = (4096, 20) if device.startswith("GPU") else (1024, 2)
    with tf.device(device):
        matrix = tf.cast(tf.fill((size, size), 1 / size), dtype)  # its powers are itself

        @tf.function
        def multiply(x):
            for _ in range(products):
                x = x @ matrix
            return tf.reduce_sum(x)

        seconds = seconds_per_call(lambda: multiply(matrix).numpy(), 5)
    return products * 2 * size**3 / min(seconds)


def end_with_parent():
    """Let this process, which multiprocessing has started, end when its parent is gone, even by SIGKILL.

    It gets SIGTERM, on which a run saves its state, and ends ten seconds later at the latest.
    """
    parent = multiprocessing.parent_process()

    def follow():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def alone(function, *arguments):
    """Call a function in a process of its own, so that no other network's memory and threads are in its figures.

    Raises:
        ResourceError: The process was killed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise ResourceError(
                f"The process that measured {', '.join(map(str, arguments))} was killed. If it ran out of memory, "
                "close other programs and try again."
            ) from error
