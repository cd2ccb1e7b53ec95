"""Write the golden files of this folder: outputs of torchvision, timm, torch and keras.applications for drawn weights.

    pip install -r requirements-parity.txt
    python -m tests.golden.make_golden                 # from the root of the repository; overwrites tests/golden/*.npz
    python -m tests.golden.make_golden resnet18 resnet50    # only these

No network of this package runs here. Weights are drawn with our names and in our layout (tests/formula.py) and copied
to the peer: the tables of keras_cnns/conversion.py rename them, and transposition gives the peer's layout. A file holds
float32 arrays, each with the name of its output and the size of its images, such as "main_2x224x224", and the versions
of the packages that wrote it.

The files of features hold the shape and the `summary` of the maps that timm gives detectors. state_dicts.json.gz has
the names and shapes of the arrays in the published files that `weights="imagenet"` loads.

The files for training hold float64 instead: the outputs of one training step, and for every variable the `summary` of
its gradient or, for a moving statistic, of its new value. In float32 two implementations differ too much for a proof:
a value near zero that falls on the other side of a ReLU changes gradients visibly.
"""

import functools
import gzip
import json
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

from keras_cnns.conversion import NAMES, count_features, rename
from keras_cnns.published import PUBLISHED
from tests.formula import (
    DEFORMABLE,
    FEATURES_SHAPE,
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

# The deformable convolutions of this script, in a ResNet of torchvision.
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


def our_variable(peer, key, table, blocks=()):
    """Return our path of a torch parameter or buffer; `blocks` has our names of the blocks of AlexNet and VGG."""
    layer, _, kind = key.rpartition(".")
    counted = count_features(peer.state_dict()).get(layer, layer) if blocks else layer
    return f"{rename(counted, table, blocks)}/{kinds(peer.get_submodule(layer))[kind]}"


def set_torch_weights(peer, table, flattened=FLATTENED, blocks=()):
    """Set every parameter and buffer of a torch module, each from a different variable of ours."""
    drawn, names = {}, set()
    for key, value in peer.state_dict().items():
        if key.endswith("num_batches_tracked"):  # a counter that is not used if the momentum is given
            drawn[key] = value
            continue
        name = our_variable(peer, key, table, blocks)
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


def run_torch(peer, table, images, flattened=FLATTENED, blocks=()):
    """Return the outputs of a torch module in evaluation mode."""
    set_torch_weights(peer, table, flattened, blocks)
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
    return {
        "main": run_torch(
            timm.create_model("seresnet18", block_args={"attn_layer": gate}), NAMES["torchvision resnet"], images
        )
    }


def timm_senet(name, images, table=NAMES["torchvision resnet"]):
    peer = timm.create_model(name)
    if hasattr(peer, "pool0"):  # Caffe's, without padding on the left and top; ours is ResNet's
        peer.pool0 = nn.MaxPool2d(3, 2, 1)
    return {"main": run_torch(peer, table, images)}


def run_torch_flattening(peer, images):
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
    flattened = {"head_fc1/kernel": (height, width, channels)}
    table = NAMES["torchvision alexnet and vgg"]
    return {"main": run_torch(peer, table, images, flattened, blocks_of(peer.features))}


def blocks_of(features):
    """Return our names of the convolutions of a Sequential of AlexNet or VGG: by number, or by block and number."""
    if isinstance(features[2], nn.MaxPool2d) and features[0].kernel_size == (11, 11):
        return [f"conv{number}" for number in range(1, 6)]
    names, block, index = [], 1, 0
    for layer in features:
        if isinstance(layer, nn.MaxPool2d):
            block, index = block + 1, 0
        elif isinstance(layer, nn.Conv2d):
            index += 1
            names.append(f"conv{block}_{index}")
    return names


def torch_alexnet(images):
    return run_torch_flattening(torchvision.models.alexnet(), images)


def torch_vgg(name, images):
    return run_torch_flattening(getattr(torchvision.models, name)(init_weights=False), images)


def keras_vgg16(images):
    peer = keras.applications.VGG16(weights=None, classifier_activation=None, input_shape=images.shape[1:])
    set_keras_weights(peer, NAMES["keras vgg"])
    with torch.inference_mode():
        return {"main": peer(images, training=False)}


def keras_resnet50(images):
    peer = keras.applications.ResNet50(weights=None, classifier_activation=None, input_shape=images.shape[1:])
    set_keras_weights(peer, NAMES["keras resnet"])
    with torch.inference_mode():
        return {"main": peer(images, training=False)}


def torch_densenet121(images):
    return {"main": run_torch(torchvision.models.densenet121(), NAMES["torchvision densenet"], images)}


def torch_densenet161(images):
    return {"main": run_torch(torchvision.models.densenet161(), NAMES["torchvision densenet"], images)}


def keras_densenet121(images):
    peer = keras.applications.DenseNet121(weights=None, classifier_activation=None, input_shape=images.shape[1:])
    set_keras_weights(peer, NAMES["keras densenet"])
    with torch.inference_mode():
        return {"main": peer(images, training=False)}


def timm_efficientnet(name):
    return lambda images: {"main": run_torch(timm.create_model(name), NAMES["timm efficientnet"], images)}


def keras_efficientnet(network):
    def run(images):
        peer = network(weights=None, classifier_activation=None, input_shape=images.shape[1:])
        set_keras_weights(peer, NAMES["keras efficientnet"])
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
    "senet154": functools.partial(timm_senet, "legacy_senet154", table=NAMES["timm senet154"]),
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


# {file of feature maps: (timm's network, its table of names)}
FEATURES = {
    "features_vgg11": ("vgg11", NAMES["timm vgg"]),
    "features_vgg16_batchnorm": ("vgg16_bn", NAMES["timm vgg"]),
    "features_resnet18": ("resnet18", NAMES["torchvision resnet"]),
    "features_seresnet50": ("seresnet50", NAMES["torchvision resnet"]),
    "features_densenet121": ("densenet121", NAMES["torchvision densenet"]),
    "features_efficientnetb0": ("tf_efficientnet_b0", NAMES["timm efficientnet"]),
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


def make_features(name, table):
    """Return the shape (height, width, channels) and the `summary` of the maps that timm gives detectors, by stride."""
    peer, arrays = timm.create_model(name, num_classes=0).eval(), {}
    blocks = blocks_of(peer.features) if "vgg" in name else ()
    for layer in ("pre_logits",):  # dense layers, which no map depends on
        if hasattr(peer, layer):
            setattr(peer, layer, nn.Identity())
    set_torch_weights(peer, table, blocks=blocks)
    images = torch.from_numpy(image("image", FEATURES_SHAPE).transpose(0, 3, 1, 2))
    with torch.inference_mode():
        maps = peer.forward_intermediates(images, intermediates_only=True)
    for value, info in zip(maps, peer.feature_info, strict=True):
        stride = info["reduction"]
        value = value.numpy()[0].transpose(1, 2, 0).astype("float64")
        arrays |= {f"shape_{stride}": np.array(value.shape), f"summary_{stride}": summary(f"map{stride}", value)}
    return arrays


def state_dicts():
    """Return {repository on the hub: {name of an array: its shape}} of timm's networks, with batch counters."""
    found = {}
    for repository in dict.fromkeys(entry.repository for entry in PUBLISHED):
        with torch.device("meta"):
            peer = timm.create_model(repository.removeprefix("timm/").partition(".")[0])
        found[repository] = {key: list(value.shape) for key, value in peer.state_dict().items()}
    return found


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
FILES |= {name: functools.partial(make_features, *arguments) for name, arguments in FEATURES.items()}


def main(names):
    for name in names or (*FILES, "state_dicts"):
        if name == "state_dicts":
            with gzip.GzipFile(FOLDER / "state_dicts.json.gz", "wb", mtime=0) as file:
                file.write(json.dumps({"versions": VERSIONS, "files": state_dicts()}).encode())
        else:
            save(name, FILES[name]())


if __name__ == "__main__":
    main(sys.argv[1:])
