"""Published ImageNet weights: a list of them, and their accuracy on images of ImageNet's classes."""

import json
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

import keras_cnns
from training.data import Split, check_split, class_names_of, prepare, tfds_builder, tfds_split
from training.data_record import first
from training.errors import DataError, UserError
from training.evaluation import Evaluation, make_evaluation
from training.finetuning import IMAGENET
from training.image_folder import list_images, part_folders
from training.intervals import proportion
from training.recipe import Recipe


def table(name=None):
    """Return a table of published weights as text, of one network or of all."""
    header = ("network", "arguments", "on the hub", "top-1", "top-5", "pixels", "crop", "mode", "licence", "pinned")
    rows = [
        (
            entry.network,
            json.dumps(entry.arguments) if entry.arguments else "",
            entry.repository,
            f"{entry.top1:.2f}",
            f"{entry.top5:.2f}",
            str(entry.image_size.size),
            f"{entry.image_size.crop:g} {entry.image_size.interpolation}",
            entry.preprocessing,
            entry.licence,
            "yes" if entry.sha256 else "no",
        )
        for entry in keras_cnns.list_weights(name)
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows))
    return "\n".join(lines)


@dataclass(frozen=True)
class Measured:
    """The accuracy of a network with ImageNet's classes on images of some of them.

    Attributes:
        evaluation: The Evaluation.
        published: The entry of `keras_cnns.list_weights`; None for the weights of a file.
        source: What was evaluated, as the end of a sentence.
    """

    evaluation: Evaluation
    published: tuple | None
    source: str

    def __str__(self):
        images = self.evaluation.images
        lines = [f"{images:,} images of {self.source}", f"{'':<7}{'measured':<28}published" if self.published else ""]
        for name, share, stated in (
            ("top-1", self.evaluation.accuracy, self.published and self.published.top1),
            ("top-5", self.evaluation.top5, self.published and self.published.top5),
        ):
            low, high = proportion(round(share * images), images)
            text = f"{share:.2%} ({low:.2%} to {high:.2%})"
            lines.append(f"{name:<7}{text:<28}{f'{stated:.2f}%' if stated else ''}".rstrip())
        return "\n".join(filter(None, lines))


def evaluate(model, weights, data, *, data_dir=None, download=False):
    """Measure the accuracy of a network with ImageNet's 1,000 classes on the images of a source.

    Of a folder with parts, or of a data set of TFDS, the validation images are used: ImageNet's test images have no
    labels. Classes are recognized by their WordNet synsets, such as n01440764, or by ImageNet's names; images of some
    of the classes will do.

    Args:
        model: Name of the network.
        weights: "imagenet", or the path of a safetensors file.
        data: folder:PATH, or the name of a data set of TFDS.
        data_dir: Folder of TFDS's data sets.
        download: Whether TFDS may download.

    Returns:
        A Measured.

    Raises:
        UserError: The network has no such weights, or the source does not exist.
        DataError: A class is not one of ImageNet's.
    """
    names, split = images_of(data, data_dir, download)
    indices = imagenet_indices(data, names)
    try:
        network = keras_cnns.builder(model)(weights=weights, classifier_activation=None)
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UserError(str(error)) from error
    if network.output_shape[-1] != len(keras_cnns.imagenet_classes()):
        raise UserError(f"{weights} has {network.output_shape[-1]} classes, and ImageNet has 1,000.")
    how = network.image_size
    recipe = Recipe(
        model=model,
        data=data,
        image_size=network.inputs[0].shape[1],
        preprocessing=network.preprocessing,
        center_crop=how.crop,
        interpolation=how.interpolation,
        jit=False,
    )
    evaluation = make_evaluation(network, len(keras_cnns.imagenet_classes()), recipe)(relabelled(split, indices))
    entries = [entry for entry in keras_cnns.list_weights(model) if not entry.arguments]
    source = f"{data}, {len(names)} classes, with {keras_cnns.builder(model).__name__} at {recipe.image_size} pixels"
    return Measured(evaluation, entries[0] if weights == IMAGENET else None, source)


def images_of(data, data_dir, download):
    """Return the class names of a source and the Split of its validation images, or of all that it has."""
    kind, _, path = data.partition(":")
    if kind == "folder":
        folders, _ = part_folders(path)
        part = next(part for part in ("validation", "test", "train") if part in folders)
        files = list_images(folders[part])
        labels = np.concatenate([np.full(len(found), label) for label, found in enumerate(files.values())])
        paths = [str(file) for found in files.values() for file in found]
        split = Split.from_arrays(np.array(paths), labels, tf.io.read_file, paths)
        check_split(split, part, len(files))
        return tuple(files), split
    builder = tfds_builder(data, data_dir)
    names = class_names_of(data, builder.info)
    prepare(builder, data, download)
    part = next(part for part in ("validation", "test", "train") if part in builder.info.splits)
    split = tfds_split(builder, part)
    check_split(split, part, len(names))
    return names, split


def imagenet_indices(data, names):
    """Return the index of each class among ImageNet's; raise a DataError if one is not among them."""
    classes = keras_cnns.imagenet_classes()
    indices = {synset: index for index, synset in enumerate(classes)}
    indices |= {name.lower(): index for index, name in enumerate(classes.values())}
    unknown = [name for name in names if name.lower().replace("_", " ") not in indices]
    if unknown:
        raise DataError(
            f"data={data!r}: {len(unknown)} of {len(names)} classes are not ImageNet's ({first(unknown)}). Name them "
            "by their synsets, such as n01440764, or by ImageNet's names, such as tench: "
            "keras_cnns.imagenet_classes() has both."
        )
    return np.array([indices[name.lower().replace("_", " ")] for name in names])


def relabelled(split, indices):
    """Return a split with ImageNet's labels."""
    table = tf.constant(indices, tf.int64)

    def load(order, first=0, every=1):
        return split.load(order, first, every).map(lambda image, label, example: (image, table[label], example))

    return Split(split.size, load, lambda: indices[split.labels()], split.files)
