"""The states of a run on the disk, from which training resumes.

A state is one safetensors file whose name ends in the first digits of its SHA-256, so that damage anywhere in it is
found before it is used.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

import safetensors
import safetensors.numpy

from training.errors import StateError
from training.files import atomic, disk_errors

KEPT = 3  # states in a run's folder: the newest, and those to fall back on


def is_state(name):
    """Return whether a file of this name is a state, or one that is being written."""
    return re.fullmatch(r"epoch\d+-step\d+-\w+\.safetensors(\.tmp-\d+)?", name) is not None


class Checkpoints:
    """The states in a folder: `epoch0003-step000120-DIGITS.safetensors` was saved after 3 epochs and 120 steps.

    Args:
        folder: The folder.
        run: The digest of the run. States of other runs are not used; None accepts all.
    """

    def __init__(self, folder, run=None):
        self.folder, self.run = Path(folder), run

    def files(self):
        """Return the files of the states, newest first."""

        def progress(path):  # as numbers: names sorted as text would put epoch 10000 before epoch 9999
            return *map(int, re.findall(r"\d+", path.name)[:2]), path.name

        return sorted(self.folder.glob("epoch*-step*-*.safetensors"), key=progress, reverse=True)

    def epochs(self):
        """Return the number of finished epochs that the newest state's name gives; None if there is no state."""
        return next((int(re.search(r"\d+", file.name)[0]) for file in self.files()), None)

    def save(self, arrays, progress):
        """Write a state and remove all but the last `KEPT`.

        Args:
            arrays: {name: array}.
            progress: A JSON value with the numbers "epoch" and "step".
        """
        # One entry only: safetensors would write several in a random order.
        content = safetensors.numpy.save(arrays, {"progress": json.dumps(progress | {"run": self.run})})
        digits = hashlib.sha256(content).hexdigest()[:16]
        path = self.folder / f"epoch{progress['epoch']:04d}-step{progress['step']:06d}-{digits}.safetensors"
        with disk_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
        with atomic(path, len(content)) as temporary:
            temporary.write_bytes(content)
        for old in self.files()[KEPT:]:
            old.unlink()

    def load(self):
        """Return the newest undamaged state, (arrays, progress), or None if there is no state at all.

        States that are damaged or of another run are named on standard error.

        Raises:
            StateError: There are states, but none of them can be used.
        """
        files = self.files()
        for path in files:
            try:
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest()[:16] != re.search(r"-(\w+)\.safetensors$", path.name)[1]:
                    raise ValueError("its SHA-256 is not the one in its name")
                arrays = safetensors.numpy.load(content)
                with safetensors.safe_open(path, framework="numpy") as file:
                    progress = json.loads(file.metadata()["progress"])
                run = progress.pop("run", None)
                if self.run not in (None, run):
                    raise ValueError("it is of another run, or of an earlier version")
                return arrays, progress
            except (OSError, ValueError, LookupError, TypeError, safetensors.SafetensorError) as error:
                print(f"{path} is damaged ({error}); the state before it is used", file=sys.stderr)
        if files:
            raise StateError(f"{self.folder}: every state is damaged or of another run. Start anew with --overwrite.")
        return None
