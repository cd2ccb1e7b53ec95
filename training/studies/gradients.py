"""Gradients vanish or explode in deep networks, depending on initialization and normalization (L3, L4, L14).

Sources: Glorot and Bengio 2010; He et al. 2015, "Delving Deep into Rectifiers", section 2.2: with ReLUs Glorot's
initialization halves the variance of signals and gradients in every layer, He's keeps it; Yang et al. 2019, "A Mean
Field Theory of Batch Normalization": batch normalization makes the gradients of plain networks grow by a factor per
layer toward the input; He et al. 2016, "Identity Mappings", equation 5: a shortcut carries the gradient unchanged.

Measured before the first step: 56 layers, plain and residual, with and without batch normalization, with both
initializations; the norm of the gradient by each kernel, of the loss of one batch of digits.
"""

import math
from dataclasses import replace

import keras

from training.recipes import DIGITS
from training.studies import drawing
from training.studies.frame import Claim, Row, by_x
from training.studies.probing import arrays, gradient_norms

NORM = "norm of the gradient by the kernel of a layer"
FIRST = "log10 of the norm in the first layer"
RATIO = "log10 of the norm in the first layer over that in the last"
DIFFERENCE = "difference between residual and plain"
GLOROT, HE = "glorot_uniform", "he_normal"
NETWORKS = {"plain": "PlainNetCIFAR", "residual": "ResNetCIFAR"}

# With Glorot's initialization, 54 layers shrink the signal and the gradient by 2^-27 each, 10^-8; any large part of it
# is counted as vanishing, and a change by less than a factor of 30 over all layers as healthy.
CLAIMS = (
    Claim(
        "L3",
        "With Glorot's initialization and without normalization the gradient vanishes in 56 plain layers.",
        f"{FIRST}, plain, {GLOROT}",
        "He et al. 2015, section 2.2",
        greatest=-6,
    ),
    Claim(
        "L3",
        "With He's initialization it does not.",
        f"{RATIO}, plain, {HE}",
        "He et al. 2015, section 2.2",
        least=-1.5,
        greatest=1.5,
    ),
    Claim(
        "L4",
        "With batch normalization the gradient of a plain network explodes toward the input.",
        f"{RATIO}, plain, {HE}, batch norm",
        "Yang et al. 2019, section 4",
        least=2,
    ),
    Claim(
        "L14",
        "Shortcuts carry the gradient to the first layer where it vanishes in a plain network.",
        f"{FIRST}, {DIFFERENCE}, {GLOROT}",
        "He et al. 2016, Identity Mappings, equation 5",
        least=4,
    ),
    Claim(
        "L14",
        "With batch normalization shortcuts keep the gradient from exploding.",
        f"{RATIO}, {DIFFERENCE}, {HE}, batch norm",
        "Yang et al. 2019, section 4",
        greatest=-1,
    ),
)

READING = """
Eight networks of 56 layers before their first step. Without normalization, Glorot's initialization lets the gradient of
the plain network vanish, in all layers alike, since the signal vanishes on its way forward; He's, whose weights are
larger by the square root of two, does not. Batch normalization ends that, but then the gradient of the plain network
grows by a factor per layer toward the input. With shortcuts it does neither. Without normalization it is large in all
layers of a residual network, since every block adds to the signal.
"""


def measure(lab):
    """Yield the norms by layer, and what the claims are about."""
    depth, size, batch = (20, 8, 8) if lab.quick else (56, 32, 32)
    images, labels = arrays(replace(DIGITS, image_size=size), "train", batch)
    for seed in lab.seeds:
        logs = {}
        for family, model in NETWORKS.items():
            for initializer in (GLOROT, HE):
                for batch_norm in (False, True):
                    keras.backend.clear_session()
                    keras.utils.set_random_seed(seed)
                    arguments = {"depth": depth, "batch_norm": batch_norm, "kernel_initializer": initializer}
                    recipe = replace(
                        DIGITS, model=model, model_args=arguments, image_size=size, preprocessing="imagenet"
                    )
                    norms = gradient_norms(recipe.build(10), recipe, images, labels)
                    setting = f"{initializer}, batch norm" if batch_norm else initializer
                    for place, norm in enumerate(norms.values(), start=1):
                        yield Row(NORM, f"{family}, {setting}", place, seed, norm)
                    first, last = (math.log10(max(norm, 1e-45)) for norm in (norms["stem_conv"], norms["head_dense"]))
                    logs[family, setting] = {FIRST: first, RATIO: first - last}
        for (family, setting), found in logs.items():
            for quantity, value in found.items():
                yield Row(f"{quantity}, {family}, {setting}", family, setting, seed, value)
                if family == "residual":
                    difference = value - logs["plain", setting][quantity]
                    yield Row(f"{quantity}, {DIFFERENCE}, {setting}", "", setting, seed, difference)


def draw(rows):
    """Draw the norm by depth, a plot for each family."""
    picture, plots = drawing.figure("The gradient of 56 layers before the first step", columns=2, sharey=True)
    settings = {GLOROT: ("Glorot", ":"), HE: ("He", "-.")}
    settings |= {f"{GLOROT}, batch norm": ("Glorot, batch norm", "--"), f"{HE}, batch norm": ("He, batch norm", "-")}
    for axes, family in zip(plots[0], NETWORKS, strict=True):
        for (setting, (label, line)), width in zip(settings.items(), (1, 1, 2, 2), strict=True):
            norms = by_x(rows, NORM, f"{family}, {setting}")
            style = drawing.style(family, linestyle=line, marker="", linewidth=width, label=label)
            drawing.curve(axes, norms, **style)
        axes.set(
            title=family, xlabel="layer, from the input", ylabel="norm of the gradient by its kernel", yscale="log"
        )
        axes.legend(fontsize=9)
    return picture
