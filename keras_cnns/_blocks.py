"""The few blocks that several papers share: convolutions, the stem of ResNet and DenseNet, gates, stochastic depth."""

from keras import layers

from keras_cnns.layers import BatchNormalization, Conv2D, GroupedConv2D


def conv(x, filters, kernel_size, strides=1, *, padding=None, groups=1, use_bias=True, initializer="he_normal", name):
    """Apply a convolution, (b, h, w, c) -> (b, ceil(h / strides), ceil(w / strides), filters) by default.

    The papers, Caffe and torch pad both sides alike; TensorFlow's "same" pads a strided convolution of an even size on
    the right and bottom only. Zeros are added by a layer where the two differ, so that published weights fit.

    Args:
        x: Feature map.
        filters: Number of output channels.
        kernel_size: Height and width of the kernel.
        strides: Stride in both directions.
        padding: Zeros on each side in pixels, by default half the kernel; or "same", TensorFlow's.
        groups: Into how many groups the channels are split.
        use_bias: Whether to add a bias.
        initializer: Initializer of the kernel.
        name: Name of the unit, a prefix of its layers' names.
    """
    if padding != "same":
        pixels = kernel_size // 2 if padding is None else padding
        padding = "same" if strides == 1 and 2 * pixels == kernel_size - 1 else "valid"
        if pixels and padding == "valid":
            x = layers.ZeroPadding2D(pixels, name=f"{name}_pad")(x)
    arguments = {"use_bias": use_bias, "kernel_initializer": initializer, "name": f"{name}_conv"}
    if groups > 1:
        return GroupedConv2D(filters, kernel_size, strides, padding, groups=groups, **arguments)(x)
    return Conv2D(filters, kernel_size, strides, padding, **arguments)(x)


def relu(x, *, name):
    """Apply the ReLU that follows the convolution `name`."""
    return layers.ReLU(name=f"{name}_relu")(x)


def conv_relu(x, filters, kernel_size, strides=1, *, name, **options):
    """Apply a convolution with bias and a ReLU, a convolutional layer of the papers before batch normalization."""
    return relu(conv(x, filters, kernel_size, strides, name=name, **options), name=name)


def batch_norm(x, *, momentum=0.9, epsilon=1e-5, layer=BatchNormalization, name):
    """Apply batch normalization (Ioffe and Szegedy 2015), by default with the momentum that torch calls 0.1."""
    return layer(momentum=momentum, epsilon=epsilon, name=f"{name}_bn")(x)


def conv_bn(x, filters, kernel_size, strides=1, *, use_bias=False, momentum=0.9, epsilon=1e-5, name, **options):
    """Apply a convolution and batch normalization, which would cancel a bias."""
    x = conv(x, filters, kernel_size, strides, use_bias=use_bias, name=name, **options)
    return batch_norm(x, momentum=momentum, epsilon=epsilon, name=name)


def conv_bn_relu(x, filters, kernel_size, strides=1, *, name, **options):
    """Apply a convolution, batch normalization and a ReLU."""
    return relu(conv_bn(x, filters, kernel_size, strides, name=name, **options), name=name)


# {by how much a network divides its images: its first two strides}; three more strides of 2 follow.
FIRST_STRIDES = {32: (2, 2), 16: (1, 2), 8: (1, 1)}


def first_strides(output_stride):
    """Return the first two strides of a network; raise a ValueError if it cannot divide its images by that."""
    if output_stride not in FIRST_STRIDES:
        raise ValueError(f"output_stride={output_stride!r}; it must be 32, or 16 or 8 for small images.")
    return FIRST_STRIDES[output_stride]


def stem(x, filters, *, strides=FIRST_STRIDES[32]):
    """Apply the first layers of ResNet and DenseNet, 7x7 and 3x3 max pool, with these strides."""
    return stem_pool(conv_bn_relu(x, filters, 7, strides[0], name="stem"), strides[1])


def stem_pool(x, strides):
    """Apply the pool of that stem, 3x3, (b, h, w, c) -> (b, ceil(h / 2), ceil(w / 2), c); none with a stride of 1."""
    if strides == 1:
        return x
    x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    return layers.MaxPooling2D(3, 2, name="stem_pool_max")(x)


def max_pool(x, size, strides, *, name):
    """Apply max pooling after a ReLU, where a border of zeros changes nothing.

    Sizes round up as in Caffe: the window may extend over the right and bottom border by one pixel, whatever the
    parity. (b, h, w, c) -> (b, ceil((h - size) / 2) + 1, ceil((w - size) / 2) + 1, c) for a stride of 2.
    """
    x = layers.ZeroPadding2D(((0, strides - 1), (0, strides - 1)), name=f"{name}_pad")(x)
    return layers.MaxPooling2D(size, strides, name=f"{name}_max")(x)


def channel_weights(x, channels, *, activation=relu, initializer="he_normal", name):
    """Return a weight between 0 and 1 for every channel of every image, (b, h, w, c) -> (b, 1, 1, c).

    Equations 2 and 3 of Hu et al. 2018: global average, to `channels`, activation, back to c, sigmoid.
    """
    weights = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
    weights = conv(weights, channels, 1, initializer=initializer, name=f"{name}_reduce")
    weights = activation(weights, name=f"{name}_reduce")
    weights = conv(weights, x.shape[-1], 1, initializer=initializer, name=f"{name}_expand")
    return layers.Activation("sigmoid", name=f"{name}_sigmoid")(weights)


def stochastic_depth(x, rate, *, name):
    """Drop the branch x for a fraction `rate` of the images in training (Huang et al. 2016); no layer if it is 0."""
    return layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(x) if rate else x


def drop_rates(drop_connect, blocks):
    """Return the rates of stochastic depth of a network's blocks, growing linearly from 0 at the first."""
    return [drop_connect * index / blocks for index in range(blocks)]
