"""Coefficients of compound scaling (alpha, beta, gamma), given as a triple or in a file, and their check."""

import json
import math
import os
from pathlib import Path


def read_coefficients(path):
    """Read alpha, beta and gamma, the bases of `compound_coefficients`, from the file that a search for them writes.

    Args:
        path: A JSON file with the numbers "alpha", "beta" and "gamma", as written by `python -m tuning compound`.

    Returns:
        (alpha, beta, gamma).

    Raises:
        ValueError: The file is missing or has no such coefficients.

    Example:
        >>> with open("coefficients.json", "w") as file:
        ...     _ = file.write('{"alpha": 1.2, "beta": 1.1, "gamma": 1.15}')
        >>> keras_cnns.read_coefficients("coefficients.json")
        (1.2, 1.1, 1.15)
    """
    try:
        values = json.loads(Path(path).read_text())
        triple = tuple(float(values[name]) for name in ("alpha", "beta", "gamma"))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} has no coefficients ({type(error).__name__}: {error}). It must be a JSON file with the numbers "
            "alpha, beta and gamma; `python -m tuning compound` writes one."
        ) from error
    return check_coefficients(triple, path)


def as_coefficients(value, network):
    """Return (alpha, beta, gamma), given as they are or as the path of a file; `network` is named in errors."""
    return read_coefficients(value) if isinstance(value, str | os.PathLike) else check_coefficients(value, network)


def check_coefficients(triple, source):
    """Return (alpha, beta, gamma), or raise a ValueError that names where they are from."""
    if len(triple) != 3 or not all(math.isfinite(value) and value >= 1 for value in triple):
        raise ValueError(
            f"{source} has the coefficients {tuple(triple)}; they must be three numbers of at least 1, alpha (depth), "
            "beta (width) and gamma (resolution), such as (1.2, 1.1, 1.15)."
        )
    return triple
