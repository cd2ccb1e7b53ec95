"""What a run writes for TensorBoard, read back with TensorBoard's own reader."""

import dataclasses
import json
import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.plugins import projector
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util

from tests.dashboard_helpers import events, one_layer, parameters_of, series
from tests.stripes import DATA, RECIPE, network, run_in
from training import dashboards
from training.batches import evaluation_batches, training_batches
from training.dashboards import pictures
from training.dashboards.profiling import top_operations
from training.data import load_data
from training.errors import ResourceError, UserError
from training.evaluation import make_evaluation
from training.inference import trained_network
from training.loop import train
from training.machine import prepare
from training.recipe import Recipe
from training.run import FitOptions, fit
from training.run_folder import Run
from training.state import state_of


def layout_of(reader):
    pb = reader.Tensors("custom_scalars__config__")[0].tensor_proto
    return layout_pb2.Layout.FromString(tensor_util.make_ndarray(pb).item())


def train_tiny(folder, boards=(), recipe=RECIPE):
    """Train a small network on stripes; return the model and the history."""
    prepare(recipe)
    model = network()
    return model, train(model, DATA, recipe, run_in(folder, recipe), boards).history


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A run with every dashboard: (folder, model, history, {name: dashboard})."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    boards = dashboards.of_run(
        dashboards.Log(folder / "tensorboard"), RECIPE, DATA, {"recipe": "text"}, picture_epochs=2, profile_steps=2
    )
    by_name = {type(board).__name__: board for board in boards}
    by_name["Scalars"].interval = 2
    return folder, *train_tiny(folder, boards), by_name


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The folder of a run of a small network that `fit` trained."""
    recipe = Recipe(
        model="ResNetCIFAR",
        model_args={"depth": 8, "width": 0.25},
        image_size=8,
        batch_size=128,
        epochs=2,
        optimizer="adam",
        learning_rate=0.01,
    )
    options = FitOptions(picture_epochs=9, export=False)
    return fit(recipe, tmp_path_factory.mktemp("runs") / "digits", options=options).folder


def test_training_with_every_dashboard_gives_the_same_bits_as_without(tiny, tmp_path):
    _, watched, _, _ = tiny
    alone, _ = train_tiny(tmp_path / "alone")
    for (name, one), other in zip(state_of(alone).items(), state_of(watched).values(), strict=True):
        assert np.array_equal(one.numpy(), other.numpy()), name


def test_each_head_has_curves_that_equal_the_logs(tiny):
    folder, _, history, _ = tiny
    for split, tag, name in (
        ("train", "loss/total", "loss"),
        ("train", "loss/main", "main_loss"),
        ("train", "accuracy/main", "accuracy"),
        ("train", "loss/aux1", "aux1_loss"),
        ("train", "accuracy/aux1", "aux1_accuracy"),
        ("validation", "loss/main", "val_loss"),
        ("validation", "accuracy/main", "val_accuracy"),
    ):
        points = series(events(folder, split), tag)
        assert points == [(epoch, pytest.approx(logs[name])) for epoch, logs in enumerate(history, 1)]


def test_top5_accuracy_is_written_for_more_than_five_classes_only(tiny, digits):
    assert "accuracy/top5" not in events(tiny[0], "validation").Tags()["tensors"]  # two classes
    assert [step for step, _ in series(events(digits, "validation"), "accuracy/top5")] == [1, 2]  # ten
    assert [step for step, _ in series(events(digits, "test"), "accuracy/top5")] == [2]
    charts = {folder: layout_of(events(folder, "train")).category[1].chart for folder in (tiny[0], digits)}
    assert [chart.title for chart in charts[tiny[0]]] == ["accuracy", "loss without the auxiliary heads"]
    assert [chart.title for chart in charts[digits]][2:] == ["top-5 accuracy"]


def test_the_history_has_no_values_that_only_dashboards_need(tiny):
    assert set(tiny[2][0]) == {
        "loss", "main_loss", "aux1_loss", "accuracy", "aux1_accuracy", "val_loss", "val_accuracy", "val_top5_accuracy"
    }  # fmt: skip


def test_the_learning_rate_is_written_by_step(tiny):
    points = series(events(tiny[0], "train"), "by_step/learning_rate")
    assert [step for step, _ in points] == list(range(2, 19, 2))
    for step, rate in points:
        assert rate == pytest.approx(0.01 * (1 + math.cos(math.pi * step / 18)) / 2, abs=1e-7)


def test_utilisation_follows_its_formula(tiny):
    reader = events(tiny[0], "train")
    multiply_adds = 36 * 3 * 3 * 3 * 8 + 8 * 2 + 36 * 8 * 2
    names = ("utilisation", "images_per_second", "step_milliseconds", "input_wait_milliseconds")
    points = list(zip(*(series(reader, f"by_step/{name}") for name in names), strict=True))
    assert len(points) == 9
    for (_, share), (_, images), (_, milliseconds), (_, wait) in points:
        assert share == pytest.approx(6 * multiply_adds * images / tiny[3]["Scalars"].peak, rel=1e-4)
        assert images * milliseconds / 1000 == pytest.approx(8, rel=1e-4)
        assert 0 < wait < milliseconds


def test_every_chart_of_the_layout_has_a_curve(tiny):
    train_events = events(tiny[0], "train")
    tags = {*train_events.Tags()["tensors"], *events(tiny[0], "validation").Tags()["tensors"]}
    layout = layout_of(train_events)
    assert [page.title for page in layout.category] == ["optimisation", "generalisation", "speed", "numerics"]
    for chart in (chart for page in layout.category for chart in page.chart):
        for pattern in chart.multiline.tag:
            only_in_float16 = chart.title in ("loss scale", "skipped steps")
            assert any(re.fullmatch(pattern, tag) for tag in tags) != only_in_float16, pattern


def test_histograms_are_by_stage(tiny):
    reader = events(tiny[0], "train")
    for kind in ("weights", "gradients", "activations"):
        assert {f"{kind}/block", f"{kind}/head", f"{kind}/aux1"} <= set(reader.Tags()["tensors"])
    buckets = tensor_util.make_ndarray(reader.Tensors("weights/block")[0].tensor_proto)
    assert buckets[:, 2].sum() == 3 * 3 * 3 * 8 + 2 * 8  # the kernel, and gamma and beta


def test_a_histogram_equals_that_of_tensorboard(tmp_path):
    values = np.random.RandomState(0).normal(size=(50, 20)).astype("float32")
    log = dashboards.Log(tmp_path / "tensorboard")
    log.histogram("values", np.append(values, [np.nan, np.inf]), 0)
    log.flush()
    ours = tensor_util.make_ndarray(events(tmp_path, "train").Tensors("values")[0].tensor_proto)
    theirs = tensor_util.make_ndarray(histogram_pb("values", values).value[0].tensor)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_pictures_are_written_at_their_interval(tiny):
    for split, tag, steps in (
        ("train", "augmented", [1, 2]),
        ("train", "first_filters", [1, 2]),
        ("train", "gradient_by_depth", [0, 1, 2, 3]),  # the last picture shows all epochs
        ("validation", "predictions", [1, 2]),
        ("validation", "confusion", [1, 2]),
        ("validation", "most_confident_mistakes", [1, 2]),
        ("validation", "grad_cam", [1, 2]),
    ):
        points = events(tiny[0], split).Tensors(tag)
        assert [point.step for point in points] == steps
        image = tf.io.decode_png(tensor_util.make_ndarray(points[0].tensor_proto)[2]).numpy()
        assert image.std() > 1, tag


def test_the_confusion_matrix_equals_that_of_evaluation(tiny):
    _, model, _, boards = tiny
    expected = make_evaluation(model, 2, RECIPE)(DATA.validation).confusion
    board = boards["Pictures"]
    assert np.array_equal(board.pass_over(board.validation()).confusion, expected)


def gradient_by_hand(kernel, bias, images, targets):
    """Return the gradient of the mean cross-entropy of softmax(x W + b): x^T (p - y) / n, and the mean of p - y."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = ((np.asarray(images, "float64") / 255 - mean) / deviation).reshape(len(images), -1)
    exponentials = np.exp(pixels @ kernel + bias)
    error = exponentials / exponentials.sum(axis=1, keepdims=True) - targets
    return pixels.T @ error / len(images), error.mean(axis=0)


def test_gradient_norms_and_the_update_equal_those_computed_by_hand(tmp_path):
    recipe = dataclasses.replace(
        RECIPE, optimizer="sgd", momentum=0.0, schedule="constant", learning_rate=1e-4, batch_size=48, epochs=1
    )
    prepare(recipe)
    model = one_layer()
    kernel, bias = model.get_weights()
    images, targets, _ = next(iter(training_batches(DATA, recipe, 0)))
    log = dashboards.Log(tmp_path / "tensorboard")
    probes = dashboards.Probes(log, images[:4], targets[:4])
    # An epoch of one step has a point of the curves by step, whatever the interval.
    train(model, DATA, recipe, run_in(tmp_path), [dashboards.Scalars(log, 48), probes])
    reader = events(tmp_path, "train")

    of_batch = math.hypot(*map(np.linalg.norm, gradient_by_hand(kernel, bias, images, targets.numpy())))
    assert series(reader, "by_step/gradient_norm") == [(1, pytest.approx(of_batch, rel=1e-4))]
    assert series(reader, "weights/update_ratio")[0][1] == pytest.approx(
        1e-4 * of_batch / np.linalg.norm(kernel), rel=1e-3
    )
    assert series(reader, "weights/norm")[0][1] == pytest.approx(
        math.hypot(*map(np.linalg.norm, model.get_weights())), rel=1e-4
    )
    of_probe = np.linalg.norm(gradient_by_hand(kernel, bias, images[:4], targets[:4].numpy())[0])
    assert probes.norms[0] == [pytest.approx(of_probe, rel=1e-4)]
    assert series(reader, "gradient_by_depth/first")[0] == (0, pytest.approx(of_probe, rel=1e-4))


def test_the_state_of_probes_is_restored(tiny, tmp_path):
    state = json.loads(json.dumps(tiny[3]["Probes"].state()))
    again = dashboards.Probes(dashboards.Log(tmp_path), tf.zeros((1, 8, 8, 3)), tf.ones((1, 2)))
    again.load_state(state)
    assert again.epochs == [0, 1, 2, 3]
    assert [len(norms) for norms in again.norms] == [2] * 4  # the convolution and the main head, not aux1


def test_the_pictures_under_best_are_those_of_the_final_network(digits):
    best = json.loads((digits / "metrics.json").read_text())["best_epoch"]
    tags = {
        "train": {"first_filters"},
        "validation": {"predictions", "confusion", "most_confident_mistakes", "grad_cam"},
        "test": {"confusion", "most_confident_mistakes"},
    }
    for split, names in tags.items():
        reader = events(digits, split)
        found = {tag for tag in reader.Tags()["tensors"] if tag.startswith("best/")}
        assert found == {f"best/{name}" for name in names}
        assert {point.step for tag in found for point in reader.Tensors(tag)} == {best}
    # The Projector's features are those of the best epoch, too.
    run = Run.open(digits)
    data = load_data(run.recipe)
    look = pictures.make_look(trained_network(run), run.recipe.preprocessing, from_logits=True)
    images = next(iter(evaluation_batches(data.validation, run.recipe)))[0]
    features = look(images)[1].numpy()
    there = np.loadtxt(digits / "tensorboard" / "validation" / "features.tsv")[: len(features)]
    assert there == pytest.approx(features, rel=1e-4, abs=1e-5)


def test_a_run_with_picture_epochs_0_draws_no_pictures(digits_run):
    tags = {tag for split in ("train", "validation", "test") for tag in events(digits_run, split).Tags()["tensors"]}
    assert not {tag for tag in tags if "confusion" in tag or tag in ("gradient_by_depth", "weights/conv1")}


def test_the_projector_has_features_labels_and_images(tiny):
    folder = tiny[0] / "tensorboard" / "validation"
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), projector.ProjectorConfig())
    (embedding,) = config.embeddings
    assert np.loadtxt(folder / embedding.tensor_path).shape == (16, 8)
    names = [DATA.class_names[label] for label in DATA.validation.labels()]
    assert (folder / embedding.metadata_path).read_text().split() == names
    assert tf.io.decode_png((folder / embedding.sprite.image_path).read_bytes()).shape == (4 * 32, 4 * 32, 3)


def test_a_failure_to_write_event_files_is_a_resource_error(tmp_path):
    """A file takes the place of a folder; a full disk or missing permission raises the same errors."""
    (tmp_path / "file").touch()
    log = dashboards.Log(tmp_path / "file" / "tensorboard")
    seen = pictures.SplitSummary(2)
    seen.add(np.zeros((1, 2, 2, 3)), np.array([0]), np.eye(2)[:1], np.zeros((1, 5)))
    for write in (
        lambda: log.scalars(1, {"loss": 1.0}),  # TensorFlow raises FailedPreconditionError
        lambda: pictures.write_projector(log.folder, seen, ("a", "b")),
    ):
        with pytest.raises(ResourceError, match=r"tensorboard could not be written: .*file") as refused:
            write()
        assert refused.value.exit_code == 4


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.dense = keras.layers.Dense(2)

    def call(self, images):
        return self.dense(keras.ops.reshape(images, (-1, 192)))


def test_a_subclassed_model_has_curves_and_other_dashboards_refuse_it(tmp_path):
    model = Subclassed()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    log = dashboards.Log(tmp_path / "tensorboard")
    images = np.zeros((8, 8, 8, 3))
    model.fit(images, np.zeros(8), batch_size=8, verbose=0, callbacks=[dashboards.Scalars(log, 8)])
    assert series(events(tmp_path, "train"), "by_step/learning_rate") == [(1, pytest.approx(0.01))]
    for board in (dashboards.Graph(log), dashboards.Pictures(log, None, ("a", "b"))):
        with pytest.raises(TypeError, match="functional model, and mine is a Subclassed"):
            board.set_model(model)


def test_top_operations_are_those_of_the_recorded_steps(tiny, tmp_path):
    operations = {name: (calls, share) for name, calls, _, share in top_operations(tiny[0], 1000)}
    assert operations["Conv2DBackpropFilter"][0] == 2  # one convolution, two steps
    assert sum(share for _, share in operations.values()) == pytest.approx(1)
    with pytest.raises(UserError, match="profile_steps"):
        top_operations(tmp_path)


def test_a_run_is_a_row_of_hparams_with_its_best_accuracy(digits):
    reader = events(digits, "hparams")
    data = reader.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    started = plugin_data_pb2.HParamsPluginData.FromString(data).session_start_info
    recipe = Run.open(digits).recipe
    assert started.group_name == f"{recipe.name}-{recipe.digest}"
    row = started.hparams
    assert row["model"].string_value == "ResNetCIFAR"
    assert row["learning_rate"].number_value == 0.01
    # TensorBoard sorts its columns alphabetically.
    assert sorted(row)[:5] == ["batch_size", "epochs", "learning_rate", "model", "optimizer"]
    assert row["recipe/image_size"].number_value == 8
    metrics = json.loads((digits / "metrics.json").read_text())
    assert series(reader, "hparams/test_accuracy") == [(2, pytest.approx(metrics["test"]["accuracy"]))]
    best = max(logs["val_accuracy"] for logs in metrics["history"])
    assert series(reader, "hparams/best_validation_accuracy")[-1][1] == pytest.approx(best)
    assert series(reader, "hparams/parameters")[0][1] == parameters_of(digits)
    assert series(reader, "hparams/images_per_second")[-1][1] > 0
    assert series(events(digits, "test"), "accuracy/main") == [(2, pytest.approx(metrics["test"]["accuracy"]))]


def test_a_run_writes_its_recipe_environment_network_and_command(digits):
    reader = events(digits, "train")
    texts = {
        tag: tensor_util.make_ndarray(reader.Tensors(tag)[0].tensor_proto).item().decode()
        for tag in ("recipe", "environment", "network", "command")
    }
    assert (digits / "recipe.json").read_text() in texts["recipe"]
    assert tf.__version__ in texts["environment"]
    assert "stage3" in texts["network"]
    assert f"python -m training fit {digits}/recipe.json" in texts["command"]
    assert reader.Tags()["graph"]
