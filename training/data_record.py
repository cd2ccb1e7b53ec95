"""The record of the images that a run was trained on, with their parts, and the division of a folder into parts.

A folder without train, val and test is divided here. The place of an image in the division is a hash of its own path,
so that adding or removing an image moves almost no other. With the record of a run no image moves at all.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from training.errors import DataError, StateError
from training.files import atomic

PARTS = ("train", "validation", "test")

DATA_FILE, IMAGES_FILE = "data.json", "images.tsv"  # the files of a record

# The fraction of the training images that becomes a missing part, in this order; the second is a fraction of what the
# first leaves.
SHARES = {"test": 0.2, "validation": 0.1}


class ImageRecord(NamedTuple):
    """An image file of a data set.

    Attributes:
        part: "train", "validation" or "test".
        path: Its path relative to the folder of the data set.
        bytes: Its size in bytes.
        digest: A hash that equal files share, whatever their names (`training.image_file.identity`).
    """

    part: str
    path: str
    bytes: int
    digest: str


@dataclass(frozen=True)
class DataRecord:
    """The record of the images that a run was trained, validated and tested on.

    Attributes:
        source: The value of --data.
        class_names: The class names, in the order of the outputs.
        sizes: {part: number of images}.
        fingerprint: A hash of part, path and size of each file, or of the version of a data set of TFDS.
        images: The images of a folder, in the order of the splits; () for other sources.
        trained_on: Digests of all images that the weights were trained on: the training images, and those that were
            trained on before, by the run in `init` or before the data changed.
    """

    source: str
    class_names: tuple[str, ...]
    sizes: dict[str, int]
    fingerprint: str
    images: tuple[ImageRecord, ...] = ()
    trained_on: frozenset[str] = frozenset()

    @classmethod
    def of_folder(cls, source, class_names, images, trained_on=frozenset()):
        """Return the record of image files; `trained_on` holds the digests of images that were trained on before."""
        sizes = {part: sum(image.part == part for image in images) for part in PARTS}
        fingerprint = sha256(json.dumps(sorted(image[:3] for image in images)))
        trained_on = frozenset(trained_on).union(image.digest for image in images if image.part == "train")
        return cls(source, tuple(class_names), sizes, fingerprint, tuple(images), trained_on)

    def write(self, folder):
        """Write data.json and images.tsv into a run folder.

        A line of images.tsv has part, path (as a JSON string), bytes and digest. Images that were trained on before and
        are not in the data have the part "seen" and an empty path. Equal records give equal bytes.
        """
        seen = self.trained_on.difference(image.digest for image in self.images if image.part == "train")
        rows = [*self.images, *(ImageRecord("seen", "", 0, digest) for digest in sorted(seen))]
        lines = (f"{part}\t{json.dumps(path)}\t{size}\t{digest}\n" for part, path, size, digest in rows)
        text = "".join(lines)
        body = {
            "source": self.source,
            "class_names": self.class_names,
            "sizes": self.sizes,
            "fingerprint": self.fingerprint,
            IMAGES_FILE: sha256(text),
        }
        body["sha256"] = sha256(json.dumps(body))
        with atomic(Path(folder) / IMAGES_FILE) as table, atomic(Path(folder) / DATA_FILE) as summary:
            table.write_text(text)
            summary.write_text(json.dumps(body, indent=2) + "\n")

    @classmethod
    def read(cls, folder):
        """Return the record in a run folder; None if there is none, because an earlier version trained the run.

        Raises:
            StateError: The record is damaged.
        """
        file = Path(folder) / DATA_FILE
        if not file.exists():
            return None
        try:
            body = json.loads(file.read_text())
            if body.pop("sha256") != sha256(json.dumps(body)):
                raise ValueError("its checksum does not match")
            text = (Path(folder) / IMAGES_FILE).read_text()
            if body[IMAGES_FILE] != sha256(text):
                raise ValueError("images.tsv beside it has another checksum")
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise StateError(
                f"{file} is damaged ({error}), so it is unknown what the run was trained on. Restore data.json and "
                "images.tsv from a copy, or train again with --overwrite."
            ) from error
        rows = [line.split("\t") for line in text.split("\n")[:-1]]
        images = [ImageRecord(part, json.loads(path), int(size), digest) for part, path, size, digest in rows]
        return cls(
            body["source"],
            tuple(body["class_names"]),
            body["sizes"],
            body["fingerprint"],
            tuple(image for image in images if image.part != "seen"),
            frozenset(image.digest for image in images if image.part in ("train", "seen")),
        )

    def differences(self, other):
        """Return a phrase for each difference between this record and another, [] if they are equal."""
        found = []
        if self.class_names != other.class_names:
            found.append(f"classes: {', '.join(self.class_names)} there, {', '.join(other.class_names)} now")
        there, now = ({image.path: image for image in record.images} for record in (self, other))
        for part in PARTS:
            mine = [path for path, image in there.items() if image.part == part]
            others = [path for path, image in now.items() if image.part == part]
            kinds = {
                f"added to {part}": [path for path in others if path not in there],
                f"moved to {part}": [path for path in others if path in there and there[path].part != part],
                f"removed from {part}": [path for path in mine if path not in now],
                f"changed in {part}": [path for path in mine if path in now and there[path][2:] != now[path][2:]],
            }
            found += [f"{count_of(paths)} {words} ({first(paths)})" for words, paths in kinds.items() if paths]
        if not found:
            found = [
                f"{part} images: {self.sizes[part]} there, {other.sizes[part]} now"
                for part in PARTS
                if self.sizes[part] != other.sizes[part]
            ]
        if not found and self.fingerprint != other.fingerprint:
            found = [f"the data: {self.source} there, {other.source} now, or another version of it"]
        return found


def sha256(text):
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()  # a path may not be UTF-8


def count_of(items, noun="image"):
    """Return e.g. "1 image" or "5 images" for a list or a number."""
    number = items if isinstance(items, int) else len(items)
    return f"{number} {noun}{'s' if number != 1 else ''}"


def first(names, most=3):
    """Return the first `most` names as text: "a, b, c, ..."."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def place(image):
    """Return the place of an image in the order in which a folder is divided, from 0 to 1: a hash of its path."""
    return int(sha256(image.path)[:16], 16) / 16**16


def divide(images, missing, record=None, seen=frozenset()):
    """Divide images into parts, taking the missing parts from the training images.

    Each class is divided by itself, in the order of `place`. With the record of a run, its images keep their part even
    under another name, and the part of a new image follows from its place.

    An image that is or was trained on is in no other part, not even as a copy, renamed or moved: it stays a training
    image, or is left out if it lies in the folder of another part.

    Args:
        images: {class: list of ImageRecord}; the part of each is the folder that holds it.
        missing: The parts that have no folder, in the order of SHARES.
        record: The DataRecord of the run that is resumed or evaluated.
        seen: Digests of images that were trained on before.

    Returns:
        {class: list of ImageRecord} with the final parts, sorted by path; and a list of the ImageRecords left out.

    Raises:
        DataError: A class has too few images.
    """
    part_of = {}
    for name, found in images.items():
        part_of |= in_shares(name, found, missing, seen) if record is None else as_recorded(found, missing, record)
    seen = seen | record.trained_on if record else seen
    trained = seen.union(image.digest for image, part in part_of.items() if part == "train")
    divided, left_out = {}, []
    for name, found in images.items():
        divided[name] = []
        for image in sorted(found, key=lambda image: image.path):
            part = "train" if image.digest in trained else part_of[image]
            if part == "train" and image.part != "train":
                left_out.append(image)
            else:
                divided[name].append(image._replace(part=part))
    return divided, left_out


def in_shares(name, images, missing, seen):
    """Return {image: part} for the images of a class without a record.

    Raises:
        DataError: The class has too few images.
    """
    pool = sorted((image for image in images if image.part == "train"), key=place)
    if len(pool) <= len(missing):
        raise DataError(
            f"The class {name} has {count_of(pool)}, too few to split into {', '.join(['train', *missing])}. It needs "
            f"at least {len(missing) + 1}."
        )
    part_of = {image: image.part for image in images}
    fresh, left = [image for image in pool if image.digest not in seen], len(pool)
    for part in missing:
        number = max(1, round(SHARES[part] * left))
        part_of |= dict.fromkeys(fresh[:number], part)
        fresh, left = fresh[number:], left - number
    return part_of


def as_recorded(images, missing, record):
    """Return {image: part} for the images of a class: the recorded part of the image or path, or that of its place."""
    kept = {key: image.part for image in record.images for key in (image.digest, image.path, image[1:])}
    part_of = {}
    for image in images:
        keys = [key for key in (image[1:], image.digest, image.path) if key in kept]
        part = kept[keys[0]] if keys else part_at(place(image), missing)
        part_of[image] = image.part if image.part != "train" else part if part in missing else "train"
    return part_of


def part_at(place, missing):
    """Return the part of a new image at a place from 0 to 1."""
    end, left = 0.0, 1.0
    for part in missing:
        end, left = end + SHARES[part] * left, left * (1 - SHARES[part])
        if place < end:
            return part
    return "train"
