"""EfficientNet and EfficientNet-Lite: Table 1, how it is scaled, and what is in a block."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

import keras_cnns
from keras_cnns import efficientnet, efficientnet_lite
from keras_cnns.efficientnet import TABLE_1, Conv, MBConv, scale
from keras_cnns.efficientnet_lite import scale_lite
from tests.structure import structure

network = functools.cache(structure)


def blocks(model):
    """Return the names of the blocks, in order."""
    return [layer.name.removesuffix("_project_conv") for layer in model.layers if layer.name.endswith("project_conv")]


# Table 1 of Tan and Le, typed by hand: expansion, kernel, channels and layers of stages 2 to 8, and the size of their
# output, which is the resolution of the next stage in the paper.
STAGES = {
    "stage2": (1, 3, 16, 1, 112),
    "stage3": (6, 3, 24, 2, 56),
    "stage4": (6, 5, 40, 2, 28),
    "stage5": (6, 3, 80, 3, 14),
    "stage6": (6, 5, 112, 3, 14),
    "stage7": (6, 5, 192, 4, 7),
    "stage8": (6, 3, 320, 1, 7),
}


@pytest.mark.parametrize("name", ["EfficientNetB0", "EfficientNetLite0"])
def test_table_1(name):
    model, channels_in = network(name), 32
    assert model.get_layer("stem_bn").output.shape[1:] == (112, 112, 32)
    names = [f"{stage}_block{index}" for stage, row in STAGES.items() for index in range(1, row[3] + 1)]
    assert blocks(model) == names
    for block in names:
        expansion, kernel, channels, _, size = STAGES[block.partition("_")[0]]
        assert model.get_layer(f"{block}_depthwise_conv").kernel.shape == (kernel, kernel, expansion * channels_in, 1)
        assert model.get_layer(f"{block}_project_conv").kernel.shape == (1, 1, expansion * channels_in, channels)
        assert model.get_layer(f"{block}_out").output.shape[1:] == (size, size, channels)
        channels_in = channels
    assert model.get_layer("top_conv").kernel.shape == (1, 1, 320, 1280)
    assert model.get_layer("top_bn").output.shape[1:] == (7, 7, 1280)


@pytest.mark.parametrize("name", ["EfficientNetB0", "EfficientNetLite0"])
def test_the_input_is_added_where_it_fits(name):
    model = network(name)
    added = [block for block in blocks(model) if isinstance(model.get_layer(f"{block}_out"), layers.Add)]
    assert added == [f"{stage}_block{index}" for stage, row in STAGES.items() for index in range(2, row[3] + 1)]
    for block in added:
        before = f"{block[:-1]}{int(block[-1]) - 1}_out"
        assert list(map(id, model.get_layer(f"{block}_out").input)) == [
            id(model.get_layer(f"{block}_drop").output),
            id(model.get_layer(before).output),
        ]


def test_the_gate_is_a_quarter_of_the_blocks_input():
    model = network("EfficientNetB0")
    assert model.get_layer("stage2_block1_gate_reduce_conv").kernel.shape == (1, 1, 32, 8)
    assert model.get_layer("stage3_block1_gate_reduce_conv").kernel.shape == (1, 1, 96, 4)
    assert model.get_layer("stage3_block2_gate_reduce_conv").kernel.shape == (1, 1, 144, 6)
    assert model.get_layer("stage8_block1_gate_expand_conv").kernel.shape == (1, 1, 48, 1152)


def test_lite_has_relu6_and_no_gate():
    model = network("EfficientNetLite0")
    assert not [layer.name for layer in model.layers if "gate" in layer.name or "swish" in layer.name]
    activations = [layer for layer in model.layers if layer.name.endswith("_relu")]
    assert len(activations) == 2 + 15 * 2 + 1  # stem and top, two per block, one in the block that does not expand
    assert {layer.max_value for layer in activations} == {6.0}


def test_normalization_is_that_of_the_authors():
    norms = [layer for layer in network("EfficientNetB0").layers if isinstance(layer, layers.BatchNormalization)]
    assert {(layer.momentum, layer.epsilon) for layer in norms} == {(0.99, 1e-3)}


def test_an_even_map_is_padded_on_the_right_and_bottom_only():
    """TensorFlow's padding: the first window of a 3x3 with stride 2 starts at the first pixel of an even map."""
    image = keras.Input((6, 6, 1))
    for convolution in (
        lambda: efficientnet.conv_bn(image, 1, 3, 2, name="a"),
        lambda: efficientnet.depthwise_bn(image, 3, 2, name="a"),
    ):
        model = keras.Model(image, convolution())
        model.get_layer("a_conv").kernel.assign(np.ones((3, 3, 1, 1)))
        sums = np.asarray(model(np.ones((1, 6, 6, 1), "float32")))[0, :, :, 0] * np.sqrt(1 + 1e-3)
        np.testing.assert_allclose(sums, [[9, 9, 6], [9, 9, 6], [6, 6, 4]], rtol=1e-5)


def test_a_depthwise_kernel_is_initialised_with_the_variance_of_its_window():
    """He et al.: 2 / 9 for 3x3, whatever the number of channels; Keras's fan-in counts the channels as well."""
    keras.utils.set_random_seed(0)
    model = efficientnet.efficientnet((TABLE_1[0], TABLE_1[7], TABLE_1[8]))
    kernel = np.asarray(model.get_layer("stage8_block1_depthwise_conv").kernel)
    assert kernel.var() == pytest.approx(2 / 9, rel=0.1)


# --- stochastic depth


def test_drop_connect_grows_linearly_from_the_first_block():
    model = network("EfficientNetB0")
    places = {block: place for place, block in enumerate(blocks(model))}
    rates = {layer.name: layer.rate for layer in model.layers if layer.name.endswith("_drop")}
    assert rates == pytest.approx({f"{b}_drop": 0.2 * p / 16 for b, p in places.items() if f"{b}_drop" in rates})
    assert next(iter(rates)) == "stage3_block2_drop" and rates["stage7_block4_drop"] == pytest.approx(0.2 * 14 / 16)


def test_drop_connect_drops_the_branch_of_whole_images():
    keras.utils.set_random_seed(0)
    layer = keras_cnns.EfficientNet(drop_connect=0.8).get_layer("stage7_block4_drop")
    ones = np.ones((64, 3, 3, 2), "float32")
    dropped = np.asarray(layer(ones, training=True))
    assert set(dropped[:, 0, 0, 0].round(4)) == {0, np.float32(1 / (1 - 0.7)).round(4)}
    assert np.array_equal(dropped, np.broadcast_to(dropped[:, :1, :1, :1], dropped.shape))
    assert np.array_equal(layer(ones, training=False), ones)


def test_no_drop_connect():
    names = [layer.name for layer in network("EfficientNetLite0", drop_connect=0.0).layers]
    assert not [name for name in names if name.endswith("_drop")]
    assert [name for name in names if "drop" in name] == ["head_dropout"]


# --- scaling


# Channels of stem, stages and top, and layers of the stages, of the authors' networks.
SCALED = {
    "B1": (scale, 1.0, 1.1, (32, 16, 24, 40, 80, 112, 192, 320, 1280), (2, 3, 3, 4, 4, 5, 2)),
    "B2": (scale, 1.1, 1.2, (32, 16, 24, 48, 88, 120, 208, 352, 1408), (2, 3, 3, 4, 4, 5, 2)),
    "B3": (scale, 1.2, 1.4, (40, 24, 32, 48, 96, 136, 232, 384, 1536), (2, 3, 3, 5, 5, 6, 2)),
    "B4": (scale, 1.4, 1.8, (48, 24, 32, 56, 112, 160, 272, 448, 1792), (2, 4, 4, 6, 6, 8, 2)),
    "B7": (scale, 2.0, 3.1, (64, 32, 48, 80, 160, 224, 384, 640, 2560), (4, 7, 7, 10, 10, 13, 4)),
    "Lite2": (scale_lite, 1.1, 1.2, (32, 16, 24, 48, 88, 120, 208, 352, 1280), (1, 3, 3, 4, 4, 5, 1)),
    "Lite4": (scale_lite, 1.4, 1.8, (32, 24, 32, 56, 112, 160, 272, 448, 1280), (1, 4, 4, 6, 6, 8, 1)),
}


@pytest.mark.parametrize("variant", SCALED)
def test_scaled_tables(variant):
    function, width, depth, channels, stage_layers = SCALED[variant]
    table = function(TABLE_1, width=width, depth=depth)
    assert tuple(row.channels for row in table) == channels
    assert tuple(row.layers for row in table if isinstance(row, MBConv)) == stage_layers
    untouched = {"channels": 0, "layers": 0}
    for row, base in zip(table, TABLE_1, strict=True):
        fields = untouched if isinstance(row, MBConv) else {"channels": 0}
        assert row._replace(**fields) == base._replace(**fields)


@pytest.mark.parametrize(("channels", "rounded"), [(3, 8), (11, 16), (12, 16), (26.4, 24), (35.2, 32), (76.8, 80)])
def test_channels_are_multiples_of_8_and_never_less_than_90_percent(channels, rounded):
    assert efficientnet.round_channels(channels) == rounded


# Published by the authors: pixels and dropout.
PUBLISHED = {
    "B0": (224, 0.2),
    "B1": (240, 0.2),
    "B2": (260, 0.3),
    "B3": (300, 0.3),
    "B4": (380, 0.4),
    "B5": (456, 0.4),
    "B6": (528, 0.5),
    "B7": (600, 0.5),
    "Lite0": (224, 0.2),
    "Lite1": (240, 0.2),
    "Lite2": (260, 0.3),
    "Lite3": (280, 0.3),
    "Lite4": (300, 0.3),
}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_sizes_and_dropout(variant, monkeypatch):
    for module in (efficientnet, efficientnet_lite):
        monkeypatch.setattr(module, "TABLE_1", (TABLE_1[0], TABLE_1[1], TABLE_1[7], TABLE_1[8]))  # to be fast
    model = structure(f"EfficientNet{variant}")
    size, dropout = PUBLISHED[variant]
    assert model.input_shape == (None, size, size, 3)
    assert model.get_layer("head_dropout").rate == dropout


def test_the_formula_is_not_the_published_table():
    """Section 3.3 and Step 1: alpha 1.2, beta 1.1, gamma 1.15; 224 * 1.15 = 257.6, 224 * 1.15^2 = 296.24."""
    assert keras_cnns.compound_coefficients(0) == (1.0, 1.0, 224)
    assert keras_cnns.compound_coefficients(1) == (1.1, 1.2, 258)
    assert keras_cnns.compound_coefficients(2) == (pytest.approx(1.21), pytest.approx(1.44), 296)
    assert keras_cnns.compound_coefficients(2, alpha=1.0, beta=1.5, gamma=1.25) == (2.25, 1.0, 350)
    width, depth, resolution = keras_cnns.compound_coefficients(1)
    model = network("EfficientNet", width=width, depth=depth, resolution=resolution)
    assert model.input_shape == (None, 258, 258, 3)
    assert model.count_params() > 1.1 * network("EfficientNetB1").count_params()


def test_coefficients_scale_the_network(tmp_path, monkeypatch):
    """Two steps of 1.2, 1.1, 1.15: 1.44 times the layers, 1.21 times the channels, 224 * 1.3225 = 296 pixels."""
    monkeypatch.setattr(efficientnet, "TABLE_1", (TABLE_1[0], TABLE_1[2], TABLE_1[8]))  # to be fast
    file = tmp_path / "coefficients.json"
    file.write_text('{"alpha": 1.2, "beta": 1.1, "gamma": 1.15, "trials": []}')
    expected = network("EfficientNet", width=1.21, depth=1.44, resolution=296)
    for coefficients in ((1.2, 1.1, 1.15), file, str(file)):
        scaled = network("EfficientNet", coefficients=coefficients, phi=2)
        assert scaled.input_shape == (None, 296, 296, 3)
        assert [w.shape for w in scaled.weights] == [w.shape for w in expected.weights]
        assert [w.path for w in scaled.weights] == [w.path for w in expected.weights]
    assert network("EfficientNet", coefficients=file, phi=0).count_params() == network("EfficientNet").count_params()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSONDecodeError"),
        ("[1, 2, 3]", "TypeError"),
        ('{"alpha": 1.2, "beta": 1.1}', "gamma"),
        ('{"alpha": 1.2, "beta": 0.9, "gamma": 1}', "at least 1"),
        ('{"alpha": 1.2, "beta": NaN, "gamma": 1}', "at least 1"),
        (None, "FileNotFoundError"),
    ],
)
def test_a_file_without_coefficients_is_refused(tmp_path, text, message):
    file = tmp_path / "coefficients.json"
    if text:
        file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        keras_cnns.read_coefficients(file)
    assert str(file) in str(error.value)


def test_custom_table():
    table = (Conv("stem", 3, 2, 4), MBConv("stage2", 2, 3, 2, 6, 1), Conv("top", 1, 1, 12))
    model = efficientnet.efficientnet(table, classes=3)
    assert model.get_layer("stage2_block1_expand_conv").kernel.shape == (1, 1, 4, 8)
    assert model.get_layer("top_bn").output.shape[1:] == (56, 56, 12)


def test_weights_of_an_earlier_version_are_refused(tmp_path):
    """The paper's stages 2 to 8 were called stage1 to stage7, so that most names exist, for other blocks."""
    table = (TABLE_1[0], *(row._replace(channels=8, layers=1) for row in TABLE_1[1:8]), TABLE_1[8]._replace(channels=8))
    earlier = (table[0], *(row._replace(name=f"stage{place}") for place, row in enumerate(table[1:8], 1)), table[8])
    path = tmp_path / "earlier.safetensors"
    keras_cnns.save_weights(efficientnet.efficientnet(earlier, include_top=False), path)
    model = efficientnet.efficientnet(table, include_top=False)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"an earlier version wrote it.* stage2 to stage8 now.* Convert the published"):
        keras_cnns.load_weights(model, path)
    assert all(map(np.array_equal, model.get_weights(), before))
