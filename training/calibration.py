"""Calibration: whether a network that is 90 % sure is right nine times out of ten.

Source: Guo, Pleiss, Sun, Weinberger 2017, "On Calibration of Modern Neural Networks": the expected calibration error
and the reliability diagram in section 2, temperature scaling in section 4.2. Logits are divided by a temperature, one
number that makes the loss of the validation images least. The order of the classes, and so the accuracy, stays.
"""

import numpy as np
import tensorflow as tf

BINS = 15  # of the confidence, as in the paper
STEPS = 5  # temperatures from one to its double
TEMPERATURES = 2.0 ** (np.arange(-4 * STEPS, 4 * STEPS + 1) / STEPS)  # from 1/16 to 16


def losses_by_temperature(logits, labels):
    """Return the sum of the cross-entropies of a batch with each of TEMPERATURES, float64."""
    scaled = tf.cast(logits, tf.float32) / tf.constant(TEMPERATURES, tf.float32)[:, None, None]
    labels = tf.broadcast_to(labels, tf.shape(scaled)[:2])
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scaled)
    return tf.reduce_sum(tf.cast(losses, tf.float64), axis=-1)


def best_temperature(losses, accuracy):
    """Return the temperature of the least loss: the vertex of the parabola through the least of `losses` and its
    neighbours.

    A network that makes no mistake on the validation images would be best with a temperature of 0, and sure of every
    image: it keeps 1.

    Args:
        losses: The losses with TEMPERATURES.
        accuracy: The share of the same images that is classified right.
    """
    if accuracy == 1 or not np.isfinite(losses).all():
        return 1.0
    place = int(np.argmin(losses))
    if place in (0, len(losses) - 1):
        return float(TEMPERATURES[place])
    left, middle, right = losses[place - 1 : place + 2]
    curvature = left - 2 * middle + right
    shift = (left - right) / (2 * curvature) if curvature > 0 else 0.0
    return float(TEMPERATURES[place] * 2 ** (shift / STEPS))


def reliability(logits, labels):
    """Return what a reliability diagram shows of a batch, float64 (3, BINS): for each bin of the confidence, the number
    of images, the sum of their confidences, and how many of them are right."""
    sure = tf.reduce_max(tf.nn.softmax(logits), axis=-1)
    right = tf.cast(tf.argmax(logits, axis=-1) == labels, tf.float64)
    bins = tf.clip_by_value(tf.cast(tf.math.ceil(sure * BINS), tf.int32) - 1, 0, BINS - 1)
    columns = tf.stack([tf.ones_like(right), tf.cast(sure, tf.float64), right], axis=-1)
    return tf.transpose(tf.math.unsorted_segment_sum(columns, bins, BINS))


def calibration_error(bins):
    """Return the expected calibration error: the mean distance of confidence and accuracy over the bins, weighted by
    their images.

    Args:
        bins: As `reliability` returns them, summed over a split.
    """
    images, confidences, right = bins
    return float(np.abs(confidences - right).sum() / max(images.sum(), 1))
