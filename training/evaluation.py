"""The evaluation of a network on a split: loss, accuracies and the confusion matrix of the main head."""

import functools
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

import keras_cnns
from training import calibration
from training.batches import evaluation_batches
from training.forward import forward


@dataclass(frozen=True)
class Evaluation:
    """The result of a network on a split.

    Attributes:
        loss: Mean cross-entropy, in nats.
        top5: Fraction of the images whose class is among the five most probable.
        confusion: Counts (true class, predicted class).
        losses: The losses with `calibration.TEMPERATURES`.
        reliability: What `calibration.reliability` counts, before and after logits are divided by the temperature.
    """

    loss: float
    top5: float
    confusion: np.ndarray
    losses: np.ndarray
    reliability: tuple[np.ndarray, np.ndarray]

    @property
    def images(self):
        """Number of images."""
        return int(self.confusion.sum())

    @property
    def accuracy(self):
        """Fraction of the images whose class is the most probable."""
        return float(np.trace(self.confusion) / self.images)

    @property
    def temperature(self):
        """The temperature with which the loss of these images is least."""
        return calibration.best_temperature(self.losses, self.accuracy)

    @property
    def calibration_errors(self):
        """The expected calibration error before and after logits are divided by the temperature."""
        return tuple(map(calibration.calibration_error, self.reliability))

    def to_json(self):
        """Return the metrics as JSON values, without the confusion matrix."""
        before, after = self.calibration_errors
        return {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "top5_accuracy": self.top5,
            "images": self.images,
            "calibration_error": before,
            "calibration_error_with_temperature": after,
        }

    def table(self, class_names):
        """Return a table with the images, recall and precision of each class."""
        width = max(map(len, (*class_names, "class")))
        lines = [f"{'class':<{width}}  images  recall  precision"]
        for index, name in enumerate(class_names):
            images, found = self.confusion[index].sum(), self.confusion[:, index].sum()
            right = self.confusion[index, index]
            recall = f"{right / images:7.1%}" if images else f"{'-':>7}"
            precision = f"{right / found:9.1%}" if found else f"{'-':>9}"
            lines.append(f"{name:<{width}}  {images:6d} {recall}  {precision}")
        return "\n".join(lines)


def make_evaluation(model, classes, recipe, temperature=1.0):
    """Return a function (split, stop) -> Evaluation of the main head of a model, compiled once.

    Loss and accuracies are those of the network, the temperature is for the second part of the reliability only.

    Several devices share the images. `stop()` is called before each batch; once it is true in any of the processes, the
    function returns None.
    """
    model = keras_cnns.main_output(model)
    strategy = tf.distribute.get_strategy()
    step = None

    @tf.function(jit_compile=recipe.jit, autograph=False)
    def replica_step(images, labels):
        logits = forward(model, images, recipe.preprocessing)
        losses = keras.ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        return (
            tf.reduce_sum(losses),
            tf.math.count_nonzero(in_top(5, logits, labels)),
            tf.math.confusion_matrix(labels, tf.argmax(logits, axis=-1), classes, dtype=tf.int64),
            calibration.losses_by_temperature(logits, labels),
            calibration.reliability(logits, labels),
            calibration.reliability(logits / temperature, labels),
        )

    def all_replicas(images, labels, stop):
        values = *strategy.run(replica_step, (images, labels)), strategy.run(lambda: tf.cast(stop, tf.int64))
        return [strategy.reduce("SUM", value, axis=None) for value in values]

    @functools.cache  # tracing the pipeline takes a tenth of a second
    def batches_of(split):
        return strategy.distribute_datasets_from_function(lambda context: evaluation_batches(split, recipe, context))

    def evaluate(split, stop=lambda: False):
        nonlocal step
        batches = batches_of(split)
        # One graph for all batch sizes: the smaller last batch would otherwise be traced again.
        specs = *batches.element_spec, tf.TensorSpec((), tf.bool)
        step = step or tf.function(all_replicas, input_signature=specs, autograph=False)
        steps = []
        for images, labels in batches:
            *values, stopped = step(images, labels, stop())
            if stopped:
                return None
            steps.append(values)
        loss, top5, confusion, losses, *bins = (sum(values).numpy() for values in zip(*steps, strict=True))
        images = confusion.sum()
        return Evaluation(float(loss / images), float(top5 / images), confusion, losses / images, tuple(bins))

    return evaluate


def in_top(k, logits, labels):
    """Return whether each label is among the k most probable classes; the first of equally probable classes count.

    With k = 1 this agrees with `argmax`; tf.math.in_top_k would count every class of a tie.
    """
    best = tf.math.top_k(logits, min(k, logits.shape[-1])).indices
    return tf.reduce_any(best == tf.cast(labels, tf.int32)[:, None], axis=-1)
