"""Optimizer and learning rate of a recipe, all of them Keras's own."""

import keras


def make_optimizer(recipe, steps_per_epoch):
    """The optimizer of a recipe, its learning rate scheduled over all steps of the run."""
    rate = learning_rate(recipe, steps_per_epoch)
    if recipe.optimizer == "adam":
        return keras.optimizers.Adam(rate)
    if recipe.optimizer == "rmsprop":
        return keras.optimizers.RMSprop(rate, rho=0.9, momentum=recipe.momentum)
    return keras.optimizers.SGD(rate, momentum=recipe.momentum)


def learning_rate(recipe, steps_per_epoch):
    """The schedule: a linear warm-up from zero, then a cosine to zero or a constant."""
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    decay = recipe.epochs * steps_per_epoch - warmup
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else recipe.learning_rate,
        warmup_target=recipe.learning_rate if warmup else None,
        warmup_steps=warmup,
        decay_steps=max(decay, 1),
        alpha=0.0 if recipe.schedule == "cosine" else 1.0,  # what remains at the end
    )
