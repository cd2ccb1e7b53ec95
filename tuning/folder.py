"""The folder of a search: its files, what is wrong with them, and what may be replaced."""

import hashlib
import json
import os
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

from training.checkpoint import atomic
from training.errors import StateError, UserError
from training.run import differences

# Everything that a search writes, by its path in the folder. A folder with anything else in it is not removed.
OWN = (
    *("search.json", "networks.json", "coefficients.json", "recipe.json", "figure[38].png", "figures", "lock"),
    *("oracle.json", "trial_*", "tuner*.json", "chief.json", "trials", "*.tmp-*"),
)
OWN_OF_TRIAL = ("seed*", "result.json", "begun.json", "recipe.json", "hparams", "lock", "*.tmp-*")


def check_folder(folder, settings, overwrite=False):
    """Raise an error unless a search may work in a folder; nothing is written.

    Args:
        folder: The folder.
        settings: JSON values that decide the search.
        overwrite: Whether the search that the folder holds will be replaced.

    Raises:
        UserError: The folder holds another search, something else, or with `overwrite` anything beside a search.
        StateError: What its search was is not known: search.json is damaged.
    """
    names = {path.name for path in folder.iterdir()} - {"lock"} if folder.exists() else set()
    if not names:
        return
    file = folder / "search.json"
    there = read_json(file)
    known = isinstance(there, dict) and isinstance(there.get("recipe"), dict) and "command" in there
    if not file.exists() or not (known or names & {"oracle.json", "trials"}):
        raise UserError(f"{folder} holds files but no search. Pass another --search.")
    foreign = [path for path in folder.iterdir() if not any(fnmatch(path.name, own) for own in OWN)]
    foreign += [path for path in folder.glob("trials/*/*") if not any(fnmatch(path.name, own) for own in OWN_OF_TRIAL)]
    if overwrite and foreign:
        raise UserError(
            f"{folder} holds more than a search ({', '.join(map(str, sorted(foreign)[:5]))}) and is left as it is. "
            "Move that to another folder, or pass another --search."
        )
    if overwrite:
        return
    if not known:
        raise StateError(f"{file} is damaged. Pass --overwrite to start anew, or another --search.")
    different = differences(fields(there), fields(json.loads(json.dumps(settings))))
    if different:
        raise UserError(
            f"{folder} holds a search with other settings ({'; '.join(different)}). Pass another --search, or "
            "--overwrite."
        )


def start(folder, settings, overwrite=False):
    """Write the settings of a search into its folder, which is locked, and with `overwrite` remove the former search.

    Args:
        folder, settings, overwrite: As for `check_folder`.

    Raises:
        TrainingError: As `check_folder`, or the disk refuses to be written to; the former search is untouched then.
    """
    check_folder(folder, settings, overwrite)
    file = folder / "search.json"
    with atomic(file) as temporary:
        with open(temporary, "w") as written:
            written.write(json.dumps(settings, indent=2) + "\n")
            written.flush()
            os.fsync(written.fileno())  # here: a full disk is to be found before anything is removed
        for path in set(folder.iterdir()) - {file, temporary, folder / "lock"} if overwrite else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def fields(settings):
    """Return settings in the order of their names, the recipe's fields among them as recipe.NAME."""
    flat = {name: value for name, value in settings.items() if name != "recipe"}
    flat |= {f"recipe.{name}": value for name, value in settings.get("recipe", {}).items()}
    return dict(sorted(flat.items()))


def read_json(path):
    """Return the value in a JSON file; None if it is not there or damaged."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError):
        return None


def write_text(path, text):
    """Write a text file that is whole or not there."""
    with atomic(path) as temporary:
        temporary.write_text(text)


def write_json(path, value):
    """Write a JSON file that is whole or not there."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_record(path, values):
    """Write a dictionary to a JSON file with a digest of it, for `read_record`."""
    values = json.loads(json.dumps(values))
    write_json(path, values | {"digest": digest(values)})


def read_record(path):
    """Return what `write_record` wrote; None if it is not there, or anything in it was changed."""
    values = read_json(path)
    return values if isinstance(values, dict) and values.pop("digest", None) == digest(values) else None


def report_unusable(file, consequence):
    """Say on standard error that a file cannot be used."""
    print(f"{file} is missing, damaged or of an earlier version; {consequence}", file=sys.stderr, flush=True)


def digest(values):
    """Return eight hexadecimal digits that differ where JSON values differ."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
