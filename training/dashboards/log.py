"""The log that all dashboards of a run write to, the base class of dashboards, and helpers for figures."""

import contextlib
import io
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboard.plugins.histogram.metadata import create_summary_metadata

from training.errors import ResourceError
from training.image_file import decode_reason

BUCKETS = 30  # of a histogram, as in tf.summary.histogram


class Log:
    """The event files of a run, shared by all its dashboards.

    There is one file per folder: TensorBoard follows one growing file in a folder and may ignore a second one.

    Args:
        folder: Where the files go, in one subfolder each for train, validation and test.
    """

    def __init__(self, folder):
        self.folder, self._writers = Path(folder), {}

    def at(self, step, name="train"):
        """Return a context in which tf.summary writes into the subfolder `name`, at a step."""
        if name not in self._writers:
            with writing(self.folder):
                self._writers[name] = tf.summary.create_file_writer(str(self.folder / name))
        return self._writers[name].as_default(step=step)

    def scalars(self, step, values, name="train"):
        """Write {tag: value}, one point per curve."""
        with self.at(step, name):
            for tag, value in values.items():
                tf.summary.scalar(tag, value)

    def figure(self, tag, figure, step, name="train"):
        """Write a matplotlib figure as an image."""
        with self.at(step, name):
            tf.summary.image(tag, pixels_of(figure)[None])

    def histogram(self, tag, values, step, name="train"):
        """Write the histogram of an array's finite values; tf.summary.histogram takes 240 bytes for each of them."""
        counts, edges = np.histogram(values[np.isfinite(values)], BUCKETS)
        buckets = np.stack([edges[:-1], edges[1:], counts], axis=1).astype("float64")
        with self.at(step, name):
            tf.summary.write(tag, buckets, metadata=create_summary_metadata(None, None))

    def flush(self):
        """Write everything that is buffered to the files."""
        for writer in self._writers.values():
            writer.flush()


@contextlib.contextmanager
def writing(folder):
    """Raise a ResourceError when writing fails, whether Python or TensorFlow reports it."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = decode_reason(error) if isinstance(error, tf.errors.OpError) else error
        raise ResourceError(
            f"{folder} could not be written: {reason}. Make room or change the permissions, then give the same command "
            "again to resume."
        ) from error


class Board(keras.callbacks.Callback):
    """The base class of dashboards: a callback that writes to a log, by default without state.

    Args:
        log: The log.
    """

    needs = "output"  # attribute of the model that a subclassed one lacks; None if any model will do

    def __init__(self, log):
        super().__init__()
        self.log = log

    def set_model(self, model):
        if self.needs and not hasattr(model, self.needs):
            raise TypeError(
                f"{type(self).__name__} needs the layers of a functional model, and {model.name} is a "
                f"{type(model).__name__} without a known {self.needs}. Leave this callback out, or build the model "
                "with keras.Model(input, output)."
            )
        super().set_model(model)

    @property
    def step(self):
        """Number of weight updates so far."""
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    def state(self):
        """Return the callback state that the run's checkpoints keep, as JSON values."""
        return {}

    def load_state(self, state):
        """Restore what `state` returned."""

    def on_epoch_end(self, epoch, logs=None):
        self.log.flush()

    def on_train_end(self, logs=None):
        self.log.flush()


def is_due(epochs, every):
    """Return whether to draw after so many epochs: after the first, then at every interval; never if `every` is 0."""
    return bool(every) and (epochs <= 1 or epochs % every == 0)


def new_figure(width, height):
    """Return an empty figure of a size in inches, which needs no screen and no global state."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=80)
    FigureCanvasAgg(figure)
    return figure


def pixels_of(figure):
    """Return a figure as an image (height, width, 3), uint8."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def grid(images, titles=None, columns=4, colours=None):
    """Return a figure of images, RGB 0..255 (height, width, 3), with a title above each."""
    rows = -(-len(images) // columns)
    figure = new_figure(1.8 * columns, (2.1 if titles else 1.8) * rows)
    for index, image in enumerate(images):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(np.clip(image, 0, 255).astype(np.uint8))
        axes.axis("off")
        if titles:
            axes.set_title(titles[index], fontsize=9, color=colours[index] if colours else "black", parse_math=False)
    return figure


def png(figure, metadata=None):
    """Return a figure as the bytes of a PNG file, with texts {key: text} in its metadata."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata=metadata)
    return buffer.getvalue()
