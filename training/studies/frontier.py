"""EfficientNets are accurate with few multiply-adds (L20).

Source: Tan and Le 2019, Table 2 and Figure 5, on ImageNet. Here three families at three widths each, with about the
same range of multiply-adds, trained alike on the digits, which have few images and small ones: whether the statement
carries over is measured, not assumed.
"""

import itertools
import math
from dataclasses import replace

import numpy as np

import keras_cnns
from training.recipes import DIGITS
from training.studies import drawing
from training.studies.frame import Claim, Row, values

ERROR = "test error, %"
COST = "multiply-adds, millions"
AGAINST = "test error of EfficientNet minus that of {} at the same multiply-adds, points"
SOURCE = "Tan and Le 2019, Table 2"
# {family: (network, its arguments at each size)}
FAMILIES = {
    "residual": ("ResNetCIFAR", [{"depth": 8, "width": width} for width in (0.25, 0.375, 0.5)]),
    "DenseNet": (
        "DenseNetCIFAR",
        [{"depth": 16, "growth_rate": k, "bottleneck": True, "compression": 0.5} for k in (3, 4, 6)],
    ),
    "EfficientNet": ("EfficientNet", [{"width": width, "depth": 0.5} for width in (0.25, 0.375, 0.5)]),
}

CLAIMS = (
    Claim(
        "L20",
        "At the same multiply-adds an EfficientNet is at least as accurate as a residual network.",
        AGAINST.format("ResNet"),
        SOURCE,
        greatest=0,
    ),
    Claim(
        "L20",
        "At the same multiply-adds an EfficientNet is at least as accurate as a DenseNet.",
        AGAINST.format("DenseNet"),
        SOURCE,
        greatest=0,
    ),
)

READING = """
The lower left is best. Per multiply-add the EfficientNets are about as good as the residual networks here, and better
than the narrow DenseNets. All networks were trained with the same recipe, 5 epochs of Adam with batches of 16, on 1,293
digits of 32 pixels; EfficientNet's advantage on ImageNet was found with 350 epochs of a million images.
"""


def recipe_of(seed, family, place, lab):
    """Return the recipe of a network of FAMILIES.

    Its batches have 16 images: with fewer steps the moving statistics of EfficientNet, whose momentum is 0.99, would
    not settle, and evaluation would measure that.
    """
    model, sizes = FAMILIES[family]
    recipe = replace(DIGITS, name="frontier", model=model, model_args=sizes[place], batch_size=16, epochs=5, seed=seed)
    return lab.shortened(recipe)


def measure(lab):
    """Yield errors and costs, and the differences at equal cost."""
    places = range(1 if lab.quick else 3)
    recipes = {key: recipe_of(*key, lab) for key in itertools.product(lab.seeds, FAMILIES, places)}
    runs = dict(zip(recipes, lab.train_all(recipes.values()), strict=True))
    costs = {}
    for family, place in itertools.product(FAMILIES, places):
        network = recipes[lab.seeds[0], family, place].build(10)
        costs[family, place] = keras_cnns.complexity(network).multiply_adds / 1e6
        yield Row(COST, family, place, None, costs[family, place])
    for seed in lab.seeds:
        errors = {family: [] for family in FAMILIES}
        for family, place in itertools.product(FAMILIES, places):
            errors[family].append(100 * (1 - runs[seed, family, place].results()["test"]["accuracy"]))
            yield Row(ERROR, family, place, seed, errors[family][-1])
        for name, family in (("ResNet", "residual"), ("DenseNet", "DenseNet")):
            differences = [
                error - at_cost(costs["EfficientNet", place], family, costs, errors[family])
                for place, error in enumerate(errors["EfficientNet"])
            ]
            yield Row(AGAINST.format(name), "", "", seed, float(np.mean(differences)))


def at_cost(cost, family, costs, errors):
    """Return the error of a family at some multiply-adds, between its networks; beyond them that of the nearest."""
    logs = [math.log(costs[family, place]) for place in range(len(errors))]
    return float(np.interp(math.log(cost), logs, errors))


def draw(rows):
    """Draw the error by multiply-adds, a curve for each family."""
    picture, ((axes,),) = drawing.figure("Error and cost of three families on the digits", width=7, height=4.6)
    for family in FAMILIES:
        costs = {place: found[0] for (_, place), found in values(rows, COST, family).items()}
        found = {costs[place]: v for (_, place), v in values(rows, ERROR, family).items()}
        drawing.curve(axes, found, **drawing.style(family, label=family))
    axes.set(xlabel="multiply-adds per image, millions", ylabel=ERROR, ylim=(0, None))
    drawing.log_scale(axes)
    axes.legend(fontsize=9)
    return picture
