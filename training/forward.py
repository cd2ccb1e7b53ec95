"""The forward pass of a trained network: pixels in, logits or probabilities out."""

import tensorflow as tf

import keras_cnns


def forward(network, images, preprocessing):
    """Normalise images and return the output of a network in inference mode.

    Args:
        network: The network.
        images: RGB 0..255 (batch, height, width, 3), float32.
        preprocessing: A mode of keras_cnns.preprocess_input.
    """
    return network(keras_cnns.preprocess_input(images, preprocessing), training=False)


def probabilities(network, images, preprocessing, temperature=1.0):
    """Return the probabilities (batch, classes) of a network whose output is logits, which are divided by the
    temperature; other arguments as for `forward`."""
    return tf.nn.softmax(forward(network, images, preprocessing) / temperature)
