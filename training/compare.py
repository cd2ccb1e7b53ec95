"""Compare finished runs: test accuracy against what each network costs, counted and measured.

Runs whose recipes differ in nothing but the seed are one row: their mean, least and greatest accuracy.
"""

import collections
import contextlib
import csv
import dataclasses
import io
import itertools
import json
import math
import os
import stat
import statistics
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from matplotlib.text import Text

import keras_cnns
from training.dashboards.log import Log, new_figure, png
from training.errors import StateError, UserError
from training.files import atomic, disk_errors
from training.inference import trained_network
from training.intervals import interval
from training.measure import alone, device, peak_memory, seconds_per_image
from training.run_folder import METRICS_FILE, RECIPE_FILE, SEED, Run, holds_run

BATCH = 8  # images per forward pass that is measured
FILES = ("compare.png", "compare.md", "compare.csv")


@dataclass(frozen=True)
class Row:
    """One run, or several of the same recipe with different seeds.

    Attributes:
        run: The name of its folder, or the folder's path if several have that name; of several runs, that of the folder
            that they are all in, or else of the first.
        model: The name of the network.
        pixels: Height and width of the images.
        accuracies: {seed: share of the test images that are classified correctly}.
        parameters, multiply_adds: Of the network without auxiliary heads, for one image.
        parameter_mib: Memory of the parameters in float32.
        activation_mib: Memory of all layers' outputs for one image in float32, as training keeps them.
        peak_mib: Measured: by how much the weights and a forward pass of BATCH images raised the peak memory of the
            GPU, or of a process of its own.
        milliseconds: Measured: time per image in batches of BATCH, the median of several.
    """

    run: str
    model: str
    pixels: int
    accuracies: dict[int, float]
    parameters: int
    multiply_adds: int
    parameter_mib: float
    activation_mib: float
    peak_mib: float = math.nan
    milliseconds: float = math.nan

    @property
    def accuracy(self):
        """The mean over the seeds."""
        return statistics.mean(self.accuracies.values())

    @property
    def least(self):
        return min(self.accuracies.values())

    @property
    def greatest(self):
        return max(self.accuracies.values())


def find_runs(paths):
    """Return the folders of the finished runs among some folders, inside them, and inside the groups of runs with
    several seeds inside them, each once.

    Raises:
        UserError: A path does not exist or holds no finished run.
    """
    found = {}
    for path in map(Path, paths):
        inside = (file.parent for form in ("*", f"*/{SEED}*") for file in path.glob(f"{form}/{RECIPE_FILE}"))
        here = [path] if holds_run(path) else sorted(inside)
        here = [folder for folder in here if (folder / METRICS_FILE).exists()]
        if not here:
            raise UserError(f"{path} holds no finished run. `python -m training fit` makes one, or resumes it.")
        found |= {folder.resolve(): folder for folder in here}
    return list(found.values())


def accuracy_of(run):
    """Return the test accuracy in a run's metrics.json."""
    try:
        accuracy = json.loads(run.metrics.read_text())["test"]["accuracy"]
        if 0 <= accuracy <= 1:
            return accuracy
        reason = f"test.accuracy is {accuracy!r}"
    except (ValueError, KeyError, TypeError) as error:
        reason = repr(error)
    raise StateError(
        f"{run.metrics} is damaged ({reason}). Remove it and repeat the command of that run, which evaluates it again."
    )


def describe(folders):
    """Return {folder of a run: Row}, without the measured figures, for the first run of each recipe."""
    groups, times = {}, collections.Counter()
    for run in map(Run.open, folders):
        times[run.recipe.to_json()] += 1  # a recipe that was run twice with the same seed is two rows
        group = dataclasses.replace(run.recipe, seed=0).to_json(), times[run.recipe.to_json()]
        groups.setdefault(group, []).append(run)
    # All results are read before the first network is built, which takes long.
    accuracies = [{run.recipe.seed: accuracy_of(run) for run in runs} for runs in groups.values()]
    firsts = [runs[0] for runs in groups.values()]
    places = [folder_of(runs).resolve() for runs in groups.values()]
    names = [place.name for place in places]
    rows = {}
    for run, place, by_seed in zip(firsts, places, accuracies, strict=True):
        size, name = run.recipe.image_size, place.name
        cost = keras_cnns.complexity(trained_network(run), (size, size, 3))
        rows[run.folder] = Row(
            run=name if names.count(name) == 1 else str(run.folder),
            model=run.recipe.model,
            pixels=size,
            accuracies=by_seed,
            parameters=cost.parameters,
            multiply_adds=cost.multiply_adds,
            parameter_mib=cost.parameters * 4 / 2**20,
            activation_mib=sum(layer.activations for layer in cost.layers) * 4 / 2**20,
        )
    return rows


def folder_of(runs):
    """Return the folder of a run, or that of `fit --seeds` which several runs are in."""
    parents = {run.folder.resolve().parent for run in runs}
    grouped = len(runs) > 1 and len(parents) == 1 and all(run.folder.name.startswith(SEED) for run in runs)
    return parents.pop() if grouped else runs[0].folder


def undecided(row, other):
    """Return whether two rows may be equally accurate: the interval of the mean difference, in pairs of runs with the
    same seed, contains zero, or there are not two such pairs."""
    seeds = row.accuracies.keys() & other.accuracies.keys()
    if not seeds:
        return True
    low, high = interval([row.accuracies[seed] - other.accuracies[seed] for seed in sorted(seeds)])
    return low <= 0 <= high


def measure(folder, repetitions=10):
    """Return the milliseconds per image and the peak memory in MiB of a run's network in batches of BATCH."""
    before = peak_memory()
    run = Run.open(folder)
    network, size = trained_network(run), run.recipe.image_size
    seconds = seconds_per_image(network, (size, size, 3), BATCH, repetitions)
    return 1000 * seconds, peak_memory() - before


def measure_alone(folder):
    """Return what `measure` measures in a process of its own."""
    return alone(measure, folder)


def compare(paths, output, measure=measure_alone):
    """Write compare.png, compare.md, compare.csv and a TensorBoard image that compare runs.

    Every run is read before the first one is measured, and files of an earlier comparison are replaced only after all
    new ones are written.

    Args:
        paths: Run folders, and folders that contain run folders.
        output: Folder for the files.
        measure: Function (folder) -> (milliseconds per image, peak memory in MiB).

    Returns:
        A list of Row, the most accurate first.

    Raises:
        UserError: A path holds no finished run, or `output` cannot take the files.
        StateError: A run is damaged.
        ResourceError: Measuring ran out of memory, or writing out of disk space.
    """
    output = Path(output)
    check_output(output)
    folders = find_runs(paths)
    rows = []
    for folder, row in describe(folders).items():
        milliseconds, mib = measure(folder)
        rows.append(dataclasses.replace(row, milliseconds=milliseconds, peak_mib=mib))
    rows.sort(key=lambda row: -row.accuracy)
    picture = figure(rows)
    contents = zip(FILES, (png(picture), markdown(rows).encode(), comma_separated(rows).encode()), strict=True)
    with disk_errors(output), contextlib.ExitStack() as written:
        output.mkdir(parents=True, exist_ok=True)
        for name, content in contents:
            written.enter_context(atomic(output / name)).write_bytes(content)
        log = Log(output / "tensorboard")
        log.figure("compare", picture, 0, ".")
        with log.at(0, "."):
            tf.summary.text("compare", markdown(rows))
        log.flush()
    return rows


def check_output(output):
    """Raise a UserError unless `output` is, or can become, a folder in which only regular files would be replaced."""
    present = [path for path in (output, *output.parents) if os.path.lexists(path)]
    if present and not present[0].is_dir():
        raise UserError(f"--output {output}: {present[0]} is not a folder. Pass another path.")
    for file in (output / name for name in FILES):
        if os.path.lexists(file) and not stat.S_ISREG(file.lstat().st_mode):
            raise UserError(f"{file} is not a regular file, so it is not replaced. Pass another --output.")


def short_names(rows):
    """Return a short unique name per row: the run's without its digest, that with the network, or the whole name."""
    forms = [
        (row.run.rpartition("-")[0] or row.run, f"{row.run.rpartition('-')[0] or row.run} {row.model}", row.run)
        for row in rows
    ]
    counts = collections.Counter(itertools.chain.from_iterable(map(set, forms)))
    return [next((name for name in names if counts[name] == 1), names[-1]) for names in forms]


def figure(rows):
    """Draw accuracy against multiply-adds and against time per image; a circle's area shows the parameters, a line
    through it the least and the greatest accuracy over the seeds."""
    picture = new_figure(13, max(5, 0.25 * len(rows)))
    largest = max(row.parameters for row in rows)
    for place, (name, label) in enumerate(
        (("multiply_adds", "multiply-adds per image"), ("milliseconds", f"ms per image on this machine ({device()})"))
    ):
        axes = picture.add_subplot(1, 2, place + 1)
        for row, text in zip(rows, short_names(rows), strict=True):
            at = getattr(row, name), 100 * row.accuracy
            draw_circle(axes, at, 1500 * row.parameters / largest, text)
            axes.plot([at[0]] * 2, [100 * row.least, 100 * row.greatest], color="grey", linewidth=1)
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.set_ylabel("test accuracy, %")
        axes.margins(0.2)
        axes.grid(alpha=0.3)
    picture.canvas.draw()  # fixes the positions of the circles and the sizes of the labels
    for axes in picture.axes:
        place_labels(axes)
    return picture


def draw_circle(axes, at, area, text, **style):
    """Draw a circle with a label, which `place_labels` will move.

    Args:
        axes: Where to draw.
        at: Its centre (x, y).
        area: Its area in square points.
        text: The label.
        style: Arguments of matplotlib's `scatter`.
    """
    axes.scatter(*at, s=area, alpha=0.5, **style)
    axes.annotate(
        text,
        at,
        (0, 0),
        textcoords="offset points",
        fontsize=8,
        ha="center",
        va="center",
        in_layout=False,
        parse_math=False,
        arrowprops={"arrowstyle": "-", "color": "grey", "linewidth": 0.5},
    )


def place_labels(axes):
    """Move each label to the nearest position inside the axes, above its circle first, where it overlaps no other."""
    frame, taken = axes.get_window_extent(), []
    places = [(0, 1), (0, -1), (1, 0.3), (-1, 0.3), (1, -0.5), (-1, -0.5), (1, 1), (-1, 1)]
    for label, circle in zip(axes.texts, axes.collections, strict=True):
        radius = (circle.get_sizes()[0] / math.pi) ** 0.5 * axes.figure.dpi / 72
        box = Text.get_window_extent(label)  # without the line from the label to its circle
        steps = (
            (x * (far * box.width / 1.8 + radius), y * (far * box.height + radius))
            for far in range(1, 60)
            for x, y in places
        )
        boxes = ((step, box.translated(*step)) for step in steps)
        free = (
            (step, moved)
            for step, moved in boxes
            if frame.containsx(moved.x0)
            and frame.containsx(moved.x1)
            and frame.containsy(moved.y0)
            and frame.containsy(moved.y1)
            and not moved.count_overlaps(taken)
        )
        step, moved = next(free, ((0, 0), box))
        label.set_position([shift * 72 / axes.figure.dpi for shift in step])
        taken.append(moved)


def markdown(rows):
    """Return the rows as a Markdown table."""
    lines = [
        "| run | network | pixels | test accuracy | least to greatest | seeds | parameters | multiply-adds | "
        f"parameters, MiB | activations of one image, MiB | measured peak of {BATCH} images, MiB | ms per image | "
        "perhaps equally accurate |",
        "| --- | --- " + "| ---: " * 10 + "| --- |",
    ]
    for row in rows:
        spread, equal = "", "not known: one seed"
        if len(row.accuracies) > 1:
            spread = f"{row.least:.2%} to {row.greatest:.2%}"
            equal = ", ".join(other.run for other in rows if other is not row and undecided(row, other))
        lines.append(
            f"| {row.run} | {row.model} | {row.pixels} | {row.accuracy:.2%} | {spread} | {len(row.accuracies)} | "
            f"{row.parameters:,} | {row.multiply_adds:,} | {row.parameter_mib:.1f} | {row.activation_mib:.1f} | "
            f"{row.peak_mib:.1f} | {row.milliseconds:.2f} | {equal} |"
        )
    return "\n".join(lines) + "\n"


def comma_separated(rows):
    """Return the rows as CSV, with a line for each seed."""
    text = io.StringIO()
    columns = [name for name in Row.__dataclass_fields__ if name != "accuracies"]
    writer = csv.DictWriter(text, [*columns[:3], "seed", "accuracy", *columns[3:]], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {name: getattr(row, name) for name in columns}
        writer.writerows(values | {"seed": seed, "accuracy": value} for seed, value in sorted(row.accuracies.items()))
    return text.getvalue()
