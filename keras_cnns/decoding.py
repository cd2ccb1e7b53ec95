"""Class names for predicted probabilities."""

from collections.abc import Iterable

import keras
import numpy as np


def decode_predictions(probabilities, class_names=None, top=5):
    """Return the most probable classes of each image.

    Args:
        probabilities: Probabilities (batch, classes); an array or a tensor.
        class_names: Name of each class, in the order of the outputs. This package contains no lists of names, such as
            those of ImageNet.
        top: Number of classes to return, at most.

    Returns:
        For each image a list of (name, probability), the most probable first.

    Raises:
        ValueError: `class_names` is missing or does not have one name per class, or `top` is below 1.

    Example:
        >>> keras_cnns.decode_predictions(numpy.array([[0.25, 0.75]]), ["cat", "dog"])
        [[('dog', 0.75), ('cat', 0.25)]]
    """
    probabilities = keras.ops.convert_to_numpy(probabilities)
    if not isinstance(class_names, Iterable) or isinstance(class_names, str):
        raise ValueError(
            f"decode_predictions got class_names={class_names!r}; pass a list of the names of the classes, in the "
            "order of the outputs. This package does not contain those of ImageNet. Pass `top` by name, e.g. top=5."
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
