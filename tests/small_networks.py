"""A small network of every family, for tests that take seconds on all of them."""

import functools

import keras
import numpy as np
import pytest

import keras_cnns
from keras_cnns import alexnet, deformable, densenet, efficientnet, efficientnet_lite, googlenet, resnet, senet, vgg
from keras_cnns.alexnet import Convolution
from keras_cnns.efficientnet import Conv, MBConv
from keras_cnns.googlenet import Inception, MaxPool
from keras_cnns.resnet import Stage
from keras_cnns.vgg import Block

STAGES = tuple(Stage(filters, 1) for filters in (8, 8, 16, 16))
MODULES = (
    MaxPool("pool3", 3, 2),
    Inception("inception4a", 16, 8, 16, 8, 8, 8),
    Inception("inception4d", 8, 8, 16, 8, 16, 8),
    MaxPool("pool4", 3, 2),
    Inception("inception5a", 16, 8, 16, 8, 8, 8),
)
# fmt: off
TWO_GPUS = (
    Convolution( 8, 5, 2, 0, 1, True,  True),
    Convolution(16, 5, 1, 2, 2, True,  True),
    Convolution(16, 3, 1, 1, 1, False, False),
)
ONE_TOWER = (
    Convolution( 8, 7, 2, 2, 1, False, True),
    Convolution(16, 3, 1, 1, 1, False, True),
)
# fmt: on
BLOCKS = (Block(8, 1), Block(8, 1), Block(16, 2), Block(16, 1), Block(16, 1))
# Every kind of block: with and without expansion, stride, more channels, and a shortcut with drop connect.
ROWS = (
    Conv("stem", 3, 2, 8),
    MBConv("stage1", 1, 3, 1, 8, 1),
    MBConv("stage2", 6, 5, 2, 8, 2),
    MBConv("stage3", 6, 3, 2, 16, 1),
    MBConv("stage4", 6, 3, 2, 16, 1),
    MBConv("stage5", 6, 5, 2, 16, 1),
    Conv("top", 1, 1, 64),
)
V1 = {"stem": googlenet.stem_v1, "module": googlenet.inception_v1, "head": googlenet.auxiliary_head_v1}
basic = functools.partial(resnet.resnet, STAGES, block=resnet.basic_block)
bottleneck = functools.partial(resnet.resnet, STAGES, block=resnet.bottleneck)
plain = functools.partial(resnet.resnet, STAGES, block=resnet.plain_block)
deformable_bottleneck = functools.partial(deformable.deformable_resnet, STAGES)
cifar = functools.partial(keras_cnns.ResNetCIFAR, 8)
se_basic = functools.partial(senet.senet, STAGES, block=resnet.basic_block, ratio=2)
se_bottleneck = functools.partial(senet.senet, STAGES, block=resnet.bottleneck, ratio=2)
STAGES_OF_GROUPS = (Stage(32, 1),) * 4  # 64 channels between the 1x1 convolutions, in up to 64 groups
resnext = functools.partial(senet.senet, STAGES_OF_GROUPS, block=senet.resnext_bottleneck)
V1_GATED = V1 | {"module": functools.partial(senet.se_inception, ratio=2)}
SENET154 = {"block": senet.wide_bottleneck, "stem": senet.stem_3x3, "dropout": 0.2}
plain_cifar = functools.partial(keras_cnns.PlainNetCIFAR, 8)
two_gpus = functools.partial(alexnet.alexnet, TWO_GPUS, fully_connected=(32, 16))
one_tower = functools.partial(alexnet.alexnet, ONE_TOWER, fully_connected=(32, 16))
vgg_blocks = functools.partial(vgg.vgg, BLOCKS, fully_connected=(32, 16))
dense = functools.partial(densenet.densenet, densenet.Column((1, 2, 1, 1), growth_rate=8))
dense_cifar = functools.partial(keras_cnns.DenseNetCIFAR, 10, growth_rate=4)
efficient = functools.partial(efficientnet.efficientnet, ROWS)
lite = functools.partial(efficientnet.efficientnet, ROWS, activation=efficientnet_lite.relu6, gate=None)
inception = functools.partial(googlenet.googlenet, MODULES)
inception_v1 = functools.partial(googlenet.googlenet, MODULES, **V1)
se_inception = functools.partial(googlenet.googlenet, MODULES, **V1_GATED)
senet154 = functools.partial(senet.senet, STAGES_OF_GROUPS, **SENET154)
# {small network: the networks that differ from it only in their tables}
STANDS_FOR = {
    two_gpus: ("AlexNet",),
    one_tower: ("AlexNetOneTower",),
    vgg_blocks: ("VGG11", "VGG13", "VGG16", "VGG19"),
    inception: ("GoogLeNet",),
    inception_v1: ("InceptionV1",),
    basic: ("ResNet18", "ResNet34"),
    bottleneck: ("ResNet50", "ResNet101", "ResNet152"),
    plain: ("PlainNet18", "PlainNet34"),
    cifar: ("ResNetCIFAR", "ResNet20", "ResNet32", "ResNet44", "ResNet56", "ResNet110"),
    plain_cifar: ("PlainNetCIFAR", "PlainNet20", "PlainNet56"),
    dense: ("DenseNet121", "DenseNet161", "DenseNet169", "DenseNet201", "DenseNet264"),
    dense_cifar: ("DenseNetCIFAR",),
    se_basic: ("SEResNet18", "SEResNet34"),
    se_bottleneck: ("SEResNet50", "SEResNet101", "SEResNet152"),
    resnext: ("SEResNeXt50", "SEResNeXt101"),
    se_inception: ("SEInceptionV1",),
    senet154: ("SENet154",),
    efficient: ("EfficientNet", *(f"EfficientNetB{number}" for number in range(8))),
    lite: tuple(f"EfficientNetLite{number}" for number in range(5)),
    deformable_bottleneck: ("DeformableResNet50", "DeformableResNet101"),
}
SMALL = {name: small for small, names in STANDS_FOR.items() for name in names}
DISTINCT = [names[0] for names in STANDS_FOR.values()]
CIFAR = [*STANDS_FOR[cifar], *STANDS_FOR[plain_cifar], *STANDS_FOR[dense_cifar]]
FLATTENING = ("AlexNet", "AlexNetOneTower", "VGG11")
# One of each family, for checks of which `make test` cannot afford more; `make test-all` has the others.
FAMILIES = ("AlexNet", "VGG11", "GoogLeNet", "ResNet50", "ResNetCIFAR", "DenseNet121", "SEResNeXt50", "EfficientNet")
FAMILIES += ("DeformableResNet50",)
# Networks whose normalization and activation precede the convolution, except in the stem.
PRE_ACTIVATION = ("DenseNet121", "DenseNetCIFAR")
WITH_HEADS = ("GoogLeNet", "InceptionV1", "SEInceptionV1")


def case_of(name, *arguments, **options):
    """Return the case of a network for pytest, which is slow if its family has another one in `make test`."""
    return pytest.param(name, *arguments, marks=[] if name in FAMILIES else [pytest.mark.slow], **options)


every_builder = pytest.mark.parametrize("name", keras_cnns.list_models())
every_network = pytest.mark.parametrize("name", [case_of(name) for name in DISTINCT])


def build(name, **arguments):
    """Build a small network, by default for 64 pixels and 10 classes."""
    sizes = {} if {"input_shape", "input_tensor"} & arguments.keys() else {"input_shape": (64, 64, 3)}
    return SMALL[name](**({"classes": 10} | sizes | arguments))


@functools.cache
def network(name, **arguments):
    """Return a shared small network, for tests that change at most its moving statistics."""
    keras.utils.set_random_seed(0)
    return shaken(build(name, **arguments))


def shaken(model):
    """Change variables that start at zero or one, so that losing one has an effect; kernels are random already."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        if not variable.path.endswith("kernel"):
            variable.assign_add(random.uniform(0, 0.1, variable.shape))
    return model


def same_weights(model, source):
    """Copy the weights of another model by their paths."""
    values = {variable.path: variable for variable in source.weights}
    for variable in model.weights:
        variable.assign(values[variable.path])
    return model


def images(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def outputs(model, x):
    """Return {head: output in inference mode} as arrays; the only output of a network without heads is "main"."""
    out = model(x, training=False)
    return {key: np.asarray(value) for key, value in (out if isinstance(out, dict) else {"main": out}).items()}


def assert_same_outputs(model, other, x, **tolerance):
    ours, theirs = outputs(model, x), outputs(other, x)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        np.testing.assert_allclose(value, theirs[key], err_msg=key, **tolerance)
