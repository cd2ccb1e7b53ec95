"""The record of a run's data: images keep their part when others are added, removed or renamed; damage is found."""

import itertools

import pytest

from training.data_record import DataRecord, ImageRecord, divide, sha256
from training.errors import DataError, StateError

MISSING = ["test", "validation"]


def digest_of(path):
    return sha256(path)[:16]


def image(path, part="train", digest=None):
    return ImageRecord(part, path, 100, digest or digest_of(path))


def photos(count=100, classes=("cat", "dog"), first=0):
    return {name: [image(f"{name}/{index}.jpg") for index in range(first, count)] for name in classes}


def record_of(divided, trained_on=frozenset()):
    images = [image for found in divided.values() for image in found]
    return DataRecord.of_folder("folder:photos", tuple(divided), images, trained_on)


def parts(divided, key="path"):
    return {getattr(image, key): image.part for found in divided.values() for image in found}


@pytest.fixture
def record():
    return record_of(divide(photos(), MISSING)[0])


def test_each_class_is_divided_in_the_same_proportions(record):
    assert record.sizes == {"train": 144, "validation": 16, "test": 40}
    for name in ("cat", "dog"):
        assert sum(image.part == "test" and image.path.startswith(name) for image in record.images) == 20


@pytest.mark.parametrize("count", [3, 4, 7])
def test_a_small_class_has_images_in_each_part(count):
    divided, _ = divide(photos(count), MISSING)
    assert [{image.part for image in found} for found in divided.values()] == [{"train", "validation", "test"}] * 2


@pytest.mark.parametrize(("missing", "needed"), [(MISSING, 3), (["validation"], 2)])
def test_the_error_for_too_few_images_names_the_minimum(missing, needed):
    divide(photos(needed), missing)
    words = f"class cat has {needed - 1} image.*needs at least {needed}"
    with pytest.raises(DataError, match=words):
        divide(photos(needed - 1), missing)


def test_one_image_more_or_less_moves_few_others_without_a_record(record):
    before = parts(divide(photos(), MISSING)[0])
    for now in (photos(101), photos(99), photos(first=1)):
        after = parts(divide(now, MISSING)[0])
        assert sum(after[path] != before[path] for path in after.keys() & before.keys()) <= 4  # two per class


def test_with_a_record_no_image_moves(record):
    before = {image.path: image.part for image in record.images}
    for now in (photos(), photos(130), photos(90), photos(first=5)):
        after = parts(divide(now, MISSING, record)[0])
        assert {path: part for path, part in after.items() if path in before} == {
            path: part for path, part in before.items() if path in after
        }
    assert record_of(divide(photos(), MISSING, record)[0]) == record


def test_the_part_of_a_new_image_follows_from_its_path(record):
    together = parts(divide(photos(200), MISSING, record)[0])
    alone = photos(101)
    alone["cat"][100] = image("cat/150.jpg")
    assert parts(divide(alone, MISSING, record)[0])["cat/150.jpg"] == together["cat/150.jpg"]
    new = [part for path, part in together.items() if int(path[4:-4]) >= 100]
    assert 20 <= new.count("test") <= 60  # 0.2 of 200
    assert 4 <= new.count("validation") <= 28  # 0.08


@pytest.mark.parametrize("change", ["renamed", "renumbered", "moved to the other class", "copied"])
def test_an_image_keeps_its_part_under_another_name(record, change):
    now = photos()
    path_of = {
        "renamed": lambda index, name: f"{name}/new{index}.jpg",
        "renumbered": lambda index, name: f"{name}/{(index + 1) % 100}.jpg",
        "moved to the other class": lambda index, name: f"{'cat' if name == 'dog' else 'dog'}/{index}.jpg",
        "copied": lambda index, name: f"{name}/copy{index}.jpg",
    }[change]
    changed = {
        name: [image._replace(path=path_of(index, name)) for index, image in enumerate(found)]
        for name, found in now.items()
    }
    if change == "copied":
        changed = {name: now[name] + changed[name] for name in now}
    before = {image.digest: image.part for image in record.images}
    assert parts(divide(changed, MISSING, record)[0], "digest") == before
    assert not record.trained_on & {d for d, part in before.items() if part != "train"}


def test_trained_images_stay_training_images_in_a_folder_without_parts():
    names = [f"{name}/{index}.jpg" for name, index in itertools.product(("cat", "dog"), range(0, 100, 2))]
    seen = frozenset(digest_of(name) for name in names)
    divided, left_out = divide(photos(), MISSING, seen=seen)
    assert not left_out
    after = parts(divided, "digest")
    assert {after[digest] for digest in seen} == {"train"}
    assert list(after.values()).count("test") == 40  # taken from the others


def test_trained_images_are_left_out_of_the_folders_of_other_parts():
    images = {
        name: [image(f"train/{name}/{index}.jpg") for index in range(20)]
        + [image(f"test/{name}/{index}.jpg", "test") for index in range(5)]
        + [image(f"test/{name}/copy.jpg", "test", digest_of(f"train/{name}/0.jpg"))]
        for name in ("cat", "dog")
    }
    divided, left_out = divide(images, ["validation"], seen=frozenset([digest_of("test/cat/1.jpg")]))
    assert [image.path for image in left_out] == ["test/cat/1.jpg", "test/cat/copy.jpg", "test/dog/copy.jpg"]
    record = record_of(divided)
    assert record.sizes == {"train": 36, "validation": 4, "test": 9}
    # The record keeps images that the run was trained on, even if train no longer has them.
    moved = {name: [i for i in found if i.path != "train/cat/0.jpg"] for name, found in images.items()}
    assert "test/cat/copy.jpg" in [image.path for image in divide(moved, ["validation"], record)[1]]


def test_a_copy_of_a_training_image_is_a_training_image():
    found = photos()
    found["cat"] += [image(f"cat/copy{index}.jpg", digest=digest_of(f"cat/{index}.jpg")) for index in range(100)]
    divided, _ = divide(found, MISSING)
    by_part = {part: {i.digest for i in divided["cat"] if i.part == part} for part in ("train", "validation", "test")}
    assert not by_part["train"] & (by_part["test"] | by_part["validation"])
    assert by_part["test"]
    assert record_of(divide(found, MISSING, record_of(divided))[0]) == record_of(divided)


@pytest.mark.parametrize("trained_on", [frozenset(), frozenset(["0123", "4567"])])
def test_a_record_is_read_as_it_was_written(tmp_path, record, trained_on):
    names = ("cät\t", "new\nline")
    written = record_of(divide(photos(5, names), MISSING)[0], trained_on)
    written.write(tmp_path)
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert DataRecord.read(tmp_path) == written
    DataRecord.read(tmp_path).write(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files
    assert files.keys() == {"data.json", "images.tsv"}


def test_a_run_of_an_earlier_version_has_no_record(tmp_path):
    assert DataRecord.read(tmp_path) is None


@pytest.mark.parametrize("name", ["data.json", "images.tsv"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:60] + bytes([content[60] ^ 1]) + content[61:],
        lambda content: b"\xff" + content,
        lambda content: b"[]",
        lambda content: b"[" * 100_000,
        lambda content: b"",
        None,
    ],
)
def test_damage_is_found(tmp_path, record, name, damage):
    record.write(tmp_path)
    file = tmp_path / name
    if damage:
        file.write_bytes(damage(file.read_bytes()))
    else:
        file.unlink()
        file.mkdir()
    with pytest.raises(StateError, match=r"data\.json is damaged.*Restore data\.json"):
        DataRecord.read(tmp_path)


def test_differences_name_the_change_and_the_images(record):
    assert record.differences(record) == []
    now = photos(101)
    del now["dog"][:2]
    now["cat"][5] = image("cat/5.jpg", digest="another")
    found = record.differences(record_of(divide(now, MISSING, record)[0]))
    part = {image.path: image.part for image in record.images}
    assert any(line.startswith("1 image changed in") and "cat/5.jpg" in line for line in found)
    removed = [line for line in found if "removed from" in line]
    assert all(path in "".join(removed) for path in ("dog/0.jpg", "dog/1.jpg"))
    assert {line.split("removed from ")[1].split(" ")[0] for line in removed} == {part["dog/0.jpg"], part["dog/1.jpg"]}
    assert "cat/100.jpg" in "".join(line for line in found if "added to" in line)
    assert len(found) <= 6
    renamed = record_of(divide(photos(classes=("ape", "dog")), MISSING)[0])
    assert record.differences(renamed)[0] == "classes: cat, dog there, ape, dog now"


def test_differences_of_a_source_without_files():
    sizes = {"train": 8, "validation": 1, "test": 2}
    there = DataRecord("mnist", ("0", "1"), sizes, "1")
    assert there.differences(DataRecord("mnist", ("0", "1"), sizes | {"test": 3}, "2")) == [
        "test images: 2 there, 3 now"
    ]
    assert there.differences(DataRecord("mnist:2", ("0", "1"), sizes, "2")) == [
        "the data: mnist there, mnist:2 now, or another version of it"
    ]
