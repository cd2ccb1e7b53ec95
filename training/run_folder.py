"""The folder of a run: the names of its files, what ties them together, and how a run is begun in it.

A file that is damaged, missing or of another run is never used: it is checked whenever it is read.
"""

import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import safetensors

from training.checkpoint import Checkpoints, is_state
from training.data_record import DATA_FILE, IMAGES_FILE, DataRecord, first
from training.errors import StateError, UserError
from training.files import LOCK, atomic, disk_errors, file_digest, folder_digests, is_temporary, sync_folder
from training.recipe import Recipe

FIX = "Restore the right file, or start anew with --overwrite."

RECIPE_FILE = "recipe.json"
ENVIRONMENT_FILE = "environment.json"
CLASSES_FILE = "classes.json"
INIT_FILE = "init.json"
BEST_FILE = "best.safetensors"
STATES = "states"
METRICS_FILE = "metrics.json"
TENSORBOARD = "tensorboard"
EXPORT = "export"
EXPORT_DIGESTS_FILE = "export.json"
EXPORTS = "exports"

TEMPERATURE = "temperature"  # in the metadata of the best weights, which `training.calibration` explains
SEED = "seed"  # the names of the run folders of `fit --seeds` begin with it

# The files that a run begins with; the last one makes a folder a run. Then those that training adds.
FIRST = (INIT_FILE, IMAGES_FILE, DATA_FILE, CLASSES_FILE, ENVIRONMENT_FILE, RECIPE_FILE)
LATER = (BEST_FILE, STATES, METRICS_FILE, TENSORBOARD, EXPORT, EXPORT_DIGESTS_FILE, EXPORTS)


@dataclass(frozen=True)
class Run:
    """A run folder.

    recipe.json        the recipe, every "auto" decided
    environment.json   versions and device, and the directory in which the run was begun or resumed
    classes.json       the class names, in the order of the outputs
    data.json          a description of the data; images.tsv lists the images of a folder (training.data_record)
    init.json          of a run with `init`: the file, its SHA-256, and what was loaded from it
    best.safetensors   the weights of the best epoch; keras_cnns.load_weights reads them
    states/            what training resumes from: the last three states
    metrics.json       written at the end: test metrics, best epoch, history
    tensorboard/       event files
    export/            the SavedModel; export.json has the SHA-256 of its files
    exports/           for other runtimes, written by `export --format` (training.formats)
    lock               present while a process uses the folder

    Attributes:
        folder: Its path.
        recipe: The recipe, resolved.
        chief: Whether this process writes the files; one of several processes does.
        written: The content of recipe.json, of a run that has begun.
    """

    folder: Path
    recipe: Recipe
    chief: bool = True
    written: bytes | None = None

    best = property(lambda self: self.folder / BEST_FILE)
    checkpoints = property(lambda self: Checkpoints(self.folder / STATES, self.digest))
    metrics = property(lambda self: self.folder / METRICS_FILE)
    tensorboard = property(lambda self: self.folder / TENSORBOARD)
    export = property(lambda self: self.folder / EXPORT)

    @classmethod
    def open(cls, folder):
        """Open a folder that `fit` created.

        Raises:
            UserError: It is not a run folder.
            StateError: Its recipe.json is damaged.
        """
        folder = Path(folder)
        file = folder / RECIPE_FILE
        if not file.is_file():
            raise UserError(
                f"{folder} is not a run folder: it has no {RECIPE_FILE}. `python -m training fit` creates one."
            )
        values = read_json(file, dict[str, Any])
        try:
            return cls(folder, Recipe(**values), written=file.read_bytes())
        except (TypeError, UserError) as error:
            raise StateError(f"{file} is damaged: {error} {FIX}") from error

    def write(self, name, text):
        """Write a text file of the run."""
        with atomic(self.folder / name) as temporary:
            temporary.write_text(text)

    @property
    def digest(self):
        """Digits of the SHA-256 of recipe.json. The run's other files repeat it: those of other runs are recognised."""
        return hashlib.sha256(self.written or self.recipe.to_json().encode()).hexdigest()[:16]

    @property
    def verbose(self):
        """Verbosity of Keras's progress bar: 1 in a terminal, 2 (a line per epoch) elsewhere, 0 if not the chief."""
        return 0 if not self.chief else 1 if sys.stdout.isatty() else 2

    @property
    def class_names(self):
        """The class names, in the order of the outputs."""
        return read_json(self.folder / CLASSES_FILE, list[str])

    @property
    def environment(self):
        """The versions and the device that the run was begun with."""
        return read_json(self.folder / ENVIRONMENT_FILE, dict[str, Any])

    @property
    def weights_metadata(self):
        """The metadata of the best weights, {str: str}."""
        with safetensors.safe_open(self.best, framework="numpy") as file:
            return file.metadata() or {}

    @property
    def temperature(self):
        """What logits are divided by, so that probabilities are calibrated; 1 in runs of earlier versions."""
        return float(self.weights_metadata.get(TEMPERATURE, 1))

    def data_differences(self, data):
        """Return the differences, as texts, between data and those that the run began with.

        Raises:
            StateError: The run has no record of its data, or the record is damaged.
        """
        if list(data.class_names) != self.class_names:
            return [f"classes: {', '.join(self.class_names)} there, {', '.join(data.class_names)} now"]
        if data.record is None:
            return []
        record = DataRecord.read(self.folder)
        if record is None:
            raise StateError(
                f"{self.folder} has no {DATA_FILE}: an earlier version began it, and the images that it was trained on "
                "are not known. Start anew with --overwrite."
            )
        return record.differences(data.record)

    def check_best(self):
        """Raise a StateError unless the best weights exist and are of this recipe and these classes."""
        if not self.best.exists():
            raise StateError(f"{self.folder} has no {BEST_FILE}. Train it with `python -m training fit`.")
        try:
            metadata = self.weights_metadata
        except (OSError, safetensors.SafetensorError) as error:
            raise StateError(f"{self.best} is damaged: {error}. {FIX}") from error
        for name, own, file in (
            ("recipe", self.digest, RECIPE_FILE),
            ("classes", json.dumps(self.class_names), CLASSES_FILE),
        ):
            if metadata.get(name) != own:
                raise StateError(
                    f"{self.best} does not belong to the {file} beside it: one of them was changed, or is of another "
                    f"run or an earlier version. {FIX}"
                )

    def write_results(self, values):
        """Write metrics.json, which completes the run."""
        values = values | {"recipe": self.digest, "weights": file_digest(self.best)}
        self.write(METRICS_FILE, json.dumps(values | {"sha256": value_digest(values)}, indent=2) + "\n")

    def results(self):
        """Return the content of metrics.json, {"test", "best_epoch", "history", ...}.

        Raises:
            StateError: It is damaged, or of another run.
        """
        values = read_json(self.metrics, dict[str, Any])
        if values.pop("sha256", None) != value_digest(values) or values.get("recipe") != self.digest:
            raise StateError(
                f"{self.metrics} is damaged, or does not belong to the recipe.json beside it: one of them was "
                f"changed, or is of another run or an earlier version. {FIX}"
            )
        return values

    def check_finished(self):
        """Raise a StateError if any file of a finished run but its export is missing, damaged or of another run."""
        weights = self.results()["weights"]
        self.check_best()
        if file_digest(self.best) != weights:
            raise StateError(f"{self.best} is damaged: its SHA-256 is not the one in {METRICS_FILE}. {FIX}")
        if self.checkpoints.load() is None:
            raise StateError(f"{self.checkpoints.folder} is missing or empty. {FIX}")
        DataRecord.read(self.folder)

    def replace_export(self, exported):
        """Move a SavedModel into the place of the run's own, if it has one."""
        former = self.export.with_name(f"{EXPORT}.old.tmp-{os.getpid()}")
        if self.export.exists():
            os.replace(self.export, former)
        os.replace(exported, self.export)
        self.write(EXPORT_DIGESTS_FILE, json.dumps(folder_digests(self.export), indent=2) + "\n")
        shutil.rmtree(former, ignore_errors=True)

    def has_whole_export(self):
        """Return whether the SavedModel exists and is undamaged."""
        try:
            return read_json(self.folder / EXPORT_DIGESTS_FILE, dict[str, str]) == folder_digests(self.export)
        except (OSError, StateError):
            return False

    def begin(self, texts, record):
        """Write the files that a run begins with, replacing the run in the folder, if there is one.

        All files are first written beside the old ones, and recipe.json is moved last: whenever the process ends, the
        folder holds the previous run, the rest of it, or the new one, never a mixture that passes for a run.

        Args:
            texts: {name: text} of FIRST.
            record: DataRecord of the data, or None.
        """
        staged, former = (self.folder / f"{name}.tmp-{os.getpid()}" for name in ("begin", "former"))
        with disk_errors(self.folder):
            try:
                staged.mkdir()
                former.mkdir()
                for name, text in texts.items():
                    with atomic(staged / name) as temporary:
                        temporary.write_text(text)
                if record:
                    record.write(staged)
                for name in (*LATER, *FIRST[:-2]):
                    if os.path.lexists(self.folder / name):
                        os.replace(self.folder / name, former / name)
                for name in FIRST:
                    if (staged / name).exists():
                        os.replace(staged / name, self.folder / name)
                sync_folder(self.folder)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
                shutil.rmtree(former, ignore_errors=True)


def holds_run(folder):
    """Return whether a folder has a recipe.json, which is the last file that a new run writes."""
    return (Path(folder) / RECIPE_FILE).exists()


def begun_run(folder, overwrite=False):
    """Return the run in a folder that `fit` resumes; None if it begins a new one there.

    Raises:
        UserError, StateError: As `check_folder` and `Run.open` do.
    """
    check_folder(folder, overwrite)
    return Run.open(folder) if holds_run(folder) and not overwrite else None


def check_folder(folder, overwrite):
    """Raise an error unless a run can be begun, resumed or, with `overwrite`, replaced in a folder.

    A recipe.json alone does not make a folder a run: projects and searches have one too. Only runs are replaced, and
    no run is begun among other files.

    Raises:
        UserError: It is not a possible path, or holds other files.
        StateError: It has files of a run, but no recipe.json.
    """
    if not str(folder).isprintable():
        raise UserError(f"--run {str(folder)!r} has unprintable characters. Pass another path.")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(
        [name for name in names if name not in (*FIRST, *LATER, LOCK) and not is_temporary(name)]
        + [f"{STATES}/{path.name}" for path in folder.glob(f"{STATES}/*") if not is_state(path.name)]
    )
    begun = RECIPE_FILE in names
    if overwrite and others:
        raise UserError(
            f"{folder} holds files but no run, or others besides a run ({first(others, most=5)}); --overwrite leaves "
            "it alone. Pass another --run, or move them away."
        )
    if not begun and others:
        raise UserError(f"{folder} holds files but no run ({first(others, most=5)}). Pass another --run.")
    if begun and not {ENVIRONMENT_FILE, STATES} & names:
        raise UserError(
            f"{folder} holds files but no run: it has a {RECIPE_FILE} but no other file of a run. Pass another --run."
        )
    if not begun and {BEST_FILE, STATES, METRICS_FILE} & names:
        raise StateError(f"{folder} has files of a run, but no {RECIPE_FILE}. Restore it, or pass another --run.")


def differences(before, now):
    """Return the fields in which two records differ, each as text: its value in the folder and the one asked for."""
    return [
        f"{name}: {before.get(name)!r} there, {now.get(name)!r} now"
        for name in before | now
        if before.get(name) != now.get(name)
    ]


def read_json(path, kind):
    """Return the value in a JSON file of a run.

    Args:
        path: The file.
        kind: The value's type, such as list[str].

    Raises:
        StateError: It is missing or damaged.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_json(path.read_text("utf-8"), strict=True)
    except PermissionError:
        raise
    except FileNotFoundError:
        raise StateError(f"{path} is missing. {FIX}") from None
    except (OSError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, pydantic.ValidationError) else error
        raise StateError(f"{path} is damaged: {reason}. {FIX}") from error


def value_digest(value):
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
