"""Small photographs in folders, a minimal run on them, and the contents of a folder, to compare."""

import os
import random

import numpy as np
from PIL import Image

from training.__main__ import main

CLASSES = ("cat", "dog", "fox")

WORDS = [
    *("fit", "resnet18_photos", "--model", "ResNetCIFAR", "--model_args", '{"depth": 8, "width": 0.25}'),
    *("--image_size", "8", "--batch_size", "8", "--epochs", "2", "--warmup_epochs", "0", "--picture_epochs", "0"),
]


def make_photos(root, classes=CLASSES, count=12):
    """Write `count` different PNG files of 9 x 9 pixels per class into a folder and return the folder."""
    draw = random.Random(str(root.name))
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for image in range(count):
            add_photo(root / name / f"{image}.png", 80 * number, draw)
    return root


def add_photo(file, shade=0, draw=random):
    """Write a PNG file of noise around a gray value."""
    noise = np.frombuffer(draw.randbytes(9 * 9 * 3), np.uint8).reshape(9, 9, 3) // 4
    Image.fromarray(noise + np.uint8(shade)).save(file)


def fit(photos, folder, *options):
    """Run `fit` on photographs and return its exit code."""
    return main([*WORDS, "--data", f"folder:{photos}", "--run", str(folder), *map(str, options)])


def content(folder):
    """Return {relative path: bytes of a file, or target of a link} of everything in a folder."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }
