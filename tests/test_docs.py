"""The documentation: commands parse, Python runs, and links, files, make targets and modules that it names exist."""

import functools
import importlib.util
import re
import shlex

import keras
import pytest
import tensorflow as tf

import keras_cnns
from docs.run_commands import DOCUMENTS, ROOT, blocks, commands, main
from keras_cnns import published
from tests.test_published import published_file
from training import __main__ as training
from training.recipes import RECIPES
from tuning import __main__ as tuning

PROGRAMS = {"training": training, "tuning": tuning}
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def text_of(document):
    return (ROOT / document).read_text()


def inline_code(document):
    """Return the code in a document that is between single backticks, outside of blocks."""
    text = re.sub(r"^```.*?^```$", "", text_of(document), flags=re.MULTILINE | re.DOTALL)
    return [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", text)]


def command_lines():
    """Yield (program, words) for every `python -m training|tuning` in the blocks of the documentation."""
    for document in DOCUMENTS:
        for words in commands(document):
            if words[:2] == ["python", "-m"]:
                yield pytest.param(PROGRAMS[words[2]], words[3:], id=shlex.join(words)[:70])


@pytest.mark.parametrize(("program", "words"), list(command_lines()))
def test_a_documented_command_is_understood(program, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet.json").write_text(RECIPES["resnet18_digits"].to_json())
    program.parse(words)


def test_a_dry_run_lists_every_documented_command(capsys):
    assert main(["--dry"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = [f"{document}: {shlex.join(words)}" for document in DOCUMENTS for words in commands(document)]
    assert [line.partition("  # not run: ")[0] for line in lines] == expected


def test_an_unknown_command_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("```sh\npython -m training fit digits\nmkae train\n```\n")
    with pytest.raises(ValueError, match="'mkae train' is not a known command"):
        list(commands(tmp_path / "page.md"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text_of(document))
    assert not [link for link in links if not ((ROOT / document).parent / link).exists()]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_modules_and_files_exist(document):
    inline = inline_code(document)
    lines = inline + [shlex.join(words) for words in commands(document)]
    assert {line.split()[1] for line in lines if line.startswith("make ")} <= TARGETS
    modules = [line.split()[2] for line in lines if line.startswith("python -m ")]
    assert not [module for module in modules if importlib.util.find_spec(module) is None]
    files = [code for code in inline if re.fullmatch(r"(keras_cnns|training|tuning|tests|docs)/\S*", code)]
    files += re.findall(r"-r ([\w.-]+)", "\n".join(lines))
    assert not [file for file in files if not (ROOT / file).exists()]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_subcommands_in_sentences_exist(document, capsys):
    for words in map(str.split, inline_code(document)):
        if words[:2] == ["python", "-m"] and words[2] in PROGRAMS and re.match(r"\w", (words[3:] or ["."])[0]):
            with pytest.raises(SystemExit) as left:
                PROGRAMS[words[2]].parse([words[3], "--help"])
            assert left.value.code == 0, words


@pytest.fixture
def reader(tmp_path, monkeypatch, photo_run):
    """The working directory of a reader who has trained on photographs and has a file of weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "resnet18_photos-XXXXXXXX").symlink_to(photo_run)
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    image = tf.io.encode_jpeg(tf.zeros((9, 9, 3), tf.uint8)).numpy()
    for file in ("image.jpg", "photos/cat/1.jpg"):
        (tmp_path / file).write_bytes(image)
    keras_cnns.save_weights(keras_cnns.EfficientNetLite0(weights=None), tmp_path / "lite0.safetensors")
    # Published weights, as the hub's file has them.
    file = tmp_path / "model.safetensors"
    file.write_bytes(published_file(keras_cnns.list_weights("ResNet50")[0]))
    monkeypatch.setattr(published, "fetch", lambda entry: (file, "0" * 64))
    # Compiling a network would take longer than running it once.
    monkeypatch.setattr(keras.Model, "compile", functools.partialmethod(keras.Model.compile, run_eagerly=True))


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if list(blocks(text_of(document), "python"))])
def test_the_python_of_a_document_runs(document, reader):
    names, code = {}, list(blocks(text_of(document), "python"))
    if any("exports/model.onnx" in block for block in code):
        assert training.main(["export", "runs/resnet18_photos-XXXXXXXX", "--format", "onnx"]) == 0
    for block in code:
        exec(compile(block, document, "exec"), names)
