"""The embedded data set: scikit-learn's handwritten digits as a TFDS builder, which needs no network."""

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits of 8x8 pixels in ten classes, split 1,437 to 360 with equal shares of each class.

    The test part of the UCI data set "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak 1998), as
    scikit-learn ships it. The split is fixed and does not depend on the recipe.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1)),
            "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        labels = load_digits().target
        train, test = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
        return {"train": self._generate_examples(train), "test": self._generate_examples(test)}

    def _generate_examples(self, indices):
        digits = load_digits()
        # scikit-learn's values are 0 to 16; pixels are 0 to 255.
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
        for index in indices:
            yield int(index), {"image": pixels[index], "label": int(digits.target[index])}
