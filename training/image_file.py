"""Read and check the header of an image file before anything is decoded.

TensorFlow has no limit on the size of an image, and takes the palette of a BMP for grey values. Files that it would
fail on or decode wrongly are refused here. An image that passes needs less than 500 MB, from its file to a batch.
"""

import contextlib
import hashlib
import os
import re
import stat
import warnings
from dataclasses import dataclass

from training.errors import ImageError

MAX_PIXELS = 64_000_000  # 192 MB when decoded; a small PNG can hold a thousand times as many
MAX_BYTES = 64_000_000
MAX_MEMORY = 480_000_000  # bytes of the file and of everything in memory while TensorFlow decodes it
PNG_SIDE = 1_000_000  # pixels; libpng's limit
EDGE = 16_384  # bytes at each end of a file that identify it

# The formats that TensorFlow decodes and whose headers Pillow reads, by suffix.
SUFFIXES = {".bmp": "BMP", ".gif": "GIF", ".jpeg": "JPEG", ".jpg": "JPEG", ".png": "PNG", ".webp": "WebP"}
FORMATS = "JPEG, PNG, GIF, BMP or WebP"

SIGNATURES = (  # (offset, bytes, format); the shortest last
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WebP"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphe", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"jP  ", "JPEG 2000"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"%PDF", "PDF"),
    (0, b"GIF8", "GIF"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"BM", "BMP"),
)

# How TensorFlow converts images to RGB with 8 bits, without reporting it.
CONVERSIONS = {
    "grey": "grey (repeated in three channels)",
    "palette": "with a palette (looked up)",
    "alpha": "with transparency (dropped, not blended)",
    "cmyk": "CMYK (converted)",
    "deep": "with 16 bits per channel (reduced to 8)",
    "frames": "with several frames (the first is used)",
    "rotated": "with an EXIF rotation (ignored)",
}


@dataclass(frozen=True, slots=True)
class Header:
    """Format and size in pixels of an image, and the CONVERSIONS it needs."""

    format: str
    height: int
    width: int
    conversions: tuple[str, ...]


def printable(path):
    """Return a path as text that can be printed and saved: bytes that are not UTF-8 become escapes such as \\xe9."""
    return os.fsencode(path).decode(errors="backslashreplace")


def sniff(head):
    """Return the format that the first 32 bytes of a file indicate, or None."""
    for offset, signature, name in SIGNATURES:
        if head.startswith(signature, offset):
            return name
    return "HTML or XML" if head.lstrip()[:1] == b"<" else None


@contextlib.contextmanager
def open_image(file):
    """Open an image file. Only regular files are opened: reading a pipe or a device might never end.

    Raises:
        ImageError: The file cannot be read.
    """
    name = printable(file)
    if name != str(file):
        raise ImageError(name, "unreadable", "has a name that is not UTF-8", "Rename the file or its folder.")
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise ImageError(file, "unreadable", "is not a regular file", "Remove it.")
        with open(file, "rb") as stream:
            yield stream
    except OSError as error:
        what = "is a link to nothing" if os.path.islink(file) and not os.path.exists(file) else "cannot be read"
        raise ImageError(
            file, "unreadable", f"{what}: {error.strerror or error}", "Make it readable, or remove it."
        ) from error


def read_header(file):
    """Return the Header of an image file without decoding it.

    Raises:
        ImageError: The file cannot be read, is empty, too large or broken, or TensorFlow cannot decode its format.
    """
    with open_image(file) as stream:
        return parse_header(file, stream, os.fstat(stream.fileno()).st_size)


def identity(file, *, strict=True):
    """Return the size of an image file in bytes, and a digest that equal files share, whatever their names.

    The digest covers the size and both ends of the file, so that a large file need not be read. Since images are
    compressed, this tells them apart; a BMP is not compressed and is read as a whole.

    Args:
        file: The path of the file.
        strict: Whether to raise an ImageError for a file that cannot be read; otherwise its path is hashed.
    """
    try:
        with open_image(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            content = stream.read(EDGE)
            if content[:2] != b"BM":
                stream.seek(max(EDGE, size - EDGE))
            content += stream.read()
    except ImageError:
        if strict:
            raise
        size, content = -1, os.fsencode(file)
    return size, hashlib.blake2b(content, digest_size=8, salt=size.to_bytes(8, "big", signed=True)).hexdigest()


def parse_header(file, opened, size):
    """Return the Header of an opened file or of bytes; `size` is their number, `file` the name for errors."""
    head = opened.read(32)
    if not head:
        raise ImageError(file, "empty", "is empty")
    if size > MAX_BYTES:
        raise ImageError(
            file,
            "large",
            f"has {size / 1e6:.1f} MB, more than the limit of {MAX_BYTES // 10**6} MB",
            "Save it smaller, or remove it.",
        )
    kind = sniff(head)
    if kind not in SUFFIXES.values():
        guess = f"; it looks like {kind}" if kind else ""
        raise ImageError(file, "unsupported", f"is not a {FORMATS} image, whatever its suffix says{guess}")
    opened.seek(0)
    return read_with_pillow(file, opened, kind, head, size)


def too_many_pixels(file, pixels):
    """Return the ImageError for an image of so many megapixels, given as text."""
    return ImageError(
        file,
        "oversized",
        f"has {pixels} megapixels, more than the limit of {MAX_PIXELS // 10**6}",
        "Scale it down, or remove it.",
    )


def check_memory(file, bytes_per_pixel, pixels, size, why):
    """Raise an ImageError if decoding an image would take too much memory."""
    needed = size + pixels * bytes_per_pixel
    if needed > MAX_MEMORY:
        raise ImageError(
            file,
            "oversized",
            f"needs {needed / 1e6:.0f} MB to be decoded, {why}; the limit is {MAX_MEMORY // 10**6} MB",
            "Scale it down, save it as a plain JPEG or PNG, or remove it.",
        )


def has_several_scans(opened, image):
    """Return whether a JPEG stores its components in several scans, which all stay in memory until the last is read.

    Args:
        opened: The file at the position where Pillow leaves it, after the header of the first scan.
        image: Pillow's image.
    """
    if image.info.get("progressive") or image.format == "MPO":
        return bool(image.info.get("progressive"))
    opened.seek(opened.tell() - 8 - 2 * image.layers)  # where the header begins if the scan has all components
    return opened.read(2) != b"\xff\xda"


def read_with_pillow(file, opened, kind, head, size):
    """Return the Header of an opened image; the arguments are those of `parse_header`, its format and first bytes."""
    from PIL import Image  # only folders of images need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, for which there is a limit here, and about unusual metadata
            image = Image.open(opened, formats=(kind.upper(),))
            frames = 1 if kind == "JPEG" else getattr(image, "n_frames", 1)
            rotated = exif_orientation(image) > 1
            scans = kind == "JPEG" and has_several_scans(opened, image)
    except Image.DecompressionBombError as error:
        pixels = int(re.search(r"\d+", str(error))[0])  # Pillow's limit is higher, and its error has no sides
        raise too_many_pixels(file, f"{pixels / 1e6:.1f}") from error
    except Exception as error:  # Pillow has no common class for errors in broken files
        raise ImageError(file, "broken", "cannot be decoded: its header is broken") from error
    mode, pixels = image.mode, image.height * image.width
    if pixels > MAX_PIXELS:
        raise too_many_pixels(file, f"{image.width}x{image.height} = {pixels / 1e6:.1f}")
    if kind == "PNG" and max(image.size) > PNG_SIDE:
        raise ImageError(file, "oversized", f"has a side of {max(image.size)} pixels; the limit of PNG is {PNG_SIDE}")
    if kind == "GIF":
        check_memory(file, 3 + frames, pixels, size, f"since all its {frames} frames are decoded")
    elif scans:
        check_memory(file, 3 + 2 * image.layers, pixels, size, "since a progressive JPEG is decoded as a whole")
    elif kind == "WebP" and head[12:16] != b"VP8 ":
        check_memory(file, 7, pixels, size, "since a lossless WebP takes four bytes per pixel meanwhile")
    if kind == "WebP" and (frames > 1 or mode != "RGB"):
        what = "an animated WebP" if frames > 1 else "a WebP with transparency"
        raise ImageError(file, "unsupported", f"is {what}, which TensorFlow does not decode to RGB")
    if kind == "BMP" and mode == "P":
        raise ImageError(file, "unsupported", "is a BMP with a palette, which TensorFlow takes for grey values")
    if kind == "BMP":
        codec, _, _, (order, *_) = image.tile[0]
        if head[14] < 40 or codec != "raw" or order not in ("L", "BGR", "BGRX", "BGRA"):
            raise ImageError(
                file, "unsupported", "is a BMP that is compressed, has an old header, or does not have 8, 24 or 32 bits"
            )
    found = {
        "grey": mode in ("1", "L", "LA", "I", "I;16"),
        "palette": mode in ("P", "PA"),
        "alpha": image.has_transparency_data,
        "cmyk": mode == "CMYK",
        "deep": kind == "PNG" and head[24:25] == b"\x10",
        "frames": frames > 1,
        "rotated": rotated,
    }
    return Header(kind, image.height, image.width, tuple(name for name in CONVERSIONS if found[name]))


def exif_orientation(image):
    """Return the orientation 1..8 in an image's EXIF data; 1, upright, if there is none or it is invalid."""
    from PIL import ExifTags, Image

    if "exif" not in image.info:  # Image.getexif would decode a PNG to look for EXIF after the pixels
        return 1
    exif = Image.Exif()
    exif.load(image.info["exif"])
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def describe_conversions(counts, images):
    """Return a line about the conversions {name: number of images}; empty if there are none."""
    if not any(counts.values()):
        return ""
    found = [f"{counts[name]} {words}" for name, words in CONVERSIONS.items() if counts[name]]
    return f"converted to RGB with 8 bits, of {images} images: {', '.join(found)}"


def decode_reason(error):
    """Return why TensorFlow could not read or decode an image: its error without the names of graph nodes."""
    text = error.message.splitlines()[0]
    return re.sub(r"\{\{.*?\}\} ?|.*Iterator::\S+: | ?\[Op:.*", "", text).replace("; ", ": ").rstrip(". ")
