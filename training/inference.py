"""What a trained run is used for: evaluate it, predict with it, export it."""

import contextlib
import dataclasses
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import tensorflow as tf

import keras_cnns
from training.data import first_broken_file, load_data
from training.data_record import DataRecord
from training.errors import DataError, ImageError, StateError
from training.evaluation import make_evaluation
from training.export import Description, write_saved_model
from training.finetuning import IMAGENET, initial_weights
from training.forward import probabilities
from training.image_file import FORMATS, decode_reason, read_header
from training.pixels import decode, resize
from training.run_folder import FIX

# TensorFlow's errors for an image that is broken, gone or not readable.
UNREADABLE = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.DataLossError,
)

PREDICTION_BATCH = 32  # images


def trained_network(run):
    """Return the network of a run for inference: logits of the main head, weights of the best epoch, images of any size
    that it accepts.

    It computes in float32 regardless of the run's precision, so that every machine gives the same result.

    Args:
        run: The run.

    Raises:
        StateError: The weights are missing, damaged or of another run.
    """
    run.check_best()
    keras.mixed_precision.set_global_policy("float32")
    with undrawn():
        network = run.recipe.build(len(run.class_names), for_inference=True)
    try:
        keras_cnns.load_weights(network, run.best)
    except ValueError as error:
        raise StateError(f"{error} {FIX}") from error
    return network


class Undrawn:
    """What Keras makes zeros of, in place of an initializer with any arguments."""

    @classmethod
    def from_config(cls, config):
        return keras.initializers.Zeros()


def undrawn():
    """Return a scope in which weights begin as zeros: drawing the random numbers of VGG16 takes nearly two seconds."""
    initializers = "he_normal", "glorot_uniform", "VarianceScaling", "ones"
    return keras.utils.custom_object_scope(dict.fromkeys(initializers, Undrawn))


def evaluate(run, split="test", *, data=None):
    """Evaluate the best epoch of a run on one of its splits.

    No image that the run was trained on is in another split, however the data have changed since.

    Args:
        run: The run.
        split: "train", "validation" or "test".
        data: The data set that was passed to `fit`; by default the one that the recipe names is loaded.

    Returns:
        The Evaluation.

    Raises:
        DataError: The data have other classes than the run, or an image is broken.
        StateError: A file of the run is missing, damaged or of another run.
    """
    network = trained_network(run)
    data = data or load_data(with_absolute_paths(run), record=DataRecord.read(run.folder))
    different = run.data_differences(data)
    if list(data.class_names) != run.class_names:
        raise DataError(f"{run.recipe.data} has other classes than the run ({different[0]}). Pass a run of these data.")
    if different:
        print(f"{run.recipe.data} has changed since the run began: {'; '.join(different)}", file=sys.stderr)
    with image_errors(data):
        evaluate_split = make_evaluation(network, len(data.class_names), run.recipe, run.temperature)
        return evaluate_split(getattr(data, split))


def with_absolute_paths(run):
    """Return the recipe of a run with relative paths of data completed, if the data are found from the directory in
    which the run was begun; otherwise they are searched from the current directory."""
    recipe, begun_in = run.recipe, Path(run.environment.get("directory", "."))
    kind, _, path = recipe.data.partition(":")
    if kind == "folder" and (begun_in / path).is_dir():
        recipe = dataclasses.replace(recipe, data=f"folder:{begun_in / path}")
    if recipe.data_dir and (begun_in / recipe.data_dir).is_dir():
        recipe = dataclasses.replace(recipe, data_dir=str(begun_in / recipe.data_dir))
    return recipe


@contextlib.contextmanager
def image_errors(data, folder=None):
    """Turn TensorFlow's errors in reading images into an error that names the broken file, if there is one.

    Args:
        data: The data set that is read.
        folder: A folder whose files are not images of the data set: errors about them are left as they are.
    """
    try:
        yield
    except UNREADABLE as error:
        if folder and str(folder) in str(error):
            raise
        raise data_error(data, error) from error


def data_error(data, error):
    """Return the error of the first broken file in a data set that TensorFlow could not read, or a general error."""
    for split in (data.train, data.validation, data.test):
        broken = first_broken_file(split)
        if broken:
            return broken
    return DataError(
        f"The images cannot be read: {decode_reason(error)}. `python -m training check-data` lists the broken ones."
    )


def predict(run, files, top=5):
    """Classify image files in batches, each image decoded and resized as in evaluation.

    Args:
        run: The run.
        files: Paths of images.
        top: Number of classes to return per image.

    Yields:
        For each file, in order, a list of (class name, probability), most probable first; or the DataError that says
        why the file could not be classified.
    """
    # Folded: with oneDNN, TensorFlow takes ten times as long for a convolution and a normalization of one image.
    network, size = keras_cnns.fold_batch_norm(trained_network(run)), run.recipe.image_size

    @tf.function(input_signature=[tf.TensorSpec((None, size, size, 3))], autograph=False)
    def classify(images):
        return probabilities(network, images, run.recipe.preprocessing, run.temperature)

    return classified(classify, run.class_names, run.recipe.resizing, files, top)


def classified(classify, class_names, resizing, files, top=5):
    """Do what `predict` does with a function from images to probabilities.

    Args:
        classify: Function (images (batch, size, size, 3), float32 RGB 0..255) -> probabilities (batch, classes).
        class_names: Name of each class.
        resizing: The arguments of `pixels.resize`.
        files: Paths of images.
        top: Number of classes to return per image.
    """

    def load(file):
        try:
            read_header(file)
            return resize(decode(tf.io.read_file(file)), *resizing)
        except DataError as error:
            return error
        except UNREADABLE as error:
            return ImageError(file, "broken", f"cannot be decoded: {decode_reason(error)}", f"Pass a {FORMATS} image.")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), PREDICTION_BATCH):
            images = list(pool.map(load, map(str, files[start : start + PREDICTION_BATCH])))
            good = [image for image in images if not isinstance(image, DataError)]
            classes = keras_cnns.decode_predictions(classify(tf.stack(good)), class_names, top) if good else ()
            answers = iter(classes)
            yield from (image if isinstance(image, DataError) else next(answers) for image in images)


def description_of(run):
    """Return the Description of a run's network."""
    record, recipe = DataRecord.read(run.folder), run.recipe
    origin = {
        "model": recipe.model,
        "recipe": run.digest,
        "data": record and record.fingerprint,
        "init": recipe.init,
        "licence": initial_weights(recipe).licence if recipe.init == IMAGENET else None,
    }
    return Description(
        run.class_names, keras_cnns.ImageSize(*recipe.resizing), recipe.preprocessing, run.temperature, origin
    )


def export_network(run, network):
    """Write the SavedModel of a run, whose folder is locked, from its trained network, replacing the old one."""
    temporary = run.export.with_name(f"{run.export.name}.tmp-{os.getpid()}")
    try:
        write_saved_model(keras_cnns.fold_batch_norm(network), description_of(run), temporary)
        run.replace_export(temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
