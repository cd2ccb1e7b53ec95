"""A deeper plain network is worse in training too; it neither overfits nor loses its gradient (L6, L12, L13).

Source: He et al. 2016, "Deep Residual Learning", sections 1 and 4.1, Figures 1 and 6: plain networks of 56 layers have
a larger training and test error than those of 20; with shortcuts the deeper one is not worse; since batch normalization
keeps the gradients healthy, "this optimization difficulty is unlikely to be caused by vanishing gradients".

Trained: PlainNetCIFAR and ResNetCIFAR of 20 and 56 layers on the digits, by the paper's kind of SGD. Training errors
are those of the last epoch, means over its steps. The gradient is that of a fixed batch, before and in training.
"""

import functools
import itertools
import math
from dataclasses import replace

from training.recipes import DIGITS
from training.studies import drawing
from training.studies.frame import Claim, Row, by_x
from training.studies.probing import arrays, gradient_norms

TRAINING, VALIDATION, TEST = "training error, %", "validation error, %", "test error, %"
RATIO = "log10 of the gradient's norm in the first layer over that in the last"
LEAST_RATIO = f"{RATIO}, the least in training, plain-56"
SOURCE = "He et al. 2016, section 4.2, Figure 6"
DEPTHS = (20, 56)
NETWORKS = {"plain": "PlainNetCIFAR", "residual": "ResNetCIFAR"}

CLAIMS = (
    Claim(
        "L6",
        "The plain network of 56 layers has a larger test error than the one of 20.",
        f"{TEST}, plain-56 minus plain-20",
        SOURCE,
        least=0,
    ),
    Claim(
        "L12",
        "It has a larger training error too.",
        f"{TRAINING}, plain-56 minus plain-20",
        SOURCE,
        least=0,
    ),
    Claim(
        "L12",
        "With shortcuts 56 layers do not have a training error larger by a point.",
        f"{TRAINING}, residual-56 minus residual-20",
        SOURCE,
        greatest=1,
    ),
    Claim(
        "L13",
        "The gradient of the plain network of 56 layers vanishes toward the first layer, to less than a hundredth.",
        LEAST_RATIO,
        "the lecture; He et al. 2016, section 4.1, say that it does not",
        greatest=-2,
    ),
)

READING = """
Left and middle: with 56 layers the plain network is worse than with 20 on the images that it is trained on, so that it
does not overfit; with shortcuts it is not. Right: before the first step the gradient of the plain network is a thousand
times larger in the first layer than in the last. In training it is smaller there, by a factor of about ten, and at its
least by less than fifty in each of three runs; they leave open whether it could be a hundred. A gradient that vanishes
would be smaller by orders of magnitude all the time.
"""


def recipes(lab, seed):
    """Yield (name, Recipe): the digits at 8 pixels, SGD with momentum and a cosine."""
    depths = (8, 14) if lab.quick else DEPTHS
    for (family, model), (named, depth) in itertools.product(NETWORKS.items(), zip(DEPTHS, depths, strict=True)):
        yield (
            f"{family}-{named}",
            lab.shortened(
                replace(
                    DIGITS,
                    name=f"{family}{named}",
                    model=model,
                    model_args={"depth": depth, "width": 0.25} if lab.quick else {"depth": depth},
                    image_size=8,
                    epochs=10,
                    optimizer="sgd",
                    learning_rate=0.05,
                    seed=seed,
                )
            ),
        )


def gradient_ratio(recipe, images, labels, model):
    """Return log10 of the norm of the gradient in the first layer over that in the last."""
    norms = list(gradient_norms(model, replace(recipe, preprocessing="imagenet"), images, labels).values())
    return math.log10(norms[0] / norms[-1])


def train(lab, name, recipe):
    """Train a network of this study, and return its Run and {epoch: ratio of the gradients} of the deep ones."""
    look = functools.partial(gradient_ratio, recipe, *arrays(recipe, "train", 32))
    look.__name__ = "gradient_ratio"
    epochs = range(0, recipe.epochs + 1, 1 if lab.quick else 2) if name.endswith("56") else ()
    return lab.watch(recipe, look, epochs)


def measure(lab):
    """Yield the errors and the ratios by epoch, and the differences that the claims are about."""
    jobs = [(lab, name, recipe) for seed in lab.seeds for name, recipe in recipes(lab, seed)]
    trained = iter(lab.map(train, jobs))
    for seed in lab.seeds:
        last = {}
        for name, _ in recipes(lab, seed):
            run, ratios = next(trained)
            results = run.results()
            for epoch, logs in enumerate(results["history"], start=1):
                yield Row(TRAINING, name, epoch, seed, 100 * (1 - logs["accuracy"]))
                yield Row(VALIDATION, name, epoch, seed, 100 * (1 - logs["val_accuracy"]))
            for epoch, ratio in ratios.items():
                yield Row(RATIO, name, epoch, seed, ratio)
            last[name] = {TRAINING: 100 * (1 - logs["accuracy"]), TEST: 100 * (1 - results["test"]["accuracy"])}
            yield Row(TEST, name, epoch, seed, last[name][TEST])
            if name == "plain-56":
                yield Row(LEAST_RATIO, name, "", seed, min(ratios.values()))
        for family, quantity in itertools.product(NETWORKS, (TRAINING, TEST)):
            difference = last[f"{family}-56"][quantity] - last[f"{family}-20"][quantity]
            yield Row(f"{quantity}, {family}-56 minus {family}-20", family, "", seed, difference)


def draw(rows):
    """Draw the errors by epoch, plain and residual, and the gradient's ratio."""
    picture, ((*errors, gradient),) = drawing.figure("Degradation: 56 layers against 20", columns=3)
    for axes, family in zip(errors, NETWORKS, strict=True):
        for depth, width in zip(DEPTHS, (1, 2.5), strict=True):
            for quantity, line in ((TRAINING, ":"), (VALIDATION, "-")):
                found = by_x(rows, quantity, f"{family}-{depth}")
                label = f"{depth} layers, {quantity.removesuffix(' error, %')}"
                style = drawing.style(family, linestyle=line, marker="", linewidth=width, label=label)
                drawing.curve(axes, found, **style)
        axes.set(title=family, xlabel="epoch", ylabel="error, %", ylim=(0, 100))
        axes.legend(fontsize=9)
        found = by_x(rows, RATIO, f"{family}-56")
        drawing.curve(gradient, found, **drawing.style(family, label=f"{family}-56"))
    gradient.axhline(0, color="grey", linewidth=1)
    gradient.set(title="gradient", xlabel="epoch", ylabel="log10 of the norm, first layer over last")
    gradient.legend(fontsize=9)
    return picture
