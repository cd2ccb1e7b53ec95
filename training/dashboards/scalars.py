"""Curves of loss and accuracy by head, learning rate, gradient norm, speed and memory, and their layout in charts."""

import time

import keras
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar

import keras_cnns
from training.dashboards.log import Board
from training.measure import device, memory, peak_flops
from training.optimization import current_rate

STEP_INTERVAL = 10  # steps between two points of the curves by step

TOP5 = "top-5 accuracy"

# {page: {chart: tags, as regular expressions}} of the Custom Scalars tab.
LAYOUT = {
    "optimisation": {
        "loss": ["loss/.*"],
        "learning rate": ["by_step/learning_rate"],
        "gradient norm": ["by_step/gradient_norm"],
        "update to weight": ["weights/update_ratio"],
    },
    "generalisation": {
        "accuracy": ["accuracy/main"],
        "loss without the auxiliary heads": ["loss/main"],
        TOP5: ["accuracy/top5"],
    },
    "speed": {
        "images/s": ["by_step/images_per_second"],
        "step and input wait, ms": ["by_step/step_milliseconds", "by_step/input_wait_milliseconds"],
        "utilisation": ["by_step/utilisation"],
        "memory, MiB": ["by_step/.*_memory_mib"],
    },
    "numerics": {
        "weight norm": ["weights/norm"],
        "loss scale": ["by_step/loss_scale"],
        "skipped steps": ["by_step/skipped_steps"],
        "gradient norm of first and last layer": ["gradient_by_depth/.*"],
    },
}


class Scalars(Board):
    """Write curves by step and by epoch.

    The gradient norm is the one that the loop stores in `model.gradient_norm`. Plain `model.fit` does not measure it,
    and fetches images inside its step, so the input wait it reports is close to zero.

    Args:
        log: The log.
        batch_size: Images per step.
        interval: Steps between two points of the curves by step; a shorter epoch has one point at its end.
        top5: Whether to write the top-5 accuracy, which is always 1 for five classes or fewer.
    """

    needs = None

    def __init__(self, log, batch_size, interval=STEP_INTERVAL, *, top5=True):
        super().__init__(log)
        self.batch_size, self.interval, self.top5 = batch_size, interval, top5
        self.skipped = 0

    def state(self):
        return {"skipped": self.skipped}

    def load_state(self, state):
        self.skipped = state.get("skipped", 0)  # states of earlier versions do not have it

    def on_train_begin(self, logs=None):
        self.peak = None
        try:
            self.multiply_adds = trained_multiply_adds(keras_cnns.complexity(self.model))
        except (AttributeError, ValueError):  # a subclassed model, or one for any image size
            self.multiply_adds = 0
        if self.multiply_adds:
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            self.peak = replicas * peak_flops(device(), keras.config.dtype_policy().compute_dtype)
        with self.log.at(self.step):
            tf.summary.experimental.write_raw_pb(custom_scalar.pb(layout(self.top5)).SerializeToString(), step=0)

    def on_epoch_begin(self, epoch, logs=None):
        self.seen = self.step
        self.started = self.ended = self.mark = time.perf_counter()
        self.steps, self.waited, self.steps_at_mark, self.weights = 0, 0.0, 0, None

    def on_train_batch_begin(self, batch, logs=None):
        self.waited += time.perf_counter() - self.ended
        if batch + 1 == self.params.get("steps"):
            # A subclassed model may have no weights before its first step.
            self.weights = [tf.identity(variable.value) for variable in self.model.trainable_variables] or None

    def on_train_batch_end(self, batch, logs=None):
        self.ended = time.perf_counter()
        self.steps += 1
        step = self.step
        self.skipped += step == self.seen
        self.seen = step
        if step % self.interval == 0:
            self.log.scalars(step, self.by_step(logs))

    def by_step(self, logs):
        """Return the curves by step as {tag: value}, the mean over the steps since the last point."""
        count = self.steps - self.steps_at_mark
        seconds = (self.ended - self.mark) / count
        optimizer = self.model.optimizer
        values = {
            "learning_rate": current_rate(self.model),
            "loss": logs["loss"],
            "images_per_second": self.batch_size / seconds,
            "step_milliseconds": 1000 * seconds,
            "input_wait_milliseconds": 1000 * self.waited / count,
            **memory(),
        }
        if hasattr(self.model, "gradient_norm"):
            values["gradient_norm"] = self.model.gradient_norm
        if self.peak:
            values["utilisation"] = utilisation(self.multiply_adds, self.batch_size / seconds, self.peak)
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            values |= {"loss_scale": optimizer.dynamic_scale, "skipped_steps": self.skipped}
        self.mark, self.steps_at_mark, self.waited = self.ended, self.steps, 0.0
        return {f"by_step/{name}": value for name, value in values.items()}

    def on_epoch_end(self, epoch, logs=None):
        if self.steps and not self.steps_at_mark:
            self.log.scalars(self.step, self.by_step(logs))
        scalars = by_head(logs if self.top5 else {name: logs[name] for name in logs if "top5" not in name})
        scalars["train"] |= {
            "learning_rate": current_rate(self.model),
            "weights/norm": tf.linalg.global_norm([v.value for v in self.model.trainable_variables]),
        }
        if self.steps:
            seconds = self.ended - self.started  # including the wait for images
            scalars["train"] |= {
                "speed/images_per_second": self.steps * self.batch_size / seconds,
                "speed/step_milliseconds": 1000 * seconds / self.steps,
            }
        if self.weights is not None:
            pairs = zip(self.model.trainable_variables, self.weights, strict=True)
            update = tf.linalg.global_norm([variable.value - before for variable, before in pairs])
            # The last step of the epoch.
            scalars["train"]["weights/update_ratio"] = update / tf.linalg.global_norm(self.weights)
            self.weights = None
        for split, values in scalars.items():
            self.log.scalars(epoch + 1, values, split)
        self.log.flush()


def by_head(logs):
    """Return the logs of an epoch as {split: {"loss/main": value, ...}}.

    An accuracy without the name of a head is the main head's; a loss without one is the total if the main head has a
    loss of its own.
    """
    scalars = {"train": {}, "validation": {}}
    for name, value in logs.items():
        prefix = "val_" if name.startswith("val_") else ""
        head, _, quantity = name.removeprefix("val_").rpartition("_")
        head = head or ("total" if quantity == "loss" and f"{prefix}main_loss" in logs else "main")
        scalars["validation" if prefix else "train"][f"{quantity}/{head}"] = value
    return scalars


def layout(top5=True):
    """Return `LAYOUT` as TensorBoard's message, with or without the chart of the top-5 accuracy."""
    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title=page,
                chart=[
                    layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
                    for title, tags in charts.items()
                    if top5 or title != TOP5
                ],
            )
            for page, charts in LAYOUT.items()
        ]
    )


def trained_multiply_adds(cost):
    """Return the multiply-adds of a training step for one image, forward and backward.

    The backward pass costs a layer's multiply-adds once for the gradient with respect to its input and once for that
    with respect to its weights. A frozen layer needs only the first, and neither before the first trained layer.

    Args:
        cost: The network's `keras_cnns.Complexity`.
    """
    total, reached = 0, 0
    for layer in cost.layers:
        trained = layer.parameters > 0
        reached = reached or trained
        total += layer.multiply_adds * (1 + reached + trained)
    return total


def utilisation(multiply_adds, images_per_second, peak):
    """Return the model FLOP/s utilisation (Chowdhery et al. 2022, appendix B), a share of the peak.

    A multiply-add is two operations.
    """
    return multiply_adds * 2 * images_per_second / peak
