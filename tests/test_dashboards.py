"""What TensorBoard finds in a run, read back through its own reader."""

import json

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from training.dashboards import stage_graph
from training.run import Run

STEPS = 1293 // 32  # of an epoch


def events(run, split):
    reader = EventAccumulator(str(run / "tensorboard" / split), size_guidance={"tensors": 0})
    reader.Reload()
    return reader


def series(reader, tag):
    return [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in reader.Tensors(tag)]


@pytest.fixture(scope="module")
def history(digits_run):
    return json.loads((digits_run / "metrics.json").read_text())["history"]


def test_each_head_has_its_curves_and_they_are_the_logs(digits_run, history):
    train = events(digits_run, "train")
    for tag, name in {
        "loss/total": "loss",
        "loss/main": "main_loss",
        "loss/aux1": "aux1_loss",
        "loss/aux2": "aux2_loss",
        "accuracy/main": "accuracy",
        "accuracy/aux1": "aux1_accuracy",
        "accuracy/aux2": "aux2_accuracy",
    }.items():
        assert series(train, tag) == [(epoch, pytest.approx(logs[name])) for epoch, logs in enumerate(history, 1)]


def test_validation_and_test_have_the_main_head(digits_run, history):
    validation = events(digits_run, "validation")
    assert sorted(validation.Tags()["tensors"]) == ["accuracy/main", "loss/main"]
    assert [value for _, value in series(validation, "loss/main")] == pytest.approx(
        [logs["val_loss"] for logs in history]
    )
    result = json.loads((digits_run / "metrics.json").read_text())["test"]
    assert series(events(digits_run, "test"), "accuracy/main") == [(2, pytest.approx(result["accuracy"]))]


def test_the_learning_rate_is_there_by_step(digits_run):
    points = series(events(digits_run, "train"), "by_step/learning_rate")
    assert [step for step, _ in points] == list(range(10, 2 * STEPS + 1, 10))
    assert points[0][1] == pytest.approx(1e-3 * 10 / STEPS)  # in the warm-up of one epoch


def test_speed_is_consistent(digits_run):
    train = events(digits_run, "train")
    for (_, images), (_, milliseconds) in zip(
        series(train, "speed/images_per_second"), series(train, "speed/step_milliseconds"), strict=True
    ):
        assert images * milliseconds / 1000 == pytest.approx(32)


def test_recipe_and_environment_are_there_as_text(digits_run):
    train = events(digits_run, "train")
    texts = {
        tag: tensor_util.make_ndarray(train.Tensors(tag)[0].tensor_proto).item().decode()
        for tag in ("recipe", "environment", "network")
    }
    assert Run.open(digits_run).recipe.to_json() in texts["recipe"]
    assert tf.__version__ in texts["environment"]
    assert "inception4e" in texts["network"]


def test_the_graph_is_grouped_by_stage_and_holds_together(digits_run):
    assert events(digits_run, "train").Tags()["graph"]
    network = Run.open(digits_run).recipe.build(10)
    graph = stage_graph(network)
    names = {node.name for node in graph.node}
    assert len(names) == len(graph.node)
    stages = {name.split("/")[0] for name in names}
    assert {"conv1", "pool1", "inception3a", "inception5b", "head", "aux1", "aux2"} <= stages
    assert any(name.startswith("inception3a/3x3reduce/conv/") for name in names)
    for node in graph.node:
        for name in node.input:
            assert name.removeprefix("^").split(":")[0] in names
    with tf.Graph().as_default():
        tf.graph_util.import_graph_def(graph, name="")  # TensorFlow accepts it
