"""The few blocks that several papers share: convolution with its padding, batch normalization and activation."""

import functools

from keras import layers

from keras_cnns.layers import BatchNormalization, GroupedConv2D


def conv(x, filters, kernel_size, strides=1, *, groups=1, use_bias=True, initializer="he_normal", name):
    """A convolution padded by half its kernel on each side, (b, h, w, c) -> (b, ceil(h/strides), ..., filters).

    The papers, Caffe and torch pad both sides alike; TensorFlow's "same" pads a strided convolution of an even size on
    the right and bottom only. Padding is written out where the two differ, so that published weights fit.
    """
    padding = "same"
    if strides > 1 and kernel_size > 1:
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    layer = layers.Conv2D if groups == 1 else functools.partial(GroupedConv2D, groups=groups)
    return layer(
        filters,
        kernel_size,
        strides,
        padding,
        use_bias=use_bias,
        kernel_initializer=initializer,
        name=f"{name}_conv",
    )(x)


def conv_relu(x, filters, kernel_size, strides=1, *, name):
    """Convolution with bias and ReLU: what the papers before batch normalization call a convolutional layer."""
    return layers.ReLU(name=f"{name}_relu")(conv(x, filters, kernel_size, strides, name=name))


def batch_norm(x, *, epsilon=1e-5, layer=BatchNormalization, name):
    """Batch normalization (Ioffe and Szegedy 2015) with the momentum that torch calls 0.1."""
    return layer(momentum=0.9, epsilon=epsilon, name=f"{name}_bn")(x)


def conv_bn(x, filters, kernel_size, strides=1, *, groups=1, epsilon=1e-5, initializer="he_normal", name):
    """Convolution without bias, which batch normalization would cancel, and batch normalization."""
    x = conv(x, filters, kernel_size, strides, groups=groups, use_bias=False, initializer=initializer, name=name)
    return batch_norm(x, epsilon=epsilon, name=name)


def conv_bn_relu(x, filters, kernel_size, strides=1, *, epsilon=1e-5, name):
    """Convolution, batch normalization, ReLU."""
    return layers.ReLU(name=f"{name}_relu")(conv_bn(x, filters, kernel_size, strides, epsilon=epsilon, name=name))


def stem(x, filters):
    """How ResNet and DenseNet begin: 7x7 with stride 2, 3x3 max pool with stride 2; divides by 4."""
    return stem_pool(conv_bn_relu(x, filters, 7, strides=2, name="stem"))


def stem_pool(x):
    """The pool of that stem: 3x3 with stride 2, (b, h, w, c) -> (b, ceil(h/2), ceil(w/2), c)."""
    x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    return layers.MaxPooling2D(3, 2, name="stem_pool_max")(x)


def max_pool(x, size, strides, *, name):
    """Max pooling of feature maps after a ReLU, where a border of zeros changes nothing.

    Sizes round up as in Caffe: the window may hang over the right and bottom border by one pixel, whatever the parity.
    (b, h, w, c) -> (b, ceil((h - size) / 2) + 1, ceil((w - size) / 2) + 1, c) for a stride of 2.
    """
    x = layers.ZeroPadding2D(((0, strides - 1), (0, strides - 1)), name=f"{name}_pad")(x)
    return layers.MaxPooling2D(size, strides, name=f"{name}_max")(x)
