"""Named recipes. Each says where it comes from and, where it was really run, what it reached on two CPU cores."""

import difflib
from dataclasses import replace
from pathlib import Path

from training.errors import UserError
from training.recipe import Recipe

# Digits enlarged from 8 to 32 pixels. Adam instead of the papers' SGD, since the epochs are few.
DIGITS = Recipe(
    name="digits",
    data="digits",
    image_size=32,
    batch_size=32,
    epochs=10,
    optimizer="adam",
    learning_rate=1e-3,
    warmup_epochs=1.0,
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        # One of each family, at a size that fits it. The percentages are of the 360 test images.
        replace(
            DIGITS, name="alexnet_digits", model="AlexNet", image_size=67, epochs=15, learning_rate=3e-4
        ),  # 99.44 %
        replace(
            DIGITS, name="vgg11_digits", model="VGG11", model_args={"batch_norm": True}, learning_rate=3e-4
        ),  # 98.89 %
        # The default of `make train`: the network of the paper with its two heads (section 5: weight 0.3).
        # 99.44, 99.17, 99.44 % with seeds 0, 1, 2.
        replace(DIGITS, name="googlenet_digits", model="GoogLeNet", model_args={"aux_heads": True}, epochs=20),
        replace(DIGITS, name="inceptionv1_digits", model="InceptionV1", model_args={"aux_heads": True}),  # 99.17 %
        replace(DIGITS, name="resnet18_digits", model="ResNet18"),  # 98.89 %
        # 99.72 %
        replace(
            DIGITS,
            name="densenet40_digits",
            model="DenseNetCIFAR",
            model_args={"depth": 40, "growth_rate": 12},
            image_size=16,
        ),
        replace(DIGITS, name="seresnet18_digits", model="SEResNet18"),  # 98.33 %
        replace(DIGITS, name="efficientnetb0_digits", model="EfficientNetB0", epochs=20, learning_rate=2e-3),  # 97.22 %
        # The baseline of `make tune`: a quarter of B0's channels, half of its layers. Batches of 16 give batch
        # normalization's moving statistics, with momentum 0.99, enough steps to settle.
        replace(
            DIGITS,
            name="efficientnet_narrow_digits",
            model="EfficientNet",
            model_args={"width": 0.25, "depth": 0.5},
            batch_size=16,
            epochs=8,
            learning_rate=3e-3,
        ),
        # 98.06 %. With batches of 32 images 12 epochs gave 96.94 %, and at 32 pixels, where the last maps are of one
        # pixel, 20 epochs 93.61 %.
        replace(
            DIGITS,
            name="deformable_digits",
            model="DeformableResNet50",
            image_size=48,
            batch_size=16,
            learning_rate=5e-4,
        ),
        # A start for one's own photographs, --data folder:PATH; SGD as in He et al. 2016, section 3.4, with a cosine
        # instead of steps and the learning rate scaled from 256 images a step to 32.
        Recipe(
            name="resnet18_photos",
            model="ResNet18",
            data="folder:photos",
            image_size=224,
            batch_size=32,
            epochs=30,
            optimizer="sgd",
            learning_rate=0.0125,
            warmup_epochs=1.0,
        ),
    )
}


def find_recipe(name):
    """A named recipe, or one from a JSON file.

    Raises:
        UserError: There is neither.
    """
    if name in RECIPES:
        return RECIPES[name]
    if Path(name).is_file():
        return Recipe.from_json(Path(name).read_text(), name)
    near = difflib.get_close_matches(name, RECIPES) or RECIPES
    raise UserError(f"There is no recipe {name!r}. Did you mean {', '.join(near)}? A path to a recipe.json works too.")
