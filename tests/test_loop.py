"""The training loop: its loss, logs and weights, and that it resumes where it stopped."""

import dataclasses
import os
import signal
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from tests.stripes import DATA, RECIPE, network, run_in
from training import loop
from training.checkpoint import Checkpoints
from training.errors import DivergedError, Interrupted, ResourceError, UserError
from training.evaluation import in_top, make_evaluation
from training.loop import train
from training.machine import prepare
from training.step import make_train_step


def trained(folder, recipe=RECIPE, callbacks=(), heads=True):
    prepare(recipe)
    model = network(heads)
    return model, train(model, DATA, recipe, run_in(folder, recipe), callbacks)


class Stop(keras.callbacks.Callback):
    """Send SIGTERM to the process after a step or after the training of an epoch, counted from 1."""

    def __init__(self, step=None, epoch=None):
        super().__init__()
        self.step, self.epoch = step, epoch

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epoch:
            os.kill(os.getpid(), signal.SIGTERM)


class Note(keras.callbacks.Callback):
    """Record the learning rate of each step and the kernel of the head after each epoch."""

    def __init__(self):
        super().__init__()
        self.rates, self.kernels = [], {}

    def on_train_batch_begin(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        self.kernels[epoch + 1] = keras.ops.convert_to_numpy(self.model.get_layer("head_dense").kernel)


LONG = dataclasses.replace(RECIPE, epochs=6, warmup_epochs=1.0)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Return the folder, model, progress and records of an uninterrupted run of LONG."""
    folder, note = tmp_path_factory.mktemp("straight") / "run", Note()
    return folder, *trained(folder, LONG, [note]), note


FULL = dataclasses.replace(
    RECIPE,
    flip=True,
    mixup=0.4,
    cutmix=0.4,
    random_erasing=0.3,
    label_smoothing=0.1,
    weight_decay=1e-3,
    decay_mode="decoupled",
    clip_norm=1.0,
    ema=0.9,
    schedule="plateau",
    decay_epochs=1.0,
)


def stopping(split):
    """Return a split that sends SIGTERM to the process when it is loaded."""

    def load(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return split.load(*arguments, **options)

    return dataclasses.replace(split, load=load)


def test_an_evaluation_can_be_stopped_before_a_batch():
    evaluate, answers = make_evaluation(network(), 2, dataclasses.replace(RECIPE, batch_size=4)), iter([False, True])
    assert evaluate(DATA.validation, lambda: next(answers)) is None  # a third call would fail
    assert evaluate(DATA.validation).images == 16


def test_validation_stops_at_the_batch_in_which_a_signal_comes(tmp_path, monkeypatch):
    answers = []

    def evaluate(split, stop):
        answers.append(stop())
        os.kill(os.getpid(), signal.SIGTERM)
        answers.append(stop())

    monkeypatch.setattr(loop, "make_evaluation", lambda *_: evaluate)
    with pytest.raises(Interrupted):
        trained(tmp_path / "run")
    assert answers == [False, True]


def test_resuming_after_a_signal_at_any_time_equals_an_uninterrupted_run(tmp_path):
    def run(name, stop=None, data=DATA):
        prepare(FULL)
        model, note = network(), Note()
        early = keras.callbacks.EarlyStopping(monitor="val_loss", patience=2, restore_best_weights=True)
        best = keras.callbacks.ModelCheckpoint(
            str(tmp_path / name / "own.weights.h5"), "val_accuracy", save_best_only=True, save_weights_only=True
        )
        callbacks = [early, stop or Stop(), best, note]
        try:
            return model, train(model, data, FULL, run_in(tmp_path / name, FULL), callbacks)
        except Interrupted as interrupted:
            assert interrupted.exit_code == 143
            return str(interrupted), note

    whole_model, whole = run("whole")
    validated = dataclasses.replace(DATA, validation=stopping(DATA.validation))
    for stop, data, epoch, steps in (
        (Stop(step=2), DATA, 1, 3),
        (Stop(step=6), DATA, 1, 6),
        (Stop(), validated, 1, 6),
        (Stop(epoch=1), DATA, 1, 6),
        (Stop(step=9), DATA, 2, 4),
        (Stop(epoch=3), DATA, 3, 6),
    ):
        message, note = run("parts", stop, data)
        assert message == f"stopped in epoch {epoch} after {steps} steps of it, which are saved; the same command " + (
            "resumes from there"
        )
        assert epoch not in note.kernels  # callbacks after the one that received the signal did not run
        assert (not note.rates) == (data is validated or stop.epoch == 1)
    model, parts = run("parts")
    assert parts == whole
    assert_equal_bits(whole_model, model)
    (arrays, progress), (arrays2, progress2) = (
        run_in(tmp_path / name, FULL).checkpoints.load() for name in ("whole", "parts")
    )
    assert progress2 == progress
    assert progress["callbacks"]["ModelCheckpoint0"]["best"] == max(logs["val_accuracy"] for logs in whole.history)
    assert arrays2.keys() == arrays.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays2[name], arrays[name], err_msg=name)


def assert_equal_bits(one, other):
    """Compare weights, moving statistics, seeds and the variables of the optimizer."""
    pairs = zip(one.variables + one.optimizer.variables, other.variables + other.optimizer.variables, strict=True)
    for first, second in pairs:
        first_value, second_value = map(keras.ops.convert_to_numpy, (first, second))
        np.testing.assert_array_equal(first_value, second_value, err_msg=first.path)


def test_it_learns(straight):
    _, model, progress, _ = straight
    assert progress.history[-1]["val_accuracy"] >= 0.9
    assert model.get_layer("block_conv").compute_dtype == "float32"
    assert not isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_it_learns_in_half_precision(tmp_path, precision):
    recipe = dataclasses.replace(RECIPE, precision=precision, epochs=6)
    model, progress = trained(tmp_path / "run", recipe)
    assert progress.history[-1]["val_accuracy"] >= 0.9
    assert model.get_layer("block_conv").compute_dtype == precision.removeprefix("mixed_")
    assert model.get_layer("head_dense").compute_dtype == "float32"
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (precision == "mixed_float16")


def test_the_loss_is_the_main_plus_the_weighted_auxiliary_losses_and_all_are_logged(tmp_path, straight):
    other = dataclasses.replace(RECIPE, epochs=1, aux_weight=0.7)
    for weight, progress in ((0.3, straight[2]), (0.7, trained(tmp_path / "run", other)[1])):
        for logs in progress.history:
            assert logs["loss"] == pytest.approx(logs["main_loss"] + weight * logs["aux1_loss"], rel=1e-5)
            assert set(logs) == {
                "loss",
                "accuracy",
                "main_loss",
                "aux1_loss",
                "aux1_accuracy",
                "val_loss",
                "val_accuracy",
                "val_top5_accuracy",
            }


def test_a_step_takes_the_gradient_of_the_weighted_loss():
    model = network()
    model.get_layer("head_dropout").rate = 0.0
    recipe = dataclasses.replace(RECIPE, optimizer="sgd", learning_rate=0.5, momentum=0.0)
    model.compile(optimizer=keras.optimizers.SGD(0.5))
    images, labels, _ = (
        np.stack(part) for part in zip(*DATA.train.load(None).take(8).as_numpy_iterator(), strict=True)
    )
    x = (images / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    before = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        outputs = model(x.astype("float32"), training=True)
        parts = [
            -tf.reduce_mean(tf.gather(tf.nn.log_softmax(outputs[name]), labels, batch_dims=1))
            for name in ("main", "aux1")
        ]
        loss = parts[0] + 0.3 * parts[1]
    expected = tape.gradient(loss, model.trainable_variables)
    values = make_train_step(model, recipe)(tf.constant(images, tf.float32), tf.one_hot(labels, 2))
    assert float(values["loss"]) == pytest.approx(float(loss), rel=1e-5)
    norm = np.sqrt(sum(np.sum(np.square(gradient)) for gradient in expected))
    assert float(values["gradient_norm"]) == pytest.approx(norm, rel=1e-4)
    for old, gradient, variable in zip(before, expected, model.trainable_variables, strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(variable), old - 0.5 * gradient.numpy(), rtol=1e-4, atol=1e-6
        )


def test_regularization_is_part_of_the_loss(tmp_path):
    model = network()
    model.get_layer("head_dense").kernel.regularizer = keras.regularizers.L2(0.1)
    penalty = 0.1 * float(np.sum(np.square(model.get_layer("head_dense").kernel)))
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    images, labels, _ = next(iter(DATA.train.load(None).batch(8)))
    values = make_train_step(model, RECIPE)(tf.cast(images, tf.float32), tf.one_hot(labels, 2))
    parts = float(values["main_loss"]) + 0.3 * float(values["aux1_loss"])
    assert float(values["loss"]) == pytest.approx(parts + penalty, rel=1e-5)


def test_a_network_with_one_output_logs_no_heads(tmp_path):
    _, progress = trained(tmp_path / "run", dataclasses.replace(RECIPE, epochs=1), heads=False)
    assert set(progress.history[0]) == {"loss", "accuracy", "val_loss", "val_accuracy", "val_top5_accuracy"}


def test_equal_runs_give_equal_bits_and_seeds_differ(tmp_path, straight):
    _, first, _, _ = straight
    again, _ = trained(tmp_path / "again", LONG)
    other, _ = trained(tmp_path / "other", dataclasses.replace(LONG, epochs=1, seed=1))
    assert_equal_bits(first, again)
    assert not np.array_equal(first.get_layer("block_conv").kernel, other.get_layer("block_conv").kernel)


class StopAfter(keras.callbacks.Callback):
    """Interrupt after the training of an epoch, before its checkpoint, as a kill would."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epoch:
            raise KeyboardInterrupt


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, straight):
    _, model, whole, _ = straight
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken", LONG, callbacks=[StopAfter(2)])
    resumed, parts = trained(tmp_path / "broken", LONG)
    assert parts == whole
    assert_equal_bits(model, resumed)


def test_training_goes_on_while_a_state_is_written(tmp_path, monkeypatch):
    save, going_on, waited = Checkpoints.save, threading.Event(), []

    class GoesOn(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if waited:
                going_on.set()

    def save_slowly(*arguments):
        waited.append(None)
        if len(waited) == 2:  # the end of the first epoch
            assert going_on.wait(10)
        time.sleep(0.1)
        save(*arguments)

    monkeypatch.setattr(Checkpoints, "save", save_slowly)
    trained(tmp_path / "run", callbacks=[GoesOn()])
    assert run_in(tmp_path / "run").checkpoints.epochs() == RECIPE.epochs  # all of them are on the disk


def test_a_state_that_cannot_be_written_ends_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise ResourceError("the disk is full")

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        trained(tmp_path / "run", callbacks=[Stop(step=2)])  # not Interrupted, which would promise that nothing is lost


def test_the_best_epoch_is_kept_with_ties_broken_by_the_loss(straight):
    folder, _, progress, note = straight
    scores = [(logs["val_accuracy"], -logs["val_loss"]) for logs in progress.history]
    assert progress.best_epoch == 1 + scores.index(max(scores))
    best = network()
    assert keras_cnns.load_weights(best, folder / "best.safetensors")["epoch"] == str(progress.best_epoch)
    np.testing.assert_array_equal(best.get_layer("head_dense").kernel, note.kernels[progress.best_epoch])


def test_keras_callbacks_find_out_whether_more_is_better(tmp_path):
    early = keras.callbacks.EarlyStopping(monitor="val_top5_accuracy", patience=1)  # is 1.0 from the first epoch on
    reduce = keras.callbacks.ReduceLROnPlateau(monitor="val_accuracy", factor=0.5, patience=1, min_delta=1.0)
    whole, weights = tmp_path / "own.keras", tmp_path / "own.weights.h5"
    keep = [
        keras.callbacks.ModelCheckpoint(str(whole), monitor="accuracy", save_best_only=True),
        keras.callbacks.ModelCheckpoint(str(weights), monitor="aux1_loss", save_best_only=True, save_weights_only=True),
    ]
    model, progress = trained(
        tmp_path / "run", dataclasses.replace(RECIPE, epochs=6, schedule="constant"), [early, reduce, *keep]
    )
    assert progress.epoch == 2
    assert float(model.optimizer.learning_rate) == pytest.approx(0.005)
    for best, keeper in zip((max, min), keep, strict=True):
        assert keeper.best == best(logs[keeper.monitor] for logs in progress.history)
    saved = keras.models.load_model(whole)
    saved.load_weights(weights)
    assert type(saved.optimizer) is keras.optimizers.Adam


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (keras.callbacks.ReduceLROnPlateau(), "ReduceLROnPlateau.*Pass --schedule plateau, or --schedule constant"),
        (keras.callbacks.LearningRateScheduler(lambda epoch: 0.1), "LearningRateScheduler changes the learning rate"),
        (keras.callbacks.EarlyStopping("val_aux1_accuracy"), "not logged. Logged are loss,.*, val_top5_accuracy"),
    ],
)
def test_a_callback_that_cannot_work_is_refused_before_the_first_step(tmp_path, callback, message):
    with pytest.raises(UserError, match=message):
        trained(tmp_path / "run", callbacks=[callback])
    assert not list((tmp_path / "run").iterdir())


def test_the_learning_rate_warms_up_and_falls(straight):
    expected = [0.01 * step / 6 for step in range(6)]
    expected += [0.01 * 0.5 * (1 + np.cos(np.pi * step / 30)) for step in range(30)]
    np.testing.assert_allclose(straight[3].rates, expected, rtol=1e-5, atol=1e-9)


def test_progress_is_saved_in_the_form_of_earlier_versions():
    names = ["epoch", "step", "totals", "best_epoch", "best", "history", "done"]
    assert list(dataclasses.asdict(loop.Progress())) == names


def test_means_are_over_the_steps_that_were_summed(tmp_path, straight):
    run = run_in(tmp_path / "run", LONG)
    arrays, progress = run_in(straight[0], LONG).checkpoints.load()
    # Nine steps of the last epoch, which now has six.
    progress |= {"epoch": 5, "step": 9, "totals": {"accuracy": 4.5}, "history": progress["history"][:5]}
    run.checkpoints.save(arrays, progress)
    assert trained(tmp_path / "run", LONG)[1].history[5]["accuracy"] == 0.5


def test_weights_that_are_not_finite_are_never_the_best(tmp_path):
    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 5:  # the last step, whose loss is still finite
                self.model.get_layer("head_dense").bias.assign([np.nan, 0.0])

    with pytest.raises(DivergedError, match=r"head_dense/bias is no longer finite after 6 steps.*No weights"):
        trained(tmp_path / "run", callbacks=[Break()], heads=False)
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_among_ties_the_first_classes_are_in_the_top():
    logits = tf.constant([[0.0] * 10, [0.0] * 8 + [1.0, 0.0], [1.0, 3.0, 2.0, 3.0] + [0.0] * 6])
    found = [[label for label in range(10) if in_top(5, logits, tf.fill((3,), label))[row]] for row in range(3)]
    assert found == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 8], [0, 1, 2, 3, 4]]
    first = [bool(value) for value in in_top(1, logits, tf.argmax(logits, axis=-1))]
    assert first == [True] * 3
    assert np.all(in_top(5, logits[:, :2], tf.ones(3, tf.int64)))  # both of two classes


def test_a_non_finite_loss_stops_the_run_at_once(tmp_path):
    with pytest.raises(
        DivergedError,
        match=r"(loss|norm) is (nan|inf) in step \d of epoch 1.*images were number \d+.*smaller --learning_rate",
    ):
        trained(tmp_path / "run", dataclasses.replace(RECIPE, optimizer="sgd", learning_rate=1e30))
