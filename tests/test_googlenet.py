"""GoogLeNet and InceptionV1: Table 1 to the letter, the auxiliary heads, training with them."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

import keras_cnns
from keras_cnns import _blocks, googlenet
from tests.structure import structure

# Table 1 of Szegedy et al., typed by hand: the output size of every row, by the layer that ends it.
TABLE_1_OUTPUT_SIZES = {
    "conv1_relu": (112, 112, 64),
    "pool1_max": (56, 56, 64),
    "conv2_main_relu": (56, 56, 192),
    "pool2_max": (28, 28, 192),
    "inception3a_out": (28, 28, 256),
    "inception3b_out": (28, 28, 480),
    "pool3_max": (14, 14, 480),
    "inception4a_out": (14, 14, 512),
    "inception4b_out": (14, 14, 512),
    "inception4c_out": (14, 14, 512),
    "inception4d_out": (14, 14, 528),
    "inception4e_out": (14, 14, 832),
    "pool4_max": (7, 7, 832),
    "inception5a_out": (7, 7, 832),
    "inception5b_out": (7, 7, 1024),
    "head_pool": (1024,),
    "head_dense": (1000,),
}
# Its kernels in (3a) and (5b): height, width, channels in, channels out.
TABLE_1_KERNELS = {
    "conv1_conv": (7, 7, 3, 64),
    "conv2_reduce_conv": (1, 1, 64, 64),
    "conv2_main_conv": (3, 3, 64, 192),
    "inception3a_1x1_conv": (1, 1, 192, 64),
    "inception3a_3x3reduce_conv": (1, 1, 192, 96),
    "inception3a_3x3_conv": (3, 3, 96, 128),
    "inception3a_5x5reduce_conv": (1, 1, 192, 16),
    "inception3a_5x5_conv": (5, 5, 16, 32),
    "inception3a_poolproj_conv": (1, 1, 192, 32),
    "inception5b_1x1_conv": (1, 1, 832, 384),
    "inception5b_3x3reduce_conv": (1, 1, 832, 192),
    "inception5b_3x3_conv": (3, 3, 192, 384),
    "inception5b_5x5reduce_conv": (1, 1, 832, 48),
    "inception5b_5x5_conv": (5, 5, 48, 128),
    "inception5b_poolproj_conv": (1, 1, 832, 128),
}
BRANCHES = ("1x1", "3x3", "5x5", "poolproj")  # Figure 2b, left to right


network = functools.cache(structure)


def of_type(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


@pytest.mark.parametrize("name", ["GoogLeNet", "InceptionV1"])
def test_output_sizes_of_table_1(name):
    model = network(name)
    assert {row: model.get_layer(row).output.shape[1:] for row in TABLE_1_OUTPUT_SIZES} == TABLE_1_OUTPUT_SIZES


@pytest.mark.parametrize(("name", "size"), [("GoogLeNet", 5), ("InceptionV1", 3)])
def test_kernels_of_table_1(name, size):
    model = network(name)
    kernels = {layer: model.get_layer(layer).kernel.shape for layer in TABLE_1_KERNELS}
    assert kernels == {
        layer: (size, size, *shape[2:]) if "5x5_" in layer else shape for layer, shape in TABLE_1_KERNELS.items()
    }
    sizes = {layer.name: layer.kernel_size for layer in of_type(model, layers.Conv2D) if "_5x5_" in layer.name}
    assert len(sizes) == 9 and set(sizes.values()) == {(size, size)}


def test_branches_are_concatenated_in_the_order_of_figure_2b():
    model = network("GoogLeNet")
    for out in of_type(model, layers.Concatenate):
        module = out.name.removesuffix("_out")
        branches = [model.get_layer(f"{module}_{branch}_relu").output for branch in BRANCHES]
        assert list(map(id, out.input)) == list(map(id, branches))


def test_googlenet_normalizes_responses_twice_and_batches_never():
    model = network("GoogLeNet")
    norms = of_type(model, keras_cnns.layers.LocalResponseNormalization)
    assert [norm.name for norm in norms] == ["norm1_lrn", "norm2_lrn"]
    # Figure 3: after pool1 and after conv2. Caffe's alpha 1e-4 is divided by the 5 channels.
    assert norms[0].input is model.get_layer("pool1_max").output
    assert norms[1].input is model.get_layer("conv2_main_relu").output
    assert [(norm.size, norm.alpha, norm.beta, norm.bias) for norm in norms] == 2 * [(5, 2e-5, 0.75, 1.0)]
    assert not of_type(model, layers.BatchNormalization)


def test_inceptionv1_normalizes_every_convolution():
    model = network("InceptionV1", aux_heads=True)
    norms = of_type(model, layers.BatchNormalization)
    assert len(norms) == len(of_type(model, layers.Conv2D)) == 3 + 9 * 6 + 2
    assert {norm.epsilon for norm in norms} == {1e-3}
    assert not of_type(model, keras_cnns.layers.LocalResponseNormalization)
    assert model.get_layer("pool4_max").pool_size == (2, 2)


@pytest.mark.parametrize(("name", "rate"), [("GoogLeNet", 0.4), ("InceptionV1", 0.2)])
def test_dropout_rates(name, rate):
    rates = {layer.name: layer.rate for layer in of_type(network(name, aux_heads=True), layers.Dropout)}
    assert rates == {"head_dropout": rate, "aux1_dropout": 0.7, "aux2_dropout": 0.7}


@pytest.mark.parametrize("name", ["GoogLeNet", "InceptionV1"])
def test_heads_take_the_output_of_4a_and_4d(name):
    model = network(name, aux_heads=True)
    assert list(model.output) == ["main", "aux1", "aux2"]
    for head, module in {"aux1": "inception4a", "aux2": "inception4d"}.items():
        assert model.get_layer(f"{head}_pool").input is model.get_layer(f"{module}_out").output
        assert model.get_layer(f"{head}_pool").output.shape[1:3] == (4, 4)
        assert model.get_layer(f"{head}_conv").kernel.shape == (
            1,
            1,
            model.get_layer(f"{module}_out").output.shape[3],
            128,
        )
        assert model.get_layer(f"{head}_fc").kernel.shape == (2048, 1024)
        assert model.get_layer(f"{head}_dense").output is model.output[head]


# The map of 4a is a sixteenth of the image, rounded up: 14 at 224, 5 at 79 and 4 at 78 pixels.
@pytest.mark.parametrize(
    ("size", "window", "output"),
    [
        ((224, 224), (5, 5), (4, 4)),
        ((79, 79), (5, 5), (1, 1)),
        ((78, 78), (4, 4), (1, 1)),
        ((64, 64), (4, 4), (1, 1)),
        ((32, 32), (2, 2), (1, 1)),
        ((32, 224), (2, 5), (1, 4)),
    ],
)
def test_the_heads_pool_is_5x5_or_the_whole_map(size, window, output):
    model = network("GoogLeNet", aux_heads=True, input_shape=(*size, 3))
    for head in ("aux1", "aux2"):
        pool = model.get_layer(f"{head}_pool")
        assert (pool.pool_size, pool.strides) == (window, (3, 3))
        assert pool.output.shape[1:3] == output


@pytest.mark.filterwarnings("error:The structure of `inputs`")
def test_main_output_shares_the_weights_and_drops_the_heads():
    model = keras_cnns.GoogLeNet(aux_heads=True, input_shape=(64, 64, 3), classes=10)
    main = keras_cnns.main_output(model)
    assert main.output_shape == (None, 10)
    assert {layer.name for layer in model.layers} - {layer.name for layer in main.layers} == {
        layer.name for layer in model.layers if layer.name.startswith("aux")
    }
    ours = {id(variable) for variable in model.weights if not variable.path.startswith("aux")}
    assert {id(variable) for variable in main.weights} == ours
    x = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    np.testing.assert_array_equal(main(x), model(x)["main"])
    assert keras_cnns.main_output(main) is main


def test_labels_for_every_head():
    labels = np.array([3, 7])
    heads = keras_cnns.labels_for(network("GoogLeNet", aux_heads=True), labels)
    assert list(heads) == ["main", "aux1", "aux2"] and all(value is labels for value in heads.values())
    assert keras_cnns.labels_for(network("GoogLeNet"), labels) is labels


def test_trains_with_plain_fit():
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 16)
    images = random.normal(size=(16, 32, 32, 1)) + labels[:, None, None, None]  # one class is brighter
    rows = [row for row in googlenet.TABLE_1 if row.name in ("inception4a", "inception4d", "pool4")]
    model = googlenet.googlenet(rows, aux_heads=True, classes=2, input_shape=(32, 32, 1))
    weights = {"main": 1, "aux1": 0.3, "aux2": 0.3}
    losses = dict.fromkeys(weights, "sparse_categorical_crossentropy")
    # Without XLA, which takes longer to compile for a CPU than this to train.
    model.compile(keras.optimizers.SGD(0.01), loss=losses, loss_weights=weights, jit_compile=False)
    history = model.fit(images, keras_cnns.labels_for(model, labels), epochs=20, verbose=0).history
    weighted = sum(weight * np.array(history[f"{head}_loss"]) for head, weight in weights.items())
    np.testing.assert_allclose(history["loss"], weighted, rtol=1e-5)
    assert history["main_loss"][-1] < 0.3  # log 2 = 0.69 is chance


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("size", [(7, 8), (8, 7), (9, 12)])
def test_max_pool_rounds_up(size, window):
    """Caffe's rule: windows start at every second pixel, and the last one may extend over the border."""
    x = np.random.default_rng(0).uniform(size=(2, *size, 3)).astype("float32")
    height, width = (-(-(pixels - window) // 2) + 1 for pixels in size)
    expected = [
        [x[:, 2 * i : 2 * i + window, 2 * j : 2 * j + window].max((1, 2)) for j in range(width)] for i in range(height)
    ]
    np.testing.assert_array_equal(_blocks.max_pool(x, window, 2, name="pool"), np.moveaxis(expected, 2, 0))


def test_custom_table():
    rows = (googlenet.Inception("inception3a", 1, 2, 3, 4, 5, 6), googlenet.MaxPool("pool3", 3, 2))
    model = googlenet.googlenet(rows, include_top=False, input_shape=(32, 64, 3))
    assert model.get_layer("inception3a_out").output.shape == (None, 4, 8, 1 + 3 + 5 + 6)
    assert model.output_shape == (None, 2, 4, 1 + 3 + 5 + 6)
