"""Fine-tuning: what is loaded, what stays frozen, and that it helps."""

import dataclasses
import hashlib
import json
import shutil

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from sklearn.datasets import load_digits

import keras_cnns
from tests.structure import structure
from training import inference
from training.batches import training_batches
from training.data import Data, Split
from training.errors import StateError, UserError
from training.finetuning import freeze, initialize, levels_of
from training.loop import train
from training.machine import prepare, resolve
from training.recipe import Recipe
from training.run import FitOptions, fit
from training.run_folder import Run
from training.step import make_train_step

CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red
RECIPE = resolve(
    Recipe(
        model="ResNetCIFAR",
        model_args={"depth": 8},
        image_size=12,
        batch_size=32,
        epochs=14,
        crop="pad",
        optimizer="adam",
        learning_rate=0.01,
        preprocessing="caffe",
        precision="float32",
    )
)
# Ten steps of plain SGD, from scratch and of the head alone, each with the best learning rate of those in the docs.
SCRATCH = dataclasses.replace(RECIPE, epochs=1, crop="center", optimizer="sgd", momentum=0.0, learning_rate=2.0)
TUNE = dataclasses.replace(SCRATCH, preprocessing="auto", learning_rate=1.0)


def digits(classes, images_to_train=None):
    """Return data of some digits as images (12, 12, 3), a fifth each for validation and test.

    The position of the digit is random, so that a network must learn its shape, and images are tinted, so that the
    order of the channels matters.
    """
    source = load_digits()
    chosen = np.isin(source.target, classes)
    places = np.random.RandomState(0).randint(5, size=(chosen.sum(), 2))
    gray = np.zeros((chosen.sum(), 12, 12))
    for image, digit, (row, column) in zip(gray, source.images[chosen], places, strict=True):
        image[row : row + 8, column : column + 8] = digit
    images = np.round(gray[..., None] * np.array([1.0, 0.7, 0.4]) * 255 / 16).astype(np.uint8)
    labels = source.target[chosen].astype(np.int64) - classes[0]
    fifth = np.arange(len(labels)) % 5

    def split(numbers):
        def load(order, first=0, every=1):
            taken = numbers if order is None else np.random.RandomState(order).permutation(numbers)
            taken = taken[first::every]
            return tf.data.Dataset.from_tensor_slices((images[taken], labels[taken], taken))

        return Split(len(numbers), load, lambda: labels[numbers])

    train, validation, test = (np.flatnonzero(part) for part in (fifth > 1, fifth == 1, fifth == 0))
    return Data(tuple(map(str, classes)), split(train[:images_to_train]), split(validation), split(test))


LOW, HIGH = digits(range(5)), digits(range(5, 10), 320)


def batch(split, count):
    """Return images (count, 12, 12, 3) as in evaluation, normalized by hand as in Caffe, and their labels."""
    images, labels, _ = next(iter(split.load(None).batch(count)))
    pixels = tf.image.resize(images, (12, 12), antialias=True).numpy()
    return pixels, (pixels[..., ::-1] - np.float32(CAFFE_MEAN)).astype("float32"), labels.numpy()


def softmax(logits):
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def loss_and_accuracy(logits, labels):
    chosen = softmax(logits)[np.arange(len(labels)), labels]
    return -np.log(chosen).mean(), (logits.argmax(-1) == labels).mean()


def trained(folder, data, recipe, start=lambda model: None):
    """Train a network that `start` has prepared and return it and its run."""
    recipe = resolve(recipe)
    prepare(recipe)
    model = recipe.build(len(data.class_names))
    start(model)
    folder.mkdir()
    run = Run(folder, recipe)
    run.write("classes.json", json.dumps(data.class_names))
    run.write("environment.json", "{}")
    train(model, data, recipe, run)
    return model, run


def values(model):
    return {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.weights}


def saved(run):
    return safetensors.numpy.load_file(run.best)


def small(classes=3):
    return keras_cnns.ResNetCIFAR(depth=8, input_shape=(8, 8, 3), classes=classes)


def two_layers(classes, aux=False):
    """Build a minimal network: a convolution, a head and optionally an auxiliary head."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, use_bias=False, name="stem_conv")(image)
    main = keras.layers.Dense(classes, name="head_dense")(keras.layers.GlobalAveragePooling2D(name="head_pool")(x))
    if not aux:
        return keras.Model(image, main)
    x = keras.layers.Dense(5, name="aux1_fc")(keras.layers.Flatten(name="aux1_flatten")(x))
    return keras.Model(image, {"main": main, "aux1": keras.layers.Dense(classes, name="aux1_dense")(x)})


@pytest.fixture(scope="module")
def low_run(tmp_path_factory):
    """Return the run of a network trained on the digits 0 to 4."""
    return trained(tmp_path_factory.mktemp("low") / "run", LOW, RECIPE)[1]


class StopInStep(keras.callbacks.Callback):
    """Interrupt training in a step, as a kill would, and keep the loss of the first step."""

    def __init__(self, step):
        super().__init__()
        self.step, self.first = step, None

    def on_train_batch_end(self, batch, logs=None):
        self.first = logs["loss"] if self.first is None else self.first
        if batch + 1 == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def high_run(low_run, tmp_path_factory):
    """Return a run of `fit` on the digits 5 to 9, initialized from `low_run` with a frozen backbone.

    It was interrupted, and the file that it was initialized from had changed when it was resumed.
    """
    folder = tmp_path_factory.mktemp("high")
    source = folder / "source.safetensors"
    shutil.copy(low_run.best, source)
    recipe = dataclasses.replace(TUNE, init=str(source), freeze="backbone")
    stop = StopInStep(3)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, folder / "run", data=HIGH, callbacks=[stop], options=FitOptions(save_steps=2))
    keras_cnns.save_weights(small(), source)
    run = fit(recipe, folder / "run", data=HIGH, callbacks=[StopInStep(None)])
    return run, stop.first


def test_a_frozen_backbone_beats_training_from_scratch(low_run, high_run, tmp_path):
    tuned = json.loads(high_run[0].metrics.read_text())["test"]["accuracy"]
    _, scratch = trained(tmp_path / "scratch", HIGH, SCRATCH)
    accuracy = inference.evaluate(scratch, data=HIGH).accuracy
    print(f"fine-tuned {tuned:.2%}, from scratch {accuracy:.2%}")
    assert tuned > accuracy + 0.05


def test_frozen_weights_keep_their_bits_through_fit(low_run, high_run):
    before, after = saved(low_run), saved(high_run[0])
    changed = {name for name in after if not np.array_equal(before[name], after[name])}
    assert changed == {"head_dense/kernel", "head_dense/bias"}


def test_the_run_records_its_initial_weights_and_keeps_to_them(low_run, high_run):
    record = json.loads((high_run[0].folder / "init.json").read_text())
    assert record["file"] == high_run[0].recipe.init
    assert record["sha256"] == hashlib.sha256(low_run.best.read_bytes()).hexdigest()
    assert record["done"].endswith(
        "except for these; head_dense starts at random: its classes were 0, 1, 2, 3, 4 and now are 5, 6, 7, 8, 9"
    )


def test_the_preprocessing_mode_of_the_file_is_used_everywhere(low_run, high_run, tmp_path):
    run, first_loss = high_run
    assert run.recipe.preprocessing == "caffe"
    # Training: the frozen backbone and the initial head give the loss of the first step.
    prepare(run.recipe)
    network = run.recipe.build(5)
    keras_cnns.load_weights(network, low_run.best, keep=("head_dense/",))
    order = next(iter(training_batches(HIGH, run.recipe, 0)))[2].numpy()
    everything = list(HIGH.train.load(None).as_numpy_iterator())
    by_number = {number: (image, label) for image, label, number in everything}
    images = np.stack([by_number[number][0] for number in order])
    labels = np.array([by_number[number][1] for number in order])
    pixels = tf.image.resize(images, (12, 12), antialias=True).numpy()
    x = (pixels[..., ::-1] - np.float32(CAFFE_MEAN)).astype("float32")
    assert first_loss == pytest.approx(loss_and_accuracy(network(x, training=False).numpy(), labels)[0], rel=1e-4)
    # Everything else, with the final weights.
    keras_cnns.load_weights(network, run.best)
    pixels, x, labels = batch(HIGH.test, HIGH.test.size)
    logits = network(x, training=False).numpy()
    loss, accuracy = loss_and_accuracy(logits, labels)
    evaluation = inference.evaluate(run, data=HIGH)
    assert (evaluation.loss, evaluation.accuracy) == (pytest.approx(loss, rel=1e-4), pytest.approx(accuracy))
    file = tmp_path / "digit.png"
    image = next(iter(HIGH.test.load(None)))[0]
    tf.io.write_file(str(file), tf.io.encode_png(image))
    expected = softmax(logits / run.temperature)
    [found] = inference.predict(run, [file])
    np.testing.assert_allclose([dict(found)[name] for name in HIGH.class_names], expected[0], atol=1e-5)
    served = tf.saved_model.load(str(run.export)).signatures
    np.testing.assert_allclose(
        served["serving_default"](images=tf.constant(pixels[:8]))["probabilities"], expected[:8], atol=1e-5
    )
    encoded = tf.constant([file.read_bytes()])
    np.testing.assert_allclose(served["serve_bytes"](images=encoded)["probabilities"], expected[:1], atol=1e-5)


def test_gradual_unfreezing_is_a_second_run_initialized_from_the_first(high_run, tmp_path):
    first = high_run[0]
    recipe = dataclasses.replace(
        TUNE,
        init=str(first.folder),
        freeze="stem..stage2",
        backbone_rate=0.1,
        optimizer="adam",
        learning_rate=0.01,
        epochs=4,  # after one the accuracies are so close that the last bits of the weights decide
    )
    second = fit(recipe, tmp_path / "second", data=HIGH, options=FitOptions(export=False))
    before, after = saved(first), saved(second)
    same = {name for name in after if np.array_equal(before[name], after[name])}
    assert same == {name for name in after if name.startswith(("stem_", "stage1_", "stage2_"))}
    accuracy = [json.loads(run.metrics.read_text())["test"]["accuracy"] for run in (first, second)]
    print(f"first run {accuracy[0]:.2%}, second run {accuracy[1]:.2%}")
    assert accuracy[1] > accuracy[0]


def test_a_frozen_range_keeps_its_bits_and_the_rest_changes(tmp_path):
    """With weight decay, momentum and the moving average of the weights."""
    recipe = dataclasses.replace(RECIPE, ema=0.5, weight_decay=0.1, decay_norms=True, epochs=1, batch_size=128)
    starts = []

    def start(model):
        freeze(model, "stage1..stage2")
        starts.append(values(model))

    model, run = trained(tmp_path / "run", LOW, recipe, start)
    for after in (values(model), saved(run)):
        same = {name for name in after if np.array_equal(starts[0][name], after[name])}
        assert same == {name for name in after if name.startswith(("stage1_", "stage2_"))}


def test_frozen_batch_normalizations_use_their_moving_statistics():
    """Of both kinds: the fused one and the recomputed one."""
    for efficient in (False, True):
        model = keras_cnns.DenseNetCIFAR(depth=10, memory_efficient=efficient, input_shape=(8, 8, 3), classes=3)
        freeze(model, "backbone")
        images = np.random.RandomState(0).normal(size=(4, 8, 8, 3))
        before = values(model)
        np.testing.assert_array_equal(model(images, training=True), model(images, training=False))
        for name, value in values(model).items():
            np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ("stage9", "no level 'stage9'. The levels of .* are stem, stage1, stage2, stage3, head; backbone means all"),
        ("stem..stage9", "no level 'stage9'. The levels"),
        ("", "no level ''"),
        ("stage3..stem", r"stage3 comes after stem. Pass stem\.\.stage3"),
        ("stem..head", "nothing would be left to train"),
    ],
)
def test_levels_that_cannot_be_frozen_are_refused_with_a_list(levels, words):
    model = small()
    with pytest.raises(UserError, match=words):
        freeze(model, levels)
    assert len(model.trainable_variables) > 20


def test_levels_have_the_names_of_each_paper_and_heads_are_last():
    network = structure("InceptionV1", aux_heads=True, input_shape=(32, 32, 3), classes=2)
    levels = levels_of(network)
    assert levels[:2] == ["conv1", "pool1"] and levels[-3:] == ["aux1", "aux2", "head"]
    assert [level for level in levels if level.startswith("inc")] == [
        f"inception{word}" for word in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
    ]
    with pytest.raises(UserError, match="no weights to freeze"):
        freeze(network, "pool1")
    freeze(network, "backbone")
    assert {variable.path.partition("_")[0] for variable in network.trainable_variables} == {"aux1", "aux2", "head"}


def test_only_heads_with_another_number_of_classes_are_replaced_and_reported(tmp_path):
    file = tmp_path / "weights.safetensors"
    source = small(3)
    keras_cnns.save_weights(source, file)
    for classes in (3, 7):
        model = small(classes)
        before = values(model)
        report = initialize(model, file)["done"]
        assert ("head_dense starts at random: it had 3 classes and now has 7" in report) == (classes == 7)
        for name, value in values(model).items():
            replaced = classes == 7 and name.startswith("head_dense/")
            np.testing.assert_array_equal(value, (before if replaced else values(source))[name], err_msg=name)


def test_heads_for_as_many_other_classes_are_replaced_and_reported(tmp_path):
    file, silent = tmp_path / "weights.safetensors", tmp_path / "silent.safetensors"
    source, seven = two_layers(7, aux=True), list("abcdefg")
    keras_cnns.save_weights(source, file, {"classes": json.dumps(seven)})
    keras_cnns.save_weights(source, silent)
    for names, from_file, replaced in (
        (seven, file, False),
        (seven[::-1], file, True),  # the outputs stand for other classes
        (seven[::-1], silent, False),
    ):
        model = two_layers(7, aux=True)
        before = values(model)
        report = initialize(model, from_file, tuple(names))["done"]
        words = "starts at random: its classes were a, b, c, d, e, ... and now are g, f, e, d, c, ..."
        assert all((f"{head}_dense {words}" in report) == replaced for head in ("head", "aux1"))
        for name, value in values(model).items():
            kept = replaced and name.partition("/")[0].endswith("_dense")
            np.testing.assert_array_equal(value, (before if kept else values(source))[name], err_msg=name)


def test_auxiliary_heads_that_are_not_in_the_file_start_at_random(tmp_path):
    plain, full = tmp_path / "plain.safetensors", tmp_path / "full.safetensors"
    keras_cnns.save_weights(two_layers(2), plain)
    keras_cnns.save_weights(two_layers(2, aux=True), full)
    model = two_layers(3, aux=True)
    before = values(model)
    report = initialize(model, plain)["done"]
    assert (
        "aux1 starts at random: it is not in the file" in report and "head_dense starts at random: it had 2" in report
    )
    changed = {name for name, value in values(model).items() if not np.array_equal(value, before[name])}
    assert changed == {"stem_conv/kernel"}
    # A file with heads fits all but their last layers, and a network without them skips them.
    report, source = initialize(model, full)["done"], safetensors.numpy.load_file(full)
    same = {name for name, value in values(model).items() if np.array_equal(value, source[name])}
    assert same >= {"stem_conv/kernel", "aux1_fc/kernel"} and not {"aux1_dense/kernel", "head_dense/kernel"} & same
    assert report.count("had 2 classes and now has 3") == 2
    assert initialize(two_layers(2), full)["done"].endswith("all weights were loaded")


def test_weights_of_another_network_are_refused_and_change_nothing(tmp_path, low_run):
    deeper = keras_cnns.ResNetCIFAR(depth=14, input_shape=(8, 8, 3), classes=3)
    before = values(deeper)
    with pytest.raises(UserError, match=r"variables are missing, e.g. stage1_block2.*--model ResNetCIFAR --model_args"):
        low_run.write("recipe.json", low_run.recipe.to_json())
        initialize(deeper, str(low_run.folder))
    for name, value in values(deeper).items():
        np.testing.assert_array_equal(value, before[name])
    wide = safetensors.numpy.load_file(low_run.best)
    wide["stem_conv/kernel"] = np.zeros((5, 5, 3, 16), "float32")
    safetensors.numpy.save_file(wide, tmp_path / "wide.safetensors", {"preprocessing": "none"})
    with pytest.raises(UserError, match=r"stem_conv/kernel is \(5, 5, 3, 16\) in the file.*or pass other weights"):
        initialize(small(), tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match=r"asks for the preprocessing mode 'none'.*Pass --preprocessing"):
        resolve(Recipe(init=str(tmp_path / "wide.safetensors")))
    with pytest.raises(UserError, match=r"there is no .*best.safetensors. Pass a folder of a run"):
        initialize(small(), tmp_path)
    low_run.write("recipe.json", "[]")
    with pytest.raises(StateError, match=r"recipe.json is damaged"):
        initialize(deeper, str(low_run.folder))
    low_run.write("recipe.json", low_run.recipe.to_json())
    (tmp_path / "torch.pth").write_bytes(b"PK" * 50)
    with pytest.raises(UserError, match=r"not a whole safetensors file.*python -m training convert"):
        initialize(small(), tmp_path / "torch.pth")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_backbone_takes_its_fraction_of_the_step(optimizer):
    images = tf.random.stateless_uniform((4, 8, 8, 3), (0, 0), 0, 255)
    targets = tf.one_hot([0, 1, 2, 0], 3)
    start, ends = None, []
    for rate in (1.0, 0.125):
        recipe = dataclasses.replace(RECIPE, optimizer=optimizer, backbone_rate=rate, jit=False)
        model = two_layers(3, aux=True)
        start = start or values(model)
        for variable in model.weights:
            variable.assign(start[variable.path])
        model.compile(optimizer=keras.optimizers.get({"class_name": optimizer, "config": {"learning_rate": 0.01}}))
        make_train_step(model, recipe)(images, targets)
        ends.append({variable.path: variable.numpy() for variable in model.trainable_variables})
    for name, full in ends[0].items():
        moved = 0.125 if name == "stem_conv/kernel" else 1.0
        assert np.abs(full - start[name]).max() > 0
        np.testing.assert_allclose(
            ends[1][name], start[name] + moved * (full - start[name]), rtol=1e-6, atol=1e-7, err_msg=name
        )
