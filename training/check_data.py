"""Check every image of a source: read it, decode it as training does, and report each problem with its path.

`fit` reads only the headers and stops at the first bad file; this module finds all of them.
"""

import collections
import contextlib
import functools
import hashlib
import io
import itertools
import os
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from training.data import check_split, folder, tfds_data
from training.data_record import PARTS, count_of
from training.errors import DataError, ImageError, UserError
from training.image_file import (
    SUFFIXES,
    decode_reason,
    describe_conversions,
    open_image,
    parse_header,
    printable,
    read_header,
    sniff,
)
from training.image_folder import class_folders, find_files, hidden, part_folders, suffix
from training.pixels import decode

new_digest = functools.partial(hashlib.blake2b, digest_size=16)

CHUNK = 1000  # images whose results are kept before they are reported; only one image per thread is decoded at a time

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
    "leak": "the same image in two of train, validation and test: a copy of a training image is left out there",
    "ambiguous": "the same image in two classes: one of the labels is wrong",
    "duplicate": "the same image twice in a class",
    "damaged": "JPEGs that are damaged inside: they are still decoded, with wrong pixels",
    "tiny": "images less than 4 pixels high or wide, or 10 times as long as wide: a square crop shows almost nothing",
    "suffix": "images with the suffix of another format, which are still decoded",
    "ignored": "files in the class folders that are ignored, since they lack an image's suffix",
    "beside": "files and folders beside those of the classes or parts, ignored",
    "hidden": "hidden files, ignored",
}


@dataclass(frozen=True, slots=True)
class Image:
    """An image of the source: its path or name, its class, its part, and its encoded bytes if it is not a file."""

    path: str
    label: str
    part: str
    encoded: bytes | None = None


@dataclass
class Report:
    """The counts and the problems of a source; problems are {kind of ERRORS or WARNINGS: lines, each with a path}."""

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
        """Number of problems that make training fail."""
        return sum(len(self.problems.get(kind, ())) for kind in ERRORS)

    def add_image(self, image, header, error):
        """Count an image and list its problems; `header` and `error` may be None."""
        self.images += 1
        self.classes[image.label] += 1
        self.parts[image.part] += 1
        if error:
            self.problems[error.kind].append(f"{error.file} {error.reason}")
        if header:
            self.heights.append(header.height)
            self.widths.append(header.width)
            self.formats[header.format] += 1
            self.conversions.update(header.conversions)
            shorter, longer = sorted((header.height, header.width))
            if shorter < 4 or longer > 10 * shorter:
                self.problems["tiny"].append(f"{image.path} has {header.width}x{header.height} pixels")
            if image.encoded is None and SUFFIXES[suffix(image.path)] != header.format:
                self.problems["suffix"].append(f"{image.path} is {header.format}")

    def add_copy(self, image, original):
        """List an image that has the same bytes as an earlier one."""
        kinds = ["ambiguous"] if image.label != original.label else []
        kinds += ["leak"] if image.part != original.part else []
        for kind in kinds or ["duplicate"]:
            self.problems[kind].append(f"{image.path} ({image.part}) = {original.path} ({original.part})")

    def text(self, most=20):
        """Return the report as text: a summary, then at most `most` problems of each kind; None for all."""
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
        return printable("\n".join([*lines, "", f"{count_of(self.errors, 'error')}, {count_of(warnings, 'warning')}"]))

    def raise_if_training_fails(self):
        """Raise a DataError if there are errors."""
        if self.errors:
            raise DataError(
                f"{self.source} cannot be trained on as it is: {count_of(self.errors, 'error')}, listed above."
            )


def columns(title, counts, most):
    """Return [a line "title  name 3, other 4"], or [] if there are no counts."""
    found = [f"{name} {count}" for name, count in sorted(counts.items())]
    more = [f"and {len(found) - most} more"] if len(found) > len(found[:most]) else []
    return [f"  {title:<8} {', '.join(found[:most] + more)}"] if found else []


def check_source(source, data_dir=None):
    """Check every image of a source.

    Args:
        source: "folder:PATH", the path of a folder, or a name of TFDS.
        data_dir: Folder of TFDS's data sets; None for its default.

    Returns:
        A Report.

    Raises:
        UserError: The source does not exist.
    """
    report = Report(source)
    if source.startswith("folder:") or Path(source).is_dir():
        images = folder_images(source.removeprefix("folder:"), report)
    elif source == "synthetic":
        raise UserError("synthetic images are computed as they are read; there is nothing to check.")
    else:
        images = tfds_images(source, data_dir, report)
    originals = {}  # by digest
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for chunk in chunks(images, CHUNK):
            with jpeg_warnings() as warnings:
                results = list(pool.map(examine, chunk))
            for image, (digest, header, error) in zip(chunk, results, strict=True):
                report.add_image(image, header, error)
                if warnings and header and header.format == "JPEG" and not error:
                    with jpeg_warnings() as own:  # the warnings of the chunk do not name the image
                        examine(image)
                    report.problems["damaged"] += [f"{image.path}: {warning}" for warning in own[:1]]
                if digest in originals:
                    report.add_copy(image, originals[digest])
                elif digest:
                    originals[digest] = replace(image, encoded=None)
    return report


@contextlib.contextmanager
def jpeg_warnings():
    """Yield a list which, on leaving the context, receives the warnings that libjpeg wrote to standard error.

    libjpeg reports damage in no other way, and does not name the file.
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
    """Yield the images of a folder; problems of the folders themselves and ignored files go into the report."""
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
    """Return the files below a folder, or [] if a folder in it cannot be read, which `folder` has already reported."""
    try:
        return find_files(root)
    except DataError:
        return []


def looks_like(file):
    """Return e.g. " (looks like TIFF)" for a file that begins like a known format, and "" for others."""
    try:
        with open_image(file) as stream:
            kind = sniff(stream.read(32))
    except ImageError:
        return ""
    return f" (looks like {kind})" if kind else ""


def tfds_images(name, data_dir, report):
    """Yield the images of a data set of TFDS, each named by its part and position."""
    data = tfds_data(name, data_dir, download=False)
    report.classes.update(dict.fromkeys(data.class_names, 0))
    for part in PARTS:
        split = getattr(data, part)
        try:
            check_split(split, part, len(data.class_names))
        except DataError as error:
            report.problems["layout"].append(str(error))
        for index, (encoded, label, *_) in enumerate(split.load(None).as_numpy_iterator()):
            known = 0 <= label < len(data.class_names)
            yield Image(f"{part} image {index}", data.class_names[label] if known else str(label), part, encoded)


def chunks(items, size):
    """Yield lists of `size` items; the last one may be shorter."""
    items = iter(items)
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def examine(image):
    """Return (digest of the bytes, Header, ImageError) of an image; what is unknown or absent is None."""
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
