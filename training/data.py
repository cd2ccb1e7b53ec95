"""From the word after --data to batches of RGB images and labels.

Every source gives three splits. Training never sees the test split; the validation split, which chooses the best epoch,
comes out of what is not test. A source that has no test split but a validation split (as ImageNet) reports on that, and
validates on a tenth of its training images; one with neither gives up a fifth for the test first.

The order of the training images is a pure function of a seed.
"""

import collections
import difflib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from training.errors import DataError, UserError
from training.image_file import SUFFIXES, decode_reason, describe_conversions, read_header

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1  # the second of what the first leaves

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
    """A data set: its class names, its three splits, and a line on what silently becomes of its images, if anything."""

    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    conversions: str = ""


def load_data(recipe, *, download=False):
    """Finds the data of a recipe and checks its labels.

    Args:
        recipe: Says where the data are.
        download: Whether TFDS may download what is missing.

    Raises:
        UserError: There is no such source.
        DataError: The source has no images, or labels outside its classes.
    """
    kind, _, argument = recipe.data.partition(":")
    if kind == "folder":
        data = folder(argument)
    elif recipe.data == "synthetic":
        data = synthetic(recipe.image_size)
    else:
        data = tfds_data(recipe.data, recipe.data_dir, download)
    for name in ("train", "validation", "test"):
        check_split(getattr(data, name), name, len(data.class_names))
    if data.train.size < recipe.batch_size:
        raise UserError(
            f"batch_size={recipe.batch_size}, but {recipe.data} has only {data.train.size} training images: 0 steps "
            f"per epoch. Pass --batch_size {data.train.size} or less."
        )
    return data


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
    """Raises a DataError unless a split has images and every label is one of the classes."""
    if split.size == 0:
        raise DataError(f"The {name} split has no images. Give it more images, or another source.")
    labels = split.labels()
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise DataError(
            f"The {name} split has the label {wrong}, but there are {classes} classes, 0 to {classes - 1}. "
            "Mend the labels, or choose a split that has some."
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
    """Scales an image until it covers a square and cuts out the middle: (height, width, 3) -> (size, size, 3) float32.

    The aspect ratio stays; bilinear, with antialiasing where it shrinks.
    """
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
    scale = size / tf.minimum(height, width)
    target = tf.maximum(tf.cast(tf.round(tf.stack([height, width]) * scale), tf.int32), size)
    image = tf.image.resize(image, target, antialias=True)
    top, left = tf.unstack((target - size) // 2)
    return tf.ensure_shape(image[top : top + size, left : left + size], (size, size, 3))


def tfds_data(name, data_dir, download):
    """An image classification data set of TFDS; `digits` is our own and always at hand."""
    import tensorflow_datasets as tfds  # takes seconds, and folders do not need it

    if name == "digits":
        from training import digits  # noqa: F401, makes the builder known to TFDS

        download = True  # only prepares it: there is nothing to download
    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
        near = difflib.get_close_matches(name, ["digits", *tfds.list_builders(with_community_datasets=False)])
        raise UserError(
            f"data={name!r}: TFDS has no data set of this name. "
            + (f"Did you mean {', '.join(near)}?" if near else "Pass digits, a name of TFDS, folder:PATH or synthetic.")
        ) from error
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
    return Data(tuple(features[label].names), *map(split, split_specs(named)))


def split_specs(names):
    """Train, validation and test in TFDS's slicing language, for a data set with splits of these names."""
    if "test" in names and "validation" in names:
        return "train", "validation", "test"
    for test in ("test", "validation"):
        if test in names:
            return "train[10%:]", "train[:10%]", test
    return "train[28%:]", "train[20%:28%]", "train[:20%]"


def folder(path, check=read_header):
    """Images in folders: PATH/class/image.jpg, or PATH/train, val and test with class folders in each.

    Args:
        path: The folder.
        check: Function (file) -> its header, which raises for a file that cannot be trained on; None checks no file.
    """
    parts = {name: list_images(entry) for name, entry in part_folders(path).items()}
    classes = sorted(parts["train"])
    for name, images in parts.items():
        if sorted(images) != classes:
            raise DataError(
                f"{path}: the classes of {name} and train differ in {', '.join(sorted(set(images) ^ set(classes)))}. "
                "Every part needs the same class folders."
            )
    check_classes(f"folder:{path}", classes, part_folders(path)["train"])
    files = [file for images in parts.values() for files in images.values() for file in files]
    headers = map(check, files) if check else ()
    conversions = collections.Counter(name for header in headers for name in header.conversions)
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    for name, share in (("test", TEST_SHARE), ("validation", VALIDATION_SHARE)):
        if name not in parts:
            parts[name], parts["train"] = divide(parts["train"], share)
    splits = (folder_split(parts[name], classes) for name in ("train", "validation", "test"))
    return Data(tuple(classes), *splits, describe_conversions(conversions, len(files)))


def part_folders(path):
    """{"train", and "validation" and "test" if they are there: its folder}; a folder without parts is all "train"."""
    root = Path(path).expanduser()
    if not root.is_dir():
        parent = next(parent for parent in root.absolute().parents if parent.is_dir())
        raise UserError(f"data=folder:{path}: there is no such folder; {parent} is the last part that exists.")
    names = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
    parts = {part: root / name for name, part in names.items() if (root / name).is_dir()}
    return parts if "train" in parts else {"train": root}


def class_folders(root):
    """{class: its folder} of a folder with one folder a class; hidden ones are none."""
    return {entry.name: entry for entry in sorted(root.iterdir()) if entry.is_dir() and entry.name[0] != "."}


def list_images(root):
    """{class: its image files} of a folder with one folder a class."""
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
        raise DataError(f"{error.filename} cannot be read: {error.strerror}. Make it readable, or remove it.")

    found = (os.path.join(folder, name) for folder, _, names in os.walk(root, onerror=refuse) for name in names)
    return sorted(found)


def suffix(file):
    """The suffix of a path in small letters."""
    return os.path.splitext(file)[1].lower()


def hidden(file, root):
    """Whether a file below a folder, or a folder on the way to it, has a name that begins with a dot."""
    return any(part[0] == "." for part in Path(file).relative_to(root).parts)


def divide(images, share):
    """Splits {class: files} in two, each class in the same share, always in the same way."""
    first, second = {}, {}
    for name, files in images.items():
        if len(files) < 3:
            raise DataError(
                f"The class {name} has {len(files)} images, too few to split into train, validation and test. "
                "It needs 3 or more."
            )
        shuffled = np.random.RandomState(zlib.crc32(name.encode())).permutation(files).tolist()
        count = max(1, round(share * len(files)))
        first[name], second[name] = shuffled[:count], shuffled[count:]
    return first, second


def folder_split(images, classes):
    """A split of {class: files}; a label is the position of the class."""
    files = np.array([file for name in classes for file in images[name]])
    labels = np.array([label for label, name in enumerate(classes) for _ in images[name]], np.int64)

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
    """The first file of a split that does not decode, with the reason; None if all do, or if they are not files."""
    for file in split.files:
        try:
            decode(tf.io.read_file(file))
        except tf.errors.OpError as error:
            return file, decode_reason(error)
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

    return Data(tuple("0123456789"), split(10_000), split(1_000), split(1_000))
