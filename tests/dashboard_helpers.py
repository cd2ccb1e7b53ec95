"""Read what a run wrote for TensorBoard, and build a network whose gradient is known."""

import keras
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util


def events(run, split):
    """Return a reader of the event files of a split in a run folder."""
    reader = EventAccumulator(str(run / "tensorboard" / split), size_guidance={"tensors": 0})
    reader.Reload()
    return reader


def series(reader, tag):
    """Return the points of a curve, as a list of (step, value)."""
    return [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in reader.Tensors(tag)]


def parameters_of(run):
    """Return the number of weights in a run's best.safetensors, without the moving statistics."""
    arrays = load_file(run / "best.safetensors")
    return sum(array.size for name, array in arrays.items() if "moving_" not in name)


def one_layer():
    """Return a linear classifier, whose gradient can be computed by hand."""
    image = keras.Input((8, 8, 3))
    return keras.Model(
        image, keras.layers.Dense(2, name="head_dense")(keras.layers.Flatten(name="head_flatten")(image))
    )
