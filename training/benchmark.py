"""Measure the speed and memory of the input pipeline, of a training step and of the dashboards.

Variants are interleaved in one process; figures are medians with their spread.
"""

import statistics
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from training import dashboards
from training.batches import training_batches
from training.data import Data, Split, load_data
from training.machine import prepare, resolve
from training.measure import peak_memory, seconds_per_call
from training.optimization import make_optimizer
from training.recipe import Recipe
from training.step import make_train_step

PIPELINES = {
    "as in evaluation": {},
    "crop, flip": {"crop": "area", "flip": True},
    "crop, flip, RandAugment": {"crop": "area", "flip": True, "policy": "randaugment"},
    "crop, flip, TrivialAugment": {"crop": "area", "flip": True, "policy": "trivialaugment"},
    "crop, flip, mixup, CutMix": {"crop": "area", "flip": True, "mixup": 0.2, "cutmix": 1.0},
}

DENSENET_BC = {"depth": 100, "growth_rate": 12, "bottleneck": True, "compression": 0.5}
# A network of each family, at the image size of its paper and with its auxiliary heads, and a DenseNet with and without
# recomputation, to compare their memory.
STEPS = {
    "AlexNet": {"image_size": 227},
    "VGG16": {},
    "GoogLeNet": {"model_args": {"aux_heads": True}},
    "ResNet50": {},
    "DenseNet121": {},
    "SEResNet50": {},
    "EfficientNetB0": {},
    "DeformableResNet50": {},
    "DenseNet-BC": {"model": "DenseNetCIFAR", "model_args": DENSENET_BC, "image_size": 32, "batch_size": 64},
    "memory_efficient": {
        "model": "DenseNetCIFAR",
        "model_args": DENSENET_BC | {"memory_efficient": True},
        "image_size": 32,
        "batch_size": 64,
    },
}

# The recipes with which the dashboards are measured, and the number of steps per block; a block is timed as a whole.
WATCHED = {
    "GoogLeNet, 32 px, batch 32": (
        Recipe(model_args={"aux_heads": True}, image_size=32, optimizer="adam", epochs=20),
        20,
    ),
    "ResNet50, 224 px, batch 8": (
        Recipe(model="ResNet50", data="synthetic", image_size=224, batch_size=8, epochs=20),
        5,
    ),
}


def photographs(count=64, height=300, width=400):
    """Return JPEGs of smooth noise with grain, with as many bytes as photographs of this size."""
    random = np.random.RandomState(0)
    images = []
    for _ in range(count):
        coarse = tf.image.resize(random.uniform(0, 255, (height // 8, width // 8, 3)), (height, width), "bicubic")
        pixels = np.clip(coarse + random.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)
        images.append(tf.io.encode_jpeg(pixels, quality=90).numpy())
    return images


def measure_input(size=224, batch=32, rounds=5, batches=16):
    """Return {pipeline: images per second in each round} from encoded JPEGs of 300x400 pixels to training batches."""
    images = photographs()
    figures = {name: [] for name in PIPELINES}
    for _ in range(rounds):
        for name, fields in PIPELINES.items():
            iterator = iter(pipeline(images, Recipe(image_size=size, batch_size=batch, **fields)))
            for _ in range(4):  # until all threads are busy
                next(iterator)
            start = time.perf_counter()
            for _ in range(batches):
                next(iterator)
            figures[name].append(batches * batch / (time.perf_counter() - start))
            del iterator
    return figures


def pipeline(images, recipe):
    """Return training batches of a large data set that repeats these images, which are in memory."""
    numbers = np.arange(100_000)
    split = Split.from_arrays(numbers, numbers % 10, lambda number: tf.gather(images, number % len(images)))
    return training_batches(Data(tuple("0123456789"), split, split, split), recipe, epoch=0)


def table(figures, unit):
    """Format {name: figures} as a table of median, minimum and maximum."""
    width = max(map(len, figures))
    lines = [f"{'':<{width}}  median     min       max  {unit}"]
    for name, values in figures.items():
        lines.append(f"{name:<{width}}  {statistics.median(values):6.1f}  {min(values):6.1f}  {max(values):8.1f}")
    return "\n".join(lines)


def prepared(recipe):
    """Return a resolved recipe, its data, its compiled network and its training step."""
    recipe = resolve(recipe)
    prepare(recipe)
    data = load_data(recipe)
    model = recipe.build(len(data.class_names))
    model.compile(optimizer=make_optimizer(recipe, data.train.size // recipe.batch_size, model.trainable_variables))
    model.optimizer.build(model.trainable_variables)
    return recipe, data, model, make_train_step(model, recipe)


def measure_step(name, batch_size=8, count=5):
    """Measure training steps of a network of STEPS.

    Returns:
        Images per second of each step, and by how many MiB the weights, the optimizer and the steps raised the peak
        memory of the GPU or of the process.
    """
    before = peak_memory()
    fields = {"model": name, "image_size": 224, "batch_size": batch_size} | STEPS[name]
    recipe, data, _, step = prepared(Recipe(data="synthetic", **fields))
    images, targets, _ = next(iter(training_batches(data, recipe, 0)))
    seconds = seconds_per_call(lambda: float(step(images, targets)["loss"]), count)
    return [recipe.batch_size / each for each in seconds], peak_memory() - before


def measure_dashboards(recipe, steps, pairs=10):
    """Measure steps with and without the dashboards, and the end of an epoch with pictures.

    Returns:
        A list of (seconds per step without, seconds per step with); the mean seconds per step spent in the callbacks;
        {dashboard: seconds} at the end of the second epoch, after everything is compiled; the steps per epoch.
    """
    recipe, data, model, step = prepared(recipe)
    with tempfile.TemporaryDirectory() as folder:
        boards = dashboards.of_run(dashboards.Log(folder), recipe, data, {}, picture_epochs=1)
        listed = {
            watched: keras.callbacks.CallbackList(boards if watched else (), model=model, steps=steps)
            for watched in (True, False)
        }

        inside = []

        def seconds(watched):
            callbacks, batches = listed[watched], iter(training_batches(data, recipe, 0).repeat())
            next(batches)  # fills the buffers
            callbacks.on_epoch_begin(1)  # not 0: before the first epoch the probes run, which is measured below
            started = time.perf_counter()
            for number in range(steps):
                images, targets, _ = next(batches)
                begun = time.perf_counter()
                callbacks.on_train_batch_begin(number)
                stepped = time.perf_counter()
                values = {name: float(value) for name, value in step(images, targets).items()}
                model.gradient_norm = values["gradient_norm"]
                ended = time.perf_counter()
                callbacks.on_train_batch_end(number, values)
                if watched:
                    inside.append(stepped - begun + time.perf_counter() - ended)
            return (time.perf_counter() - started) / steps

        listed[True].on_train_begin()
        seconds(True), seconds(False)
        inside.clear()
        # The order within a pair alternates.
        timed = [{watched: seconds(watched) for watched in (pair % 2 == 0, pair % 2 == 1)} for pair in range(pairs)]
        logs = dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), 0.0)
        ends = {}
        for epoch in (0, 1):
            for board in boards:
                started = time.perf_counter()
                board.on_epoch_end(epoch, logs)
                ends[type(board).__name__] = time.perf_counter() - started
    pairs = [(pair[False], pair[True]) for pair in timed]
    return pairs, statistics.mean(inside), ends, data.train.size // recipe.batch_size


def dashboards_text(pairs, inside, ends, steps, every=5):
    """Format the result of `measure_dashboards` as lines of text."""
    extra = sorted(watched / without - 1 for without, watched in pairs)
    median = statistics.median(without for without, _ in pairs)
    share = sum(ends.values()) / every / (median * steps)
    slow = ", ".join(f"{board} {seconds:.2f} s" for board, seconds in ends.items() if seconds > 0.005)
    return (
        f"  a step takes {1000 * median:.1f} ms without and {statistics.median(extra):+.2%} with them (median of "
        f"{len(pairs)} pairs; {extra[0]:+.2%} to {extra[-1]:+.2%}),\n"
        f"  of which {inside / median:.2%} in the callbacks themselves\n"
        f"  the end of an epoch with pictures: {slow}; every {every} epochs of {steps} steps that is {share:.1%}"
    )
