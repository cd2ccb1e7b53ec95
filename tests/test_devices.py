"""Several devices and processes: the same curve and weights as on one, and no process that outlives the others."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from tests.forked import Forked
from tests.stripes import DATA, RECIPE, network, stripes
from training import devices, launch
from training.__main__ import main
from training.batches import training_batches
from training.errors import UserError
from training.evaluation import make_evaluation
from training.loop import train
from training.machine import prepare
from training.recipe import Recipe
from training.run import FitOptions, fit
from training.run_folder import Run

SGD = dataclasses.replace(RECIPE, optimizer="sgd", learning_rate=0.1, epochs=2)  # 12 steps


class LossOfSteps(keras.callbacks.Callback):
    """Records the loss of each step; the logs have the mean over the epoch so far."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.before = 0.0 if batch == 0 else self.before
        self.losses.append(logs["loss"] * (batch + 1) - self.before)
        self.before = logs["loss"] * (batch + 1)


def trained(folder, recipe, distribution):
    """Return the losses by step, the history and the weights of a run on one device or on two."""
    recipe = dataclasses.replace(recipe, distribution=distribution)
    strategy = devices.make_strategy(distribution)
    assert strategy.num_replicas_in_sync == (2 if distribution == "mirrored" else 1)
    prepare(recipe)
    folder.mkdir()
    curve = LossOfSteps()
    with strategy.scope():
        model = network()
        model.get_layer("head_dropout").rate = 0.0
        devices.prepare_network(model, recipe, strategy)
        progress = train(model, DATA, recipe, Run(folder, recipe), [curve])
    state, _ = Run(folder, recipe).checkpoints.load()
    return curve.losses, progress.history, state


MIXED = {"mixup": 0.4, "cutmix": 0.4}

OPTIONS = {
    "plain": {},
    "everything": {
        "clip_norm": 0.1,
        "ema": 0.9,
        "weight_decay": 1e-2,
        "backbone_rate": 0.5,
        "label_smoothing": 0.1,
        "flip": True,
        **MIXED,
    },
}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Return a function (options) -> the result of `trained` on one device, trained once."""
    root = tmp_path_factory.mktemp("one")
    return functools.cache(
        lambda options: trained(root / options, dataclasses.replace(SGD, **OPTIONS[options]), "none")
    )


@pytest.mark.parametrize("options", OPTIONS)
def test_two_devices_train_as_one(tmp_path, one, options):
    losses, history, state = one(options)
    recipe = dataclasses.replace(SGD, **OPTIONS[options])
    losses2, history2, state2 = trained(tmp_path / "two", recipe, "mirrored")
    assert len(losses) == 12
    np.testing.assert_allclose(losses2, losses, atol=1e-4)
    for logs, logs2 in zip(history, history2, strict=True):
        assert logs2 == pytest.approx(logs, abs=1e-4)
    assert state.keys() == state2.keys()
    for name in state:
        if "seed" not in name:
            np.testing.assert_allclose(state2[name], state[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("workers", "replicas", "fields"), [(1, 2, MIXED), (2, 2, {}), (2, 4, MIXED)])
def test_the_shares_of_replicas_are_the_batches_of_one_device(workers, replicas, fields):
    recipe = dataclasses.replace(RECIPE, batch_size=4, label_smoothing=0.1, **fields)
    whole = list(training_batches(DATA, recipe, 0, 3).as_numpy_iterator())
    assert len(whole) == 12 - 3
    for worker in range(workers):
        context = tf.distribute.InputContext(workers, worker, replicas)
        batches = list(training_batches(DATA, recipe, 0, 3, context).as_numpy_iterator())
        assert len(batches) == len(whole) * replicas // workers
        assert all(len(values) == 4 // replicas for batch in batches for values in batch)
        expected = [[values[worker::workers] for values in batch] for batch in whole]
        for parts, others in zip(zip(*batches, strict=True), zip(*expected, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(parts), np.concatenate(others))


def test_an_epoch_that_used_to_be_longer_has_no_steps_left():
    assert not list(training_batches(DATA, RECIPE, 0, start=9))


def test_without_synchronized_batch_norm_each_device_takes_its_own_statistics(tmp_path, one):
    losses, _, _ = one("plain")
    losses2, _, _ = trained(tmp_path / "two", dataclasses.replace(SGD, sync_batch_norm=False), "mirrored")
    assert np.abs(np.subtract(losses, losses2)).max() > 1e-3


@pytest.mark.parametrize("prepared", [False, True])
def test_dropout_masks_of_two_devices_differ(prepared):
    strategy = devices.make_strategy("mirrored")
    with strategy.scope():
        model = keras.Sequential([keras.Input((1000,)), keras.layers.Dropout(0.5)])
        if prepared:
            devices.prepare_network(model, SGD, strategy)

    @tf.function
    def step():
        return strategy.run(lambda: model(tf.ones((1, 1000)), training=True))

    first, second = strategy.experimental_local_results(step())
    again, _ = strategy.experimental_local_results(step())
    assert 400 < np.count_nonzero(first) < 600
    assert 400 < np.count_nonzero(second) < 600
    assert np.array_equal(first, second) != prepared  # Keras draws the same mask, hence prepare_network
    assert not np.array_equal(first, again)
    if prepared:
        both = np.count_nonzero(np.logical_and(first, second))
        assert 200 < both < 300  # of independent masks a quarter of the elements is in both


def test_an_uneven_last_batch_counts_once():
    evaluations = []
    for distribution in ("none", "mirrored"):
        with devices.make_strategy(distribution).scope():
            keras.utils.set_random_seed(0)
            evaluations.append(make_evaluation(network(), 2, RECIPE))
    for count in (13, 9, 1):  # in batches of 4 for each device: the last step has 4 + 1, 1 + 0 and 1 + 0 images
        split = stripes(count, 3)
        one, two = (evaluate(split) for evaluate in evaluations)
        assert two.images == count
        np.testing.assert_array_equal(two.confusion, one.confusion)
        assert two.loss == pytest.approx(one.loss, rel=1e-5)
        assert two.top5 == one.top5
        for evaluate in evaluations:
            asked = iter([False, True])  # before the second batch, of 13 images
            assert (evaluate(split, lambda asked=asked: next(asked)) is None) == (count > 8)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"batch_size": 9}, "batch_size=9.*2 devices.*multiple of 2"), ({"jit": True}, "jit=True.*--jit false")],
)
def test_what_devices_cannot_do_is_refused_before_training(tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        fit(Recipe(image_size=32, distribution="mirrored", **wrong), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_the_error_for_a_wrong_tf_config_shows_a_right_one(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=r"TF_CONFIG is wrong.*should look like.*host2:2222"):
        devices.make_strategy("multiworker")


def test_the_distribution_is_found(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert devices.found_distribution() == "none"
    with pytest.raises(UserError, match="launch --workers 2"):
        devices.make_strategy("multiworker")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # in a batch script, before srun
    assert devices.found_distribution() == "none"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert devices.found_distribution() == "multiworker"
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert devices.found_distribution() == "multiworker"


@pytest.mark.parametrize(
    ("cluster", "task", "chief"),
    [
        ({"worker": ["a:1", "b:1"]}, ("worker", 0), True),
        ({"worker": ["a:1", "b:1"]}, ("worker", 1), False),
        ({"chief": ["a:1"], "worker": ["b:1"]}, ("chief", 0), True),
        ({"chief": ["a:1"], "worker": ["b:1"]}, ("worker", 0), False),
    ],
)
def test_one_process_is_the_chief(cluster, task, chief):
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(tf.train.ClusterSpec(cluster), "", *task)
    assert devices.is_chief(SimpleNamespace(cluster_resolver=resolver)) == chief


def test_an_error_in_the_launched_command_is_reported_before_anything_starts(capsys, monkeypatch):
    monkeypatch.setattr(launch, "start", None)
    assert main(["launch", "--workers", "2", "fit", "resnet18_digits", "--epoch", "3"]) == 2
    assert "Did you mean --epochs?" in capsys.readouterr().err
    assert main(["launch", "--workers", "2"]) == 2
    assert "launch runs `fit` only" in capsys.readouterr().err
    assert main(["launch", "--workers", "0", "fit", "resnet18_digits"]) == 2


# Two processes. The digits make 5 steps an epoch.
PROCESSES = Recipe(
    name="two",
    model="ResNetCIFAR",
    model_args={"depth": 8, "width": 0.25},
    image_size=8,
    batch_size=256,
    epochs=4,
    learning_rate=0.001,  # rounding grows with it: at 0.05 the losses come apart by 7e-4 in 20 steps
)


def launched(folder, started):
    """Run the recipe in two processes, which are appended to `started`, and return the exit code."""

    def start(command, *, env, stdout, stderr, start_new_session, preexec_fn):
        assert command[:3] == [sys.executable, "-m", "training"]
        with open(os.devnull, "w") as null:
            streams = null.fileno() if stdout == subprocess.DEVNULL else 1, 2 if stderr is None else stderr.fileno()
            started.append(Forked(main, command[3:], env=env, stdout=streams[0], stderr=streams[1]))
        return started[-1]

    recipe = folder.with_suffix(".json")
    recipe.write_text(PROCESSES.to_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "subprocess", SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL))
        options = ["--run", str(folder), "--save_steps", "2", "--export", "false"]
        return main(["launch", "--workers", "2", "fit", str(recipe), *options])


def assert_equal_runs(one, other, tolerance):
    """Compare the curves, the test loss and the weights of two run folders."""
    metrics, metrics2 = (json.loads((folder / "metrics.json").read_text()) for folder in (one, other))
    assert len(metrics["history"]) == 4
    for logs, logs2 in zip(metrics["history"], metrics2["history"], strict=True):
        assert logs2 == pytest.approx(logs, abs=tolerance)
    assert metrics2["test"]["loss"] == pytest.approx(metrics["test"]["loss"], abs=tolerance)
    weights, weights2 = (safetensors.numpy.load_file(folder / "best.safetensors") for folder in (one, other))
    assert weights.keys() == weights2.keys()
    for name in weights:
        np.testing.assert_allclose(weights2[name], weights[name], atol=tolerance, err_msg=name)


def when_it_has(folder, states, action):
    """Start a thread that acts once a run has a state whose name matches."""

    def wait():
        while not list((folder / "states").glob(states)):
            time.sleep(0.05)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_two_processes_train_as_one_although_one_is_killed_and_one_asked_to_stop(tmp_path, capfd):
    folder, started = tmp_path / "two", []
    when_it_has(folder, "epoch0001-*", started_process(started, "kill"))
    assert launched(folder, started) == 128 + signal.SIGKILL
    assert started[1].returncode == -signal.SIGKILL
    assert started[0].returncode == 7  # by itself, before it would have been killed
    assert "Another process of this run has ended" in capfd.readouterr().err
    assert not (folder / "metrics.json").exists()

    started = []
    when_it_has(folder, "epoch0002-*", started_process(started, "terminate"))
    assert launched(folder, started) == 128 + signal.SIGTERM
    assert [process.returncode for process in started] == [128 + signal.SIGTERM] * 2  # all save and leave
    output = capfd.readouterr().out
    assert "Epoch 1/4" not in output
    assert "Epoch 2/4" in output

    started = []
    assert launched(folder, started) == 0
    assert [process.returncode for process in started] == [0, 0]
    assert "Epoch 2/4" not in capfd.readouterr().out

    options = FitOptions(export=False)
    fit(dataclasses.replace(PROCESSES, distribution="none"), tmp_path / "one", options=options)
    assert_equal_runs(tmp_path / "one", folder, 1e-4)
    assert sorted(os.listdir(folder)) == sorted(os.listdir(tmp_path / "one"))
    assert len(os.listdir(folder / "tensorboard" / "train")) == 3  # one for each start: only the first worker writes


def started_process(started, action):
    """Return a function that kills or terminates the second process that was started."""
    return lambda: getattr(started[1], action)()
