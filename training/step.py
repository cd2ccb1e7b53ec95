"""The training step: losses by head, gradients, the update of the weights and of their moving average."""

import keras
import tensorflow as tf

import keras_cnns
from training.optimization import is_decayed


def outputs_by_head(outputs):
    """Return {head: output}; a network without auxiliary heads has the head "main" only."""
    return outputs if isinstance(outputs, dict) else {"main": outputs}


def accuracy_of(head):
    """Return the name of a head's accuracy in the logs; that of the main head is the network's."""
    return "accuracy" if head == "main" else f"{head}_accuracy"


def log_names(model):
    """Return the names of a model's training logs: the total loss, the losses of several heads, the accuracies."""
    heads = list(outputs_by_head(model.output))
    losses = [f"{head}_loss" for head in heads] if len(heads) > 1 else []
    return ["loss", *losses, *map(accuracy_of, heads)]


def losses_by_head(outputs, targets, batch_size, *, from_logits=True):
    """Return {head: cross-entropy}, in nats per image.

    Args:
        outputs: {head: output (images, classes)}.
        targets: (images, classes), each of which sums to one.
        batch_size: Images in the whole batch, of which a replica has a part: the losses of the replicas add up.
        from_logits: Whether the outputs are logits, not probabilities.
    """
    return {
        head: tf.reduce_sum(keras.ops.categorical_crossentropy(targets, output, from_logits=from_logits)) / batch_size
        for head, output in outputs.items()
    }


def total_loss(losses, aux_weight):
    """Return the sum of {head: loss}, where each auxiliary head has the weight `aux_weight`."""
    return sum((1.0 if head == "main" else aux_weight) * loss for head, loss in losses.items())


def average_of(model):
    """Return a network of the same layers for the moving average of the model's weights and moving statistics."""
    averaged = keras.models.clone_model(model)
    averaged.set_weights(model.get_weights())
    return averaged


def make_train_step(model, recipe, averaged=None):
    """Return the training step, a function (images, targets, stop=False) -> {name: value of the whole batch}.

    It updates the model, and returns the values of `log_names`, "gradient_norm", and "stopped", which is above 0 if
    `stop` was true in any of the processes.

    Args:
        model: The model, compiled.
        recipe: The recipe, resolved.
        averaged: The network for the moving average, if there is one.
    """
    strategy = tf.distribute.get_strategy()
    variables = model.trainable_variables
    names = [*log_names(model), "gradient_norm", "stopped"]
    slow = [v for v in variables if not keras_cnns.is_head(v.path)] if recipe.backbone_rate != 1 else []

    def replica_step(images, targets):
        with tf.GradientTape() as tape:
            images = keras_cnns.preprocess_input(images, recipe.preprocessing)
            outputs = outputs_by_head(model(images, training=True))
            losses = losses_by_head(outputs, targets, recipe.batch_size)
            regularization = sum(model.losses) / strategy.num_replicas_in_sync
            loss = total_loss(losses, recipe.aux_weight) + regularization
            scaled = model.optimizer.scale_loss(loss)
        norm = apply_gradients(model, recipe, tape.gradient(scaled, variables))
        values = {"loss": loss, "gradient_norm": norm}
        labels = tf.argmax(targets, axis=-1)
        for head, output in outputs.items():
            if len(outputs) > 1:
                values[f"{head}_loss"] = losses[head]
            correct = tf.cast(tf.argmax(output, axis=-1) == labels, "float32")
            values[accuracy_of(head)] = tf.reduce_sum(correct) / recipe.batch_size
        return values

    if recipe.jit:
        replica_step = tf.function(replica_step, jit_compile=True, autograph=False)

    @tf.function(autograph=False)
    def step(images, targets, stop):
        before = [tf.identity(variable.value) for variable in slow]
        values = strategy.run(replica_step, (images, targets))
        values["stopped"] = strategy.run(lambda: tf.cast(stop, "float32"))
        for variable, old in zip(slow, before, strict=True):
            variable.assign(old + recipe.backbone_rate * (variable - old))
        if averaged is not None:
            update_average(averaged, model, recipe.ema)
        # In one vector, since every value that is fetched from a GPU waits for it.
        return tf.stack([tf.cast(strategy.reduce("SUM", values[name], axis=None), "float32") for name in names])

    def named_step(images, targets, stop=False):
        return dict(zip(names, step(images, targets, tf.constant(stop)).numpy().tolist(), strict=True))

    return named_step


def apply_gradients(model, recipe, gradients):
    """Update a model with a replica's gradients of the scaled loss, clipped and with weight decay.

    Returns:
        The replica's share of the norm of the whole gradient.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    variables, scale = model.trainable_variables, model.optimizer.scale_loss(1.0)
    if replicas > 1:
        # The norm is that of the whole gradient. Keras will sum over the replicas once more, hence the division.
        gradients = tf.distribute.get_replica_context().all_reduce("SUM", gradients)
    norm = tf.linalg.global_norm([tf.cast(gradient, "float32") for gradient in gradients]) / scale
    if recipe.clip_norm:
        shrink = tf.minimum(1.0, recipe.clip_norm / norm)
        gradients = [gradient * tf.cast(shrink, gradient.dtype) for gradient in gradients]
    if recipe.weight_decay and recipe.decay_mode == "l2":
        gradients = [
            gradient + scale * recipe.weight_decay * variable if is_decayed(variable, recipe) else gradient
            for gradient, variable in zip(gradients, variables, strict=True)
        ]
    model.optimizer.apply([gradient / replicas for gradient in gradients] if replicas > 1 else gradients, variables)
    return norm / replicas


def update_average(averaged, model, decay):
    """Move the averaged weights toward the model's, with the slow start min(decay, (1 + steps) / (10 + steps))."""
    steps = tf.cast(model.optimizer.iterations.value, "float32")
    keep = tf.minimum(decay, (1.0 + steps) / (10.0 + steps))
    for average, variable in zip(averaged.weights, model.weights, strict=True):
        average.assign_add((1.0 - keep) * (variable - average))  # exactly zero where a weight is frozen
