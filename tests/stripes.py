"""A data set of stripes, a network that learns it in seconds, and its recipe."""

import keras
import numpy as np

from training.data import Data, Split
from training.machine import resolve
from training.recipe import Recipe
from training.run_folder import Run


def stripes(count, seed):
    """Return a split of images whose class is the direction of their stripes."""
    random = np.random.RandomState(seed)
    labels = random.randint(0, 2, count)
    stripe = np.where(np.arange(8) % 2, 255.0, 0.0)
    images = [stripe[:, None] + np.zeros((8, 8)) if label else stripe[None, :] + np.zeros((8, 8)) for label in labels]
    images = np.stack(images)[..., None] + random.uniform(-60, 60, (count, 8, 8, 3))
    images = np.clip(images, 0, 255).astype(np.uint8)
    return Split.from_arrays(images, labels)


DATA = Data(("across", "down"), stripes(48, 0), stripes(16, 1), stripes(16, 2))
RECIPE = resolve(
    Recipe(image_size=8, batch_size=8, epochs=3, optimizer="adam", learning_rate=0.01, precision="float32")
)


def network(heads=True):
    """Build a network of one block with all that the loop must handle: batch normalization, dropout, two heads."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, use_bias=False, name="block_conv")(image)
    x = keras.layers.BatchNormalization(name="block_bn")(x)
    x = keras.layers.ReLU(name="block_out")(x)
    pooled = keras.layers.GlobalAveragePooling2D(name="head_pool")(x)
    pooled = keras.layers.Dropout(0.2, name="head_dropout")(pooled)
    main = keras.layers.Dense(2, dtype="float32", name="head_dense")(pooled)
    if not heads:
        return keras.Model(image, main)
    flat = keras.layers.Flatten(name="aux1_flatten")(x)
    aux = keras.layers.Dense(2, dtype="float32", name="aux1_dense")(flat)
    return keras.Model(image, {"main": main, "aux1": aux})


def run_in(folder, recipe=RECIPE):
    """Return the run of a recipe in a new folder."""
    folder.mkdir(exist_ok=True)
    return Run(folder, recipe)
