"""Keras callbacks that show a run in TensorBoard.

Keras's own TensorBoard callback writes no graph that opens, no learning rate by step and no throughput. These callbacks
work in the loop of `training` and in plain Keras:

    log = dashboards.Log("runs/mine")
    model.fit(images, labels, callbacks=[dashboards.Scalars(log, batch_size=32), dashboards.Graph(log)])

They only observe: training with all of them gives the same bits as training without.
"""

import tensorflow as tf

from training.batches import evaluation_batches, training_batches
from training.dashboards.graph import Graph, stage_graph
from training.dashboards.hparams import HParams
from training.dashboards.log import Board, Log, new_figure, png
from training.dashboards.pictures import Pictures, answers
from training.dashboards.probes import Probes
from training.dashboards.profiling import Profile
from training.dashboards.reliability import reliability_figure
from training.dashboards.scalars import Scalars

__all__ = [
    "Board",
    "Graph",
    "HParams",
    "Log",
    "Pictures",
    "Probes",
    "Profile",
    "Scalars",
    "draw_best",
    "draw_reliability",
    "new_figure",
    "of_run",
    "png",
    "stage_graph",
]

PROBED = 8  # images of the fixed batch


def of_run(log, recipe, data, texts, *, picture_epochs=5, profile_steps=0, row=True):
    """Return every dashboard for a run of `python -m training fit`.

    Args:
        log: Where to write.
        recipe: The recipe, resolved.
        data: The data set.
        texts: {tag: Markdown} for the Text tab.
        picture_epochs: Number of epochs between two sets of pictures and histograms; 0 for none.
        profile_steps: Number of steps of the first epoch that the profiler records; 0 for none.
        row: Whether to write a row of the HParams tab.
    """
    images, labels = next(iter(evaluation_batches(data.validation, recipe)))
    targets = tf.one_hot(labels[:PROBED], len(data.class_names))

    def shown(epoch):
        return next(iter(training_batches(data, recipe, epoch)))[0]

    return (
        Scalars(log, recipe.batch_size, top5=len(data.class_names) > 5),
        Graph(log, texts),
        *([HParams(log, recipe)] if row else []),
        Probes(log, images[:PROBED], targets, recipe.preprocessing, aux_weight=recipe.aux_weight, every=picture_epochs),
        Pictures(
            log,
            lambda: evaluation_batches(data.validation, recipe),
            data.class_names,
            recipe.preprocessing,
            shown=shown,
            every=picture_epochs,
        ),
        Profile(log, steps=profile_steps),
    )


def draw_best(log, network, data, recipe, epoch):
    """Write the pictures of the final network, under tags that begin with best/.

    For the validation images, these are all pictures of `Pictures`; for the test images, the confusion matrix and the
    most confident mistakes.

    Args:
        log: Where to write.
        network: The network without auxiliary heads; its outputs are logits.
        data: The data set.
        recipe: The recipe, resolved.
        epoch: The epoch, counted from 1, in which it had these weights.
    """
    best = Pictures(log, lambda: evaluation_batches(data.validation, recipe), data.class_names, recipe.preprocessing)
    best.set_model(network)
    best.draw(epoch, "best/")
    seen = best.pass_over(evaluation_batches(data.test, recipe))
    best.write(answers(seen, data.class_names), epoch, "best/", "test")


def draw_reliability(log, evaluation, temperature, epoch, split):
    """Write the reliability diagram of a network on a split.

    Args:
        log: Where to write.
        evaluation: The Evaluation of the split, made with the temperature.
        temperature: The temperature.
        epoch: The epoch, counted from 1, in which the network had these weights.
        split: Name of the split.
    """
    log.figure("reliability", reliability_figure(*evaluation.reliability, temperature), epoch, split)
    log.flush()
