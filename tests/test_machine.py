"""A recipe on this machine: what "auto" becomes."""

import dataclasses

import pytest
import tensorflow as tf

from training import machine
from training.errors import UserError
from training.machine import resolve
from training.recipe import Recipe


def test_resolving_decides_every_auto_and_nothing_else():
    recipe = resolve(Recipe())
    values = dataclasses.asdict(recipe)
    assert "auto" not in values.values()
    assert {name for name, value in dataclasses.asdict(Recipe()).items() if value != values[name]} == {
        "precision",
        "jit",
        "deterministic",
        "distribution",
        "preprocessing",
        "center_crop",
        "interpolation",
        "onednn",
    }
    assert resolve(recipe) == recipe


def test_random_weights_cannot_be_frozen():
    with pytest.raises(UserError, match=r"freeze='backbone'.*Pass --init"):
        resolve(Recipe(freeze="backbone"))


def test_a_resumed_run_keeps_its_decisions_on_another_machine(monkeypatch):
    recipe, begun = Recipe(), dataclasses.replace(resolve(Recipe()), precision="mixed_float16", jit=True)
    assert resolve(recipe, begun) == begun
    monkeypatch.setattr(machine, "found_distribution", lambda: "mirrored")
    assert resolve(recipe, begun) == begun
    monkeypatch.setattr(machine, "found_distribution", lambda: "multiworker")
    assert resolve(recipe, begun) == dataclasses.replace(begun, distribution="multiworker")
    assert resolve(dataclasses.replace(recipe, precision="float32"), begun).precision == "float32"


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [((), "float32"), ([(6, 1)], "float32"), ([(7, 5), (9, 0)], "mixed_float16"), ([(8, 0)], "mixed_bfloat16")],
)
def test_half_precision_needs_tensor_cores_on_every_gpu(monkeypatch, capabilities, precision):
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": capabilities[gpu]}
    )
    assert machine.best_precision(range(len(capabilities))) == precision
