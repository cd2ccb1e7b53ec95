"""The report on a search: a table of its trials, a summary, and files."""

from typing import Any, NamedTuple

import tensorflow as tf

from training.dashboards import Log, png
from training.files import atomic
from tuning.folder import write_text

OUTCOME = {
    "accuracy": lambda trial: "failed" if trial.accuracy is None else f"{trial.accuracy:.2%}",
    "spread": lambda trial: trial.spread if trial.accuracy is not None else trial.result["failed"][:60],
}


class Report(NamedTuple):
    """Text to print and files to write after a search."""

    text: str
    files: dict[str, Any]  # {path in the search folder: text, or for NAME.png a figure of matplotlib}


def table(rows, columns):
    """Return rows as lines of text, with a heading.

    Args:
        rows: The rows, of any type.
        columns: {heading: function (row) -> text}
    """
    cells = [list(columns), *([show(row) for show in columns.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(lines)


def cost(name):
    """Return a column of `table` with a number of each trial's result, empty for a failed trial."""
    return lambda trial: f"{trial.result[name]:,}" if name in trial.result else ""


def write(report, folder):
    """Write the files of a report into a search folder."""
    for name, content in report.files.items():
        if isinstance(content, str):
            write_text(folder / name, content)
        else:
            write_figure(content, folder, name.removesuffix(".png"))


def write_figure(figure, folder, name):
    """Write a figure as NAME.png and as an image for TensorBoard."""
    image = png(figure)
    with atomic(folder / f"{name}.png") as temporary:
        temporary.write_bytes(image)
    log = Log(folder)
    with log.at(0, "figures"):
        tf.summary.image(name, tf.io.decode_png(image, channels=3)[tf.newaxis])
    log.flush()
