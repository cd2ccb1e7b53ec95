"""Curves: loss and accuracy by head, learning rate, gradient norm, speed, memory; and a layout that orders them."""

import functools
import re
import resource
import time
from pathlib import Path

import keras
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar

import keras_cnns
from training.dashboards.log import Board
from training.optimization import current_rate

STEP_INTERVAL = 10  # steps between two points of the curves by step

# {page: {chart: tags, as regular expressions}} of the Custom Scalars tab.
LAYOUT = {
    "optimisation": {
        "loss": ["loss/.*"],
        "learning rate": ["by_step/learning_rate"],
        "gradient norm": ["by_step/gradient_norm"],
        "update to weight": ["weights/update_ratio"],
    },
    "generalisation": {
        "main head": ["accuracy/main"],
        "loss of the main head": ["loss/main"],
        "top-5": ["accuracy/top5"],
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
    """Writes curves by step and by epoch.

    The gradient norm is the one that the loop leaves in `model.gradient_norm`; plain `model.fit` measures none, and
    fetches images inside its step, so that its input wait is close to zero.

    Args:
        log: The log.
        batch_size: Images per step.
        interval: Steps between two points by step.
    """

    def __init__(self, log, batch_size, interval=STEP_INTERVAL):
        super().__init__(log)
        self.batch_size, self.interval = batch_size, interval

    def on_train_begin(self, logs=None):
        self.peak = None
        try:
            self.multiply_adds = keras_cnns.complexity(self.model).multiply_adds
        except ValueError:  # height or width is open
            self.multiply_adds = 0
        if self.multiply_adds:
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            self.peak = replicas * peak_flops(device(), keras.config.dtype_policy().compute_dtype)
        self.skipped, self.seen = 0, self.step
        with self.log.at(self.seen):
            tf.summary.experimental.write_raw_pb(custom_scalar.pb(layout()).SerializeToString(), step=0)

    def on_epoch_begin(self, epoch, logs=None):
        self.started = self.ended = self.mark = time.perf_counter()
        self.steps, self.waited, self.steps_at_mark, self.weights = 0, 0.0, 0, None

    def on_train_batch_begin(self, batch, logs=None):
        self.waited += time.perf_counter() - self.ended
        if batch + 1 == self.params.get("steps"):
            self.weights = [tf.identity(variable.value) for variable in self.model.trainable_variables]

    def on_train_batch_end(self, batch, logs=None):
        self.ended = time.perf_counter()
        self.steps += 1
        step = self.step
        self.skipped += step == self.seen
        self.seen = step
        if step % self.interval == 0:
            self.log.scalars(step, self.by_step(logs))

    def by_step(self, logs):
        """The curves by step: means over the steps since the last point."""
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
        scalars = by_head(logs)
        scalars["train"] |= {
            "learning_rate": current_rate(self.model),
            "weights/norm": tf.linalg.global_norm([v.value for v in self.model.trainable_variables]),
        }
        if self.steps:
            seconds = self.ended - self.started  # waiting for images included
            scalars["train"] |= {
                "speed/images_per_second": self.steps * self.batch_size / seconds,
                "speed/step_milliseconds": 1000 * seconds / self.steps,
            }
        if self.weights is not None:
            pairs = zip(self.model.trainable_variables, self.weights, strict=True)
            update = tf.linalg.global_norm([variable.value - before for variable, before in pairs])
            # Of the epoch's last step.
            scalars["train"]["weights/update_ratio"] = update / tf.linalg.global_norm(self.weights)
            self.weights = None
        for split, values in scalars.items():
            self.log.scalars(epoch + 1, values, split)
        self.log.flush()


def by_head(logs):
    """The logs of an epoch as {split: {"loss/main": value, ...}}.

    Without a head's name an accuracy is the main head's, and a loss the total where the main head has its own.
    """
    scalars = {"train": {}, "validation": {}}
    for name, value in logs.items():
        prefix = "val_" if name.startswith("val_") else ""
        head, _, quantity = name.removeprefix("val_").rpartition("_")
        head = head or ("total" if quantity == "loss" and f"{prefix}main_loss" in logs else "main")
        scalars["validation" if prefix else "train"][f"{quantity}/{head}"] = value
    return scalars


def layout():
    """`LAYOUT` in TensorBoard's form."""
    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title=page,
                chart=[
                    layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
                    for title, tags in charts.items()
                ],
            )
            for page, charts in LAYOUT.items()
        ]
    )


def utilisation(multiply_adds, images_per_second, peak):
    """Model FLOP/s utilisation (Chowdhery et al. 2022, appendix B): the network's own arithmetic's share of the peak.

    A multiply-add is two operations, and the backward pass takes twice the forward pass.
    """
    return multiply_adds * 2 * 3 * images_per_second / peak


def device():
    """The device that computes."""
    return "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"


@functools.cache
def peak_flops(device, dtype):
    """Floating-point operations per second of a large matrix product, the best of five; measured once per process."""
    size, products = (4096, 20) if device.startswith("GPU") else (1024, 2)
    with tf.device(device):
        matrix = tf.cast(tf.fill((size, size), 1 / size), dtype)  # its powers are itself

        @tf.function
        def multiply(x):
            for _ in range(products):
                x = x @ matrix
            return tf.reduce_sum(x)

        multiply(matrix).numpy()
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            multiply(matrix).numpy()
            seconds.append(time.perf_counter() - started)
    return products * 2 * size**3 / min(seconds)


def memory():
    """The greatest memory in use so far, in MiB: of the GPU, or of the process where there is none."""
    if device().startswith("GPU"):
        return {"device_memory_mib": tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20}
    status = Path("/proc/self/status")
    if status.exists():  # Linux; there getrusage would begin with the peak of the process that started this one
        return {"process_memory_mib": int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10}
    return {"process_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}  # macOS counts bytes
