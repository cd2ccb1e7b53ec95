"""Makes the golden files beside it: what torchvision, torch and keras.applications answer to formula-drawn weights.

    pip install -r requirements-parity.txt
    python -m tests.golden.make_golden          # from the root of the repository; overwrites tests/golden/*.npz
    python -m tests.golden.make_golden resnet18 deform_conv2d          # only these

No network of ours runs here. Weights are drawn by our names and in our layout (tests/formula.py) and carried to the
peer: a table per family renames, transposition gives the peer's layout. A file holds float32 arrays, each under its
output's name and the size of its images, as "main_2x224x224", and the versions of the packages that made it.
"""

import functools
import os
import pathlib
import re
import sys

# TensorFlow and torch can crash in one process, and keras.applications is the same network on either backend. On the
# CPU, because a GPU may round float32 to 10 bits.
os.environ.update(KERAS_BACKEND="torch", CUDA_VISIBLE_DEVICES="")

import keras
import numpy as np
import torch
import torchvision
from torch import nn

from tests.formula import DEFORMABLE, deformable_arguments, draw, image

FOLDER = pathlib.Path(__file__).parent
VERSIONS = [f"{package.__name__} {package.__version__}" for package in (torch, torchvision, keras, np)]
# Batch x height x width: the usual one, and one whose feature maps are odd and even, and never square.
SIZES = ("2x224x224", "1x149x193")

# From the peer's layer to ours: every substitution is made, in this order.
TORCH_RESNET = (
    (r"^(conv|bn)1$", r"stem_\1"),
    (r"^layer(\d)\.(\d+)\.", lambda match: f"stage{match[1]}_block{int(match[2]) + 1}_"),
    (r"_(conv|bn)(\d)$", r"_conv\2_\1"),
    (r"_downsample\.0$", "_shortcut_conv"),
    (r"_downsample\.1$", "_shortcut_bn"),
    (r"^fc$", "head_dense"),
)
TORCH_GOOGLENET = (
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
)
KERAS_RESNET = (
    (r"^conv1_(conv|bn)$", r"stem_\1"),
    (r"^conv(\d)_block", lambda match: f"stage{int(match[1]) - 1}_block"),
    (r"_0_(conv|bn)$", r"_shortcut_\1"),
    (r"_(\d)_(conv|bn)$", r"_conv\1_\2"),
    (r"^predictions$", "head_dense"),
)
TORCH_DEFORMABLE = ((r"\.(offset|mask)$", ""), *TORCH_RESNET)


class OffsetConv(nn.Conv2d):
    """Of a deformable convolution, what makes the offsets."""


class MaskConv(nn.Conv2d):
    """Of a deformable convolution, what makes the masks."""


class DeformableConv(nn.Conv2d):
    """torchvision's deformable convolution in the place of a 3x3, with the convolutions that make offsets and masks."""

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
# Dense layers behind a flattened map (height, width, channels), which torch flattens channels first.
FLATTENED = {"aux1_fc/kernel": (4, 4, 128), "aux2_fc/kernel": (4, 4, 128)}


def rename(layer, table):
    """Our name of a peer's layer."""
    for pattern, replacement in table:
        layer = re.sub(pattern, replacement, layer)
    return layer


def draw_for_torch(name, shape):
    """Draws one of our variables in torch's layout: (out, in, height, width) or (out, in)."""
    if len(shape) == 4:
        out, into, height, width = shape
        return draw(name, (height, width, into, out)).transpose(3, 2, 0, 1)
    if len(shape) == 2:
        out, into = shape
        kernel = draw(name, (into, out))
        if name in FLATTENED:
            kernel = kernel.reshape(*FLATTENED[name], out).transpose(2, 0, 1, 3).reshape(into, out)
        return kernel.T
    return draw(name, shape)


def set_torch_weights(peer, table):
    """Sets every parameter and buffer of a torch module, each from another variable of ours."""
    drawn, names = {}, set()
    for key, value in peer.state_dict().items():
        layer, _, kind = key.rpartition(".")
        if kind == "num_batches_tracked":  # a counter that evaluation does not read
            drawn[key] = value
            continue
        name = f"{rename(layer, table)}/{KINDS[type(peer.get_submodule(layer))][kind]}"
        assert name not in names, f"{name} is drawn twice"
        names.add(name)
        drawn[key] = torch.from_numpy(draw_for_torch(name, tuple(value.shape)))
    peer.load_state_dict(drawn)  # strict: raises for a missing key, an unknown key or another shape


def set_keras_weights(peer, table):
    """Sets every variable of a Keras model, each from another variable of ours."""
    names = set()
    for variable in peer.weights:
        layer, kind = variable.path.split("/")
        if layer.endswith("_conv") and kind == "bias":  # ours have none, since batch normalization cancels it
            variable.assign(np.zeros(variable.shape))
            continue
        name = f"{rename(layer, table)}/{kind}"
        assert name not in names, f"{name} is drawn twice"
        names.add(name)
        variable.assign(draw(name, tuple(variable.shape)))  # raises for another shape


def run_torch(peer, table, images):
    """The outputs of a torch module in evaluation."""
    set_torch_weights(peer, table)
    peer.eval()
    # GoogLeNet answers with its heads only if it is told to train. Told is the root alone: every layer evaluates.
    peer.training = hasattr(peer, "aux_logits")
    with torch.inference_mode():
        return peer(torch.from_numpy(images.transpose(0, 3, 1, 2)))


def torch_resnet18(images):
    return {"main": run_torch(torchvision.models.resnet18(), TORCH_RESNET, images)}


def torch_resnet50(images):
    return {"main": run_torch(torchvision.models.resnet50(), TORCH_RESNET, images)}


def torch_deformable_resnet50(images, modulated=True):
    peer = torchvision.models.resnet50()
    for block in (*peer.layer2, *peer.layer3, *peer.layer4):
        block.conv2 = DeformableConv(block.conv2, modulated)
    return {"main": run_torch(peer, TORCH_DEFORMABLE, images)}


def torch_googlenet(images):
    peer = torchvision.models.googlenet(aux_logits=True, init_weights=False, transform_input=False)
    outputs = run_torch(peer, TORCH_GOOGLENET, images)
    return {"main": outputs.logits, "aux1": outputs.aux_logits1, "aux2": outputs.aux_logits2}


def keras_resnet50(images):
    peer = keras.applications.ResNet50(weights=None, classifier_activation=None, input_shape=images.shape[1:])
    set_keras_weights(peer, KERAS_RESNET)
    with torch.inference_mode():
        return {"main": peer(images, training=False)}


PEERS = {
    "resnet18": torch_resnet18,
    "resnet50": torch_resnet50,
    "resnet50_version1": keras_resnet50,
    "inceptionv1": torch_googlenet,
    "deformableresnet50": torch_deformable_resnet50,
    "deformableresnet50_unmodulated": functools.partial(torch_deformable_resnet50, modulated=False),
}


def response_normalization(size, alpha, beta, k):
    """Values of torch's layer and the gradient of their product with a direction; alpha is divided by size here."""
    shape = (2, 5, 4, 12)
    x = torch.from_numpy(20 * image("input", shape)).requires_grad_()
    y = nn.LocalResponseNorm(size, alpha, beta, k)(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    (y * torch.from_numpy(image("direction", shape))).sum().backward()
    return {f"values_size{size}": y.detach(), f"gradient_size{size}": x.grad}


def local_response_normalization():
    caffe = response_normalization(size=5, alpha=1e-4, beta=0.75, k=1.0)
    strong = response_normalization(size=3, alpha=0.5, beta=0.6, k=2.0)
    return caffe | strong


def deform_conv2d():
    """Values of torchvision's function and the gradients of their product with a direction, computed in float64."""
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
    return arrays


def save(name, arrays):
    arrays = {key: np.asarray(array, "float32") for key, array in arrays.items()}
    np.savez(FOLDER / f"{name}.npz", versions=VERSIONS, **arrays)
    print(name, *(f"{key}: largest {np.abs(array).max():.4g}" for key, array in arrays.items()), sep="\n  ")


def network(peer):
    """The outputs of a peer for images of every size."""
    arrays = {}
    for size in SIZES:
        images = image("image", (*map(int, size.split("x")), 3))
        arrays |= {f"{output}_{size}": logits for output, logits in peer(images).items()}
    return arrays


FILES = {name: functools.partial(network, peer) for name, peer in PEERS.items()}
FILES |= {"local_response_normalization": local_response_normalization, "deform_conv2d": deform_conv2d}


def main(names):
    for name in names or FILES:
        save(name, FILES[name]())


if __name__ == "__main__":
    main(sys.argv[1:])
