"""The SavedModel, loaded by a process without this project."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tests.small_networks import build, every_network
from training import export, formats
from training.inference import predict, trained_network, undrawn
from training.run_folder import Run

CLIENT = """
import json, re, sys
import numpy as np, tensorflow as tf

def memory(name):  # of this process, in MB
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024 / 1e6

model = tf.saved_model.load(sys.argv[1])
sent = np.load(sys.argv[2], allow_pickle=False)
pixels = model.signatures["serving_default"](images=tf.constant(sent["pixels"]))
small = model.signatures["serving_default"](images=tf.constant(sent["pixels"][:1, :, :48]))
encoded = [open(file, "rb").read() for file in sys.argv[3:]]
serve = model.signatures["serve_bytes"]
served = serve(images=tf.constant(encoded))
refusals = []
for broken in ([], [0], [2], [1, 2]):
    try:
        serve(images=tf.constant([b"" if place in broken else image for place, image in enumerate(encoded)]))
    except tf.errors.InvalidArgumentError as error:
        refusals.append(error.message)
for channels in (1, 4):
    try:
        model.signatures["serving_default"](images=tf.zeros((1, 40, 56, channels)))
    except tf.errors.InvalidArgumentError as error:
        refusals.append(error.message)
bomb = tf.io.encode_png(tf.zeros((8000, 8000, 1), tf.uint8))
before = memory("VmHWM")
serve(images=bomb[tf.newaxis])
grown = memory("VmHWM") - before
assert not {"keras_cnns", "training"} & set(sys.modules), "the client must not need them"
print(json.dumps({
    "pixels": pixels["probabilities"].numpy().tolist(),
    "small": small["probabilities"].numpy().tolist(),
    "served": served["probabilities"].numpy().tolist(),
    "top": [[name.decode() for name in row] for row in served["top_classes"].numpy()],
    "top_probabilities": served["top_probabilities"].numpy().tolist(),
    "refusals": refusals,
    "grown": grown,
}))
"""


@pytest.fixture(scope="module")
def answers(digits_run, tmp_path_factory):
    """Return the files and pixels that the exported model was given, and its answers."""
    folder = tmp_path_factory.mktemp("client")
    files = []
    for index, (suffix, encode) in enumerate(
        [("png", tf.io.encode_png), ("jpg", tf.io.encode_jpeg), ("png", tf.io.encode_png)]
    ):
        grey = np.round(load_digits().images[index] * 255 / 16).astype(np.uint8)[..., None]
        grey = np.kron(grey, np.ones((9, 9 + index, 1), np.uint8))  # sizes of their own, none of them square but one
        files.append(str(folder / f"{index}.{suffix}"))
        tf.io.write_file(files[-1], encode(grey))
    pixels = np.random.RandomState(0).uniform(0, 255, (2, 40, 56, 3)).astype("float32")
    np.savez(folder / "sent.npz", pixels=pixels)
    command = [sys.executable, "-c", CLIENT, str(digits_run / "export"), str(folder / "sent.npz"), *files]
    environment = {**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return files, pixels, json.loads(done.stdout)


@every_network
def test_nothing_is_drawn_for_weights_that_are_read(name):
    with undrawn():
        model = build(name)
    assert model.weights and not any(np.any(variable) for variable in model.weights)
    keras.models.clone_model(model)  # outside of the scope


def test_float_pixels_give_the_networks_probabilities_at_any_size(digits_run, answers):
    _, pixels, answer = answers
    network = trained_network(Run.open(digits_run))

    def expected(images):
        normalised = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        logits = network(normalised.astype("float32"), training=False)
        return keras.ops.softmax(logits / Run.open(digits_run).temperature).numpy()

    np.testing.assert_allclose(answer["pixels"], expected(pixels), atol=1e-5)
    np.testing.assert_allclose(answer["small"], expected(pixels[:1, :, :48]), atol=1e-5)


def test_encoded_images_give_names_and_probabilities(digits_run, answers):
    files, _, answer = answers
    predictions = list(predict(Run.open(digits_run), files))
    assert np.shape(answer["served"]) == (3, 10)
    np.testing.assert_allclose(np.sum(answer["served"], axis=1), 1, atol=1e-5)
    assert answer["top"] == [[name for name, _ in row] for row in predictions]
    expected = [[probability for _, probability in row] for row in predictions]
    np.testing.assert_allclose(answer["top_probabilities"], expected, atol=1e-5)
    for probabilities, names in zip(answer["served"], answer["top"], strict=True):
        assert [int(name) for name in names] == np.argsort(probabilities)[::-1][:5].tolist()


def test_a_broken_image_is_named_by_its_position_and_a_wrong_number_of_channels_is_refused(answers):
    *decoding, one_channel, four_channels = answers[-1]["refusals"]
    assert len(decoding) == 3
    for message, place in zip(decoding, (0, 2, 1), strict=True):
        assert f"images[{place}] cannot be decoded: it is not a JPEG, PNG, GIF, BMP or WebP image, or" in message
    assert "[1,40,56,1] is not compatible with expected shape [?,?,?,3]" in one_channel
    assert "[1,40,56,4] is not compatible with expected shape [?,?,?,3]" in four_channels


def test_the_largest_image_takes_less_than_500_mb(answers):
    assert answers[-1]["grown"] < 500


def exported_nodes(run):
    """Return the operations of the functions of a run's SavedModel."""
    model = SavedModel.FromString((run / "export" / "saved_model.pb").read_bytes())
    return [node for graph in model.meta_graphs for part in graph.graph_def.library.function for node in part.node_def]


def test_the_export_has_the_main_networks_weights_once(digits_run):
    """As constants, and the kernels of dense layers as variables."""
    tensors = [node.attr["value"].tensor for node in exported_nodes(digits_run) if node.op == "Const"]
    constants = [tf.make_ndarray(tensor) for tensor in tensors if tensor.dtype == tf.float32]
    saved = tf.train.list_variables(str(digits_run / "export" / "variables" / "variables"))
    network = trained_network(Run.open(digits_run))
    dense = [weight for weight in network.weights if len(weight.shape) == 2]
    assert sorted(tuple(shape) for _, shape in saved if shape) == sorted(tuple(weight.shape) for weight in dense)
    for weight in network.weights:
        assert sum(np.array_equal(weight, constant) for constant in constants) == (len(weight.shape) != 2), weight.path
    assert network.count_params() < 6_000_000


def test_many_weights_stay_variables(monkeypatch, tmp_path):
    """TensorFlow holds many copies of constants."""
    monkeypatch.setattr(export, "CONSTANTS", 1000)
    assert formats.export(build("ResNetCIFAR"), tmp_path / "export").difference < 1e-6
    shapes = [shape for _, shape in tf.train.list_variables(str(tmp_path / "export/variables/variables"))]
    assert sum(len(shape) == 4 for shape in shapes) == 1 + 3 * 2


def test_a_layer_that_was_only_counted_stays_without_values(tmp_path):
    initialized = []

    def initializer(shape, dtype=None):
        initialized.append(shape)
        return keras.ops.zeros(shape, dtype)

    with keras.StatelessScope(initialize_variables=False):
        keras.layers.Dense(3, kernel_initializer=initializer).build((None, 2))
    formats.export(build("ResNetCIFAR"), tmp_path / "export")
    assert not initialized


def test_onednn_meets_no_kernel_that_is_slow_for_one_image(photo_run):
    """A convolution with a merged batch normalization, or with filters that it arranges anew for each batch."""
    nodes = exported_nodes(photo_run)
    operations, kinds = {node.name: node for node in nodes}, {node.op for node in nodes}
    assert "FusedBatchNormV3" not in kinds
    filters = [node.input[1].partition(":")[0] for node in nodes if node.op == "Conv2D"]
    assert filters and {operations[name].op for name in filters} == {"Const"}
