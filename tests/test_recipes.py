"""The named recipes: all of them can be run, and those of papers have the papers' figures in steps and pixels."""

import dataclasses
import inspect

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

import keras_cnns
from training.__main__ import parse
from training.augment import augment, crop, mix
from training.machine import resolve
from training.optimization import learning_rate, make_optimizer
from training.pixels import scaled_sides
from training.recipe import Recipe
from training.recipes import RECIPES
from tuning.budget import without_weights

IMAGE = tf.constant(np.random.RandomState(0).randint(0, 256, (300, 400, 3)), tf.uint8)
KEY = tf.constant([3, 4])


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_run(name, tmp_path):
    """All parts but its data and the training itself: network, images, targets and optimizer."""
    recipe = RECIPES[name]
    inspect.signature(keras_cnns.builder(recipe.model)).bind(**recipe.model_args)
    if recipe.freeze:
        safetensors.numpy.save_file({"kernel": np.zeros(1, "float32")}, tmp_path / "weights.safetensors")
        recipe = dataclasses.replace(recipe, init=str(tmp_path / "weights.safetensors"))
    recipe = resolve(recipe)
    assert "auto" not in dataclasses.asdict(recipe).values()
    image = augment(IMAGE, recipe, KEY)
    assert image.shape == (recipe.image_size, recipe.image_size, 3)
    images, targets = mix(tf.stack([image, image]), tf.constant([0, 2]), 5, recipe, KEY)
    assert np.isfinite(images).all()
    np.testing.assert_allclose(np.sum(targets, axis=-1), 1, rtol=1e-6)
    optimizer = make_optimizer(recipe, 351, [])
    assert type(optimizer).__name__.lower() == recipe.optimizer
    assert float(optimizer.learning_rate) == (0 if recipe.warmup_epochs else np.float32(recipe.learning_rate))


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_line_parses_every_recipe_unchanged(name):
    options = parse(["fit", name]).fit
    assert Recipe(**{field: options[field] for field in Recipe.__dataclass_fields__}) == RECIPES[name]


def test_strings_stay_strings_on_the_command_line():
    words = ["fit", "resnet18_digits", "--model_args", '{"version": "1", "depth": 8, "batch_norm": true}']
    assert parse(words).fit.model_args == {"version": "1", "depth": 8, "batch_norm": True}
    words = ["convert", "a.pth", "b", "--model", "ResNet50", "--model_args", '{"version": "1"}']
    assert parse(words).convert.model_args == {"version": "1"}


# The papers' recipes that pass arguments to the network.
@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if r.model_args and not n.endswith("_digits")])
def test_the_arguments_of_the_network_are_valid(name):
    outputs = without_weights(RECIPES[name], 7).output
    assert (outputs["main"] if isinstance(outputs, dict) else outputs).shape == (None, 7)


def rates(name, steps_per_epoch, steps):
    schedule = learning_rate(RECIPES[name], steps_per_epoch)
    return [float(schedule(step)) for step in steps]


def test_resnet56_decays_after_32000_and_48000_steps():
    """He et al. 2016, section 4.2; 45,000 images in batches of 128 are 351 steps per epoch."""
    assert 45_000 // RECIPES["resnet56_cifar"].batch_size == 351
    expected = [0.1, 0.1, 0.01, 0.01, 0.001]
    np.testing.assert_allclose(rates("resnet56_cifar", 351, [0, 31_999, 32_000, 47_999, 48_000]), expected, rtol=1e-6)
    assert RECIPES["resnet56_cifar"].epochs == 64_000 // 351


def test_learning_rates_decay_after_the_epochs_of_the_papers():
    """With ten steps per epoch."""
    for name, first, milestones in [
        ("resnet50_imagenet", 0.1, (30, 60)),
        ("densenet_cifar", 0.1, (150, 225)),  # 50 and 75 % of 300
        ("seresnet50_imagenet", 0.6, (30, 60, 90)),
    ]:
        for count, epoch in enumerate(milestones):
            around = rates(name, 10, [10 * epoch - 1, 10 * epoch])
            np.testing.assert_allclose(around, [first / 10**count, first / 10 ** (count + 1)], rtol=1e-6)
    # 4 % less every 8 epochs.
    np.testing.assert_allclose(
        rates("googlenet_imagenet", 10, [0, 79, 80, 160]), [0.01, 0.01, 0.0096, 0.009216], rtol=1e-6
    )
    # From 0 to 0.256 in 5 epochs, times 0.97 every 2.4 epochs from the first step on: the tenth decay is at epoch 24.
    efficientnet = rates("efficientnetb0_imagenet", 10, [0, 25, 240])
    np.testing.assert_allclose(efficientnet, [0, 0.128, 0.256 * 0.97**10], rtol=1e-5)
    # A cosine from 0.5 at the end of 5 epochs to 0 at the end of 600.
    modern = rates("modern_resnet50_imagenet", 10, [25, 50, 50 + 5950 // 2, 6000])
    np.testing.assert_allclose(modern, [0.25, 0.5, 0.25, 0], atol=1e-6)


def test_vgg_and_alexnet_decay_on_plateaus():
    for name in ("alexnet_imagenet", "vgg16_imagenet"):
        assert learning_rate(RECIPES[name], 10) == 0.01
        assert RECIPES[name].schedule == "plateau"
    assert RECIPES["vgg16_imagenet"].epochs == round(370_000 * 256 / 1_281_167)  # section 3.1: 370K iterations


@pytest.mark.parametrize(
    ("name", "least", "greatest"),
    [("alexnet_imagenet", 256, 256), ("vgg16_imagenet", 256, 512), ("resnet50_imagenet", 256, 480)],
)
def test_images_are_scaled_to_the_sizes_of_the_papers_before_cropping(name, least, greatest, monkeypatch):
    sizes = []

    def noted(image, shorter):
        sizes.append(int(shorter))
        return scaled_sides(image, shorter)

    monkeypatch.setattr("training.augment.scaled_sides", noted)
    for number in range(60):
        crop(IMAGE, RECIPES[name], tf.constant([0, number]))
    assert least <= min(sizes) <= least + (greatest - least) / 10
    assert greatest - (greatest - least) / 10 <= max(sizes) <= greatest


def test_cifar_pads_by_four_pixels():
    """The papers crop 32 pixels from a padded image of 40: a white image gets up to four black rows or columns."""
    white = tf.fill((32, 32, 3), tf.constant(255, tf.uint8))
    for name in ("resnet56_cifar", "densenet_cifar"):
        crops = np.stack([crop(white, RECIPES[name], tf.constant([0, number])) for number in range(60)])
        black = [32 - np.sum(crops.max(axis=(2, 3)) > 0, axis=1), 32 - np.sum(crops.max(axis=(1, 3)) > 0, axis=1)]
        assert [rows.min() for rows in black] == [0, 0]
        assert [rows.max() for rows in black] == [4, 4]
