"""Exports for other runtimes, each judged by its own runtime."""

import dataclasses
import errno
import re

import numpy as np
import pytest

import keras_cnns
from tests.small_networks import DISTINCT, images, network
from training import formats, runtimes
from training.__main__ import main
from training.errors import DataError, UserError
from training.export import Description, on_pixels
from training.run_folder import Run

# What a runtime cannot take.
REFUSED = {"litert": ("DeformableResNet50",), "openvino": ("DeformableResNet50",), "onnx": ()}
# Networks with layers that others do not have, in every format; the rest with `make test-all`.
SPECIAL = ("AlexNet", "SEResNeXt50", "EfficientNet", "DeformableResNet50")
FAST = [(name, "onnx") for name in SPECIAL] + [("ResNet18", kind) for kind in runtimes.RUNTIMES]
CASES = [
    pytest.param(name, kind, marks=[] if (name, kind) in FAST else [pytest.mark.slow])
    for name in DISTINCT
    for kind in runtimes.RUNTIMES
]
SIZE = keras_cnns.ImageSize(32, 0.875, "bicubic")
ABOUT = Description(["a"], keras_cnns.ImageSize(64), "caffe", temperature=1.5)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_family_in_every_runtime(name, kind, tmp_path):
    """The whole way from pixels: normalization, the folded network, softmax."""
    pixels = 60 * images(3, 64, 64, 3) + 128
    logits = with_logits_to_one(keras_cnns.fold_batch_norm(without_softmax(network(name))), pixels)
    model = on_pixels(logits, ABOUT)
    file = tmp_path / runtimes.RUNTIMES[kind][0]
    if name in REFUSED[kind]:
        with pytest.raises(Exception, match=r"\w"):
            formats.WRITERS[kind](logits, ABOUT, file)
            formats.Export(file)(pixels)
        assert "conv2_conv" in formats.refused_layers(logits)
        return
    formats.WRITERS[kind](logits, ABOUT, file)
    export = formats.Export(file)
    for batch in (pixels, pixels[:1]):  # any number of images
        expected = np.asarray(model(batch, training=False))
        assert np.abs(export(batch) - expected).max() <= 1e-5
    assert export.description == ABOUT


def with_logits_to_one(network, pixels):
    """Scale the classifier of a network so that its logits for some pixels are at most 1, and return the network.

    Random weights give deep networks logits of hundreds: probabilities of 0 and 1, which hide errors, or of two classes
    that are close, which enlarge rounding errors as many times.
    """
    logits = network(keras_cnns.preprocess_input(pixels, ABOUT.preprocessing), training=False)
    dense = network.get_layer("head_dense")
    dense.set_weights([weights / np.abs(logits).max() for weights in dense.get_weights()])
    return network


def without_softmax(model):
    """Return a network whose output is logits, with the weights of another."""
    config = model.get_config()
    (last,) = [layer for layer in config["layers"] if layer["config"]["name"] == "head_dense"]
    last["config"]["activation"] = "linear"
    logits = type(model).from_config(config)
    logits.set_weights(model.get_weights())
    return logits


@pytest.mark.parametrize("kind", ("savedmodel", *runtimes.RUNTIMES))
def test_a_run_answers_alike_from_its_export(photo_run, photos, kind, capsys):
    assert main(["export", str(photo_run), "--format", kind]) == 0
    line = capsys.readouterr().out
    file = photo_run / ("export" if kind == "savedmodel" else f"exports/{formats.name_of(kind)}")
    assert line.startswith(f"{file}: ") and re.search(
        r"on \d+ images its probabilities differ .* at most \d\.\de-", line
    )
    answers = []
    for source in (photo_run, file):
        assert main(["predict", str(source), str(photos / "cat/0.png"), str(photos / "owl/3.png")]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] and "owl" in answers[0]
    about = formats.Export(file).description
    assert about.classes == ["cat", "dog", "owl"] and about.image_size.size == 8
    assert about.origin["recipe"] == Run.open(photo_run).digest and about.origin["licence"] is None
    assert about.temperature == Run.open(photo_run).temperature
    assert not list(photo_run.glob("exports.tmp*"))


def test_without_the_data_photographs_are_compared(photo_run, capsys, monkeypatch):
    def gone(*_, **__):
        raise DataError("the data are not here")

    monkeypatch.setattr(formats, "load_data", gone)
    assert main(["export", str(photo_run), "--format", "onnx"]) == 0
    assert "on 2 images its probabilities differ" in capsys.readouterr().out
    assert main(["export", str(photo_run), "--format", "litert", "--quantize", "int8"]) == DataError.exit_code
    assert "the data are not here" in capsys.readouterr().err


@pytest.mark.parametrize("quantize", runtimes.QUANTIZED)
def test_quantized(photo_run, quantize, capsys):
    assert main(["export", str(photo_run), "--format", "litert", "--quantize", quantize]) == 0
    assert re.search(r"test accuracy [\d.]+% before and [\d.]+% after quantization", capsys.readouterr().out)
    whole, small = (photo_run / "exports" / name for name in ("model.tflite", f"model_{quantize}.tflite"))
    assert main(["export", str(photo_run), "--format", "litert"]) == 0
    assert small.stat().st_size < whole.stat().st_size  # of a network of a few thousand weights


def test_mistakes_are_named(photo_run, tmp_path, capsys, monkeypatch):
    assert main(["export", str(photo_run), "--format", "onnx", "--quantize", "int8"]) == 2
    assert "--quantize int8 is for --format litert" in capsys.readouterr().err
    (tmp_path / "model.onnx").write_bytes(b"no")
    assert main(["predict", str(tmp_path / "model.onnx"), "nowhere.png"]) == 2
    (tmp_path / "0.png").write_bytes(b"")
    assert main(["predict", str(tmp_path / "model.onnx"), str(tmp_path / "0.png")]) == 2
    assert "model.onnx is not a whole export of this program" in capsys.readouterr().err
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(photo_run), "--format", "openvino"]) == 2
    assert "openvino needs tf2onnx, onnx, openvino, not installed. Run `pip install tf2onnx" in capsys.readouterr().err


def test_another_answer_is_an_error(photo_run, monkeypatch, capsys):
    """The old export stays."""
    assert main(["export", str(photo_run), "--format", "onnx"]) == 0
    file = photo_run / "exports/model.onnx"
    before = file.read_bytes()
    monkeypatch.setattr(formats.Export, "__call__", lambda self, images: np.zeros((len(images), 3), "float32"))
    assert main(["export", str(photo_run), "--format", "onnx"]) == 5
    assert "onnx computes other probabilities than the network: they differ by" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_the_rules_of_pixels():
    for mode in keras_cnns.preprocessing_modes():
        about = dataclasses.replace(ABOUT, preprocessing=mode, temperature=1.0)
        pixels = 60 * images(2, 64, 64, 3) + 128
        expected = np.asarray(network("ResNetCIFAR")(keras_cnns.preprocess_input(pixels, mode), training=False))
        for model in (network("ResNetCIFAR"), without_softmax(network("ResNetCIFAR"))):
            np.testing.assert_allclose(on_pixels(model, about)(pixels), expected, atol=1e-5)


def test_the_temperature_divides_logits():
    logits, pixels = without_softmax(network("ResNetCIFAR")), 60 * images(2, 64, 64, 3) + 128
    cold, hot = (on_pixels(logits, dataclasses.replace(ABOUT, temperature=t))(pixels).numpy() for t in (1.0, 2.0))
    expected = np.sqrt(cold) / np.sqrt(cold).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(hot, expected, atol=1e-6)
    assert (hot.argmax(-1) == cold.argmax(-1)).all()


@pytest.mark.parametrize("name", ["resnet", "resnet.onnx", "resnet.tflite", "resnet.xml"])
def test_a_network_without_a_run(name, tmp_path):
    """Its preprocessing and its image size are those of its weights."""
    model = keras_cnns.ResNetCIFAR(depth=8, classes=5)
    keras_cnns.save_weights(model, tmp_path / "w.safetensors", {"preprocessing": "tf"} | SIZE.to_metadata())
    keras_cnns.load_weights(model, tmp_path / "w.safetensors")
    written = formats.export(model, tmp_path / "new" / name)
    assert written.file == tmp_path / "new" / name and written.images == 2 and written.difference < 1e-5
    export = formats.Export(written.file)
    assert export.description.classes == list("01234") and export.description.preprocessing == "tf"
    assert export.description.image_size == SIZE
    pixels = np.random.RandomState(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    expected = np.asarray(model(keras_cnns.preprocess_input(pixels, "tf"), training=False))
    np.testing.assert_allclose(export(pixels), expected, atol=1e-5)
    formats.export(model, tmp_path / "new" / name, class_names="abcde")  # replaces it
    assert formats.Export(written.file).description.classes == list("abcde")
    assert not list((tmp_path / "new").glob("*.tmp-*"))


def test_mistakes_in_python_are_named(tmp_path):
    model = keras_cnns.ResNet20(classes=5)
    for message, arguments in (
        ("5 outputs, and class_names 2 names", {"class_names": "ab"}),
        ("--quantize int8 is for --format litert, not onnx", {"quantize": "int8"}),
        ("needs representative=", {"quantize": "int8", "path": tmp_path / "a.tflite"}),
        ("exists and is not a SavedModel", {"path": tmp_path}),
        ("has no classifier", {"network": keras_cnns.ResNet20(include_top=False)}),
    ):
        with pytest.raises(UserError, match=message):
            formats.export(**({"network": model, "path": tmp_path / "a.onnx"} | arguments))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_not_the_networks_fault(photo_run, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(formats.WRITERS, "onnx", full)
    assert main(["export", str(photo_run), "--format", "onnx"]) == 4
    assert "No space left" in capsys.readouterr().err
