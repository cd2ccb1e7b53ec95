"""From the value of --data to batches of RGB images and labels.

Every source gives three splits. Training never sees the test split; the validation split, which decides on the best
epoch, is taken from the rest. A source without a test split but with a validation split (such as ImageNet) is tested on
that and validated on a tenth of its training images; a source with neither gives a fifth of its images to the test
split first.

The order of the training images is a pure function of a seed.
"""

import collections
import difflib
import importlib
import itertools
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from training.data_record import PARTS, SHARES, DataRecord, ImageRecord, count_of, divide, first, sha256
from training.errors import DataError, ImageError, UserError
from training.image_file import decode_reason, describe_conversions, identity, read_header
from training.image_folder import class_folders, list_images, part_folders
from training.pixels import decode

EMBEDDED = ("digits", "mnist5k")  # data sets that come with a package; the module of this name has the builder
CUSTOM = "custom"  # the source of images that are passed to `fit` in Python (training.datasets)

LABELS_AT_ONCE = 10_000
SHUFFLE_BUFFER = 10_000  # encoded images; a smaller data set is shuffled perfectly


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        size: Number of images.
        load: Function (order, first=0, every=1) -> tf.data.Dataset of (image, label, example): an image is encoded
            bytes or a uint8 tensor (height, width, 3); the example is its position in the split, int64. `order` is the
            seed of a permutation, or None for the order of the split. The data set starts at position `first` of that
            order and takes every `every`-th image.
        labels: Function () -> array of the labels, in no particular order.
        files: Paths of the images, if they are files.
    """

    size: int
    load: Callable[..., tf.data.Dataset]
    labels: Callable[[], np.ndarray]
    files: tuple[str, ...] = ()

    @classmethod
    def from_arrays(cls, images, labels, read=None, files=()):
        """Return a split of images in memory, or of images that a function reads.

        Args:
            images: Array (size, height, width, 3), uint8, or array (size,) of what `read` takes.
            labels: Array (size,) of integers.
            read: Function (item of `images`) -> image; None if the items are images.
            files: Paths of the images, if they are files.
        """

        def load(order, first=0, every=1):
            chosen = np.arange(len(labels)) if order is None else np.random.RandomState(order).permutation(len(labels))
            chosen = chosen[first::every]
            items = tf.data.Dataset.from_tensor_slices((images[chosen], labels[chosen], chosen))
            if read is None:
                return items
            return items.map(
                lambda item, label, example: (read(item), label, example),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )

        return cls(len(labels), load, lambda: labels, tuple(files))


@dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        class_names: The class names, in the order of the labels.
        train, validation, test: The splits.
        conversions: A line about images that are converted to RGB with 8 bits; empty if there are none.
        notes: Lines about what is not used of the source.
        record: The DataRecord by which a run finds the same images in the same parts again.
    """

    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    conversions: str = ""
    notes: tuple[str, ...] = ()
    record: DataRecord | None = None


def load_data(recipe, *, download=False, record=None, seen=frozenset()):
    """Find the data of a recipe and check the labels.

    A folder without train, val and test is divided, each class by itself, in the order of a hash of each image's own
    path. With the record of a run every image keeps its part, and a new image gets its part from its own hash.
    Images that were trained on never become validation or test images, even under other names.

    Args:
        recipe: The recipe; its `data` and `data_dir` say where the data are.
        download: Whether TFDS may download a missing data set.
        record: The DataRecord of the run that is resumed or evaluated.
        seen: Digests of the images that the initial weights were trained on, `trained_on` of their DataRecord.

    Raises:
        UserError: The source does not exist, or has fewer training images than a batch.
        DataError: The source has no images, or labels outside its classes.
    """
    if recipe.data == CUSTOM:
        raise UserError(f"data={CUSTOM!r}: these images were passed to fit() in Python. Pass data= again there.")
    kind, _, argument = recipe.data.partition(":")
    if kind == "folder":
        data = folder(argument, record=record, seen=seen)
    else:
        if recipe.data == "synthetic":
            data = synthetic(recipe.image_size)
        else:
            data = tfds_data(recipe.data, recipe.data_dir, download)
        data = replace(data, record=replace(data.record, trained_on=seen | (record.trained_on if record else seen)))
    check_splits(data, recipe.batch_size)
    return data


def check_splits(data, batch_size=1):
    """Raise an error unless every split has images with valid labels, and the training split fills a batch."""
    for name in PARTS:
        check_split(getattr(data, name), name, len(data.class_names))
    if data.train.size < batch_size:
        raise UserError(
            f"batch_size={batch_size}, but there are only {data.train.size} training images: 0 steps per epoch. Pass "
            f"--batch_size {data.train.size} or less."
        )


def check_classes(source, names, root=None):
    """Raise a DataError unless there are at least two classes: with one, every network is right without learning.

    Args:
        source: The value of --data.
        names: The class names.
        root: The folder with one folder per class, if there is one.
    """
    if len(names) > 1:
        return
    fix = "Choose a data set with several."
    if root:
        inner = list(class_folders(root / names[0]))
        fix = f"Put the images of every other class into a folder of its own, such as {root / 'other'}."
        if len(inner) > 1:
            fix = f"If {', '.join(inner[:5])} are the classes, pass folder:{root / names[0]}."
    raise DataError(f"data={source!r} has only one class, {names[0]!r}, so there is nothing to classify. {fix}")


def check_split(split, name, classes):
    """Raise a DataError unless a split has images and every label is one of the classes."""
    if split.size == 0:
        raise DataError(f"The {name} split has no images. Add images, or choose another source.")
    labels = split.labels()
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise DataError(
            f"The {name} split has the label {wrong}, but there are {classes} classes, 0 to {classes - 1}. "
            "Correct the labels, or choose a split that has labels."
        )


def tfds_data(name, data_dir, download):
    """Return an image classification data set of TFDS.

    Args:
        name: Its name; those of `EMBEDDED` need no download.
        data_dir: Folder of TFDS's data sets; None for its default.
        download: Whether a missing data set may be downloaded.

    Raises:
        UserError: The data set is unknown, is missing, has no train split, or is not for image classification.
    """
    builder = tfds_builder(name, data_dir)
    class_names = class_names_of(name, builder.info)
    check_classes(name, class_names)
    prepare(builder, name, download)
    # The images of a test split without labels have the label -1.
    named = [part for part in builder.info.splits if part != "test" or tfds_labels(builder, "test[:1]").min() >= 0]
    if "train" not in named:
        raise UserError(
            f"data={name!r} has no train split, only {', '.join(named)}, so there is nothing to train on. Choose a "
            "data set that has one."
        )
    specs = split_specs(named)
    splits = [tfds_split(builder, spec) for spec in specs]
    record = record_of(name, class_names, splits, builder.info.full_name, *specs)
    return Data(class_names, *splits, record=record)


def prepare(builder, name, download):
    """Prepare a data set of TFDS; raise a UserError if it is missing and may not be downloaded."""
    if not builder.is_prepared():
        if not (download or name in EMBEDDED):
            raise UserError(
                f"data={name!r} is not in {builder.data_dir}. Add --download to download it there, or pass "
                "--data_dir with the folder that has it."
            )
        builder.download_and_prepare()


def tfds_builder(name, data_dir):
    """Return TFDS's builder of a data set.

    Raises:
        UserError: There is none; the message names similar data sets.
    """
    import tensorflow_datasets as tfds  # takes seconds to import, and folders do not need it

    if name in EMBEDDED:
        importlib.import_module(f"training.{name}")  # registers the builder in TFDS
    try:
        return tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except (ValueError, AssertionError, ImportError) as error:  # unknown name, configuration or version
        names, known = [*EMBEDDED, *tfds.list_builders(with_community_datasets=False)], re.split("[/:]", name)[0]
        near = difflib.get_close_matches(name, names)
        sources = f"{', '.join(EMBEDDED)}, a name of TFDS, folder:PATH or synthetic"
        fix = f"Did you mean {', '.join(near)}?" if near else f"Pass {sources}."
        if os.path.isdir(os.path.expanduser(name)):
            fix = f"There is a folder of this name: pass --data folder:{name}."
        reason = "TFDS has no data set of this name."
        if known in names:
            reason = str(error).splitlines()[0].split('}": ')[-1]  # the text after the arguments of the call
            fix = f"Pass {known}, or one of the listed names."
        raise UserError(f"data={name!r}: {reason} {fix}") from error


def class_names_of(name, info):
    """Return the class names of a data set of TFDS.

    Raises:
        UserError: It has no 8-bit images with one class each.
    """
    import tensorflow_datasets as tfds

    features = info.features
    image, label = info.supervised_keys or (None, None)
    if not (
        {image, label} <= set(features)
        and isinstance(features[image], tfds.features.Image)
        and features[image].dtype == np.uint8
        and isinstance(features[label], tfds.features.ClassLabel)
    ):
        raise UserError(f"data={name!r} is not a data set of 8-bit images with one class each. Choose one that is.")
    return tuple(features[label].names)


def tfds_labels(builder, spec):
    """Return the labels of a part of a data set of TFDS; `spec` is the part in TFDS's slicing language."""
    import tensorflow_datasets as tfds

    _, label = builder.info.supervised_keys
    decoders = tfds.decode.PartialDecoding({label: True})
    items = builder.as_dataset(split=spec, decoders=decoders, shuffle_files=False).map(lambda item: item[label])
    return read_labels(items)


def read_labels(labels):
    """Return the labels of a pipeline as an array; batches of them are read many times faster than one by one."""
    batches = labels.map(lambda label: tf.cast(label, tf.int64)).batch(LABELS_AT_ONCE)
    return np.concatenate([np.zeros(0, np.int64), *batches.as_numpy_iterator()])


def in_order(items, size, order, first, every):
    """Return (position, item) for the items of a pipeline that `Split.load` chooses, in its order; `size` of them."""
    examples = items.enumerate()
    if order is not None:
        examples = examples.shuffle(max(1, min(size, SHUFFLE_BUFFER)), seed=order, reshuffle_each_iteration=False)
    return examples.skip(first).shard(every, 0)


def tfds_split(builder, spec):
    """Return the Split of a part of a data set of TFDS; `spec` is the part in TFDS's slicing language."""
    import tensorflow_datasets as tfds

    image, label = builder.info.supervised_keys
    size = builder.info.splits[spec].num_examples

    def load(order, first=0, every=1):
        decoders = {image: tfds.decode.SkipDecoding()}
        items = builder.as_dataset(split=spec, decoders=decoders, shuffle_files=False)
        examples = in_order(items, size, order, first, every)
        return examples.map(lambda example, item: (item[image], item[label], example))

    return Split(size, load, lambda: tfds_labels(builder, spec))


def record_of(source, class_names, splits, *version):
    """Return the DataRecord of a source without files; `version` and the sizes tell its versions apart."""
    sizes = dict(zip(PARTS, (split.size for split in splits), strict=True))
    return DataRecord(source, class_names, sizes, sha256(json.dumps([*version, sizes])))


def split_specs(names):
    """Return train, validation and test in TFDS's slicing language, for a data set with splits of these names."""
    if "test" in names and "validation" in names:
        return "train", "validation", "test"
    for test in ("test", "validation"):
        if test in names:
            return "train[10%:]", "train[:10%]", test
    return "train[28%:]", "train[20%:28%]", "train[:20%]"


def folder(path, *, record=None, seen=frozenset(), check=read_header):
    """Return the images in folders: PATH/class/image.jpg, or PATH/train, val and test with class folders in each.

    Args:
        path: The folder.
        record, seen: See `load_data`.
        check: Function (file) -> its Header, which raises an ImageError for a file that cannot be trained on; None to
            check no file.

    Raises:
        UserError: The folder does not exist.
        DataError: The folder has no images in class folders, or too few of a class, or an image is broken.
    """
    source, root = f"folder:{path}", Path(path).expanduser()
    folders, ignored = part_folders(path)
    files = {part: list_images(entry) for part, entry in folders.items()}
    classes = sorted(files["train"])
    for name, images in files.items():
        if sorted(images) != classes:
            raise DataError(
                f"{path}: the classes of {name} and train differ in {', '.join(sorted(set(images) ^ set(classes)))}. "
                "Every part needs the same class folders."
            )
    check_classes(source, classes, folders["train"])
    if "test" not in files and "validation" in files:
        files["test"] = files.pop("validation")
    images, conversions = image_records(root, files, check)
    divided, left_out = divide(images, [part for part in SHARES if part not in files], record, seen)
    labelled = [(label, image) for label, name in enumerate(classes) for image in divided[name]]
    parts = {part: [(label, image) for label, image in labelled if image.part == part] for part in PARTS}
    for part, found in parts.items():
        if not found:
            raise DataError(
                f"data={source!r}: no image is left for {part}, since images that are or were trained on, and copies "
                "of them, are not used there. Add new images."
            )
    notes = [f"{source}: folders beside {', '.join(folders)}, ignored: {first(ignored)}"] if ignored else []
    if left_out:
        notes.append(
            f"{source}: left out of validation and test, since the network is trained on the same images: "
            f"{count_of(left_out)} ({first([image.path for image in left_out])})"
        )
    records = [image for found in parts.values() for _, image in found]
    return Data(
        tuple(classes),
        **{part: folder_split(root, found) for part, found in parts.items()},
        conversions=describe_conversions(conversions, sum(map(len, images.values()))),
        notes=tuple(notes),
        record=DataRecord.of_folder(source, classes, records, seen | record.trained_on if record else seen),
    )


def image_records(root, files, check):
    """Return {class: ImageRecords} and counts of the conversions, for files given as {part: {class: files}}."""
    images, conversions = collections.defaultdict(list), collections.Counter()
    for part, name in itertools.product(files, files["train"]):
        for file in files[part][name]:
            if check:
                conversions.update(check(file).conversions)
            size, digest = identity(file, strict=check is not None)
            images[name].append(ImageRecord(part, os.path.relpath(file, root), size, digest))
    return images, conversions


def folder_split(root, images):
    """Return the Split of a list of (label, ImageRecord) whose paths are relative to `root`."""
    files = np.array([str(root / image.path) for _, image in images])
    labels = np.array([label for label, _ in images], np.int64)
    return Split.from_arrays(files, labels, tf.io.read_file, files.tolist())


def first_broken_file(split):
    """Return the ImageError for the first file of a split that cannot be read or decoded; None if all can."""
    for file in split.files:
        try:
            read_header(file)
            decode(tf.io.read_file(file))
        except ImageError as error:
            return error
        except tf.errors.OpError as error:
            return ImageError(file, "broken", f"cannot be decoded: {decode_reason(error)}")
    return None


def synthetic(size):
    """Return random pixels in ten classes, which are computed as they are read: for measuring speed without a disk."""

    def draw(number):
        return tf.cast(tf.random.stateless_uniform((size, size, 3), (number, 0), 0, 256, tf.int32), tf.uint8)

    def split(count):
        return Split.from_arrays(np.arange(count), np.arange(count) % 10, draw)

    classes, splits = tuple("0123456789"), (split(10_000), split(1_000), split(1_000))
    return Data(classes, *splits, record=record_of("synthetic", classes, splits, size))
