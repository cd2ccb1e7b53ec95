"""Parameters, multiply-adds, activations and depth of every network against the papers."""

import keras
import pytest

import keras_cnns
from tests.paper_numbers import ROWS
from tests.structure import structure

# Networks that take longer to build than ten others.
SLOW = {"EfficientNetB5", "EfficientNetB6", "EfficientNetB7"}


def test_every_network_has_a_row():
    assert {row.name for row in ROWS} == set(keras_cnns.list_models())


def depth(model):
    """Return the number of weighted layers, without those of gates, on the longest path from the input to an output."""
    depths = {}
    for layer in model.layers:  # parents come before children
        below = max((depths[id(tensor)] for tensor in keras.tree.flatten(layer.input)), default=0)
        depths[id(layer.output)] = below + (hasattr(layer, "kernel") and "_gate_" not in layer.name)
    return max(depths.values())


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.slow if row.name in SLOW else ()) for row in ROWS],
    ids=[f"{row.name}({row.arguments or ''})" for row in ROWS],
)
def test_counts_are_those_of_the_paper(row):
    model = structure(row.name, name="mine", classifier_activation=None, **row.arguments)
    assert model.name == "mine" and model.get_layer("head_dense").activation is keras.activations.linear
    cost = keras_cnns.complexity(model)
    assert cost.parameters == row.parameters
    assert sum(variable.shape.num_elements() for variable in model.trainable_variables) == row.parameters
    assert round(cost.multiply_adds / 1e9, 3) == row.multiply_adds
    assert cost.activations == row.activations
    assert depth(model) == row.depth
