"""The contract of the networks on any backend of Keras, in a process of its own.

    KERAS_BACKEND=torch python -m tests.backends FOLDER [golden file ...]

Networks are compared with golden files; a training step in float64 with torch's own, value by value; every small
network is trained, saved and read; and the files that other backends left in FOLDER are read, and give their outputs.
Prints a line for each check, and ends with an error at the first that fails.
"""

import functools
import os
import pathlib
import sys
from unittest import mock

os.environ.setdefault("JAX_ENABLE_X64", "1")  # otherwise JAX makes float32 of float64

import keras
import numpy as np

import keras_cnns
from docs.networks_table import PROOFS
from keras_cnns import densenet, resnet
from tests.formula import TRAINING_SHAPE, draw, image, output_direction, set_formula_weights, summary
from tests.small_networks import DISTINCT, build, shaken

GOLDEN = pathlib.Path(__file__).parent / "golden"
NETWORKS = {file: network for file, (network, _) in PROOFS.items()}
TRAINED = {
    "resnet_training": functools.partial(
        resnet.resnet, [resnet.Stage(f, 1) for f in (64, 128, 256, 512)], block=resnet.basic_block
    ),
    "inceptionv1_training": NETWORKS["inceptionv1"],
    "densenet_training": functools.partial(densenet.densenet, densenet.Column((2, 2), growth_rate=8)),
}


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key] for key in file.files if key != "versions"}


def arrays(outputs):
    """Return the outputs of a network as {head: array}."""
    outputs = outputs if isinstance(outputs, dict) else {"main": outputs}
    return {head: np.asarray(keras.ops.convert_to_numpy(value)) for head, value in outputs.items()}


def check(what, found, expected, tolerance):
    """Raise an AssertionError unless arrays are equal to a fraction of the largest value."""
    largest = np.abs(expected).max()
    error = np.abs(found - expected).max() / largest
    assert found.shape == expected.shape and error <= tolerance, f"{what}: {error:.2e} of the largest"
    return error


def inference(name):
    """A network with the weights of the formula has the outputs of its peer."""
    theirs, worst = golden(name), 0.0
    for size in {key.partition("_")[2] for key in theirs}:
        images = image("image", (*map(int, size.split("x")), 3))
        model = NETWORKS[name](input_shape=images.shape[1:], classifier_activation=None)
        set_formula_weights(model)
        for head, logits in arrays(model(images, training=False)).items():
            worst = max(worst, check(f"{name} {size}", logits, theirs[f"{head}_{size}"], 1e-4))
        keras.backend.clear_session()
    print(f"{name}: outputs to {worst:.1e}", flush=True)


def without_dropout(model):
    """Return a model whose steps have no random part."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return model


def gradients_torch(model, images, loss):
    outputs = model(images, training=True)
    loss(outputs).backward()
    return outputs, [variable.value.grad for variable in model.trainable_variables]


def gradients_jax(model, images, loss):
    import jax

    def function(trainable, rest):
        outputs, rest = model.stateless_call(trainable, rest, images, training=True)
        return loss(outputs), (outputs, rest)

    values = [[v.value for v in group] for group in (model.trainable_variables, model.non_trainable_variables)]
    (_, (outputs, rest)), found = jax.value_and_grad(function, has_aux=True)(*values)
    for variable, value in zip(model.non_trainable_variables, rest, strict=True):
        variable.assign(value)
    return outputs, found


def gradients_tensorflow(model, images, loss):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        outputs = model(images, training=True)
        value = loss(outputs)
    return outputs, tape.gradient(value, [variable.value for variable in model.trainable_variables])


GRADIENTS = {"torch": gradients_torch, "jax": gradients_jax, "tensorflow": gradients_tensorflow}


def training(name):
    """Outputs with the statistics of the batch, every gradient and the updated statistics, in float64."""
    theirs = golden(name)
    model = TRAINED[name](input_shape=TRAINING_SHAPE[1:], classes=10, classifier_activation=None)
    set_formula_weights(model)
    without_dropout(model)

    def loss(outputs):
        outputs = outputs if isinstance(outputs, dict) else {"main": outputs}
        directions = {key: output_direction(key, tuple(value.shape)) for key, value in outputs.items()}
        return sum(keras.ops.sum(keras.ops.multiply(outputs[key], directions[key])) for key in outputs)

    images = keras.ops.convert_to_tensor(image("image", TRAINING_SHAPE), "float64")
    # Keras normalizes batches in float32 under a policy of float64 too; a value near zero that then falls on the other
    # side of a ReLU changes a gradient by a hundredth.
    keras_backend = sys.modules[keras.layers.BatchNormalization.__module__].backend
    with mock.patch.object(keras_backend, "result_type", lambda *types: "float64"):
        outputs, found = GRADIENTS[keras.backend.backend()](model, images, loss)
    values = {v.path: keras.ops.convert_to_numpy(g) for v, g in zip(model.trainable_variables, found, strict=True)}
    values |= {v.path: keras.ops.convert_to_numpy(v) for v in model.weights if not v.trainable}
    outputs = outputs if isinstance(outputs, dict) else {"main": outputs}
    for head, value in outputs.items():
        value = value.detach() if hasattr(value, "detach") else value
        check(f"{name} {head}", keras.ops.convert_to_numpy(value), theirs[head], 1e-5)
    expected = dict(zip((path.decode() for path in theirs["variables"]), theirs["summaries"], strict=True))
    assert values.keys() == expected.keys()
    worst = 0.0
    for path, value in values.items():
        error = np.abs(summary(path, value) - expected[path]).max() / expected[path][0]
        assert error <= 1e-6, f"{name} {path}: {error:.1e} of the norm"
        worst = max(worst, error)
    print(f"{name}: a step, {len(values)} gradients and statistics to {worst:.1e}", flush=True)


def learning(name):
    """A small network takes steps of gradient descent, on which its loss falls."""
    keras.utils.set_random_seed(0)
    model = without_dropout(keras_cnns.main_output(build(name, classifier_activation=None)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    model.optimizer.learning_rate = 1e-3
    images, labels = image("image", (4, 64, 64, 3)), np.arange(4)
    before = model.test_on_batch(images, labels)
    losses = [float(model.train_on_batch(images, labels)) for _ in range(4)]
    assert np.isfinite([before, *losses]).all() and losses[-1] < losses[0], f"{name}: losses {losses}"


def write(name, folder):
    """Save a small network in both formats, with what it answers."""
    model = shaken(build(name, classifier_activation=None))
    for variable in model.weights:
        if variable.path.endswith("kernel"):
            variable.assign(draw(variable.path, tuple(variable.shape)))
    stem = folder / f"{name}-{keras.backend.backend()}"
    keras_cnns.save_weights(model, f"{stem}.safetensors")
    model.save(f"{stem}.keras")
    outputs = arrays(model(image("image", (2, 64, 64, 3)), training=False))
    np.savez(f"{stem}.npz", **outputs)


def read(name, folder):
    """Read what every backend wrote of a network, and repeat its answers."""
    backends = [file.stem.removeprefix(f"{name}-") for file in sorted(folder.glob(f"{name}-*.npz"))]
    for backend in backends:
        stem = folder / f"{name}-{backend}"
        with np.load(f"{stem}.npz") as file:
            expected = dict(file)
        fresh = build(name, classifier_activation=None, weights=f"{stem}.safetensors")
        for model in (fresh, keras.saving.load_model(f"{stem}.keras")):
            for head, value in arrays(model(image("image", (2, 64, 64, 3)), training=False)).items():
                check(f"{name} of {backend}", value, expected[head], 1e-4)
    return backends


def main(folder, *names):
    folder = pathlib.Path(folder)
    for name in names or NETWORKS:
        inference(name)
    for name in DISTINCT:
        write(name, folder)
        learning(name)
        backends = read(name, folder)
        keras.backend.clear_session()
        print(f"{name}: learns; files of {', '.join(backends)} give their outputs", flush=True)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    for name in TRAINED:
        training(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
