"""Search spaces: functions (hp, recipe) -> recipe. Write your own here and add it to SPACES.

`hp` is keras-tuner's HyperParameters: hp.Float, hp.Int, hp.Choice, hp.Boolean. Do not pass `step` to hp.Float: with it
keras-tuner 1.4.8 may never draw the maximum.
"""

from dataclasses import replace


def rate(hp, recipe):
    """Vary the peak learning rate, by a factor of up to ten, and the weight decay."""
    return replace(
        recipe,
        learning_rate=hp.Float("learning_rate", recipe.learning_rate / 10, recipe.learning_rate * 10, sampling="log"),
        weight_decay=hp.Float("weight_decay", 1e-6, 1e-2, sampling="log"),
    )


def regularization(hp, recipe):
    """Vary label smoothing, weight decay, mixup and random erasing."""
    return replace(
        recipe,
        label_smoothing=hp.Float("label_smoothing", 0.0, 0.2),
        weight_decay=hp.Float("weight_decay", 1e-6, 1e-2, sampling="log"),
        mixup=hp.Float("mixup", 0.0, 0.4),
        random_erasing=hp.Float("random_erasing", 0.0, 0.5),
    )


def batch(hp, recipe):
    """Vary the batch size, and the learning rate per 32 images of it."""
    size = hp.Choice("batch_size", [16, 32, 64, 128])
    per_image = hp.Float("learning_rate_per_32_images", 1e-4, 1e-2, sampling="log")
    return replace(recipe, batch_size=size, learning_rate=per_image * size / 32)


def heads(hp, recipe):
    """Vary the loss weight of the auxiliary heads of GoogLeNet and the Inception networks."""
    return replace(
        recipe,
        model_args=recipe.model_args | {"aux_heads": True},
        aux_weight=hp.Choice("aux_weight", [0.0, 0.1, 0.2, 0.3, 0.5, 1.0]),
    )


def augmentation(hp, recipe):
    """Vary the number of RandAugment's operations per image, and their strength."""
    return replace(
        recipe,
        policy="randaugment",
        policy_layers=hp.Int("policy_layers", 1, 3),
        policy_magnitude=hp.Float("policy_magnitude", 0.0, 20.0),
    )


def reduction(hp, recipe):
    """Vary the reduction ratio of the SE networks, over the ratios in the table of Hu et al. 2018."""
    return replace(recipe, model_args=recipe.model_args | {"ratio": hp.Choice("ratio", [2, 4, 8, 16, 32])})


# {value of --space: space}
SPACES = {
    "rate": rate,
    "regularization": regularization,
    "augmentation": augmentation,
    "batch": batch,
    "heads": heads,
    "reduction": reduction,
}
