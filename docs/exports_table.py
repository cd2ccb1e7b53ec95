"""Write the table of exports in docs/exports.md: python -m docs.exports_table [NETWORK...] [RUN...]

The rows of the networks and runs that are named are measured again, the others stay; without names all networks are.
Every family in every format: the largest error on 20 photographs, the size, the images per second at batches of 1 and
8, and, of the runs on the digits that are passed, the accuracy before and after int8 quantization. It needs
requirements-export.txt and scikit-image, whose photographs it reads.
"""

import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import keras_cnns
from training.errors import ResourceError, UserError
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
LARGE = ("AlexNet", "VGG16")  # all their formats in one process would take more than 24 GiB
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


def see(network, images):
    """Give a network the moving statistics of some images, RGB 0..255, and small offsets to its deformable layers.

    With the initial statistics the activations of a ResNet would grow from block to block until one class had all of
    the probability, and offsets begin at zero.
    """
    for layer in network.layers:
        if isinstance(layer, keras_cnns.layers.DeformableConv2D):
            kernel = layer.offset_kernel
            kernel.assign(keras.random.normal(kernel.shape, stddev=0.01, seed=0))
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    network(keras_cnns.preprocess_input(images), training=True)


def per_second(export, images):
    """Return the images per second of an export, after a first batch that does not count."""
    export(images)
    count, started = 0, time.perf_counter()
    while (taken := time.perf_counter() - started) < SECONDS or count < 3:
        export(images)
        count += 1
    return count * len(images) / taken


def figures(name, kinds):
    """Return {format: the figures of a network as texts, or why there are none} for some formats."""
    from training import formats

    network = keras_cnns.builder(name)(weights=None)
    images = photographs(network.input_shape[1])
    see(network, images)
    found = {}
    for kind in kinds:
        file, quantize = FORMATS[kind]
        with tempfile.TemporaryDirectory() as folder:
            options = {"images": images, "quantize": quantize, "representative": images}
            try:
                written = formats.export(network, f"{folder}/{file}", **options)
            except UserError as error:
                layers = str(error).partition(" (")[2].partition("): ")[0]
                found[kind] = ["-", f"refused: {layers}", "-", "-"]
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


def in_page():
    """Return {(network, format): the other cells} of the table in the page; "not measured" where it has none."""
    table = PAGE.read_text().partition(BEGIN + HEADER)[2].partition(END)[0]
    lines = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines())
    nothing = {(name, kind): ["-", "not measured", "-", "-", ""] for name in NETWORKS for kind in FORMATS}
    return nothing | {(name, kind): cells for name, kind, *cells in lines}


def write(rows):
    """Write the table into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    lines = (f"| {' | '.join((*key, *cells))} |\n" for key, cells in rows.items())
    PAGE.write_text(before + BEGIN + HEADER + "".join(lines) + END + rest.partition(END)[2])


def main(names):
    """Measure what is named and write the table after each network and run."""
    rows = in_page()
    for name in [name for name in names if name in NETWORKS] if names else NETWORKS:
        for kinds in [[kind] for kind in FORMATS] if name in LARGE else [list(FORMATS)]:
            try:
                found = alone(figures, name, kinds)
            except ResourceError:  # the process was killed
                found = {kind: ["-", "not enough memory", "-", "-"] for kind in kinds}
            for kind, texts in found.items():
                rows[name, kind] = [*texts, rows[name, kind][-1]]
            write(rows)
    for run in [name for name in names if name not in NETWORKS]:
        found, text = alone(accuracies, run)
        [name] = [name for name in NETWORKS if family(name) == found]
        rows[name, "LiteRT, int8"][-1] = text
        write(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
