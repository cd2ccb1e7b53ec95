"""What TensorBoard finds in a run, read back through its own reader."""

import dataclasses
import json
import math
import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.plugins import projector
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util
from test_contract import SMALL
from test_loop import DATA, RECIPE, network, run_in

import keras_cnns
from tests.event_files import events, parameters_of, series
from training import dashboards
from training.batches import evaluation_batches, training_batches
from training.checkpoint import state_of
from training.dashboards import pictures
from training.dashboards.probes import activations_of, gradients_of, unchanged
from training.dashboards.profiling import top_operations
from training.dashboards.scalars import trained_multiply_adds
from training.data import load_data
from training.errors import ResourceError, UserError
from training.evaluation import make_evaluation
from training.loop import train
from training.recipe import Recipe, prepare_machine
from training.run import Run, fit


def layout_of(reader):
    pb = reader.Tensors("custom_scalars__config__")[0].tensor_proto
    return layout_pb2.Layout.FromString(tensor_util.make_ndarray(pb).item())


def train_tiny(folder, boards=(), recipe=RECIPE):
    """Trains the network of test_loop on its stripes: the model and the history."""
    prepare_machine(recipe)
    model = network()
    return model, train(model, DATA, recipe, run_in(folder, recipe), boards)["history"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A run with every dashboard on: (folder, model, history, {name of the dashboard: it})."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    boards = dashboards.of_run(
        dashboards.Log(folder / "tensorboard"), RECIPE, DATA, {"recipe": "text"}, picture_epochs=2, profile_steps=2
    )
    by_name = {type(board).__name__: board for board in boards}
    by_name["Scalars"].interval = 2
    return folder, *train_tiny(folder, boards), by_name


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The folder of a run that `fit` made, of a small network."""
    recipe = Recipe(
        model="ResNetCIFAR",
        model_args={"depth": 8, "width": 0.25},
        image_size=8,
        batch_size=128,
        epochs=2,
        optimizer="adam",
        learning_rate=0.01,
    )
    return fit(recipe, tmp_path_factory.mktemp("runs") / "digits", picture_epochs=9).folder


def test_training_with_every_dashboard_gives_the_same_bits_as_with_none(tiny, tmp_path):
    _, watched, _, _ = tiny
    alone, _ = train_tiny(tmp_path / "alone")
    for (name, one), other in zip(state_of(alone).items(), state_of(watched).values(), strict=True):
        assert np.array_equal(one.numpy(), other.numpy()), name


def test_looking_puts_moving_statistics_and_seeds_back():
    model = network()
    variables = model.non_trainable_variables
    assert {"moving_mean", "seed_generator_state"} <= {variable.path.rpartition("/")[2] for variable in variables}
    before = [variable.numpy() for variable in variables]
    with unchanged(model):
        model(tf.random.stateless_normal((4, 8, 8, 3), (0, 0)), training=True)
        assert any((one != variable.numpy()).any() for one, variable in zip(before, variables, strict=True))
    assert all((one == variable.numpy()).all() for one, variable in zip(before, variables, strict=True))


def test_each_head_has_its_curves_and_they_are_the_logs(tiny):
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


def test_the_accuracy_among_five_classes_is_there_for_more_than_five_only(tiny, digits):
    assert "accuracy/top5" not in events(tiny[0], "validation").Tags()["tensors"]  # two classes
    assert [step for step, _ in series(events(digits, "validation"), "accuracy/top5")] == [1, 2]  # ten
    assert [step for step, _ in series(events(digits, "test"), "accuracy/top5")] == [2]
    charts = {folder: layout_of(events(folder, "train")).category[1].chart for folder in (tiny[0], digits)}
    assert [chart.title for chart in charts[tiny[0]]] == ["accuracy", "loss without the auxiliary heads"]
    assert [chart.title for chart in charts[digits]][2:] == ["top-5 accuracy"]


def test_what_dashboards_need_stays_out_of_the_history(tiny):
    assert set(tiny[2][0]) == {
        "loss", "main_loss", "aux1_loss", "accuracy", "aux1_accuracy", "val_loss", "val_accuracy", "val_top5_accuracy"
    }  # fmt: skip


def test_the_learning_rate_is_there_by_step(tiny):
    points = series(events(tiny[0], "train"), "by_step/learning_rate")
    assert [step for step, _ in points] == list(range(2, 19, 2))
    for step, rate in points:
        assert rate == pytest.approx(0.01 * (1 + math.cos(math.pi * step / 18)) / 2, abs=1e-7)


def test_utilisation_is_its_formula(tiny):
    reader = events(tiny[0], "train")
    multiply_adds = 36 * 3 * 3 * 3 * 8 + 8 * 2 + 36 * 8 * 2
    names = ("utilisation", "images_per_second", "step_milliseconds", "input_wait_milliseconds")
    points = list(zip(*(series(reader, f"by_step/{name}") for name in names), strict=True))
    assert len(points) == 9
    for (_, share), (_, images), (_, milliseconds), (_, wait) in points:
        assert share == pytest.approx(6 * multiply_adds * images / tiny[3]["Scalars"].peak, rel=1e-4)
        assert images * milliseconds / 1000 == pytest.approx(8, rel=1e-4)
        assert 0 < wait < milliseconds


def test_every_chart_of_the_layout_has_its_curve(tiny):
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


def test_pictures_are_there_at_their_interval(tiny):
    for split, tag, steps in (
        ("train", "augmented", [1, 2]),
        ("train", "first_filters", [1, 2]),
        ("train", "gradient_by_depth", [0, 1, 2, 3]),  # the last one shows all epochs
        ("validation", "predictions", [1, 2]),
        ("validation", "confusion", [1, 2]),
        ("validation", "most_confident_mistakes", [1, 2]),
        ("validation", "grad_cam", [1, 2]),
    ):
        points = events(tiny[0], split).Tensors(tag)
        assert [point.step for point in points] == steps
        image = tf.io.decode_png(tensor_util.make_ndarray(points[0].tensor_proto)[2]).numpy()
        assert image.std() > 1, tag


def one_layer():
    """A linear classifier, whose gradient can be written down."""
    image = keras.Input((8, 8, 3))
    return keras.Model(
        image, keras.layers.Dense(2, name="head_dense")(keras.layers.Flatten(name="head_flatten")(image))
    )


def gradient_by_hand(kernel, bias, images, targets):
    """Of the mean cross-entropy of softmax(x W + b): x^T (p - y) / n, and the mean of p - y."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = ((np.asarray(images, "float64") / 255 - mean) / deviation).reshape(len(images), -1)
    exponentials = np.exp(pixels @ kernel + bias)
    error = exponentials / exponentials.sum(axis=1, keepdims=True) - targets
    return pixels.T @ error / len(images), error.mean(axis=0)


def test_gradient_norms_and_update_are_those_written_down(tmp_path):
    recipe = dataclasses.replace(
        RECIPE, optimizer="sgd", momentum=0.0, schedule="constant", learning_rate=1e-4, batch_size=48, epochs=1
    )
    prepare_machine(recipe)
    model = one_layer()
    kernel, bias = model.get_weights()
    images, targets, _ = next(iter(training_batches(DATA, recipe, 0)))
    log = dashboards.Log(tmp_path / "tensorboard")
    probes = dashboards.Probes(log, images[:4], targets[:4])
    # An epoch of one step has its point by step, whatever the interval is.
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


def test_probes_go_on_with_a_run(tiny, tmp_path):
    state = json.loads(json.dumps(tiny[3]["Probes"].state()))
    again = dashboards.Probes(dashboards.Log(tmp_path), tf.zeros((1, 8, 8, 3)), tf.ones((1, 2)))
    again.load_state(state)
    assert again.epochs == [0, 1, 2, 3]
    assert [len(norms) for norms in again.norms] == [2] * 4  # the convolution and the main head, without aux1


def test_scaling_and_skipped_steps_are_there_in_float16_with_plain_keras(tmp_path):
    keras.mixed_precision.set_global_policy("mixed_float16")
    model = one_layer()
    # Too large a scale: gradients are infinite, steps are left out, and each time the scale is halved.
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


def test_counts_and_mistakes(tiny):
    seen = pictures.Seen(3)
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.9, 0.0, 0.1], [0.1, 0.1, 0.8]])
    seen.add(np.zeros((4, 2, 2, 3)), np.array([0, 2, 1, 2]), probabilities, np.zeros((4, 5)))
    seen.add(np.zeros((1, 2, 2, 3)), np.array([2]), np.array([[0.3, 0.6, 0.1]]), np.zeros((1, 5)))
    assert seen.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 2, 1]]
    assert [(label, probabilities.argmax()) for _, label, probabilities in seen.mistakes] == [(1, 0), (2, 1), (2, 1)]
    assert [probabilities.max() for *_, probabilities in seen.mistakes] == [0.9, 0.6, 0.5]
    # And of a whole split what evaluation counts.
    _, model, _, boards = tiny
    expected = make_evaluation(model, 2, RECIPE)(DATA.validation).confusion
    board = boards["Pictures"]
    assert np.array_equal(board.pass_over(board.validation()).confusion, expected)


def test_a_network_without_mistakes_says_so():
    seen = pictures.Seen(2)
    seen.add(np.zeros((1, 2, 2, 3)), np.array([0]), np.array([[0.9, 0.1]]), np.zeros((1, 5)))
    figure = pictures.answers(seen, ("a", "b"))["most_confident_mistakes"]
    assert [text.get_text() for text in figure.texts] == ["no mistakes"]


@pytest.mark.parametrize("classes", [2, 10, 20, 50, 300])
def test_a_confusion_matrix_can_be_read(classes):
    names = [f"class {number} of a long name" for number in range(classes)]
    names[:2] = [r"of $\sqrt{", "on two\nlines"]  # no formula
    confusion = np.full((classes, classes), 1234)
    axes = pictures.confusion_figure(confusion, names).axes[0]
    axes.figure.canvas.draw()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    if classes <= 50:
        assert labels[:2] == [names[0], r"on two\nlines"] and max(map(len, labels)) <= 20
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert sum(box.count_overlaps(boxes) for box in boxes) == classes  # each meets itself only
    cell = axes.get_window_extent().width / classes  # pixels
    assert len(axes.texts) == (classes**2 if classes <= 20 else 0)
    assert all(text.get_window_extent().width < cell for text in axes.texts[:1])
    assert cell >= (30 if classes <= 20 else 8 if classes <= 50 else 2)


LAST_MAPS = {  # of the small networks at 32 pixels, where the last maps of most have one pixel
    "AlexNet": "conv3_relu",
    "VGG11": "conv5_1_relu",
    "GoogLeNet": "inception4d_out",
    "InceptionV1": "inception4d_out",
    "ResNet18": "stage3_block1_out",
    "ResNet50": "stage3_block1_out",  # stage4_block1_conv1 is larger than a pixel, but has a shortcut beside it
    "ResNetCIFAR": "stage3_block1_out",
    "DenseNet121": "transition3_conv",
    "DenseNetCIFAR": "final_relu",
    "SEResNet50": "stage3_block1_out",
    "SEInceptionV1": "inception4d_out",
    "EfficientNet": "stage5_block1_expand_swish",  # the last one before the stride
    "DeformableResNet50": "stage3_block1_out",
}


@pytest.mark.parametrize("name", LAST_MAPS)
def test_grad_cam_looks_at_the_last_map_that_is_computed(name):
    model = SMALL[name](input_shape=(32, 32, 3), classes=10)
    assert pictures.last_map(model, (32, 32)).name == LAST_MAPS[name]


def test_grad_cam_knows_the_sizes_of_a_network_for_any_size():
    model = SMALL["GoogLeNet"](input_shape=(None, None, 3), classes=10)
    assert pictures.last_map(model, (32, 32)).name == "inception4d_out"
    assert pictures.last_map(model, (64, 64)).name == "inception5a_out"


@pytest.mark.parametrize("ending", [None, "softmax", "layer"])
def test_grad_cam_is_hot_where_the_object_is(ending):
    """A network that takes the mean of red for one class, of blue for the other, after pooling with padding."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 1, name="block_conv")(image)
    x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name="pool_pad")(x)
    x = keras.layers.MaxPooling2D(3, name="pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="head_pool")(x)
    dense = keras.layers.Dense(2, activation=ending if ending == "softmax" else None, name="head_dense")
    outputs = dense(x)
    model = keras.Model(image, keras.layers.Softmax()(outputs) if ending == "layer" else outputs)
    dense.set_weights([np.array([[900.0, 0.0], [0.0, 0.0], [0.0, 900.0]]), np.zeros(2)])  # the network is sure
    model.get_layer("block_conv").set_weights([np.eye(3)[None, None], np.zeros(3)])
    pixels = np.zeros((2, 8, 8, 3), "float32")
    pixels[0, 5:, 5:, 0], pixels[1, :2, 6:, 2] = 1, 1  # red at the lower right, blue at the upper right
    heat = pictures.make_grad_cam(model, (8, 8))(tf.constant(pixels)).numpy()
    assert heat.tolist() == pixels.max(axis=-1).tolist()


def test_a_model_without_maps_of_its_own_has_no_grad_cam():
    image = keras.Input((8, 8, 3))
    assert pictures.make_grad_cam(one_layer(), (8, 8)) is None
    inner = keras.Model(image, keras.layers.Conv2D(2, 3)(image))
    outer = keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(inner(image))))
    assert pictures.make_grad_cam(outer, (8, 8)) is None


def test_heat_can_be_told_from_a_red_image():
    red = np.full((8, 8, 3), (255.0, 0.0, 0.0))
    shown = pictures.overlay(red, np.array([[1.0, 0.0], [0.0, 0.0]]))
    assert np.abs(shown[0, 0] - shown[-1, -1]).max() > 100


def test_the_pictures_of_the_best_epoch_are_those_of_the_network_that_is_delivered(digits):
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
    # The Projector's features are the best epoch's too.
    run = Run.open(digits)
    data = load_data(run.recipe)
    look = pictures.make_look(run.network(), from_logits=True)
    images = next(iter(evaluation_batches(data.validation, run.recipe)))[0]
    features = look(keras_cnns.preprocess_input(images, run.recipe.preprocessing))[1].numpy()
    there = np.loadtxt(digits / "tensorboard" / "validation" / "features.tsv")[: len(features)]
    assert there == pytest.approx(features, rel=1e-4, abs=1e-5)


def test_a_run_that_is_told_to_draw_no_pictures_draws_none(digits_run):
    tags = {tag for split in ("train", "validation", "test") for tag in events(digits_run, split).Tags()["tensors"]}
    assert not {tag for tag in tags if "confusion" in tag or tag in ("gradient_by_depth", "weights/conv1")}


def test_grad_cam_of_a_linear_head_is_its_weights_times_the_map():
    image = keras.Input((4, 4, 3))
    maps = keras.layers.Conv2D(2, 1, name="block_conv")(image)
    model = keras.Model(
        image, keras.layers.Dense(2, name="head_dense")(keras.layers.GlobalAveragePooling2D(name="head_pool")(maps))
    )
    pixels = tf.constant(np.random.RandomState(0).normal(size=(3, 4, 4, 3)), tf.float32)
    heat = pictures.make_grad_cam(model, (4, 4))(pixels).numpy()
    values, kernel = keras.Model(image, maps)(pixels).numpy(), model.layers[-1].kernel.numpy()
    for index, best in enumerate(model(pixels).numpy().argmax(axis=1)):
        expected = np.maximum(values[index] @ kernel[:, best], 0)
        assert heat[index] == pytest.approx(expected / max(expected.max(), 1e-9), abs=1e-5)


def test_sampling_points_are_the_kernel_moved_by_the_offsets():
    image = keras.Input((6, 8, 3))
    layer = keras_cnns.layers.DeformableConv2D(2, 3, padding="same", name="block_conv")
    model = keras.Model(image, layer(image))
    pixels = tf.zeros((2, 6, 8, 3))
    plain, size = pictures.sampling_points(model, layer, pixels)
    assert size == (6, 8)
    assert plain[1].tolist() == [[row, column] for row in (2, 3, 4) for column in (3, 4, 5)]  # around (3, 4)
    layer.offset_bias.assign(np.tile([0.5, -1.25], 9))
    moved, _ = pictures.sampling_points(model, layer, pixels)
    assert (moved - plain)[0].tolist() == [[0.5, -1.25]] * 9
    _, gates, offsets = activations_of(model)(pixels)
    assert not gates
    assert offsets["block_conv"].shape == (2, 6, 8, 18)


def test_gates_are_found():
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, keras_cnns.squeeze_and_excitation(image, name="block_gate", ratio=1))
    _, gates, _ = activations_of(model)(tf.zeros((2, 4, 4, 3)))
    assert {name: tuple(gate.shape) for name, gate in gates.items()} == {"block_gate_sigmoid": (2, 1, 1, 3)}


def test_the_projector_has_features_labels_and_images(tiny):
    folder = tiny[0] / "tensorboard" / "validation"
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), projector.ProjectorConfig())
    (embedding,) = config.embeddings
    assert np.loadtxt(folder / embedding.tensor_path).shape == (16, 8)
    names = [DATA.class_names[label] for label in DATA.validation.labels()]
    assert (folder / embedding.metadata_path).read_text().split() == names
    assert tf.io.decode_png((folder / embedding.sprite.image_path).read_bytes()).shape == (4 * 32, 4 * 32, 3)


def test_a_name_of_a_class_is_a_line_of_the_projector(tmp_path):
    seen = pictures.Seen(2)
    seen.add(np.zeros((2, 2, 2, 3)), np.array([0, 1]), np.eye(2), np.zeros((2, 5)))
    pictures.write_projector(tmp_path / "new", seen, ("a\nb\tc", "d"))
    assert (tmp_path / "new" / "labels.tsv").read_text() == "a\\nb\\tc\nd\n"


def test_a_disk_that_refuses_event_files_is_a_lack_of_resources(tmp_path):
    """A file where a folder belongs; a full disk or a folder without permission come the same way."""
    (tmp_path / "file").touch()
    log = dashboards.Log(tmp_path / "file" / "tensorboard")
    seen = pictures.Seen(2)
    seen.add(np.zeros((1, 2, 2, 3)), np.array([0]), np.eye(2)[:1], np.zeros((1, 5)))
    for write in (
        lambda: log.scalars(1, {"loss": 1.0}),  # TensorFlow says that a precondition failed
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


def test_a_subclassed_model_has_its_curves_and_is_told_what_it_cannot_have(tmp_path):
    model = Subclassed()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    log = dashboards.Log(tmp_path / "tensorboard")
    images = np.zeros((8, 8, 8, 3))
    model.fit(images, np.zeros(8), batch_size=8, verbose=0, callbacks=[dashboards.Scalars(log, 8)])
    assert series(events(tmp_path, "train"), "by_step/learning_rate") == [(1, pytest.approx(0.01))]
    for board in (dashboards.Graph(log), dashboards.Pictures(log, None, ("a", "b"))):
        with pytest.raises(TypeError, match="functional model, and mine is a Subclassed"):
            board.set_model(model)


def test_skipped_steps_are_counted_on_after_a_resume(tmp_path):
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
        for step in range(2):  # no update: both are left out
            board.on_train_batch_begin(step)
            board.on_train_batch_end(step)
    assert [board.skipped for board in boards] == [2, 4]


def test_probes_take_probabilities_as_well_as_logits():
    logits = one_layer()
    image = keras.Input((8, 8, 3))
    probabilities = keras.Model(image, keras.layers.Softmax()(logits(image)))
    batch = tf.random.stateless_uniform((4, 8, 8, 3), (0, 0)), tf.one_hot([0, 1, 1, 0], 2)
    found = []
    for model, from_logits in ((logits, True), (probabilities, False)):
        model.compile("sgd")
        found.append(gradients_of(model, 0.3, from_logits)(*batch)[0].numpy())
    assert np.abs(found[0]).max() > 0
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-6)


def test_a_step_counts_what_is_trained():
    def counted(*trained):
        layers = [keras.layers.Dense(10, trainable=each) for each in trained]
        return trained_multiply_adds(keras_cnns.complexity(keras.Sequential([keras.Input((10,)), *layers])))

    assert counted(True, True) == 600  # forward, and backward by inputs and by weights
    assert counted(False, False, True) == 500  # frozen up to the head
    assert counted(True, False) == 500  # the gradient goes through what is frozen


@pytest.mark.parametrize(
    ("passed", "steps", "recorded"),
    [(0, 3, [3, 4, 5]), (0, 9, [0, 1, 2, 3, 4, 5]), (4, 3, [4, 5])],
    ids=["a short epoch", "a shorter one", "a resumed one"],
)
def test_a_short_epoch_is_profiled_too(monkeypatch, capsys, tmp_path, passed, steps, recorded):
    board = dashboards.Profile(dashboards.Log(tmp_path), steps)
    monkeypatch.setattr(tf.profiler.experimental, "start", lambda folder: None)
    monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: None)
    board.set_params({"steps": 6})
    seen = []
    for epoch in range(2):
        board.on_epoch_begin(epoch)
        for step in range(passed if epoch == 0 else 0, 6):
            board.on_train_batch_begin(step)
            seen += [step] if board.recording else []
            board.on_train_batch_end(step)
        board.on_epoch_end(epoch)
    assert seen == recorded
    said = f"records {len(recorded)} steps, not {steps}" if len(recorded) < steps else ""
    assert said in capsys.readouterr().out


def test_the_profile_lists_the_operations_of_its_steps(tiny, tmp_path):
    operations = {name: (calls, share) for name, calls, _, share in top_operations(tiny[0], 1000)}
    assert operations["Conv2DBackpropFilter"][0] == 2  # one convolution, two steps
    assert sum(share for _, share in operations.values()) == pytest.approx(1)
    with pytest.raises(UserError, match="profile_steps"):
        top_operations(tmp_path)


def test_hparams_have_a_row_with_the_best_accuracy(digits):
    reader = events(digits, "hparams")
    data = reader.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    started = plugin_data_pb2.HParamsPluginData.FromString(data).session_start_info
    recipe = Run.open(digits).recipe
    assert started.group_name == f"{recipe.name}-{recipe.digest}"
    row = started.hparams
    assert row["model"].string_value == "ResNetCIFAR"
    assert row["learning_rate"].number_value == 0.01
    # TensorBoard's columns are in the order of the alphabet.
    assert sorted(row)[:5] == ["batch_size", "epochs", "learning_rate", "model", "optimizer"]
    assert row["recipe/image_size"].number_value == 8
    metrics = json.loads((digits / "metrics.json").read_text())
    assert series(reader, "hparams/test_accuracy") == [(2, pytest.approx(metrics["test"]["accuracy"]))]
    best = max(logs["val_accuracy"] for logs in metrics["history"])
    assert series(reader, "hparams/best_validation_accuracy")[-1][1] == pytest.approx(best)
    assert series(reader, "hparams/parameters")[0][1] == parameters_of(digits)
    assert series(reader, "hparams/images_per_second")[-1][1] > 0
    assert series(events(digits, "test"), "accuracy/main") == [(2, pytest.approx(metrics["test"]["accuracy"]))]


def test_the_test_split_recipe_environment_and_command_are_there(digits):
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


def test_the_graph_is_grouped_by_stage_and_holds_together():
    model = keras_cnns.GoogLeNet(aux_heads=True, input_shape=(32, 32, 3), classes=10)
    graph = dashboards.stage_graph(model)
    names = {node.name for node in graph.node}
    assert len(names) == len(graph.node)
    stages = {name.split("/")[0] for name in names}
    assert {"conv1", "pool1", "inception3a", "inception5b", "head", "aux1", "aux2"} <= stages
    assert any(name.startswith("inception3a/3x3reduce/conv/") for name in names)
    assert "NoOp" not in {node.op for node in graph.node}
    for node in graph.node:
        for name in node.input:
            assert name.split(":")[0] in names  # and none is there for the order alone
    with tf.Graph().as_default():
        tf.graph_util.import_graph_def(graph, name="")  # TensorFlow accepts it
