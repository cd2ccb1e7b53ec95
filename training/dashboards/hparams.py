"""The HParams tab: a row a run, with the recipe's fields and how good, large and fast the network was."""

import dataclasses
import json
import time

from tensorboard.plugins.hparams import api

import keras_cnns
from training.dashboards.log import Board

METRICS = {
    "hparams/best_validation_accuracy": "best validation accuracy",
    "hparams/test_accuracy": "test accuracy",
    "hparams/parameters": "trainable parameters",
    "hparams/multiply_adds": "multiply-adds",
    "hparams/images_per_second": "images/s",
}


class HParams(Board):
    """Writes the row; the test accuracy comes later, by `write_test`.

    Args:
        log: The log.
        recipe: A dataclass whose fields are the columns.
    """

    def __init__(self, log, recipe):
        super().__init__(log)
        self.recipe, self.best = recipe, None

    def state(self):
        return {"best": self.best}

    def load_state(self, state):
        self.best = state["best"]

    def on_train_begin(self, logs=None):
        columns = {
            name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for name, value in dataclasses.asdict(self.recipe).items()
        }
        metrics = [api.Metric(tag, display_name=name) for tag, name in METRICS.items()]
        with self.log.at(0, "."):
            api.hparams_config([api.HParam(name) for name in columns], metrics)
            api.hparams(columns)
        cost = keras_cnns.complexity(keras_cnns.main_output(self.model))
        self.write(parameters=cost.parameters, multiply_adds=cost.multiply_adds)

    def on_epoch_begin(self, epoch, logs=None):
        self.started, self.steps = time.perf_counter(), 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        self.seconds = time.perf_counter() - self.started

    def on_epoch_end(self, epoch, logs=None):
        self.best = max(self.best or 0.0, logs["val_accuracy"])
        self.write(epoch + 1, best_validation_accuracy=self.best)
        if self.steps:
            self.write(epoch + 1, images_per_second=self.steps * self.recipe.batch_size / self.seconds)
        self.log.flush()

    def write(self, step=0, **metrics):
        """Writes metrics of the row, by the names behind "hparams/"."""
        self.log.scalars(step, {f"hparams/{name}": value for name, value in metrics.items()}, ".")


def write_result(log, step, test_accuracy):
    """Writes what is known when the run is over."""
    log.scalars(step, {"hparams/test_accuracy": test_accuracy}, ".")
    log.flush()
