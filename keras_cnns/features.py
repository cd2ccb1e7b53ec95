"""Networks as backbones: the maps on which detection, segmentation and the like are built."""

import keras

from keras_cnns._model import main_output


def features(model, strides=(4, 8, 16, 32)):
    """The backbone of a network: its last feature map at each stride.

    A map's stride is how many pixels of the image are one of the map, in each direction. Of the layers at a stride it
    is the last block's end, whose name ends in `_out`, or, before the first block, the last layer there.

    Args:
        model: A network of this package; weights are shared.
        strides: The strides, each once.

    Returns:
        A model (batch, height, width, channels) -> a list of maps, one for each stride, about
        (batch, height / stride, width / stride, channels of that stage); the map itself, where one stride is asked.

    Raises:
        ValueError: The network has no map at a stride.

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
    maps.preprocessing = getattr(model, "preprocessing", "imagenet")
    return maps


def _ends(model):
    """{stride: the layer that gives the last feature map at it}."""
    stride_of, ends = {}, {}
    for layer in model.layers:  # in the order of computation
        before = max((stride_of.get(id(tensor), 1) for tensor in keras.tree.flatten(layer.input)), default=1)
        own = getattr(layer, "strides", 1)
        stride = before * (own if isinstance(own, int) else own[0])
        stride_of |= {id(tensor): stride for tensor in keras.tree.flatten(layer.output)}
        is_map = (
            not isinstance(layer, keras.layers.InputLayer | keras.layers.ZeroPadding2D)
            and not isinstance(layer.output, list)  # the maps of a memory-efficient DenseNet, not yet concatenated
            and len(layer.output.shape) == 4
        )
        is_end = layer.name.endswith("_out")
        if is_map and (is_end or stride not in ends or not ends[stride].name.endswith("_out")):
            ends[stride] = layer
    return ends
