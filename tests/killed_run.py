"""A run that kills itself with SIGKILL at the count-th time that it comes to a point.

batch          after a step
write          with half of a state written
before_rename  with a state written under its temporary name
after_rename   with the state in its place
epoch_end      after an epoch's validation, before its state is written
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

# All that has a state: stochastic depth, batch normalization, Adam, an average, a plateau, augmentation and mixing.
RECIPE = Recipe(
    name="killed",
    model="ResNetCIFAR",
    model_args={"depth": 8, "width": 0.25, "drop_connect": 0.2},
    data="digits",
    image_size=8,
    batch_size=128,  # ten steps an epoch
    optimizer="adam",
    learning_rate=1e-2,
    schedule="plateau",
    decay_epochs=1.0,
    crop="pad",
    mixup=0.4,
    ema=0.9,
)


class Killer(keras.callbacks.Callback):
    """Kills the process at the count-th time that it comes to the point."""

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
    """Train the recipe in a folder; the exit code is 0, if it comes to that."""
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
    options = FitOptions(save_steps=4, picture_epochs=0)
    fit(dataclasses.replace(RECIPE, epochs=epochs), folder, callbacks=[killer], options=options)
    return 0
