"""The folder of a run: its files, what ties them together, and how a run is begun in it.

A file that is damaged, missing or of another run is never used: whatever reads one compares it first.
"""

import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import pydantic
import safetensors

import keras_cnns
from training.checkpoint import Checkpoints, is_state
from training.data_record import first
from training.errors import StateError, UserError
from training.files import atomic, disk_errors, file_digest, folder_digests, is_temporary, sync_folder
from training.recipe import Recipe

FIX = "Put the right file back, or start anew with --overwrite."

# The files that a run begins with, the one that makes a folder a run last; and those that training adds.
FIRST = ("init.json", "images.tsv", "data.json", "classes.json", "environment.json", "recipe.json")
LATER = ("best.safetensors", "states", "metrics.json", "tensorboard", "export", "export.json")


@dataclass(frozen=True)
class Run:
    """A run folder.

    recipe.json        the recipe, every "auto" decided
    environment.json   versions and device, and the directory in which the run was begun or resumed
    classes.json       the class names, in the order of the outputs
    data.json          what the data were; images.tsv lists the images of a folder (training.data_record)
    init.json          of a run with `init`: the file, its SHA-256, and what was taken over from it
    best.safetensors   the weights of the best epoch; keras_cnns.load_weights reads them
    states/            what training resumes from: the last three states
    metrics.json       written at the end: test figures, best epoch, history
    tensorboard/       event files
    export/            the SavedModel; export.json has the SHA-256 of its files
    lock               there while a process works in the folder

    Attributes:
        folder: Its path.
        recipe: The recipe, resolved.
        chief: Whether this process writes the files; of several machines one does.
        written: The content of recipe.json, of a run that has begun.
    """

    folder: Path
    recipe: Recipe
    chief: bool = True
    written: bytes | None = None

    best = property(lambda self: self.folder / "best.safetensors")
    checkpoints = property(lambda self: Checkpoints(self.folder / "states", self.digest))
    metrics = property(lambda self: self.folder / "metrics.json")
    export = property(lambda self: self.folder / "export")

    @classmethod
    def open(cls, folder):
        """Open a folder that `fit` made.

        Raises:
            UserError: It is none.
            StateError: Its recipe.json is damaged.
        """
        folder = Path(folder)
        file = folder / "recipe.json"
        if not file.is_file():
            raise UserError(f"{folder} is no run folder: it has no recipe.json. `python -m training fit` makes one.")
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
        """Hexadecimal digits of recipe.json. The run's other files have them, which tells them from another run's."""
        return hashlib.sha256(self.written or self.recipe.to_json().encode()).hexdigest()[:16]

    @property
    def verbose(self):
        """How Keras's progress bar shows: not at all beside the chief, a line an epoch without a terminal."""
        return 0 if not self.chief else 1 if sys.stdout.isatty() else 2

    @property
    def class_names(self):
        """The class names, in the order of the outputs."""
        return read_json(self.folder / "classes.json", list[str])

    @property
    def environment(self):
        """The versions and the device that the run was begun with."""
        return read_json(self.folder / "environment.json", dict[str, Any])

    def check_best(self):
        """Raise a StateError unless the best weights are there and are of this recipe and these classes."""
        if not self.best.exists():
            raise StateError(f"{self.folder} has no best.safetensors. Train it with `python -m training fit`.")
        try:
            with safetensors.safe_open(self.best, framework="numpy") as file:
                metadata = file.metadata() or {}
        except (OSError, safetensors.SafetensorError) as error:
            raise StateError(f"{self.best} is damaged: {error}. {FIX}") from error
        for name, own, file in (
            ("recipe", self.digest, "recipe.json"),
            ("classes", json.dumps(self.class_names), "classes.json"),
        ):
            if metadata.get(name) != own:
                raise StateError(
                    f"{self.best} does not belong to the {file} beside it: one of them was changed, or is of another "
                    f"run or an earlier version. {FIX}"
                )

    def network(self):
        """Return the trained network for use: logits of the main head, weights of the best epoch, images of any size
        that it can take.

        It computes in float32 whatever the run's precision was, so that every machine gives the same answer.

        Raises:
            StateError: The weights are missing, damaged or of another run.
        """
        self.check_best()
        keras.mixed_precision.set_global_policy("float32")
        network = self.recipe.build(len(self.class_names), for_use=True)
        try:
            keras_cnns.load_weights(network, self.best)
        except ValueError as error:
            raise StateError(f"{error} {FIX}") from error
        return network

    def write_results(self, values):
        """Write metrics.json: with it the run is finished."""
        values = values | {"recipe": self.digest, "weights": file_digest(self.best)}
        self.write("metrics.json", json.dumps(values | {"sha256": value_digest(values)}, indent=2) + "\n")

    def results(self):
        """Return what metrics.json has, {"test", "best_epoch", "history", ...}.

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
        """Raise a StateError if anything of a finished run but its export is missing, damaged or of another run."""
        weights = self.results()["weights"]
        self.check_best()
        if file_digest(self.best) != weights:
            raise StateError(f"{self.best} is damaged: its SHA-256 is not the one in metrics.json. {FIX}")
        if self.checkpoints.load() is None:
            raise StateError(f"{self.checkpoints.folder} is missing, or empty. {FIX}")

    def replace_export(self, exported):
        """Put a SavedModel in the place of the one that the run has, if any."""
        former = self.export.with_name(f"export.old.tmp-{os.getpid()}")
        if self.export.exists():
            os.replace(self.export, former)
        os.replace(exported, self.export)
        self.write("export.json", json.dumps(folder_digests(self.export), indent=2) + "\n")
        shutil.rmtree(former, ignore_errors=True)

    def has_whole_export(self):
        """Whether the SavedModel is there and undamaged."""
        try:
            return read_json(self.folder / "export.json", dict[str, str]) == folder_digests(self.export)
        except (OSError, StateError):
            return False

    def begin(self, texts, record):
        """Write the files that a run begins with, in place of the run that the folder has, if any.

        Everything is written beside first, and recipe.json takes its place last: whenever the process ends, the folder
        has the run from before, what is left of it, or the new one, and never files of both that pass for one run.

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


def check_folder(folder, overwrite):
    """Raise an error unless a run can be begun, resumed or, with `overwrite`, replaced in a folder.

    A file recipe.json does not make a folder a run: projects and searches have one too. Nothing but a run is replaced,
    and no run is begun among other files.

    Raises:
        UserError: It is not a possible path, or holds something else.
        StateError: It has files of a run, but no recipe.json.
    """
    if not str(folder).isprintable():
        raise UserError(f"--run {str(folder)!r} has characters that no path should have. Pass another one.")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(
        [name for name in names if name not in (*FIRST, *LATER, "lock") and not is_temporary(name)]
        + [f"states/{path.name}" for path in folder.glob("states/*") if not is_state(path.name)]
    )
    begun = "recipe.json" in names
    if overwrite and others:
        raise UserError(
            f"{folder} holds files but no run, or others beside a run ({first(others, most=5)}); --overwrite leaves it "
            "alone. Pass another --run, or move them away."
        )
    if not begun and others:
        raise UserError(f"{folder} holds files but no run ({first(others, most=5)}). Pass another --run.")
    if begun and not {"environment.json", "states"} & names:
        raise UserError(f"{folder} holds files but no run: beside recipe.json a run has others. Pass another --run.")
    if not begun and {"best.safetensors", "states", "metrics.json"} & names:
        raise StateError(f"{folder} has files of a run, but no recipe.json. Put it back, or pass another --run.")


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
