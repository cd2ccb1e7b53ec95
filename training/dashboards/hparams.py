"""The HParams tab: one row per run, with the recipe's fields and the accuracy, size and speed of the network."""

import dataclasses
import json
import time

from tensorboard.plugins.hparams import api

import keras_cnns
from training.dashboards.log import Board

FOLDER = "hparams"  # a folder of its own: the scalars in it and below are the row's metrics

# TensorBoard shows columns that differ between runs first, and sorts both kinds alphabetically, whatever is asked for.
# The other fields get names that come after these.
FIRST = ("batch_size", "epochs", "learning_rate", "model", "optimizer")


class HParams(Board):
    """Write the row of a run; `write_result` adds the test accuracy at the end.

    No list of columns is written: TensorBoard would take the list of one run for all runs. Without one it shows all
    fields of a run, those that differ between runs first.

    Args:
        log: The log.
        recipe: The recipe whose fields are the columns.
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
    """Write metrics of the row."""
    log.scalars(step, {f"hparams/{name}": value for name, value in metrics.items()}, FOLDER)


def write_result(log, step, test_accuracy):
    """Write the test accuracy, which is known at the end of a run."""
    write_metrics(log, step, test_accuracy=test_accuracy)
    log.flush()
