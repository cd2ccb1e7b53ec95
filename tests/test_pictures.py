"""The pictures of the dashboards: confusion matrix, mistakes, Grad-CAM, sampling points and the Projector."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from tests.dashboard_helpers import one_layer
from tests.small_networks import SMALL
from training.dashboards import pictures
from training.dashboards.probes import activations_of


def test_a_pass_over_a_split_counts_and_keeps_the_most_confident_mistakes():
    seen = pictures.SplitSummary(3)
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.9, 0.0, 0.1], [0.1, 0.1, 0.8]])
    seen.add(np.zeros((4, 2, 2, 3)), np.array([0, 2, 1, 2]), probabilities, np.zeros((4, 5)))
    seen.add(np.zeros((1, 2, 2, 3)), np.array([2]), np.array([[0.3, 0.6, 0.1]]), np.zeros((1, 5)))
    assert seen.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 2, 1]]
    assert [(label, probabilities.argmax()) for _, label, probabilities in seen.mistakes] == [(1, 0), (2, 1), (2, 1)]
    assert [probabilities.max() for *_, probabilities in seen.mistakes] == [0.9, 0.6, 0.5]


def test_a_network_without_mistakes_has_a_figure_that_says_so():
    seen = pictures.SplitSummary(2)
    seen.add(np.zeros((1, 2, 2, 3)), np.array([0]), np.array([[0.9, 0.1]]), np.zeros((1, 5)))
    figure = pictures.answers(seen, ("a", "b"))["most_confident_mistakes"]
    assert [text.get_text() for text in figure.texts] == ["no mistakes"]


@pytest.mark.parametrize("classes", [2, 10, 20, 50, 300])
def test_the_text_of_a_confusion_matrix_does_not_overlap(classes):
    names = [f"class {number} of a long name" for number in range(classes)]
    names[:2] = [r"of $\sqrt{", "on two\nlines"]  # no formula
    confusion = np.full((classes, classes), 1234)
    axes = pictures.confusion_figure(confusion, names).axes[0]
    axes.figure.canvas.draw()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    if classes <= 50:
        assert labels[:2] == [names[0], r"on two\nlines"] and max(map(len, labels)) <= 20
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert sum(box.count_overlaps(boxes) for box in boxes) == classes  # each only with itself
    cell = axes.get_window_extent().width / classes  # pixels
    assert len(axes.texts) == (classes**2 if classes <= 20 else 0)
    assert all(text.get_window_extent().width < cell for text in axes.texts[:1])
    assert cell >= (30 if classes <= 20 else 8 if classes <= 50 else 2)


LAST_MAPS = {  # of the small networks at 32 pixels, where the last map of most networks has one pixel
    "AlexNet": "conv3_relu",
    "VGG11": "conv5_1_relu",
    "GoogLeNet": "inception4d_out",
    "InceptionV1": "inception4d_out",
    "ResNet18": "stage3_block1_out",
    "ResNet50": "stage3_block1_out",  # stage4_block1_conv1 has several pixels, but a shortcut beside it
    "ResNetCIFAR": "stage3_block1_out",
    "DenseNet121": "transition3_conv",
    "DenseNetCIFAR": "final_relu",
    "SEResNet50": "stage3_block1_out",
    "SEInceptionV1": "inception4d_out",
    "EfficientNet": "stage5_block1_expand_swish",  # the last one before the stride
    "DeformableResNet50": "stage3_block1_out",
}


@pytest.mark.parametrize("name", LAST_MAPS)
def test_grad_cam_uses_the_last_computed_map(name):
    model = SMALL[name](input_shape=(32, 32, 3), classes=10)
    assert pictures.last_map(model, (32, 32)).name == LAST_MAPS[name]


def test_the_last_map_of_a_network_for_any_size_depends_on_the_image_size():
    model = SMALL["GoogLeNet"](input_shape=(None, None, 3), classes=10)
    assert pictures.last_map(model, (32, 32)).name == "inception4d_out"
    assert pictures.last_map(model, (64, 64)).name == "inception5a_out"


@pytest.mark.parametrize("ending", [None, "softmax", "layer"])
def test_grad_cam_is_hot_where_the_object_is(ending):
    """The score of one class is the mean of red, that of the other the mean of blue, after pooling with padding."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 1, name="block_conv")(image)
    x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name="pool_pad")(x)
    x = keras.layers.MaxPooling2D(3, name="pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="head_pool")(x)
    dense = keras.layers.Dense(2, activation=ending if ending == "softmax" else None, name="head_dense")
    outputs = dense(x)
    model = keras.Model(image, keras.layers.Softmax()(outputs) if ending == "layer" else outputs)
    dense.set_weights([np.array([[900.0, 0.0], [0.0, 0.0], [0.0, 900.0]]), np.zeros(2)])  # the network is certain
    model.get_layer("block_conv").set_weights([np.eye(3)[None, None], np.zeros(3)])
    pixels = np.zeros((2, 8, 8, 3), "float32")
    pixels[0, 5:, 5:, 0], pixels[1, :2, 6:, 2] = 1, 1  # red at the lower right, blue at the upper right
    heat = pictures.make_grad_cam(model, (8, 8))(tf.constant(pixels)).numpy()
    assert heat.tolist() == pixels.max(axis=-1).tolist()


def test_a_model_without_feature_maps_has_no_grad_cam():
    image = keras.Input((8, 8, 3))
    assert pictures.make_grad_cam(one_layer(), (8, 8)) is None
    inner = keras.Model(image, keras.layers.Conv2D(2, 3)(image))
    outer = keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(inner(image))))
    assert pictures.make_grad_cam(outer, (8, 8)) is None


def test_heat_is_visible_on_a_red_image():
    red = np.full((8, 8, 3), (255.0, 0.0, 0.0))
    shown = pictures.overlay(red, np.array([[1.0, 0.0], [0.0, 0.0]]))
    assert np.abs(shown[0, 0] - shown[-1, -1]).max() > 100


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


def test_sampling_points_are_those_of_the_kernel_plus_the_offsets():
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


def test_each_label_of_the_projector_is_one_line(tmp_path):
    seen = pictures.SplitSummary(2)
    seen.add(np.zeros((2, 2, 2, 3)), np.array([0, 1]), np.eye(2), np.zeros((2, 5)))
    pictures.write_projector(tmp_path / "new", seen, ("a\nb\tc", "d"))
    assert (tmp_path / "new" / "labels.tsv").read_text() == "a\\nb\\tc\nd\n"
