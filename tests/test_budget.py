"""Which triples fit a budget, and that counting in parts gives the same as counting built networks."""

from fractions import Fraction
from itertools import product

import pytest

import keras_cnns
from tests.structure import structure
from tests.tiny import TINY
from training.recipe import Recipe
from training.scaling import scale
from tuning.budget import Counter, baseline_multiply_adds, feasible, formula, grid, without_weights

B0 = Recipe(model="EfficientNetB0", image_size=224)


def test_the_papers_triple_fits_by_the_formula():
    values = [1 + Fraction(number, 20) for number in range(21)]
    exact = {t for t in product(values, repeat=3) if abs(t[0] * t[1] ** 2 * t[2] ** 2 - 2) <= Fraction(1, 10)}
    fitting = [triple for triple in grid(0.05, 2.0) if abs(formula(triple) - 2) <= 0.1 + 1e-9]
    assert fitting == sorted(tuple(map(float, triple)) for triple in exact)
    assert (1.2, 1.1, 1.15) in fitting
    assert formula((1.2, 1.1, 1.15)) == pytest.approx(1.92027)
    assert max(grid(0.2, 1.4)) == (1.4, 1.4, 1.4)  # rounding of the step does not lose the maximum


def test_counting_in_parts_equals_counting_an_efficientnet():
    """With the paper's triple B0 has 2.57 times the multiply-adds: the layers of each stage are rounded up."""
    triple = (1.2, 1.1, 1.15)
    counter = Counter(B0, 1000, deepest=1.2)
    built = keras_cnns.complexity(
        structure("EfficientNet", width=1.1, depth=1.2, input_shape=(258, 258, 3))
    ).multiply_adds
    assert counter.multiply_adds(triple) == built
    assert built / 386e6 == pytest.approx(2.57, abs=0.005)  # B0 has 0.386 G by the table of multiply-adds
    assert scale(B0, *triple).image_size == 258


def test_counting_in_parts_equals_counting_a_resnet():
    counter = Counter(TINY, 10, deepest=2.0)
    for triple in ((1.0, 1.0, 1.0), (1.5, 1.0, 1.0), (1.0, 1.5, 1.25), (2.0, 2.0, 2.0)):
        assert counter.multiply_adds(triple) == keras_cnns.complexity(scale(TINY, *triple).build(10)).multiply_adds


def test_triples_that_build_the_same_network_are_grouped():
    networks = feasible(TINY, 10, step=0.25, tolerance=0.3)
    listed = [triple for network in networks for triple in network.triples]
    assert len(listed) == len(set(listed)) == sum(abs(formula(t) - 2) <= 0.3 for t in grid(0.25, 2.0))
    assert len(networks) < len(listed)

    def built(triple):
        recipe = scale(TINY, *triple)
        return recipe.image_size, *(weight.shape for weight in without_weights(recipe, 10).weights)

    assert len({built(network.triples[0]) for network in networks}) == len(networks)
    largest = max(networks, key=lambda network: len(network.triples))
    assert len({built(triple) for triple in largest.triples}) == 1


def test_the_counted_rule_counts():
    baseline = baseline_multiply_adds(TINY, 10)
    networks = feasible(TINY, 10, rule="counted", step=0.25, tolerance=0.3)
    ratios = [baseline_multiply_adds(scale(TINY, *network.triples[0]), 10) / baseline for network in networks]
    assert networks and all(1.7 <= ratio <= 2.3 for ratio in ratios)
    assert all((1.2, 1.1, 1.15) not in network.triples for network in networks)
