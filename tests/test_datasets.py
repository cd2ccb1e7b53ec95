"""A user's own tf.data pipelines as the data of a run."""

import dataclasses
import doctest
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import TINY
from training import datasets
from training.__main__ import main
from training.batches import evaluation_batches
from training.datasets import from_datasets
from training.errors import DataError, UserError
from training.run import FitOptions, fit

RANDOM = np.random.RandomState(0)
IMAGES, LABELS = RANDOM.randint(0, 256, (40, 9, 7, 3), np.uint8), np.arange(40, dtype=np.int32) % 2
CLASSES = ["even", "odd"]
RECIPE = dataclasses.replace(TINY, name="own", batch_size=8)


def pipeline(first, last):
    return tf.data.Dataset.from_tensor_slices((IMAGES[first:last], LABELS[first:last]))


def own_data(train=24, classes=CLASSES):
    return from_datasets(pipeline(0, train), pipeline(24, 32), pipeline(32, 40), classes)


def read(split, *arguments, **options):
    return list(split.load(*arguments, **options).as_numpy_iterator())


def test_a_split_gives_the_images_of_its_pipeline_with_their_positions():
    split = own_data().train
    for position, (image, label, example) in enumerate(read(split, None)):
        np.testing.assert_array_equal(image, IMAGES[position])
        assert (label, label.dtype, example) == (LABELS[position], np.int64, position)
    assert split.size == 24


def test_the_order_is_a_function_of_the_seed_and_can_be_divided():
    split = own_data().train
    orders = [[example for *_, example in read(split, seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(24))
    assert [example for *_, example in read(split, 1, first=3, every=2)] == orders[0][3::2]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: IMAGES, "validation: a ndarray is not a tf.data.Dataset"),
        (lambda: pipeline(0, 8).repeat(), "validation: the pipeline never ends"),
        (lambda: pipeline(0, 8).batch(4), "validation: the elements.*unbatched"),
        (lambda: pipeline(0, 8).map(lambda image, label: (tf.cast(image, tf.float32), label)), "uint8"),
        (lambda: pipeline(0, 8).map(lambda image, label: (image, tf.one_hot(label, 2))), "an integer"),
        (lambda: pipeline(0, 8).map(lambda image, label: image), "pairs"),
        (lambda: pipeline(0, 8).map(lambda image, label: (image[..., :1], label)), "height, width, 3"),
        (lambda: pipeline(0, 0), "validation split has no images"),
        (lambda: pipeline(0, 8).map(lambda image, label: (image, label + 1)), "label 2, but there are 2 classes"),
    ],
)
def test_a_wrong_pipeline_is_named(wrong, words):
    with pytest.raises((UserError, DataError), match=words):
        from_datasets(pipeline(0, 24), wrong(), pipeline(32, 40), CLASSES)


def test_the_example_runs():
    example = doctest.DocTestParser().get_doctest(
        from_datasets.__doc__, {**vars(datasets), "np": np, "tf": tf}, "example", None, None
    )
    assert not doctest.DocTestRunner().run(example).failed


def test_image_files_are_decoded():
    files = pipeline(24, 32).map(lambda image, label: (tf.io.encode_png(image), label))
    batches = [
        next(iter(evaluation_batches(from_datasets(pipeline(0, 24), images, images, CLASSES).test, RECIPE)))[0]
        for images in (files, pipeline(24, 32))
    ]
    np.testing.assert_array_equal(*batches)


def test_the_documented_pipeline_trains_resumes_and_is_evaluated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parent.parent / "docs" / "training.md").read_text()
    [program] = [code for code in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S) if "from_datasets" in code]
    names = {}
    exec(program, names)
    run, recipe, data, documented = (names[name] for name in ("run", "recipe", "data", "pipeline"))
    accuracy = run.results()["test"]["accuracy"]
    assert capsys.readouterr().out.splitlines()[-1] == str(accuracy)
    run.metrics.unlink()
    parts = [documented(count, seed) for seed, count in enumerate((64, 16, 16))]
    for other, words in (
        (from_datasets(documented(48, 0), *parts[1:], run.class_names), "train images: 64 there, 48 now.*--force"),
        (from_datasets(*parts, ["dark", "light"]), "classes: dark, bright there, dark, light now"),
    ):
        with pytest.raises(UserError, match=words):
            fit(recipe, run.folder, data=other)
    resumed = fit(recipe, run.folder, data=data, options=FitOptions(picture_epochs=0, export=False))
    assert resumed.results()["test"]["images"] == 16
    assert main(["evaluate", str(run.folder)]) == 2
    assert "data='custom': these images were passed to fit() in Python" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda folder: fit(RECIPE, folder, dowload=True), TypeError, "dowload"),
        (lambda folder: fit(RECIPE, folder, options=FitOptions(overwite=True)), TypeError, "overwite"),
        (lambda folder: fit(RECIPE, folder, options=FitOptions(save_steps=0)), UserError, "save_steps=0"),
        (lambda folder: fit(RECIPE, folder, data=pipeline(0, 40)), UserError, "from_datasets returns"),
        (
            lambda folder: fit(dataclasses.replace(RECIPE, batch_size=32), folder, data=own_data()),
            UserError,
            "batch_size=32, but there are only 24",
        ),
    ],
)
def test_a_wrong_argument_of_fit_is_refused_before_anything_is_written(tmp_path, wrong, error, words):
    with pytest.raises(error, match=words):
        wrong(tmp_path / "run")
    assert not list(tmp_path.iterdir())
