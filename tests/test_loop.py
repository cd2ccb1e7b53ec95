"""The loop: what it minimises, what it logs, what it keeps, and that it goes on where it stopped."""

import dataclasses
import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.data import Data, Split
from training.errors import DivergedError, Interrupted
from training.loop import make_train_step, train
from training.recipe import Recipe, prepare_machine
from training.run import Run


def stripes(count, seed):
    """A split of images whose class is the direction of their stripes."""
    random = np.random.RandomState(seed)
    labels = random.randint(0, 2, count)
    stripe = np.where(np.arange(8) % 2, 255.0, 0.0)
    images = [stripe[:, None] + np.zeros((8, 8)) if label else stripe[None, :] + np.zeros((8, 8)) for label in labels]
    images = np.stack(images)[..., None] + random.uniform(-60, 60, (count, 8, 8, 3))
    images = np.clip(images, 0, 255).astype(np.uint8)

    def load(order, first=0, every=1):
        chosen = np.arange(count) if order is None else np.random.RandomState(order).permutation(count)
        chosen = chosen[first::every]
        return tf.data.Dataset.from_tensor_slices((images[chosen], labels[chosen], chosen))

    return Split(count, load, lambda: labels)


DATA = Data(("across", "down"), stripes(48, 0), stripes(16, 1), stripes(16, 2))
RECIPE = Recipe(
    image_size=8, batch_size=8, epochs=3, optimizer="adam", learning_rate=0.01, precision="float32"
).resolved()


def network(heads=True):
    """A network of one block with batch normalization, dropout and an auxiliary head: all that the loop must handle."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, use_bias=False, name="block_conv")(image)
    x = keras.layers.BatchNormalization(name="block_bn")(x)
    x = keras.layers.ReLU(name="block_out")(x)
    pooled = keras.layers.GlobalAveragePooling2D(name="head_pool")(x)
    pooled = keras.layers.Dropout(0.2, name="head_dropout")(pooled)
    main = keras.layers.Dense(2, dtype="float32", name="head_dense")(pooled)
    if not heads:
        return keras.Model(image, main)
    flat = keras.layers.Flatten(name="aux1_flatten")(x)
    aux = keras.layers.Dense(2, dtype="float32", name="aux1_dense")(flat)
    return keras.Model(image, {"main": main, "aux1": aux})


def run_in(folder, recipe=RECIPE):
    folder.mkdir(exist_ok=True)
    return Run(folder, recipe)


def trained(folder, recipe=RECIPE, callbacks=(), heads=True):
    prepare_machine(recipe)
    model = network(heads)
    return model, train(model, DATA, recipe, run_in(folder, recipe), callbacks)


class StopAtStep(keras.callbacks.Callback):
    """Sends SIGTERM to the process after a number of steps."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


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


@pytest.mark.parametrize("step", [2, 6, 9, 18])  # in the middle of an epoch and on the last steps of epochs
def test_resuming_at_any_step_equals_a_straight_run(tmp_path, step):
    def callbacks():
        return [keras.callbacks.EarlyStopping(monitor="val_loss", patience=2, restore_best_weights=True)]

    straight, whole = trained(tmp_path / "straight", FULL, [*callbacks(), StopAtStep(0)])
    with pytest.raises(Interrupted, match="same command goes on") as interrupted:
        trained(tmp_path / "broken", FULL, [*callbacks(), StopAtStep(step)])
    assert interrupted.value.exit_code == 143
    resumed, parts = trained(tmp_path / "broken", FULL, [*callbacks(), StopAtStep(0)])
    assert parts == whole
    assert_equal_bits(straight, resumed)
    states = [run_in(tmp_path / name, FULL).checkpoints.load()[0] for name in ("straight", "broken")]
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        np.testing.assert_array_equal(states[0][name], states[1][name], err_msg=name)


def assert_equal_bits(one, other):
    """Compares weights, moving statistics, seeds and the optimizer's variables."""
    pairs = zip(one.variables + one.optimizer.variables, other.variables + other.optimizer.variables, strict=True)
    for first, second in pairs:
        first_value, second_value = map(keras.ops.convert_to_numpy, (first, second))
        np.testing.assert_array_equal(first_value, second_value, err_msg=first.path)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_it_learns_in_every_precision(tmp_path, precision):
    recipe = Recipe(**{**RECIPE.__dict__, "precision": precision, "epochs": 6})
    model, progress = trained(tmp_path / "run", recipe)
    assert progress["history"][-1]["val_accuracy"] >= 0.9
    assert model.get_layer("block_conv").compute_dtype == precision.removeprefix("mixed_")
    assert model.get_layer("head_dense").compute_dtype == "float32"
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (precision == "mixed_float16")


def test_the_loss_is_main_plus_weighted_heads_and_each_part_is_logged(tmp_path):
    for weight in (0.3, 0.7):
        recipe = Recipe(**{**RECIPE.__dict__, "aux_weight": weight})
        _, progress = trained(tmp_path / str(weight), recipe)
        for logs in progress["history"]:
            assert logs["loss"] == pytest.approx(logs["main_loss"] + weight * logs["aux1_loss"], rel=1e-5)
            assert set(logs) == {
                "loss",
                "accuracy",
                "main_loss",
                "aux1_loss",
                "aux1_accuracy",
                "val_loss",
                "val_accuracy",
            }


def test_a_step_takes_the_gradient_of_the_weighted_loss():
    model = network()
    model.get_layer("head_dropout").rate = 0.0
    recipe = Recipe(**{**RECIPE.__dict__, "optimizer": "sgd", "learning_rate": 0.5, "momentum": 0.0})
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
    _, progress = trained(tmp_path / "run", heads=False)
    assert set(progress["history"][0]) == {"loss", "accuracy", "val_loss", "val_accuracy"}


def test_equal_runs_give_equal_bits_and_seeds_differ(tmp_path):
    first, _ = trained(tmp_path / "first")
    again, _ = trained(tmp_path / "again")
    other, _ = trained(tmp_path / "other", Recipe(**{**RECIPE.__dict__, "seed": 1}))
    assert_equal_bits(first, again)
    assert not np.array_equal(first.get_layer("block_conv").kernel, other.get_layer("block_conv").kernel)


class StopAfter(keras.callbacks.Callback):
    """Raises at the end of an epoch's training, before its checkpoint, as a kill would."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epoch:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path):
    straight, whole = trained(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken", callbacks=[StopAfter(2)])
    resumed, parts = trained(tmp_path / "broken")
    assert parts == whole
    assert_equal_bits(straight, resumed)


def test_the_best_epoch_is_kept_and_ties_go_to_the_lower_loss(tmp_path):
    kept = {}

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kept[epoch + 1] = keras.ops.convert_to_numpy(self.model.get_layer("head_dense").kernel)

    recipe = Recipe(**{**RECIPE.__dict__, "epochs": 6})
    _, progress = trained(tmp_path / "run", recipe, [Keep()])
    scores = [(logs["val_accuracy"], -logs["val_loss"]) for logs in progress["history"]]
    assert progress["best_epoch"] == 1 + scores.index(max(scores))
    best = network()
    import keras_cnns

    assert keras_cnns.load_weights(best, tmp_path / "run" / "best.safetensors")["epoch"] == str(progress["best_epoch"])
    np.testing.assert_array_equal(best.get_layer("head_dense").kernel, kept[progress["best_epoch"]])


def test_keras_callbacks_work(tmp_path):
    early = keras.callbacks.EarlyStopping(monitor="val_loss", patience=0, min_delta=100.0)
    _, progress = trained(tmp_path / "run", Recipe(**{**RECIPE.__dict__, "epochs": 6}), [early])
    assert progress["epoch"] == 2


def test_the_learning_rate_warms_up_and_falls(tmp_path):
    rates = []

    class Note(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    trained(tmp_path / "run", Recipe(**{**RECIPE.__dict__, "warmup_epochs": 1.0}), [Note()])
    expected = [0.01 * step / 6 for step in range(6)]
    expected += [0.01 * 0.5 * (1 + np.cos(np.pi * step / 12)) for step in range(12)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-9)


def test_a_loss_that_is_no_number_stops_the_run_at_once(tmp_path):
    with pytest.raises(
        DivergedError,
        match=r"(loss|norm) is (nan|inf) in step \d of epoch 1.*images were number \d+.*smaller --learning_rate",
    ):
        trained(tmp_path / "run", Recipe(**{**RECIPE.__dict__, "optimizer": "sgd", "learning_rate": 1e30}))
