"""Weights of other packages, translated from the names and layout of torch or keras.applications to ours."""

import re

import numpy as np
from keras import layers

from keras_cnns.checkpoints import COUNTER, check_fit, check_type
from keras_cnns.preprocessing import IMAGENET_MEAN, IMAGENET_STD

# ResNets and SENets of torchvision and timm.
TORCH_RESNET = (
    (r"^(conv|bn)1$", r"stem_\1"),
    (r"^layer(\d)\.(\d+)\.", lambda match: f"stage{match[1]}_block{int(match[2]) + 1}_"),
    (r"_(conv|bn)(\d)$", r"_conv\2_\1"),
    (r"_downsample\.0$", "_shortcut_conv"),
    (r"_downsample\.1$", "_shortcut_bn"),
    # timm has two SENets: one calls a gate `se`, the other `se_module` and its stem `layer0`.
    (r"_se(_module)?\.fc1$", "_gate_reduce_conv"),
    (r"_se(_module)?\.fc2$", "_gate_expand_conv"),
    (r"^layer0\.(conv|bn)1$", r"stem_\1"),
    (r"^(fc|last_linear)$", "head_dense"),
)
# Substitutions from the layer names of a package to ours, made one after the other. A name that then begins with
# `block7_` is in block 7 of the whole network, counted from 0: `rename` replaces it by the name of that block.
NAMES = {
    "torchvision resnet": TORCH_RESNET,
    # The three convolutions of its stem, in both of timm's.
    "timm senet154": (
        (r"^layer0\.(conv|bn)(\d)$", r"stem_conv\2_\1"),
        (r"^conv1\.(0|3|6)$", lambda match: f"stem_conv{int(match[1]) // 3 + 1}_conv"),
        (r"^conv1\.(1|4)$", lambda match: f"stem_conv{int(match[1]) // 3 + 1}_bn"),
        (r"^bn1$", "stem_conv3_bn"),
        *TORCH_RESNET,
    ),
    # AlexNet and VGG; `count_features` has numbered their convolutions.
    "torchvision alexnet and vgg": (
        (r"^classifier\.[01]$", "head_fc1"),
        (r"^classifier\.[34]$", "head_fc2"),
        (r"^classifier\.6$", "head_dense"),
    ),
    "timm vgg": ((r"^pre_logits\.fc(\d)$", r"head_fc\1"), (r"^head\.fc$", "head_dense")),
    "torchvision googlenet": (
        (r"^conv2\.", "conv2_reduce."),
        (r"^conv3\.", "conv2_main."),
        (r"\.branch1\.", "_1x1."),
        (r"\.branch2\.0\.", "_3x3reduce."),
        (r"\.branch2\.1\.", "_3x3."),
        (r"\.branch3\.0\.", "_5x5reduce."),
        (r"\.branch3\.1\.", "_5x5."),
        (r"\.branch4\.1\.", "_poolproj."),
        (r"^(aux\d)\.conv\.", r"\1."),
        (r"^(aux\d)\.fc1$", r"\1_fc"),
        (r"^(aux\d)\.fc2$", r"\1_dense"),
        (r"\.(conv|bn)$", r"_\1"),
        (r"^fc$", "head_dense"),
    ),
    "torchvision densenet": (
        (r"^features\.(conv|norm)0$", r"stem_\1"),
        (r"^features\.norm5$", "final_bn"),
        (r"^features\.denseblock(\d)\.denselayer(\d+)\.(conv|norm)\.?(\d)$", r"dense\1_layer\2_conv\4_\3"),
        (r"^features\.transition(\d)\.(conv|norm)$", r"transition\1_\2"),
        (r"_norm$", "_bn"),
        (r"^classifier$", "head_dense"),
    ),
    "timm efficientnet": (
        (r"^conv_stem$", "stem_conv"),
        (r"^bn1$", "stem_bn"),
        (r"^conv_head$", "top_conv"),
        (r"^bn2$", "top_bn"),
        (r"^classifier$", "head_dense"),
        # The blocks of the first stage have no expansion, so that their layers are numbered from the depthwise one.
        (r"^(blocks\.0\..*)\.conv_pw$", r"\1.conv_pwl"),
        (r"^(blocks\.0\..*)\.bn2$", r"\1.bn3"),
        (r"^(blocks\.0\..*)\.bn1$", r"\1.bn2"),
        (r"^blocks\.(\d)\.(\d+)\.", lambda match: f"stage{int(match[1]) + 2}_block{int(match[2]) + 1}_"),
        (r"_conv_pw$", "_expand_conv"),
        (r"_bn1$", "_expand_bn"),
        (r"_conv_dw$", "_depthwise_conv"),
        (r"_bn2$", "_depthwise_bn"),
        (r"_se\.conv_(reduce|expand)$", r"_gate_\1_conv"),
        (r"_conv_pwl$", "_project_conv"),
        (r"_bn3$", "_project_bn"),
    ),
    "efficientnet-pytorch": (
        (r"^_conv_stem$", "stem_conv"),
        (r"^_bn0$", "stem_bn"),
        (r"^_conv_head$", "top_conv"),
        (r"^_bn1$", "top_bn"),
        (r"^_fc$", "head_dense"),
        (r"^_blocks\.(\d+)\._", r"block\1_"),
        (r"_bn0$", "_expand_bn"),
        (r"_bn1$", "_depthwise_bn"),
        (r"_bn2$", "_project_bn"),
        (r"_se_(reduce|expand)$", r"_gate_\1_conv"),
    ),
    "keras resnet": (
        (r"^conv1_(conv|bn)$", r"stem_\1"),
        (r"^conv(\d)_block", lambda match: f"stage{int(match[1]) - 1}_block"),
        (r"_0_(conv|bn)$", r"_shortcut_\1"),
        (r"_(\d)_(conv|bn)$", r"_conv\1_\2"),
        (r"^predictions$", "head_dense"),
    ),
    "keras vgg": (
        (r"^block(\d)_conv(\d)$", r"conv\1_\2_conv"),
        (r"^fc(\d)$", r"head_fc\1"),
        (r"^predictions$", "head_dense"),
    ),
    "keras densenet": (
        (r"^conv1_(conv|bn)$", r"stem_\1"),
        (r"^bn$", "final_bn"),
        (r"^conv(\d)_block(\d+)_", lambda match: f"dense{int(match[1]) - 1}_layer{match[2]}_"),
        (r"_0_bn$", "_conv1_bn"),
        (r"_1_conv$", "_conv1_conv"),
        (r"_1_bn$", "_conv2_bn"),
        (r"_2_conv$", "_conv2_conv"),
        (r"^pool(\d)_(conv|bn)$", lambda match: f"transition{int(match[1]) - 1}_{match[2]}"),
        (r"^predictions$", "head_dense"),
    ),
    "keras efficientnet": (
        (r"^block(\d)([a-z])_", lambda match: f"stage{int(match[1]) + 1}_block{ord(match[2]) - ord('a') + 1}_"),
        (r"_dwconv$", "_depthwise_conv"),
        (r"^(stage\d_block\d+)_bn$", r"\1_depthwise_bn"),
        (r"_se_(reduce|expand)$", r"_gate_\1_conv"),
        (r"^predictions$", "head_dense"),
    ),
}
KERAS_EPSILON = {"keras resnet": 1.001e-5, "keras densenet": 1.001e-5}  # of batch normalization, where it is not ours


def convert_weights(model, state):
    """Translate the weights of another package's network to the names and the layout of this package.

    The names decide where the weights are from: an AlexNet, VGG, ResNet, DenseNet or GoogLeNet of torchvision; a VGG,
    ResNet, DenseNet, SENet or EfficientNet of timm; an EfficientNet of efficientnet-pytorch or
    efficientnet-lite-pytorch; or a VGG, ResNet, DenseNet or EfficientNet of keras.applications. Every array is used
    once and every variable gets one; torch's batch counters are dropped. Biases before a batch normalization and
    another epsilon, which Keras's networks have, become part of its moving statistics: the outputs stay the same.

    Args:
        model: The network that the weights are for; its own weights do not change.
        state: {torch's name: array}, a state dict with its tensors as NumPy arrays; or {path: array} of the variables
            of a Keras model.

    Returns:
        {path of a variable: array} for every variable of the model.

    Raises:
        ValueError: The names or shapes do not fit the model, or an array is not floating-point or not finite.

    Example:
        >>> image = keras.Input((4,))
        >>> model = keras.Model(image, keras.layers.Dense(3, name="head_dense")(image))
        >>> state = {"fc.weight": numpy.ones((3, 4)), "fc.bias": numpy.ones(3)}
        >>> keras_cnns.convert_weights(model, state)["head_dense/kernel"].shape
        (4, 3)
    """
    arrays = translate(model, state)
    check_fit(model, "The state dict", {variable.path: variable for variable in model.weights}, arrays)
    return arrays


def translate(model, state):
    """Do what `convert_weights` does, but leave it to the caller to check that the arrays fit the model."""
    variables = [variable.path for variable in model.weights]
    state = {key: np.asarray(array) for key, array in state.items() if not key.endswith(COUNTER)}
    of_keras = any("/" in key for key in state)
    state = _without_normalization(state) if of_keras else state
    for key, array in state.items():
        check_type("The state dict", key, array.dtype.name)
    blocks = re.findall(r"^(?:stage\d+_block\d+|conv\d+(?:_\d+)?)(?=_)", "\n".join(variables), re.MULTILINE)
    blocks = list(dict.fromkeys(blocks))
    features = count_features(state)
    translations = {
        package: {key: _translate(key, state, rules, blocks, features) for key in state}
        for package, rules in NAMES.items()
        if package.startswith("keras ") == of_keras
    }
    # The weights are from the package whose names become ours, or nearly so if they do not fit.
    package = min(translations, key=lambda name: len(set(variables) ^ set(translations[name].values())))
    taken, arrays = {}, {}
    for key, path in translations[package].items():
        if path in taken:
            raise ValueError(
                f"The weights do not fit {model.name}: both {taken[path]} and {key} would become {path}. "
                "Build the network that the weights are from."
            )
        taken[path] = key
        layer = model.get_layer(path.partition("/")[0]) if path in variables else None
        arrays[path] = np.array(state[key], "float32") if of_keras else _transpose(state[key], layer, model)
    return _fold(model, arrays, KERAS_EPSILON.get(package)) if of_keras else arrays


def count_features(state):
    """Return {name in torchvision's AlexNet or VGG: "block0_conv", "block0_bn", "block1_conv", ...}.

    torch counts the modules of a Sequential, pools and activations among them: `features.3`.
    """
    names, count = {}, -1
    indices = {int(found[1]) for key in state if (found := re.match(r"features\.(\d+)\.\w+$", key))}
    for index in sorted(indices):
        is_norm = f"features.{index}.running_mean" in state
        count += not is_norm
        names[f"features.{index}"] = f"block{count}_{'bn' if is_norm else 'conv'}"
    return names


def _without_normalization(state):
    """Return the variables of a Keras model without those of EfficientNet's first layer, if they are ImageNet's."""
    first = {key.rpartition("/")[2]: array for key, array in state.items() if key.startswith("normalization")}
    if not first:
        return state
    # The layer of the published files has the standard deviation as its variance, and is followed by another scaling.
    deviations = (np.array(IMAGENET_STD), np.square(IMAGENET_STD))
    if not np.allclose(first["mean"].ravel(), IMAGENET_MEAN, atol=1e-3) or not any(
        np.allclose(first["variance"].ravel(), deviation, atol=1e-3) for deviation in deviations
    ):
        raise ValueError(
            f"The first layer of the network normalizes pixels with the means {first['mean'].ravel()} and variances "
            f"{first['variance'].ravel()}, which is none of the modes of preprocess_input. Pass weights that were "
            "trained with those of ImageNet."
        )
    return {key: array for key, array in state.items() if not key.startswith("normalization")}


def _fold(model, arrays, epsilon):
    """Move a convolution's bias and the difference to our epsilon into the statistics of the normalization after it."""
    paths = {variable.path for variable in model.weights}
    for path in [path for path in arrays if path.endswith("_conv/bias") and path not in paths]:
        mean = path.replace("_conv/bias", "_bn/moving_mean")
        if mean in arrays:
            arrays[mean] = arrays[mean] - arrays.pop(path)
    for path in arrays:
        if epsilon and path.endswith("/moving_variance") and path in paths:
            ours = model.get_layer(path.partition("/")[0]).epsilon
            arrays[path] = np.float32(arrays[path].astype("float64") + (epsilon - ours))
    return arrays


def rename(layer, rules, blocks=()):
    """Translate the name of another package's layer to ours.

    Args:
        layer: The name in that package.
        rules: A table of `NAMES`.
        blocks: Our names of the blocks in order, for packages that number the blocks of all stages consecutively.
    """
    for pattern, replacement in rules:
        layer = re.sub(pattern, replacement, layer)
    counted = re.match(r"block(\d+)(?=_)", layer)
    if counted and int(counted[1]) < len(blocks):
        layer = blocks[int(counted[1])] + layer[counted.end() :]
    return layer


def _translate(key, state, rules, blocks, features):
    """Translate the name of a torch parameter or buffer, or the path of a Keras variable, to the path of ours."""
    if "/" in key:
        layer, _, kind = key.rpartition("/")
        return f"{rename(layer, rules, blocks)}/{kind}"
    layer, _, kind = key.rpartition(".")
    kinds = {"weight": "kernel", "bias": "bias"}
    if f"{layer}.running_mean" in state:  # only batch normalization has moving statistics
        kinds = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    return f"{rename(features.get(layer, layer), rules, blocks)}/{kinds.get(kind, kind)}"


def _transpose(array, layer, model):
    """Transpose a torch kernel to our layout: (out, in, h, w) -> (h, w, in, out), (out, in) -> (in, out)."""
    if isinstance(layer, layers.DepthwiseConv2D) and array.ndim == 4:  # (channels, 1, h, w) -> (h, w, channels, 1)
        array = array.transpose(2, 3, 0, 1)
    elif array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
        if isinstance(layer, layers.Dense):  # timm's VGG has its dense layers as convolutions
            array = array.reshape(-1, array.shape[-1])
    elif array.ndim == 2:
        array = array.T
        shape = _flattened(layer, model)
        if shape and array.shape[0] == np.prod(shape):  # torch flattens channels first
            height, width, channels = shape
            array = array.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(array.shape)
    return np.ascontiguousarray(array, "float32")


def _flattened(layer, model):
    """Return the shape (height, width, channels) of the feature map that a dense layer gets flattened, or None."""
    producers = {id(layer.output): layer for layer in model.layers}
    while layer is not None:
        layer = producers.get(id(layer.input))
        if isinstance(layer, layers.Flatten):
            return layer.input.shape[1:] if len(layer.input.shape) == 4 else None
        if not isinstance(layer, layers.Dropout):
            return None
    return None
