"""From the word after --data to batches of RGB images and labels.

Every source gives three splits. Training never sees the test split; the validation split, which chooses the best epoch,
comes out of what is not test. A source that has no test split but a validation split (such as ImageNet) reports on
that, and validates on a tenth of its training images; one with neither gives up a fifth for the test first.

The order of the training images is a pure function of a seed.
"""

import collections
import difflib
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
from training.image_file import SUFFIXES, decode_reason, describe_conversions, identity, read_header

# What the folders of a data set's parts are called, in small letters.
PART_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}

CUSTOM = "custom"  # the source of images that are passed to `fit` in Python (training.datasets)

SHUFFLE_BUFFER = 10_000  # encoded images; a data set that fits is shuffled perfectly


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        size: Number of images.
        load: Function (order, first=0, every=1) -> tf.data.Dataset of (image, label, example): an image is encoded
            bytes or a uint8 tensor (height, width, 3), an example its position in the split, int64. They come in the
            order that a seed gives, or as they are for None; from the first-th on, each every-th.
        labels: Function () -> array of the labels, in no particular order.
        files: Paths of the images, where they are files.
    """

    size: int
    load: Callable[..., tf.data.Dataset]
    labels: Callable[[], np.ndarray]
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        class_names: The classes, in the order of the labels.
        train, validation, test: Its splits.
        conversions: A line on what becomes of images that are not RGB with 8 bits; empty if all are.
        notes: Lines on what of the source is not used.
        record: What a run keeps of it, to find the same images in the same parts again.
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

    A folder without train, val and test is divided, each class by itself, in an order that a hash of each image's own
    path gives. With the record of a run every image keeps its part, and a new one goes where its own hash says.
    Images that were trained on are never in validation or test, not even under other names.

    Args:
        recipe: Says where the data are.
        download: Whether TFDS may download what is missing.
        record: The DataRecord of the run that is resumed or evaluated.
        seen: Digests of the images that the initial weights were trained on, `trained_on` of their DataRecord.

    Raises:
        UserError: There is no such source.
        DataError: The source has no images, or labels outside its classes.
    """
    if recipe.data == CUSTOM:
        raise UserError(f"data={CUSTOM!r}: these images were passed to fit() in Python. Pass data= again there.")
    kind, _, argument = recipe.data.partition(":")
    if kind == "folder":
        data = folder(argument, record=record, seen=seen)
    else:
        data = (
            synthetic(recipe.image_size)
            if recipe.data == "synthetic"
            else tfds_data(recipe.data, recipe.data_dir, download)
        )
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
    """Raise a DataError unless there are two classes or more: with one, every network is right without learning.

    Args:
        source: The word after --data.
        names: The class names.
        root: The folder with one folder a class, if there is one.
    """
    if len(names) > 1:
        return
    fix = "Choose one that has several."
    if root:
        inner = list(class_folders(root / names[0]))
        fix = f"Put the images of every other class into a folder of its own, such as {root / 'other'}."
        if len(inner) > 1:
            fix = f"If {', '.join(inner[:5])} are the classes, pass folder:{root / names[0]}."
    raise DataError(f"data={source!r} has only one class, {names[0]!r}: there is nothing to tell apart. {fix}")


def check_split(split, name, classes):
    """Raise a DataError unless a split has images and every label is one of the classes."""
    if split.size == 0:
        raise DataError(f"The {name} split has no images. Give it more images, or another source.")
    labels = split.labels()
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise DataError(
            f"The {name} split has the label {wrong}, but there are {classes} classes, 0 to {classes - 1}. "
            "Correct the labels, or choose a split that has some."
        )


def decode(image):
    """Encoded bytes (JPEG, PNG, GIF, BMP, still WebP) to RGB (height, width, 3) uint8.

    Grey is repeated, transparency dropped, 16 bits are reduced to 8, and a GIF gives its first frame.
    """
    if image.dtype != tf.string:
        return image
    image = tf.io.decode_image(image, channels=3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3))


def resize(image, size):
    """Scale an image until it covers a square, and cut out the middle: (height, width, 3) -> (size, size, 3) float32.

    The aspect ratio stays; bilinear, with antialiasing where it shrinks.
    """
    target = tf.maximum(scaled_sides(image, size), size)
    return resize_window(image, target, (target - size) // 2, size)


def scaled_sides(image, shorter):
    """Return height and width, int64 (2,), of an image (height, width, 3) with its shorter side scaled to `shorter`."""
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    return tf.cast(tf.round(sides * (tf.cast(shorter, tf.float32) / tf.reduce_min(sides))), tf.int64)


def resize_window(image, target, corner, size):
    """Scale an image and cut a square out of the result, of which nothing else is computed.

    Of a long, thin image the result would have a hundred thousand times as many pixels as the square.

    Args:
        image: (height, width, 3), integers or floating point.
        target: Height and width of the whole result, int64 (2,); bilinear, with antialiasing where it shrinks.
        corner: Top and left of the square in it, int64 (2,).
        size: Side of the square.

    Returns:
        (size, size, 3), float32.
    """
    sides = tf.cast(tf.shape(image)[:2], tf.float64)
    scale, corner = tf.cast(target, tf.float64) / sides, tf.cast(corner, tf.float64)
    reach = tf.maximum(1 / scale, 1) + 1  # of the kernel, in pixels of the image
    begin = tf.cast(tf.maximum(corner / scale - reach, 0), tf.int32)
    end = tf.cast(tf.minimum((corner + size) / scale + reach, sides), tf.int32)
    resized = tf.raw_ops.ScaleAndTranslate(
        images=image[tf.newaxis, begin[0] : end[0], begin[1] : end[1]],
        size=[size, size],
        scale=tf.cast(scale, tf.float32),
        translation=tf.cast(tf.cast(begin, tf.float64) * scale - corner, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )
    return tf.ensure_shape(resized[0], (size, size, 3))


def tfds_data(name, data_dir, download):
    """An image classification data set of TFDS; `digits` is our own and always at hand."""
    import tensorflow_datasets as tfds  # takes seconds, and folders do not need it

    if name == "digits":
        from training import digits  # noqa: F401, makes the builder known to TFDS

        download = True  # only prepares it: there is nothing to download
    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except (ValueError, AssertionError, ImportError) as error:  # unknown name, configuration or version
        names, known = ["digits", *tfds.list_builders(with_community_datasets=False)], re.split("[/:]", name)[0]
        near = difflib.get_close_matches(name, names)
        fix = f"Did you mean {', '.join(near)}?" if near else "Pass digits, a name of TFDS, folder:PATH or synthetic."
        if os.path.isdir(os.path.expanduser(name)):
            fix = f"There is a folder of this name: pass --data folder:{name}."
        reason = "TFDS has no data set of this name."
        if known in names:
            reason = str(error).splitlines()[0].split('}": ')[-1]  # what follows the arguments of the call
            fix = f"Pass {known}, or one that is listed."
        raise UserError(f"data={name!r}: {reason} {fix}") from error
    features = builder.info.features
    image, label = builder.info.supervised_keys or (None, None)
    if not (
        {image, label} <= set(features)
        and isinstance(features[image], tfds.features.Image)
        and features[image].dtype == np.uint8
        and isinstance(features[label], tfds.features.ClassLabel)
    ):
        raise UserError(f"data={name!r} is not a data set of 8-bit images with one class each. Choose one that is.")
    check_classes(name, features[label].names)
    if not builder.is_prepared():
        if not download:
            raise UserError(
                f"data={name!r} is not in {builder.data_dir}. Add --download to download it there, or pass "
                "--data_dir with the folder that has it."
            )
        builder.download_and_prepare()

    def read(spec, decoders):
        return builder.as_dataset(split=spec, decoders=decoders, shuffle_files=False)

    def labels(spec):
        items = read(spec, tfds.decode.PartialDecoding({label: True})).map(lambda item: item[label])
        return np.fromiter(items.as_numpy_iterator(), np.int64)

    def split(spec):
        size = builder.info.splits[spec].num_examples

        def load(order, first=0, every=1):
            items = read(spec, {image: tfds.decode.SkipDecoding()}).enumerate()
            if order is not None:
                items = items.shuffle(min(size, SHUFFLE_BUFFER), seed=order, reshuffle_each_iteration=False)
            items = items.skip(first).shard(every, 0)
            return items.map(lambda example, item: (item[image], item[label], example))

        return Split(size, load, lambda: labels(spec))

    named = [name for name in builder.info.splits if name != "test" or labels("test[:1]").min() >= 0]
    if "train" not in named:
        raise UserError(
            f"data={name!r} has no split that is called train, only {', '.join(named)}: there is nothing to train on. "
            "Choose a data set that has one."
        )
    specs = split_specs(named)
    classes, splits = tuple(features[label].names), [split(spec) for spec in specs]
    record = record_of(name, classes, splits, builder.info.full_name, *specs)
    return Data(classes, *splits, record=record)


def record_of(source, class_names, splits, *version):
    """Return the DataRecord of a source without files; `version` is what tells it from others, beside its sizes."""
    sizes = dict(zip(PARTS, (split.size for split in splits), strict=True))
    return DataRecord(source, class_names, sizes, sha256(json.dumps([*version, sizes])))


def split_specs(names):
    """Train, validation and test in TFDS's slicing language, for a data set with splits of these names."""
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
        record, seen: As in `load_data`.
        check: Function (file) -> its header, which raises for a file that cannot be trained on; None checks no file.
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
    conversions, images = collections.Counter(), {name: [] for name in classes}
    for part, name in itertools.product(files, classes):
        for file in files[part][name]:
            if check:
                conversions.update(check(file).conversions)
            named = identity(file, strict=check is not None)
            images[name].append(ImageRecord(part, os.path.relpath(file, root), *named))
    divided, left_out = divide(images, [part for part in SHARES if part not in files], record, seen)
    labelled = [(label, image) for label, name in enumerate(classes) for image in divided[name]]
    parts = {part: [(label, image) for label, image in labelled if image.part == part] for part in PARTS}
    for part, found in parts.items():
        if not found:
            raise DataError(
                f"data={source!r}: no image is left for {part}: images that are trained on, or were, are not used "
                "there, and neither are copies of them. Add new images."
            )
    notes = [f"{source}: folders beside {', '.join(folders)}, ignored: {first(ignored)}"] if ignored else []
    if left_out:
        notes.append(
            f"{source}: left out of validation and test, since the network is trained on the same images: "
            f"{count_of(left_out)} ({first([image.path for image in left_out])})"
        )
    return Data(
        tuple(classes),
        **{part: folder_split(root, found) for part, found in parts.items()},
        conversions=describe_conversions(conversions, sum(map(len, images.values()))),
        notes=tuple(notes),
        record=DataRecord.of_folder(
            source,
            classes,
            [image for found in parts.values() for _, image in found],
            seen | record.trained_on if record else seen,
        ),
    )


def part_folders(path):
    """Return the folders of a folder's parts, and the names of folders beside them that are ignored.

    Returns:
        {"train", and "validation" and "test" if they are there: its folder}, [name]. A folder without parts is all
        "train".

    Raises:
        UserError: There is no such folder.
        DataError: One cannot tell whether its folders are parts or classes.
    """
    root = Path(path).expanduser()
    if not os.path.isdir(root):
        parent = next(parent for parent in root.absolute().parents if os.path.isdir(parent))
        where = "" if root.is_absolute() else f" in the working directory, {os.getcwd()}"
        raise UserError(f"data=folder:{path}: there is no such folder{where}; {parent} is the last part that exists.")
    folders = class_folders(root)
    parts = {
        part: entry for name, part in PART_NAMES.items() for entry in folders.values() if entry.name.lower() == name
    }
    others = [name for name in folders if name.lower() not in PART_NAMES]
    if len(parts) + len(others) < len(folders):
        named = ", ".join(name for name in folders if name not in others)
        raise DataError(f"{root} has {named}, of which two are the same part. Put the images of both into one of them.")
    if not parts:
        return {"train": root}, []
    classes = [name for name in others if find_images(folders[name])]
    if classes and not any(map(class_folders, parts.values())):
        return {"train": root}, []  # no part has class folders: a class has the name of a part
    if "train" in parts and (len(parts) > 1 or not classes):
        return parts, others
    named = ", ".join(entry.name for entry in parts.values())
    if not classes:
        raise DataError(f"{root} has {named}, but no folder train. Add one, with a folder for each class in it.")
    raise DataError(
        f"{root} has {first(classes)} beside {named}, which has folders of its own. If {named} is a class, give it "
        f"another name. If it is a part, put a folder for each class into {root / 'train'}, and all else elsewhere."
    )


def class_folders(root):
    """Return {class: its folder} for a folder with one folder per class; hidden folders are left out."""
    try:
        return {entry.name: entry for entry in sorted(root.iterdir()) if entry.is_dir() and entry.name[0] != "."}
    except OSError as error:
        raise unreadable(error) from error


def list_images(root):
    """Return {class: its image files} for a folder with one folder per class."""
    classes = class_folders(root)
    images = {name: find_images(entry) for name, entry in classes.items()}
    if not any(images.values()):
        seen = ", ".join(entry.name for entry in sorted(root.iterdir())[:5]) or "nothing"
        raise DataError(
            f"{root} has no images in class folders; it has {seen}. Put them as {root}/CLASS/IMAGE with the suffix "
            f"{', '.join(SUFFIXES)}."
        )
    for name, files in images.items():
        if not files:
            raise DataError(f"{classes[name]} has no images. Add some, or remove the folder.")
    return images


def find_images(root):
    """The files below a folder that have the suffix of an image and are not hidden, sorted."""
    return [file for file in find_files(root) if suffix(file) in SUFFIXES and not hidden(file, root)]


def find_files(root):
    """Every file below a folder, sorted; links to folders are not followed."""

    def refuse(error):
        raise unreadable(error)

    found = (os.path.join(folder, name) for folder, _, names in os.walk(root, onerror=refuse) for name in names)
    return sorted(found)


def unreadable(error):
    """Return the DataError for a folder that the system does not list."""
    return DataError(f"{error.filename} cannot be read: {error.strerror}. Make it readable, or remove it.")


def suffix(file):
    """The suffix of a path in small letters."""
    return os.path.splitext(file)[1].lower()


def hidden(file, root):
    """Whether a file below a folder, or a folder on the way to it, has a name that begins with a dot."""
    return any(part[0] == "." for part in Path(file).relative_to(root).parts)


def folder_split(root, images):
    """Return the split of a list of (label, ImageRecord) whose paths begin at `root`."""
    files = np.array([str(root / image.path) for _, image in images])
    labels = np.array([label for label, _ in images], np.int64)

    def load(order, first=0, every=1):
        chosen = np.arange(len(files)) if order is None else np.random.RandomState(order).permutation(len(files))
        chosen = chosen[first::every]
        return tf.data.Dataset.from_tensor_slices((files[chosen], labels[chosen], chosen)).map(
            lambda file, label, example: (tf.io.read_file(file), label, example),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    return Split(len(files), load, lambda: labels, tuple(files.tolist()))


def first_broken_file(split):
    """Return the ImageError of the first file of a split that cannot be read or decoded; None if there is none."""
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
    """Random pixels in ten classes, made as they are read: for measuring speed without a disk."""

    def split(count):
        def load(order, first=0, every=1):
            return tf.data.Dataset.range(first, count, every).map(
                lambda number: (
                    tf.cast(tf.random.stateless_uniform((size, size, 3), (number, 0), 0, 256, tf.int32), tf.uint8),
                    number % 10,
                    number,
                ),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )

        return Split(count, load, lambda: np.arange(count) % 10)

    classes, splits = tuple("0123456789"), (split(10_000), split(1_000), split(1_000))
    return Data(classes, *splits, record=record_of("synthetic", classes, splits, size))
