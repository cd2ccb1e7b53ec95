"""ResNets for CIFAR-10: depth, width, shortcuts, and what keeps gradients from vanishing."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnns
from keras_cnns import resnet
from tests.structure import structure


@pytest.mark.parametrize("network", [keras_cnns.ResNetCIFAR, keras_cnns.PlainNetCIFAR])
def test_a_cifar_network_has_6n_plus_2_layers(network):
    for depth in (2, 9, 19, 21):
        with pytest.raises(
            ValueError, match=rf"depth={depth}; a CIFAR network has 6n \+ 2 layers\. Pass a depth such as"
        ):
            network(depth)
    sizes = {layer.name: layer.output.shape[1:] for layer in network(20).layers if layer.name.endswith("block3_out")}
    assert sizes == {
        "stage1_block3_out": (32, 32, 16),
        "stage2_block3_out": (16, 16, 32),
        "stage3_block3_out": (8, 8, 64),
    }


@pytest.mark.parametrize("network", [keras_cnns.ResNetCIFAR, keras_cnns.PlainNetCIFAR])
def test_width_is_a_factor_on_the_channels(network):
    model = network(8, width=0.5)
    channels = [model.get_layer(f"stage{stage}_block1_out").output.shape[-1] for stage in (1, 2, 3)]
    assert channels == [8, 16, 32] and model.get_layer("stem_relu").output.shape[-1] == 8
    with pytest.raises(ValueError, match=r"width=0\.03; the first stage would have no channels"):
        network(8, width=0.03)


def test_shortcut_options():
    """Of 9 blocks the first of stages 2 and 3 change the shape: A has no projections, B two, C nine."""
    for option, blocks in {
        "A": [],
        "B": ["stage2_block1", "stage3_block1"],
        "C": [f"stage{s}_block{b}" for s in (1, 2, 3) for b in (1, 2, 3)],
    }.items():
        model = keras_cnns.ResNetCIFAR(20, shortcut=option)
        assert [layer.name for layer in model.layers if layer.name.endswith("shortcut_conv")] == [
            f"{block}_shortcut_conv" for block in blocks
        ]
    with pytest.raises(ValueError, match="shortcut='D'; it must be"):
        keras_cnns.ResNetCIFAR(20, shortcut="D")


def test_option_a_takes_every_second_pixel_and_adds_zero_channels():
    image = keras.Input((4, 6, 3))
    x = np.random.RandomState(0).normal(size=(2, 4, 6, 3)).astype("float32")
    shortcut = keras.Model(image, resnet.shortcut_a(image, 5, 2, unit=None, name="shortcut"))
    np.testing.assert_array_equal(shortcut(x), np.pad(x[:, ::2, ::2], [(0, 0)] * 3 + [(0, 2)]))
    assert not shortcut.weights


@pytest.mark.parametrize("plain", ["PlainNet18", "PlainNet34", "PlainNet20", "PlainNet56"])
def test_a_plain_network_is_its_twin_without_shortcuts(plain):
    plain, twin = structure(plain), structure(plain.replace("Plain", "Res"))
    assert not [layer for layer in plain.layers if isinstance(layer, keras.layers.Add)]
    without = {variable.path: variable.shape for variable in twin.weights if "_shortcut_" not in variable.path}
    assert {variable.path: variable.shape for variable in plain.weights} == without


def test_without_batch_normalization_every_convolution_has_a_bias():
    for network in (keras_cnns.ResNetCIFAR, keras_cnns.PlainNetCIFAR):
        model = network(20, batch_norm=False, kernel_initializer="glorot_uniform")
        convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
        assert not [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
        assert len(convolutions) == 19
        assert all(layer.use_bias for layer in convolutions)
        assert {type(layer.kernel_initializer).__name__ for layer in convolutions} == {"GlorotUniform"}


def test_gradients_vanish_in_a_deep_plain_network_without_shortcuts_or_he_initialization():
    """Sections 1 and 4.1: 56 layers, no batch normalization; the norm of the first layer's gradient before training."""

    def first_gradient(network, initializer):
        keras.utils.set_random_seed(0)
        model = network(56, batch_norm=False, kernel_initializer=initializer, classifier_activation=None)
        x = np.random.RandomState(0).normal(size=(4, 32, 32, 3)).astype("float32")
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(tf.range(4), model(x), from_logits=True))
        return float(tf.norm(tape.gradient(loss, model.get_layer("stem_conv").kernel.value)))

    assert first_gradient(keras_cnns.PlainNetCIFAR, "glorot_uniform") < 1e-8
    assert first_gradient(keras_cnns.PlainNetCIFAR, "he_normal") > 1e-3
    assert first_gradient(keras_cnns.ResNetCIFAR, "glorot_uniform") > 1e-3
