"""The training loop, from the first step to the last: read it once from top to bottom and you know what a run does."""

import contextlib
import functools
import json
import math
import time

import keras
import numpy as np
import tensorflow as tf

import keras_cnns
from training import state as states
from training.batches import training_batches
from training.devices import total
from training.errors import DivergedError, Interrupted, UserError
from training.evaluation import make_evaluation
from training.files import atomic
from training.finetuning import in_head
from training.interruption import Interruption, Stopped
from training.optimization import current_rate, is_decayed, learning_rate, make_optimizer, plateau

SAVE_SECONDS = 300  # a state is saved at least this often, beside every `save_steps`
VALIDATION_LOGS = ("val_loss", "val_accuracy", "val_top5_accuracy")
RATE_CALLBACKS = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)


def train(model, data, recipe, run, callbacks=(), *, save_steps=500):
    """Train a model, keep the best weights and the last states in the run's folder, and resume where an earlier call
    ended, at any step.

    On several devices it is called in the scope of their strategy.

    Args:
        model: A network from `recipe.build`, with logits as its output, one or a dictionary by head.
        data: The data set.
        recipe: The recipe, resolved.
        run: The run, which says where files go.
        callbacks: Keras callbacks. They see the logs of each step and epoch: `loss` (all heads, weighted, and
            regularization), `accuracy` (main head), where there are several heads each one's loss and the auxiliary
            accuracies, and `val_loss`, `val_accuracy` and `val_top5_accuracy` of the main head; `model.gradient_norm`
            has the norm of the step's gradient. Those with `state()` and `load_state(state)` take part in resuming,
            and Keras's EarlyStopping, ReduceLROnPlateau and ModelCheckpoint.
        save_steps: Steps between two states, beside those at the end of an epoch, before and after its validation.

    Returns:
        The progress: {"epoch", "step", "best_epoch", "best", "history", "totals", "done"}.

    Raises:
        UserError: A callback cannot work in this run.
        DivergedError: The loss, a gradient or a weight is no longer finite; nothing of that step is kept.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    strategy = tf.distribute.get_strategy()
    steps = data.train.size // recipe.batch_size
    averaged = average_of(model) if recipe.ema else None  # before `compile`, which clone_model would repeat
    model.compile(optimizer=make_optimizer(recipe, steps, model.trainable_variables))  # adds the scaling of float16
    model.optimizer.build(model.trainable_variables)
    callbacks = [*callbacks, plateau(recipe)] if recipe.schedule == "plateau" else list(callbacks)
    prepare_callbacks(callbacks, model, scheduled=callable(learning_rate(recipe, steps)))
    train_step = make_train_step(model, recipe, averaged)
    evaluate = make_evaluation(averaged or model, len(data.class_names), recipe)
    bar = {"add_progbar": True, "verbose": run.verbose}
    listed = keras.callbacks.CallbackList(callbacks, model=model, epochs=recipe.epochs, steps=steps, **bar)
    model.stop_training = False
    listed.on_train_begin()

    progress = {"epoch": 0, "step": 0, "totals": {}, "best_epoch": None, "best": None, "history": [], "done": False}
    state = states.state_of(model, averaged)
    found = run.checkpoints.load()
    if found:
        arrays, progress = found
        values = progress.pop("callbacks")
        states.restore(state, callbacks, arrays, values, run.checkpoints.folder, chief=run.chief)
    elif run.chief:
        states.warn_of_stateful_callbacks(callbacks)
    saved, traced = time.monotonic(), False

    def save():
        nonlocal saved
        arrays, values = states.to_arrays(state, callbacks)
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                where = f"after {progress['step']} steps of epoch {progress['epoch'] + 1}"
                raise DivergedError(f"{name} is no longer finite {where}, {rate()}. {advice(run)}")
        if run.chief:
            run.checkpoints.save(arrays, progress | {"callbacks": values})
        saved = time.monotonic()

    def rate():
        return f"at a learning rate of {current_rate(model):.3g}"

    @contextlib.contextmanager
    def nothing_unsaved(leaves=strategy.cluster_resolver is None):
        """Leave at once at a signal in this block; the state on the disk is where the run resumes.

        Of several processes all leave together, after a step, a batch or an epoch: one that left alone would look lost.
        """
        try:
            with interruption.at_once() if leaves else contextlib.nullcontext():
                yield
        except Stopped as stop:
            raise Interrupted(stop.signal, progress) from None

    with Interruption() as interruption:
        while progress["epoch"] < recipe.epochs and not progress["done"]:
            epoch = progress["epoch"]
            with nothing_unsaved():
                listed.on_epoch_begin(epoch)
            batches = strategy.distribute_datasets_from_function(
                functools.partial(training_batches, data, recipe, epoch, progress["step"])
            )
            for images, targets, examples in batches:
                listed.on_train_batch_begin(progress["step"])
                # Tracing and compiling, at the first step, can take a minute.
                with contextlib.nullcontext() if traced else nothing_unsaved():
                    values = train_step(images, targets, interruption.signal is not None)
                traced = True
                values = {name: float(value) for name, value in values.items()}
                stopped, norm = values.pop("stopped"), values.pop("gradient_norm")
                # In float16 an infinite gradient is the optimizer's cue to scale less and to leave the step out.
                if not math.isfinite(values["loss"]) or not (math.isfinite(norm) or scales_loss(model)):
                    loss = values["loss"]
                    wrong = f"gradient's norm is {norm}" if math.isfinite(loss) else f"loss is {loss}"
                    raise DivergedError(
                        f"The {wrong} in step {progress['step'] + 1} of epoch {epoch + 1}, {rate()}. "
                        f"The images were {examples_of(data.train, examples, strategy)}. {advice(run)}"
                    )
                model.gradient_norm = norm  # for callbacks; the logs are means over the epoch
                progress["step"] += 1
                progress["totals"] = {name: progress["totals"].get(name, 0.0) + values[name] for name in values}
                logs = {name: total / progress["step"] for name, total in progress["totals"].items()}
                listed.on_train_batch_end(progress["step"] - 1, logs)
                if stopped:
                    save()
                    raise Interrupted(interruption.signal, progress)
                # Always before validation and pictures: they can take minutes, and a signal need not wait for them.
                due = progress["step"] % save_steps == 0 or progress["step"] >= steps
                if due or time.monotonic() - saved > SAVE_SECONDS:
                    save()
            validation = evaluate(data.validation, lambda: interruption.signal is not None)
            if validation is None or total(strategy, interruption.signal is not None):
                raise Interrupted(interruption.signal, progress)
            # After resuming with another batch size or number of images these are not `steps` of today.
            logs = {name: total / progress["step"] for name, total in progress["totals"].items()}
            values = (validation.loss, validation.accuracy, validation.top5)
            logs |= dict(zip(VALIDATION_LOGS, values, strict=True))
            with nothing_unsaved(leaves=run.chief):  # of several processes too: pictures can take minutes
                listed.on_epoch_end(epoch, dict(logs))

            progress |= {"epoch": epoch + 1, "step": 0, "totals": {}, "history": [*progress["history"], logs]}
            # Small validation sets tie often: among equal accuracies the lower loss is the better network.
            score = [validation.accuracy, -validation.loss]
            if math.isfinite(validation.loss) and (progress["best"] is None or score > progress["best"]):
                progress |= {"best": score, "best_epoch": epoch + 1}
                if run.chief:
                    metadata = {"epoch": str(epoch + 1), "preprocessing": recipe.preprocessing}
                    metadata["classes"] = json.dumps(data.class_names)
                    metadata["recipe"] = run.digest
                    with atomic(run.best) as temporary:
                        keras_cnns.save_weights(averaged or model, temporary, metadata)
            progress["done"] = bool(model.stop_training)
            save()
            if total(strategy, interruption.signal is not None):  # in any process
                raise Interrupted(interruption.signal, progress)
        with nothing_unsaved():
            listed.on_train_end()
    if progress["best"] is None:
        raise DivergedError(f"The validation loss was finite after no epoch. {advice(run)}")
    return progress


def advice(run):
    """Return what to do about a run that diverged, and what is left of it."""
    return (
        "Pass a smaller --learning_rate or a longer --warmup_epochs. "
        f"{run.best if run.best.exists() else 'No weights'} and {len(run.checkpoints.files())} states are kept."
    )


def scales_loss(model):
    return isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


def examples_of(split, examples, strategy):
    """The images of a batch, as a list for an error: their files, or their positions."""
    numbers = np.concatenate([part.numpy() for part in strategy.experimental_local_results(examples)])
    names = [split.files[number] if split.files else f"number {number}" for number in numbers]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def prepare_callbacks(callbacks, model, scheduled):
    """Tell Keras's callbacks which way is better, which they would look for in metrics that the model is compiled with.

    Args:
        callbacks: The callbacks.
        model: The model.
        scheduled: Whether the learning rate is a schedule, which no callback can change.

    Raises:
        UserError: A callback waits for a quantity that no epoch logs, or would change a scheduled learning rate.
    """
    names = [*log_names(model), *VALIDATION_LOGS]
    for callback in callbacks:
        kind, monitor = type(callback).__name__, getattr(callback, "monitor", names[0])
        if monitor not in names:
            raise UserError(f"{kind} monitors {monitor!r}, which is not logged. Logged are {', '.join(names)}.")
        if getattr(callback, "mode", None) == "auto":
            callback.mode = "min" if monitor.endswith("loss") else "max"
        if scheduled and isinstance(callback, RATE_CALLBACKS):
            raise UserError(
                f"{kind} changes the learning rate, which the recipe's schedule sets for every step. Pass --schedule "
                "plateau, or --schedule constant --warmup_epochs 0, or leave the callback out."
            )


def log_names(model):
    """What `train_step` gives of the heads of a model, beside the loss of all."""
    names = list(heads(model.output))
    parts = [f"{name}_loss" for name in names] if len(names) > 1 else []
    return ["loss", *parts, *map(accuracy_of, names)]


def heads(outputs):
    """The outputs by head: a network without auxiliary heads has the main one only."""
    return outputs if isinstance(outputs, dict) else {"main": outputs}


def accuracy_of(head):
    """The name of a head's accuracy in the logs; the main one's is the network's."""
    return "accuracy" if head == "main" else f"{head}_accuracy"


def average_of(model):
    """A network of the same layers whose weights, moving statistics included, will be the average of the model's."""
    averaged = keras.models.clone_model(model)
    averaged.set_weights(model.get_weights())
    return averaged


def make_train_step(model, recipe, averaged=None):
    """The step, a function (images, targets, stop) that updates the model and returns what it measured.

    That is, for the whole batch: what `log_names` says, "gradient_norm", and "stopped", which is above 0 if `stop` was
    true in any of the processes.
    """
    names = list(heads(model.output))
    weights = {name: 1.0 if name == "main" else recipe.aux_weight for name in names}
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    variables = model.trainable_variables
    decay = recipe.weight_decay if recipe.decay_mode == "l2" else 0.0
    slow = [v for v in variables if not in_head(v.path)] if recipe.backbone_rate != 1 else []

    def replica_step(images, targets):
        with tf.GradientTape() as tape:
            outputs = heads(model(keras_cnns.preprocess_input(images, recipe.preprocessing), training=True))
            losses = {
                name: tf.reduce_sum(keras.ops.categorical_crossentropy(targets, outputs[name], from_logits=True))
                / recipe.batch_size
                for name in names
            }
            loss = sum(weights[name] * losses[name] for name in names) + sum(model.losses) / replicas
            scaled = model.optimizer.scale_loss(loss)
        scale = model.optimizer.scale_loss(1.0)
        gradients = tape.gradient(scaled, variables)
        if replicas > 1:
            # The norm is that of the whole gradient. Keras will sum over the replicas once more, hence the division.
            gradients = tf.distribute.get_replica_context().all_reduce("SUM", gradients)
        norm = tf.linalg.global_norm([tf.cast(gradient, "float32") for gradient in gradients]) / scale
        if recipe.clip_norm:
            shrink = tf.minimum(1.0, recipe.clip_norm / norm)
            gradients = [gradient * tf.cast(shrink, gradient.dtype) for gradient in gradients]
        if decay:
            gradients = [
                gradient + scale * decay * variable if is_decayed(variable, recipe) else gradient
                for gradient, variable in zip(gradients, variables, strict=True)
            ]
        model.optimizer.apply([gradient / replicas for gradient in gradients] if replicas > 1 else gradients, variables)
        values = {"loss": loss, "gradient_norm": norm / replicas}
        right = tf.argmax(targets, axis=-1)
        for name in names:
            if len(names) > 1:
                values[f"{name}_loss"] = losses[name]
            hits = tf.cast(tf.argmax(outputs[name], axis=-1) == right, "float32")
            values[accuracy_of(name)] = tf.reduce_sum(hits) / recipe.batch_size
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
            count = tf.cast(model.optimizer.iterations.value, "float32")
            keep = tf.minimum(recipe.ema, (1.0 + count) / (10.0 + count))
            for average, variable in zip(averaged.weights, model.weights, strict=True):
                average.assign_add((1.0 - keep) * (variable - average))  # exactly nothing where a weight is frozen
        return {name: strategy.reduce("SUM", value, axis=None) for name, value in values.items()}

    return lambda images, targets, stop=False: step(images, targets, tf.constant(stop))
