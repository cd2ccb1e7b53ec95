"""Reads every image of a source, decodes it as training does, and says what is wrong, with every path.

Fit itself reads the headers only, and stops at the first file that is bad; this finds all of them.
"""

import collections
import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from training.data import (
    check_split,
    class_folders,
    decode,
    find_files,
    folder,
    hidden,
    part_folders,
    suffix,
    tfds_data,
)
from training.errors import DataError, ImageError, UserError
from training.image_file import SUFFIXES, decode_reason, describe_conversions, parse_header, read_header, sniff

READ_AT_ONCE = 1000  # images whose findings wait to be counted; of their pixels only one image a thread is in memory

ERRORS = {
    "unreadable": "files that cannot be read",
    "empty": "empty files",
    "large": "files that are too large",
    "oversized": "images with too many pixels, not decoded",
    "unsupported": "files of a format that is not supported",
    "broken": "broken images",
    "layout": "folders and labels",
}
WARNINGS = {
    "leak": "the same image in two of train, validation and test: the test figures would be too good",
    "ambiguous": "the same image in two classes: one of the labels is wrong",
    "duplicate": "the same image twice in a class",
    "suffix": "images with another format's suffix, which are decoded all the same",
    "ignored": "files in the class folders that are ignored, since they have no image's suffix",
    "hidden": "hidden files, ignored",
}


@dataclass(frozen=True, slots=True)
class Image:
    """An image of the source: what names it, its class and its part, and its encoded bytes if it is no file."""

    path: str
    label: str
    part: str
    encoded: bytes | None = None


@dataclass
class Report:
    """What was found: counts, and the problems as {kind of ERRORS or WARNINGS: lines, each with a path}."""

    source: str
    images: int = 0
    classes: collections.Counter = field(default_factory=collections.Counter)
    parts: collections.Counter = field(default_factory=collections.Counter)
    heights: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    formats: collections.Counter = field(default_factory=collections.Counter)
    conversions: collections.Counter = field(default_factory=collections.Counter)
    problems: dict[str, list[str]] = field(default_factory=lambda: collections.defaultdict(list))

    @property
    def errors(self):
        """Number of problems that training would fail of."""
        return sum(len(self.problems.get(kind, ())) for kind in ERRORS)

    def text(self, most=20):
        """The report for people: a summary, then the problems by kind, at most so many of each; None for all."""
        lines = [
            f"{self.source}: {self.images} images in {len(self.classes)} classes",
            *columns("parts", self.parts, most),
            *columns("classes", self.classes, most),
            *columns("formats", self.formats, most),
        ]
        for name, values in (("height", self.heights), ("width", self.widths)):
            if values:
                lines.append(f"  {name:<8} {min(values)} to {max(values)} pixels, median {np.median(values):.0f}")
        converted = describe_conversions(self.conversions, self.images)
        lines += [f"  silently {converted}"] if converted else []
        for title, kinds in (("error", ERRORS), ("warning", WARNINGS)):
            for kind, words in kinds.items():
                found = self.problems.get(kind, [])
                if found:
                    lines += ["", f"{title}: {words} ({len(found)})", *(f"  {line}" for line in found[:most])]
                if len(found) > len(found[:most]):
                    lines.append(f"  and {len(found) - most} more (--all lists them)")
        warnings = sum(map(len, self.problems.values())) - self.errors
        return "\n".join([*lines, "", f"{self.errors} errors, {warnings} warnings"])

    def raise_if_training_fails(self):
        """Raises a DataError if there are errors."""
        if self.errors:
            raise DataError(f"{self.source} cannot be trained on as it is; {self.errors} errors are listed above.")


def columns(title, counts, most):
    """A line "title  name 3, other 4", or none for nothing."""
    found = [f"{name} {count}" for name, count in sorted(counts.items())]
    more = [f"and {len(found) - most} more"] if len(found) > len(found[:most]) else []
    return [f"  {title:<8} {', '.join(found[:most] + more)}"] if found else []


def check_source(source, data_dir=None):
    """Checks every image of a source.

    Args:
        source: "folder:PATH", the path of a folder, or a name of TFDS.
        data_dir: Where TFDS has its data sets.

    Returns:
        The Report.

    Raises:
        UserError: There is no such source.
    """
    report = Report(source)
    if source.startswith("folder:") or Path(source).is_dir():
        images = folder_images(source.removeprefix("folder:"), report)
    elif source == "synthetic":
        raise UserError("synthetic images are made as they are read; there is nothing to check.")
    else:
        images = tfds_images(source, data_dir, report)
    seen = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for some in groups(images, READ_AT_ONCE):
            for image, (digest, header, error) in zip(some, pool.map(examine, some), strict=True):
                count(report, image, header, error)
                if digest in seen:
                    compare(report, image, seen[digest])
                elif digest:
                    seen[digest] = replace(image, encoded=None)
    return report


def folder_images(path, report):
    """The images of a folder; what is wrong with the folders themselves, and what is ignored, goes into the report."""
    parts = {"train": Path(path).expanduser()}
    try:
        parts, _ = part_folders(path)
        data = folder(path, check=None)
        splits = {name: getattr(data, name) for name in ("train", "validation", "test")}
        part_of = {file: name for name, split in splits.items() for file in split.files}
    except DataError as error:
        report.problems["layout"].append(str(error))
        part_of = {}
    for part, root in parts.items():
        for label, entry in class_folders(root).items():
            report.classes[label] += 0
            for file in readable_files(entry):
                if hidden(file, entry):
                    report.problems["hidden"].append(file)
                elif suffix(file) in SUFFIXES:
                    yield Image(file, label, part_of.get(file, part))
                else:
                    report.problems["ignored"].append(file + looks_like(file))


def readable_files(root):
    """The files below a folder; none where a folder in it cannot be read, which is one of the problems already."""
    try:
        return find_files(root)
    except DataError:
        return []


def looks_like(file):
    """ " (looks like TIFF)" for a file whose first bytes show a format."""
    try:
        with open(file, "rb") as opened:
            kind = sniff(opened.read(32))
    except OSError:
        return ""
    return f" (looks like {kind})" if kind else ""


def tfds_images(name, data_dir, report):
    """The images of a data set of TFDS, each named by its part and position."""
    data = tfds_data(name, data_dir, download=False)
    report.classes.update(dict.fromkeys(data.class_names, 0))
    for part in ("train", "validation", "test"):
        split = getattr(data, part)
        try:
            check_split(split, part, len(data.class_names))
        except DataError as error:
            report.problems["layout"].append(str(error))
        for index, (encoded, label, *_) in enumerate(split.load(None).as_numpy_iterator()):
            known = 0 <= label < len(data.class_names)
            yield Image(f"{part} image {index}", data.class_names[label] if known else str(label), part, encoded)


def groups(items, size):
    """Lists of so many items; the last one may be shorter."""
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    yield group


def examine(image):
    """(digest of the bytes, Header, ImageError) of an image, each None where it could not be had, or there is none."""
    digest = header = None
    try:
        if image.encoded is None:
            header = read_header(image.path)
            encoded = Path(image.path).read_bytes()
        else:
            encoded = image.encoded
            header = parse_header(image.path, io.BytesIO(encoded), len(encoded))
        digest = hashlib.blake2b(encoded, digest_size=16).digest()
        decode(tf.constant(encoded))
    except ImageError as error:
        return digest, header, error
    except OSError as error:  # it went away, or its disk did, after its header was read
        return digest, header, ImageError(image.path, "unreadable", f"cannot be read: {error.strerror}")
    except tf.errors.OpError as error:
        return digest, header, ImageError(image.path, "broken", f"cannot be decoded: {decode_reason(error)}")
    return digest, header, None


def count(report, image, header, error):
    """Adds an image to the counts of the report, and what is wrong with it to the problems."""
    report.images += 1
    report.classes[image.label] += 1
    report.parts[image.part] += 1
    if error:
        report.problems[error.kind].append(f"{error.file} {error.reason}")
    if header:
        report.heights.append(header.height)
        report.widths.append(header.width)
        report.formats[header.format] += 1
        report.conversions.update(header.conversions)
        if image.encoded is None and SUFFIXES[suffix(image.path)] != header.format:
            report.problems["suffix"].append(f"{image.path} is {header.format}")


def compare(report, image, first):
    """Adds an image with the same bytes as an earlier one to the problems."""
    if image.label != first.label:
        kind = "ambiguous"
    elif image.part != first.part:
        kind = "leak"
    else:
        kind = "duplicate"
    report.problems[kind].append(f"{image.path} ({image.part}) = {first.path} ({first.part})")
