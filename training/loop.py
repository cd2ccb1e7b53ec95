"""The training loop, from the first step to the last: read it once from top to bottom and you know what a run does."""

import sys

import keras
import numpy as np
import tensorflow as tf

import keras_cnns
from training import checkpoint
from training.data import batches
from training.errors import DivergedError
from training.evaluation import cross_entropy, make_evaluation
from training.optimization import make_optimizer


def train(model, data, recipe, run, callbacks=()):
    """Trains a model, keeps the best and the last state in the run's folder, and goes on where an earlier call ended.

    Args:
        model: A network from `recipe.build`, with logits as its output, one or a dictionary by head.
        data: The data set.
        recipe: The recipe, resolved.
        run: The run, which says where files go.
        callbacks: Keras callbacks. They see the logs of each step and epoch: `loss` (all heads, weighted, and
            regularization), `accuracy` (main head), where there are several heads each one's loss and the auxiliary
            accuracies, and `val_loss` and `val_accuracy` of the main head.

    Returns:
        The progress: {"epoch", "best_epoch", "best", "history"}.
    """
    steps = data.train.size // recipe.batch_size
    model.compile(optimizer=make_optimizer(recipe, steps))  # under float16 Keras adds the loss scaling
    model.optimizer.build(model.trainable_variables)
    progress = {"epoch": 0, "best_epoch": None, "best": None, "history": []}
    if run.last.exists():
        progress = checkpoint.load_state(model, run.last)

    train_step, metrics = make_train_step(model, recipe)
    evaluate = make_evaluation(model, len(data.class_names), recipe)
    bar = {"add_progbar": True, "verbose": 1 if sys.stdout.isatty() else 2}  # without a terminal: a line an epoch
    callbacks = keras.callbacks.CallbackList(callbacks, model=model, epochs=recipe.epochs, steps=steps, **bar)
    model.stop_training = False
    callbacks.on_train_begin()
    for epoch in range(progress["epoch"], recipe.epochs):
        callbacks.on_epoch_begin(epoch)
        for metric in metrics.values():
            metric.reset_state()
        for step, (images, labels) in enumerate(batches(data.train, recipe, epoch=epoch)):
            callbacks.on_train_batch_begin(step)
            train_step(images, labels)
            logs = {name: float(metrics[name].result()) for name in ("loss", "accuracy")}
            if not np.isfinite(logs["loss"]):
                raise DivergedError(
                    f"The loss is {logs['loss']} in step {step + 1} of epoch {epoch + 1}, at a learning rate of "
                    f"{float(model.optimizer.learning_rate):.3g}. Pass a smaller --learning_rate or a longer "
                    f"--warmup_epochs. {run.best if run.best.exists() else 'Nothing'} is kept."
                )
            callbacks.on_train_batch_end(step, logs)
        validation = evaluate(batches(data.validation, recipe))
        logs = {name: float(metric.result()) for name, metric in metrics.items()}
        logs |= {"val_loss": validation.loss, "val_accuracy": validation.accuracy}
        callbacks.on_epoch_end(epoch, logs)

        progress["epoch"] = epoch + 1
        progress["history"].append(logs)
        # Small validation sets tie often: among equal accuracies the lower loss is the better network.
        score = [validation.accuracy, -validation.loss]
        if progress["best"] is None or score > progress["best"]:
            progress |= {"best": score, "best_epoch": epoch + 1}
            checkpoint.save_best(model, run.best, {"epoch": str(epoch + 1)})
        checkpoint.save_state(model, run.last, progress)
        if model.stop_training:
            break
    callbacks.on_train_end()
    return progress


def heads(outputs):
    """The outputs by head: a network without auxiliary heads has the main one only."""
    return outputs if isinstance(outputs, dict) else {"main": outputs}


def accuracy_of(head):
    """The name of a head's accuracy in the logs; the main one's is the network's."""
    return "accuracy" if head == "main" else f"{head}_accuracy"


def make_train_step(model, recipe):
    """The step, a function (images, labels) that updates the model, and the metrics that it feeds, by name."""
    names = list(heads(model.output))
    weights = {name: 1.0 if name == "main" else recipe.aux_weight for name in names}
    metrics = {"loss": keras.metrics.Mean()}
    for name in names:
        if len(names) > 1:
            metrics[f"{name}_loss"] = keras.metrics.Mean()
        metrics[accuracy_of(name)] = keras.metrics.SparseCategoricalAccuracy()

    def replica_step(images, labels):
        with tf.GradientTape() as tape:
            outputs = heads(model(keras_cnns.preprocess_input(images), training=True))
            losses = {name: tf.reduce_sum(cross_entropy(labels, outputs[name])) / recipe.batch_size for name in names}
            loss = sum(weights[name] * losses[name] for name in names) + sum(model.losses)
            scaled = model.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        metrics["loss"].update_state(loss)
        for name in names:
            if len(names) > 1:
                metrics[f"{name}_loss"].update_state(losses[name])
            metrics[accuracy_of(name)].update_state(labels, outputs[name])

    @tf.function(jit_compile=recipe.jit)
    def step(images, labels):
        tf.distribute.get_strategy().run(replica_step, (images, labels))

    return step, metrics
