"""The graph of a network, grouped by stage."""

import tensorflow as tf

import keras_cnns
from training import dashboards


def test_the_graph_is_grouped_by_stage_and_valid():
    model = keras_cnns.GoogLeNet(aux_heads=True, input_shape=(32, 32, 3), classes=10)
    graph = dashboards.stage_graph(model)
    names = {node.name for node in graph.node}
    assert len(names) == len(graph.node)
    stages = {name.split("/")[0] for name in names}
    assert {"conv1", "pool1", "inception3a", "inception5b", "head", "aux1", "aux2"} <= stages
    assert any(name.startswith("inception3a/3x3reduce/conv/") for name in names)
    assert "NoOp" not in {node.op for node in graph.node}
    for node in graph.node:
        for name in node.input:
            assert name.split(":")[0] in names  # there are no control inputs
    with tf.Graph().as_default():
        tf.graph_util.import_graph_def(graph, name="")  # TensorFlow accepts it
