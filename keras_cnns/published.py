"""Published ImageNet weights: which networks have them, where, and how they are fetched and checked.

They are files of the Hugging Face hub, converted by Wightman's timm from torchvision, TensorFlow and others. Only
safetensors files are read, which contain no code. `huggingface_hub` fetches them, with its cache and its settings:
HF_HOME for the cache, HF_HUB_OFFLINE=1 for none but cached files, HF_ENDPOINT for a mirror.

The SHA-256 of a file is compared before it is read. `published.json` has those that are known, with the commit of the
hub that has the file. Of another file the hub states the SHA-256; that of the first download is recorded beside the
hub's cache, and later ones must be the same.
"""

import functools
import hashlib
import json
import os
import pathlib
import re
from typing import NamedTuple

from keras_cnns.checkpoints import assign_weights, read_weights
from keras_cnns.conversion import translate
from keras_cnns.preprocessing import ImageSize

FILE = "model.safetensors"
PINS = pathlib.Path(__file__).with_name("published.json")


class Published(NamedTuple):
    """Published weights of a network.

    Attributes:
        network: Name of the builder.
        arguments: What the builder has to be called with besides.
        repository: Name on the hub.
        top1, top5: Accuracy on ImageNet's validation images in percent, as published.
        image_size: The ImageSize that it was measured with.
        preprocessing: Mode of `preprocess_input`.
        licence: As stated by timm. ImageNet itself was released for non-commercial research.
    """

    network: str
    arguments: dict
    repository: str
    top1: float
    top5: float
    image_size: ImageSize
    preprocessing: str
    licence: str

    @property
    def commit(self):
        """The pinned commit on the hub, or None."""
        return pins().get(self.repository, {}).get("commit")

    @property
    def sha256(self):
        """The pinned SHA-256 of the file, or None."""
        return pins().get(self.repository, {}).get("sha256")

    @property
    def metadata(self):
        """What the network needs to know, as the metadata of a file of weights."""
        return {"preprocessing": self.preprocessing} | self.image_size.to_metadata()

    def load(self, model, keep=()):
        """Load them into a network, as `keras_cnns.load_weights` does those of a file, and return their SHA-256.

        Args:
            model: A network of the builder.
            keep: Prefixes of the paths of variables that keep their values.

        Raises:
            ImportError: huggingface_hub is not installed.
            OSError: They cannot be downloaded, or are not those that were published.
            ValueError: They do not fit, such as a VGG whose dense layers are for images of another size.
        """
        path, digest = fetch(self)
        assign_weights(model, self.repository, translate(model, read_weights(path)[0]), self.metadata, keep)
        return digest


def _row(network, repository, top1, top5, size, crop, interpolation, licence, mode="imagenet", **arguments):
    image_size = ImageSize(size, crop, interpolation)
    return Published(network, arguments, f"timm/{repository}", top1, top5, image_size, mode, licence)


# Accuracies: results/results-imagenet.csv of huggingface/pytorch-image-models at aa4b5850, for the size and crop given
# here; the other columns: the configurations of timm 1.0.31. EfficientNet-Lite was trained with the mode "lite"; timm
# measured it with the mode "tf", whose values differ by 0.004.
BSD, APACHE, BL, BC = "bsd-3-clause", "apache-2.0", "bilinear", "bicubic"
# fmt: off
PUBLISHED = (
    #    network              on the hub, timm/...             top-1  top-5  size crop          licence
    _row("VGG11",             "vgg11.tv_in1k",                 69.05, 88.63, 224, 0.875, BL, BSD),
    _row("VGG11",             "vgg11_bn.tv_in1k",              70.37, 89.80, 224, 0.875, BL, BSD, batch_norm=True),
    _row("VGG13",             "vgg13.tv_in1k",                 69.95, 89.26, 224, 0.875, BL, BSD),
    _row("VGG13",             "vgg13_bn.tv_in1k",              71.56, 90.37, 224, 0.875, BL, BSD, batch_norm=True),
    _row("VGG16",             "vgg16.tv_in1k",                 71.59, 90.40, 224, 0.875, BL, BSD),
    _row("VGG16",             "vgg16_bn.tv_in1k",              73.35, 91.49, 224, 0.875, BL, BSD, batch_norm=True),
    _row("VGG19",             "vgg19.tv_in1k",                 72.40, 90.88, 224, 0.875, BL, BSD),
    _row("VGG19",             "vgg19_bn.tv_in1k",              74.23, 91.85, 224, 0.875, BL, BSD, batch_norm=True),
    _row("ResNet18",          "resnet18.tv_in1k",              69.75, 89.08, 224, 0.875, BL, BSD),
    _row("ResNet34",          "resnet34.tv_in1k",              73.30, 91.42, 224, 0.875, BL, BSD),
    _row("ResNet50",          "resnet50.tv_in1k",              76.16, 92.87, 224, 0.875, BL, BSD),
    _row("ResNet101",         "resnet101.tv_in1k",             77.40, 93.55, 224, 0.875, BL, BSD),
    _row("ResNet152",         "resnet152.tv_in1k",             78.33, 94.05, 224, 0.875, BL, BSD),
    _row("DenseNet121",       "densenet121.tv_in1k",           74.75, 92.16, 224, 0.875, BC, APACHE),
    _row("DenseNet161",       "densenet161.tv_in1k",           77.38, 93.66, 224, 0.875, BC, APACHE),
    _row("DenseNet169",       "densenet169.tv_in1k",           75.92, 92.98, 224, 0.875, BC, APACHE),
    _row("DenseNet201",       "densenet201.tv_in1k",           77.28, 93.48, 224, 0.875, BC, APACHE),
    _row("SEResNet50",        "seresnet50.ra2_in1k",           80.26, 95.07, 224, 0.875, BC, APACHE),
    _row("SEResNeXt50",       "seresnext50_32x4d.racm_in1k",   81.27, 95.62, 224, 0.875, BC, APACHE),
    _row("SEResNeXt101",      "seresnext101_32x4d.gluon_in1k", 80.89, 95.27, 224, 0.875, BC, APACHE),
    _row("SENet154",          "senet154.gluon_in1k",           81.26, 95.36, 224, 0.875, BC, APACHE),
    _row("EfficientNetB0",    "tf_efficientnet_b0.aa_in1k",    76.88, 93.27, 224, 0.875, BC, APACHE),
    _row("EfficientNetB1",    "tf_efficientnet_b1.aa_in1k",    78.84, 94.20, 240, 0.882, BC, APACHE),
    _row("EfficientNetB2",    "tf_efficientnet_b2.aa_in1k",    80.07, 94.91, 260, 0.89,  BC, APACHE),
    _row("EfficientNetB3",    "tf_efficientnet_b3.aa_in1k",    81.65, 95.72, 300, 0.904, BC, APACHE),
    _row("EfficientNetB4",    "tf_efficientnet_b4.aa_in1k",    83.04, 96.30, 380, 0.922, BC, APACHE),
    _row("EfficientNetB5",    "tf_efficientnet_b5.aa_in1k",    83.70, 96.71, 456, 0.934, BC, APACHE),
    _row("EfficientNetB6",    "tf_efficientnet_b6.aa_in1k",    84.12, 96.89, 528, 0.942, BC, APACHE),
    _row("EfficientNetB7",    "tf_efficientnet_b7.aa_in1k",    84.42, 96.91, 600, 0.949, BC, APACHE),
    _row("EfficientNetLite0", "tf_efficientnet_lite0.in1k",    74.85, 92.18, 224, 0.875, BC, APACHE, "lite"),
    _row("EfficientNetLite1", "tf_efficientnet_lite1.in1k",    76.67, 93.23, 240, 0.882, BC, APACHE, "lite"),
    _row("EfficientNetLite2", "tf_efficientnet_lite2.in1k",    77.47, 93.76, 260, 0.89,  BC, APACHE, "lite"),
    _row("EfficientNetLite3", "tf_efficientnet_lite3.in1k",    79.81, 94.91, 300, 0.904, BL, APACHE, "lite"),
    _row("EfficientNetLite4", "tf_efficientnet_lite4.in1k",    81.54, 95.67, 380, 0.92,  BL, APACHE, "lite"),
    # ResNet's weights: with offsets of zero the outputs, and the accuracies, are those of ResNet.
    _row("DeformableResNet50",  "resnet50.tv_in1k",            76.16, 92.87, 224, 0.875, BL, BSD),
    _row("DeformableResNet101", "resnet101.tv_in1k",           77.40, 93.55, 224, 0.875, BL, BSD),
)
# fmt: on

# Arguments that do not change which weights fit: those that every builder has, and these.
IRRELEVANT = (
    *("name", "include_top", "weights", "input_tensor", "input_shape", "pooling", "classifier_activation"),
    *("drop_connect", "memory_efficient", "modulated", "output_stride", "_network"),
)

TORCHVISION = (
    "torchvision publishes them as {file} only, a pickle. Download it, and convert it with `python -m training convert "
    "{file} FILE --model {network}`"
)
WHY_NOT = {
    "AlexNet": "the only published ones are Caffe's, whose response normalization has other constants",
    "GoogLeNet": "the only published ones are files of Caffe and ONNX, without the auxiliary heads",
    "AlexNetOneTower": TORCHVISION.format(file="alexnet-owt-7be5be79.pth", network="AlexNetOneTower"),
    "InceptionV1": TORCHVISION.format(file="googlenet-1378be20.pth", network="InceptionV1"),
    "SEResNet18": "those that are published are of other networks, or pickles",
    "SEResNet101": "those that are published are of other networks, or pickles",
    "SEResNet152": "those that are published are of version 1, and pickles",
}


def find(network, arguments, parameters):
    """Return the published weights of a network that is called with some arguments.

    Args:
        network: Name of the builder.
        arguments: The arguments that it is called with.
        parameters: The parameters of its signature, for their defaults.

    Raises:
        ValueError: There are none for these arguments.
    """
    entries = [entry for entry in PUBLISHED if entry.network == network]
    if not entries:
        why = WHY_NOT.get(network, "nobody is known to have published some for this very network")
        raise ValueError(
            f'weights="imagenet": there are none for {network}: {why}. Pass the path of a safetensors file, or None; '
            "keras_cnns.list_weights() lists the networks that have some."
        )
    if arguments.get("include_top", True) and arguments.get("classes", 1000) != 1000:
        raise ValueError(
            f'weights="imagenet" has 1000 classes, and classes={arguments["classes"]}. Pass include_top=False, or '
            "build the network without weights and train it with `python -m training fit RECIPE --init imagenet`."
        )
    tensor = arguments.get("input_tensor")
    shape = tuple(tensor.shape[1:]) if hasattr(tensor, "shape") else arguments.get("input_shape")
    if isinstance(shape, tuple) and len(shape) == 3 and shape[2] != 3:
        raise ValueError(f'weights="imagenet" takes three channels, RGB, and the input has {shape[2]}.')
    given = {
        name: value
        for name, value in arguments.items()
        if name not in IRRELEVANT and name != "classes" and value != parameters[name].default
    }
    for entry in entries:
        if entry.arguments == given:
            return entry
    words = [", ".join(f"{name}={value!r}" for name, value in entry.arguments.items()) for entry in entries]
    raise ValueError(
        f'weights="imagenet": there are none for {network} with '
        f"{', '.join(f'{name}={value!r}' for name, value in given.items())}. There are some for {network}"
        f"{' and '.join(f'({text})' for text in words)}."
    )


def fetch(published):
    """Return the path of the file of published weights, downloaded if it is not in the cache, and its SHA-256."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            'weights="imagenet" needs huggingface_hub, which is not installed. Run `pip install huggingface_hub`.'
        ) from error
    record = _record_file(published.repository)
    recorded = pins().get(published.repository) or _read_record(record)
    revision = recorded.get("commit")
    try:
        path = huggingface_hub.hf_hub_download(published.repository, FILE, revision=revision)
    except Exception as error:  # whatever its client of HTTP, the operating system and the library itself raise
        raise OSError(
            f"{published.repository}: {FILE} cannot be downloaded: {_reason(error)}. Check the network, the disk and "
            f"HF_ENDPOINT, and try again. Or download {_url(published.repository, revision)} elsewhere, convert it "
            f"with `python -m training convert {FILE} FILE --model {published.network}`, and pass weights=FILE."
        ) from error
    digest, known = sha256(path), recorded.get("sha256")
    if digest == known:
        return path, digest
    stated = _digest_of_hub(path, published.repository, revision)
    if digest != stated:
        _remove(path)
        raise OSError(
            f"{path} is damaged: its SHA-256 is {digest}, and the hub states {stated}. It has been removed. Try again; "
            "if that repeats, a proxy or a mirror changes the file."
        )
    if known:
        raise OSError(
            f"{published.repository}: the file on the hub is not the one that is known: its SHA-256 is {digest}, not "
            f"{known}. It is not used. If HF_ENDPOINT names a mirror, try without it; `python -m training weights pin` "
            "compares the known files with those of the hub."
        )
    _write_json(record, {"commit": pathlib.Path(path).parent.name, "sha256": digest})
    return path, digest


def sha256(path):
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def pins():
    """Return the pinned files, {repository: {"commit": 40 digits, "sha256": 64 digits}}; either may be missing."""
    return json.loads(PINS.read_text())


def pin_weights():
    """Ask the hub for the commits and digests of all published files, and write those that are not known yet.

    For whoever maintains the package: it rewrites `published.json` in it. A file that is pinned is never changed.

    Yields:
        A line for each file.

    Raises:
        ImportError: huggingface_hub is not installed.
        OSError: A file on the hub is not the one that is pinned, or cannot be asked for; the others are written.

    Example:
        >>> lines = keras_cnns.pin_weights()  # the hub is asked when they are read: print(*lines, sep="\\n")
    """
    import huggingface_hub

    known, wrong = dict(pins()), []
    for repository in dict.fromkeys(entry.repository for entry in PUBLISHED):
        pinned = known.get(repository, {})
        url = _url(repository, pinned.get("commit"))
        try:
            found = huggingface_hub.get_hf_file_metadata(url)
        except Exception as error:  # whatever its client of HTTP raises
            wrong.append(f"{repository}: {_reason(error)}")
            continue
        if not re.fullmatch("[0-9a-f]{64}", found.etag or "") or found.commit_hash is None:
            wrong.append(f"{repository}: {url} does not state a commit and a SHA-256")
        elif pinned.get("sha256", found.etag) != found.etag:
            wrong.append(f"{repository}: the hub has {found.etag}, and {pinned['sha256']} is pinned")
        else:
            known[repository] = {"commit": found.commit_hash, "sha256": found.etag}
            yield f"{repository}: {'as pinned' if pinned == known[repository] else 'pinned'} {found.etag[:8]}"
    _write_json(PINS, dict(sorted(known.items())))
    pins.cache_clear()
    if wrong:
        raise OSError("\n".join([f"{len(wrong)} of the published files:", *wrong]))


def _url(repository, revision):
    import huggingface_hub

    return huggingface_hub.hf_hub_url(repository, FILE, revision=revision)


def _reason(error):
    """Return the first line of an error and of the one that caused it, without a period at the end."""
    lines = [str(found).strip().splitlines()[:1] for found in (error, error.__cause__) if found is not None]
    return "; ".join(line.rstrip(".") for found in lines for line in found) or type(error).__name__


def _digest_of_hub(path, repository, revision):
    """Return the SHA-256 that the hub states of a file in its cache."""
    import huggingface_hub

    # The cache calls a large file by its SHA-256 and links to it, except where the file system has no links.
    name = os.path.basename(os.readlink(path)) if os.path.islink(path) else ""
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return name
    return huggingface_hub.get_hf_file_metadata(_url(repository, revision)).etag


def _remove(path):
    """Remove a file of the hub's cache and what it links to."""
    for file in dict.fromkeys((os.path.realpath(path), path)):
        pathlib.Path(file).unlink(missing_ok=True)


def _record_file(repository):
    """Return the file that records the first download of a repository whose digest is not pinned."""
    from huggingface_hub import constants

    return pathlib.Path(constants.HF_HUB_CACHE, "keras_cnns", f"{repository.replace('/', '--')}.json")


def _read_record(file):
    if not file.exists():
        return {}
    try:
        return dict(json.loads(file.read_text()))
    except ValueError as error:
        raise OSError(f"{file} is damaged ({error}). Remove it; the next download writes it again.") from error


def _write_json(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.tmp-{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, file)
