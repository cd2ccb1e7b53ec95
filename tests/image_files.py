"""Write image files and folders of them, and load such folders."""

import struct
import zlib

import numpy as np
import tensorflow as tf

from training.data import load_data
from training.recipe import Recipe


def write_images(root, classes=("cat", "dog"), count=10, suffix="png", channels=3):
    """Write `count` images for each class below a folder and return it; images of different folders differ too."""
    random = np.random.RandomState(zlib.crc32(str(root).encode()))
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(count):
            image = random.randint(0, 256, (6, 9, channels)).astype(np.uint8)
            encode = {"png": tf.io.encode_png, "jpg": tf.io.encode_jpeg}[suffix]
            (root / name / f"{index}.{suffix}").write_bytes(encode(image).numpy())
    return root


def from_folder(root, **fields):
    """Load the images in a folder, by default for images of 8 pixels and batches of 2."""
    return load_data(Recipe(data=f"folder:{root}", image_size=8, **{"batch_size": 2} | fields))


def png_header(width, height, depth, color):
    """Return the signature and the header of a PNG; the other chunks follow."""
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))


def png_chunk(name, data):
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def black_png(width, height):
    """Return a black PNG of one bit per pixel: a small file of a large image."""
    rows = zlib.compress((b"\0" + bytes((width + 7) // 8)) * height, 9)
    return png_header(width, height, 1, 0) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
