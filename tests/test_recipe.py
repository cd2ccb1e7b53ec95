"""The recipe: ranges, names, JSON, identity."""

import dataclasses
import json

import pytest

from training.errors import UserError
from training.recipe import Recipe
from training.recipes import RECIPES


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image_size": 0}, "image_size=0: it must be at least 1 pixel"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0: it must be above 0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"epochs": 2, "warmup_epochs": 3.0}, "warmup_epochs=3.0"),
        ({"aux_weight": -0.1}, "aux_weight=-0.1"),
        ({"crop": "area", "crop_max": 1.5}, "crop_max=1.5: it must be at most 1"),
        ({"crop": "scale"}, "crop_min=0.08: it must be at least 1"),
        ({"policy_magnitude": 31.0}, "policy_magnitude=31.0"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"schedule": "steps"}, "needs --milestones"),
        ({"schedule": "plateau", "warmup_epochs": 1.0}, "has no warm-up"),
        ({"milestones": [3.0, 2.0]}, "must rise"),
        ({"schedule": "plateau", "decay_rate": 1.0}, "decay_rate=1.0: it must be below 1"),
        ({"seed": -1}, "seed=-1"),
        ({"name": "a/b"}, "name='a/b'"),
        ({"model": "GoogNet"}, "Did you mean GoogLeNet"),
        ({"model_args": {"aux_head": True}}, "GoogLeNet takes naive, aux_heads"),
        ({"model_args": {"classes": 3}}, "the data give it"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_the_mend(values, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        Recipe(**values)


def test_json_round_trip_keeps_the_identity():
    recipe = Recipe(model="resnet50", model_args={"version": "1"})
    same = Recipe.from_json(recipe.to_json(), "recipe.json")
    assert same == recipe
    assert same.digest == recipe.digest
    assert same.model == "ResNet50"


@pytest.mark.parametrize("text", ["{", '{"epochs": 0}', '{"epoch": 3}', "[]"])
def test_a_damaged_recipe_file_is_named(text):
    with pytest.raises(UserError, match=r"broken\.json|epochs=0"):
        Recipe.from_json(text, "broken.json")


def test_every_field_changes_the_identity():
    base = Recipe()
    others = {
        "name": "other",
        "model": "ResNet18",
        "model_args": {"aux_heads": True},
        "data": "mnist",
        "data_dir": "data",
        "preprocessing": "tf",
        "crop": "area",
        "crop_min": 0.5,
        "crop_max": 0.9,
        "color_jitter": 0.4,
        "random_erasing": 0.1,
        "label_smoothing": 0.1,
        "policy": "randaugment",
        "optimizer": "adam",
        "momentum": 0.5,
        "decay_mode": "decoupled",
        "milestones": [3.0],
        "ema": 0.9,
        "init": "runs/first",
        "freeze": "stem",
        "distribution": "none",
        "warmup_epochs": 0.5,
        "schedule": "constant",
        "precision": "float32",
        "jit": True,
        "deterministic": True,
    }
    digests = {base.digest}
    for field in dataclasses.fields(Recipe):
        value = others[field.name] if field.name in others else getattr(base, field.name) + 1
        value = not getattr(base, field.name) if isinstance(getattr(base, field.name), bool) else value
        digests.add(dataclasses.replace(base, **{field.name: value}).digest)
    assert len(digests) == 1 + len(dataclasses.fields(Recipe))


def test_resolving_decides_every_auto_and_nothing_else():
    recipe = Recipe().resolved()
    values = dataclasses.asdict(recipe)
    assert "auto" not in values.values()
    assert {name for name, value in dataclasses.asdict(Recipe()).items() if value != values[name]} == {
        "precision",
        "jit",
        "deterministic",
        "distribution",
        "preprocessing",
    }
    assert recipe.resolved() == recipe


def test_nothing_is_frozen_at_random():
    with pytest.raises(UserError, match=r"freeze='backbone'.*pass --init"):
        Recipe(freeze="backbone").resolved()


def test_recipes_are_known_by_their_names_and_are_plain_json():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert json.loads(recipe.to_json())["name"] == name


@pytest.mark.parametrize(("model", "size"), [("VGG11", 32), ("AlexNet", 67)])
def test_a_network_for_use_that_flattens_has_the_recipes_size(model, size):
    network = Recipe(model=model, image_size=size).build(2, for_use=True)
    assert network.input_shape == (None, size, size, 3)
    assert network.output_shape == (None, 2)


def test_a_network_for_use_that_does_not_fit_is_a_users_mistake():
    with pytest.raises(UserError, match="at least 32"):
        Recipe(model="VGG11", image_size=31).build(2, for_use=True)


def test_a_network_for_use_has_one_output_and_takes_any_size():
    recipe = RECIPES["googlenet_digits"]
    assert sorted(recipe.build(10).output) == ["aux1", "aux2", "main"]
    network = recipe.build(10, for_use=True)
    assert network.input_shape == (None, None, None, 3)
    assert network.output_shape == (None, 10)
