"""Schedules, weight decay and averages against hand arithmetic."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from tests.stripes import DATA, RECIPE, network
from training.batches import training_batches
from training.optimization import current_rate, fuse_updates, learning_rate, make_optimizer, plateau
from training.recipe import Recipe
from training.step import average_of, make_train_step

IMAGES = tf.constant(np.random.RandomState(0).uniform(0, 255, (8, 8, 8, 3)), tf.float32)
TARGETS = tf.one_hot([0, 1] * 4, 2)


def rates(steps, **fields):
    schedule = learning_rate(Recipe(learning_rate=0.5, epochs=10, **fields), 4)
    return [float(schedule(step)) for step in steps]


def test_the_schedule_steps_drops_at_the_first_step_after_a_milestone():
    fields = {"schedule": "steps", "milestones": [3.0, 5.0], "decay_rate": 0.1}
    np.testing.assert_allclose(rates([0, 11, 12, 19, 20, 39], **fields), [0.5, 0.5, 0.05, 0.05, 0.005, 0.005])


def test_exponential_is_a_staircase_and_constant_is_constant():
    fields = {"schedule": "exponential", "decay_epochs": 2.0, "decay_rate": 0.9}
    np.testing.assert_allclose(rates([0, 7, 8, 15, 16], **fields), [0.5, 0.5, 0.45, 0.45, 0.405], rtol=1e-6)
    np.testing.assert_allclose(rates([0, 1, 4, 39], schedule="constant", warmup_epochs=1.0), [0, 0.125, 0.5, 0.5])
    assert learning_rate(Recipe(schedule="constant", learning_rate=0.5), 4) == 0.5  # a number, which callbacks change


@pytest.mark.parametrize("schedule", ["cosine", "exponential", "steps", "constant"])
def test_a_saved_optimizer_has_its_schedule(schedule):
    recipe = Recipe(learning_rate=0.5, epochs=10, schedule=schedule, warmup_epochs=1.0, milestones=[3.0])
    optimizer = make_optimizer(recipe, 4, [])
    config = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    loaded = keras.optimizers.deserialize(config)
    for step in (0, 2, 4, 13, 39):
        optimizer.iterations.assign(step)
        loaded.iterations.assign(step)
        assert float(loaded.learning_rate) == float(optimizer.learning_rate)


@pytest.mark.parametrize(
    "kind, arguments, operation",
    [
        ("Adam", {"epsilon": 1e-3}, "ResourceApplyAdam"),
        ("SGD", {}, None),
        ("SGD", {"momentum": 0.9}, "ResourceApplyKerasMomentum"),
        ("SGD", {"momentum": 0.9, "nesterov": True}, "ResourceApplyKerasMomentum"),
        ("RMSprop", {}, None),
        ("RMSprop", {"momentum": 0.9, "epsilon": 1e-3}, "ResourceApplyRMSProp"),
    ],
)
def test_fused_updates_are_those_of_keras(kind, arguments, operation):
    """Keras rounds its constants to float32, also in float64: 0.999 to 0.999000013."""
    random = np.random.RandomState(0)
    start, gradients = random.normal(size=(3, 4)), random.normal(size=(5, 3, 4))

    def updated(fused):
        variable = keras.Variable(start, dtype="float64")
        rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
        optimizer = getattr(keras.optimizers, kind)(rate, weight_decay=0.1, **arguments)
        if fused:
            fuse_updates(optimizer)
        optimizer.build([variable])
        apply = tf.function(lambda gradient: optimizer.apply([gradient], [variable]), autograph=False)
        for gradient in gradients:
            apply(tf.constant(gradient))
        types = {node.type for node in apply.get_concrete_function(tf.constant(gradient)).graph.get_operations()}
        assert (operation in types) == (fused and operation is not None)
        return [variable.numpy(), *(slot.numpy() for slot in optimizer.variables)]

    for ours, theirs in zip(updated(True), updated(False), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5)


def step(steps=1, **fields):
    """Return a network before and after steps of a recipe: ({path: array}, {path: array}, its average)."""
    keras.utils.set_random_seed(0)
    recipe = dataclasses.replace(RECIPE, learning_rate=0.1, schedule="constant", **fields)
    model = network()
    model.get_layer("head_dropout").rate = 0.0
    averaged = average_of(model) if recipe.ema else None
    model.compile(optimizer=make_optimizer(recipe, 6, model.trainable_variables))
    model.optimizer.build(model.trainable_variables)
    history = [values_of(model)]
    train_step = make_train_step(model, recipe, averaged)
    for _ in range(steps):
        train_step(IMAGES, TARGETS)
        history.append(values_of(model))
    return history, averaged and values_of(averaged)


def values_of(model):
    return {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.weights}


@pytest.mark.parametrize("all_of_them", [False, True])
def test_l2_adds_the_decayed_weight_to_the_gradient(all_of_them):
    # With plain SGD the difference that decay makes in a step is rate * decay * weight, in either mode.
    plain, _ = step(optimizer="sgd", momentum=0.0)
    for mode in ("l2", "decoupled"):
        fields = {"weight_decay": 0.5, "decay_mode": mode, "decay_norms": all_of_them}
        decayed, _ = step(optimizer="sgd", momentum=0.0, **fields)
        for path, before in plain[0].items():
            taken = path.endswith("kernel") or (all_of_them and path.endswith(("gamma", "beta", "bias")))
            expected = 0.1 * 0.5 * before if taken else 0.0 * before
            np.testing.assert_allclose(plain[1][path] - decayed[1][path], expected, atol=1e-6, err_msg=path)


def test_momentum_sees_l2_and_not_decoupled_decay():
    fields = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.5}
    path = "aux1_dense/kernel"
    changes = {}
    for mode in ("l2", "decoupled"):
        history, _ = step(2, decay_mode=mode, **fields)
        plain, _ = step(2, optimizer="sgd", momentum=0.9)
        changes[mode] = np.abs(history[2][path] - plain[2][path]).sum()
    assert changes["l2"] > 1.2 * changes["decoupled"]


def test_adam_with_decoupled_decay_is_adamw():
    fields = {"optimizer": "adam", "weight_decay": 0.5, "decay_mode": "decoupled", "decay_norms": True}
    ours, _ = step(**fields)
    plain, _ = step(optimizer="adam")
    for path, before in plain[0].items():
        if "moving" not in path:
            np.testing.assert_allclose(plain[1][path] - ours[1][path], 0.05 * before, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_l2_is_the_same_under_loss_scaling(precision):
    keras.mixed_precision.set_global_policy(precision)
    plain, _ = step(optimizer="sgd", momentum=0.0, precision=precision)
    decayed, _ = step(optimizer="sgd", momentum=0.0, weight_decay=0.5, precision=precision)
    path = "head_dense/kernel"
    np.testing.assert_allclose(plain[1][path] - decayed[1][path], 0.05 * plain[0][path], rtol=1e-3, atol=1e-5)


def test_clipping_shrinks_the_whole_gradient_to_the_norm():
    history, _ = step(optimizer="sgd", momentum=0.0, clip_norm=0.01)
    moved = [history[1][path] - before for path, before in history[0].items() if "moving" not in path]
    assert np.sqrt(sum(np.sum(np.square(change)) for change in moved)) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_the_average_starts_slowly_and_includes_moving_statistics():
    history, averaged = step(3, optimizer="sgd", ema=0.2)
    for path, expected in history[0].items():
        for count, values in enumerate(history[1:], 1):
            keep = min(0.2, (1 + count) / (10 + count))
            expected = keep * expected + (1 - keep) * values[path]
        np.testing.assert_allclose(averaged[path], expected, rtol=1e-5, atol=1e-6, err_msg=path)
    assert any("moving_variance" in path for path in averaged)


def test_l2_equals_a_keras_run_with_a_regularizer():
    """Three steps of Keras's own training, with L2(decay / 2), whose gradient is decay times the weight."""
    fields = {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "learning_rate": 0.1, "schedule": "constant"}
    recipe = dataclasses.replace(RECIPE, weight_decay=0.02, **fields)
    keras.utils.set_random_seed(0)
    ours, theirs = network(heads=False), network(heads=False)
    theirs.set_weights(ours.get_weights())
    for model in (ours, theirs):
        model.get_layer("head_dropout").rate = 0.0
    for layer in ("block_conv", "head_dense"):
        theirs.get_layer(layer).kernel.regularizer = keras.regularizers.L2(0.01)
    ours.compile(optimizer=make_optimizer(recipe, 6, ours.trainable_variables))
    theirs.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), keras.losses.CategoricalCrossentropy(from_logits=True)
    )
    train_step = make_train_step(ours, recipe)
    for _ in range(3):
        train_step(IMAGES, TARGETS)
        theirs.train_on_batch(keras_cnns.preprocess_input(IMAGES), TARGETS)
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6, err_msg=one.path)


def test_label_smoothing_reaches_the_loss():
    recipe = dataclasses.replace(RECIPE, label_smoothing=0.2, optimizer="sgd", learning_rate=0.01)
    model = network(heads=False)
    model.get_layer("head_dropout").rate = 0.0
    model.compile(optimizer=make_optimizer(recipe, 6, model.trainable_variables))
    images, targets, examples = next(iter(training_batches(DATA, recipe, 0)))
    right = DATA.train.labels()[examples.numpy()]
    logits = np.asarray(model(keras_cnns.preprocess_input(images), training=True), "float64")
    logs = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    rows = np.arange(8)
    # Of two classes the right one has 1 - 0.2 + 0.2 / 2.
    expected = -np.mean(0.9 * logs[rows, right] + 0.1 * logs[rows, 1 - right])
    assert float(make_train_step(model, recipe)(images, targets)["loss"]) == pytest.approx(expected, rel=1e-5)


def test_a_step_that_overflows_in_float16_changes_no_weight_and_leaves_the_average_finite():
    keras.mixed_precision.set_global_policy("mixed_float16")
    recipe = dataclasses.replace(RECIPE, precision="mixed_float16", optimizer="sgd", ema=0.9, weight_decay=0.1)
    model = network()
    averaged = average_of(model)
    model.compile(optimizer=make_optimizer(recipe, 6, model.trainable_variables))
    model.optimizer.build(model.trainable_variables)
    model.optimizer.dynamic_scale.assign(2.0**60)
    before = values_of(model)
    values = make_train_step(model, recipe, averaged)(IMAGES, TARGETS)
    assert not np.isfinite(values["gradient_norm"])
    assert np.isfinite(values["loss"])
    assert float(model.optimizer.dynamic_scale) == 2.0**59
    assert int(model.optimizer.iterations) == 0
    for path, average in values_of(averaged).items():
        assert np.isfinite(average).all(), path
        if "moving" not in path:
            np.testing.assert_array_equal(values_of(model)[path], before[path], err_msg=path)
            np.testing.assert_allclose(average, before[path], rtol=1e-6, err_msg=path)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_plateau_decays_after_epochs_without_improvement(precision):
    keras.mixed_precision.set_global_policy(precision)
    recipe = Recipe(learning_rate=0.8, schedule="plateau", decay_rate=0.5, decay_epochs=2.0)
    model = network()
    model.compile(optimizer=make_optimizer(recipe, 6, model.trainable_variables))
    callback = plateau(recipe)
    callback.set_model(model)
    callback.on_train_begin()
    found = []
    # The third accuracy is one image of 50,000 more. Then two epochs are no better, and two more, an equal one of them.
    for epoch, accuracy in enumerate([0.5, 0.5, 0.50002, 0.4, 0.50001, 0.50002, 0.3, 0.6, 0.5]):
        callback.on_epoch_end(epoch, {"val_accuracy": accuracy, "val_loss": 1.0 / (1 + epoch)})
        found.append(current_rate(model))
    np.testing.assert_allclose(found, [0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2, 0.2])
