"""From probabilities to names."""

import keras
import numpy as np


def decode_predictions(predictions, class_names, top=5):
    """The most probable classes of each image.

    Args:
        predictions: Probabilities (batch, classes); an array or a tensor.
        class_names: Name of each class, in the order of the outputs.
        top: How many classes to give; all, where there are fewer.

    Returns:
        For each image a list of (name, probability), the most probable first.

    Raises:
        ValueError: `class_names` is not as long as there are classes.

    Example:
        >>> keras_cnns.decode_predictions(numpy.array([[0.25, 0.75]]), ["cat", "dog"])
        [[('dog', 0.75), ('cat', 0.25)]]
    """
    predictions = keras.ops.convert_to_numpy(predictions)
    if predictions.ndim != 2 or predictions.shape[1] != len(class_names):
        raise ValueError(
            f"decode_predictions got predictions of shape {predictions.shape} and {len(class_names)} class names; "
            "pass probabilities (batch, classes) and the name of each class."
        )
    order = np.argsort(-predictions, axis=1, kind="stable")[:, :top]
    return [
        [(class_names[index], float(row[index])) for index in indices]
        for row, indices in zip(predictions, order, strict=True)
    ]
