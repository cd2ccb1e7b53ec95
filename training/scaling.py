"""Networks that scale in depth, width and resolution: how a recipe of each family becomes a larger one."""

from dataclasses import replace

# Keras is imported by what builds or reads something: the command lines need the limits for their mistakes.
from training.errors import UserError

MAX_GROWTH = 32.0  # times as deep, wide or fine as the baseline; more is a slip, and takes hours to build
MAX_PHI = 100.0


def read_coefficients(file):
    """Return (alpha, beta, gamma) from a coefficients.json.

    Raises:
        UserError: The file has none, or they are out of range.
    """
    import keras_cnns

    try:
        triple = keras_cnns.read_coefficients(file)
    except (ValueError, RecursionError) as error:
        raise UserError(str(error)) from error
    check_growth(*triple, phi=1, where=f"{file}: ")
    return triple


def check_growth(alpha, beta, gamma, phi, where=""):
    """Raise a UserError unless each coefficient, and its power phi, is from 1 to MAX_GROWTH."""
    if not 0 <= phi <= MAX_PHI:
        raise UserError(f"phi={phi!r}: it must be from 0 to {MAX_PHI:g}.")
    for name, base in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
        if not (1 <= base <= MAX_GROWTH and base**phi <= MAX_GROWTH):
            raise UserError(
                f"{where}{name}={base!r} with phi={phi:g}: {name}, and {name} to the power of phi, must be from 1 to "
                f"{MAX_GROWTH:g}."
            )


def scale(recipe, alpha, beta, gamma, phi=1):
    """Return a recipe for a larger network (Tan & Le 2019, equation 3), trained on images as large as it says.

    Args:
        recipe: The baseline.
        alpha: Growth of depth for each step of phi.
        beta: Growth of width.
        gamma: Growth of height and width of the images.
        phi: How many steps; 0 is the baseline.

    Raises:
        UserError: The recipe's network belongs to no family that scales, or would be too large.
    """
    import keras_cnns

    check_growth(alpha, beta, gamma, phi)
    recipe = recipe.with_known_network()
    if recipe.model not in FAMILIES:
        raise UserError(
            f"model={recipe.model!r} cannot be scaled in depth, width and resolution. Pass --model with one of "
            f"{', '.join(FAMILIES)}."
        )
    width, depth, size = keras_cnns.compound_coefficients(phi, alpha, beta, gamma, recipe.image_size)
    return FAMILIES[recipe.model](replace(recipe, image_size=size), depth, width)


def scale_efficientnet(recipe, depth, width):
    """Layers of each stage are rounded up and channels to multiples of 8, by the network itself."""
    arguments = recipe.model_args
    # Rounded, here and below, so that a product such as 0.6000000001 does not become one layer more.
    return replace(
        recipe,
        model="EfficientNet",
        model_args=arguments
        | {
            "width": round(arguments.get("width", 1.0) * width, 6),
            "depth": round(arguments.get("depth", 1.0) * depth, 6),
        },
    )


def scale_resnet_cifar(recipe, depth, width):
    """Blocks of each stage are rounded up, as EfficientNet's are, and channels to the nearest number."""
    arguments = recipe.model_args
    blocks = (arguments.get("depth", 20) - 2) // 6
    more = int(-(-round(blocks * depth, 6) // 1))
    return replace(
        recipe,
        model_args=arguments | {"depth": 6 * more + 2, "width": round(arguments.get("width", 1.0) * width, 6)},
    )


# {network: function (recipe, depth, width) -> recipe with so many times the layers and the channels}
FAMILIES = {
    "EfficientNet": scale_efficientnet,
    "EfficientNetB0": scale_efficientnet,
    "ResNetCIFAR": scale_resnet_cifar,
}
