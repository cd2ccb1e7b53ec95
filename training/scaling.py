"""Compound scaling: a recipe for a network that is larger in depth, width and resolution."""

import functools
import math
import os
from dataclasses import replace

# Keras is imported in the functions that need it, since command lines import this module for its limits.
from training.errors import UserError

MAX_GROWTH = 32.0  # times the baseline's depth, width or resolution; more is a mistake and takes hours to build
MAX_PHI = 100.0


def check_file(file):
    """Raise a UserError if there is no file of coefficients; this needs no Keras."""
    if not os.path.isfile(file):
        raise UserError(f"{file} has no coefficients: there is no such file. `python -m tuning compound` writes one.")


def read_coefficients(file):
    """Return (alpha, beta, gamma) from a file such as coefficients.json.

    Raises:
        UserError: The file has no coefficients, or they are out of range.
    """
    import keras_cnns

    try:
        triple = keras_cnns.read_coefficients(file)
    except (ValueError, RecursionError) as error:
        raise UserError(str(error)) from error
    check_growth(*triple, phi=1, where=f"{file}: ")
    return triple


def check_growth(alpha, beta, gamma, phi, where=""):
    """Raise a UserError unless each coefficient, and the coefficient to the power of phi, is from 1 to MAX_GROWTH."""
    if not 0 <= phi <= MAX_PHI:
        raise UserError(f"phi={phi!r}: it must be from 0 to {MAX_PHI:g}.")
    for name, base in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
        if not (1 <= base <= MAX_GROWTH and base**phi <= MAX_GROWTH):
            raise UserError(
                f"{where}{name}={base!r} with phi={phi:g}: {name}, and {name} to the power of phi, must be from 1 to "
                f"{MAX_GROWTH:g}."
            )


def scale(recipe, alpha, beta, gamma, phi=1):
    """Return a recipe for a larger network and larger images (Tan & Le 2019, equation 3).

    Args:
        recipe: The baseline.
        alpha: Growth of depth per step of phi.
        beta: Growth of width per step.
        gamma: Growth of the images' height and width per step.
        phi: Number of steps; 0 is the baseline.

    Raises:
        UserError: The recipe's network cannot be scaled, or would be too large.
    """
    import keras_cnns

    check_growth(alpha, beta, gamma, phi)
    recipe.check_model_args()
    if recipe.model not in FAMILIES:
        raise UserError(
            f"model={recipe.model!r} cannot be scaled in depth, width and resolution. Pass --model with one of "
            f"{', '.join(FAMILIES)}."
        )
    grow = functools.partial(keras_cnns.compound_coefficients, phi, alpha, beta, gamma, recipe.image_size)
    return FAMILIES[recipe.model](recipe, grow)


def scale_efficientnet(recipe, grow):
    """Scale the baseline's width and depth; the network itself rounds layers up and channels to multiples of 8."""
    arguments = recipe.model_args
    width, depth, size = grow(width=arguments.get("width", 1.0), depth=arguments.get("depth", 1.0))
    return replace(
        recipe, model="EfficientNet", image_size=size, model_args=arguments | {"width": width, "depth": depth}
    )


def scale_resnet_cifar(recipe, grow):
    """Scale the channels and the blocks of each stage, which are rounded up like EfficientNet's layers."""
    arguments = recipe.model_args
    width, blocks, size = grow(width=arguments.get("width", 1.0), depth=(arguments.get("depth", 20) - 2) // 6)
    return replace(recipe, image_size=size, model_args=arguments | {"depth": 6 * math.ceil(blocks) + 2, "width": width})


# {network: function (recipe, grow) -> larger recipe}, where grow(width=, depth=) returns (width, depth, image size)
FAMILIES = {
    "EfficientNet": scale_efficientnet,
    "EfficientNetB0": scale_efficientnet,
    "ResNetCIFAR": scale_resnet_cifar,
}
