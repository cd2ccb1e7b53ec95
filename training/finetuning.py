"""Fine-tuning: initialize a network with the weights of another run or file, and freeze levels of it.

A level is the first part of a layer's name: `stage3` for `stage3_block1_conv2_conv`.
"""

import json
import sys
from pathlib import Path

import keras
import safetensors

import keras_cnns
from training.data_record import DataRecord, first
from training.errors import UserError
from training.files import file_digest
from training.run_folder import BEST_FILE, Run, holds_run

IMAGENET = "imagenet"  # the `init` that stands for published weights
IN_BUILDER = 'weights="imagenet": '  # how errors of the Python API begin


def initial_weights(recipe):
    """Return what the `init` of a recipe names: its path, or the published weights of its network; None if nothing.

    Raises:
        UserError: There are no published weights of the network, or not with its arguments.
    """
    if recipe.init != IMAGENET:
        return recipe.init
    try:
        return keras_cnns.find_weights(recipe.model, **recipe.model_args)
    except ValueError as error:
        raise UserError(f"init={IMAGENET!r}: {str(error).removeprefix(IN_BUILDER)}") from error


def is_published(init):
    """Return whether initial weights are published ones, rather than a path."""
    return not isinstance(init, str | Path)


def weights_file(init):
    """Return the safetensors file of a run folder, or the file itself; raise a UserError if it is missing."""
    path = Path(init)
    file = path / BEST_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"init={init!r}: there is no {file}. Pass a folder of a run that finished an epoch, a safetensors file, or "
            f"{IMAGENET}."
        )
    return file


def read_header(init):
    """Return the metadata, {str: str}, and the shapes, {name: shape}, of initial weights; of published ones, the shape
    of their classifier alone."""
    if is_published(init):
        return init.metadata, {"head_dense/kernel": (None, len(keras_cnns.imagenet_classes()))}
    try:
        with safetensors.safe_open(weights_file(init), framework="numpy") as file:
            names = file.keys()
            return file.metadata() or {}, {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except safetensors.SafetensorError as error:
        raise UserError(
            f"init={init!r}: not a whole safetensors file ({error}). Pass another file; `python -m training convert` "
            "makes one from torch weights."
        ) from error


def initial_preprocessing(init):
    """Return the preprocessing mode in the metadata of initial weights."""
    mode, modes = read_header(init)[0].get("preprocessing", "imagenet"), keras_cnns.preprocessing_modes()
    if mode not in modes:
        raise UserError(
            f"init={init!r}: the file asks for the preprocessing mode {mode!r}, which does not exist. Pass "
            f"--preprocessing with one of {', '.join(modes)}."
        )
    return mode


def initial_image_size(init):
    """Return the ImageSize in the metadata of initial weights."""
    try:
        return keras_cnns.ImageSize.from_metadata(read_header(init)[0])
    except ValueError as error:
        raise UserError(
            f"init={init!r}: the image size in its metadata is not valid ({error}). Pass --center_crop and "
            "--interpolation."
        ) from error


def load(model, init, keep):
    """Load initial weights into a network, but for variables whose paths begin with `keep`; return their source."""
    if not is_published(init):
        file = weights_file(init)
        keras_cnns.load_weights(model, file, keep=keep)
        return {"file": str(file.absolute()), "sha256": file_digest(file)}
    try:
        digest = init.load(model, keep)
    except (OSError, ImportError) as error:
        raise UserError(f"init={IMAGENET!r}: {str(error).removeprefix(IN_BUILDER)}") from error
    return {"file": f"{init.repository} on the Hugging Face hub", "sha256": digest}


def trained_on(init):
    """Return the digests of the images that the weights in a run folder or a file were trained on.

    They are from the run's record of its data next to the weights; without one the set is empty.
    """
    if is_published(init):
        return frozenset()
    file = weights_file(init)
    folder = file.parent
    record, in_run = DataRecord.read(folder), holds_run(folder)
    if record and in_run and file.name == BEST_FILE:
        Run.open(folder).check_best()  # otherwise the record may belong to other weights
    if record is None and in_run:
        print(
            f"init={init!r}: an earlier version trained this run and did not record its training images. "
            "Some of them may be among the validation and test images.",
            file=sys.stderr,
        )
    return record.trained_on if record else frozenset()


def class_names_of(metadata, init):
    """Return the class names in the metadata of a weight file, or None."""
    try:
        names = json.loads(metadata.get("classes", "null"))
    except (ValueError, RecursionError):
        names = 0
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(
            f"init={init!r}: the classes in the file's metadata are {metadata['classes'][:50]!r}, not a list of names. "
            "Pass another file, or write this one again with keras_cnns.save_weights."
        )
    return names


def initialize(model, init, class_names=None):
    """Load the weights in a run folder or a file into a network: all of them, or none if they do not fit.

    Every name and shape must fit, with two exceptions, which keep their random initialization: the last dense layer of
    a head (main or auxiliary) for other classes, and a head that is not in the file. Classes differ if their number
    does, or if the file names them, as files of a run do, and these names are not `class_names` in the same order.

    Args:
        model: A network from `Recipe.build`.
        init: A run folder, a safetensors file, or published weights, of `keras_cnns.list_weights`.
        class_names: Names of the model's classes, in the order of its outputs; None to compare their number only.

    Returns:
        What init.json records: the file, its SHA-256, and a sentence that says what was loaded and what starts at
        random.

    Raises:
        UserError: The file is missing, cannot be downloaded, or belongs to another network; the model has not changed.
    """
    metadata, shapes = read_header(init)
    names = class_names_of(metadata, init)
    renamed = names and class_names and names != list(class_names)
    classes = {variable.path: variable.shape[-1] for variable in model.weights if variable.path.endswith("/kernel")}
    random = {}  # {prefix of variable paths: why they start at random}
    for level in filter(keras_cnns.is_head, levels_of(model)):
        last = f"{level}_dense"
        here, there = classes[f"{last}/kernel"], shapes.get(f"{last}/kernel", (None,))[-1]
        if not any(name.startswith(f"{level}_") for name in shapes):
            random[f"{level}_"] = f"{level} starts at random: it is not in the file"
        elif there not in (here, None):
            random[f"{last}/"] = f"{last} starts at random: it had {there} classes and now has {here}"
        elif renamed:
            random[f"{last}/"] = (
                f"{last} starts at random: its classes were {first(names, most=5)} and now are "
                f"{first(class_names, most=5)}"
            )
    try:
        source = load(model, init, tuple(random))
    except ValueError as error:
        fact = str(error).rpartition(". ")[0]  # the last sentence is advice for users of the Python API
        name = IMAGENET if is_published(init) else init
        raise UserError(f"init={name!r}: {fact}. {_fix(init)}") from error
    done = ["all weights were loaded except for these" if random else "all weights were loaded", *random.values()]
    return source | {"done": f"{source['file']}: {'; '.join(done)}"}


def _fix(init):
    """Return the advice that says which options fit the weights."""
    if is_published(init) or not holds_run(init):
        return "Pass the --model, --model_args and --image_size of these weights, or pass other weights."
    recipe = Run.open(init).recipe
    return (
        f"That run has --model {recipe.model} --model_args '{json.dumps(recipe.model_args)}' --image_size "
        f"{recipe.image_size}: pass the same, or pass another run."
    )


def levels_of(model):
    """Return the levels of a network in the order of computation, with its heads last."""
    names = [layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    return sorted(dict.fromkeys(map(keras_cnns.level_of, names)), key=keras_cnns.is_head)


def freeze(model, levels):
    """Freeze levels of a network: their weights are not trained.

    Frozen batch normalizations use their moving statistics and do not update them.

    Args:
        model: A network from `Recipe.build`, not yet compiled.
        levels: A level, such as "stem"; an inclusive range, such as "stem..stage3"; or "backbone", all but the heads.

    Returns:
        A sentence that says what is frozen.

    Raises:
        UserError: The level does not exist, nothing would be frozen, or nothing would be left to train; the model has
            not changed.
    """
    names = levels_of(model)
    known = f"The levels of {model.name} are {', '.join(names)}; backbone means all but the heads."
    if levels == "backbone":
        chosen = [name for name in names if not keras_cnns.is_head(name)]
    else:
        first, dots, last = levels.partition("..")
        ends = (first, last) if dots else (first, first)
        for name in ends:
            if name not in names:
                raise UserError(f"freeze={levels!r}: there is no level {name!r}. {known}")
        start, stop = map(names.index, ends)
        if start > stop:
            raise UserError(f"freeze={levels!r}: {first} comes after {last}. Pass {last}..{first}.")
        chosen = names[start : stop + 1]
    frozen = [layer for layer in model.layers if keras_cnns.level_of(layer.name) in chosen]
    count = sum(layer.count_params() for layer in frozen)
    if count == 0:
        raise UserError(f"freeze={levels!r}: that level has no weights to freeze. {known}")
    if count == model.count_params():
        raise UserError(f"freeze={levels!r}: nothing would be left to train. {known}")
    for layer in frozen:
        layer.trainable = False
    return f"frozen: {', '.join(chosen)}; {count:,} of {model.count_params():,} weights"
