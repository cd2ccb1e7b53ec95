"""Scaling depth, width or resolution alone saturates; scaling them together does not (L19).

Source: Tan and Le 2019, "EfficientNet", section 3.2, observations 1 and 2, Figures 3, 4 and 8. A small ResNet for CIFAR
on MNIST's digits of 28 pixels, reduced to 10: each dimension alone, and all together in the paper's proportions, with
twice and four times the multiply-adds by the formula. Layers are rounded up, so that the counted ones differ.
"""

import itertools
import math
import statistics
from dataclasses import replace

import keras_cnns
from training.recipes import DIGITS
from training.scaling import scale
from training.studies import drawing
from training.studies.frame import Claim, Row, values

ACCURACY = "test accuracy, %"
COST = "multiply-adds, millions"
SECOND = "gain of the second doubling minus that of the first, mean of the three dimensions, points"
TOGETHER = "accuracy of scaling all three minus that of the best dimension alone, after two doublings, points"
# {way: (alpha, beta, gamma)}: growth of depth, width and resolution; each doubles the multiply-adds.
WAYS = {
    "width": (1.0, math.sqrt(2), 1.0),
    "depth": (2.0, 1.0, 1.0),
    "resolution": (1.0, 1.0, math.sqrt(2)),
    "all three": (1.2, 1.1, 1.15),
}
ALONE = ("width", "depth", "resolution")
PHIS = (0, 1, 2)
SOURCE = "Tan and Le 2019, section 3.2"

CLAIMS = (
    Claim(
        "L19",
        "A second doubling of one dimension gains less than the first.",
        SECOND,
        f"{SOURCE}, observation 1",
        greatest=0,
    ),
    Claim(
        "L19",
        "Scaling all three gains more than the best dimension alone.",
        TOGETHER,
        f"{SOURCE}, observation 2",
        least=0,
    ),
)

READING = """
Accuracy by counted multiply-adds for each way of scaling the same small network. The images have detail that their 10
pixels do not show, so that resolution can help, and the baseline is below what the data allow. The second doubling
gains less than the first, most clearly in depth. Scaling all three is not better here than width alone: the differences
are a few of 1,000 test images.
"""


def recipe_of(way, phi, seed, lab):
    """Return the recipe of a scaled network."""
    baseline = replace(
        DIGITS,
        name="scaled",
        data="mnist5k",
        model="ResNetCIFAR",
        model_args={"depth": 8, "width": 0.5},
        image_size=10,
        epochs=6,
        seed=seed,
    )
    if lab.quick:
        baseline, phi = replace(baseline, image_size=8, model_args={"depth": 8, "width": 0.25}), phi / 4
    return scale(lab.shortened(baseline), *WAYS[way], phi)


def measure(lab):
    """Yield the accuracies and costs, and what the claims are about."""
    recipes = {
        (seed, way, phi): recipe_of(way, phi, seed, lab) for seed, way, phi in itertools.product(lab.seeds, WAYS, PHIS)
    }
    runs = dict(zip(recipes, lab.train_all(recipes.values()), strict=True))
    for way, phi in itertools.product(WAYS, PHIS):
        recipe = recipes[lab.seeds[0], way, phi]
        cost = keras_cnns.complexity(recipe.build(10), (recipe.image_size, recipe.image_size, 3)).multiply_adds
        yield Row(COST, way, phi, None, cost / 1e6)
    for seed in lab.seeds:
        accuracies = {}
        for way, phi in itertools.product(WAYS, PHIS):
            accuracies[way, phi] = 100 * runs[seed, way, phi].results()["test"]["accuracy"]
            yield Row(ACCURACY, way, phi, seed, accuracies[way, phi])
        gains = [(accuracies[way, 2] - accuracies[way, 1]) - (accuracies[way, 1] - accuracies[way, 0]) for way in ALONE]
        yield Row(SECOND, "", "", seed, statistics.mean(gains))
        best = max(accuracies[way, 2] for way in ALONE)
        yield Row(TOGETHER, "", "", seed, accuracies["all three", 2] - best)


def draw(rows):
    """Draw accuracy by multiply-adds, a curve for each way."""
    picture, ((axes,),) = drawing.figure("Scaling a small ResNet on MNIST, 10 pixels", width=7, height=4.6)
    looks = {"width": "VGG", "depth": "plain", "resolution": "DenseNet", "all three": "EfficientNet"}
    for way, family in looks.items():
        costs = {phi: found[0] for (_, phi), found in values(rows, COST, way).items()}
        found = {costs[phi]: v for (_, phi), v in values(rows, ACCURACY, way).items()}
        drawing.curve(axes, found, **drawing.style(family, label=way))
    axes.set(xlabel="multiply-adds per image, millions", ylabel="test accuracy, %")
    drawing.log_scale(axes)
    axes.legend(title="scaled", fontsize=9)
    return picture
