"""Which triples (alpha, beta, gamma) fit a budget of multiply-adds, and what their networks cost.

Tan & Le 2019, section 3.3, step 1: a grid search with phi = 1 under the constraint alpha beta^2 gamma^2 = 2, about.
"""

import functools
import itertools
import math
from typing import NamedTuple

import keras

import keras_cnns
from training.errors import UserError
from training.scaling import scale


class Network(NamedTuple):
    """A network that fits the budget."""

    triples: tuple[tuple[float, float, float], ...]  # all that build it, the nearest to the budget by formula first
    multiply_adds: int  # per image


def formula(triple):
    """Return alpha beta^2 gamma^2: the multiply-adds relative to the baseline's, before layers are rounded."""
    alpha, beta, gamma = triple
    return alpha * beta**2 * gamma**2


def grid(step, largest):
    """Return all triples of numbers 1, 1 + step, ... up to `largest`."""
    values = [round(1 + step * index, 6) for index in range(int((largest - 1) / step + 1e-6) + 1)]
    return list(itertools.product(values, repeat=3))


def without_weights(recipe, classes):
    """Build the network of a recipe without weights, which is faster and enough to count."""
    with keras.StatelessScope(initialize_variables=False):
        return recipe.build(classes)


class Counter:
    """Counter of the multiply-adds of scaled networks that does not build each of them.

    The multiply-adds of a layer are its number of output positions, which depends on the resolution only, times the
    size of its kernel, which depends on the width only; the depth decides which layers exist. So one network is built
    per depth, per width and per resolution, not one per triple.

    Args:
        recipe: The baseline.
        classes: Number of classes.
        deepest: The largest alpha of all triples.
    """

    def __init__(self, recipe, classes, deepest):
        self.recipe, self.classes, self.deepest = recipe, classes, deepest

    @functools.cache  # noqa: B019, a counter lives only as long as `feasible` runs
    def layers(self, alpha=1.0, beta=1.0, gamma=1.0):
        """Return {name: layer} of the layers with multiply-adds in the network that a triple builds."""
        network = without_weights(scale(self.recipe, alpha, beta, gamma), self.classes)
        layers = {layer.name: layer for layer in keras_cnns.complexity(network).layers if layer.multiply_adds}
        keras.backend.clear_session(free_memory=False)  # freeing it takes longer than building a network
        return layers

    def kernels(self, triple):
        """Return {layer: size of its kernel} for the network that a triple builds."""
        alpha, beta, _ = triple
        wide = self.layers(self.deepest, beta, 1.0)
        return {name: wide[name].multiply_adds // positions(wide[name]) for name in self.layers(alpha)}

    def multiply_adds(self, triple):
        """Return the multiply-adds per image of the network that a triple builds."""
        fine = self.layers(self.deepest, 1.0, triple[2])
        return sum(size * positions(fine[name]) for name, size in self.kernels(triple).items())

    def key(self, triple):
        """Return a value that is equal for triples that build the same network."""
        return scale(self.recipe, *triple).image_size, *sorted(self.kernels(triple).items())


def positions(layer):
    """Return the number of output positions to which a layer applies its kernel."""
    return math.prod(layer.output_shape[:-1])


def baseline_multiply_adds(recipe, classes):
    """Return the multiply-adds per image of a recipe's network."""
    return keras_cnns.complexity(without_weights(scale(recipe, 1.0, 1.0, 1.0), classes)).multiply_adds


def feasible(recipe, classes, *, rule="formula", budget=2.0, tolerance=0.1, step=0.05, triples=None):
    """Return the networks that fit the budget, in the order of the grid.

    Args:
        recipe: The baseline.
        classes: Number of classes.
        rule: What must be close to the budget: "formula", alpha beta^2 gamma^2, or "counted", the multiply-adds of the
            network divided by those of the baseline.
        budget: Multiply-adds relative to those of the baseline.
        tolerance: Largest distance from the budget.
        step: Step of the grid, whose numbers go from 1 to the budget.
        triples: Triples to choose from instead of the grid's.

    Returns:
        A list of `Network`.

    Raises:
        UserError: No triple fits, or one of `triples` does not; the message lists the nearest.
    """
    chosen = triples or grid(step, budget)
    counter = Counter(recipe, classes, max(alpha for alpha, _, _ in chosen))
    if rule == "counted":
        baseline = baseline_multiply_adds(recipe, classes)
        figures = {triple: counter.multiply_adds(triple) / baseline for triple in chosen}
    else:
        figures = {triple: formula(triple) for triple in chosen}
    fitting = [triple for triple in chosen if abs(figures[triple] - budget) <= tolerance + 1e-9]
    others = sorted(set(chosen) - set(fitting), key=lambda triple: (abs(figures[triple] - budget), triple))
    if not fitting or (triples and others):
        listed = ", ".join(f"{triple_text(triple)}: {figures[triple]:.3f}" for triple in others[:5])
        needed = abs(figures[others[-1 if triples else 0]] - budget)
        raise UserError(
            f"{'Not all of the given' if triples else 'No'} triples are within {tolerance:g} of the budget {budget:g} "
            f"by the rule {rule!r}. The nearest that are not: {listed}. "
            f"Pass --tolerance {math.ceil(1000 * needed) / 1000:g}, or "
            f"{'other --triples' if triples else 'a smaller --step'}."
        )
    groups = {}
    for triple in fitting:
        groups.setdefault(counter.key(triple), []).append(triple)
    return [
        Network(
            tuple(sorted(group, key=lambda triple: (round(abs(formula(triple) - budget), 9), triple))),
            counter.multiply_adds(group[0]),
        )
        for group in groups.values()
    ]


def triple_text(triple):
    """Return a triple as "1.2/1.1/1.15"."""
    return "/".join(f"{value:g}" for value in triple)
