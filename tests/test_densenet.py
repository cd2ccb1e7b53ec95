"""DenseNet: Table 1, which layer takes which maps, and the recomputation of Pleiss et al. 2017."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_cnns
from keras_cnns import densenet
from keras_cnns.layers import RecomputedConv2D, ScaleAndShift
from tests.structure import structure

network = functools.cache(structure)


def test_layers_of_table_1():
    """Table 1 of Huang et al., typed by hand: layers in the four dense blocks; and k."""
    assert {name: (*column.layers, column.growth_rate) for name, column in densenet.TABLE_1.items()} == {
        "DenseNet-121": (6, 12, 24, 16, 32),
        "DenseNet-169": (6, 12, 32, 32, 32),
        "DenseNet-201": (6, 12, 48, 32, 32),
        "DenseNet-264": (6, 12, 64, 48, 32),
        "DenseNet-161": (6, 12, 36, 24, 48),
    }
    counts = enumerate((6, 12, 24, 16), 1)
    names = [f"dense{block}_layer{layer}_out" for block, count in counts for layer in range(1, count + 1)]
    assert [layer.name for layer in network("DenseNet121").layers if layer.name.endswith("_out")] == names


def test_output_sizes_of_table_1():
    """Sizes as in Table 1; channels by k = 32: 64 + 6k = 256, 128 + 12k = 512, 256 + 24k = 1024, 512 + 16k = 1024."""
    sizes = {
        "stem_conv": (112, 112, 64),
        "stem_pool_max": (56, 56, 64),
        "dense1_layer6_out": (56, 56, 256),
        "transition1_conv": (56, 56, 128),
        "transition1_pool": (28, 28, 128),
        "dense2_layer12_out": (28, 28, 512),
        "transition2_pool": (14, 14, 256),
        "dense3_layer24_out": (14, 14, 1024),
        "transition3_pool": (7, 7, 512),
        "dense4_layer16_out": (7, 7, 1024),
        "head_pool": (1024,),
    }
    assert {name: network("DenseNet121").get_layer(name).output.shape[1:] for name in sizes} == sizes


def kernels(model, prefix):
    """Return the shapes of the kernels of the convolutions whose names start with a prefix."""
    return {
        layer.name.removeprefix(prefix).removesuffix("_conv"): tuple(layer.kernel.shape)
        for layer in model.layers
        if layer.name.startswith(prefix) and isinstance(layer, layers.Conv2D)
    }


def test_kernels_of_a_bottleneck_layer():
    """Section 3: the 1x1 reduces all channels to 4k, the 3x3 these to k; DenseNet-161 has k = 48."""
    model = network("DenseNet121")
    assert kernels(model, "dense2_layer3_") == {"conv1": (1, 1, 128 + 2 * 32, 128), "conv2": (3, 3, 128, 32)}
    model = densenet.densenet(densenet.TABLE_1["DenseNet-161"]._replace(layers=(2, 1)))
    assert kernels(model, "stem_") == {"conv": (7, 7, 3, 96)}
    assert kernels(model, "dense1_layer2_") == {"conv1": (1, 1, 96 + 48, 192), "conv2": (3, 3, 192, 48)}


# Section 4.2: arguments; channels of the stem; layers per block; channels at the ends of the blocks.
CIFAR = [
    ({"depth": 40}, 16, 12, (160, 304, 448)),
    ({"depth": 40, "bottleneck": True, "compression": 0.5}, 24, 6, (96, 120, 132)),
    ({"depth": 22, "growth_rate": 8, "compression": 0.5}, 16, 6, (64, 80, 88)),
]


@pytest.mark.parametrize(("arguments", "stem", "count", "ends"), CIFAR)
def test_cifar_networks(arguments, stem, count, ends):
    model = network("DenseNetCIFAR", **arguments)
    assert kernels(model, "stem_") == {"conv": (3, 3, 3, stem)}
    for block, channels in enumerate(ends, 1):
        size = 32 // 2 ** (block - 1)
        assert model.get_layer(f"dense{block}_layer{count}_out").output.shape[1:] == (size, size, channels)
    assert f"dense1_layer{count + 1}_out" not in [layer.name for layer in model.layers]
    first = {"conv1": (3, 3, stem, arguments.get("growth_rate", 12))}
    if arguments.get("bottleneck"):
        first = {"conv1": (1, 1, stem, 48), "conv2": (3, 3, 48, 12)}
    assert kernels(model, "dense1_layer1_") == first


# Table 2 of the paper, "Params".
@pytest.mark.parametrize(
    ("depth", "growth_rate", "bottleneck", "millions"),
    [
        (40, 12, False, 1.0),
        (100, 12, False, 7.0),
        (100, 12, True, 0.8),
        pytest.param(100, 24, False, 27.2, marks=pytest.mark.slow),
        pytest.param(250, 24, True, 15.3, marks=pytest.mark.slow),
        pytest.param(190, 40, True, 25.6, marks=pytest.mark.slow),
    ],
)
def test_parameters_of_table_2(depth, growth_rate, bottleneck, millions):
    compression = 0.5 if bottleneck else 1.0
    model = structure(
        "DenseNetCIFAR",
        depth=depth,
        growth_rate=growth_rate,
        bottleneck=bottleneck,
        compression=compression,
        include_top=False,
        input_shape=(32, 32, 3),
    )
    assert round(keras_cnns.complexity(model).parameters / 1e6, 1) == millions


def test_every_layer_takes_the_maps_of_all_layers_before_it():
    """Figure 1: the output of layer n is its input and, after it, its own maps."""
    model = network("DenseNet121")
    x = model.get_layer("transition1_pool").output
    for layer in range(1, 13):
        name = f"dense2_layer{layer}"
        assert model.get_layer(f"{name}_conv1_bn").input is x
        new = model.get_layer(f"{name}_conv2_conv").output
        out = model.get_layer(f"{name}_out")
        assert list(map(id, out.input)) == [id(x), id(new)]
        x = out.output
    assert model.get_layer("transition2_bn").input is x


def small(**arguments):
    """Return a network with both kinds of units that is small enough to be fast in float64."""
    return keras_cnns.DenseNetCIFAR(
        16, growth_rate=4, bottleneck=True, compression=0.5, classifier_activation=None, **arguments
    )


def both():
    """Return the plain network and the memory-efficient one, with the same weights."""
    plain, efficient = small(), small(memory_efficient=True)
    random, values = np.random.default_rng(0), {}
    for variable in plain.weights:
        if not variable.path.endswith("kernel"):
            variable.assign_add(random.uniform(0, 0.5, variable.shape))
        values[variable.path] = variable
    for variable in efficient.weights:
        variable.assign(values[variable.path])
    return plain, efficient


def step(model, in_graph):
    """Return the outputs, gradients and variables of one training step, and the outputs in inference after it."""
    random = np.random.default_rng(1)
    x, direction = random.normal(size=(4, 32, 32, 3)), random.normal(size=(4, 10))

    def run(x):
        with tf.GradientTape() as tape:
            out = model(x, training=True)
            loss = tf.reduce_sum(out * tf.cast(direction, out.dtype))
        return out, tape.gradient(loss, [variable.value for variable in model.trainable_variables])

    out, gradients = (tf.function(run) if in_graph else run)(tf.cast(x, model.dtype))
    results = {v.path: np.array(gradient) for v, gradient in zip(model.trainable_variables, gradients, strict=True)}
    results |= {variable.path: np.array(variable) for variable in model.non_trainable_variables}
    return results | {"training": np.array(out), "inference": np.array(model(tf.cast(x, model.dtype), training=False))}


def assert_close(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert np.abs(value - theirs[key]).max() <= tolerance * np.abs(theirs[key]).max(), key


@pytest.mark.parametrize("in_graph", [True, False], ids=["graph", "eager"])
def test_memory_efficient_is_equal(in_graph):
    """Outputs, gradients of every variable and moving statistics, which are updated once; in float64, to 1e-10."""
    floatx = keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        plain, efficient = both()
        before = np.array(plain.get_layer("dense2_layer2_conv1_bn").moving_mean)
        expected = step(plain, in_graph)
        assert not np.allclose(expected["dense2_layer2_conv1_bn/moving_mean"], before, rtol=0.01)
        assert_close(step(efficient, in_graph), expected, 1e-10)
    finally:
        keras.config.set_floatx(floatx)


# Gradients are compared in float64 only: a value near zero that falls on the other side of a ReLU changes them.
@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-5), ("mixed_float16", 1e-2)])
def test_memory_efficient_is_equal_in_every_precision(policy, tolerance):
    keras.config.set_dtype_policy(policy)
    plain, efficient = both()
    names = ["training", "inference"] + [v.path for v in plain.non_trainable_variables]
    ours, theirs = (step(model, in_graph=True) for model in (efficient, plain))
    assert_close({name: ours[name] for name in names}, {name: theirs[name] for name in names}, tolerance)
    assert all(np.isfinite(value).all() for value in ours.values())


def test_memory_efficient_has_the_same_names_and_costs():
    plain, efficient = both()
    assert [layer.name for layer in efficient.layers] == [layer.name for layer in plain.layers]
    shapes = [{v.path: tuple(v.shape) for v in model.weights} for model in (plain, efficient)]
    assert shapes[0] == shapes[1]
    costs = [keras_cnns.complexity(model) for model in (plain, efficient)]
    for field in ("parameters", "multiply_adds", "activations"):
        assert getattr(costs[0], field) == getattr(costs[1], field)


def test_memory_efficient_keeps_no_concatenation():
    """A layer takes the maps of the layers before it as a list; they are concatenated only at the end of a block."""
    model = small(memory_efficient=True)  # two layers per block
    blocks = {1: "stem_conv", 2: "transition1_pool", 3: "transition2_pool"}
    for block, entry in blocks.items():
        maps = [model.get_layer(entry).output, model.get_layer(f"dense{block}_layer1_conv2_conv").output]
        first, second = (model.get_layer(f"dense{block}_layer{number}_conv1_conv") for number in (1, 2))
        assert isinstance(first, RecomputedConv2D) and isinstance(second, RecomputedConv2D)
        assert [x.shape for x in first.input[:-2]] == [maps[0].shape]
        assert [x.shape for x in second.input[:-2]] == [x.shape for x in maps]
        last = model.get_layer(f"dense{block}_layer2_out")
        assert isinstance(last, layers.Concatenate) and len(last.input) == 3
    assert len([layer for layer in model.layers if isinstance(layer, layers.Concatenate)]) == 3


def test_memory_efficient_trains_like_the_plain_network():
    """Three steps of model.fit; a frozen network keeps its moving statistics."""
    random = np.random.default_rng(2)
    x, y = random.normal(size=(12, 32, 32, 3)).astype("float32"), random.integers(10, size=12)
    losses = []
    for model in both():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=False)
        history = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
        model.trainable = False
        before = model.get_weights()
        model(x, training=True)
        assert all(map(np.array_equal, before, model.get_weights()))
    assert losses[0][1] < losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


def test_recomputing_layers_match_their_definitions():
    """Against NumPy: the statistics of the batch over two maps, and relu(scale * x + shift) in a convolution."""
    random = np.random.default_rng(3)
    maps = [random.normal(2, 3, (2, 4, 5, channels)).astype("float32") for channels in (3, 2)]
    x = np.concatenate(maps, axis=-1)
    norm, convolution = ScaleAndShift(momentum=0.9, epsilon=0.01), RecomputedConv2D(6, 1, activation="tanh")
    norm.build([value.shape for value in maps])
    norm.gamma.assign(gamma := random.uniform(0.5, 2, 5))
    norm.beta.assign(beta := random.normal(size=5))
    scale, shift = norm(maps, training=True)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    normalised = (x - mean) / np.sqrt(variance + 0.01) * gamma + beta
    np.testing.assert_allclose(x * scale + shift, normalised, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.moving_mean, 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, 0.9 + 0.1 * variance, rtol=1e-5)
    out = convolution([*maps, scale, shift])
    convolution.bias.assign(bias := random.normal(size=6))
    out = convolution([*maps, scale, shift])
    expected = np.tanh(np.maximum(normalised, 0) @ np.array(convolution.kernel)[0, 0] + bias)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
