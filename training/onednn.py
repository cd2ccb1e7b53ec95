"""oneDNN, the second set of kernels that TensorFlow has for CPUs: whether a run uses it.

TensorFlow decides it when it is imported, by an environment variable; nothing here imports TensorFlow.
"""

import os
import sys

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
# TensorFlow would prepare oneDNN's gradients of convolutions anew in each step; the results are the same to the bit.
KEEP_PREPARED = {"TF_MKL_OPTIMIZE_PRIMITIVE_MEMUSE": "0"}

DEPTHWISE = ("EfficientNet",)  # beginnings of the names of the networks with depthwise convolutions
LEAST_SIZE = 64  # pixels; with fewer channels than EfficientNetB0's, oneDNN is slower on smaller images


def best_setting(recipe):
    """Return what is usually faster for a recipe, "on" or "off"; `python -m training benchmark` measures both."""
    narrow = recipe.model.startswith(DEPTHWISE) and recipe.model_args.get("width", 1.0) < 1
    return "off" if narrow and recipe.image_size < LEAST_SIZE else "on"


def choose(recipe, begun=None):
    """Set the environment variables for the TensorFlow that is imported next.

    Whether it uses oneDNN is, in this order, what the recipe says, what the resumed run was begun with, what the
    variable says already, and what is faster.

    Args:
        recipe: The recipe.
        begun: The recipe of the run that is resumed; None for a new run.
    """
    if "tensorflow" in sys.modules:
        return
    for variable, value in KEEP_PREPARED.items():
        os.environ.setdefault(variable, value)
    setting = begun.onednn if begun and recipe.onednn == "auto" else recipe.onednn
    if setting != "auto":
        os.environ[VARIABLE] = "1" if setting == "on" else "0"
    elif not begun:  # earlier versions left it to TensorFlow
        os.environ.setdefault(VARIABLE, "1" if best_setting(recipe) == "on" else "0")
