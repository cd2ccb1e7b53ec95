"""Optimizer and learning rate of a recipe, all of them Keras's own but for the warm-up; updates are fused.

Two terms have another meaning in the papers than in Keras:

- Weight decay. Keras's `weight_decay` is decoupled (Loshchilov and Hutter 2019): learning rate times decay times weight
  is subtracted from a weight. The papers' is L2 regularization: decay times weight is added to its gradient, so that
  it enters momentum and Adam's scaling. `decay_mode` chooses; with plain SGD both are equal.
- The moving average of weights. Keras's `use_ema` averages the trainable weights, but not the moving statistics of
  batch normalization; the average is then evaluated with the statistics of other weights. `ema` averages both, as
  EfficientNet's authors do, with their slow start, min(ema, (1 + steps) / (10 + steps)).
"""

import keras
import tensorflow as tf
from keras import ops

NORM_AND_BIAS = ("bias", "gamma", "beta")


def make_optimizer(recipe, steps_per_epoch, variables):
    """Return the optimizer of a recipe, with its learning rate scheduled over all steps of the run.

    Args:
        recipe: The recipe.
        steps_per_epoch: Steps in an epoch.
        variables: The trainable variables.
    """
    rate = learning_rate(recipe, steps_per_epoch)
    decoupled = recipe.weight_decay if recipe.decay_mode == "decoupled" and recipe.weight_decay else None
    if recipe.optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate, epsilon=recipe.epsilon, weight_decay=decoupled)
    elif recipe.optimizer == "rmsprop":
        optimizer = keras.optimizers.RMSprop(
            rate, rho=0.9, momentum=recipe.momentum, epsilon=recipe.epsilon, weight_decay=decoupled
        )
    else:
        optimizer = keras.optimizers.SGD(
            rate, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=decoupled
        )
    if decoupled:
        optimizer.exclude_from_weight_decay([v for v in variables if not is_decayed(v, recipe)])
    fuse_updates(optimizer)
    return optimizer


def fuse_updates(optimizer):
    """Let an optimizer of Keras update a variable in one operation of TensorFlow instead of up to a dozen.

    Only with momentum for SGD and RMSprop, which are short without. Saved, it is Keras's optimizer.
    """
    operations = {keras.optimizers.Adam: adam_operation}
    if getattr(optimizer, "momentum", 0):
        operations |= {keras.optimizers.SGD: sgd_operation, keras.optimizers.RMSprop: rmsprop_operation}
    operation = operations.get(type(optimizer))

    def update_step(gradient, variable, learning_rate):
        def number(value):
            # Of a number, ops.cast would make float32 first.
            return tf.constant(value, variable.dtype) if isinstance(value, float) else ops.cast(value, variable.dtype)

        index = optimizer._get_variable_index(variable)
        operation(optimizer, index, number, var=handle(variable), grad=number(gradient), lr=number(learning_rate))

    if operation:
        optimizer.update_step = update_step


def adam_operation(optimizer, index, number, **arguments):
    step, beta1, beta2 = number(optimizer.iterations + 1), number(optimizer.beta_1), number(optimizer.beta_2)
    tf.raw_ops.ResourceApplyAdam(
        m=handle(optimizer._momentums[index]),
        v=handle(optimizer._velocities[index]),
        beta1=beta1,
        beta2=beta2,
        beta1_power=beta1**step,
        beta2_power=beta2**step,
        epsilon=number(optimizer.epsilon),
        **arguments,
    )


def sgd_operation(optimizer, index, number, **arguments):
    tf.raw_ops.ResourceApplyKerasMomentum(
        accum=handle(optimizer.momentums[index]),
        momentum=number(optimizer.momentum),
        use_nesterov=optimizer.nesterov,
        **arguments,
    )


def rmsprop_operation(optimizer, index, number, **arguments):
    tf.raw_ops.ResourceApplyRMSProp(
        ms=handle(optimizer._velocities[index]),
        mom=handle(optimizer._momentums[index]),
        rho=number(optimizer.rho),
        momentum=number(optimizer.momentum),
        epsilon=number(optimizer.epsilon),
        **arguments,
    )


def handle(variable):
    """Return the handle of a variable of Keras or TensorFlow, which TensorFlow's operations take."""
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle


def is_decayed(variable, recipe):
    """Return whether weight decay applies to a variable: always to a kernel, to others if the recipe says so."""
    return recipe.decay_norms or not variable.path.endswith(NORM_AND_BIAS)


def plateau(recipe):
    """Return the callback of "plateau"; AlexNet (section 5) and VGG (section 3.1) were trained like this by hand."""
    # Keras's default min_delta ignores an improvement by one image of 10,000 or more.
    return keras.callbacks.ReduceLROnPlateau(
        monitor="val_accuracy",
        factor=recipe.decay_rate,
        patience=round(recipe.decay_epochs),
        mode="max",
        min_delta=0.0,
    )


def learning_rate(recipe, steps_per_epoch):
    """Return the learning rate: a schedule by step, or a number if only callbacks change it."""
    schedules = keras.optimizers.schedules
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if recipe.schedule == "plateau" or (recipe.schedule == "constant" and not warmup):
        return recipe.learning_rate
    rate = recipe.learning_rate
    if recipe.schedule == "cosine":
        after = schedules.CosineDecay(rate, max(recipe.epochs * steps_per_epoch - warmup, 1))
        offset = warmup
    elif recipe.schedule == "exponential":
        after = schedules.ExponentialDecay(
            rate, max(round(recipe.decay_epochs * steps_per_epoch), 1), recipe.decay_rate, staircase=True
        )
        offset = 0
    elif recipe.schedule == "steps":
        # Keras's boundaries are the last steps of a value, not the first of the next.
        boundaries = [round(epoch * steps_per_epoch) - 1 for epoch in recipe.milestones]
        after = schedules.PiecewiseConstantDecay(
            boundaries, [rate * recipe.decay_rate**count for count in range(len(boundaries) + 1)]
        )
        offset = 0
    else:
        after, offset = rate, 0
    return WarmUp(rate, warmup, after, offset)


def current_rate(model):
    """Return the learning rate of the next step, on any number of devices."""
    return float(ops.convert_to_numpy(model.optimizer.learning_rate))


@keras.saving.register_keras_serializable("training")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up from zero before any schedule (Goyal et al. 2017, section 2.2).

    Args:
        peak: Learning rate at its end.
        steps: Its length.
        after: The learning rate after it, a schedule or a number.
        offset: The step at which that schedule starts: a cosine starts after the warm-up, milestones count from step 0.
    """

    def __init__(self, peak, steps, after, offset=0):
        self.peak, self.steps, self.after, self.offset = peak, steps, after, offset

    def __call__(self, step):
        step = ops.cast(step, "float32")
        after = self.after(step - self.offset) if callable(self.after) else ops.convert_to_tensor(self.after, "float32")
        return ops.where(step < self.steps, self.peak * step / max(self.steps, 1), after)

    def get_config(self):
        after = keras.saving.serialize_keras_object(self.after)
        return {"peak": self.peak, "steps": self.steps, "after": after, "offset": self.offset}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"after": keras.saving.deserialize_keras_object(config["after"])})
