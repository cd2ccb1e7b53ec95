"""ResNet: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv:1512.03385).

Table 1 is `TABLE_1`; Figure 5, left, is `basic_block`, right, `bottleneck`; section 3.3, the residual network with
projection shortcuts where the shape changes (option B), is `resnet`. Stages are named by what they are in every such
network: conv1 is `stem`, conv2_x to conv5_x are `stage1` to `stage4`.

Deviations from the paper:
- version="1.5", the default, puts a bottleneck's stride into its 3x3 convolution instead of its first 1x1. Published
  weights and today's baselines do so. version="1" is the paper.
"""

from typing import NamedTuple, Unpack

from keras import layers

from keras_cnns._blocks import conv_bn, conv_bn_relu
from keras_cnns._model import SharedArguments, builder, classifier_head, finish, image_input


class Stage(NamedTuple):
    """A cell of Table 1: how wide a block is and how often it is stacked."""

    filters: int  # of the 3x3 convolutions; a bottleneck's output has four times as many
    blocks: int


# fmt: off
TABLE_1 = {
    # layer name   conv2_x       conv3_x        conv4_x         conv5_x
    # output size  56 x 56       28 x 28        14 x 14         7 x 7
    "18-layer":   (Stage(64, 2), Stage(128, 2), Stage(256,  2), Stage(512, 2)),
    "34-layer":   (Stage(64, 3), Stage(128, 4), Stage(256,  6), Stage(512, 3)),
    "50-layer":   (Stage(64, 3), Stage(128, 4), Stage(256,  6), Stage(512, 3)),
    "101-layer":  (Stage(64, 3), Stage(128, 4), Stage(256, 23), Stage(512, 3)),
    "152-layer":  (Stage(64, 3), Stage(128, 8), Stage(256, 36), Stage(512, 3)),
}
# fmt: on


def basic_block(x, filters, strides, *, version, name):
    """Figure 5, left: two 3x3 convolutions beside a shortcut, (b, h, w, c) -> (b, h/strides, w/strides, filters).

    The stride is in the first 3x3 in every version.
    """
    shortcut = shortcut_b(x, filters, strides, name=f"{name}_shortcut")
    x = conv_bn_relu(x, filters, 3, strides, name=f"{name}_conv1")
    x = conv_bn(x, filters, 3, name=f"{name}_conv2")
    return add_relu(x, shortcut, name=name)


def bottleneck(x, filters, strides, *, version, name):
    """Figure 5, right: 1x1, 3x3, 1x1 beside a shortcut, (b, h, w, c) -> (b, h/strides, w/strides, 4 * filters)."""
    strides_1x1, strides_3x3 = {"1": (strides, 1), "1.5": (1, strides)}[version]
    shortcut = shortcut_b(x, 4 * filters, strides, name=f"{name}_shortcut")
    x = conv_bn_relu(x, filters, 1, strides_1x1, name=f"{name}_conv1")
    x = conv_bn_relu(x, filters, 3, strides_3x3, name=f"{name}_conv2")
    x = conv_bn(x, 4 * filters, 1, name=f"{name}_conv3")
    return add_relu(x, shortcut, name=name)


def shortcut_b(x, filters, strides, *, name):
    """Section 3.3, option B: the identity, or a 1x1 projection where the shape changes."""
    if strides == 1 and x.shape[-1] == filters:
        return x
    return conv_bn(x, filters, 1, strides, name=name)


def add_relu(x, shortcut, *, name):
    """The end of both blocks of Figure 5: F(x) + x, then ReLU."""
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, shortcut]))


@builder
def resnet(table, *, block, version="1.5", name="resnet", **shared: Unpack[SharedArguments]):
    """Section 3.3: the stem, four stages of residual blocks, global average pooling and the classifier.

    Args:
        table: The stages, a column of `TABLE_1` or one's own sequence of `Stage`.
        block: A function (x, filters, strides, *, version, name) -> x that builds one residual block.
        version: Where a bottleneck has its stride: "1.5" in the 3x3, "1" in the first 1x1 as in the paper.
        name: Name of the model.
    """
    if version not in ("1", "1.5"):
        raise ValueError(f'version={version!r}; it must be "1.5" (stride in the 3x3) or "1" (the paper).')
    image = image_input(name, shared, default_size=224, minimum=32, minimum_because="the network divides them by 32")
    x = conv_bn_relu(image, table[0].filters, 7, strides=2, name="stem")
    x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    x = layers.MaxPooling2D(3, 2, name="stem_pool_max")(x)
    for stage, (filters, blocks) in enumerate(table, 1):
        for index in range(1, blocks + 1):
            strides = 2 if stage > 1 and index == 1 else 1
            x = block(x, filters, strides, version=version, name=f"stage{stage}_block{index}")
    return finish(image, classifier_head(x, shared), shared, name=name)


@builder(family=resnet)
def ResNet18(*, version="1.5", name="resnet18", **shared: Unpack[SharedArguments]):
    """ResNet-18: 11,689,512 parameters, 1.814 G multiply-adds."""
    return resnet(TABLE_1["18-layer"], block=basic_block, version=version, name=name, **shared)


@builder(family=resnet)
def ResNet34(*, version="1.5", name="resnet34", **shared: Unpack[SharedArguments]):
    """ResNet-34: 21,797,672 parameters, 3.664 G multiply-adds."""
    return resnet(TABLE_1["34-layer"], block=basic_block, version=version, name=name, **shared)


@builder(family=resnet)
def ResNet50(*, version="1.5", name="resnet50", **shared: Unpack[SharedArguments]):
    """ResNet-50: 25,557,032 parameters, 4.089 G multiply-adds (version 1: 3.858 G)."""
    return resnet(TABLE_1["50-layer"], block=bottleneck, version=version, name=name, **shared)


@builder(family=resnet)
def ResNet101(*, version="1.5", name="resnet101", **shared: Unpack[SharedArguments]):
    """ResNet-101: 44,549,160 parameters, 7.801 G multiply-adds."""
    return resnet(TABLE_1["101-layer"], block=bottleneck, version=version, name=name, **shared)


@builder(family=resnet)
def ResNet152(*, version="1.5", name="resnet152", **shared: Unpack[SharedArguments]):
    """ResNet-152: 60,192,808 parameters, 11.514 G multiply-adds."""
    return resnet(TABLE_1["152-layer"], block=bottleneck, version=version, name=name, **shared)
