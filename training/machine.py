"""What a recipe means on this machine: every "auto" decided, and the process prepared for it."""

import dataclasses

import keras
import tensorflow as tf
from tensorflow.python.util import _pywrap_util_port

import keras_cnns
from training.devices import found_distribution
from training.errors import UserError
from training.finetuning import initial_image_size, initial_preprocessing, initial_weights
from training.onednn import VARIABLE

# The meaning of "auto" in these fields depends on the machine, or on a file that may be gone when a run is resumed.
DECIDED_ONCE = (
    *("precision", "jit", "deterministic", "distribution", "onednn"),
    *("preprocessing", "center_crop", "interpolation"),
)


def resolve(recipe, begun=None):
    """Return a recipe with every "auto" decided for this machine, or as it was decided when the run was begun.

    Args:
        recipe: The recipe.
        begun: The recipe of the run that is resumed, perhaps on another machine; None for a new run.

    Raises:
        UserError: The network, its arguments, or what `init` or `freeze` names do not exist; or the recipe asks for
            another `onednn` than TensorFlow was imported with.
    """
    onednn = onednn_of_process()
    if recipe.onednn not in ("auto", onednn):
        raise UserError(
            f"onednn={recipe.onednn!r}: TensorFlow was imported with oneDNN {onednn}. Set {VARIABLE} to "
            f"{int(recipe.onednn == 'on')} before TensorFlow is imported, or pass onednn='auto'."
        )
    if begun:
        decided = {name: getattr(begun, name) for name in DECIDED_ONCE if getattr(recipe, name) == "auto"}
        if found_distribution() == "multiworker":  # these processes cannot train separately
            decided.pop("distribution", None)
        recipe = dataclasses.replace(recipe, **decided)
    if recipe.freeze and not recipe.init:
        raise UserError(f"freeze={recipe.freeze!r}: it keeps initial weights fixed. Pass --init with some weights.")
    gpus = tf.config.list_physical_devices("GPU")
    distribution = found_distribution() if recipe.distribution == "auto" else recipe.distribution
    recipe.check_model_args()
    init = initial_weights(recipe)
    preprocessing = recipe.preprocessing
    if preprocessing == "auto":
        preprocessing = initial_preprocessing(init) if init else "imagenet"
    crop, interpolation = recipe.center_crop, recipe.interpolation
    if "auto" in (crop, interpolation) and not begun:
        found = initial_image_size(init) if init else keras_cnns.ImageSize()
        crop = found.crop if crop == "auto" else crop
        interpolation = found.interpolation if interpolation == "auto" else interpolation
    return dataclasses.replace(
        recipe,
        center_crop=crop,
        interpolation=interpolation,
        precision=best_precision(gpus) if recipe.precision == "auto" else recipe.precision,
        distribution=distribution,
        preprocessing=preprocessing,
        jit=bool(gpus) and distribution == "none" if recipe.jit == "auto" else recipe.jit,
        deterministic=not gpus if recipe.deterministic == "auto" else recipe.deterministic,
        onednn=recipe.onednn if begun else onednn,
    )


def onednn_of_process():
    """Return whether TensorFlow uses oneDNN in this process, "on" or "off": it was decided when it was imported."""
    return "on" if _pywrap_util_port.IsMklEnabled() else "off"


def best_precision(gpus):
    """Return the half precision that all GPUs have tensor cores for; float32 if there is none, or no GPU."""
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    capability = min((detail.get("compute_capability", (0, 0)) for detail in details), default=(0, 0))
    return "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16" if capability >= (7, 0) else "float32"


def prepare(recipe):
    """Set the seeds, determinism and precision of the process for a resolved recipe."""
    keras.utils.set_random_seed(recipe.seed)
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy(recipe.precision)
