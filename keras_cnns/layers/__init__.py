"""Layers that Keras lacks."""

from keras_cnns.layers.local_response_normalization import LocalResponseNormalization

__all__ = ["LocalResponseNormalization"]
