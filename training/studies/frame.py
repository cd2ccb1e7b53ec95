"""What all studies share: rows of measurements, training, predictions and their verdicts, and the files of a study."""

import concurrent.futures
import contextlib
import csv
import dataclasses
import functools
import importlib
import io
import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from training import run as runs
from training.command_line import hidden_stderr
from training.dashboards import png
from training.data import Data, Split, load_data
from training.files import atomic, locked
from training.intervals import interval
from training.measure import end_with_parent
from training.studies import STUDIES

REPRODUCED, NOT_REPRODUCED, CONTRADICTED = "reproduced", "not reproduced", "contradicted"
FEW = 64  # images of a split in the quick form
MINUTES = "minutes"  # the quantity of the row that says how long the study took


class Row(NamedTuple):
    """One value that a study measured; a study's CSV file has a line for each."""

    quantity: str  # what it is, with its unit
    series: str  # the network, curve or bar that it belongs to
    x: float | str  # its place there, such as an epoch or the name of a layer; "" if there is only one
    seed: int | None  # the seed of the run; None for what is counted, and for the time of a step
    value: float


class Claim(NamedTuple):
    """A prediction: a quantity, which a study measures once for each seed, is in a range."""

    statement: str  # of training.studies.STATEMENTS, such as "L12"
    text: str  # the prediction as a sentence
    quantity: str
    source: str  # paper and section
    least: float = -math.inf
    greatest: float = math.inf


class Verdict(NamedTuple):
    """What was measured about a claim."""

    claim: Claim
    outcome: str  # REPRODUCED, NOT_REPRODUCED or CONTRADICTED
    mean: float
    low: float  # the interval of the mean over the seeds
    high: float
    seeds: int  # 0 for what is counted

    def __str__(self):
        value = f"{self.mean:.4g}"
        if self.seeds:
            value += f" ({self.low:.4g} to {self.high:.4g}, {self.seeds} seed{'s'[: self.seeds - 1]})"
        return f"{self.claim.statement} {self.outcome}: {self.claim.text} Measured: {value}."


def verdict(claim, rows):
    """Compare a claim with what was measured.

    It is reproduced if the whole interval of the mean is in the claimed range, contradicted if all of it is outside,
    and not reproduced if the seeds do not decide it.

    Args:
        claim: The claim.
        rows: The rows of the study.

    Raises:
        ValueError: The rows do not have the quantity exactly once, or once for each seed.
    """
    found = [row for row in rows if row.quantity == claim.quantity]
    seeds = [row.seed for row in found]
    if not found or len(set(seeds)) < len(seeds) or (None in seeds and len(seeds) > 1):
        raise ValueError(f"{claim.quantity!r} was measured with the seeds {seeds}; it must be once, or once for each.")
    values = [row.value for row in found]
    mean = statistics.mean(values)
    low, high = (mean, mean) if None in seeds else interval(values)
    if claim.least <= low and high <= claim.greatest:
        outcome = REPRODUCED
    elif high < claim.least or low > claim.greatest:
        outcome = CONTRADICTED
    else:
        outcome = NOT_REPRODUCED
    return Verdict(claim, outcome, mean, low, high, 0 if None in seeds else len(seeds))


@dataclasses.dataclass(frozen=True)
class Lab:
    """Where a study works, and how much.

    Attributes:
        folder: The folder of all studies; the run folders in it are shared by studies that train the same recipe.
        seeds: The seeds with which recipes are trained.
        quick: Whether the study only shows that it runs, in seconds: small networks, few images, few epochs.
    """

    folder: Path
    seeds: tuple[int, ...]
    quick: bool = False

    def map(self, function, jobs):
        """Return [function(*job) for job in jobs], where each core works on a job of its own.

        Small networks leave a second core idle for most of a step, so that two trainings at once take 1.1 to 1.3 times
        as long as one. The quick form and machines with a GPU do one job after the other.

        Args:
            function: A function or method that can be pickled, as its jobs and results can.
            jobs: A list of tuples of arguments; no two jobs may train the same recipe.
        """
        if self.quick or tf.config.list_physical_devices("GPU"):
            return [function(*job) for job in jobs]
        cores, context = os.cpu_count(), multiprocessing.get_context("spawn")
        results = []
        with concurrent.futures.ProcessPoolExecutor(cores, context, initializer=begin_worker) as pool:
            with hidden_stderr():  # that of the processes, which start here
                found = pool.map(function, *zip(*jobs, strict=True))
            for result in found:
                results.append(result)
                print(f"{len(results)} of {len(jobs)} parts done, {cores} at a time", flush=True)
        return results

    def rows(self, function, jobs):
        """Return the rows that a generator function yields for each of several jobs; arguments as for `map`."""
        return itertools.chain(*self.map(functools.partial(listed, function), jobs))

    def train_all(self, recipes):
        """Train recipes, several at once, and return their Runs; the same recipe is trained once."""
        distinct = {recipe.run_name: recipe for recipe in recipes}
        runs_by_name = dict(
            zip(distinct, self.map(self.train, [(recipe,) for recipe in distinct.values()]), strict=True)
        )
        return [runs_by_name[recipe.run_name] for recipe in recipes]

    def train(self, recipe, callbacks=()):
        """Train a recipe, or resume it, and return its Run. Nothing is exported.

        Args:
            recipe: The recipe, with its seed.
            callbacks: Keras callbacks that observe it.
        """
        keras.backend.clear_session()  # frees the networks of earlier runs
        options = runs.FitOptions(picture_epochs=0, hparams_row=False, export=False)
        data = few(load_data(recipe)) if self.quick else None
        folder = self.folder / "runs" / recipe.run_name
        run = runs.fit(recipe, folder, data=data, callbacks=tuple(callbacks), options=options)
        for state in run.checkpoints.files()[1:]:  # they would add up to gigabytes
            state.unlink()
        return run

    def shortened(self, recipe):
        """Return a recipe, which is trained for one epoch by plain gradient descent in the quick form."""
        return dataclasses.replace(recipe, epochs=1, warmup_epochs=0.0, optimizer="sgd") if self.quick else recipe

    def watch(self, recipe, look, epochs=None):
        """Train a recipe and look at its network before the first epoch and after epochs.

        Args:
            recipe: The recipe, with its seed.
            look: Function (model) -> JSON value; it must leave the model as it was.
            epochs: After which epochs to look, 0 for the start; by default after all.

        Returns:
            (Run, {epochs: what `look` returned}).
        """
        file = self.folder / "runs" / f"{recipe.run_name}.{look.__name__}.json"
        watcher = Watcher(file, look, range(recipe.epochs + 1) if epochs is None else epochs)
        run = self.train(recipe, [watcher])
        return run, watcher.read()


def begin_worker():
    """Prepare a process of `Lab.map`: one core, no output, and it stops when the process that started it is gone."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    end_with_parent()


def listed(function, *arguments):
    """Return what a generator function yields as a list, which another process can send."""
    return list(function(*arguments))


def few(data):
    """Return the first FEW images of each split of a data set."""

    def first(split):
        items = list(split.load(None).take(FEW).as_numpy_iterator())
        images, labels = np.empty(len(items), object), np.array([label for _, label, _ in items])
        images[:] = [image for image, *_ in items]
        return Split.from_arrays(images, labels)

    return Data(data.class_names, *map(first, (data.train, data.validation, data.test)))


class Watcher(keras.callbacks.Callback):
    """Looks at the network in training and keeps what it has seen in a file, from which a resumed run continues.

    Args:
        file: The file.
        look: Function (model) -> JSON value.
        epochs: After which epochs to look, 0 for the start.
    """

    def __init__(self, file, look, epochs):
        super().__init__()
        self.file, self.look, self.epochs = file, look, epochs

    def read(self):
        """Return {epochs: what was seen}."""
        if not self.file.exists():
            return {}
        return {int(epoch): value for epoch, value in json.loads(self.file.read_text()).items()}

    def state(self):
        return {}

    def load_state(self, state):
        pass

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 0:
            self.see(0)

    def on_epoch_end(self, epoch, logs=None):
        self.see(epoch + 1)

    def see(self, epochs):
        if epochs in self.epochs:
            with atomic(self.file) as temporary:
                temporary.write_text(json.dumps(self.read() | {epochs: self.look(self.model)}) + "\n")


def carry_out(name, folder, seeds, quick=False):
    """Carry out a study, write its table and its figure, and return its verdicts.

    Args:
        name: Its name, of training.studies.STUDIES.
        folder: The folder of all studies.
        seeds: The number of seeds.
        quick: See Lab.

    Returns:
        A list of Verdict.
    """
    study, lab = module_of(name), Lab(Path(folder), tuple(range(seeds)), quick)
    with locked(lab.folder / name), clock(lab.folder / name / "seconds.json") as seconds:
        rows = list(study.measure(lab))
        rows.append(Row(MINUTES, "", "", None, seconds() / 60))
        table, picture = (lab.folder / name / f"{name}.{kind}" for kind in ("csv", "png"))
        with atomic(table) as temporary:
            temporary.write_text(csv_text(rows))
        rows = read_rows(table)  # the figure and the verdicts are those of the file
        with atomic(picture) as temporary:
            temporary.write_bytes(png(study.draw(rows)))
    return [verdict(claim, rows) for claim in study.CLAIMS]


def module_of(name):
    """Return the module of a study."""
    if name not in STUDIES:
        raise KeyError(name)
    return importlib.import_module(f"training.studies.{name}")


@contextlib.contextmanager
def clock(file):
    """Give a function () -> seconds that were spent in such contexts of the same file so far, now included."""
    before = json.loads(file.read_text()) if file.exists() else 0.0
    start = time.monotonic()

    def seconds():
        return before + time.monotonic() - start

    try:
        yield seconds
    finally:
        with atomic(file) as temporary:
            temporary.write_text(f"{seconds():.1f}\n")


def csv_text(rows):
    """Return rows as the text of a CSV file; values have six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(row._replace(value=f"{row.value:.6g}") for row in rows)
    return text.getvalue()


def read_rows(file):
    """Return the rows in the CSV file of a study."""
    with open(file, newline="") as lines:
        return [
            Row(
                line["quantity"],
                line["series"],
                number_or_text(line["x"]),
                int(line["seed"]) if line["seed"] else None,
                float(line["value"]),
            )
            for line in csv.DictReader(lines)
        ]


def number_or_text(text):
    """Return a text as a number if it is one."""
    try:
        return float(text)
    except ValueError:
        return text


def values(rows, quantity, series=None):
    """Return {(series, x): the values of a quantity over the seeds}, in the order of the rows."""
    found = {}
    for row in rows:
        if row.quantity == quantity and series in (None, row.series):
            found.setdefault((row.series, row.x), []).append(row.value)
    return found


def by_x(rows, quantity, series=None):
    """Return {x: the values of a quantity over the seeds} of one series, as `values` does for all."""
    return {x: found for (_, x), found in values(rows, quantity, series).items()}
