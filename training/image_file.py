"""What an image file says of itself in its header, read before anything is decoded.

TensorFlow has no limit on the size of an image, and takes the palette of a BMP for grey values; what it would not
survive or would get wrong is refused here. An image that passes takes less than 500 MB, from its file to a batch.
"""

import contextlib
import hashlib
import os
import re
import stat
import warnings
from dataclasses import dataclass

from training.errors import ImageError

MAX_PIXELS = 64_000_000  # decoded, 192 MB; PNG packs a thousand times that into a small file
MAX_BYTES = 64_000_000
MAX_MEMORY = 480_000_000  # bytes of the file and of all that is in memory while TensorFlow decodes it
PNG_SIDE = 1_000_000  # libpng decodes no more
EDGE = 16_384  # bytes at both ends of a file that tell it from others

# The formats that TensorFlow decodes and Pillow can tell the size of, by suffix.
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

# What becomes of an image on its way to RGB with 8 bits, without a word from TensorFlow.
CONVERSIONS = {
    "grey": "grey (repeated in three channels)",
    "palette": "with a palette (looked up)",
    "alpha": "with transparency (dropped, not blended)",
    "cmyk": "CMYK (converted)",
    "deep": "with 16 bits a channel (reduced to 8)",
    "frames": "with several frames (the first is used)",
    "rotated": "with an EXIF rotation (ignored)",
}


@dataclass(frozen=True, slots=True)
class Header:
    """Format, size in pixels, and which of CONVERSIONS the image goes through."""

    format: str
    height: int
    width: int
    conversions: tuple[str, ...]


def shown(path):
    """Return a path as text that can be printed and saved: a byte that is not UTF-8 becomes an escape such as \\xe9."""
    return os.fsencode(path).decode(errors="backslashreplace")


def sniff(head):
    """The format that the first 32 bytes of a file show, or None."""
    for offset, signature, name in SIGNATURES:
        if head.startswith(signature, offset):
            return name
    return "HTML or XML" if head.lstrip()[:1] == b"<" else None


@contextlib.contextmanager
def open_image(file):
    """Open an image file, and only a regular file: a pipe or a device would never end.

    Raises:
        ImageError: It cannot be read.
    """
    if shown(file) != str(file):
        raise ImageError(shown(file), "unreadable", "has a name that is not UTF-8", "Rename the file or its folder.")
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
    """Return the header of an image file; nothing is decoded.

    Raises:
        ImageError: It cannot be read, is empty, too large, broken, or of a kind that TensorFlow does not decode.
    """
    with open_image(file) as stream:
        return parse_header(file, stream, os.fstat(stream.fileno()).st_size)


def identity(file, *, strict=True):
    """Return the size of an image file in bytes, and a digest that equal files share, whatever their names.

    The digest is that of the size and of both ends of the file, so that a large one need not be read. That tells images
    apart, since they are compressed; a BMP is not, and is read whole.

    Args:
        file: Its path.
        strict: Whether to raise an ImageError for a file that cannot be read, or to give it a digest of its own.
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
    """Like read_header, for an opened file or bytes of this size; `file` is the name for errors."""
    head = opened.read(32)
    if not head:
        raise ImageError(file, "empty", "is empty")
    if size > MAX_BYTES:
        raise ImageError(
            file,
            "large",
            f"has {size / 1e6:.1f} MB, more than the {MAX_BYTES // 10**6} MB that are read",
            "Save it smaller, or remove it.",
        )
    kind = sniff(head)
    if kind not in SUFFIXES.values():
        guess = f"; it looks like {kind}" if kind else ""
        raise ImageError(file, "unsupported", f"is not a {FORMATS} image, whatever its suffix says{guess}")
    opened.seek(0)
    return read_with_pillow(file, opened, kind, head, size)


def too_many_pixels(file, pixels):
    return ImageError(
        file,
        "oversized",
        f"has {pixels} megapixels, more than the {MAX_PIXELS // 10**6} that are decoded",
        "Scale it down, or remove it.",
    )


def check_memory(file, bytes_per_pixel, pixels, size, why):
    """Raise an ImageError for an image that takes too much memory while it is decoded."""
    needed = size + pixels * bytes_per_pixel
    if needed > MAX_MEMORY:
        raise ImageError(
            file,
            "oversized",
            f"needs {needed / 1e6:.0f} MB to be decoded, {why}; {MAX_MEMORY // 10**6} MB are the most",
            "Scale it down, save it as a plain JPEG or PNG, or remove it.",
        )


def has_several_scans(opened, image):
    """Whether a JPEG has its components in several scans, all of which are in memory until the last is read.

    Args:
        opened: The file, as Pillow leaves it: after the header of the first scan.
        image: Pillow's image.
    """
    if image.info.get("progressive") or image.format == "MPO":
        return bool(image.info.get("progressive"))
    opened.seek(opened.tell() - 8 - 2 * image.layers)  # where the header begins if it has all components
    return opened.read(2) != b"\xff\xda"


def read_with_pillow(file, opened, kind, head, size):
    from PIL import Image  # a folder of images needs it, TFDS does not

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that are refused by our own limit, and of odd metadata
            image = Image.open(opened, formats=(kind.upper(),))
            frames = 1 if kind == "JPEG" else getattr(image, "n_frames", 1)
            rotated = exif_orientation(image) > 1
            scans = kind == "JPEG" and has_several_scans(opened, image)
    except Image.DecompressionBombError as error:
        pixels = int(re.search(r"\d+", str(error))[0])  # Pillow's own limit is higher, and it does not say the size
        raise too_many_pixels(file, f"{pixels / 1e6:.1f}") from error
    except Exception as error:  # Pillow has no one class for what it meets in a broken file
        raise ImageError(file, "broken", "cannot be decoded: its header is broken") from error
    mode, pixels = image.mode, image.height * image.width
    if pixels > MAX_PIXELS:
        raise too_many_pixels(file, f"{image.width}x{image.height} = {pixels / 1e6:.1f}")
    if kind == "PNG" and max(image.size) > PNG_SIDE:
        raise ImageError(file, "oversized", f"has a side of {max(image.size)} pixels; {PNG_SIDE} are the most in a PNG")
    if kind == "GIF":
        check_memory(file, 3 + frames, pixels, size, f"since all of its {frames} frames are")
    elif scans:
        check_memory(file, 3 + 2 * image.layers, pixels, size, "since a progressive JPEG is decoded as a whole")
    elif kind == "WebP" and head[12:16] != b"VP8 ":
        check_memory(file, 7, pixels, size, "since a lossless WebP has four bytes a pixel on the way")
    if kind == "WebP" and (frames > 1 or mode != "RGB"):
        what = "an animated WebP" if frames > 1 else "a WebP with transparency"
        raise ImageError(file, "unsupported", f"is {what}, which TensorFlow does not decode to RGB")
    if kind == "BMP" and mode == "P":
        raise ImageError(file, "unsupported", "is a BMP with a palette, which TensorFlow takes for grey values")
    if kind == "BMP":
        codec, _, _, (order, *_) = image.tile[0]
        if head[14] < 40 or codec != "raw" or order not in ("L", "BGR", "BGRX", "BGRA"):
            raise ImageError(
                file, "unsupported", "is a BMP that is compressed, has an old header, or has not 8, 24 or 32 bits"
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
    """Return the orientation 1..8 in an image's EXIF data; 1, upright, where it cannot be read."""
    from PIL import ExifTags, Image

    if "exif" not in image.info:  # Image.getexif would decode a PNG to look for it after the pixels
        return 1
    exif = Image.Exif()
    exif.load(image.info["exif"])
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def describe_conversions(counts, images):
    """Return a line on the conversions {name: number of images}; empty where there are none."""
    if not any(counts.values()):
        return ""
    found = [f"{counts[name]} {words}" for name, words in CONVERSIONS.items() if counts[name]]
    return f"converted to RGB with 8 bits, of {images} images: {', '.join(found)}"


def decode_reason(error):
    """Return why TensorFlow does not read or decode an image, from its error, without the names of its nodes."""
    text = error.message.splitlines()[0]
    return re.sub(r"\{\{.*?\}\} ?|.*Iterator::\S+: | ?\[Op:.*", "", text).replace("; ", ": ").rstrip(". ")
