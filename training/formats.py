"""Exports for the runtimes: TensorFlow's SavedModel, ONNX, LiteRT and OpenVINO.

A file is written beside the old one, loaded by its own runtime and compared with the network on test images; only then
it takes its place. It takes images of the network's size, float32 RGB 0..255 (batch, height, width, 3), and returns
probabilities (batch, classes). Class names, the way to bring images to their size, and where the network comes from
travel in the format's own metadata.
"""

import contextlib
import dataclasses
import io
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_sample_images

import keras_cnns
from training.batches import evaluation_batches
from training.data import load_data
from training.data_record import DataRecord
from training.errors import DataError, StateError, UserError
from training.export import KEY, Description, extra_file, on_pixels, write_saved_model
from training.files import locked
from training.inference import description_of, trained_network, with_absolute_paths
from training.run_folder import EXPORTS
from training.runtimes import FEW_COPIES, FLOAT32, RUNTIMES, SUFFIXES, check_format, format_of

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
        text = f"{self.file}: {self.size / 2**20:.2f} MiB; on {self.images} images its probabilities differ from "
        text += f"the network's by at most {self.difference:.1e}"
        if self.accuracy:
            text += "; test accuracy {:.2%} before and {:.2%} after quantization".format(*self.accuracy)
        return text


def write(run, kind, *, quantize=None, fold=True):
    """Write an export of a run, and return what was Written.

    The SavedModel is the run's folder `export`, the others are files in its folder `exports`. They are compared on test
    images or, where the data are not on this machine, on two photographs of scikit-learn.

    Args:
        run: The run.
        kind: "savedmodel", or a key of RUNTIMES.
        quantize: "float16" or "int8", of LiteRT: the weights, or weights and activations with ranges measured on
            training images.
        fold: Whether batch normalizations become part of the layers before them.

    Raises:
        UserError: A package is missing, or the runtime cannot take a layer of the network.
        StateError: What the runtime computes is not what the network computes.
    """
    check_format(kind, quantize)
    network, recipe, description = trained_network(run), run.recipe, description_of(run)
    try:
        data = load_data(with_absolute_paths(run), record=DataRecord.read(run.folder))
        images = first_images(data.test, recipe, COMPARED)
    except (UserError, DataError):  # the data are not on this machine
        if quantize:
            raise
        images = photographs(description.image_size)
    ranges = first_images(data.train, recipe, REPRESENTATIVE) if quantize == "int8" else None
    with locked(run.folder), tempfile.TemporaryDirectory(dir=run.folder, prefix=f"{EXPORTS}.tmp-") as temporary:
        file = Path(temporary) / name_of(kind, quantize)
        models = write_checked(network, description, file, kind, images, quantize, ranges, fold)
        written = judged(*models, images, quantize)
        if quantize:
            written = dataclasses.replace(written, accuracy=accuracies(models, data.test, recipe))
        if kind == "savedmodel":
            run.replace_export(file)
            return dataclasses.replace(written, file=run.export)
        (run.folder / EXPORTS).mkdir(exist_ok=True)
        for part in Path(temporary).iterdir():
            shutil.move(part, run.folder / EXPORTS / part.name)
    return dataclasses.replace(written, file=run.folder / EXPORTS / file.name)


def export(network, path, *, class_names=None, images=None, quantize=None, representative=None, fold=True):
    """Write an export of any network of keras_cnns, without a run, and return what was Written.

    Images are prepared as the weights need that were loaded into the network, see `keras_cnns.preprocess_input`.

    Args:
        network: A network with its classifier, with weights; auxiliary heads are left out.
        path: What to write: a file that ends with .onnx, .tflite or .xml, OpenVINO's; otherwise the folder of a
            SavedModel.
        class_names: Name of each class; by default ImageNet's if there are 1,000, otherwise their numbers.
        images: Images (batch, size, size, 3), RGB 0..255, on which the export is compared with the network; by default
            two photographs of scikit-learn.
        quantize, fold: As for `write`.
        representative: Training images (batch, size, size, 3), RGB 0..255, which `quantize="int8"` needs.

    Raises:
        UserError: An argument is wrong, a package is missing, or the runtime cannot take a layer of the network.
        StateError: What the runtime computes is not what the network computes.

    Example:
        >>> from training import formats
        >>> model = keras_cnns.ResNet18(weights=None)
        >>> formats.export(model, "resnet18").images  # compared
        2
    """
    path, network = Path(path), keras_cnns.main_output(network)
    kind = format_of(path) or "savedmodel"
    check_format(kind, quantize)
    classes = network.output_shape[-1]
    if len(network.output_shape) != 2:
        raise UserError(f"{network.name} has no classifier. Build it with include_top=True.")
    if kind == "savedmodel" and path.exists() and format_of(path) != kind:
        raise UserError(f"{path} exists and is not a SavedModel. Pass another path.")
    if quantize == "int8" and representative is None:
        raise UserError("quantize='int8' needs representative=, some training images.")
    if class_names is None:
        imagenet = keras_cnns.imagenet_classes()
        class_names = imagenet.values() if len(imagenet) == classes else map(str, range(classes))
    class_names = list(class_names)
    if len(class_names) != classes:
        raise UserError(f"{network.name} has {classes} outputs, and class_names {len(class_names)} names.")
    image_size = keras_cnns.ImageSize.of(network)
    preprocessing = getattr(network, "preprocessing", "imagenet")
    description = Description(class_names, image_size, preprocessing, origin={"model": network.name})
    images = photographs(image_size) if images is None else np.asarray(images, "float32")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.tmp-") as temporary:
        file = Path(temporary) / path.name
        models = write_checked(network, description, file, kind, images, quantize, representative, fold)
        written = judged(*models, images, quantize)
        if kind == "savedmodel" and path.exists():
            shutil.rmtree(path)
        for part in Path(temporary).iterdir():
            shutil.move(part, path.parent / part.name)
    return dataclasses.replace(written, file=path)


def name_of(kind, quantize=None):
    """Return the name of the file, or of the SavedModel's folder, that `write` writes."""
    name = "export" if kind == "savedmodel" else RUNTIMES[kind][0]
    return name.replace(".", f"_{quantize}.") if quantize else name


def write_checked(network, description, file, kind, images, quantize, ranges, fold):
    """Write an export and let its own runtime load it and answer.

    Returns:
        The network from pixels to probabilities, as it was, and its Export.

    Raises:
        UserError: The converter or the runtime cannot take the network.
    """
    try:
        folded = keras_cnns.fold_batch_norm(network) if fold else network
        WRITERS[kind](folded, description, file, quantize, ranges)
        export = Export(file)
        export(images)
    except (OSError, tf.errors.OpError):  # a full disk, for example
        raise
    except Exception as error:  # each converter and runtime has its own
        raise UserError(
            f"{kind} cannot take {network.name} ({refused_layers(network)}): {first_line(error)}. Export another "
            "format."
        ) from error
    return on_pixels(network, description), export


def judged(model, export, images, quantize):
    """Return what was Written, with its difference from the network; raise a StateError if it is too large."""
    difference = float(np.abs(export(images) - np.asarray(model(images, training=False))).max())
    if quantize is None and not difference <= TOLERANCE:
        raise StateError(
            f"{export.file.name} computes other probabilities than the network: they differ by {difference:.1e}."
        )
    parts = [part for part in export.file.parent.rglob("*") if part.is_file()]
    return Written(export.file, sum(part.stat().st_size for part in parts), difference, len(images))


def first_line(error):
    """Return the beginning of the message of a converter or a runtime, which can be pages long."""
    return (str(error) or type(error).__name__).strip().splitlines()[0][:300].rstrip(".")


def refused_layers(network):
    """Return the names of the layers that not every runtime takes, for an error."""
    special = (keras_cnns.layers.DeformableConv2D, keras_cnns.layers.LocalResponseNormalization)
    names = [layer.name for layer in network.layers if isinstance(layer, special)]
    return f"its special layers are {', '.join(names[:3])}" if names else "it has no special layers"


def photographs(image_size):
    """Return the two photographs of scikit-learn, (2, size, size, 3), for an ImageSize."""
    photos = [keras_cnns.resize_and_crop(photo, image_size) for photo in load_sample_images().images]
    return np.stack([np.asarray(photo) for photo in photos])


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


def write_onnx(network, description, file, quantize=None, ranges=None):
    import onnx

    for name, value in FEW_COPIES.items():
        os.environ.setdefault(name, value)
    model = on_pixels(network, description)
    signature = [tf.TensorSpec(model.inputs[0].shape, tf.float32, name="images")]
    model.export(str(file), format="onnx", verbose=False, input_signature=signature)
    graph = onnx.load(file)
    onnx.helper.set_model_props(graph, {KEY: description.to_json()})
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, file)


def write_openvino(network, description, file, quantize=None, ranges=None):
    import openvino

    source = file.with_suffix(".onnx")
    write_onnx(network, description, source)
    graph = openvino.convert_model(source)
    source.unlink()
    graph.set_rt_info(description.to_json(), KEY)
    openvino.save_model(graph, file, compress_to_fp16=False)


def write_litert(network, description, file, quantize=None, ranges=None):
    converter = tf.lite.TFLiteConverter.from_keras_model(on_pixels(network, description, fixed_size=True))
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
        archive.writestr(f"{KEY}.json", description.to_json())


def write_tensorflow(network, description, file, quantize=None, ranges=None):
    write_saved_model(network, description, file)


# {format: function (network, description, file, quantize, ranges)}
WRITERS = {"savedmodel": write_tensorflow, "onnx": write_onnx, "openvino": write_openvino, "litert": write_litert}


class Export:
    """An exported network, in its own runtime: images, float32 RGB 0..255 (batch, height, width, 3) -> probabilities.

    Args:
        file: A file that `write` or `export` has written, or the folder of a SavedModel.

    Raises:
        UserError: It is not one, or its runtime is not installed.
    """

    def __init__(self, file):
        self.file, kind = Path(file), format_of(file)
        if kind is None:
            raise UserError(
                f"{file} is not an export: it is no SavedModel, and does not end with {' or '.join(SUFFIXES)}."
            )
        check_format(kind)
        try:
            self.run, text = OPENERS[kind](str(file))
            self.description = Description.from_json(text)
        except Exception as error:  # each runtime has its own
            raise UserError(
                f"{file} is not a whole export of this program ({first_line(error)}). Write it again."
            ) from error

    def __call__(self, images):
        return self.run(np.asarray(images, "float32"))


def open_savedmodel(folder):
    serve = tf.saved_model.load(folder).signatures["serving_default"]
    return lambda images: serve(images=tf.constant(images))["probabilities"].numpy(), extra_file(folder).read_text()


def open_onnx(file):
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0], session.get_modelmeta().custom_metadata_map[KEY]


def open_openvino(file):
    import openvino

    model = openvino.Core().read_model(file)
    compiled = openvino.compile_model(model, "CPU", FLOAT32)
    return lambda images: next(iter(compiled(images).values())), model.get_rt_info(KEY).astype(str)


def open_litert(file):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(file, num_threads=os.cpu_count())
    (image,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images):
        interpreter.resize_tensor_input(image["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(image["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(answer["index"])

    with zipfile.ZipFile(file) as archive:
        return run, archive.read(f"{KEY}.json").decode()


OPENERS = {"savedmodel": open_savedmodel, "onnx": open_onnx, "openvino": open_openvino, "litert": open_litert}
