"""What a run shows in TensorBoard: a Keras callback that writes with tf.summary.

Keras's own callback writes no graph that opens, no learning rate by step and no throughput.
"""

import re
import time

import keras
import tensorflow as tf
from keras import ops

from training.optimization import current_rate

STEP_INTERVAL = 10  # steps between two points of the curves by step


class Dashboards(keras.callbacks.Callback):
    """Writes scalars by epoch and step, the network's graph grouped by stage, and texts.

    Args:
        folder: Where the event files go; one folder in it for train, one for validation.
        batch_size: Images per step, for the throughput.
        texts: {tag: Markdown}, written once.
    """

    remembers_nothing = True  # nothing that a resumed run would need

    def __init__(self, folder, batch_size, texts):
        super().__init__()
        self.folder, self.batch_size, self.texts = folder, batch_size, texts

    def on_train_begin(self, logs=None):
        self.writers = {
            name: tf.summary.create_file_writer(str(self.folder / name)) for name in ("train", "validation")
        }
        with self.writers["train"].as_default(step=int(ops.convert_to_numpy(self.model.optimizer.iterations))):
            tf.summary.graph(stage_graph(self.model))
            for tag, text in self.texts.items():
                tf.summary.text(tag, text)

    def on_epoch_begin(self, epoch, logs=None):
        self.started, self.steps = time.perf_counter(), 0

    def on_train_batch_end(self, batch, logs=None):
        self.seconds = time.perf_counter() - self.started  # of the epoch so far, waiting for images included
        self.steps += 1
        step = int(ops.convert_to_numpy(self.model.optimizer.iterations))
        if step % STEP_INTERVAL == 0:
            with self.writers["train"].as_default(step=step):
                tf.summary.scalar("by_step/learning_rate", current_rate(self.model))
                tf.summary.scalar("by_step/loss", logs["loss"])

    def on_epoch_end(self, epoch, logs=None):
        scalars = {"train": {}, "validation": {}}
        for name, value in logs.items():
            split = "validation" if name.startswith("val_") else "train"
            head, _, quantity = name.removeprefix("val_").rpartition("_")
            # Without a head's name a loss is the total where there are several heads; an accuracy is the main head's.
            head = head or ("total" if quantity == "loss" and "main_loss" in logs and split == "train" else "main")
            scalars[split][f"{quantity}/{head}"] = value
        scalars["train"] |= {
            "learning_rate": current_rate(self.model),
            "speed/images_per_second": self.steps * self.batch_size / self.seconds,
            "speed/step_milliseconds": 1000 * self.seconds / self.steps,
        }
        for split, values in scalars.items():
            with self.writers[split].as_default(step=epoch + 1):
                for tag, value in values.items():
                    tf.summary.scalar(tag, value)
            self.writers[split].flush()

    def on_train_end(self, logs=None):
        for writer in self.writers.values():
            writer.close()


def write_scalars(folder, step, scalars):
    """Writes {tag: value} as one point of each curve."""
    with tf.summary.create_file_writer(str(folder)).as_default(step=step):
        for tag, value in scalars.items():
            tf.summary.scalar(tag, value)


def stage_graph(model):
    """The forward pass as a graph whose nodes are grouped as the layer names say: stage, block, layer.

    Layer names have an underscore at every level, `stage3_block1_conv2_conv`; TensorBoard groups by slashes.
    """
    function = tf.function(lambda images: model(images, training=False), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec(model.inputs[0].shape, tf.float32)).graph.as_graph_def()
    groups = {layer.name: layer.name.replace("_", "/") for layer in model.layers}

    def grouped(name):
        control, name = name[: name.startswith("^")], name.removeprefix("^")
        # Keras enters every scope twice, so that TensorFlow numbers the second: googlenet_1/conv1_conv_1.
        parts = re.sub(rf"^{model.name}(_\d+)?/", "", name).split("/")
        return control + "/".join(groups.get(part) or groups.get(re.sub(r"_\d+$", "", part), part) for part in parts)

    for node in graph.node:
        node.name = grouped(node.name)
        node.input[:] = map(grouped, node.input)
    return graph
