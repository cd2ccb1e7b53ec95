"""Exports for other runtimes than TensorFlow: ONNX, LiteRT and OpenVINO.

A file is written beside the old one, loaded by its own runtime and compared with the network on test images; only then
it takes its place. It takes images of the network's size, float32 RGB 0..255 (batch, height, width, 3), and returns
probabilities (batch, classes). Class names, the way to bring images to their size, and where the network comes from
travel in the format's own metadata.
"""

import contextlib
import io
import json
import platform
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_cnns
from training.batches import evaluation_batches
from training.data import load_data
from training.data_record import DataRecord
from training.errors import StateError, UserError
from training.files import locked
from training.inference import trained_network, with_absolute_paths
from training.run_folder import EXPORTS
from training.runtimes import RUNTIMES, check_format, format_of

KEY = "keras_cnns"  # of the metadata
COMPARED = 20  # test images
REPRESENTATIVE = 100  # training images that int8's ranges are measured on
TOLERANCE = 1e-4  # of a probability, in float32


@dataclass(frozen=True)
class Written:
    """An export that its own runtime has loaded.

    Attributes:
        file: Its path.
        size: Bytes, of all its files.
        difference: The largest difference of a probability on the compared images.
        images: How many were compared.
        accuracy: Accuracy on the test images: of the network, and of the export. None if not quantized.
    """

    file: Path
    size: int
    difference: float
    images: int
    accuracy: tuple[float, float] | None = None

    def __str__(self):
        text = f"{self.file}: {self.size / 2**20:.2f} MiB; on {self.images} test images its probabilities differ from "
        text += f"the network's by at most {self.difference:.1e}"
        if self.accuracy:
            text += "; test accuracy {:.2%} before and {:.2%} after quantization".format(*self.accuracy)
        return text


def write(run, kind, *, quantize=None, fold=True):
    """Write an export of a run into its folder `exports`, and return what was Written.

    Args:
        run: The run.
        kind: A key of RUNTIMES.
        quantize: "float16" or "int8", of LiteRT: the weights, or weights and activations with ranges measured on
            training images.
        fold: Whether batch normalizations become part of the layers before them.

    Raises:
        UserError: A package is missing, or the runtime cannot take a layer of the network.
        StateError: What the runtime computes is not what the network computes.
    """
    check_format(kind, quantize)
    network = trained_network(run)
    network = keras_cnns.fold_batch_norm(network) if fold else network
    data = load_data(with_absolute_paths(run), record=DataRecord.read(run.folder))
    model = on_pixels(network, run.recipe, fixed_size=kind == "litert")
    name = RUNTIMES[kind][0] if quantize is None else RUNTIMES[kind][0].replace(".", f"_{quantize}.")
    images = first_images(data.test, run.recipe, COMPARED)
    with locked(run.folder), tempfile.TemporaryDirectory(dir=run.folder, prefix=f"{EXPORTS}.tmp-") as temporary:
        file = Path(temporary) / name
        ranges = first_images(data.train, run.recipe, REPRESENTATIVE) if quantize == "int8" else None
        try:
            WRITERS[kind](model, file, metadata_of(run), quantize, ranges)
            export = Export(file)
            found = export(images)
        except Exception as error:  # each converter and runtime has its own
            raise UserError(
                f"{kind} cannot take {run.recipe.model} ({refused_layers(network)}): {first_line(error)}. Export "
                "another format."
            ) from error
        difference = float(np.abs(found - np.asarray(model(images, training=False))).max())
        if quantize is None and not difference <= TOLERANCE:
            raise StateError(f"{kind} computes other probabilities than the network: they differ by {difference:.1e}.")
        accuracy = accuracies((model, export), data.test, run.recipe) if quantize else None
        size = sum(part.stat().st_size for part in Path(temporary).iterdir())
        (run.folder / EXPORTS).mkdir(exist_ok=True)
        for part in Path(temporary).iterdir():
            shutil.move(part, run.folder / EXPORTS / part.name)
    return Written(run.folder / EXPORTS / name, size, difference, len(images), accuracy)


def first_line(error):
    """Return the beginning of the message of a converter or a runtime, which can be pages long."""
    return (str(error) or type(error).__name__).strip().splitlines()[0][:300].rstrip(".")


def refused_layers(network):
    """Return the names of the layers that not every runtime takes, for an error."""
    special = (keras_cnns.layers.DeformableConv2D, keras_cnns.layers.LocalResponseNormalization)
    names = [layer.name for layer in network.layers if isinstance(layer, special)]
    return f"its special layers are {', '.join(names[:3])}" if names else "it has no special layers"


def on_pixels(network, recipe, fixed_size=False):
    """Return a model from pixels to probabilities: the normalization, a network whose output is logits, and softmax."""
    shape = (recipe.image_size,) * 2 if fixed_size else network.inputs[0].shape[1:3]
    images = keras.Input((*shape, 3), name="images")
    x = keras_cnns.preprocess_input(images, recipe.preprocessing)
    return keras.Model(images, keras.layers.Softmax(name="probabilities")(network(x)), name=network.name)


def first_images(split, recipe, count):
    """Return the first images of a split, (count, size, size, 3), as evaluation prepares them."""
    images = evaluation_batches(split, recipe).unbatch().take(count)
    return np.stack([image for image, _ in images.as_numpy_iterator()])


def accuracies(models, split, recipe):
    """Return the accuracy of each of some models on a split, whose images are read once."""
    right = np.zeros(len(models))
    for images, labels in evaluation_batches(split, recipe).as_numpy_iterator():
        right += [np.sum(np.asarray(model(images)).argmax(-1) == labels) for model in models]
    return tuple(map(float, right / split.size))


def metadata_of(run):
    """Return what travels in an export, as JSON text."""
    size, crop, interpolation = run.recipe.resizing
    record = DataRecord.read(run.folder)
    return json.dumps(
        {
            "classes": run.class_names,
            "image_size": size,
            "center_crop": crop,
            "interpolation": interpolation,
            "model": run.recipe.model,
            "recipe": run.digest,
            "data": record and record.fingerprint,
            "init": run.recipe.init,
            "versions": {"keras": keras.__version__, "tensorflow": tf.__version__, "python": platform.python_version()},
        }
    )


def write_onnx(model, file, metadata, quantize=None, ranges=None):
    import onnx

    signature = [tf.TensorSpec(model.inputs[0].shape, tf.float32, name="images")]
    model.export(str(file), format="onnx", verbose=False, input_signature=signature)
    graph = onnx.load(file)
    onnx.helper.set_model_props(graph, {KEY: metadata})
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, file)


def write_openvino(model, file, metadata, quantize=None, ranges=None):
    import openvino

    source = file.with_suffix(".onnx")
    write_onnx(model, source, metadata)
    graph = openvino.convert_model(source)
    source.unlink()
    graph.set_rt_info(metadata, KEY)
    openvino.save_model(graph, file, compress_to_fp16=False)


def write_litert(model, file, metadata, quantize=None, ranges=None):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        converter.representative_dataset = lambda: ([image[None]] for image in ranges)
    with contextlib.redirect_stdout(io.StringIO()):  # Keras prints the signatures of an intermediate SavedModel
        file.write_bytes(converter.convert())
    # As LiteRT's own tools do: a ZIP archive after the end of the model, which its readers do not look at.
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(f"{KEY}.json", metadata)


WRITERS = {"onnx": write_onnx, "openvino": write_openvino, "litert": write_litert}


class Export:
    """An exported network, in its own runtime: images, float32 RGB 0..255 (batch, height, width, 3) -> probabilities.

    Args:
        file: A file that `write` has written.

    Raises:
        UserError: It is not one, or its runtime is not installed.
    """

    def __init__(self, file):
        kind = format_of(file)
        if kind is None:
            raise UserError(
                f"{file} is not an export: it is not called {' or '.join(n for n, _ in RUNTIMES.values())}."
            )
        check_format(kind)
        try:
            self.run, text = OPENERS[kind](str(file))
            self.metadata = json.loads(text)
        except Exception as error:  # each runtime has its own
            raise UserError(
                f"{file} is not a whole export of this program ({first_line(error)}). Write it again."
            ) from error

    def __call__(self, images):
        return self.run(np.asarray(images, "float32"))

    @property
    def class_names(self):
        """The class names, in the order of the probabilities."""
        return self.metadata["classes"]

    @property
    def resizing(self):
        """How images are brought to their size, the arguments of `pixels.resize`."""
        return tuple(self.metadata[key] for key in ("image_size", "center_crop", "interpolation"))


def open_onnx(file):
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0], session.get_modelmeta().custom_metadata_map[KEY]


def open_openvino(file):
    import openvino

    model = openvino.Core().read_model(file)
    compiled = openvino.compile_model(model, "CPU")
    return lambda images: next(iter(compiled(images).values())), model.get_rt_info(KEY).astype(str)


def open_litert(file):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(file)
    (image,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images):
        interpreter.resize_tensor_input(image["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(image["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(answer["index"])

    with zipfile.ZipFile(file) as archive:
        return run, archive.read(f"{KEY}.json").decode()


OPENERS = {"onnx": open_onnx, "openvino": open_openvino, "litert": open_litert}
