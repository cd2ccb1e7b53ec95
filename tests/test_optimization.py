"""Schedules, weight decay and averages against hand arithmetic."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.test_loop import RECIPE, network
from training.loop import average_of, make_train_step
from training.optimization import learning_rate, make_optimizer
from training.recipe import Recipe

IMAGES = tf.constant(np.random.RandomState(0).uniform(0, 255, (8, 8, 8, 3)), tf.float32)
TARGETS = tf.one_hot([0, 1] * 4, 2)


def rates(steps, **fields):
    schedule = learning_rate(Recipe(learning_rate=0.5, epochs=10, **fields), 4)
    return [float(schedule(step)) for step in steps]


def test_steps_fall_with_the_first_step_of_a_milestone():
    fields = {"schedule": "steps", "milestones": [3.0, 5.0], "decay_rate": 0.1}
    np.testing.assert_allclose(rates([0, 11, 12, 19, 20, 39], **fields), [0.5, 0.5, 0.05, 0.05, 0.005, 0.005])


def test_exponential_is_a_staircase_and_constant_is_constant():
    fields = {"schedule": "exponential", "decay_epochs": 2.0, "decay_rate": 0.9}
    np.testing.assert_allclose(rates([0, 7, 8, 15, 16], **fields), [0.5, 0.5, 0.45, 0.45, 0.405], rtol=1e-6)
    np.testing.assert_allclose(rates([0, 1, 4, 39], schedule="constant", warmup_epochs=1.0), [0, 0.125, 0.5, 0.5])


def step(steps=1, **fields):
    """A network before and after steps of a recipe: ({path: array}, {path: array}, its average)."""
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


def test_the_average_starts_slowly_and_takes_moving_statistics():
    history, averaged = step(3, optimizer="sgd", ema=0.2)
    for path, expected in history[0].items():
        for count, values in enumerate(history[1:], 1):
            keep = min(0.2, (1 + count) / (10 + count))
            expected = keep * expected + (1 - keep) * values[path]
        np.testing.assert_allclose(averaged[path], expected, rtol=1e-5, atol=1e-6, err_msg=path)
    assert any("moving_variance" in path for path in averaged)
