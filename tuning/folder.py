"""The search folder: reading and writing its files, and checking what may be replaced."""

import hashlib
import json
import os
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

from training.errors import StateError, UserError
from training.files import atomic
from training.recipe import Recipe
from training.run_folder import differences

# Patterns of everything that a search writes. A folder that contains anything else is never replaced.
SEARCH_FILES = (
    *("search.json", "networks.json", "coefficients.json", "recipe.json", "figure[38].png", "figures", "lock"),
    *("oracle.json", "trial_*", "tuner*.json", "chief.json", "trials", "*.tmp-*"),
)
TRIAL_FILES = ("seed*", "result.json", "begun.json", "recipe.json", "hparams", "lock", "*.tmp-*")


def check_folder(folder, settings, overwrite=False):
    """Raise an error unless a search may use a folder; write nothing.

    Args:
        folder: The folder.
        settings: JSON values that identify the search.
        overwrite: Whether the search in the folder will be replaced.

    Raises:
        UserError: The folder contains another search or something else, or with `overwrite` anything besides a search.
        StateError: The settings of its search are unknown, since search.json is damaged.
    """
    names = {path.name for path in folder.iterdir()} - {"lock"} if folder.exists() else set()
    if not names:
        return
    file = folder / "search.json"
    written = read_json(file)
    known = isinstance(written, dict) and isinstance(written.get("recipe"), dict) and "command" in written
    if not file.exists() or not (known or names & {"oracle.json", "trials"}):
        raise UserError(f"{folder} contains files but no search. Pass another --search.")
    if overwrite:
        check_only_search(folder)
        return
    if not known:
        raise StateError(f"{file} is damaged. Pass --overwrite to start again, or another --search.")
    different = differences(flat_settings(written), flat_settings(json.loads(json.dumps(settings))))
    if different:
        raise UserError(
            f"{folder} contains a search with other settings ({'; '.join(different)}). Pass another --search, or "
            "--overwrite."
        )


def check_only_search(folder):
    """Raise a UserError if a search folder contains anything that a search does not write."""
    foreign = [path for path in folder.iterdir() if not matches(path, SEARCH_FILES)]
    foreign += [path for path in folder.glob("trials/*/*") if not matches(path, TRIAL_FILES)]
    if foreign:
        raise UserError(
            f"{folder} contains more than a search ({', '.join(map(str, sorted(foreign)[:5]))}) and is left unchanged. "
            "Move these files to another folder, or pass another --search."
        )


def matches(path, patterns):
    """Return whether the name of a path matches one of the patterns."""
    return any(fnmatch(path.name, pattern) for pattern in patterns)


def start_folder(folder, settings, overwrite=False):
    """Write the settings of a search into its folder, which is locked; with `overwrite` remove the former search.

    Args:
        folder, settings, overwrite: As for `check_folder`.

    Raises:
        TrainingError: As for `check_folder`, or the disk cannot be written to; then the former search is unchanged.
    """
    check_folder(folder, settings, overwrite)
    file = folder / "search.json"
    with atomic(file) as temporary:
        with open(temporary, "w") as written:
            written.write(json.dumps(settings, indent=2) + "\n")
            written.flush()
            os.fsync(written.fileno())  # a full disk must be detected before anything is removed
        for path in set(folder.iterdir()) - {file, temporary, folder / "lock"} if overwrite else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def flat_settings(settings):
    """Return settings sorted by name, with each field of the recipe as recipe.NAME."""
    flat = {name: value for name, value in settings.items() if name != "recipe"}
    flat |= {f"recipe.{name}": value for name, value in settings.get("recipe", {}).items()}
    return dict(sorted(flat.items()))


def read_json(path):
    """Return the value in a JSON file; None if the file is missing or damaged."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError):
        return None


def read_baseline(file):
    """Return the baseline recipe in a coefficients.json.

    Raises:
        UserError: The file has no baseline, or a wrong one.
    """
    try:
        return Recipe(**read_json(file)["baseline"])
    except UserError as error:
        raise UserError(f"{file}: the baseline is wrong: {error}") from error
    except (KeyError, TypeError):
        raise UserError(
            f"{file} has no baseline. Write it with `python -m tuning compound`, or train a recipe of your own with "
            "`python -m training fit RECIPE --coefficients`."
        ) from None


def write_text(path, text):
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text)


def write_record(path, values):
    """Write a dictionary to a JSON file, atomically and with a digest for `read_record`."""
    values = json.loads(json.dumps(values))
    write_text(path, json.dumps(values | {"digest": digest(values)}, indent=2) + "\n")


def read_record(path):
    """Return what `write_record` wrote; None if the file is missing or was changed."""
    values = read_json(path)
    return values if isinstance(values, dict) and values.pop("digest", None) == digest(values) else None


def report_unusable(file, consequence):
    """Print to standard error that a file cannot be used, and what follows from it."""
    print(f"{file} is missing, damaged or of an earlier version; {consequence}", file=sys.stderr, flush=True)


def digest(values):
    """Return eight hexadecimal digits that identify JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
