"""The training loop: `train` is a whole run, `train_epoch` an epoch of it; the step itself is in training.step."""

import contextlib
import dataclasses
import functools
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

import keras_cnns
from training.batches import training_batches
from training.devices import total
from training.errors import DivergedError, Interrupted, UserError
from training.evaluation import make_evaluation
from training.files import atomic
from training.interruption import Interruption, Stopped
from training.optimization import current_rate, learning_rate, make_optimizer, plateau
from training.run_folder import TEMPERATURE
from training.state import restore, state_of, to_arrays, warn_of_stateful_callbacks
from training.step import average_of, log_names, make_train_step

SAVE_SECONDS = 300  # a state is saved at least this often, and every `save_steps`
VALIDATION_LOGS = ("val_loss", "val_accuracy", "val_top5_accuracy")
RATE_CALLBACKS = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)


@dataclass
class Progress:
    """The progress of a run: all that it resumes from except the variables and the callbacks' state.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps of the current epoch.
        totals: Sums of the logs over these steps.
        best_epoch: The best epoch so far, from 1.
        best: Its validation accuracy and negative validation loss.
        history: The logs of the finished epochs.
        done: Whether a callback has ended the training.
    """

    epoch: int = 0
    step: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    best_epoch: int | None = None
    best: list[float] | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    done: bool = False

    def add_step(self, values):
        """Add the values of a step."""
        self.step += 1
        self.totals = {name: self.totals.get(name, 0.0) + value for name, value in values.items()}

    def means(self):
        """Return the means of the logs over the steps of the epoch."""
        # If batch size or number of images changed when the run was resumed, these are not today's steps per epoch.
        return {name: value / self.step for name, value in self.totals.items()}

    def close_epoch(self, logs, evaluation):
        """Add the logs of an epoch, and return whether it is the best so far."""
        self.epoch, self.step, self.totals, self.history = self.epoch + 1, 0, {}, [*self.history, logs]
        # Small validation sets tie often: among equal accuracies the lower loss is the better network.
        score = [evaluation.accuracy, -evaluation.loss]
        is_best = math.isfinite(evaluation.loss) and (self.best is None or score > self.best)
        if is_best:
            self.best, self.best_epoch = score, self.epoch
        return is_best


class Saver:
    """Saves what a run resumes from, while training goes on; as a context, it ends when the last state is on the disk.

    Args:
        run: The run.
        model: The model, compiled.
        averaged: The network of averaged weights, if there is one.
        callbacks: The callbacks.
        save_steps: Steps between two states.
    """

    def __init__(self, run, model, averaged, callbacks, save_steps):
        self.run, self.model, self.callbacks, self.save_steps = run, model, callbacks, save_steps
        self.state, self.saved = state_of(model, averaged), time.monotonic()
        self.writer, self.writing = ThreadPoolExecutor(1), None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.writer.shutdown()
        self.wait()

    def wait(self):
        """Wait until the last state is on the disk; raise a ResourceError if it cannot be written."""
        if self.writing:
            writing, self.writing = self.writing, None
            writing.result()

    def resume(self):
        """Restore the newest state, if there is one, and return its Progress."""
        found = self.run.checkpoints.load()
        if not found:
            if self.run.chief:
                warn_of_stateful_callbacks(self.callbacks)
            return Progress()
        arrays, progress = found
        values = progress.pop("callbacks")
        restore(self.state, self.callbacks, arrays, values, self.run.checkpoints.folder, chief=self.run.chief)
        return Progress(**progress)

    def save(self, progress):
        """Save the state; raise a DivergedError if a variable is not finite, a ResourceError if the last one failed."""
        self.wait()  # no more than one copy of the variables is in memory
        arrays, values = to_arrays(self.state, self.callbacks)
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                where = f"after {progress.step} steps of epoch {progress.epoch + 1}"
                raise self.diverged(f"{name} is no longer finite {where}, {rate_text(self.model)}.")
        if self.run.chief:
            described = dataclasses.asdict(progress) | {"callbacks": values}
            self.writing = self.writer.submit(self.run.checkpoints.save, arrays, described)
        self.saved = time.monotonic()

    def save_if_due(self, progress, steps):
        """Save the state at intervals, and at the end of an epoch of so many steps, before its validation and pictures:
        they can take minutes, and a signal need not wait for them."""
        due = progress.step % self.save_steps == 0 or progress.step >= steps
        if due or time.monotonic() - self.saved > SAVE_SECONDS:
            self.save(progress)

    def diverged(self, fact):
        """Return a DivergedError that says a fact, what to do and what is left of the run."""
        self.wait()
        best = self.run.best if self.run.best.exists() else "No weights"
        return DivergedError(
            f"{fact} Pass a smaller --learning_rate or a longer --warmup_epochs. "
            f"{best} and {len(self.run.checkpoints.files())} states are kept."
        )


def train(model, data, recipe, run, callbacks=(), *, save_steps=500):
    """Train a model, keep the best weights and the last states in the run folder, and resume an earlier call.

    Args:
        model: A network from `recipe.build`, whose output is logits, or a dictionary of them by head. With several
            devices this function is called in the scope of their strategy.
        data: The data set.
        recipe: The recipe, resolved.
        run: The run, which says where files go.
        callbacks: Keras callbacks. The logs of each step and epoch have the names of training.step.log_names, those of
            an epoch `VALIDATION_LOGS` too; `model.gradient_norm` is the norm of the step's gradient. Callbacks with
            `state()` and `load_state(state)` are resumed, as are Keras's EarlyStopping, ReduceLROnPlateau and
            ModelCheckpoint.
        save_steps: Steps between two states; others are saved at the end of an epoch, before and after validation.

    Returns:
        The Progress.

    Raises:
        UserError: A callback cannot work in this run.
        DivergedError: The loss, a gradient or a weight is not finite; nothing of that step is kept.
        Interrupted: SIGINT or SIGTERM was received; the state is saved.
    """
    steps = data.train.size // recipe.batch_size
    averaged = average_of(model) if recipe.ema else None  # before `compile`, which clone_model would repeat
    callbacks = compile_with(model, recipe, steps, callbacks)
    train_step = make_train_step(model, recipe, averaged)
    evaluate = make_evaluation(averaged or model, len(data.class_names), recipe)
    bar = {"add_progbar": True, "verbose": run.verbose}
    listed = keras.callbacks.CallbackList(callbacks, model=model, epochs=recipe.epochs, steps=steps, **bar)
    listed.on_train_begin()
    saver = Saver(run, model, averaged, callbacks, save_steps)
    progress = saver.resume()
    with Interruption() as interruption, saver:
        while progress.epoch < recipe.epochs and not progress.done:
            train_epoch(train_step, data, recipe, progress, listed, saver, interruption)
            validation = evaluate(data.validation, lambda: interruption.signal is not None)
            if validation is None:
                raise Interrupted(interruption.signal, progress)
            raise_if_signalled(interruption, progress)
            values = (validation.loss, validation.accuracy, validation.top5)
            logs = progress.means() | dict(zip(VALIDATION_LOGS, values, strict=True))
            with nothing_unsaved(interruption, progress, leave=run.chief):  # pictures can take minutes
                listed.on_epoch_end(progress.epoch, dict(logs))
            if progress.close_epoch(logs, validation) and run.chief:
                write_best(averaged or model, run, progress.epoch, data.class_names, validation.temperature)
            progress.done = bool(model.stop_training)
            saver.save(progress)
            raise_if_signalled(interruption, progress)
        with nothing_unsaved(interruption, progress):
            listed.on_train_end()
    if progress.best is None:
        raise saver.diverged("The validation loss was finite after no epoch.")
    return progress


def train_epoch(train_step, data, recipe, progress, callbacks, saver, interruption):
    """Train the rest of an epoch, from `progress.step` on."""
    model, strategy, steps = saver.model, tf.distribute.get_strategy(), data.train.size // recipe.batch_size
    with nothing_unsaved(interruption, progress):
        callbacks.on_epoch_begin(progress.epoch)
    batches = strategy.distribute_datasets_from_function(
        functools.partial(training_batches, data, recipe, progress.epoch, progress.step)
    )
    first = True
    for images, targets, examples in batches:
        callbacks.on_train_batch_begin(progress.step)
        # Tracing and compiling, at the very first step, can take a minute.
        with nothing_unsaved(interruption, progress) if first else contextlib.nullcontext():
            values = train_step(images, targets, interruption.signal is not None)
        first = False
        stopped, norm = values.pop("stopped"), values.pop("gradient_norm")
        # In float16 the optimizer takes an infinite gradient as a sign to lower the loss scale and skips the step.
        scales = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        if not math.isfinite(values["loss"]) or not (math.isfinite(norm) or scales):
            loss = values["loss"]
            wrong = f"gradient's norm is {norm}" if math.isfinite(loss) else f"loss is {loss}"
            raise saver.diverged(
                f"The {wrong} in step {progress.step + 1} of epoch {progress.epoch + 1}, {rate_text(model)}. "
                f"The images were {examples_of(data.train, examples)}."
            )
        model.gradient_norm = norm  # for callbacks; the logs are means over the epoch
        progress.add_step(values)
        callbacks.on_train_batch_end(progress.step - 1, progress.means())
        if stopped:
            saver.save(progress)
            raise Interrupted(interruption.signal, progress)
        saver.save_if_due(progress, steps)


def compile_with(model, recipe, steps, callbacks):
    """Compile a model with the optimizer of a recipe, and return the callbacks together with the recipe's own.

    Raises:
        UserError: A callback cannot work in this run.
    """
    model.compile(optimizer=make_optimizer(recipe, steps, model.trainable_variables))  # adds the scaling of float16
    model.optimizer.build(model.trainable_variables)
    model.stop_training = False
    callbacks = [*callbacks, plateau(recipe)] if recipe.schedule == "plateau" else list(callbacks)
    prepare_callbacks(callbacks, model, scheduled=callable(learning_rate(recipe, steps)))
    return callbacks


def prepare_callbacks(callbacks, model, scheduled):
    """Set the mode of Keras's callbacks, which they would derive from the metrics that the model is compiled with.

    Args:
        callbacks: The callbacks.
        model: The model.
        scheduled: Whether the learning rate is a schedule, which no callback can change.

    Raises:
        UserError: A callback monitors a quantity that is not logged, or would change a scheduled learning rate.
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


@contextlib.contextmanager
def nothing_unsaved(interruption, progress, leave=False):
    """Raise Interrupted at a signal in this block; the run resumes from the state on the disk.

    Of several processes all leave together, after a step, a batch or an epoch: one that left alone would look lost.

    Args:
        interruption: The Interruption.
        progress: The Progress.
        leave: Whether this process leaves even if there are others.
    """
    leave = leave or tf.distribute.get_strategy().cluster_resolver is None
    try:
        with interruption.at_once() if leave else contextlib.nullcontext():
            yield
    except Stopped as stop:
        raise Interrupted(stop.signal, progress) from None


def raise_if_signalled(interruption, progress):
    """Raise Interrupted if any process has received a signal."""
    if total(tf.distribute.get_strategy(), interruption.signal is not None):
        raise Interrupted(interruption.signal, progress)


def write_best(network, run, epoch, class_names, temperature):
    """Write the weights of the best epoch."""
    metadata = {"epoch": str(epoch), "preprocessing": run.recipe.preprocessing, TEMPERATURE: str(temperature)}
    metadata |= keras_cnns.ImageSize(*run.recipe.resizing).to_metadata()
    metadata |= {"classes": json.dumps(class_names), "recipe": run.digest}
    with atomic(run.best) as temporary:
        keras_cnns.save_weights(network, temporary, metadata)


def examples_of(split, examples):
    """Return the images of a batch as a list for an error: their files, or their positions."""
    parts = tf.distribute.get_strategy().experimental_local_results(examples)
    numbers = np.concatenate([part.numpy() for part in parts])
    names = [split.files[number] if split.files else f"number {number}" for number in numbers]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def rate_text(model):
    """Return the learning rate as the end of a sentence."""
    return f"at a learning rate of {current_rate(model):.3g}"
