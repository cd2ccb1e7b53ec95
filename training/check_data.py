"""Read every image of a source, decode it as training does, and say what is wrong, with every path.

Fit itself reads the headers only, and stops at the first file that is bad; this finds all of them.
"""

import collections
import contextlib
import functools
import hashlib
import io
import os
import re
import sys
import tempfile
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
from training.data_record import PARTS, count_of
from training.errors import DataError, ImageError, UserError
from training.image_file import (
    SUFFIXES,
    decode_reason,
    describe_conversions,
    open_image,
    parse_header,
    read_header,
    shown,
    sniff,
)

new_digest = functools.partial(hashlib.blake2b, digest_size=16)

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
    "leak": "the same image in two of train, validation and test: training leaves out what it also trains on",
    "ambiguous": "the same image in two classes: one of the labels is wrong",
    "duplicate": "the same image twice in a class",
    "damaged": "JPEGs that are damaged inside: they are decoded all the same, with wrong pixels",
    "tiny": "images under 4 pixels high or wide, or 10 times as long as wide: a square of them shows next to nothing",
    "suffix": "images with another format's suffix, which are decoded all the same",
    "ignored": "files in the class folders that are ignored, since they have no image's suffix",
    "beside": "files and folders beside those of the classes or parts, ignored",
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
        lines += [f"  {converted}"] if converted else []
        for title, kinds in (("error", ERRORS), ("warning", WARNINGS)):
            for kind, words in kinds.items():
                found = self.problems.get(kind, [])
                if found:
                    lines += ["", f"{title}: {words} ({len(found)})", *(f"  {line}" for line in found[:most])]
                if len(found) > len(found[:most]):
                    lines.append(f"  and {len(found) - most} more (--all lists them)")
        warnings = sum(map(len, self.problems.values())) - self.errors
        return shown("\n".join([*lines, "", f"{count_of(self.errors, 'error')}, {count_of(warnings, 'warning')}"]))

    def raise_if_training_fails(self):
        """Raise a DataError if there are errors."""
        if self.errors:
            raise DataError(
                f"{self.source} cannot be trained on as it is: {count_of(self.errors, 'error')}, listed above."
            )


def columns(title, counts, most):
    """A line "title  name 3, other 4", or none for nothing."""
    found = [f"{name} {count}" for name, count in sorted(counts.items())]
    more = [f"and {len(found) - most} more"] if len(found) > len(found[:most]) else []
    return [f"  {title:<8} {', '.join(found[:most] + more)}"] if found else []


def check_source(source, data_dir=None):
    """Check every image of a source.

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
            with complaints() as complained:
                findings = list(pool.map(examine, some))
            for image, (digest, header, error) in zip(some, findings, strict=True):
                count(report, image, header, error)
                if complained and header and header.format == "JPEG" and not error:
                    with complaints() as reasons:  # which of them it was
                        examine(image)
                    report.problems["damaged"] += [f"{image.path}: {reason}" for reason in reasons[:1]]
                if digest in seen:
                    compare(report, image, seen[digest])
                elif digest:
                    seen[digest] = replace(image, encoded=None)
    return report


@contextlib.contextmanager
def complaints():
    """Give a list that has, in the end, the complaints that libjpeg wrote to standard error.

    libjpeg has no other way to say that a file is damaged, and does not name it.
    """
    lines = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            written.seek(0)
            for line in written.read().decode(errors="replace").splitlines():
                if re.match("Corrupt JPEG data|Premature end|Inconsistent progression", line):
                    lines.append(line)
                else:
                    print(line, file=sys.stderr)


def folder_images(path, report):
    """The images of a folder; what is wrong with the folders themselves, and what is ignored, goes into the report."""
    root = Path(path).expanduser()
    parts, ignored, part_of = {"train": root}, [], {}
    try:
        parts, ignored = part_folders(path)
        data = folder(path, check=None)
        part_of = {file: part for part in PARTS for file in getattr(data, part).files}
    except DataError as error:
        report.problems["layout"].append(str(error))
    report.problems["beside"] += [str(root / name) for name in ignored]
    for parent in dict.fromkeys((root, *parts.values())):
        folders = class_folders(parent)
        beside = [str(entry) for entry in sorted(parent.iterdir()) if entry.name not in folders]
        report.problems["beside"] += [file + looks_like(file) for file in beside if not hidden(file, parent)]
    for part, parent in parts.items():
        called = "test" if part == "validation" and "test" not in parts else part
        for label, entry in class_folders(parent).items():
            report.classes[label] += 0
            for file in readable_files(entry):
                if hidden(file, entry):
                    report.problems["hidden"].append(file)
                elif suffix(file) in SUFFIXES:
                    yield Image(file, label, part_of.get(file, called))
                else:
                    report.problems["ignored"].append(file + looks_like(file))


def readable_files(root):
    """Return the files below a folder; none where a folder in it cannot be read, which is reported already."""
    try:
        return find_files(root)
    except DataError:
        return []


def looks_like(file):
    """Return " (looks like TIFF)" for a file whose first bytes show a format."""
    try:
        with open_image(file) as stream:
            kind = sniff(stream.read(32))
    except ImageError:
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
            with open_image(image.path) as stream:
                digest = hashlib.file_digest(stream, new_digest).digest()
            decode(tf.io.read_file(image.path))
        else:
            header = parse_header(image.path, io.BytesIO(image.encoded), len(image.encoded))
            digest = new_digest(image.encoded).digest()
            decode(tf.constant(image.encoded))
    except ImageError as error:
        return digest, header, error
    except tf.errors.OpError as error:
        return digest, header, ImageError(image.path, "broken", f"cannot be decoded: {decode_reason(error)}")
    return digest, header, None


def count(report, image, header, error):
    """Add an image to the counts of the report, and what is wrong with it to the problems."""
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
        shorter, longer = sorted((header.height, header.width))
        if shorter < 4 or longer > 10 * shorter:
            report.problems["tiny"].append(f"{image.path} has {header.width}x{header.height} pixels")
        if image.encoded is None and SUFFIXES[suffix(image.path)] != header.format:
            report.problems["suffix"].append(f"{image.path} is {header.format}")


def compare(report, image, first):
    """Add an image with the same bytes as an earlier one to the problems."""
    kinds = ["ambiguous"] if image.label != first.label else []
    kinds += ["leak"] if image.part != first.part else []
    for kind in kinds or ["duplicate"]:
        report.problems[kind].append(f"{image.path} ({image.part}) = {first.path} ({first.part})")
