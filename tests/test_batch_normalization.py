"""The fused batch normalization equals that of Keras."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from keras_cnns.layers import BatchNormalization, ScaleAndShift
from training.devices import make_strategy

MAPS = np.random.RandomState(0).normal(3.0, 2.0, (4, 5, 6, 8)).astype("float32")


def pair(shape=MAPS.shape, **arguments):
    """Return Keras's layer and ours with the same variables, none at its initial value."""
    layers = [cls(momentum=0.9, **arguments) for cls in (keras.layers.BatchNormalization, BatchNormalization)]
    for layer in layers:
        layer.build(shape)
    random = np.random.RandomState(1)
    for theirs, ours in zip(layers[0].weights, layers[1].weights, strict=True):
        value = random.uniform(0.5, 1.5, theirs.shape)
        theirs.assign(value)
        ours.assign(value)
    return layers


def gradients(layer, x, training):
    """Return the outputs, the gradients of a weighted sum by input, gamma and beta, and the moving statistics."""
    x = tf.constant(x)
    direction = tf.constant(np.random.RandomState(2).normal(size=x.shape).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
        total = tf.reduce_sum(tf.cast(y, tf.float32) * direction)
    variables = [variable.value for variable in layer.trainable_variables]
    return [y, *tape.gradient(total, [x, *variables]), *layer.non_trainable_variables]


def assert_close(ours, theirs, tolerance):
    for one, other in zip(ours, theirs, strict=True):
        one, other = (np.asarray(keras.ops.cast(value, "float64")) for value in (one, other))
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * np.abs(other).max())


@pytest.mark.parametrize(("channels", "kept_apart"), [(12, True), (16, False)])
def test_the_kernel_is_not_merged_with_a_relu_where_that_is_slow(channels, kept_apart):
    layer, shape = BatchNormalization(), (4, 5, 6, channels)
    layer.build(shape)
    graph = tf.function(lambda x: tf.nn.relu(layer(x, training=True)), autograph=False)
    operations = graph.get_concrete_function(tf.TensorSpec(shape)).graph.get_operations()
    assert ("EnsureShape" in [operation.type for operation in operations]) == kept_apart


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("arguments", [{}, {"scale": False}, {"center": False}, {"epsilon": 0.1}])
@pytest.mark.parametrize(
    ("policy", "tolerance"), [("float32", 1e-5), ("mixed_float16", 2e-3), ("mixed_bfloat16", 2e-2), ("float64", 1e-10)]
)
def test_results_gradients_and_statistics_equal_those_of_keras(policy, tolerance, arguments, training):
    keras.config.set_dtype_policy(policy)
    theirs, ours = pair(**arguments)
    maps = MAPS.astype("float64") if policy == "float64" else MAPS
    assert_close(gradients(ours, maps, training), gradients(theirs, maps, training), tolerance)
    assert ours(maps).dtype == theirs(maps).dtype


@pytest.mark.parametrize(("training", "trainable"), [(True, True), (True, False), (False, True)])
def test_the_fused_kernel_is_used_in_training_only(training, trainable):
    """In inference TensorFlow would merge it with the convolution before, which is slow with oneDNN."""
    _, ours = pair()
    ours.trainable = trainable
    function = tf.function(lambda x: ours(x, training=training)).get_concrete_function(tf.TensorSpec(MAPS.shape))
    fused = "FusedBatchNormV3" in {node.op for node in function.graph.as_graph_def().node}
    assert fused == (training and trainable)


def test_the_moving_variance_is_biased():
    _, ours = pair()
    before = np.asarray(ours.moving_variance)
    ours(MAPS, training=True)
    np.testing.assert_allclose(ours.moving_variance, 0.9 * before + 0.1 * MAPS.var((0, 1, 2)), rtol=1e-5)


def test_one_element_per_channel_has_no_variance():
    _, ours = pair((1, 1, 1, 8))
    before = np.asarray(ours.moving_variance)
    ours(MAPS[:1, :1, :1], training=True)
    np.testing.assert_allclose(ours.moving_variance, 0.9 * before, rtol=1e-6)


def test_a_frozen_layer_uses_and_keeps_the_moving_statistics():
    theirs, ours = pair()
    theirs.trainable = ours.trainable = False
    before = [np.asarray(variable) for variable in ours.weights]
    np.testing.assert_allclose(ours(MAPS, training=True), theirs(MAPS, training=True), rtol=1e-5, atol=1e-6)
    for old, variable in zip(before, ours.weights, strict=True):
        np.testing.assert_array_equal(old, variable)


@pytest.mark.parametrize("shape", [(6, 8), (4, 5, 8), (2, 3, 4, 5, 8)])
def test_other_ranks_are_left_to_keras(shape):
    theirs, ours = pair(shape)
    x = np.random.RandomState(3).normal(size=shape).astype("float32")
    assert_close(gradients(ours, x, True), gradients(theirs, x, True), 1e-6)


@pytest.mark.parametrize("arguments", [{"axis": 1}, {"renorm": True}])
def test_another_axis_and_renormalization_are_left_to_keras(arguments):
    theirs, ours = pair(**arguments)
    assert_close(gradients(ours, MAPS, True), gradients(theirs, MAPS, True), 1e-6)


def test_weights_are_interchangeable_with_keras(tmp_path):
    networks = []
    for cls in (keras.layers.BatchNormalization, BatchNormalization):
        image = keras.Input(MAPS.shape[1:])
        networks.append(keras.Model(image, cls(name="norm")(image)))
    theirs, ours = networks
    for variable in theirs.weights:
        variable.assign(np.random.RandomState(4).uniform(0.5, 1.5, variable.shape))
    keras_cnns.save_weights(theirs, tmp_path / "weights.safetensors")
    keras_cnns.load_weights(ours, tmp_path / "weights.safetensors")
    np.testing.assert_allclose(ours(MAPS), theirs(MAPS), rtol=1e-5, atol=1e-6)


def test_save_and_load():
    layer = BatchNormalization(momentum=0.7, epsilon=0.2, synchronized=True, name="norm")
    same = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert isinstance(same, BatchNormalization)
    assert same.get_config() == layer.get_config()


def halves():
    """Return a strategy of two devices and MAPS divided unevenly between them."""
    strategy = make_strategy("mirrored")
    parts = iter([MAPS[:3], MAPS[3:]])
    return strategy, strategy.experimental_distribute_values_from_function(lambda _: tf.constant(next(parts)))


def test_synchronized_replicas_share_their_statistics():
    strategy, per_replica = halves()
    with strategy.scope():
        layer = BatchNormalization(momentum=0.9, synchronized=True)
        layer.build(MAPS.shape)

    @tf.function
    def step(x):
        return strategy.run(lambda part: layer(part, training=True), (x,))

    outputs = np.concatenate([np.asarray(value) for value in strategy.experimental_local_results(step(per_replica))])
    whole = BatchNormalization(momentum=0.9)
    np.testing.assert_allclose(outputs, whole(MAPS, training=True), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean.value, whole.moving_mean.value, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance.value, whole.moving_variance.value, rtol=1e-4)


def test_synchronized_replicas_share_recomputed_statistics():
    def gradients_of(layer, maps):
        """Return the output of the layer and the gradients of its sum by the maps, gamma and beta."""
        with tf.GradientTape() as tape:
            tape.watch(maps)
            scale, shift = layer([maps[..., :3], maps[..., 3:]], training=True)
            total = tf.reduce_sum(tf.sin(maps * scale + shift))
        return [scale, shift, *tape.gradient(total, [maps, *(v.value for v in layer.trainable_variables)])]

    strategy, per_replica = halves()
    layers = []
    for scope, synchronized in ((strategy.scope(), True), (contextlib.nullcontext(), False)):
        with scope:
            layers.append(ScaleAndShift(momentum=0.9, synchronized=synchronized))
            layers[-1].build([(None, 5, 6, 3), (None, 5, 6, 5)])
    parts = tf.function(lambda x: strategy.run(lambda part: gradients_of(layers[0], part), (x,)))(per_replica)
    parts = [list(map(np.asarray, strategy.experimental_local_results(values))) for values in parts]
    scale, shift, maps, gamma, beta = map(np.asarray, gradients_of(layers[1], tf.constant(MAPS)))
    for (first, second), expected in zip(parts[:2], (scale, shift), strict=True):
        np.testing.assert_allclose(first, expected, rtol=1e-4)
        np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(np.concatenate(parts[2]), maps, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.sum(parts[3:], axis=1), [gamma, beta], rtol=1e-3, atol=1e-3)
    for moving, expected in zip(layers[0].non_trainable_variables, layers[1].non_trainable_variables, strict=True):
        np.testing.assert_allclose(moving.value, expected.value, rtol=1e-5)
