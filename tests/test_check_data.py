"""check-data on broken, hostile and unusual files: its report on each, and its exit code."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.image_files import black_png, png_chunk, png_header
from training import check_data, image_file
from training.__main__ import main
from training.errors import ImageError, UserError
from training.pixels import decode

RANDOM = np.random.RandomState(0)


def pixels(*shape):
    return Image.fromarray(RANDOM.randint(0, 256, shape or (20, 30, 3)).astype(np.uint8))


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg_of_a_size(width, height, **options):
    """Return a JPEG whose header claims this size, with the data of a small one."""
    jpeg = encode(pixels(), "JPEG", **options)
    at = jpeg.index(b"\xff\xc2" if options else b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def gif_of_a_size(width, height, count):
    """Return a GIF with `count` frames whose header claims this size."""
    gif = frames("GIF", count)
    return gif[:6] + struct.pack("<HH", width, height) + gif[10:]


def bmp(bits, compression, data, *, header=40, palette=b""):
    """Return a BMP of 8x6 pixels; of a header under 40 bytes only the size field is right."""
    info = struct.pack("<IiiHHIIiiII", header, 8, 6, 1, bits, compression, len(data), 0, 0, len(palette) // 4, 0)
    if header < 40:
        info = struct.pack("<IHHHH", header, 8, 6, 1, bits)
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + palette + data


def corrupt(jpeg):
    """Return a JPEG with zeros in the middle of its data."""
    middle = len(jpeg) // 2
    return jpeg[:middle] + bytes(64) + jpeg[middle + 64 :]


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def frames(kind, count=2):
    return encode(pixels(), kind, save_all=True, append_images=[pixels() for _ in range(count - 1)])


def palette(**options):
    return encode(pixels().convert("P"), "PNG", **options)


GREYS = bytes(value for grey in range(256) for value in (grey, grey, grey, 0))

BROKEN = {
    "truncated.jpg": ("broken", encode(pixels(), "JPEG")[:-100], "cannot be decoded: jpeg::Uncompress failed"),
    "header.png": ("broken", b"\x89PNG\r\n\x1a\n", "its header is broken"),
    "claims.jpg": (
        "oversized",
        jpeg_of_a_size(12000, 12000),
        "has 12000x12000 = 144.0 megapixels, more than",
    ),
    "bomb.png": ("oversized", black_png(8000, 8001), "has 8000x8001 = 64.0 megapixels"),
    "long.png": ("oversized", black_png(1, 1_000_001), "has a side of 1000001 pixels"),
    "pillows.png": ("oversized", png_header(20000, 20000, 8, 0) + png_chunk(b"IDAT", b""), "has 400.0 megapixels"),
    "zero.jpg": ("empty", b"", "is empty"),
    "page.jpg": ("unsupported", b"\n<!doctype html><html>", "it looks like HTML"),
    "words.gif": ("unsupported", b"dear image", "is not a JPEG, PNG, GIF, BMP or WebP image"),
    "scan.jpg": ("unsupported", encode(pixels(), "TIFF"), "it looks like TIFF"),
    "phone.jpg": ("unsupported", b"\0\0\0\x18ftypheic" + bytes(50), "it looks like HEIC"),
    "moves.webp": ("unsupported", frames("WEBP"), "is an animated WebP"),
    "clear.webp": ("unsupported", encode(pixels(20, 30, 4), "WEBP"), "is a WebP with transparency"),
    "progressive.jpg": (
        "oversized",
        jpeg_of_a_size(8000, 7000, progressive=True),
        "needs 504 MB to be decoded, since a",
    ),
    "frames.gif": ("oversized", gif_of_a_size(8000, 8000, 5), "needs 512 MB to be decoded, since all its 5 frames"),
    "16_bits.bmp": ("unsupported", bmp(16, 0, bytes(96)), "is a BMP that is compressed"),
    "packed.bmp": ("unsupported", bmp(8, 1, b"\x08\x40\0\0" * 6 + b"\0\1", palette=GREYS), "is a BMP that is"),
    "old.bmp": ("unsupported", bmp(24, 0, bytes(144), header=12), "is a BMP that is compressed, has an old header"),
    "palette.bmp": ("unsupported", encode(pixels().convert("P"), "BMP"), "is a BMP with a palette"),
}

# {file: (its conversions, its content)}.
ODD = {
    "grey.jpg": (["grey"], encode(pixels(20, 30), "JPEG")),
    "grey.png": (["grey", "alpha"], encode(pixels(20, 30, 4).convert("LA"), "PNG")),
    "one_bit.png": (["grey"], encode(pixels(20, 30).convert("1"), "PNG")),
    "palette.png": (["palette"], palette()),
    "clear_palette.png": (["palette", "alpha"], palette(transparency=0)),
    "alpha.png": (["alpha"], encode(pixels(20, 30, 4), "PNG")),
    "cmyk.jpg": (["cmyk"], encode(pixels().convert("CMYK"), "JPEG")),
    "deep_grey.png": (["grey", "deep"], encode(Image.fromarray(np.full((4, 6), 40000, np.uint16)), "PNG")),
    "deep.png": (["deep"], tf.io.encode_png(np.full((4, 6, 3), 40000, np.uint16)).numpy()),
    "moves.gif": (["palette", "frames"], frames("GIF")),
    "turned.jpg": (["rotated"], encode(pixels(), "JPEG", exif=exif(6))),
    "turned.png": (["rotated"], encode(pixels(), "PNG", exif=exif(8))),
    "upright.jpg": ([], encode(pixels(), "JPEG", exif=exif(1))),
    "plain.webp": ([], encode(pixels(), "WEBP")),
    "plain.bmp": ([], encode(pixels(), "BMP")),
    "grey.bmp": (["grey"], bmp(8, 0, bytes(range(48)), palette=GREYS)),
    "alpha.bmp": ([], encode(pixels(20, 30, 4), "BMP")),
}


def write(root, files):
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def good(classes=("cat", "dog"), count=4):
    return {
        f"{name}/{index}.png": encode(pixels(8 + index, 12, 3), "PNG") for name in classes for index in range(count)
    }


@pytest.fixture
def run(capsys):
    """Return a function that runs check-data and returns its exit code, its report and its error message."""

    def run(*arguments):
        code = main(["check-data", *map(str, arguments)])
        return (code, *capsys.readouterr())

    return run


def under(report, title):
    """Return the lines of the report below a title."""
    blocks = [block.splitlines() for block in report.split("\n\n")]
    return next(([line.strip() for line in lines] for first, *lines in blocks if title in first), [])


def test_a_clean_folder_exits_0_with_its_counts(run, tmp_path):
    code, report, message = run(write(tmp_path, good()))
    assert (code, message) == (0, "")
    assert f"{tmp_path}: 8 images in 2 classes" in report
    assert "classes  cat 4, dog 4" in report
    assert "parts    test 2, train 4, validation 2" in report
    assert "height   8 to 11 pixels, median 10" in report
    assert "width    12 to 12 pixels, median 12" in report
    assert "0 errors, 0 warnings" in report
    assert "converted" not in report


def test_each_broken_file_is_found_under_its_kind(run, tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(check_data, "decode", lambda encoded: decoded.append(encoded.numpy()) or decode(encoded))
    root = write(tmp_path, good() | {f"cat/{name}": content for name, (_, content, _) in BROKEN.items()})
    code, report, message = run(f"folder:{root}")
    assert code == 3
    assert f"{len(BROKEN)} errors, 0 warnings" in report
    assert "cannot be trained on as it is" in message
    for name, (kind, content, words) in BROKEN.items():
        lines = under(report, f"error: {check_data.ERRORS[kind]} (")
        assert [line for line in lines if line.startswith(f"{root / 'cat' / name} ") and words in line], name
        assert (content in decoded) == (name == "truncated.jpg"), name  # the others are refused by their header
    assert len(decoded) == 9  # with the eight good ones


@pytest.mark.parametrize("name", BROKEN)
def test_tensorflow_would_fail_on_each_refused_file(name):
    """TensorFlow raises an error, or decodes to wrong colors, or a small file needs much memory."""
    kind, content, _ = BROKEN[name]
    if kind == "oversized":
        assert len(content) < 100_000
    elif name == "palette.bmp":
        true = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        assert not np.array_equal(decode(tf.constant(content)), true)
    else:
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(tf.constant(content))


def test_conversions_are_counted(run, tmp_path):
    root = write(tmp_path, good() | {f"cat/{name}": content for name, (_, content) in ODD.items()})
    code, report, _ = run(root)
    assert code == 0
    counts = {name: sum(name in found for found, _ in ODD.values()) for name in image_file.CONVERSIONS}
    line = next(line for line in report.splitlines() if "converted to" in line)
    assert line.strip() == f"converted to RGB with 8 bits, of {len(ODD) + 8} images: " + ", ".join(
        f"{counts[name]} {words}" for name, words in image_file.CONVERSIONS.items()
    )
    assert "BMP 3, GIF 1, JPEG 4, PNG 16, WebP 1" in report


@pytest.mark.parametrize("name", ODD)
def test_each_header_has_its_conversions_and_size(tmp_path, name):
    conversions, content = ODD[name]
    header = image_file.read_header(write(tmp_path, {name: content}) / name)
    assert list(header.conversions) == conversions
    assert (header.height, header.width) == decode(tf.constant(content)).shape[:2]


def test_a_jpeg_that_is_damaged_inside_is_named(run, tmp_path):
    photo = encode(pixels(60, 80, 3), "JPEG")
    files = good() | {"cat/whole.jpg": photo, "dog/damaged.jpg": corrupt(encode(pixels(60, 80, 3), "JPEG"))}
    code, report, message = run(write(tmp_path, files))
    assert (code, message) == (0, "")
    (line,) = under(report, check_data.WARNINGS["damaged"])
    assert line.startswith(f"{tmp_path}/dog/damaged.jpg: Corrupt JPEG data")


def test_ignored_files_and_folders_are_listed(run, tmp_path):
    """Opening one of the pipes would block forever."""
    parts = {f"{part}/{path}": content for part in ("train", "valid") for path, content in good().items()}
    write(tmp_path, parts | {"train/stray.png": b"", "notes.txt": b"", "extra/cow/1.png": encode(pixels(), "PNG")})
    os.mkfifo(tmp_path / "train" / "cat" / "pipe")
    os.mkfifo(tmp_path / "valid" / "pipe.png")
    code, report, _ = run(tmp_path)
    assert code == 0
    assert "parts    test 8, train 6, validation 2" in report
    beside = [f"{tmp_path}/{name}" for name in ("extra", "notes.txt", "train/stray.png", "valid/pipe.png")]
    assert under(report, check_data.WARNINGS["beside"]) == beside
    assert under(report, check_data.WARNINGS["ignored"]) == [f"{tmp_path}/train/cat/pipe"]
    os.mkfifo(tmp_path / "train" / "cat" / "pipe.png")
    code, report, _ = run(tmp_path)
    assert code == 3
    assert under(report, check_data.ERRORS["unreadable"]) == [f"{tmp_path}/train/cat/pipe.png is not a regular file"]


def test_names_that_are_not_utf_8_are_shown_with_escapes(run, tmp_path):
    write(tmp_path, good(("caf\udce9", "cat")))
    (tmp_path / "cat" / "caf\udce9.png").write_bytes(encode(pixels(), "PNG"))
    (tmp_path / "cat" / "caf\udce9.txt").write_bytes(b"")
    code, report, _ = run(tmp_path)
    assert code == 3
    lines = under(report, check_data.ERRORS["unreadable"])
    assert f"{tmp_path}/cat/caf\\xe9.png has a name that is not UTF-8" in lines
    assert len(lines) == 5
    assert under(report, check_data.WARNINGS["ignored"]) == [f"{tmp_path}/cat/caf\\xe9.txt"]


def test_tiny_and_very_thin_images_are_warnings(run, tmp_path):
    odd = {"cat/dot.png": pixels(1, 1, 3), "cat/line.png": pixels(1, 4000, 3), "dog/strip.png": pixels(8, 81, 3)}
    write(tmp_path, good() | {path: encode(image, "PNG") for path, image in odd.items()})
    code, report, _ = run(tmp_path)
    assert code == 0
    sizes = {"cat/dot.png": "1x1", "cat/line.png": "4000x1", "dog/strip.png": "81x8"}
    assert under(report, check_data.WARNINGS["tiny"]) == [
        f"{tmp_path}/{path} has {size} pixels" for path, size in sizes.items()
    ]


def test_wrong_suffixes_duplicates_and_ignored_files_are_warnings(run, tmp_path):
    files = good(count=8)
    files["cat/really.jpg"] = encode(pixels(), "PNG")
    files["cat/again.png"] = files["dog/again.png"] = files["cat/0.png"]
    files |= {"dog/notes.txt": b"dear dog", "dog/scan.tif": encode(pixels(), "TIFF"), "dog/Thumbs.db": b"1"}
    files |= {"dog/.hidden.png": b"", "dog/.git/1.png": b"", ".cache/1.png": b""}
    code, report, _ = run(write(tmp_path, files))
    assert code == 0
    assert under(report, check_data.WARNINGS["suffix"]) == [f"{tmp_path}/cat/really.jpg is PNG"]
    assert under(report, check_data.WARNINGS["ignored"]) == [
        f"{tmp_path}/dog/Thumbs.db",
        f"{tmp_path}/dog/notes.txt",
        f"{tmp_path}/dog/scan.tif (looks like TIFF)",
    ]
    assert under(report, check_data.WARNINGS["hidden"]) == [f"{tmp_path}/dog/.git/1.png", f"{tmp_path}/dog/.hidden.png"]
    ambiguous = under(report, check_data.WARNINGS["ambiguous"])
    assert len(ambiguous) == 1
    assert ambiguous[0].startswith(f"{tmp_path}/dog/again.png (")
    assert f" = {tmp_path}/cat/0.png (" in ambiguous[0]


def test_a_copy_in_another_part_is_a_leak_and_in_the_same_part_a_duplicate(run, tmp_path):
    files = {f"{part}/{path}": content for part in ("train", "test") for path, content in good().items()}
    files["train/cat/twin.png"] = files["train/cat/1.png"]
    files["test/dog/twin.png"] = files["train/dog/1.png"]
    files["val/cat/1.png"], files["val/dog/1.png"] = encode(pixels(), "PNG"), encode(pixels(), "PNG")
    code, report, _ = run(write(tmp_path, files))
    assert code == 0
    assert under(report, check_data.WARNINGS["leak"]) == [
        f"{tmp_path}/test/dog/twin.png (test) = {tmp_path}/train/dog/1.png (train)"
    ]
    assert under(report, check_data.WARNINGS["duplicate"]) == [
        f"{tmp_path}/train/cat/twin.png (train) = {tmp_path}/train/cat/1.png (train)"
    ]


def test_an_image_in_two_classes_and_in_two_parts_is_listed_as_both(run, tmp_path):
    files = {f"{part}/{path}": content for part in ("train", "val", "test") for path, content in good().items()}
    files = {path: content + path.encode() for path, content in files.items()}  # all differ, and they still decode
    files["test/dog/twin.png"] = files["train/cat/1.png"]
    _, report, _ = run(write(tmp_path, files))
    twins = [f"{tmp_path}/test/dog/twin.png (test) = {tmp_path}/train/cat/1.png (train)"]
    assert under(report, check_data.WARNINGS["leak"]) == under(report, check_data.WARNINGS["ambiguous"]) == twins


def test_broken_links_and_files_without_permission_are_unreadable(run, tmp_path):
    write(tmp_path, good())
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere")
    paths = [f"{tmp_path}/cat/gone.png is a link to nothing: No such file or directory"]
    if os.getuid():  # root reads everything
        (tmp_path / "dog" / "1.png").chmod(0)
        paths.append(f"{tmp_path}/dog/1.png cannot be read: Permission denied")
    code, report, _ = run(tmp_path)
    assert code == 3
    assert under(report, check_data.ERRORS["unreadable"]) == paths


def test_a_file_of_too_many_bytes_is_not_read(tmp_path):
    large = tmp_path / "large.png"
    large.write_bytes(encode(pixels(), "PNG"))
    os.truncate(large, image_file.MAX_BYTES)
    assert image_file.read_header(large).format == "PNG"
    os.truncate(large, image_file.MAX_BYTES + 1)  # a sparse file, which takes no disk space
    with pytest.raises(ImageError, match=r"large\.png has 64\.0 MB, more than the limit of 64 MB") as raised:
        image_file.read_header(large)
    assert raised.value.kind == "large"


def test_64_megapixels_are_accepted_and_one_more_row_is_not(tmp_path):
    write(tmp_path, {"most.png": black_png(8000, 8000), "more.png": black_png(8000, 8001)})
    assert image_file.read_header(tmp_path / "most.png").height == 8000
    with pytest.raises(ImageError, match="megapixels"):
        image_file.read_header(tmp_path / "more.png")


def test_bad_folders_are_reported_together_with_broken_files(run, tmp_path):
    root = write(tmp_path, good() | {"cat/zero.jpg": b""})
    (root / "empty").mkdir()
    code, report, _ = run(root)
    assert code == 3
    assert "empty has no images" in under(report, check_data.ERRORS["layout"])[0]
    assert under(report, check_data.ERRORS["empty"]) == [f"{root}/cat/zero.jpg is empty"]
    assert "classes  cat 5, dog 4, empty 0" in report


def test_at_most_twenty_paths_per_kind_are_listed_without_all(run, tmp_path):
    root = write(tmp_path, good() | {f"cat/{index:02d}.jpg": b"" for index in range(23)})
    _, report, _ = run(root)
    lines = under(report, "(23)")
    assert len(lines) == 21
    assert lines[-1] == "and 3 more (--all lists them)"
    _, report, _ = run(root, "--all")
    assert under(report, "(23)") == [f"{root}/cat/{index:02d}.jpg is empty" for index in range(23)]


def test_tfds_is_checked_too(run):
    code, report, _ = run("digits")
    assert code == 0
    assert "1797 images in 10 classes" in report
    assert "parts    test 360, train 1293, validation 144" in report
    assert "of 1797 images: 1797 grey" in report


def test_a_broken_image_of_tfds_is_named_by_its_position(monkeypatch):
    real = check_data.tfds_data

    def spoilt(*arguments, **options):
        data = real(*arguments, **options)
        for split in (data.train, data.validation):  # four images of each are enough
            object.__setattr__(split, "load", lambda order, load=split.load: load(order).take(4))
        encoded = [b for b, *_ in data.test.load(None).take(4).as_numpy_iterator()]
        encoded[2] = frames("WEBP")
        object.__setattr__(data.test, "load", lambda order: tf.data.Dataset.from_tensor_slices((encoded, [0] * 4)))
        return data

    monkeypatch.setattr(check_data, "tfds_data", spoilt)
    report = check_data.check_source("digits")
    assert report.problems["unsupported"] == [
        "test image 2 is an animated WebP, which TensorFlow does not decode to RGB"
    ]


@pytest.mark.parametrize(("source", "words"), [("folder:nowhere", "no such folder"), ("synthetic", "nothing to check")])
def test_a_source_that_cannot_be_checked_exits_2(run, source, words):
    code, _, message = run(source)
    assert code == 2
    assert words in message


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UserError, match="Did you mean"):
        check_data.check_source("digts")


def test_paths_are_not_escaped(tmp_path):
    """A path can be copied from the report, with spaces and quotes as they are."""
    report = check_data.check_source(str(write(tmp_path, good() | {"cat/a b'ä.jpg": b""})))
    assert Path(report.problems["empty"][0].removesuffix(" is empty")).is_file()
