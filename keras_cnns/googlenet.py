"""GoogLeNet: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015 (arXiv:1409.4842).

Table 1 is `stem` and `TABLE_1`; Figure 2a is `inception_naive`, Figure 2b `inception`; section 5's auxiliary networks
are `auxiliary_head`; Figure 3, the whole network, is `googlenet`. `InceptionV1` is the batch-normalised network of
TF-Slim and torchvision with the same table (batch normalization: Ioffe and Szegedy 2015, arXiv:1502.03167).

Deviations from the paper, of GoogLeNet:
- The paper names local response normalization without its constants: these are those of Caffe's bvlc_googlenet.
- The auxiliary pool, 5x5 with stride 3, covers the whole map where that is smaller than 5x5 (images under 79 pixels).

of InceptionV1:
- The branch called 5x5 has a 3x3 kernel and pool4 is 2x2, as in TF-Slim and torchvision; batch normalization follows
  every convolution, and there is no response normalization; dropout is 0.2; the auxiliary pool is adaptive, to 4x4, as
  in torchvision.
"""

import functools
from typing import NamedTuple, Unpack

from keras import layers

from keras_cnns._blocks import FIRST_STRIDES, conv_bn_relu, conv_relu, first_strides, max_pool
from keras_cnns._builder import SharedArguments, builder
from keras_cnns._model import classifier_head, dense_classifier, finish, image_input
from keras_cnns.layers import LocalResponseNormalization


class Inception(NamedTuple):
    """A row of Table 1 of type inception: the filters of each convolution."""

    name: str
    n1x1: int
    n3x3_reduce: int
    n3x3: int
    n5x5_reduce: int
    n5x5: int
    pool_proj: int


class MaxPool(NamedTuple):
    """A row of Table 1 of type max pool."""

    name: str
    size: int
    strides: int


# fmt: off
TABLE_1 = (  # from (3a) on; the rows before it are `stem`
    #          type            1x1  3x3  3x3  5x5  5x5  pool
    #                               red.      red.      proj       output size
    Inception("inception3a",    64,  96, 128,  16,  32,  32),    # 28 x 28 x  256
    Inception("inception3b",   128, 128, 192,  32,  96,  64),    # 28 x 28 x  480
    MaxPool("pool3", 3, 2),                                      # 14 x 14 x  480
    Inception("inception4a",   192,  96, 208,  16,  48,  64),    # 14 x 14 x  512
    Inception("inception4b",   160, 112, 224,  24,  64,  64),    # 14 x 14 x  512
    Inception("inception4c",   128, 128, 256,  24,  64,  64),    # 14 x 14 x  512
    Inception("inception4d",   112, 144, 288,  32,  64,  64),    # 14 x 14 x  528
    Inception("inception4e",   256, 160, 320,  32, 128, 128),    # 14 x 14 x  832
    MaxPool("pool4", 3, 2),                                      #  7 x  7 x  832
    Inception("inception5a",   256, 160, 320,  32, 128, 128),    #  7 x  7 x  832
    Inception("inception5b",   384, 192, 384,  48, 128, 128),    #  7 x  7 x 1024
)
# fmt: on
TABLE_V1 = tuple(row._replace(size=2) if row.name == "pool4" else row for row in TABLE_1)  # of InceptionV1

# Section 5: the auxiliary networks take the output of (4a) and (4d).
AUXILIARY = {"inception4a": "aux1", "inception4d": "aux2"}

# A convolution of InceptionV1, with the epsilon of TF-Slim and torchvision.
conv_bn_relu_v1 = functools.partial(conv_bn_relu, epsilon=0.001)


def normalize_responses(x, *, name):
    """Apply local response normalization with Caffe's constants, whose alpha 1e-4 is divided by the 5 channels."""
    return LocalResponseNormalization(5, alpha=1e-4 / 5, beta=0.75, bias=1.0, name=f"{name}_lrn")(x)


def stem(x, *, convolution=conv_relu, normalize=normalize_responses, strides=FIRST_STRIDES[32]):
    """Table 1 and Figure 3 before (3a): two pools, a 3x3 after its 1x1 reduction, two normalizations; divides by 8.

    With other first `strides` it divides by less, and there is no first pool where its stride would be 1.
    """
    x = convolution(x, 64, 7, strides[0], name="conv1")  # 112 x 112
    x = max_pool(x, 3, 2, name="pool1") if strides[1] == 2 else x  # 56 x 56
    x = normalize(x, name="norm1") if normalize else x
    x = convolution(x, 64, 1, name="conv2_reduce")
    x = convolution(x, 192, 3, name="conv2_main")
    x = normalize(x, name="norm2") if normalize else x
    return max_pool(x, 3, 2, name="pool2")  # 28 x 28


stem_v1 = functools.partial(stem, convolution=conv_bn_relu_v1, normalize=None)


def inception_naive(x, row):
    """Figure 2a: no 1x1 reduces or projects, so the pool passes on all channels and the modules grow without bound.

    (b, h, w, c) -> (b, h, w, n1x1 + n3x3 + n5x5 + c).
    """
    name = row.name
    branch_1x1 = conv_relu(x, row.n1x1, 1, name=f"{name}_1x1")
    branch_3x3 = conv_relu(x, row.n3x3, 3, name=f"{name}_3x3")
    branch_5x5 = conv_relu(x, row.n5x5, 5, name=f"{name}_5x5")
    branch_pool = layers.MaxPooling2D(3, 1, "same", name=f"{name}_pool")(x)
    return layers.Concatenate(name=f"{name}_out")([branch_1x1, branch_3x3, branch_5x5, branch_pool])


def inception(x, row, *, convolution=conv_relu, kernel_5x5=5, last="out"):
    """Figure 2b: four parallel branches, (b, h, w, c) -> (b, h, w, n1x1 + n3x3 + n5x5 + pool_proj).

    Args:
        x: Feature map.
        row: The filters of each convolution.
        convolution: Builds a convolution and what follows it; `conv_relu` or `conv_bn_relu`.
        kernel_5x5: Kernel of the branch that Table 1 calls 5x5.
        last: Name of the concatenation; "out" unless the module continues after it.
    """
    name = row.name
    branch_1x1 = convolution(x, row.n1x1, 1, name=f"{name}_1x1")
    branch_3x3 = convolution(x, row.n3x3_reduce, 1, name=f"{name}_3x3reduce")
    branch_3x3 = convolution(branch_3x3, row.n3x3, 3, name=f"{name}_3x3")
    branch_5x5 = convolution(x, row.n5x5_reduce, 1, name=f"{name}_5x5reduce")
    branch_5x5 = convolution(branch_5x5, row.n5x5, kernel_5x5, name=f"{name}_5x5")
    branch_pool = layers.MaxPooling2D(3, 1, "same", name=f"{name}_pool")(x)
    branch_pool = convolution(branch_pool, row.pool_proj, 1, name=f"{name}_poolproj")
    return layers.Concatenate(name=f"{name}_{last}")([branch_1x1, branch_3x3, branch_5x5, branch_pool])


inception_v1 = functools.partial(inception, convolution=conv_bn_relu_v1, kernel_5x5=3)


def auxiliary_head(x, shared, *, name):
    """Section 5: average pool 5x5/3, 1x1 to 128, dense 1024, dropout 0.7, classifier; (b, h, w, c) -> (b, classes)."""
    height, width = x.shape[1:3]
    window = (min(5, height), min(5, width))  # the whole map where a 5x5 does not fit into it
    x = layers.AveragePooling2D(window, 3, name=f"{name}_pool")(x)
    return auxiliary_classifier(conv_relu(x, 128, 1, name=name), shared, name=name)


def auxiliary_head_v1(x, shared, *, name):
    """The auxiliary head of torchvision, which pools any map to 4x4, (b, h, w, c) -> (b, classes)."""
    x = layers.AdaptiveAveragePooling2D(4, name=f"{name}_pool")(x)
    return auxiliary_classifier(conv_bn_relu_v1(x, 128, 1, name=name), shared, name=name)


def auxiliary_classifier(x, shared, *, name):
    """Apply the dense layers of an auxiliary head, (b, h, w, c) -> (b, classes)."""
    x = layers.Flatten(name=f"{name}_flatten")(x)
    x = layers.Dense(1024, activation="relu", kernel_initializer="he_normal", name=f"{name}_fc")(x)
    x = layers.Dropout(0.7, name=f"{name}_dropout")(x)
    return dense_classifier(x, shared, name=f"{name}_dense")


@builder
def googlenet(
    table=TABLE_1,
    *,
    stem=stem,
    module=inception,
    head=auxiliary_head,
    dropout=0.4,
    aux_heads=False,
    output_stride=32,
    **shared: Unpack[SharedArguments],
):
    """Figure 3: the stem, nine inception modules, global average pooling and the classifier, and the auxiliary heads.

    Args:
        table: The rows after the stem: `TABLE_1` or a sequence of your own of `Inception` and `MaxPool`.
        stem: A function x -> x for what comes before the table; with an `output_stride` below 32 it also gets
            `strides`, its first two.
        module: A function (x, row) -> x that builds an inception module.
        head: A function (x, shared, *, name) -> (batch, classes) that builds an auxiliary head.
        dropout: Fraction of the pooled features dropped in training.
        aux_heads: Whether to build the auxiliary heads as well. The outputs are then a dictionary with the keys
            "main", "aux1" and "aux2", each (batch, classes); training weighs them 1, 0.3 and 0.3, and
            `keras_cnns.main_output` returns the network without them. GoogLeNet's heads flatten their maps, so that
            height and width must be given.
        output_stride: By how much the network divides the height and width of the input: 32; or 16 or 8, without
            the strides of conv1 and of the first pool, for small images. It does not change the weights.
    """
    if output_stride != 32:
        stem = functools.partial(stem, strides=first_strides(output_stride))
    if aux_heads and not shared["include_top"]:
        raise ValueError(
            f"{shared['_network']} got aux_heads=True and include_top=False, but the heads are classifiers, which need "
            "include_top=True. Leave one of them out."
        )
    x = image = image_input(
        shared,
        default_size=224,
        minimum=output_stride,
        minimum_because=f"the network divides them by {output_stride}",
        fixed_size_because="the auxiliary heads flatten their maps" if aux_heads and head is auxiliary_head else None,
    )
    x, outputs = stem(x), {}
    for row in table:
        if isinstance(row, MaxPool):
            x = max_pool(x, row.size, row.strides, name=row.name)
            continue
        x = module(x, row)
        if aux_heads and row.name in AUXILIARY:
            outputs[AUXILIARY[row.name]] = head(x, shared, name=AUXILIARY[row.name])
    main = classifier_head(x, shared, dropout=dropout)
    return finish(image, {"main": main, **outputs} if aux_heads else main, shared)


class GoogLeNetArguments(SharedArguments, total=False):
    """The arguments of the variants; `googlenet` describes them."""

    aux_heads: bool
    output_stride: int


@builder(family=googlenet)
def GoogLeNet(*, naive=False, **arguments: Unpack[GoogLeNetArguments]):
    """GoogLeNet, Table 1 to the letter: 6,998,552 parameters (13,378,280 with heads), 1.583 G multiply-adds.

    Args:
        naive: Whether the modules are those of Figure 2a, without the 1x1 bottlenecks, to show what these save.
    """
    return googlenet(TABLE_1, module=inception_naive if naive else inception, **arguments)


# Also the parts of SE-InceptionV1, whose modules differ.
INCEPTION_V1 = {"table": TABLE_V1, "stem": stem_v1, "head": auxiliary_head_v1, "dropout": 0.2}


@builder(family=googlenet)
def InceptionV1(**arguments: Unpack[GoogLeNetArguments]):
    """InceptionV1, batch-normalised: 6,624,904 parameters (13,004,888 with heads), 1.498 G multiply-adds."""
    return googlenet(**INCEPTION_V1, module=inception_v1, **arguments)
