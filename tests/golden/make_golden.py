"""Write the golden files of this folder: outputs of torchvision, timm, torch and keras.applications for drawn weights.

    pip install -r requirements-parity.txt
    python -m tests.golden.make_golden                 # from the root of the repository; overwrites tests/golden/*.npz
    python -m tests.golden.make_golden resnet18 resnet50    # only these

No network of this package runs here. Weights are drawn with our names and in our layout (tests/formula.py) and copied
to the peer: a table per family renames them, and transposition gives the peer's layout. A file holds float32 arrays,
each with the name of its output and the size of its images, such as "main_2x224x224", and the versions of the packages
that wrote it.

The files for training hold float64 instead: the outputs of one training step, and for every variable the `summary` of
its gradient or, for a moving statistic, of its new value. In float32 two implementations differ too much for a proof:
a value near zero that falls on the other side of a ReLU changes gradients visibly.
"""

import functools
import os
import pathlib
import sys

# TensorFlow and torch can crash in one process, and keras.applications is the same network on either backend. On the
# CPU, because a GPU may round float32 to 10 bits.
os.environ.update(KERAS_BACKEND="torch", CUDA_VISIBLE_DEVICES="")

import keras
import numpy as np
import timm
import torch
import torchvision
from torch import nn

from keras_cnns.conversion import NAMES, rename
from tests.formula import (
    DEFORMABLE,
    GROUPED,
    TRAINING_SHAPE,
    deformable_arguments,
    draw,
    image,
    output_direction,
    summary,
)

FOLDER = pathlib.Path(__file__).parent
VERSIONS = [f"{package.__name__} {package.__version__}" for package in (torch, torchvision, timm, keras, np)]
# Batch x height x width: the usual size, and one whose feature maps are odd, even and never square.
SIZES = ("2x224x224", "1x149x193")
# For networks with another default size.
SIZES_OF = dict.fromkeys(("efficientnetb4", "efficientnetb4_keras"), ("1x380x380", "2x149x193"))
# For VGG: at the second size every pool has an odd input, and the last map of 2x3 keeps the dense layer small.
SIZES_OF |= dict.fromkeys(
    ("vgg11", "vgg11_batchnorm", "vgg16", "vgg16_batchnorm", "vgg16_keras"), ("2x224x224", "1x95x127")
)

# Both SENets of timm: one calls a gate `se`, the other `se_module` and its stem `layer0`.
TIMM_SENET = (
    *NAMES["torchvision resnet"],
    (r"_se(_module)?\.fc1$", "_gate_reduce_conv"),
    (r"_se(_module)?\.fc2$", "_gate_expand_conv"),
    (r"^layer0\.(conv|bn)1$", r"stem_\1"),
    (r"^last_linear$", "head_dense"),
)
TIMM_SENET154 = ((r"^layer0\.(conv|bn)(\d)$", r"stem_conv\2_\1"), *TIMM_SENET)  # three convolutions in its stem
# From the layers of keras.applications to ours; the tables for torch are those of keras_cnns/conversion.py.
KERAS_RESNET = (
    (r"^conv1_(conv|bn)$", r"stem_\1"),
    (r"^conv(\d)_block", lambda match: f"stage{int(match[1]) - 1}_block"),
    (r"_0_(conv|bn)$", r"_shortcut_\1"),
    (r"_(\d)_(conv|bn)$", r"_conv\1_\2"),
    (r"^predictions$", "head_dense"),
)
KERAS_EFFICIENTNET = (
    (r"^block(\d)([a-z])_", lambda match: f"stage{int(match[1]) + 1}_block{ord(match[2]) - ord('a') + 1}_"),
    (r"_dwconv$", "_depthwise_conv"),
    (r"^(stage\d_block\d+)_bn$", r"\1_depthwise_bn"),
    (r"_se_(reduce|expand)$", r"_gate_\1_conv"),
    (r"^predictions$", "head_dense"),
)
# torch counts the modules of a Sequential, pools and activations among them.
TORCH_ALEXNET = (
    (r"^features\.0$", "conv1_conv"),
    (r"^features\.3$", "conv2_conv"),
    (r"^features\.6$", "conv3_conv"),
    (r"^features\.8$", "conv4_conv"),
    (r"^features\.10$", "conv5_conv"),
    (r"^classifier\.1$", "head_fc1"),
    (r"^classifier\.4$", "head_fc2"),
    (r"^classifier\.6$", "head_dense"),
)
TORCH_VGG_HEAD = (
    (r"^classifier\.0$", "head_fc1"),
    (r"^classifier\.3$", "head_fc2"),
    (r"^classifier\.6$", "head_dense"),
)
KERAS_VGG = (
    (r"^block(\d)_conv(\d)$", r"conv\1_\2_conv"),
    (r"^fc(\d)$", r"head_fc\1"),
    (r"^predictions$", "head_dense"),
)
KERAS_DENSENET = (
    (r"^conv1_(conv|bn)$", r"stem_\1"),
    (r"^bn$", "final_bn"),
    (r"^conv(\d)_block(\d+)_", lambda match: f"dense{int(match[1]) - 1}_layer{match[2]}_"),
    (r"_0_bn$", "_conv1_bn"),
    (r"_1_conv$", "_conv1_conv"),
    (r"_1_bn$", "_conv2_bn"),
    (r"_2_conv$", "_conv2_conv"),
    (r"^pool(\d)_(conv|bn)$", lambda match: f"transition{int(match[1]) - 1}_{match[2]}"),
    (r"^predictions$", "head_dense"),
)
TORCH_DEFORMABLE = ((r"\.(offset|mask)$", ""), *NAMES["torchvision resnet"])


class OffsetConv(nn.Conv2d):
    """The convolution that computes the offsets of a deformable convolution."""


class MaskConv(nn.Conv2d):
    """The convolution that computes the masks of a deformable convolution."""


class DeformableConv(nn.Conv2d):
    """torchvision's deformable convolution in place of a 3x3, with the convolutions for offsets and masks."""

    def __init__(self, plain, modulated):
        channels, strides = plain.in_channels, plain.stride
        super().__init__(channels, plain.out_channels, 3, strides, 1, bias=False)
        self.offset = OffsetConv(channels, 18, 3, strides, 1)
        self.mask = MaskConv(channels, 9, 3, strides, 1) if modulated else None

    def forward(self, x):
        mask = None if self.mask is None else 2 * torch.sigmoid(self.mask(x))
        return torchvision.ops.deform_conv2d(x, self.offset(x), self.weight, None, self.stride, 1, mask=mask)


# From torch's variables to ours.
KINDS = {
    nn.Conv2d: {"weight": "kernel", "bias": "bias"},
    DeformableConv: {"weight": "kernel"},
    OffsetConv: {"weight": "offset_kernel", "bias": "offset_bias"},
    MaskConv: {"weight": "mask_kernel", "bias": "mask_bias"},
    nn.Linear: {"weight": "kernel", "bias": "bias"},
    nn.BatchNorm2d: {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    },
}
# Dense layers after a flattened map (height, width, channels), which torch flattens channels first.
FLATTENED = {"aux1_fc/kernel": (4, 4, 128), "aux2_fc/kernel": (4, 4, 128)}


def kinds(module):
    """Return our names of the variables of a torch module."""
    return next(KINDS[ancestor] for ancestor in type(module).__mro__ if ancestor in KINDS)


def draw_for_torch(name, shape, flattened):
    """Draw one of our variables in torch's layout: (out, in, height, width) or (out, in)."""
    if len(shape) == 4:
        out, into, height, width = shape
        if "_depthwise_" in name:
            return draw(name, (height, width, out, into)).transpose(2, 3, 0, 1)
        return draw(name, (height, width, into, out)).transpose(3, 2, 0, 1)
    if len(shape) == 2:
        out, into = shape
        kernel = draw(name, (into, out))
        if name in flattened:
            kernel = kernel.reshape(*flattened[name], out).transpose(2, 0, 1, 3).reshape(into, out)
        return kernel.T
    return draw(name, shape)


def from_torch(name, value):
    """Return an array of torch in our layout, the inverse of `draw_for_torch`."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if value.ndim == 2:
        value = value.T
        if name in FLATTENED:
            height, width, channels = FLATTENED[name]
            value = value.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(value.shape)
    return value


def our_variable(peer, key, table):
    """Return our path of a torch parameter or buffer."""
    layer, _, kind = key.rpartition(".")
    return f"{rename(layer, table)}/{kinds(peer.get_submodule(layer))[kind]}"


def set_torch_weights(peer, table, flattened=FLATTENED):
    """Set every parameter and buffer of a torch module, each from a different variable of ours."""
    drawn, names = {}, set()
    for key, value in peer.state_dict().items():
        if key.endswith("num_batches_tracked"):  # a counter that is not used if the momentum is given
            drawn[key] = value
            continue
        name = our_variable(peer, key, table)
        assert name not in names, f"{name} is drawn twice"
        names.add(name)
        drawn[key] = torch.from_numpy(draw_for_torch(name, tuple(value.shape), flattened))
    peer.load_state_dict(drawn)  # strict: raises for a missing key, an unknown key or another shape


def set_keras_weights(peer, table):
    """Set every variable of a Keras model, each from a different variable of ours."""
    names = set()
    for variable in peer.weights:
        layer, kind = variable.path.split("/")
        if layer.startswith("normalization"):  # EfficientNet's: mean 0 and variance 1, the identity
            continue
        if layer.endswith("_conv") and kind == "bias":  # ours have none, since batch normalization cancels it
            variable.assign(np.zeros(variable.shape))
            continue
        name = f"{rename(layer, table)}/{kind}"
        assert name not in names, f"{name} is drawn twice"
        names.add(name)
        variable.assign(draw(name, tuple(variable.shape)))  # raises for another shape


def run_torch(peer, table, images, flattened=FLATTENED):
    """Return the outputs of a torch module in evaluation mode."""
    set_torch_weights(peer, table, flattened)
    peer.eval()
    # GoogLeNet returns its heads only in training mode. Only the root module is set to it: every layer evaluates.
    peer.training = hasattr(peer, "aux_logits")
    with torch.inference_mode():
        return peer(torch.from_numpy(images.transpose(0, 3, 1, 2)))


def train_torch(peer, table, images):
    """Run a training step of a torch module in float64, on the sum of its outputs times drawn directions."""
    peer.double().train()
    set_torch_weights(peer, table)
    norms = {name: module for name, module in peer.named_modules() if isinstance(module, nn.BatchNorm2d)}
    before = {name: module.running_var.clone() for name, module in norms.items()}
    elements = {}  # of a channel, in the batch
    for name, module in norms.items():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: elements.update({name: output.numel() // output.shape[1]})
        )
    outputs = peer(torch.from_numpy(images.transpose(0, 3, 1, 2)).double())
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    outputs = dict(zip(("main", "aux2", "aux1"), outputs, strict=False))  # in torchvision's order
    sum(
        (value * torch.from_numpy(output_direction(key, value.shape))).sum() for key, value in outputs.items()
    ).backward()
    for name, module in norms.items():
        # torch keeps the unbiased variance of the batch, Keras the biased one.
        kept = (1 - module.momentum) * before[name]
        module.running_var.copy_(kept + (module.running_var - kept) * (1 - 1 / elements[name]))
    values = {key: parameter.grad for key, parameter in peer.named_parameters()}
    values |= {key: value for key, value in peer.named_buffers() if not key.endswith("num_batches_tracked")}
    summaries = {}
    for key, value in values.items():
        name = our_variable(peer, key, table)
        summaries[name] = summary(name, from_torch(name, value.numpy()))
    return outputs, dict(sorted(summaries.items()))


def torch_resnet18(images):
    return {"main": run_torch(torchvision.models.resnet18(), NAMES["torchvision resnet"], images)}


def torch_resnet50(images):
    return {"main": run_torch(torchvision.models.resnet50(), NAMES["torchvision resnet"], images)}


def torch_deformable_resnet50(images, modulated=True):
    peer = torchvision.models.resnet50()
    for block in (*peer.layer2, *peer.layer3, *peer.layer4):
        block.conv2 = DeformableConv(block.conv2, modulated)
    return {"main": run_torch(peer, TORCH_DEFORMABLE, images)}


def torch_resnet101(images):
    return {"main": run_torch(torchvision.models.resnet101(), NAMES["torchvision resnet"], images)}


def torch_googlenet(images):
    peer = torchvision.models.googlenet(aux_logits=True, init_weights=False, transform_input=False)
    outputs = run_torch(peer, NAMES["torchvision googlenet"], images)
    return {"main": outputs.logits, "aux1": outputs.aux_logits1, "aux2": outputs.aux_logits2}


def timm_seresnet18(images):
    """Run timm's seresnet18 without rounding the channels of its gates up to multiples of 8.

    legacy_seresnet18 does not round, but has a ReLU between the branch and the gate that is not in Figure 3.
    """
    gate = functools.partial(timm.layers.SEModule, rd_divisor=1)
    return {"main": run_torch(timm.create_model("seresnet18", block_args={"attn_layer": gate}), TIMM_SENET, images)}


def timm_senet(name, images, table=TIMM_SENET):
    peer = timm.create_model(name)
    if hasattr(peer, "pool0"):  # Caffe's, without padding on the left and top; ours is ResNet's
        peer.pool0 = nn.MaxPool2d(3, 2, 1)
    return {"main": run_torch(peer, table, images)}


def run_torch_flattening(peer, table, images):
    """Return the logits of torchvision's AlexNet or VGG, which flatten their last map.

    torchvision pools that map to its size at 224 pixels, where the pool changes nothing. At another size the pool is
    removed and the first dense layer takes the map as it is, as in our networks.
    """
    with torch.inference_mode():
        _, channels, height, width = peer.features(torch.from_numpy(images.transpose(0, 3, 1, 2))).shape
    if images.shape[1:3] != (224, 224):
        peer.avgpool = nn.Identity()
        first = next(index for index, layer in enumerate(peer.classifier) if isinstance(layer, nn.Linear))
        peer.classifier[first] = nn.Linear(channels * height * width, peer.classifier[first].out_features)
    return {"main": run_torch(peer, table, images, {"head_fc1/kernel": (height, width, channels)})}


def torch_alexnet(images):
    return run_torch_flattening(torchvision.models.alexnet(), TORCH_ALEXNET, images)


def torch_vgg(name, images):
    peer, table, block, index = getattr(torchvision.models, name)(init_weights=False), [], 1, 0
    for place, layer in enumerate(peer.features):
        if isinstance(layer, nn.MaxPool2d):
            block, index = block + 1, 0
        elif isinstance(layer, nn.Conv2d):
            index += 1
            table.append((rf"^features\.{place}$", f"conv{block}_{index}_conv"))
        elif isinstance(layer, nn.BatchNorm2d):
            table.append((rf"^features\.{place}$", f"conv{block}_{index}_bn"))
    return run_torch_flattening(peer, (*table, *TORCH_VGG_HEAD), images)


def keras_vgg16(images):
    peer = keras.applications.VGG16(weights=None, classifier_activation=None, input_shape=images.shape[1:])
    set_keras_weights(peer, KERAS_VGG)
    with torch.inference_mode():
        return {"main": peer(images, training=False)}


def keras_resnet50(images):
    peer = keras.applications.ResNet50(weights=None, classifier_activation=None, input_shape=images.shape[1:])
    set_keras_weights(peer, KERAS_RESNET)
    with torch.inference_mode():
        return {"main": peer(images, training=False)}


def torch_densenet121(images):
    return {"main": run_torch(torchvision.models.densenet121(), NAMES["torchvision densenet"], images)}


def torch_densenet161(images):
    return {"main": run_torch(torchvision.models.densenet161(), NAMES["torchvision densenet"], images)}


def keras_densenet121(images):
    peer = keras.applications.DenseNet121(weights=None, classifier_activation=None, input_shape=images.shape[1:])
    set_keras_weights(peer, KERAS_DENSENET)
    with torch.inference_mode():
        return {"main": peer(images, training=False)}


def timm_efficientnet(name):
    return lambda images: {"main": run_torch(timm.create_model(name), NAMES["timm efficientnet"], images)}


def keras_efficientnet(network):
    def run(images):
        peer = network(weights=None, classifier_activation=None, input_shape=images.shape[1:])
        set_keras_weights(peer, KERAS_EFFICIENTNET)
        with torch.inference_mode():
            return {"main": peer(255 * images, training=False)}  # its first layer divides by 255

    return run


PEERS = {
    "resnet18": torch_resnet18,
    "resnet50": torch_resnet50,
    "resnet101": torch_resnet101,
    "resnet50_version1": keras_resnet50,
    "inceptionv1": torch_googlenet,
    "densenet121": torch_densenet121,
    "densenet161": torch_densenet161,
    "densenet121_keras": keras_densenet121,
    "seresnet18": timm_seresnet18,
    "seresnet50": functools.partial(timm_senet, "seresnet50"),
    "seresnet50_version1": functools.partial(timm_senet, "legacy_seresnet50"),
    "seresnext50": functools.partial(timm_senet, "legacy_seresnext50_32x4d"),
    "senet154": functools.partial(timm_senet, "legacy_senet154", table=TIMM_SENET154),
    "alexnetonetower": torch_alexnet,
    "vgg11": functools.partial(torch_vgg, "vgg11"),
    "vgg11_batchnorm": functools.partial(torch_vgg, "vgg11_bn"),
    "vgg16": functools.partial(torch_vgg, "vgg16"),
    "vgg16_batchnorm": functools.partial(torch_vgg, "vgg16_bn"),
    "vgg16_keras": keras_vgg16,
    "deformableresnet50": torch_deformable_resnet50,
    "deformableresnet50_unmodulated": functools.partial(torch_deformable_resnet50, modulated=False),
    "efficientnetb0": timm_efficientnet("tf_efficientnet_b0"),
    "efficientnetb4": timm_efficientnet("tf_efficientnet_b4"),
    "efficientnetlite0": timm_efficientnet("tf_efficientnet_lite0"),
    "efficientnetb0_keras": keras_efficientnet(keras.applications.EfficientNetB0),
    "efficientnetb4_keras": keras_efficientnet(keras.applications.EfficientNetB4),
}


def small_resnet():
    return torchvision.models.resnet.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)


def small_densenet():
    return torchvision.models.DenseNet(growth_rate=8, block_config=(2, 2), num_init_features=16, num_classes=10)


def googlenet_without_dropout():
    return torchvision.models.GoogLeNet(num_classes=10, init_weights=False, dropout=0.0, dropout_aux=0.0)


# {file for training: (network, table of names)}
TRAINED = {
    "resnet_training": (small_resnet, NAMES["torchvision resnet"]),
    "inceptionv1_training": (googlenet_without_dropout, NAMES["torchvision googlenet"]),
    "densenet_training": (small_densenet, NAMES["torchvision densenet"]),
}


def response_normalization(size, alpha, beta, k):
    """Return the outputs of torch's layer, which divides alpha by size, and a gradient."""
    shape = (2, 5, 4, 12)
    x = torch.from_numpy(20 * image("input", shape)).requires_grad_()
    y = nn.LocalResponseNorm(size, alpha, beta, k)(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    (y * torch.from_numpy(image("direction", shape))).sum().backward()
    return {f"values_size{size}": y.detach(), f"gradient_size{size}": x.grad}


def grouped_convolution(name):
    """Return the outputs of torch's convolution and the gradients of their product with a direction."""
    groups, channels, filters, size, strides, padding = GROUPED[name]
    x = torch.from_numpy(image(f"{name}/input", (1, 6, 5, channels))).requires_grad_()
    kernel = torch.from_numpy(draw(f"{name}/kernel", (size, size, channels // groups, filters))).requires_grad_()
    bias = torch.from_numpy(draw(f"{name}/bias", (filters,)))
    y = nn.functional.conv2d(
        x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias, strides, padding, groups=groups
    ).permute(0, 2, 3, 1)
    (y * torch.from_numpy(image(f"{name}/direction", tuple(y.shape)))).sum().backward()
    return {f"values_{name}": y.detach(), f"input_{name}": x.grad, f"kernel_{name}": kernel.grad}


def make_deform_conv2d():
    """Return the outputs of torchvision's function and the gradients of their product with a direction, in float64."""
    arrays, to_torch = {}, (0, 3, 1, 2)
    for name, (strides, padding, dilation, *_) in DEFORMABLE.items():
        *arguments, direction = deformable_arguments(name)
        tensors = [None if a is None else torch.from_numpy(a).requires_grad_() for a in arguments]
        inputs, offsets, kernel, mask = (
            None if t is None else t.permute(order)
            for t, order in zip(tensors, (to_torch, to_torch, (3, 2, 0, 1), to_torch), strict=True)
        )
        y = torchvision.ops.deform_conv2d(inputs, offsets, kernel, None, strides, padding, dilation, mask)
        y = y.permute(0, 2, 3, 1)
        (y * torch.from_numpy(direction)).sum().backward()
        arrays[f"{name}_values"] = y.detach()
        arrays |= {
            f"{name}_gradient_{what}": t.grad
            for what, t in zip(("inputs", "offsets", "kernel", "mask"), tensors, strict=True)
            if t is not None
        }
    return float32(arrays)


def save(name, arrays):
    np.savez(FOLDER / f"{name}.npz", versions=VERSIONS, **arrays)
    largest = {key: np.abs(array).max() for key, array in arrays.items() if array.dtype.kind == "f"}
    print(name, *(f"{key}: largest {value:.4g}" for key, value in largest.items()), sep="\n  ")


def float32(arrays):
    return {key: np.asarray(array, "float32") for key, array in arrays.items()}


def make_network(name):
    """Return the logits of a peer at every size."""
    arrays = {}
    for size in SIZES_OF.get(name, SIZES):
        images = image("image", (*map(int, size.split("x")), 3))
        arrays |= {f"{output}_{size}": logits for output, logits in PEERS[name](images).items()}
    return float32(arrays)


def make_training(peer, table):
    outputs, summaries = train_torch(peer(), table, image("image", TRAINING_SHAPE))
    arrays = {output: logits.detach().numpy() for output, logits in outputs.items()}
    return arrays | {"variables": np.array(list(summaries), "S"), "summaries": np.stack(list(summaries.values()))}


def make_response_normalization():
    caffe = response_normalization(size=5, alpha=1e-4, beta=0.75, k=1.0)
    strong = response_normalization(size=3, alpha=0.5, beta=0.6, k=2.0)
    return float32(caffe | strong)


def make_grouped_convolutions():
    return float32({key: array for name in GROUPED for key, array in grouped_convolution(name).items()})


# {file: function that returns its arrays}
FILES = {name: functools.partial(make_network, name) for name in PEERS}
FILES |= {name: functools.partial(make_training, *arguments) for name, arguments in TRAINED.items()}
FILES |= {
    "local_response_normalization": make_response_normalization,
    "grouped_convolution": make_grouped_convolutions,
    "deform_conv2d": make_deform_conv2d,
}


def main(names):
    for name in names or FILES:
        save(name, FILES[name]())


if __name__ == "__main__":
    main(sys.argv[1:])
