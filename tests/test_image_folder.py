"""Folders of images: which folders are parts, which are classes, which files are images, and which errors there are."""

import io
import os
from pathlib import Path

import pytest
import tensorflow as tf
from PIL import Image

from tests.image_files import from_folder, png_chunk, png_header, write_images
from training import image_file
from training.data import load_data
from training.errors import DataError, UserError
from training.pixels import decode
from training.recipe import Recipe


def test_a_folder_with_parts_is_not_divided(tmp_path):
    for part, count in (("train", 6), ("val", 3), ("test", 4)):
        write_images(tmp_path / part, count=count)
    data = from_folder(tmp_path)
    assert (data.train.size, data.validation.size, data.test.size) == (12, 6, 8)


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_without_a_test_part_val_becomes_the_test_split(tmp_path, val):
    write_images(tmp_path / "train", count=10)
    write_images(tmp_path / val, count=3)
    data = from_folder(tmp_path)
    assert (data.train.size, data.validation.size, data.test.size) == (18, 2, 6)
    assert all(val in file.split("/") for file in data.test.files)


def test_a_class_may_be_named_like_a_part(tmp_path):
    data = from_folder(write_images(tmp_path / "f", ("bus", "test", "train")))
    assert data.class_names == ("bus", "test", "train")
    assert (data.train.size, data.validation.size, data.test.size) == (21, 3, 6)


@pytest.mark.parametrize("parts", [("train", "test"), ("train",)])
def test_folders_beside_the_parts_are_ignored_with_a_note(tmp_path, parts):
    for part in parts:
        write_images(tmp_path / part)
    (tmp_path / "annotations").mkdir()
    if len(parts) > 1:
        write_images(tmp_path / "unlabelled")
    data = from_folder(tmp_path)
    assert data.class_names == ("cat", "dog")
    ignored = "annotations, unlabelled" if len(parts) > 1 else "annotations"
    assert data.notes == (f"folder:{tmp_path}: folders beside {', '.join(parts)}, ignored: {ignored}",)


# A PNG whose header claims 9000x8000 pixels and which has none: its header alone makes it invalid.
HUGE = png_header(9000, 8000, 8, 2) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda root: None, UserError, "there is no such folder; .* is the last part that exists"),
        (lambda root: root.mkdir(), DataError, "no images in class folders; it has nothing"),
        (lambda root: (write_images(root.parent / "other") / "cat").rename(root), DataError, r"it has 0\.png, 1\.png"),
        (lambda root: (write_images(root) / "empty").mkdir(), DataError, "empty has no images"),
        (lambda root: (write_images(root) / "cat" / "0.png").write_bytes(b""), DataError, r"cat/0\.png is empty"),
        (
            lambda root: (write_images(root) / "cat" / "0.png").write_text("<html>"),
            DataError,
            r"cat/0\.png is not a JPEG, PNG, GIF, BMP or WebP image.*like HTML.*Remove it",
        ),
        (
            lambda root: (write_images(root) / "cat" / "no.png").symlink_to(root / "nowhere"),
            DataError,
            r"cat/no\.png is a link to nothing",
        ),
        (
            lambda root: os.truncate(write_images(root) / "cat" / "0.png", image_file.MAX_BYTES + 1),
            DataError,
            r"cat/0\.png has 64\.0 MB, more than the limit of 64 MB",
        ),
        (
            lambda root: (write_images(root) / "dog" / "7.png").write_bytes(HUGE),
            DataError,
            r"dog/7\.png has 9000x8000 = 72\.0 megapixels, more than the limit of 64. Scale it down",
        ),
        (
            lambda root: write_images(root, ("cat",)),
            DataError,
            "only one class, 'cat', so there is nothing to classify. Put the images of every other class into a folder",
        ),
        (
            lambda root: write_images(root / "photos"),
            DataError,
            "only one class, 'photos'.*If cat, dog are the classes, pass folder:.*images/photos",
        ),
        (lambda root: write_images(root, count=2), DataError, "class cat has 2 images.*needs at least 3"),
        (lambda root: write_images(root / "train", count=1), DataError, "class cat has 1 image,.*needs at least 3"),
        (
            lambda root: (write_images(root), os.mkfifo(root / "cat" / "pipe.png")),
            DataError,
            r"cat/pipe\.png is not a regular file",
        ),
        (
            lambda root: (write_images(root) / "dog" / "1.png").rename(root / "dog" / "caf\udce9.png"),
            DataError,
            r"dog/caf\\xe9\.png has a name that is not UTF-8. Rename the file",
        ),
        (lambda root: write_images(root, ("a\udce9", "b")), DataError, r"a\\xe9/0\.png has a name that is not UTF-8"),
        (
            lambda root: (write_images(root, ("bus", "car")), write_images(root / "train", ("steam", "electric"))),
            DataError,
            "has bus, car beside train, which has folders of its own. If train is a class, give it another name",
        ),
        (
            lambda root: [write_images(root / part) for part in ("train", "val", "valid")],
            DataError,
            "has train, val, valid, two of which are the same part",
        ),
        (
            lambda root: [write_images(root / part) for part in ("validation", "Test")],
            DataError,
            "has validation, Test, but no folder train",
        ),
        (
            lambda root: (
                [write_images(root / part) for part in ("train", "copies")]
                and [(root / "train" / name).rename(root / "train" / f"{name}s") for name in ("cat", "dog")]
                and (root / "copies").rename(root / "test")
            ),
            DataError,
            "classes of test and train differ in cat, cats, dog, dogs",
        ),
        (
            lambda root: (write_images(root / "train"), write_images(root / "test", ("cat", "cow"))),
            DataError,
            "classes of test and train differ in cow, dog",
        ),
    ],
)
def test_the_error_for_a_bad_folder_names_the_place_and_the_fix(tmp_path, monkeypatch, spoil, error, words):
    spoil(tmp_path / "images")
    monkeypatch.setattr(tf.io, "decode_image", None)  # everything is found before anything is decoded
    with pytest.raises(error, match=words):
        from_folder(tmp_path / "images")


def test_hidden_files_are_ignored_and_webp_is_read(tmp_path):
    root = write_images(tmp_path / "images")
    (root / "cat" / "._0.png").write_bytes(b"macOS writes such a file beside each file")
    (root / "cat" / ".trash").mkdir()
    (root / "cat" / ".trash" / "1.png").write_bytes(b"")
    buffer = io.BytesIO()
    Image.new("RGB", (9, 6), (200, 100, 50)).save(buffer, "WEBP", lossless=True)
    (root / "cat" / "10.WebP").write_bytes(buffer.getvalue())
    data = from_folder(root)
    files = {Path(file).name for split in (data.train, data.validation, data.test) for file in split.files}
    assert files == {f"{index}.png" for index in range(10)} | {"10.WebP"}
    assert (decode(tf.constant(buffer.getvalue())).numpy() == [200, 100, 50]).all()


def test_the_error_for_an_unreadable_folder_names_it(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    root = write_images(tmp_path / "f")
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=f"{root} cannot be read: Permission denied. Make it readable"):
        from_folder(root)


def test_the_error_for_a_relative_path_names_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"there is no such folder in the working directory, {tmp_path}; "):
        load_data(Recipe(data="folder:nowhere"))
