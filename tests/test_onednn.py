"""oneDNN is chosen before TensorFlow is imported, and a run keeps what it was begun with."""

import os
import sys

import keras
import pytest

import keras_cnns
from tests.small_networks import SMALL
from training import __main__ as training
from training import machine
from training.errors import UserError
from training.onednn import DEPTHWISE, KEEP_PREPARED, VARIABLE, best_setting, choose
from training.recipe import Recipe
from training.run import environment as environment_of_run
from tuning import __main__ as tuning


@pytest.fixture
def environment(monkeypatch):
    """The environment variables, none, of a process that has not imported TensorFlow."""
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.setattr(os, "environ", {})
    return os.environ


FAMILIES = {keras_cnns.builder(name).__module__: name for name in SMALL}


@pytest.mark.parametrize("module", FAMILIES)
def test_the_networks_with_depthwise_convolutions_are_known(module):
    layers = SMALL[FAMILIES[module]]().layers
    depthwise = any(isinstance(layer, keras.layers.DepthwiseConv2D) for layer in layers)
    names = [name for name in SMALL if keras_cnns.builder(name).__module__ == module]
    assert [name.startswith(DEPTHWISE) for name in names] == [depthwise] * len(names)


def test_it_is_on_except_for_narrow_networks_of_depthwise_convolutions_on_small_images():
    settings = {
        (width, size): best_setting(Recipe(model="EfficientNet", model_args={"width": width}, image_size=size))
        for width in (0.25, 1.0, 1.4)
        for size in (32, 48, 64, 224)
    }
    assert [key for key, setting in settings.items() if setting == "off"] == [(0.25, 32), (0.25, 48)]
    whole = ("ResNet18", "EfficientNetB0", "EfficientNetLite4")
    assert {best_setting(Recipe(model=model, image_size=32)) for model in whole} == {"on"}


AUTO, ON, OFF = (Recipe(onednn=setting) for setting in ("auto", "on", "off"))
SMALL_DEPTHWISE = Recipe(model="EfficientNet", model_args={"width": 0.25}, image_size=32)


@pytest.mark.parametrize(
    ("recipe", "begun", "before", "after"),
    [
        (AUTO, None, None, "1"),
        (SMALL_DEPTHWISE, None, None, "0"),
        (AUTO, None, "0", "0"),
        (SMALL_DEPTHWISE, None, "1", "1"),
        (ON, None, "0", "1"),
        (OFF, None, None, "0"),
        (AUTO, OFF, "1", "0"),
        (AUTO, ON, None, "1"),
        (ON, OFF, None, "1"),
        (AUTO, AUTO, None, None),
        (AUTO, AUTO, "0", "0"),
    ],
)
def test_the_recipe_decides_before_the_run_the_variable_and_the_rule(environment, recipe, begun, before, after):
    environment |= {VARIABLE: before} if before else {}
    choose(recipe, begun)
    assert environment.get(VARIABLE) == after


def test_prepared_gradients_are_kept_unless_the_variable_says_otherwise(environment):
    choose(ON)
    assert environment["TF_MKL_OPTIMIZE_PRIMITIVE_MEMUSE"] == "0"
    environment["TF_MKL_OPTIMIZE_PRIMITIVE_MEMUSE"] = "1"
    choose(ON)
    assert environment["TF_MKL_OPTIMIZE_PRIMITIVE_MEMUSE"] == "1"


def test_nothing_is_set_once_tensorflow_is_imported(environment, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    choose(ON)
    assert not environment.keys() & {VARIABLE, *KEEP_PREPARED}


@pytest.fixture
def chosen(environment, monkeypatch, tmp_path):
    """A function (program, words) -> the variable when TensorFlow would be imported."""

    class Imported(Exception):
        pass

    def import_tensorflow(arguments):
        raise Imported

    def run(program, words):
        monkeypatch.setattr(program, "import_tensorflow", import_tensorflow)
        with pytest.raises(Imported):
            program.main(words)
        return environment.pop(VARIABLE)

    monkeypatch.chdir(tmp_path)
    return run


@pytest.mark.parametrize(
    ("program", "words", "setting"),
    [
        (training, ["fit", "googlenet_digits"], "1"),
        (training, ["fit", "efficientnet_narrow_digits"], "0"),
        (training, ["fit", "efficientnet_narrow_digits", "--onednn", "on"], "1"),
        (tuning, ["recipe", "--space", "rate", "efficientnet_narrow_digits"], "0"),
        (tuning, ["recipe", "--space", "rate", "googlenet_digits"], "1"),
        (tuning, ["recipe", "--space", "rate", "googlenet_digits", "--onednn=off"], "0"),
    ],
)
def test_both_programs_choose_before_the_import(chosen, program, words, setting):
    assert chosen(program, words) == setting


def test_a_resumed_run_keeps_the_kernels_it_was_begun_with(chosen, tmp_path):
    (tmp_path / "recipe.json").write_text(OFF.to_json())
    (tmp_path / "environment.json").write_text("{}")
    words = ["fit", "googlenet_digits", "--run", str(tmp_path)]
    assert chosen(training, words) == "0"
    assert chosen(training, [*words, "--onednn", "on"]) == "1"  # which `fit` refuses
    assert chosen(training, [*words, "--overwrite"]) == "1"


def test_auto_becomes_what_the_process_has_and_another_setting_is_refused(monkeypatch):
    for process, other in (("on", "off"), ("off", "on")):
        monkeypatch.setattr(machine._pywrap_util_port, "IsMklEnabled", lambda process=process: process == "on")
        assert environment_of_run()["onednn"] == process
        assert machine.resolve(Recipe()).onednn == machine.resolve(Recipe(onednn=process)).onednn == process
        fix = f"onednn='{other}'.* with oneDNN {process}. Set {VARIABLE} to {int(other == 'on')} before"
        with pytest.raises(UserError, match=fix):
            machine.resolve(Recipe(onednn=other))
        # A resumed run keeps its own, and one of an earlier version has none.
        for setting in ("on", "off", "auto"):
            assert machine.resolve(Recipe(), begun=Recipe(onednn=setting)).onednn == setting
