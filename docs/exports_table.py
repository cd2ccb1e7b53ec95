"""Write the table of exports in docs/exports.md: python -m docs.exports_table RUN...

Every family in every format: the largest error on 20 photographs, the size, the images per second at batches of 1 and
8, and, of the runs on the digits that are passed, the accuracy before and after int8 quantization. It needs
requirements-export.txt and scikit-image, whose photographs it reads.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import keras_cnns
from training.errors import UserError
from training.measure import alone

PAGE = Path(__file__).parent / "exports.md"
BEGIN, END = "<!-- exports -->\n", "<!-- end of exports -->\n"
HEADER = (
    "| network | format | MiB | largest error | images/s, batch 1 | batch 8 | accuracy on the digits |\n"
    "| --- | --- | --- | --- | --- | --- | --- |\n"
)
NETWORKS = (
    "AlexNet",
    "VGG16",
    "GoogLeNet",
    "ResNet50",
    "DenseNet121",
    "SEResNet50",
    "EfficientNetB0",
    "DeformableResNet50",
)
# {format: (what is written, quantization)}
FORMATS = {
    "SavedModel": ("export", None),
    "ONNX": ("model.onnx", None),
    "OpenVINO": ("model.xml", None),
    "LiteRT": ("model.tflite", None),
    "LiteRT, float16": ("model_float16.tflite", "float16"),
    "LiteRT, int8": ("model_int8.tflite", "int8"),
}
PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "microaneurysms", "moon", "page", "retina", "rocket"),
)
SECONDS = 2  # that a format is timed for, at each size of the batch


def photographs(size):
    """Return 20 photographs of scikit-image and scikit-learn, (20, size, size, 3), RGB 0..255."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    left, *_ = data.stereo_motorcycle()
    photos = [*load_sample_images().images, left, *(getattr(data, name)() for name in PHOTOGRAPHS)]
    photos = [photo if photo.ndim == 3 else np.repeat(photo[..., None], 3, axis=2) for photo in photos]
    photos = [keras_cnns.resize_and_crop(photo[..., :3], keras_cnns.ImageSize(size)) for photo in photos]
    return np.stack([np.asarray(photo) for photo in photos])


def per_second(export, images):
    """Return the images per second of an export, after a first batch that does not count."""
    export(images)
    count, started = 0, time.perf_counter()
    while (taken := time.perf_counter() - started) < SECONDS or count < 3:
        export(images)
        count += 1
    return count * len(images) / taken


def figures(name):
    """Return {format: the figures of a network as texts, or why there are none}."""
    from training import formats

    network = keras_cnns.builder(name)(weights=None)
    images = photographs(network.input_shape[1])
    found = {}
    for kind, (file, quantize) in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            options = {"images": images, "quantize": quantize, "representative": images}
            try:
                written = formats.export(network, f"{folder}/{file}", **options)
            except UserError as error:
                found[kind] = ["-", f"refused: {error}".partition(": ")[2].partition(". Export")[0], "-", "-"]
                continue
            export = formats.Export(written.file)
            largest = float(np.asarray(export(images)).max())
            speeds = [per_second(export, images[:batch]) for batch in (1, 8)]
        # The probabilities of 1,000 classes are small before training: the error is in units of the largest.
        error = f"{written.difference / largest:.1e}"
        found[kind] = [f"{written.size / 2**20:.1f}", error, *(f"{speed:.1f}" for speed in speeds)]
    return found


def accuracies(folder):
    """Return the family of a run's network, and its accuracy before and after int8 quantization as text."""
    from training import formats
    from training.run_folder import Run

    run = Run.open(folder)
    before, after = formats.write(run, "litert", quantize="int8").accuracy
    return family(run.recipe.model), f"{run.recipe.model}: {before:.2%}, then {after:.2%}"


def family(name):
    """Return the family of a network: the beginning of the name of its module."""
    return keras_cnns.builder(name).__module__.rpartition(".")[2].partition("_")[0]


def rows(runs):
    """Measure and yield the lines of the table."""
    digits = dict(alone(accuracies, run) for run in runs)
    for name in NETWORKS:
        for kind, texts in alone(figures, name).items():
            accuracy = digits.get(family(name), "") if kind == "LiteRT, int8" else ""
            line = f"| {' | '.join((name, kind, *texts, accuracy))} |\n"
            print(line, end="", flush=True)
            yield line


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(BEGIN)
    table = "".join(rows(sys.argv[1:]))
    PAGE.write_text(before + BEGIN + HEADER + table + END + rest.partition(END)[2])
