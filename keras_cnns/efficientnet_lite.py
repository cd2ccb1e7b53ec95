"""EfficientNet Lite: Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow Blog 2020.

The EfficientNets of Tan and Le 2019 (arXiv:1905.11946) for phones, `PUBLISHED` with the authors' code: ReLU6 in place
of swish, no squeeze and excitation, and in `scale_lite` stem, top and the depths of the first and last stages as they
are in Table 1.

Deviations from the authors' code: none.
"""

from typing import Unpack

from keras import layers

from keras_cnns._builder import builder
from keras_cnns.efficientnet import TABLE_1, EfficientNetArguments, Published, efficientnet, scale

# fmt: off
PUBLISHED = {
    #                width depth resolution dropout
    "Lite0": Published(1.0, 1.0,    224,      0.2),
    "Lite1": Published(1.0, 1.1,    240,      0.2),
    "Lite2": Published(1.1, 1.2,    260,      0.3),
    "Lite3": Published(1.2, 1.4,    280,      0.3),
    "Lite4": Published(1.4, 1.8,    300,      0.3),
}
# fmt: on


def scale_lite(table, *, width, depth):
    """Scale as `scale` does, but for stem and top and the depths of the first and the last stage."""
    stem, first, *_, last, top = table
    _, wide_first, *stages, wide_last, _ = scale(table, width=width, depth=depth)
    return (stem, wide_first._replace(layers=first.layers), *stages, wide_last._replace(layers=last.layers), top)


def relu6(x, *, name):
    """Apply min(max(x, 0), 6), which can be computed in 8 bits."""
    return layers.ReLU(6.0, name=f"{name}_relu")(x)


def lite(published, **arguments):
    """Build an EfficientNet-Lite: the table scaled in its own way, ReLU6, no gate."""
    width, depth, resolution, dropout = published
    table = scale_lite(TABLE_1, width=width, depth=depth)
    return efficientnet(table, resolution=resolution, dropout=dropout, activation=relu6, gate=None, **arguments)


@builder(family=efficientnet)
def EfficientNetLite0(**arguments: Unpack[EfficientNetArguments]):
    """EfficientNet-Lite0: 4,652,008 parameters, 0.385 G multiply-adds at 224 pixels."""
    return lite(PUBLISHED["Lite0"], **arguments)


@builder(family=efficientnet)
def EfficientNetLite1(**arguments: Unpack[EfficientNetArguments]):
    """EfficientNet-Lite1: 5,416,680 parameters, 0.600 G multiply-adds at 240 pixels."""
    return lite(PUBLISHED["Lite1"], **arguments)


@builder(family=efficientnet)
def EfficientNetLite2(**arguments: Unpack[EfficientNetArguments]):
    """EfficientNet-Lite2: 6,092,072 parameters, 0.860 G multiply-adds at 260 pixels."""
    return lite(PUBLISHED["Lite2"], **arguments)


@builder(family=efficientnet)
def EfficientNetLite3(**arguments: Unpack[EfficientNetArguments]):
    """EfficientNet-Lite3: 8,197,096 parameters, 1.383 G multiply-adds at 280 pixels."""
    return lite(PUBLISHED["Lite3"], **arguments)


@builder(family=efficientnet)
def EfficientNetLite4(**arguments: Unpack[EfficientNetArguments]):
    """EfficientNet-Lite4: 13,006,568 parameters, 2.553 G multiply-adds at 300 pixels."""
    return lite(PUBLISHED["Lite4"], **arguments)
