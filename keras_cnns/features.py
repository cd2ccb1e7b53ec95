"""Networks as backbones for detection, segmentation and similar tasks."""

import keras

from keras_cnns._model import main_output
from keras_cnns.layer_names import level_of
from keras_cnns.preprocessing import keep_preprocessing


def features(model, strides=(4, 8, 16, 32)):
    """Return the backbone of a network: a model whose outputs are the last feature maps at some strides.

    The stride of a map is the number of pixels of the image per pixel of the map, in each direction. The last map at a
    stride is the output of the last block there, whose name ends in `_out`, or of the last layer if there is no block;
    of VGG it is the last convolution before the pool, such as conv5_3, and of DenseNet the last block's output after
    the last normalization, as detectors take them.

    Args:
        model: A network of this package; the backbone shares its weights.
        strides: The strides, without repetition.

    Returns:
        A model (batch, height, width, channels) -> a list of maps, one per stride, of about
        (batch, height / stride, width / stride, channels of that stage); for a single stride the map itself.

    Raises:
        ValueError: The network has no map at one of the strides.

    Example:
        >>> backbone = keras_cnns.features(keras_cnns.ResNet18(include_top=False, input_shape=(64, 64, 3)))
        >>> [shape[1:] for shape in backbone.output_shape]
        [(16, 16, 64), (8, 8, 128), (4, 4, 256), (2, 2, 512)]
    """
    model = main_output(model)
    ends = _ends(model)
    missing = [stride for stride in strides if stride not in ends]
    if missing:
        raise ValueError(
            f"{model.name} has no feature map at stride {', '.join(map(str, missing))}. "
            f"Its strides are {', '.join(map(str, sorted(ends)))}."
        )
    maps = keras.Model(model.input, [ends[stride].output for stride in strides], name=f"{model.name}_features")
    keep_preprocessing(model, maps)
    return maps


def _ends(model):
    """Return {stride: the layer whose output is the last feature map at it}."""
    stride_of, ends, is_final = {}, {}, set()
    for layer in model.layers:  # in the order of computation
        before = max((stride_of.get(id(tensor), 1) for tensor in keras.tree.flatten(layer.input)), default=1)
        own = getattr(layer, "strides", 1)
        stride = before * (own if isinstance(own, int) else own[0])
        stride_of |= {id(tensor): stride for tensor in keras.tree.flatten(layer.output)}
        is_map = (
            not isinstance(layer, keras.layers.InputLayer | keras.layers.ZeroPadding2D)
            and not isinstance(layer.output, list)  # the unconcatenated maps of a memory-efficient DenseNet
            and len(layer.output.shape) == 4
        )
        # The last layer of a block of VGG is the pool that leads to the next stride.
        is_end = (layer.name.endswith("_out") and not isinstance(layer, keras.layers.MaxPooling2D)) or (
            level_of(layer.name) == "final"
        )
        if is_map and (is_end or stride not in is_final):
            ends[stride] = layer
            is_final |= {stride} if is_end else set()
    return ends
