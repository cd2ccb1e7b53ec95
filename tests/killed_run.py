"""A run that kills itself with SIGKILL when it reaches a point for the n-th time.

batch          after a step
write          after half of a state has been written
before_rename  after a state has been written under its temporary name
after_rename   after the state has been renamed
epoch_end      after the validation of an epoch, before its state is written
never
"""

import dataclasses
import os
import signal
from pathlib import Path

import keras

from training import files
from training.recipe import Recipe
from training.run import FitOptions, fit

# Everything with a state: stochastic depth, batch normalization, Adam, averages, plateau, augmentation and mixing.
RECIPE = Recipe(
    name="killed",
    model="ResNetCIFAR",
    model_args={"depth": 8, "width": 0.25, "drop_connect": 0.2},
    data="digits",
    image_size=8,
    batch_size=128,  # ten steps per epoch
    optimizer="adam",
    learning_rate=1e-2,
    schedule="plateau",
    decay_epochs=1.0,
    crop="pad",
    mixup=0.4,
    ema=0.9,
)


class Killer(keras.callbacks.Callback):
    """Kill the process when it reaches a point for the `count`-th time."""

    def __init__(self, point, count):
        super().__init__()
        self.point, self.count = point, count

    def at(self, point, count=1):
        if point == self.point:
            self.count -= count
            if self.count <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(self, batch, logs=None):
        self.at("batch")

    def on_epoch_end(self, epoch, logs=None):
        self.at("epoch_end")


def train(folder, point, count, epochs):
    """Train the recipe in a folder and return 0, unless the process is killed."""
    killer = Killer(point, count)
    write, replace = Path.write_bytes, os.replace

    def write_bytes(path, content):
        if point == "write" and killer.count == 1:
            write(path, content[: len(content) // 2])
        killer.at("write")
        return write(path, content)

    def rename(old, new):
        if "states" in str(new):
            killer.at("before_rename")
        replace(old, new)
        if "states" in str(new):
            killer.at("after_rename")

    files.Path.write_bytes, files.os.replace = write_bytes, rename
    options = FitOptions(save_steps=4, picture_epochs=0, export=False)
    fit(dataclasses.replace(RECIPE, epochs=epochs), folder, callbacks=[killer], options=options)
    return 0
