"""Write docs/lecture.md and its figures from the tables of the studies: python -m docs.gallery [FOLDER].

The tables in FOLDER, by default runs/studies where `python -m training study all` leaves them, are copied to
docs/lecture; those that are missing there stay as they are.
"""

import hashlib
import inspect
import sys
from pathlib import Path

from training.dashboards import png
from training.studies import STATEMENTS, STUDIES
from training.studies.frame import MINUTES, module_of, read_rows, verdict

DOCS = Path(__file__).parent
LECTURE = DOCS / "lecture"
PAGE = DOCS / "lecture.md"
TABLE = "Table"  # the key of a figure's metadata that has the SHA-256 of the table it was drawn from

INTRODUCTION = """# The lecture, measured

What a lecture on convolutional image classifiers says, one section a statement, and what came out when it was measured
with the networks of this project. `python -m training study list` lists the studies, `make gallery` repeats all of them
and writes this page.

The predictions were written down, with their sources, before anything was measured (`tests/claims.py`). A prediction
is *reproduced* if the whole 95 % interval of the mean over the seeds is in the predicted range, *contradicted* if all
of it is outside, and *not reproduced* if the seeds do not decide it. What is counted or timed has no seeds and no
interval. The data are small, digits of 8 or 28 pixels, and so are most networks: what is seen here is seen here, not on
ImageNet.
"""

# What is said differently today, or was a slip.
CORRECTIONS = {
    "L13": "He et al. 2016 say the opposite, in sections 1 and 4.1: batch normalization keeps the gradients of their "
    "plain networks healthy, so that the difficulty is unlikely to be caused by vanishing gradients.",
    "L17": "It is sometimes put as if the gradient were passed forward. Maps go forward, gradients back.",
    "L21": "That is true per parameter, among these four. Per multiply-add AlexNet, far less accurate, has more; and "
    "EfficientNet is ahead in both.",
}


def table_of(name):
    """Return the path of a study's table."""
    return LECTURE / f"{name}.csv"


def digest(file):
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def page():
    """Return the text of the page."""
    rows = {name: read_rows(table_of(name)) for name in STUDIES if table_of(name).exists()}
    verdicts = {name: [verdict(claim, rows[name]) for claim in module_of(name).CLAIMS] for name in rows}
    shown, sections = set(), [INTRODUCTION]
    for number, text in STATEMENTS.items():
        lines = [f"## {number}. {text}"]
        if number in CORRECTIONS:
            lines.append(CORRECTIONS[number])
        names = [name for name in rows if number in STUDIES[name]]
        for name in names:
            lines += section(name, number, rows[name], verdicts[name], name not in shown)
            shown.add(name)
        if not names:
            lines.append("Not measured.")
        sections.append("\n\n".join(lines) + "\n")
    return "\n".join(sections)


def section(name, number, rows, verdicts, first):
    """Return the paragraphs about a study in the section of a statement.

    Args:
        name: The study.
        number: The statement.
        rows: The study's rows.
        verdicts: Its verdicts.
        first: Whether this is the first section with this study, which has the figure.
    """
    table = [
        "| prediction | source | measured | 95 % interval | seeds | verdict |",
        "| --- | --- | ---: | --- | ---: | --- |",
    ]
    for found in verdicts:
        if found.claim.statement == number:
            interval = f"{found.low:.3g} to {found.high:.3g}" if found.seeds else ""
            table.append(
                f"| {found.claim.text} {wanted(found.claim)} | {found.claim.source} | {found.mean:.4g} | {interval} | "
                f"{found.seeds or '-'} | {found.outcome} |"
            )
    if not first:
        return [f"With the study `{name}`, whose figure is above.", "\n".join(table)]
    (minutes,) = (row.value for row in rows if row.quantity == MINUTES)
    return [
        inspect.cleandoc(module_of(name).READING),
        f"![{name}](lecture/{name}.png)",
        "\n".join(table),
        f"`python -m training study {name}`, {minutes:.1f} minutes; [table](lecture/{name}.csv)",
    ]


def wanted(claim):
    """Return the quantity and the range of a claim in parentheses."""
    if claim.least == claim.greatest:
        bounds = f"{claim.least:g}"
    elif claim.greatest == float("inf"):
        bounds = f"at least {claim.least:g}"
    elif claim.least == -float("inf"):
        bounds = f"at most {claim.greatest:g}"
    else:
        bounds = f"{claim.least:g} to {claim.greatest:g}"
    return f"({claim.quantity}: {bounds})"


def main(folder="runs/studies"):
    """Copy the tables of a folder, draw all figures and write the page."""
    LECTURE.mkdir(exist_ok=True)
    for name in STUDIES:
        new, table = Path(folder) / name / f"{name}.csv", table_of(name)
        if new.exists():
            table.write_bytes(new.read_bytes())
        if table.exists():
            picture = png(module_of(name).draw(read_rows(table)), {TABLE: digest(table)})
            table.with_suffix(".png").write_bytes(picture)
        else:
            print(f"{name}: no table; `python -m training study {name}` writes it", file=sys.stderr)
    PAGE.write_text(page())


if __name__ == "__main__":
    main(*sys.argv[1:])
