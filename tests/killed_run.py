"""Runs that are killed: a process that makes many of them, each forked off so that TensorFlow is imported once.

Every line on standard input is a JSON list [folder, point, count]. A child trains the recipe below in the folder and is
killed with SIGKILL at the count-th time that it comes to the point; a number as the point is seconds until its parent
kills it. The answer is a line "killed" or "ended CODE".

    batch          after a step
    write          with half of a state written
    before_rename  with a state written under its temporary name
    after_rename   with the state in its place
    epoch_end      after an epoch's validation, before its state is written
    never
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from training import checkpoint
from training.recipe import Recipe
from training.run import fit

# All that has a state: stochastic depth, batch normalization, Adam, an average, a plateau, augmentation and mixing.
RECIPE = Recipe(
    name="killed",
    model="ResNetCIFAR",
    model_args={"depth": 8, "drop_connect": 0.2},
    data="digits",
    image_size=16,
    batch_size=64,
    epochs=int(os.environ.get("EPOCHS", "3")),
    optimizer="adam",
    learning_rate=1e-2,
    schedule="plateau",
    decay_epochs=1.0,
    crop="pad",
    random_erasing=0.3,
    mixup=0.4,
    cutmix=0.4,
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


def train(folder, point, count):
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

    checkpoint.Path.write_bytes, checkpoint.os.replace = write_bytes, rename
    fit(RECIPE, folder, save_steps=4, callbacks=[killer], picture_epochs=0)


def main():
    for line in sys.stdin:
        folder, point, count = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                with open(f"{folder}.log", "a") as log:
                    os.dup2(log.fileno(), 1)
                    os.dup2(log.fileno(), 2)
                    train(folder, point, count)
                os._exit(0)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
        if isinstance(point, float):
            time.sleep(point)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else f"ended {os.WEXITSTATUS(status)}", flush=True)


if __name__ == "__main__":
    main()
