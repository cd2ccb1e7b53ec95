"""The HParams tab: a row a run, with the recipe's fields and how good, large and fast the network was."""

import dataclasses
import json
import time

from tensorboard.plugins.hparams import api

import keras_cnns
from training.dashboards.log import Board

FOLDER = "hparams"  # of its own: scalars in it and below it are the row's metrics

# TensorBoard shows columns that differ between runs first, and both kinds in the order of the alphabet, whatever is
# asked for. The other fields have names that come after these.
FIRST = ("batch_size", "epochs", "learning_rate", "model", "optimizer")


class HParams(Board):
    """Writes the row; the test accuracy comes later, by `write_result`.

    There is no list of columns. TensorBoard then takes all fields that a run has, those that differ between runs
    first; a list would be taken from one run for all.

    Args:
        log: The log.
        recipe: The recipe, whose fields are the columns.
    """

    def __init__(self, log, recipe):
        super().__init__(log)
        self.recipe, self.best = recipe, None

    def state(self):
        return {"best": self.best}

    def load_state(self, state):
        self.best = state["best"]

    def on_train_begin(self, logs=None):
        with self.log.at(0, FOLDER):
            api.hparams(
                {
                    (name if name in FIRST else f"recipe/{name}"): (
                        value if isinstance(value, bool | int | float | str) else json.dumps(value)
                    )
                    for name, value in dataclasses.asdict(self.recipe).items()
                },
                trial_id=self.recipe.run_name,
            )
        cost = keras_cnns.complexity(keras_cnns.main_output(self.model))
        write_metrics(self.log, 0, parameters=cost.parameters, multiply_adds=cost.multiply_adds)

    def on_epoch_begin(self, epoch, logs=None):
        self.started, self.steps = time.perf_counter(), 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        self.seconds = time.perf_counter() - self.started

    def on_epoch_end(self, epoch, logs=None):
        self.best = max(self.best or 0.0, logs["val_accuracy"])
        metrics = {"best_validation_accuracy": self.best}
        if self.steps:
            metrics["images_per_second"] = self.steps * self.recipe.batch_size / self.seconds
        write_metrics(self.log, epoch + 1, **metrics)
        self.log.flush()


def write_metrics(log, step, **metrics):
    """Writes metrics of the row."""
    log.scalars(step, {f"hparams/{name}": value for name, value in metrics.items()}, FOLDER)


def write_result(log, step, test_accuracy):
    """Writes what is known when the run is over."""
    write_metrics(log, step, test_accuracy=test_accuracy)
    log.flush()
