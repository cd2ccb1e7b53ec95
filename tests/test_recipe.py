"""The recipe: ranges, names, JSON, identity."""

import dataclasses
import json
import math
import random
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import keras_cnns
from training.__main__ import parse
from training.errors import UserError
from training.recipe import Recipe, networks
from training.recipes import RECIPES, recipe_from
from tuning.__main__ import parse as parse_tuning


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
        ({"milestones": [3.0, 2.0]}, "must be in increasing order"),
        ({"schedule": "plateau", "decay_rate": 1.0}, "decay_rate=1.0: it must be below 1"),
        ({"seed": -1}, "seed=-1"),
        ({"name": "a/b"}, "name='a/b'"),
        ({"model": "GoogNet"}, "Did you mean GoogLeNet"),
        ({"model_args": {"aux_head": True}}, "GoogLeNet takes naive, aux_heads"),
        ({"model_args": {"classes": 3}}, "the data give it"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_a_fix(values, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        Recipe(**values).check_model_args()


def test_json_round_trip_keeps_the_identity():
    recipe = Recipe(model="resnet50", model_args={"version": "1"})
    same = Recipe.from_json(recipe.to_json(), "recipe.json")
    assert same == recipe
    assert same.digest == recipe.digest
    assert same.model == "ResNet50"


def test_the_names_of_the_networks_are_those_of_keras_cnns():
    assert networks() == keras_cnns.list_models()


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
        "center_crop": 0.875,
        "interpolation": "bicubic",
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
        "onednn": "off",
    }
    digests = {base.digest}
    for field in dataclasses.fields(Recipe):
        value = others[field.name] if field.name in others else getattr(base, field.name) + 1
        value = not getattr(base, field.name) if isinstance(getattr(base, field.name), bool) else value
        digests.add(dataclasses.replace(base, **{field.name: value}).digest)
    assert len(digests) == 1 + len(dataclasses.fields(Recipe))


def test_recipes_are_known_by_their_names_and_are_plain_json():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert json.loads(recipe.to_json())["name"] == name


@pytest.mark.parametrize(("model", "size"), [("VGG11", 32), ("AlexNet", 67)])
def test_a_network_for_inference_that_flattens_has_the_recipes_size(model, size):
    network = Recipe(model=model, image_size=size).build(2, for_inference=True)
    assert network.input_shape == (None, size, size, 3)
    assert network.output_shape == (None, 2)


def test_a_network_for_inference_that_cannot_be_built_is_a_user_error():
    with pytest.raises(UserError, match="at least 32"):
        Recipe(model="VGG11", image_size=31).build(2, for_inference=True)


def test_a_network_for_inference_has_one_output_and_takes_any_size():
    recipe = RECIPES["googlenet_digits"]
    assert sorted(recipe.build(10).output) == ["aux1", "aux2", "main"]
    network = recipe.build(10, for_inference=True)
    assert network.input_shape == (None, None, None, 3)
    assert network.output_shape == (None, 10)


def wrong_values():
    """Draw invalid values for every field: of another type, not among the literals, not finite, out of range."""
    draw = random.Random(0)
    for name, hint in get_type_hints(Recipe).items():
        kinds = {
            kind for kind in (bool, int, float, str, dict, list) if kind in (hint, get_origin(hint), *get_args(hint))
        }
        words = [arg for part in (hint, *get_args(hint)) if get_origin(part) is Literal for arg in get_args(part)]
        values = [{"a": 1}, [1, "x"], draw.choice(["adamw", "cosin", "L2", "area_", "RandAugment"])]
        values += [
            draw.uniform(0.1, 0.9),
            draw.randint(2, 10**6),
            True,
            None,
            float("nan"),
            float("inf"),
            -float("inf"),
        ]
        values += [draw.choice([-1, -7, -(10**9)]), 2**70]
        for value in values:
            kind = type(value)
            fits = (
                (kind in kinds and kind is not float and not (kind is list and "x" in value))
                or (kind is float and float in kinds and math.isfinite(value))
                or (kind is int and float in kinds)
                or (value is None and type(None) in get_args(hint))
                or (isinstance(value, str) and str in kinds and not words)
                or (isinstance(value, dict) and dict in kinds)
            )
            if not fits:
                yield name, value


WRONG = [pytest.param(name, value, id=f"{name}={value}") for name, value in wrong_values()]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_of_the_wrong_type_is_refused_by_every_interface(name, value):
    ways = {
        "Python": lambda: Recipe(**{name: value}),
        "a search space": lambda: dataclasses.replace(RECIPES["resnet18_digits"], **{name: value}),
        "recipe.json": lambda: Recipe.from_json(json.dumps({name: value}), "recipe.json"),
    }
    if get_type_hints(Recipe)[name] not in (str, str | None):  # on the command line every word is a text
        words = ["fit", "resnet18_digits", f"--{name}={json.dumps(value)}"]
        ways["command line"] = lambda: recipe_from(parse(words).fit, RECIPES["resnet18_digits"])
    for way, enter in ways.items():
        with pytest.raises(UserError) as error:
            enter()
        assert name in str(error.value), way


RANGES = {
    "image_size": (0, 8001), "batch_size": (0, -1), "epochs": (0, -3), "crop_min": (0.0, -1.0, 2.0),
    "policy_layers": (0, 10**9), "policy_magnitude": (-1.0, 31.0), "color_jitter": (-0.1, 1.1),
    "random_erasing": (-0.1, 1.1), "label_smoothing": (-0.1, 1.0), "ema": (-0.1, 1.0), "momentum": (-0.1, 1.0),
    "learning_rate": (0.0, -1.0), "epsilon": (0.0, -1e-3), "decay_rate": (0.0, -1.0), "decay_epochs": (0.0, -1.0),
    "lighting": (-0.1,), "mixup": (-0.1,), "cutmix": (-0.1,), "weight_decay": (-0.1,), "clip_norm": (-0.1,),
    "aux_weight": (-0.1,), "backbone_rate": (-0.1,), "warmup_epochs": (-1.0, 1e6), "seed": (-1, 2**31),
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in RANGES.items() for value in values])
def test_a_value_out_of_range_is_refused_by_every_interface(name, value):
    base = RECIPES["resnet18_digits"]
    for enter in (
        lambda: Recipe(**{name: value}),
        lambda: dataclasses.replace(base, **{name: value}),
        lambda: Recipe.from_json(json.dumps({name: value}), "recipe.json"),
        lambda: recipe_from(parse(["fit", "resnet18_digits", f"--{name}={value}"]).fit, base),
        lambda: parse_tuning(["recipe", "--space", "rate", f"--{name}={value}", "resnet18_digits"]),
    ):
        with pytest.raises(UserError, match=name):
            enter()


def test_every_number_has_its_range_tested():
    numbers = {name for name, hint in get_type_hints(Recipe).items() if hint in (int, float)}
    assert numbers - {"crop_max"} == RANGES.keys()  # crop_max: test_a_wrong_value_is_refused above


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("ResNetCIFAR", {"depth": "8"}),
        ("ResNetCIFAR", {"depth": 8.5}),
        ("ResNetCIFAR", {"depth": None}),
        ("ResNetCIFAR", {"depth": [8]}),
        ("ResNetCIFAR", {"depth": True}),
        ("ResNetCIFAR", {"depth": 10**9}),
        ("EfficientNet", {"width": 1e308}),
        ("EfficientNet", {"width": float("nan")}),
        ("EfficientNet", {"width": "1"}),
        ("ResNet50", {"drop_connect": "0.1"}),
        ("ResNet50", {"shortcut": ["A"]}),
        ("ResNet50", {"version": 1}),
    ],
)
def test_an_argument_of_the_wrong_type_is_refused_before_the_network_is_built(model, arguments):
    with pytest.raises(UserError, match="model_args"):
        Recipe(model=model, model_args=arguments).check_model_args()


def test_integers_and_equal_floats_give_the_same_run():
    assert Recipe(learning_rate=1).digest == Recipe(learning_rate=1.0).digest


def test_arguments_of_the_network_are_merged_and_null_removes_one():
    def arguments(name, given):
        return recipe_from(parse(["fit", name, "--model_args", json.dumps(given)]).fit, RECIPES[name]).model_args

    assert arguments("resnet50_imagenet", {"drop_connect": 0.1}) == {"version": "1", "drop_connect": 0.1}
    assert arguments("googlenet_digits", {"naive": True}) == {"aux_heads": True, "naive": True}
    assert arguments("googlenet_digits", {"aux_heads": None}) == {}


def test_a_run_is_not_named_after_another_network():
    base = RECIPES["resnet18_digits"]
    assert recipe_from(parse(["fit", base.name, "--model", "VGG11"]).fit, base).name == "resnet18_digits-VGG11"
    assert recipe_from(parse(["fit", base.name, "--model", "VGG11", "--name", "mine"]).fit, base).name == "mine"


def test_deep_nesting_is_not_a_recipe():
    with pytest.raises(UserError, match="is not a recipe"):
        Recipe.from_json('{"model_args": {"a": ' + "[" * 100_000 + "]" * 100_000 + "}}", "recipe.json")
