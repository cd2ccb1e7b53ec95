"""Batch normalization folded into the layers before it, for inference.

In inference, batch normalization multiplies each channel by a number and adds another. Where a convolution or a dense
layer comes directly before it, these numbers become part of its kernel and bias (Jacob et al. 2018, "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", section 3.2).
"""

import keras
import numpy as np

from keras_cnns.layers import DeformableConv2D
from keras_cnns.preprocessing import keep_preprocessing

FOLDABLE = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense, DeformableConv2D)


def fold_batch_norm(model):
    """Return a network for inference whose batch normalizations are part of the layers before them, where it is exact.

    It is exact where only a batch normalization takes the output of a convolution or dense layer that has no
    activation. A normalization before a convolution, as DenseNet has it, is followed by a ReLU and stays.

    Args:
        model: A functional model, such as every network of this package; it does not change.

    Returns:
        A model with the same inputs and outputs, whose layers have the same names, without the normalizations that were
        folded. Their statistics are fixed in it: it should not be trained.

    Example:
        >>> folded = keras_cnns.fold_batch_norm(keras_cnns.ResNet20())
        >>> "stem_bn" in [layer.name for layer in folded.layers], folded.get_layer("stem_conv").use_bias
        (False, True)
    """
    norms = _norm_after(model)
    folded = {norm.name for norm in norms.values()}

    def clone(layer):
        # Every weight is assigned below; drawing random numbers for them would take time.
        config = {k: "zeros" if k.endswith("_initializer") else v for k, v in layer.get_config().items()}
        return type(layer).from_config(config | {"use_bias": True} if layer.name in norms else config)

    def call(layer, *inputs, **options):
        return inputs[0] if layer.name in folded else layer(*inputs, **options)

    network = keras.models.clone_model(model, clone_function=clone, call_function=call)
    for layer in model.layers:
        if layer.name in norms:
            kernel, bias = _folded(layer, norms[layer.name])
            others = [v for v in layer.weights if v.path.rpartition("/")[2] not in ("kernel", "bias")]
            values = {v.path: v for v in others} | {f"{layer.name}/kernel": kernel, f"{layer.name}/bias": bias}
            for variable in network.get_layer(layer.name).weights:
                variable.assign(values[variable.path])
        elif layer.weights and layer.name not in folded:
            network.get_layer(layer.name).set_weights(layer.get_weights())
    keep_preprocessing(model, network)
    return network


def _norm_after(model):
    """Return {name of a layer: the batch normalization that can be folded into it}."""
    takers = {id(tensor): [None] for tensor in keras.tree.flatten(model.output)}  # an output has a taker outside
    for layer in model.layers:
        for tensor in keras.tree.flatten(layer.input):
            takers.setdefault(id(tensor), []).append(layer)
    found = {}
    for layer in model.layers:
        if isinstance(layer, FOLDABLE) and getattr(layer, "activation", None) in (None, keras.activations.linear):
            after = takers.get(id(layer.output), [])
            if len(after) == 1 and isinstance(after[0], keras.layers.BatchNormalization):
                found[layer.name] = after[0]
    return found


def _folded(layer, norm):
    """Return the kernel and bias of a layer that does what it and the batch normalization after it did."""
    values = {v.path.rpartition("/")[2]: keras.ops.convert_to_numpy(v).astype("float64") for v in layer.weights}
    stats = {v.path.rpartition("/")[2]: keras.ops.convert_to_numpy(v).astype("float64") for v in norm.weights}
    scale = stats.get("gamma", 1.0) / np.sqrt(stats["moving_variance"] + norm.epsilon)
    bias = stats.get("beta", 0.0) + (values.get("bias", 0.0) - stats["moving_mean"]) * scale
    # The kernel of a depthwise convolution is (height, width, channels, 1).
    scale = scale[:, None] if isinstance(layer, keras.layers.DepthwiseConv2D) else scale
    return values["kernel"] * scale, bias
