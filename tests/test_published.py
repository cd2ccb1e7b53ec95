"""Published weights from a hub on this machine: the right file, or a clear error and a cache that is not broken."""

import functools
import gzip
import hashlib
import json
import os
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import keras_cnns
from keras_cnns import published
from keras_cnns.conversion import translate
from tests.forked import Forked
from tests.formula import draw, image
from tests.local_hub import COMMIT, CONTENT, REPOSITORY, Hub
from tests.structure import structure
from tests.test_golden import assert_equal, golden
from training.__main__ import main

GOLDEN = Path(__file__).parent / "golden"
TINY = published.PUBLISHED[0]._replace(repository=REPOSITORY)


def pin(monkeypatch, content=CONTENT, commit=COMMIT):
    pinned = {"sha256": hashlib.sha256(content).hexdigest()} | ({"commit": commit} if commit else {})
    monkeypatch.setattr(published, "pins", lambda: {REPOSITORY: pinned})


# --- which file


def test_the_file_is_fetched_once(hub):
    path, digest = published.fetch(TINY)
    assert Path(path).read_bytes() == CONTENT and len(digest) == 64
    asked = len(hub.requests)
    assert published.fetch(TINY) == (path, digest)
    assert len(hub.requests) == asked  # the recorded commit is in the cache: no request at all


def test_a_pinned_file_needs_no_request_once_it_is_there(hub, monkeypatch):
    pin(monkeypatch)
    path, _ = published.fetch(TINY)
    hub.failure = "down"
    assert published.fetch(TINY)[0] == path


def test_offline_the_cache_is_used_and_nothing_else(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"cannot be downloaded: .*HF_HUB_OFFLINE.*HF_ENDPOINT.*training convert"):
        published.fetch(TINY)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    path, _ = published.fetch(TINY)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert published.fetch(TINY)[0] == path


def left(folder):
    """Return the files of weights in a cache, whole or not."""
    found = (path for path in folder.rglob("*") if path.is_file() and ".no_exist" not in path.parts)
    return [str(path) for path in found if path.name.endswith((".safetensors", ".incomplete"))]


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("down", r"cannot be downloaded"),
        ("missing", r"cannot be downloaded: .*404"),
        ("page", r"cannot be downloaded: .*X-Repo-Commit.*proxy"),
        ("damaged", r"is damaged: its SHA-256 is \w+, and the hub states \w+\. It has been removed\. Try again"),
    ],
)
@pytest.mark.parametrize("pinned", [True, False])
def test_a_failure_is_named_and_the_next_attempt_succeeds(hub, monkeypatch, tmp_path, failure, words, pinned):
    if pinned:
        pin(monkeypatch)
    monkeypatch.setattr("huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", 0.1)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.failure = failure
    with pytest.raises(OSError, match=words) as caught:
        published.fetch(TINY)
    assert caught.type is OSError and "\n" not in str(caught.value)
    assert left(tmp_path) == []
    hub.failure = None
    assert Path(published.fetch(TINY)[0]).read_bytes() == CONTENT


def test_a_connection_that_breaks_is_continued(hub, monkeypatch):
    """The client asks for the rest of the file by a range."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.failure = "cut"
    try:
        path, _ = published.fetch(TINY)
    except OSError as error:  # or it gives up; then nothing stays
        assert "cannot be downloaded" in str(error)
        hub.failure = None
        path, _ = published.fetch(TINY)
    assert Path(path).read_bytes() == CONTENT


def test_another_file_than_the_pinned_one_is_refused_and_kept(hub, monkeypatch):
    """It is whole, and other programs may use it."""
    pin(monkeypatch, commit=None)
    hub.failure = "other"
    for _ in range(2):
        with pytest.raises(OSError, match=r"not the one that is known: its SHA-256 is \w+, not \w+\. It is not used"):
            published.fetch(TINY)
    hub.failure = None
    assert Path(published.fetch(TINY)[0]).read_bytes() == CONTENT


def test_a_file_that_changes_later_is_refused(hub, tmp_path):
    path = Path(published.fetch(TINY)[0]).resolve()
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"!")
    with pytest.raises(OSError, match="is damaged"):
        published.fetch(TINY)
    assert Path(published.fetch(TINY)[0]).read_bytes() == CONTENT
    record = next((tmp_path / "cache/keras_cnns").glob("*.json"))
    record.write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(OSError, match="not the one that is known"):
        published.fetch(TINY)
    record.write_text("{")
    with pytest.raises(OSError, match=r"tiny\.test\.json is damaged .* Remove it"):
        published.fetch(TINY)


def test_a_full_disk(hub, monkeypatch, tmp_path):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(OSError, match=r"cannot be downloaded: .*No space left on device"):
        published.fetch(TINY)
    assert left(tmp_path) == []


def fetch_tiny(file):
    """In a process of its own: fetch the small file and write its path to a file."""
    published.pins = dict
    Path(file).write_text(published.fetch(TINY)[0])
    return 0


def test_several_processes_at_once(tmp_path):
    content = safetensors.numpy.save({"fc.weight": np.ones((1000, 1000), "float32")})
    with Hub({REPOSITORY: content}).running() as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache")}
        processes = [Forked(fetch_tiny, tmp_path / str(number), env=environment) for number in range(3)]
        assert [process.wait(60) for process in processes] == [0, 0, 0]
    (path,) = {(tmp_path / str(number)).read_text() for number in range(3)}
    assert Path(path).read_bytes() == content
    assert left(tmp_path) == [path]


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'weights="imagenet" needs huggingface_hub.*pip install huggingface_hub'):
        published.fetch(TINY)


# --- which networks


def test_the_table():
    networks = {entry.network for entry in published.PUBLISHED}
    assert len(networks) == 32  # section 4 of the survey of published weights: 30 networks, and 2 deformable ones
    assert networks <= set(keras_cnns.list_models())
    assert keras_cnns.list_weights("resnet50") == [e for e in published.PUBLISHED if e.network == "ResNet50"]
    assert keras_cnns.list_weights("GoogLeNet") == []
    with pytest.raises(ValueError, match="Did you mean ResNet50"):
        keras_cnns.list_weights("ResNet5")
    for entry in published.PUBLISHED:
        assert 60 < entry.top1 < entry.top5 < 98 and 0.8 < entry.image_size.crop < 1
        assert entry.preprocessing == ("lite" if "Lite" in entry.network else "imagenet")


def test_pins_are_digests():
    pins = published.pins()
    assert set(pins) <= {entry.repository for entry in published.PUBLISHED}
    for pinned in pins.values():
        assert re.fullmatch("[0-9a-f]{64}", pinned["sha256"])
        assert re.fullmatch("[0-9a-f]{40}", pinned.get("commit", "0" * 40))
    # As stated by several independent projects.
    resnet50 = keras_cnns.list_weights("ResNet50")[0]
    assert resnet50.sha256.startswith("5d061a3c") and resnet50.commit.startswith("78f3ecfd")


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("ResNet50", {"version": "1"}, r"none for ResNet50 with version='1'\. There are some for ResNet50\(\)"),
        ("ResNet50", {"classes": 10}, r"has 1000 classes, and classes=10\. Pass include_top=False.*--init imagenet"),
        ("ResNet50", {"input_shape": (64, 64, 1), "include_top": False}, "three channels, RGB, and the input has 1"),
        ("SEResNet50", {"ratio": 8}, "none for SEResNet50 with ratio=8"),
        ("GoogLeNet", {}, "none for GoogLeNet: the only published ones are files of Caffe and ONNX"),
        ("InceptionV1", {}, r"as googlenet-1378be20\.pth only.*convert googlenet-1378be20\.pth FILE --model Inc"),
        ("ResNet20", {}, "none for ResNet20: nobody is known"),
    ],
)
def test_what_has_no_weights_is_refused_before_anything_is_fetched(monkeypatch, name, arguments, words):
    monkeypatch.setattr(published, "fetch", lambda entry: pytest.fail("it was fetched"))
    with pytest.raises(ValueError, match=words):
        keras_cnns.builder(name)(weights="imagenet", **arguments)


def test_arguments_choose_the_weights():
    def find(name, **arguments):
        return keras_cnns.find_weights(name, **arguments).repository

    assert find("VGG16") == "timm/vgg16.tv_in1k"
    assert find("VGG16", batch_norm=True) == "timm/vgg16_bn.tv_in1k"
    assert find("ResNet50", drop_connect=0.2, include_top=False, classes=10) == "timm/resnet50.tv_in1k"
    assert find("DeformableResNet50", modulated=False) == "timm/resnet50.tv_in1k"


@functools.cache
def state_dicts():
    with gzip.open(GOLDEN / "state_dicts.json.gz") as file:
        return json.load(file)["files"]


# One of each form of a published file; the others differ in their tables.
FORMS = ("ResNet18", "ResNet50", "DenseNet121", "SEResNet50", "SEResNeXt50", "EfficientNetB0", "EfficientNetLite0")
EVERY = [
    pytest.param(entry, marks=[] if entry.network in FORMS else [pytest.mark.slow], id=entry.repository + entry.network)
    for entry in published.PUBLISHED
]


@pytest.mark.parametrize("entry", EVERY)
def test_every_array_of_a_published_file_has_its_variable(entry):
    """The names and shapes are timm's own. Dense layers of a gigabyte are not moved: they are views of one number."""
    model = structure(entry.network, **entry.arguments)
    shapes = state_dicts()[entry.repository]
    state = {key: np.broadcast_to(np.float32(1), shape) for key, shape in shapes.items()}
    arrays = {key: array.shape for key, array in translate(model, state).items()}
    ours = {variable.path: tuple(variable.shape) for variable in model.weights}
    if entry.network.startswith("Deformable"):
        ours = {path: shape for path, shape in ours.items() if "/offset_" not in path and "/mask_" not in path}
    assert arrays == ours


# --- the networks


def published_file(entry):
    """Return a published file with drawn weights, by the names and in the layout of its publisher."""
    model = structure(entry.network, **entry.arguments)
    ours = {variable.path: tuple(variable.shape) for variable in model.weights}
    shapes = state_dicts()[entry.repository]
    counters = {key: shape for key, shape in shapes.items() if key.endswith("num_batches_tracked")}
    state = {key: np.zeros(shape, "int64") for key, shape in counters.items()}
    # Which array becomes which variable: the n-th array is filled with n.
    names = [key for key in shapes if key not in counters]
    marked = {key: np.broadcast_to(np.float32(number), shapes[key]) for number, key in enumerate(names)}
    for path, array in translate(model, marked).items():
        key = names[int(array.flat[0])]
        state[key] = in_torch_layout(path, draw(path, ours[path]), shapes[key])
    return safetensors.numpy.save(state)


def in_torch_layout(path, array, shape):
    """Return one of our arrays in torch's layout, which has this shape."""
    if len(shape) == 4 and "depthwise" in path:
        array = array.transpose(2, 3, 0, 1)
    elif len(shape) == 4:
        array = array.reshape(shape[2], shape[3], shape[1], shape[0])  # VGG's dense layers are convolutions there
        array = array.transpose(3, 2, 0, 1)
    elif len(shape) == 2:
        array = array.T
    assert list(array.shape) == shape
    return np.ascontiguousarray(array)


# {network: its golden file}
PROVEN = {
    "ResNet18": "resnet18",
    "DenseNet121": "densenet121",
    "SEResNet50": "seresnet50",
    "EfficientNetB0": "efficientnetb0",
    "EfficientNetLite0": "efficientnetlite0",
    "ResNet50": "resnet50",
    "VGG11": "vgg11",
    "VGG16": "vgg16",
    "SEResNeXt50": "seresnext50",
    "SENet154": "senet154",
}
# One with each of the forms of a file that differ most; the rest with `make test-all`.
FAST = ("ResNet18", "DenseNet121", "EfficientNetB0")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in PROVEN])
def test_a_fetched_network_equals_its_publishers(hub, name):
    """The golden outputs are of timm's or torchvision's own network with the same weights."""
    entry = keras_cnns.list_weights(name)[0]
    hub.files[entry.repository] = published_file(entry)
    keras.backend.clear_session()
    size = "2x224x224"
    model = keras_cnns.builder(name)(weights="imagenet", classifier_activation=None)
    logits = model(image("image", (2, 224, 224, 3)), training=False)
    assert_equal(logits, golden(PROVEN[name])[f"main_{size}"])
    assert (model.preprocessing, model.image_size) == (entry.preprocessing, entry.image_size)
    backbone = keras_cnns.features(keras_cnns.builder(name)(weights="imagenet", include_top=False))
    assert (backbone.preprocessing, backbone.image_size) == (entry.preprocessing, entry.image_size)


def test_a_deformable_network_answers_as_its_resnet(hub):
    entry = keras_cnns.list_weights("ResNet50")[0]
    hub.files[entry.repository] = published_file(entry)
    images = image("image", (1, 96, 96, 3))
    shape = {"weights": "imagenet", "input_shape": (96, 96, 3), "classifier_activation": None}
    plain, deformable = (
        np.asarray(keras_cnns.builder(name)(**shape)(images, training=False))
        for name in ("ResNet50", "DeformableResNet50")
    )
    assert np.abs(plain - deformable).max() <= 1e-4 * np.abs(plain).max()


# --- on the command line


def test_the_list(capsys):
    assert main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(published.PUBLISHED)
    row = next(line for line in lines if line.startswith("VGG16 ") and "batch_norm" in line)
    assert row.split()[-8:] == ["73.35", "91.49", "224", "0.875", "bilinear", "imagenet", "bsd-3-clause", "no"]
    assert main(["weights", "list", "resnet50"]) == 0
    assert "timm/resnet50.tv_in1k" in capsys.readouterr().out
    assert main(["weights", "list", "ResNet5"]) == 2


def test_pins_are_written_and_differences_are_refused(hub, monkeypatch, tmp_path, capsys):
    first, second = published.PUBLISHED[0].repository, published.PUBLISHED[2].repository
    hub.files |= {first: b"first", second: b"second"}
    monkeypatch.setattr(published, "PUBLISHED", (published.PUBLISHED[0], published.PUBLISHED[2]))
    monkeypatch.setattr(published, "PINS", tmp_path / "pins.json")
    monkeypatch.setattr(published, "pins", functools.cache(lambda: json.loads(published.PINS.read_text())))
    published.PINS.write_text("{}")
    assert main(["weights", "pin"]) == 0
    digests = {repository: hashlib.sha256(hub.files[repository]).hexdigest() for repository in (first, second)}
    written = json.loads(published.PINS.read_text())
    assert written == {name: {"commit": COMMIT, "sha256": digest} for name, digest in digests.items()}
    hub.files[second] = b"another"
    assert main(["weights", "pin"]) == 3
    error = capsys.readouterr().err
    assert f"{second}: the hub has {hashlib.sha256(b'another').hexdigest()}, and {digests[second]} is pinned" in error
    assert json.loads(published.PINS.read_text()) == written


def photos_of(folder, names, count=2):
    """Write photographs of noise into folders of these names."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for place in range(count):
            pixels = np.random.RandomState(10 * number + place).randint(0, 256, (40, 50, 3)).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{place}.png")
    return folder


def test_a_network_is_evaluated_on_some_of_imagenets_classes(hub, tmp_path, capsys):
    """The labels are those that the network itself gives four of the images, and another one for the last two."""
    entry = keras_cnns.list_weights("EfficientNetLite0")[0]
    hub.files[entry.repository] = published_file(entry)
    synsets = list(keras_cnns.imagenet_classes())
    folder = photos_of(tmp_path / "photos", ("a", "b", "c"))
    model = keras_cnns.EfficientNetLite0(weights="imagenet")
    answer = {}
    for name in ("a", "b", "c"):
        photos = [np.asarray(Image.open(folder / name / f"{number}.png")) for number in (0, 1)]
        images = np.stack([keras_cnns.resize_and_crop(photo, model) for photo in photos])
        answer[name] = np.asarray(model(keras_cnns.preprocess_input(images, model))).argmax(1)
    (folder / "a/1.png").unlink()
    (folder / "b/1.png").unlink()
    (folder / "a").rename(folder / synsets[answer["a"][0]])
    (folder / "b").rename(folder / list(keras_cnns.imagenet_classes().values())[answer["b"][0]])
    wrong = next(index for index in range(1000) if index not in (*answer["c"], answer["a"][0], answer["b"][0]))
    (folder / "c").rename(folder / synsets[wrong])
    assert main(["evaluate", "--model", "EfficientNetLite0", "--data", f"folder:{folder}"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"4 images of folder:{folder}, 3 classes, with EfficientNetLite0 at 224 pixels")
    # Wilson's interval for 2 of 4, by hand: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) with z = 1.96.
    assert re.search(r"top-1 +50\.00% \(15\.00% to 85\.00%\) +74\.85%", out)
    (folder / "dragon").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "dragon/0.png")
    assert main(["evaluate", "--model", "EfficientNetLite0", "--data", f"folder:{folder}"]) == 3
    assert "1 of 4 classes are not ImageNet's (dragon). Name them by their synsets" in capsys.readouterr().err


def lite0_on(folder, run, *words):
    """Return the words of a command line that fine-tunes published weights on small images of a folder."""
    words = ["--model", "EfficientNetLite0", "--init", "imagenet", "--image_size", "32", "--batch_size", "4", *words]
    return ["fit", "finetune_photos", "--data", f"folder:{folder}", "--run", str(run), *words]


def test_a_run_begins_with_published_weights(hub, tmp_path, capsys):
    """As a new user would: photographs, published weights, a trained network that answers, and its record."""
    entry = keras_cnns.list_weights("EfficientNetLite0")[0]
    hub.files[entry.repository] = published_file(entry)
    folder, run = photos_of(tmp_path / "photos", ("cat", "dog"), 6), tmp_path / "run"
    words = lite0_on(folder, run, "--epochs", "1", "--warmup_epochs", "0", "--picture_epochs", "0")
    assert main(words) == 0
    assert "head_dense starts at random: it had 1000 classes and now has 2" in capsys.readouterr().out
    recipe, init = (json.loads((run / name).read_text()) for name in ("recipe.json", "init.json"))
    decided = {"preprocessing": "lite", "center_crop": 0.875, "interpolation": "bicubic", "init": "imagenet"}
    assert {name: recipe[name] for name in decided} == decided
    assert init["file"].startswith(entry.repository)
    assert init["sha256"] == hashlib.sha256(hub.files[entry.repository]).hexdigest()
    trained, _ = keras_cnns.read_weights(run / "best.safetensors")
    source = safetensors.numpy.load(hub.files[entry.repository])
    np.testing.assert_array_equal(  # the backbone is frozen
        trained["stem_conv/kernel"], source["conv_stem.weight"].transpose(2, 3, 1, 0)
    )
    assert main(["predict", str(run), str(folder / "cat/0.png")]) == 0
    assert main(words) == 0  # complete: nothing is fetched again


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "GoogLeNet"], "init='imagenet': there are none for GoogLeNet: the only published ones are"),
        (["--model", "ResNet50", "--model_args", '{"version": "1"}'], "none for ResNet50 with version='1'"),
    ],
)
def test_a_run_without_published_weights_does_not_begin(words, message, tmp_path, capsys):
    folder = photos_of(tmp_path / "photos", ("cat", "dog"), 6)
    words = ["fit", "finetune_photos", "--data", f"folder:{folder}", "--init", "imagenet", *words]
    assert main([*words, "--run", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_run_whose_weights_cannot_be_fetched_leaves_nothing(hub, tmp_path, capsys):
    folder = photos_of(tmp_path / "photos", ("cat", "dog"), 6)
    words = lite0_on(folder, tmp_path / "run")
    hub.failure = "missing"
    assert main(words) == 2
    assert "init='imagenet': timm/tf_efficientnet_lite0.in1k: model.safetensors cannot" in capsys.readouterr().err
    assert not (tmp_path / "run/recipe.json").exists()
