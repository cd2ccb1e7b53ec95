"""The curves: loss scale, skipped steps and the multiply-adds of a step."""

import json
import types

import keras
import numpy as np

import keras_cnns
from tests.dashboard_helpers import events, one_layer, series
from training import dashboards
from training.dashboards.scalars import trained_multiply_adds


def test_plain_keras_in_float16_has_curves_of_the_loss_scale_and_skipped_steps(tmp_path):
    keras.mixed_precision.set_global_policy("mixed_float16")
    model = one_layer()
    # The scale is too large: gradients are infinite, so steps are skipped, and each time the scale is halved.
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-3), initial_scale=2.0**40)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    images, labels = np.random.RandomState(0).uniform(0, 1, (320, 8, 8, 3)), np.arange(320) % 2
    board = dashboards.Scalars(dashboards.Log(tmp_path / "tensorboard"), 8, interval=1)
    model.fit(images, labels, batch_size=8, verbose=0, callbacks=[board])
    reader = events(tmp_path, "train")
    skipped = 40 - int(optimizer.iterations)
    assert 0 < skipped < 40
    assert series(reader, "by_step/skipped_steps")[-1][1] == skipped
    assert series(reader, "by_step/loss_scale")[-1][1] == 2.0 ** (40 - skipped)
    assert {"loss/main", "accuracy/main"} <= set(reader.Tags()["tensors"])


def test_the_count_of_skipped_steps_is_restored(tmp_path):
    model = types.SimpleNamespace(optimizer=types.SimpleNamespace(iterations=5))
    boards = [dashboards.Scalars(dashboards.Log(tmp_path / name), 8) for name in ("before", "after")]
    for board in boards:
        board.set_model(model)
        board.set_params({"steps": 6})
        board.on_train_begin()
        if board is boards[1]:
            model.optimizer.iterations = 7
            board.load_state(json.loads(json.dumps(boards[0].state())))
        board.on_epoch_begin(0)
        for step in range(2):  # no update: both are skipped
            board.on_train_batch_begin(step)
            board.on_train_batch_end(step)
    assert [board.skipped for board in boards] == [2, 4]


def test_multiply_adds_of_a_step_depend_on_what_is_trained():
    def counted(*trained):
        layers = [keras.layers.Dense(10, trainable=each) for each in trained]
        return trained_multiply_adds(keras_cnns.complexity(keras.Sequential([keras.Input((10,)), *layers])))

    assert counted(True, True) == 600  # forward, and backward with respect to inputs and weights
    assert counted(False, False, True) == 500  # frozen up to the head
    assert counted(True, False) == 500  # the gradient passes through the frozen layer
