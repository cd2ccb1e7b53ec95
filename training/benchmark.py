"""Speed and memory, what is compared interleaved in one process: medians, and the spread beside them."""

import statistics
import sys
import time

import numpy as np
import tensorflow as tf

from training.batches import training_batches
from training.data import Data, Split
from training.recipe import Recipe

PIPELINES = {
    "as in evaluation": {},
    "crop, flip": {"crop": "area", "flip": True},
    "crop, flip, RandAugment": {"crop": "area", "flip": True, "policy": "randaugment"},
    "crop, flip, TrivialAugment": {"crop": "area", "flip": True, "policy": "trivialaugment"},
    "crop, flip, mixup, CutMix": {"crop": "area", "flip": True, "mixup": 0.2, "cutmix": 1.0},
}


def photographs(count=64, height=300, width=400):
    """JPEGs of smooth noise with grain, as heavy as photographs of this size."""
    random = np.random.RandomState(0)
    images = []
    for _ in range(count):
        coarse = tf.image.resize(random.uniform(0, 255, (height // 8, width // 8, 3)), (height, width), "bicubic")
        pixels = np.clip(coarse + random.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)
        images.append(tf.io.encode_jpeg(pixels, quality=90).numpy())
    return images


def measure_input(size=224, batch=32, rounds=5, batches=16):
    """Images per second from encoded JPEGs of 300x400 to training batches: {pipeline: one figure a round}."""
    images = photographs()
    figures = {name: [] for name in PIPELINES}
    for _ in range(rounds):
        for name, fields in PIPELINES.items():
            iterator = iter(pipeline(images, Recipe(image_size=size, batch_size=batch, **fields)))
            for _ in range(4):  # until all threads are at work
                next(iterator)
            start = time.perf_counter()
            for _ in range(batches):
                next(iterator)
            figures[name].append(batches * batch / (time.perf_counter() - start))
            del iterator
    return figures


def pipeline(images, recipe):
    """The training batches of an endless data set of these images, which lie in memory."""

    def load(order, first=0, every=1):
        numbered = tf.data.Dataset.from_tensor_slices(images).repeat().enumerate()
        return numbered.map(lambda example, image: (image, example % 10, example))

    split = Split(sys.maxsize, load, lambda: np.arange(10))
    return training_batches(Data(tuple("0123456789"), split, split, split), recipe, epoch=0)


def table(figures, unit):
    """{name: figures} as lines: median, least and greatest."""
    width = max(map(len, figures))
    lines = [f"{'':<{width}}  median   least  greatest  {unit}"]
    for name, values in figures.items():
        lines.append(f"{name:<{width}}  {statistics.median(values):6.0f}  {min(values):6.0f}  {max(values):8.0f}")
    return "\n".join(lines)
