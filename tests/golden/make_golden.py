"""Makes the golden files beside it: what torch, torchvision, timm and keras.applications answer to drawn weights.

    pip install -r requirements-parity.txt
    python -m tests.golden.make_golden                 # from the root of the repository; overwrites tests/golden/*.npz
    python -m tests.golden.make_golden resnet18 resnet50    # only these

No network of ours runs here. Weights are drawn by our names and in our layout (tests/formula.py) and carried to the
peer: a table per family renames, transposition gives the peer's layout. A file holds float32 arrays, each under its
output's name and the size of its images, as "main_2x224x224", and the versions of the packages that made it.
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

from keras_cnns.checkpoints import NAMES, rename
from tests.formula import draw, image

FOLDER = pathlib.Path(__file__).parent
VERSIONS = [f"{package.__name__} {package.__version__}" for package in (torch, torchvision, timm, keras, np)]
# Batch x height x width: the usual one, and one whose feature maps are odd and even, and never square.
SIZES = ("2x224x224", "1x149x193")
# For networks with a size of their own.
SIZES_OF = dict.fromkeys(("efficientnetb4", "efficientnetb4_keras"), ("1x380x380", "2x149x193"))

# From keras.applications' layer to ours; the tables for torch are those of keras_cnns/checkpoints.py.
KERAS_RESNET = (
    (r"^conv1_(conv|bn)$", r"stem_\1"),
    (r"^conv(\d)_block", lambda match: f"stage{int(match[1]) - 1}_block"),
    (r"_0_(conv|bn)$", r"_shortcut_\1"),
    (r"_(\d)_(conv|bn)$", r"_conv\1_\2"),
    (r"^predictions$", "head_dense"),
)
KERAS_EFFICIENTNET = (
    (r"^block(\d)([a-z])_", lambda match: f"stage{match[1]}_block{ord(match[2]) - ord('a') + 1}_"),
    (r"_dwconv$", "_depthwise_conv"),
    (r"^(stage\d_block\d+)_bn$", r"\1_depthwise_bn"),
    (r"_se_(reduce|expand)$", r"_gate_\1_conv"),
    (r"^predictions$", "head_dense"),
)
# From torch's variables to ours.
KINDS = {
    nn.Conv2d: {"weight": "kernel", "bias": "bias"},
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


def kinds(module):
    """Our names of the variables of a torch module."""
    return next(names for peer, names in KINDS.items() if isinstance(module, peer))


def draw_for_torch(name, shape):
    """Draws one of our variables in torch's layout: (out, in, height, width) or (out, in)."""
    if len(shape) == 4:
        out, into, height, width = shape
        if "_depthwise_" in name:
            return draw(name, (height, width, out, into)).transpose(2, 3, 0, 1)
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
        name = f"{rename(layer, table)}/{kinds(peer.get_submodule(layer))[kind]}"
        assert name not in names, f"{name} is drawn twice"
        names.add(name)
        drawn[key] = torch.from_numpy(draw_for_torch(name, tuple(value.shape)))
    peer.load_state_dict(drawn)  # strict: raises for a missing key, an unknown key or another shape


def set_keras_weights(peer, table):
    """Sets every variable of a Keras model, each from another variable of ours."""
    names = set()
    for variable in peer.weights:
        layer, kind = variable.path.split("/")
        if layer.startswith("normalization"):  # EfficientNet's: mean 0 and variance 1 as it is made, which is nothing
            continue
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
    return {"main": run_torch(torchvision.models.resnet18(), NAMES["torchvision resnet"], images)}


def torch_resnet50(images):
    return {"main": run_torch(torchvision.models.resnet50(), NAMES["torchvision resnet"], images)}


def torch_googlenet(images):
    peer = torchvision.models.googlenet(aux_logits=True, init_weights=False, transform_input=False)
    outputs = run_torch(peer, NAMES["torchvision googlenet"], images)
    return {"main": outputs.logits, "aux1": outputs.aux_logits1, "aux2": outputs.aux_logits2}


def keras_resnet50(images):
    peer = keras.applications.ResNet50(weights=None, classifier_activation=None, input_shape=images.shape[1:])
    set_keras_weights(peer, KERAS_RESNET)
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
    "resnet50_version1": keras_resnet50,
    "inceptionv1": torch_googlenet,
    "efficientnetb0": timm_efficientnet("tf_efficientnet_b0"),
    "efficientnetb4": timm_efficientnet("tf_efficientnet_b4"),
    "efficientnetlite0": timm_efficientnet("tf_efficientnet_lite0"),
    "efficientnetb0_keras": keras_efficientnet(keras.applications.EfficientNetB0),
    "efficientnetb4_keras": keras_efficientnet(keras.applications.EfficientNetB4),
}


def response_normalization(size, alpha, beta, k):
    """Values of torch's layer and the gradient of their product with a direction; alpha is divided by size here."""
    shape = (2, 5, 4, 12)
    x = torch.from_numpy(20 * image("input", shape)).requires_grad_()
    y = nn.LocalResponseNorm(size, alpha, beta, k)(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    (y * torch.from_numpy(image("direction", shape))).sum().backward()
    return {f"values_size{size}": y.detach(), f"gradient_size{size}": x.grad}


def save(name, arrays):
    arrays = {key: np.asarray(array, "float32") for key, array in arrays.items()}
    np.savez(FOLDER / f"{name}.npz", versions=VERSIONS, **arrays)
    print(name, *(f"{key}: largest {np.abs(array).max():.4g}" for key, array in arrays.items()), sep="\n  ")


def network(name):
    arrays = {}
    for size in SIZES_OF.get(name, SIZES):
        images = image("image", (*map(int, size.split("x")), 3))
        arrays |= {f"{output}_{size}": logits for output, logits in PEERS[name](images).items()}
    return arrays


def local_response_normalization():
    caffe = response_normalization(size=5, alpha=1e-4, beta=0.75, k=1.0)
    return caffe | response_normalization(size=3, alpha=0.5, beta=0.6, k=2.0)


FILES = {name: functools.partial(network, name) for name in PEERS}
FILES["local_response_normalization"] = local_response_normalization


def main(names):
    for name in names or FILES:
        save(name, FILES[name]())


if __name__ == "__main__":
    main(sys.argv[1:])
