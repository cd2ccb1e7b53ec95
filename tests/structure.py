"""Networks without weights, for tests that look at layers and shapes: built faster, and without gigabytes."""

import keras

import keras_cnns


def structure(builder, **arguments):
    """Build a network whose variables have shapes but no values."""
    with keras.StatelessScope(initialize_variables=False):
        return keras_cnns.builder(builder)(**arguments)
