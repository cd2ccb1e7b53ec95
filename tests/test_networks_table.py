"""The README's table of networks has the numbers of the papers, and each network its own source."""

import keras_cnns
from docs.networks_table import SOURCES, citation, in_readme, row
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


def test_a_network_cites_its_own_source():
    assert SOURCES.keys() <= set(keras_cnns.list_models())
    assert citation("ResNet50") == "He, Zhang, Ren, Sun 2016"
    assert citation("AlexNetOneTower") == "Krizhevsky 2014"
    assert {citation(name) for name in keras_cnns.list_models("EfficientNetLite")} == {"Liu 2020 (TensorFlow blog)"}
