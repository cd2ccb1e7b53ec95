"""The README's table of networks says what the paper numbers and the golden files say."""

import keras_cnns
from docs.networks_table import in_readme, row
from tests.paper_numbers import ROWS


def test_the_readme_is_what_the_command_would_write():
    """The code is held to the paper numbers by test_paper_numbers.py; the table is held to them here."""
    numbers = {paper.name: paper for paper in ROWS if not paper.arguments}
    lines = in_readme()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == keras_cnns.list_models()
    for name, line in zip(keras_cnns.list_models(), lines, strict=True):
        pixels = line.split(" | ")[2]
        expected = row(name, pixels, numbers[name].parameters, numbers[name].multiply_adds)
        assert line == expected, "run python -m docs.networks_table"
