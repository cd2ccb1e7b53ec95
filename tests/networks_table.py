"""The README's table of networks, from the code: python -m tests.networks_table rewrites it.

Parameters and multiply-adds are counted on the networks as they are built; the paper is the citation at the top of the
network's file; what a network was proven against is in the golden files.
"""

import pathlib
import re
import sys

import keras

import keras_cnns
from tests.test_golden import PROOFS

README = pathlib.Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- networks -->\n", "<!-- end of networks -->\n"
HEADER = (
    "| network | paper | pixels | parameters | multiply-adds | proven against |\n"
    "| --- | --- | --- | --- | --- | --- |\n"
)


def proofs(name):
    """The packages whose network gives the same answers, in the order of the golden files; "counted" without one."""
    packages = [peer for network, peer in PROOFS.values() if getattr(network, "func", network).__name__ == name]
    return ", ".join(dict.fromkeys(packages)) or "counted"


def citation(name):
    """Authors and year of a network's paper, from the docstring of its file."""
    module = sys.modules[keras_cnns.builder(name).__module__]
    return re.match(r"\w[\w ]*: (.*?)[,:] \"", module.__doc__)[1] + " " + re.search(r"\b(20\d\d)\b", module.__doc__)[1]


def row(name, pixels, parameters, multiply_adds):
    """A line of the table; multiply-adds in units of 1e9."""
    return f"| {name} | {citation(name)} | {pixels} | {parameters:,} | {multiply_adds:.3f} G | {proofs(name)} |\n"


def rows():
    """The lines of all networks, each one built and counted."""
    for name in keras_cnns.list_models():
        keras.backend.clear_session()
        model = keras_cnns.builder(name)()
        cost = keras_cnns.complexity(model)
        yield row(name, model.input_shape[1], cost.parameters, cost.multiply_adds / 1e9)


def in_readme():
    """The lines of the table in the README."""
    return README.read_text().partition(BEGIN + HEADER)[2].partition(END)[0].splitlines(keepends=True)


if __name__ == "__main__":
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(before + BEGIN + HEADER + "".join(rows()) + END + rest.partition(END)[2])
