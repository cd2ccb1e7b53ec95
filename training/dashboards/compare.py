"""The lecture's closing figure from real runs: accuracy against what a network costs, counted and measured."""

import csv
import io
import json
import multiprocessing
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import tensorflow as tf

import keras_cnns
from training.dashboards.log import Log, new_figure, png
from training.dashboards.scalars import device, memory
from training.errors import UserError

BATCH = 8  # images at once, measured


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        accuracy: Of the test images.
        parameters, multiply_adds: Of the network for use, for one image of the run's size.
        parameter_mib: Memory of the parameters in float32.
        activation_mib: Memory of all layers' outputs for one image in float32, as training keeps them.
        peak_mib: Measured: by how much a forward pass of BATCH images, weights included, raised the greatest memory of
            the GPU, or of a process of its own.
        milliseconds: Measured: time per image in batches of BATCH, the median of repetitions.
    """

    run: str
    model: str
    pixels: int
    accuracy: float
    parameters: int
    multiply_adds: int
    parameter_mib: float
    activation_mib: float
    peak_mib: float
    milliseconds: float


def find_runs(paths):
    """The finished runs among folders and in them, in the order of their names.

    Raises:
        UserError: A path is not there, or holds no finished run.
    """
    found = []
    for path in map(Path, paths):
        here = [path] if (path / "recipe.json").exists() else sorted(file.parent for file in path.glob("*/recipe.json"))
        here = [folder for folder in here if (folder / "metrics.json").exists()]
        if not here:
            raise UserError(f"{path} holds no finished run. `python -m training fit` makes one, or goes on with it.")
        found += here
    return found


def describe(folder, measured):
    """The row of a run.

    Args:
        folder: Its folder.
        measured: (milliseconds per image, MiB).
    """
    from training.run import Run

    run = Run.open(folder)
    size = run.recipe.image_size
    cost = keras_cnns.complexity(run.network(), (size, size, 3))
    return Row(
        run=run.folder.name,
        model=run.recipe.model,
        pixels=size,
        accuracy=json.loads(run.metrics.read_text())["test"]["accuracy"],
        parameters=cost.parameters,
        multiply_adds=cost.multiply_adds,
        parameter_mib=cost.parameters * 4 / 2**20,
        activation_mib=sum(layer.activations for layer in cost.layers) * 4 / 2**20,
        peak_mib=measured[1],
        milliseconds=measured[0],
    )


def measure(folder, repetitions=10):
    """Milliseconds per image and peak memory in MiB of a run's network in batches of BATCH."""
    from training.run import Run

    before = peak_memory()
    run = Run.open(folder)
    network, size = run.network(), run.recipe.image_size
    forward = tf.function(lambda images: network(images, training=False))
    images = tf.zeros((BATCH, size, size, 3))
    forward(images).numpy()
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        forward(images).numpy()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds) / BATCH, peak_memory() - before


def measure_alone(folder):
    """`measure` in a process of its own."""
    return alone(measure, folder)


def alone(function, *arguments):
    """Calls a function in a process of its own: another network's memory and threads are not in its figures."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def peak_memory():
    """The greatest memory so far in MiB: of the GPU, or of this process."""
    return next(iter(memory().values()))


def compare(paths, output, measure=measure_alone):
    """Writes compare.png, compare.md, compare.csv and a TensorBoard image of runs.

    Args:
        paths: Run folders, and folders of them.
        output: Folder of the files.
        measure: Function (folder) -> (milliseconds per image, MiB).

    Returns:
        The rows, the most accurate first.
    """
    rows = [describe(folder, measure(folder)) for folder in find_runs(paths)]
    rows.sort(key=lambda row: -row.accuracy)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    picture = figure(rows)
    (output / "compare.png").write_bytes(png(picture))
    (output / "compare.md").write_text(markdown(rows))
    (output / "compare.csv").write_text(comma_separated(rows))
    log = Log(output / "tensorboard")
    log.figure("compare", picture, 0, ".")
    with log.at(0, "."):
        tf.summary.text("compare", markdown(rows))
    log.flush()
    return rows


def figure(rows):
    """Accuracy against multiply-adds, the circles' areas as the parameters, beside accuracy against time per image."""
    picture = new_figure(11, 5)
    largest = max(row.parameters for row in rows)
    for place, (name, label) in enumerate(
        (("multiply_adds", "multiply-adds per image"), ("milliseconds", f"ms per image on this machine ({device()})"))
    ):
        axes = picture.add_subplot(1, 2, place + 1)
        for number, row in enumerate(rows):
            x, y = getattr(row, name), 100 * row.accuracy
            axes.scatter(x, y, s=1500 * row.parameters / largest, alpha=0.5)
            # Above and below by turns: rows of one accuracy come one after the other.
            above = (0, 4 if number % 2 else -10)
            run = row.run.rpartition("-")[0] or row.run
            axes.annotate(run, (x, y), above, textcoords="offset points", fontsize=8, ha="center")
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.set_ylabel("test accuracy, %")
        axes.margins(0.2)
        axes.grid(alpha=0.3)
    return picture


def markdown(rows):
    """The rows as a table in Markdown."""
    lines = [
        "| run | network | pixels | test accuracy | parameters | multiply-adds | parameters, MiB | activations of one "
        f"image, MiB | measured peak of {BATCH} images, MiB | ms per image |",
        "| --- | --- " + "| ---: " * 8 + "|",
    ]
    lines += [
        f"| {row.run} | {row.model} | {row.pixels} | {row.accuracy:.2%} | {row.parameters:,} | {row.multiply_adds:,} | "
        f"{row.parameter_mib:.1f} | {row.activation_mib:.1f} | {row.peak_mib:.1f} | {row.milliseconds:.2f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def comma_separated(rows):
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, rows))
    return text.getvalue()
