"""Class names for predicted probabilities."""

import keras
import numpy as np
import pytest

import keras_cnns


def test_predictions_get_names_in_the_order_of_their_probability():
    probabilities = np.array([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1]])
    assert keras_cnns.decode_predictions(probabilities, ["a", "b", "c"], top=2) == [
        [("c", 0.7), ("b", 0.2)],
        [("a", 0.5), ("b", 0.4)],
    ]
    assert [len(row) for row in keras_cnns.decode_predictions(keras.ops.ones((1, 3)), ["a", "b", "c"])] == [3]


@pytest.mark.parametrize("predictions", [np.ones((1, 4)), np.ones(3)])
def test_names_must_fit_the_predictions(predictions):
    with pytest.raises(ValueError, match=r"and 3 class names; pass probabilities \(batch, classes\)"):
        keras_cnns.decode_predictions(predictions, ["a", "b", "c"])


@pytest.mark.parametrize("names", [None, 3, "abc"])
def test_names_are_required(names):
    """keras.applications' second argument is `top`."""
    with pytest.raises(
        ValueError, match=rf"class_names={names!r} .*; pass a list .* 1,000 classes of ImageNet.* top=5"
    ):
        keras_cnns.decode_predictions(np.ones((1, 3)), names)


def test_the_classes_of_imagenet():
    classes = keras_cnns.imagenet_classes()
    assert len(classes) == 1000 == len(set(classes.values()))
    assert list(classes) == sorted(classes)  # the labels of ILSVRC 2012 are in the order of the synsets
    # Indices by hand, from the photographs of tests/test_real_weights.py and well-known ones.
    shown = {0: "tench", 282: "tiger cat", 657: "missile", 698: "palace", 967: "espresso", 985: "daisy"}
    names = list(classes.values())
    assert {index: names[index] for index in shown} == shown and names[999] == "toilet tissue"
    probabilities = np.zeros((1, 1000))
    probabilities[0, 985] = 1
    assert keras_cnns.decode_predictions(probabilities, top=1) == [[("daisy", 1.0)]]


def test_top_is_at_least_one():
    with pytest.raises(ValueError, match="top=0; it must be at least 1"):
        keras_cnns.decode_predictions(np.ones((1, 3)), ["a", "b", "c"], top=0)
