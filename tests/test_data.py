"""Data sources: what becomes train, validation and test, in which order, and what is said when the data are bad."""

import collections
import dataclasses
import io
import os
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from training import data as d
from training import image_file
from training.augment import augment
from training.batches import evaluation_batches, training_batches
from training.data_record import DataRecord
from training.errors import DataError, UserError
from training.inference import data_error
from training.recipe import Recipe

RECIPE = Recipe(image_size=32, batch_size=16)


def contents(split, order=None):
    """What identifies each image of a split, in its order."""
    return [bytes(image) for image, *_ in split.load(order).as_numpy_iterator()]


@pytest.fixture(scope="module")
def digits():
    return d.load_data(RECIPE)


def write_images(root, classes=("cat", "dog"), count=10, suffix="png", channels=3):
    """A folder with one folder a class; no two images are equal, in other folders neither."""
    random = np.random.RandomState(zlib.crc32(str(root).encode()))
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(count):
            image = random.randint(0, 256, (6, 9, channels)).astype(np.uint8)
            encode = {"png": tf.io.encode_png, "jpg": tf.io.encode_jpeg}[suffix]
            (root / name / f"{index}.{suffix}").write_bytes(encode(image).numpy())
    return root


def from_folder(root, **fields):
    return d.load_data(Recipe(data=f"folder:{root}", image_size=8, **{"batch_size": 2} | fields))


def test_digits_are_scikit_learns_split_1293_144_360(digits):
    assert (digits.train.size, digits.validation.size, digits.test.size) == (1293, 144, 360)
    assert digits.class_names == tuple("0123456789")
    parts = [contents(split) for split in (digits.train, digits.validation, digits.test)]
    originals = collections.Counter(
        np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images
    )
    decoded = (np.asarray(Image.open(io.BytesIO(image))) for part in parts for image in part)
    assert collections.Counter(image.tobytes() for image in decoded) == originals


def test_each_digit_has_its_share_of_the_test_split(digits):
    everything = collections.Counter(load_digits().target.tolist())
    test = collections.Counter(digits.test.labels().tolist())
    for digit, count in everything.items():
        assert abs(test[digit] - count * 360 / 1797) < 1


@pytest.mark.parametrize("source", ["digits", "folder"])
def test_the_order_is_a_function_of_the_seed_alone(source, digits, tmp_path):
    split = digits.train if source == "digits" else from_folder(write_images(tmp_path / "f")).train
    first, again, other = contents(split, 1), contents(split, 1), contents(split, 2)
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other) == sorted(contents(split))


def test_epochs_and_seeds_have_orders_of_their_own(digits):
    def examples(seed, epoch):
        recipe = Recipe(image_size=8, batch_size=64, seed=seed)
        return next(iter(training_batches(digits, recipe, epoch)))[2].numpy().tolist()

    assert examples(0, 0) == examples(0, 0)
    assert examples(0, 0) != examples(0, 1)
    assert examples(0, 1) != examples(1, 0)


def test_batches_are_rgb_of_the_recipes_size(digits):
    images, labels = next(iter(evaluation_batches(digits.validation, RECIPE)))
    assert images.shape == (16, 32, 32, 3)
    assert images.dtype == tf.float32
    assert labels.dtype == tf.int64
    assert 0 <= images.numpy().min() < 1
    assert 200 < images.numpy().max() <= 255
    np.testing.assert_array_equal(images[..., 0], images[..., 2])  # grey became RGB


def test_training_has_full_batches_only_and_evaluation_everything(digits):
    assert [len(labels) for _, labels, _ in training_batches(digits, RECIPE, 0)] == [16] * (1293 // 16)
    assert sum(len(labels) for _, labels in evaluation_batches(digits.test, RECIPE)) == 360


@pytest.mark.parametrize(("height", "width"), [(40, 40), (20, 60), (61, 17), (5, 5)])
def test_resize_keeps_the_aspect_ratio_and_the_middle(height, width):
    # A horizontal and a vertical ramp around the middle: after any scaling their middle is zero, and they stay ramps.
    rows, columns = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    image = np.stack(np.broadcast_arrays(rows[:, None], columns[None, :], 0.0), axis=-1)
    resized = d.resize(tf.constant(image, tf.float32), 10).numpy()
    scale = min(height, width) / 10
    expected = (np.arange(10) - 4.5) * scale
    inner = slice(1, 9)  # the border is blurred by the clamped edge
    tolerance = 0.51 * scale * 1.1 + 0.51  # the crop falls between pixels
    np.testing.assert_allclose(resized[inner, 5, 0], expected[inner], atol=tolerance)
    np.testing.assert_allclose(resized[5, inner, 1], expected[inner], atol=tolerance)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(300, 400, 224), (333, 1999, 97), (7, 9, 50), (1, 30, 32), (90, 2, 16), (5, 5, 10)]
)
def test_a_window_is_what_scaling_the_whole_image_shows_there(height, width, size):
    image = np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)
    target = d.scaled_sides(image, size)
    whole = tf.image.resize(image, tf.cast(target, tf.int32), antialias=True).numpy()
    for corner in (target * 0, (target - size) // 2, target - size):
        top, left = corner.numpy()
        window = d.resize_window(tf.constant(image), target, corner, size).numpy()
        np.testing.assert_allclose(window, whole[top : top + size, left : left + size], atol=0.02)


def png(width, height):
    """A black PNG of one bit a pixel: a small file of a large image."""
    row = b"\0" + bytes((width + 7) // 8)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(row * height, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def peak_memory(function, *arguments):
    """Return by how many MB the memory of the process was greater while a function ran than before."""

    def status(name):
        return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6

    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    before = status("VmRSS")
    function(*arguments)
    return status("VmHWM") - before


@pytest.mark.parametrize("crop", ["evaluation", "area", "scale", "pad"])
def test_no_image_within_the_limits_takes_more_than_500_mb(crop):
    """The largest, and the thinnest, whose shorter side becomes 224 pixels."""
    limits = {"crop_min": 1.0, "crop_max": 2.0} if crop == "scale" else {}
    recipe = Recipe(image_size=224, crop="center" if crop == "evaluation" else crop, **limits)

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def prepare(image):
        if crop == "evaluation":
            return d.resize(d.decode(image), recipe.image_size)
        return augment(image, recipe, tf.constant([1, 2]))

    prepare(png(8, 8))
    for width, height in ((8000, 8000), (1_000_000, 1), (1, 1_000_000)):
        assert peak_memory(prepare, png(width, height)) < 500, (width, height)


@pytest.mark.parametrize("encode", ["png", "jpeg", "gif", "bmp"])
def test_every_format_decodes_to_rgb(encode):
    grey = np.full((4, 6, 1), 100, np.uint8)
    encoded = {
        "png": tf.io.encode_png(grey).numpy(),
        "jpeg": tf.io.encode_jpeg(grey).numpy(),
        "gif": bytes.fromhex("47494638396101000100800000646464ffffff21f90400000000002c00000000010001000002024401003b"),
        "bmp": b"BM"
        + (62).to_bytes(4, "little")
        + bytes(4)
        + (54).to_bytes(4, "little")
        + (40).to_bytes(4, "little")
        + (1).to_bytes(4, "little") * 2
        + b"\x01\x00\x18\x00"
        + bytes(24)
        + b"\x64\x64\x64\x00",
    }[encode]
    image = d.decode(tf.constant(encoded)).numpy()
    assert image.dtype == np.uint8
    assert image.shape[-1] == 3
    assert (image == 100).all()


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


def test_a_folder_of_parts_is_used_as_it_is(tmp_path):
    for part, count in (("train", 6), ("val", 3), ("test", 4)):
        write_images(tmp_path / part, count=count)
    data = from_folder(tmp_path)
    assert (data.train.size, data.validation.size, data.test.size) == (12, 6, 8)


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_without_a_test_part_val_is_the_test_and_train_validates(tmp_path, val):
    write_images(tmp_path / "train", count=10)
    write_images(tmp_path / val, count=3)
    data = from_folder(tmp_path)
    assert (data.train.size, data.validation.size, data.test.size) == (18, 2, 6)
    assert all(val in file.split("/") for file in data.test.files)


def test_a_class_may_be_called_as_a_part(tmp_path):
    data = from_folder(write_images(tmp_path / "f", ("bus", "test", "train")))
    assert data.class_names == ("bus", "test", "train")
    assert (data.train.size, data.validation.size, data.test.size) == (21, 3, 6)


@pytest.mark.parametrize("parts", [("train", "test"), ("train",)])
def test_folders_beside_the_parts_are_ignored_with_a_line(tmp_path, parts):
    for part in parts:
        write_images(tmp_path / part)
    (tmp_path / "annotations").mkdir()
    if len(parts) > 1:
        write_images(tmp_path / "unlabelled")
    data = from_folder(tmp_path)
    assert data.class_names == ("cat", "dog")
    ignored = "annotations, unlabelled" if len(parts) > 1 else "annotations"
    assert data.notes == (f"folder:{tmp_path}: folders beside {', '.join(parts)}, ignored: {ignored}",)


def test_a_class_of_three_images_trains_validates_and_tests(tmp_path):
    data = from_folder(write_images(tmp_path / "f", count=3))
    assert [sorted(split.labels()) for split in (data.train, data.validation, data.test)] == [[0, 1]] * 3


def files_of(data):
    return {part: set(getattr(data, part).files) for part in ("train", "validation", "test")}


def test_a_run_that_is_resumed_finds_its_images_in_their_parts(tmp_path):
    root = write_images(tmp_path / "f", count=20)
    recipe = Recipe(data=f"folder:{root}", image_size=8, batch_size=2)
    before = d.load_data(recipe)
    before.record.write(tmp_path)
    record = DataRecord.read(tmp_path)
    assert record == before.record
    again = d.load_data(recipe, record=record)
    assert again.record == record
    assert again.train.files == before.train.files  # in their order: an example's number is that of its image
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
    # The same images under other names, in a folder without parts and in one with parts.
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
    with pytest.raises(DataError, match="no image is left for validation: images that are trained on"):
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


# A PNG that says it has 9000x8000 pixels, and has none: it is refused for what it says.
HUGE = b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    for name, data in ((b"IHDR", struct.pack(">IIBBBBB", 9000, 8000, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b""))
)


def break_image(root):
    (root / "dog" / "3.png").write_bytes((root / "dog" / "3.png").read_bytes()[:50])


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
            r"cat/0\.png has 64\.0 MB, more than the 64 MB that are read",
        ),
        (
            lambda root: (write_images(root) / "dog" / "7.png").write_bytes(HUGE),
            DataError,
            r"dog/7\.png has 9000x8000 = 72\.0 megapixels, more than the 64 that are decoded. Scale it down",
        ),
        (
            lambda root: write_images(root, ("cat",)),
            DataError,
            "only one class, 'cat': there is nothing to tell apart. Put the images of every other class into a folder",
        ),
        (
            lambda root: write_images(root / "photos"),
            DataError,
            "only one class, 'photos'.*If cat, dog are the classes, pass folder:.*images/photos",
        ),
        (lambda root: write_images(root, count=2), DataError, "class cat has 2 images.*needs 3 or more"),
        (lambda root: write_images(root / "train", count=1), DataError, "class cat has 1 image,.*needs 3 or more"),
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
            "has train, val, valid, of which two are the same part",
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
def test_a_bad_folder_is_told_what_and_where(tmp_path, monkeypatch, spoil, error, words):
    spoil(tmp_path / "images")
    monkeypatch.setattr(tf.io, "decode_image", None)  # all of it is found before anything is decoded
    with pytest.raises(error, match=words):
        from_folder(tmp_path / "images")


def test_a_truncated_image_is_found_by_name(tmp_path):
    root = write_images(tmp_path / "images")
    break_image(root)
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
def test_a_file_that_is_gone_is_found_by_name(tmp_path, spoil, words):
    data = from_folder(write_images(tmp_path / "images"))
    spoil(Path(data.train.files[3]))
    assert str(d.first_broken_file(data.train)).startswith(f"{data.train.files[3]} {words}")
    assert d.first_broken_file(data.test) is None


def test_what_tensorflow_does_not_read_is_told_in_plain_words(tmp_path):
    for file, words in ((tmp_path / "gone.png", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(tf.errors.OpError) as raised:
            list(tf.data.Dataset.from_tensors(str(file)).map(tf.io.read_file))
        assert image_file.decode_reason(raised.value) == f"{file}: {words}"


def test_hidden_files_are_no_images_and_webp_is_one(tmp_path):
    root = write_images(tmp_path / "images")
    (root / "cat" / "._0.png").write_bytes(b"what a Mac leaves beside each file")
    (root / "cat" / ".trash").mkdir()
    (root / "cat" / ".trash" / "1.png").write_bytes(b"")
    buffer = io.BytesIO()
    Image.new("RGB", (9, 6), (200, 100, 50)).save(buffer, "WEBP", lossless=True)
    (root / "cat" / "10.WebP").write_bytes(buffer.getvalue())
    data = from_folder(root)
    files = {Path(file).name for split in (data.train, data.validation, data.test) for file in split.files}
    assert files == {f"{index}.png" for index in range(10)} | {"10.WebP"}
    assert (d.decode(tf.constant(buffer.getvalue())).numpy() == [200, 100, 50]).all()


def test_an_image_of_no_file_that_does_not_decode_is_told_in_plain_words(tmp_path):
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (9, 6), color) for color in ("red", "green")]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    images = tf.data.Dataset.from_tensors(buffer.getvalue()).map(d.decode)
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        next(iter(images))
    data = d.load_data(Recipe(data="synthetic", image_size=8))
    assert str(data_error(data, raised.value)) == (
        "The images cannot be read: WebP Animation must be 4 channel RGBA. `python -m training check-data` lists the "
        "broken ones."
    )


def test_conversions_are_one_line_of_the_data_and_none_where_all_is_rgb(tmp_path):
    write_images(tmp_path / "train", count=10)
    assert from_folder(tmp_path).conversions == ""
    write_images(tmp_path / "train" / "grey", (".",), count=4, channels=1)
    write_images(tmp_path / "test", ("cat", "dog", "grey"), count=3, channels=4)
    assert from_folder(tmp_path).conversions == (
        "converted to RGB with 8 bits, of 33 images: 4 grey (repeated in three channels), 9 with transparency "
        "(dropped, not blended)"
    )


def test_labels_outside_the_classes_are_refused_before_training():
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


def test_a_tfds_data_set_that_is_not_there_is_never_downloaded(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def refuse(*args, **kwargs):
        raise AssertionError("tried to download")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)
    with pytest.raises(UserError, match=r"'mnist' is not in .*Add --download"):
        d.load_data(Recipe(data="mnist", data_dir=str(tmp_path)))
    with pytest.raises(AssertionError, match="tried to download"):
        d.load_data(Recipe(data="mnist", data_dir=str(tmp_path)), download=True)


def test_a_wrong_name_of_a_data_set_gets_a_suggestion(tmp_path):
    with pytest.raises(UserError, match=r"Did you mean .*cifar10"):
        d.load_data(Recipe(data="cifar_10", data_dir=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar10:9.9.9", r"cannot be loaded at version 9.9.9, only: .*Pass cifar10, or one that is listed"),
        ("cifar10/nope", "BuilderConfig nope not found.*Pass cifar10"),
        ("photos", "There is a folder of this name: pass --data folder:photos"),
        ("./photos", "pass --data folder:./photos"),
    ],
)
def test_a_word_after_data_that_is_nearly_right_gets_its_fix(tmp_path, monkeypatch, name, words):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        d.load_data(Recipe(data=name, data_dir=str(tmp_path / "tfds")))


def test_a_folder_that_the_system_does_not_list_is_named(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    root = write_images(tmp_path / "f")
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=f"{root} cannot be read: Permission denied. Make it readable"):
        from_folder(root)


def test_a_relative_path_says_where_it_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no such folder in the working directory, {tmp_path}; "):
        d.load_data(Recipe(data="folder:nowhere"))


def test_a_data_set_without_a_split_to_train_on_is_refused(monkeypatch):
    import tensorflow_datasets as tfds

    splits = tfds.core.DatasetInfo.splits.fget
    monkeypatch.setattr(
        tfds.core.DatasetInfo, "splits", property(lambda self: tfds.core.splits.SplitDict([splits(self)["test"]]))
    )
    with pytest.raises(UserError, match="data='digits' has no split that is called train, only test"):
        d.load_data(RECIPE)


def test_a_data_set_of_one_class_is_refused(monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.features.ClassLabel, "names", property(lambda self: ["ink"], lambda self, names: None))
    with pytest.raises(DataError, match="data='digits' has only one class, 'ink'"):
        d.load_data(RECIPE)


def test_a_data_set_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a data set of 8-bit images with one class each"):
        d.load_data(Recipe(data="imdb_reviews", data_dir=str(tmp_path)))
