"""How much memory a training step of DenseNet takes with memory_efficient=True and without.

    python -m tests.measure_densenet_memory
    python -m tests.measure_densenet_memory --depth 40 --plain

Trains a few steps of the network in one process each and prints the largest resident memory of the process, what of it
came with training, and how long a step took.
"""

import argparse
import multiprocessing
import resource
import time


def measure(depth, growth_rate, bottleneck, batch, steps, memory_efficient):
    """Peak memory and memory before training in MiB, and seconds of a step, in a process of its own."""
    import keras
    import numpy as np

    import keras_cnns

    model = keras_cnns.DenseNetCIFAR(
        depth,
        growth_rate=growth_rate,
        bottleneck=bottleneck,
        compression=0.5 if bottleneck else 1.0,
        memory_efficient=memory_efficient,
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", jit_compile=False)
    random = np.random.default_rng(0)
    images, labels = random.normal(size=(batch, 32, 32, 3)).astype("float32"), random.integers(10, size=batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    model.train_on_batch(images, labels)
    start = time.perf_counter()
    for _ in range(steps - 1):
        model.train_on_batch(images, labels)
    seconds = (time.perf_counter() - start) / (steps - 1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, before, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--growth_rate", type=int, default=12)
    parser.add_argument("--plain", action="store_true", help="no bottleneck, no compression")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    arguments = (options.depth, options.growth_rate, not options.plain, options.batch, options.steps)
    line = "{:<18}{:>14}{:>20}{:>14}".format
    print(line("memory_efficient", "peak, MiB", "by training, MiB", "step, s"))
    results = []
    for memory_efficient in (False, True):
        # A new process each, since a peak never falls.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak, before, seconds = pool.apply(measure, (*arguments, memory_efficient))
        results.append((peak, peak - before, seconds))
        print(line(str(memory_efficient), f"{peak:.0f}", f"{peak - before:.0f}", f"{seconds:.2f}"), flush=True)
    changes = [f"{100 * (new / old - 1):+.0f} %" for old, new in zip(*results, strict=True)]
    print(line("change", *changes))


if __name__ == "__main__":
    main()
