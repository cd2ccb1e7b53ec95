"""Compound scaling: which triples (alpha, beta, gamma) fit the budget, and what their networks cost.

Tan & Le 2019, section 3.3, step 1: with phi = 1, on a grid, so that alpha beta^2 gamma^2 is about 2.
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

    triples: tuple[tuple[float, float, float], ...]  # all that build it; the nearest to the budget by formula first
    multiply_adds: int  # for one image


def formula(triple):
    """alpha beta^2 gamma^2: how many times the multiply-adds of the baseline, but for rounding."""
    alpha, beta, gamma = triple
    return alpha * beta**2 * gamma**2


def grid(step, largest):
    """All triples of numbers 1, 1 + step, ... up to `largest`."""
    values = [round(1 + step * index, 6) for index in range(int((largest - 1) / step + 1e-6) + 1)]
    return list(itertools.product(values, repeat=3))


class Counter:
    """Counts multiply-adds of scaled networks without building each of them.

    A layer's multiply-adds are its positions, which follow from the resolution alone, times its kernel, which follows
    from the width alone; which layers there are follows from the depth. So three numbers of networks are built, one
    for each depth, width and resolution, not one for each triple.

    Args:
        recipe: The baseline.
        classes: Number of classes.
        deepest: The largest alpha that will be asked for.
    """

    def __init__(self, recipe, classes, deepest):
        self.recipe, self.classes, self.deepest = recipe, classes, deepest

    @functools.cache  # noqa: B019, a counter lives as long as the search
    def layers(self, alpha=1.0, beta=1.0, gamma=1.0):
        """{name: layer} of the layers with multiply-adds, of the network that a triple builds."""
        network = scale(self.recipe, alpha, beta, gamma).build(self.classes)
        layers = {layer.name: layer for layer in keras_cnns.complexity(network).layers if layer.multiply_adds}
        keras.backend.clear_session(free_memory=False)  # collecting what is left takes longer than a network
        return layers

    def kernels(self, triple):
        """{layer: elements of its kernel}"""
        alpha, beta, _ = triple
        wide = self.layers(self.deepest, beta, 1.0)
        return {name: wide[name].multiply_adds // positions(wide[name]) for name in self.layers(alpha)}

    def multiply_adds(self, triple):
        """Multiply-adds of the network that a triple builds, for one image."""
        fine = self.layers(self.deepest, 1.0, triple[2])
        return sum(elements * positions(fine[name]) for name, elements in self.kernels(triple).items())

    def key(self, triple):
        """Equal for triples that build the same network."""
        return scale(self.recipe, *triple).image_size, *sorted(self.kernels(triple).items())


def positions(layer):
    """At how many positions of the output a layer uses its kernel."""
    return math.prod(layer.output_shape[:-1])


def baseline_multiply_adds(recipe, classes):
    """Multiply-adds of a recipe's network, for one image."""
    return keras_cnns.complexity(scale(recipe, 1.0, 1.0, 1.0).build(classes)).multiply_adds


def feasible(recipe, classes, *, rule="formula", budget=2.0, tolerance=0.1, step=0.05, triples=None):
    """The networks that fit the budget, in the order of the grid.

    Args:
        recipe: The baseline.
        classes: Number of classes.
        rule: What is to be near the budget: "formula", alpha beta^2 gamma^2, or "counted", the multiply-adds of the
            network over the baseline's.
        budget: How many times the multiply-adds of the baseline.
        tolerance: How far from the budget still fits.
        step: Step of the grid, whose numbers go from 1 to the budget.
        triples: The triples to choose from instead of the grid's.

    Returns:
        A list of `Network`.

    Raises:
        UserError: No triple fits; the message lists the nearest.
    """
    chosen = triples or grid(step, budget)
    counter = Counter(recipe, classes, max(alpha for alpha, _, _ in chosen))
    if rule == "counted":
        smallest = baseline_multiply_adds(recipe, classes)
        figures = {triple: counter.multiply_adds(triple) / smallest for triple in chosen}
    else:
        figures = {triple: formula(triple) for triple in chosen}
    fitting = [triple for triple in chosen if abs(figures[triple] - budget) <= tolerance + 1e-9]
    misfits = sorted(set(chosen) - set(fitting), key=lambda triple: (abs(figures[triple] - budget), triple))
    if not fitting or (triples and misfits):
        listed = ", ".join(f"{name(triple)}: {figures[triple]:.3f}" for triple in misfits[:5])
        needed = abs(figures[misfits[-1 if triples else 0]] - budget)
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


def name(triple):
    """A triple as "1.2/1.1/1.15"."""
    return "/".join(f"{value:g}" for value in triple)
