"""Training that starts from another network's weights: what is taken over, what is frozen.

A level is the first word of a layer's name, `stage3` of `stage3_block1_conv2_conv`.
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

PREPROCESSING = ("imagenet", "tf", "caffe", "lite")


def weights_file(init):
    """The safetensors file of a run folder, or the file itself."""
    path = Path(init)
    file = path / BEST_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"init={init!r}: there is no {file}. Pass a folder of a run that finished an epoch, or a safetensors file."
        )
    return file


def read_header(init):
    """The metadata, {str: str}, and the shapes, {name: shape}, of the weights in a run folder or a file."""
    try:
        with safetensors.safe_open(weights_file(init), framework="numpy") as file:
            names = file.keys()
            return file.metadata() or {}, {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except safetensors.SafetensorError as error:
        raise UserError(
            f"init={init!r}: not a whole safetensors file ({error}). Pass another one; `python -m training convert` "
            "makes one of torch's weights."
        ) from error


def initial_preprocessing(init):
    """How pixels were normalised for the weights in a run folder or a file, as the file says."""
    mode = read_header(init)[0].get("preprocessing", "imagenet")
    if mode not in PREPROCESSING:
        raise UserError(
            f"init={init!r}: the file asks for the preprocessing {mode!r}, which there is not. Pass --preprocessing "
            f"with one of {', '.join(PREPROCESSING)}."
        )
    return mode


def origin(init):
    """Return where the weights are from, as JSON values: the file's path and its SHA-256."""
    file = weights_file(init)
    return {"file": str(file.absolute()), "sha256": file_digest(file)}


def trained_on(init):
    """Return the digests of the images that the weights in a run folder or a file were trained on, as far as the record
    of a run beside them says."""
    file = weights_file(init)
    folder = file.parent
    record, in_run = DataRecord.read(folder), holds_run(folder)
    if record and in_run and file.name == BEST_FILE:
        Run.open(folder).check_best()  # else the record may be of other weights
    if record is None and in_run:
        print(
            f"init={init!r}: an earlier version trained this run, and which images it was trained on is not known. "
            "Some of them may be among the validation and test images.",
            file=sys.stderr,
        )
    return record.trained_on if record else frozenset()


def class_names_of(metadata, init):
    """Return the names of the classes that a weight file is for; None if it does not say."""
    try:
        names = json.loads(metadata.get("classes", "null"))
    except (ValueError, RecursionError):
        names = 0
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(
            f"init={init!r}: the classes in the file's metadata are no list of names but "
            f"{metadata['classes'][:50]!r}. Pass another file, or write this one again with keras_cnns.save_weights."
        )
    return names


def initialize(model, init, class_names=None):
    """Gives a network the weights in a run folder or a file; all of them or none.

    Every name and shape must fit, with two exceptions that start at random: the last dense layer of a head (main or
    auxiliary) that is of other classes, and a head that the file does not have at all. Classes are others if their
    number is, or if the file says their names, as those of a run do, and these are not `class_names` in that order.

    Args:
        model: A network from `Recipe.build`.
        init: A run folder or a safetensors file.
        class_names: Names of the model's classes, in the order of its outputs; None to compare their number only.

    Returns:
        A sentence on what was taken over and what starts at random.

    Raises:
        UserError: There is no such file, or it is of another network; nothing has changed then.
    """
    metadata, shapes = read_header(init)
    names = class_names_of(metadata, init)
    others = names and class_names and names != list(class_names)
    classes = {variable.path: variable.shape[-1] for variable in model.weights if variable.path.endswith("/kernel")}
    random = {}  # the beginning of variables' names: why they start at random
    for level in filter(in_head, levels_of(model)):
        last = f"{level}_dense"
        here, there = classes[f"{last}/kernel"], shapes.get(f"{last}/kernel", (None,))[-1]
        if not any(name.startswith(f"{level}_") for name in shapes):
            random[f"{level}_"] = f"{level} starts at random: it is not in the file"
        elif there not in (here, None):
            random[f"{last}/"] = f"{last} starts at random: it had {there} classes and has {here} now"
        elif others:
            random[f"{last}/"] = (
                f"{last} starts at random: its classes were {first(names, most=5)} and are "
                f"{first(class_names, most=5)} now"
            )
    try:
        keras_cnns.load_weights(model, weights_file(init), keep=tuple(random))
    except ValueError as error:
        fact = str(error).rpartition(". ")[0]  # its last sentence is for those who build networks themselves
        raise UserError(f"init={init!r}: {fact}. {_fix(init)}") from error
    return f"{weights_file(init)}: " + "; ".join(
        ["all weights were taken over but these" if random else "all weights were taken over", *random.values()]
    )


def _fix(init):
    """What to pass for the network that the weights are of."""
    if not holds_run(init):
        return "Pass the --model, --model_args and --image_size that these weights were trained with, or other weights."
    recipe = Run.open(init).recipe
    return (
        f"That run has --model {recipe.model} --model_args '{json.dumps(recipe.model_args)}' --image_size "
        f"{recipe.image_size}: pass the same, or another run."
    )


def in_head(name):
    """Whether a level, layer or variable is part of the main head or of an auxiliary one; the rest is the backbone."""
    return name.partition("_")[0] == "head" or name.startswith("aux")


def levels_of(model):
    """The levels of a network in the order of computation, its heads last."""
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    return sorted(dict.fromkeys(_level(layer) for layer in layers), key=in_head)


def _level(layer):
    return layer.name.partition("_")[0]


def freeze(model, levels):
    """Keeps levels of a network as they are: no weight of theirs is trained, and their batch normalizations use their
    moving statistics and leave them alone.

    Args:
        model: A network from `Recipe.build`, not compiled yet.
        levels: A level, as "stem"; a range with both its ends, as "stem..stage3"; or "backbone", all but the heads.

    Returns:
        A sentence on what is frozen.

    Raises:
        UserError: There is no such level, or nothing would be frozen, or nothing trained; nothing has changed then.
    """
    names = levels_of(model)
    known = f"The levels of {model.name} are {', '.join(names)}; backbone is all but the heads."
    if levels == "backbone":
        chosen = [name for name in names if not in_head(name)]
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
    frozen = [layer for layer in model.layers if _level(layer) in chosen]
    count = sum(layer.count_params() for layer in frozen)
    if count == 0:
        raise UserError(f"freeze={levels!r}: that level has no weights to freeze. {known}")
    if count == model.count_params():
        raise UserError(f"freeze={levels!r}: nothing would be left to train. {known}")
    for layer in frozen:
        layer.trainable = False
    return f"frozen: {', '.join(chosen)}; {count:,} of {model.count_params():,} weights"
