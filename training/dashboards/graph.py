"""The graph of the network in TensorBoard, with nodes grouped by the levels of the layer names."""

import re

import tensorflow as tf

import keras_cnns
from training.dashboards.log import Board


class Graph(Board):
    """Write the network's graph, grouped by stage, and texts.

    Args:
        log: The log.
        texts: {tag: Markdown text}, written once.
    """

    needs = "inputs"

    def __init__(self, log, texts=None):
        super().__init__(log)
        self.texts = texts or {}

    def on_train_begin(self, logs=None):
        with self.log.at(self.step):
            tf.summary.graph(stage_graph(self.model))
            for tag, text in self.texts.items():
                tf.summary.text(tag, text)
        self.log.flush()


def stage_graph(model):
    """Return the graph of the forward pass with nodes grouped by stage, block and layer.

    The levels of a layer name become the parts of a path, since TensorBoard groups by slashes. Nodes that compute
    nothing and only order others are left out.
    """
    function = tf.function(lambda images: model(images, training=False), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec(model.inputs[0].shape, tf.float32)).graph.as_graph_def()
    groups = {layer.name: "/".join(keras_cnns.split_levels(layer.name)) for layer in model.layers}

    def grouped(name):
        # Keras enters every scope twice, so that TensorFlow numbers the second: googlenet_1/conv1_conv_1.
        parts = re.sub(rf"^{model.name}(_\d+)?/", "", name).split("/")
        return "/".join(groups.get(part) or groups.get(re.sub(r"_\d+$", "", part), part) for part in parts)

    nodes = [node for node in graph.node if node.op != "NoOp"]
    for node in nodes:
        node.name = grouped(node.name)
        node.input[:] = [grouped(name) for name in node.input if not name.startswith("^")]
    return tf.compat.v1.GraphDef(node=nodes, library=graph.library, versions=graph.versions)
