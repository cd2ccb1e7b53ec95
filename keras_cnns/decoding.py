"""Class names for predicted probabilities.

imagenet_classes.tsv has the 1,000 classes of ILSVRC 2012 in the order of the outputs of published weights, each with
its WordNet synset: the synsets as in timm 1.0.31, the names as in torchvision 0.29.1, which no two classes share.
"""

import functools
import pathlib
from collections.abc import Iterable

import keras
import numpy as np


@functools.cache
def imagenet_classes():
    """Return the classes of ImageNet in the order of the outputs of published weights: {WordNet synset: name}.

    Example:
        >>> list(keras_cnns.imagenet_classes().items())[:2]
        [('n01440764', 'tench'), ('n01443537', 'goldfish')]
    """
    lines = pathlib.Path(__file__).with_name("imagenet_classes.tsv").read_text().splitlines()
    return dict(line.split("\t") for line in lines)


def decode_predictions(probabilities, class_names=None, top=5):
    """Return the most probable classes of each image.

    Args:
        probabilities: Probabilities (batch, classes); an array or a tensor.
        class_names: Name of each class, in the order of the outputs; by default those of ImageNet, for 1,000 classes.
        top: Number of classes to return, at most.

    Returns:
        For each image a list of (name, probability), the most probable first.

    Raises:
        ValueError: `class_names` does not have one name per class, or `top` is below 1.

    Example:
        >>> keras_cnns.decode_predictions(numpy.array([[0.25, 0.75]]), ["cat", "dog"])
        [[('dog', 0.75), ('cat', 0.25)]]
    """
    probabilities = keras.ops.convert_to_numpy(probabilities)
    if class_names is None and probabilities.shape[-1:] == (1000,):
        class_names = imagenet_classes().values()
    if not isinstance(class_names, Iterable) or isinstance(class_names, str):
        raise ValueError(
            f"decode_predictions got class_names={class_names!r} and probabilities of shape {probabilities.shape}; "
            "pass a list of the names of the classes, in the order of the outputs. Only for the 1,000 classes of "
            "ImageNet they may be left out. Pass `top` by name, e.g. top=5."
        )
    class_names = list(class_names)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(class_names):
        raise ValueError(
            f"decode_predictions got probabilities of shape {probabilities.shape} and {len(class_names)} class names; "
            "pass probabilities (batch, classes) and the name of each class."
        )
    if top < 1:
        raise ValueError(f"decode_predictions got top={top}; it must be at least 1.")
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        [(class_names[index], float(row[index])) for index in indices]
        for row, indices in zip(probabilities, order, strict=True)
    ]
