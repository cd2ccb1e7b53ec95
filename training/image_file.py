"""What an image file says of itself in its header, read before anything is decoded.

TensorFlow has no limit on the size of an image, and takes the palette of a BMP for grey values; what it would not
survive or would get wrong is refused here.
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


def sniff(head):
    """The format that the first 32 bytes of a file show, or None."""
    for offset, signature, name in SIGNATURES:
        if head.startswith(signature, offset):
            return name
    return "HTML or XML" if head.lstrip()[:1] == b"<" else None


@contextlib.contextmanager
def opened(file):
    """Open an image file, and only a regular file: a pipe or a device would never end.

    Raises:
        ImageError: It cannot be read.
    """
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
    with opened(file) as stream:
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
        with opened(file) as stream:
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
        shown = f"; it looks like {kind}" if kind else ""
        raise ImageError(file, "unsupported", f"is not a {FORMATS} image, whatever its suffix says{shown}")
    opened.seek(0)
    header = read_with_pillow(file, opened, kind, deep=kind == "PNG" and head[24:25] == b"\x10")
    if header.height * header.width > MAX_PIXELS:
        raise too_many_pixels(file, f"{header.width}x{header.height} = {header.height * header.width / 1e6:.1f}")
    return header


def too_many_pixels(file, pixels):
    return ImageError(
        file,
        "oversized",
        f"has {pixels} megapixels, more than the {MAX_PIXELS // 10**6} that are decoded",
        "Scale it down, or remove it.",
    )


def read_with_pillow(file, opened, kind, deep):
    from PIL import Image  # a folder of images needs it, TFDS does not

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that are refused by our own limit, and of odd metadata
            image = Image.open(opened, formats=(kind.upper(),))
            frames = kind != "JPEG" and getattr(image, "is_animated", False)
            rotated = exif_orientation(image) > 1
    except Image.DecompressionBombError as error:
        pixels = int(re.search(r"\d+", str(error))[0])  # Pillow's own limit is higher, and it does not say the size
        raise too_many_pixels(file, f"{pixels / 1e6:.1f}") from error
    except Exception as error:  # Pillow has no one class for what it meets in a broken file
        raise ImageError(file, "broken", "cannot be decoded: its header is broken") from error
    mode = image.mode
    if kind == "WebP" and (frames or mode != "RGB"):
        what = "an animated WebP" if frames else "a WebP with transparency"
        raise ImageError(file, "unsupported", f"is {what}, which TensorFlow does not decode to RGB")
    if kind == "BMP" and mode not in ("L", "RGB", "RGBA"):
        raise ImageError(file, "unsupported", "is a BMP with a palette, which TensorFlow takes for grey values")
    found = {
        "grey": mode in ("1", "L", "LA", "I", "I;16"),
        "palette": mode in ("P", "PA"),
        "alpha": image.has_transparency_data,
        "cmyk": mode == "CMYK",
        "deep": deep,
        "frames": frames,
        "rotated": rotated,
    }
    return Header(kind, image.height, image.width, tuple(name for name in CONVERSIONS if found[name]))


def exif_orientation(image):
    """The orientation 1..8 in an image's EXIF data; 1, upright, where it has none that is readable."""
    from PIL import ExifTags, Image

    if "exif" not in image.info:  # Image.getexif would decode a PNG to look for it behind the pixels
        return 1
    exif = Image.Exif()
    exif.load(image.info["exif"])
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def describe_conversions(counts, images):
    """One line on the conversions {name: number of images}; empty where there are none."""
    if not any(counts.values()):
        return ""
    found = [f"{counts[name]} {words}" for name, words in CONVERSIONS.items() if counts[name]]
    return f"{images} images: {', '.join(found)}"


def decode_reason(error):
    """Why TensorFlow does not decode an image, from its error, without the names of its nodes."""
    text = error.message.splitlines()[0]
    return re.sub(r"\{\{.*?\}\} ?|.*Iterator::\S+: | ?\[Op:.*", "", text).rstrip(". ")
