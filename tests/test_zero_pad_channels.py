"""Appending channels of zeros against its definition."""

import keras
import numpy as np
import pytest

from keras_cnns.layers import ZeroPadChannels


def test_zeros_follow_the_channels():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    layer = ZeroPadChannels(3)
    np.testing.assert_array_equal(layer(x), np.concatenate([x, np.zeros((2, 3, 4, 3))], axis=-1))
    assert layer.compute_output_shape((None, None, None, 5)) == (None, None, None, 8)


def test_save_and_load(tmp_path):
    model = keras.Sequential([keras.Input((2, 2, 4)), ZeroPadChannels(2, name="pad")])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").get_layer("pad")
    assert type(loaded) is ZeroPadChannels and loaded.count == 2


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match=r"ZeroPadChannels got count=-1; it must be at least 0\."):
        ZeroPadChannels(-1)
