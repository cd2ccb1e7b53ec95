"""What is measured of this project, and of Keras: functions that return a step for `training.benchmarks.frame`.

TensorFlow is imported in the process of a variant only, after its environment has been set.
"""

import dataclasses
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from training.command_line import import_tensorflow
from training.measure import alone
from training.onednn import choose
from training.runtimes import FLOAT32

ROOT = Path(__file__).parents[2]


def prepared(recipe):
    """Return a resolved recipe, its data, its compiled network and its training step."""
    from training.data import load_data
    from training.machine import prepare, resolve
    from training.optimization import make_optimizer
    from training.step import make_train_step

    recipe = resolve(recipe)
    prepare(recipe)
    data = load_data(recipe)
    model = recipe.build(len(data.class_names))
    model.compile(optimizer=make_optimizer(recipe, data.train.size // recipe.batch_size, model.trainable_variables))
    model.optimizer.build(model.trainable_variables)
    return recipe, data, model, make_train_step(model, recipe)


def training_steps(recipe, steps=1):
    """Return a step of so many training steps of a recipe, with a batch that is in memory."""
    from training.batches import training_batches

    recipe, data, _, train_step = prepared(recipe)
    images, targets, _ = next(iter(training_batches(data, recipe, 0)))

    def step():
        for _ in range(steps):
            train_step(images, targets)

    return step


def keras_training_step(model, image_size, batch_size):
    """Return a training step of a network of keras.applications, as `compile` and `train_on_batch` do it."""
    import keras

    network = getattr(keras.applications, model)(weights=None, input_shape=(image_size, image_size, 3), classes=10)
    network.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss="categorical_crossentropy", metrics=["accuracy"])
    images = keras.ops.convert_to_tensor(random_images(batch_size, image_size))
    targets = keras.ops.one_hot(np.arange(batch_size) % 10, 10)
    return lambda: network.train_on_batch(images, targets)


def random_images(batch_size, image_size):
    """Return images (batch_size, image_size, image_size, 3), float32, RGB 0..255."""
    return np.random.RandomState(0).uniform(0, 255, (batch_size, image_size, image_size, 3)).astype(np.float32)


def whole_run(recipe, folder, steps, validate):
    """Return a step that is an epoch of `fit`: training, TensorBoard, saving, and validation.

    The run is in a thread, which waits at the beginning of each epoch.

    Args:
        recipe: The recipe.
        folder: The run folder.
        steps: The number of training steps in an epoch, which is checked.
        validate: Whether all images of the validation split are evaluated, instead of one batch.
    """
    import keras

    from training.data import Split, load_data
    from training.run import FitOptions, fit

    data = load_data(recipe)
    if data.train.size // recipe.batch_size != steps:
        raise ValueError(f"steps={steps}, but an epoch has {data.train.size // recipe.batch_size}.")
    if not validate:
        whole = data.validation
        few = Split(
            recipe.batch_size,
            lambda *order, **places: whole.load(*order, **places).take(recipe.batch_size),
            lambda: whole.labels()[: recipe.batch_size],
        )
        data = dataclasses.replace(data, validation=few)
    turns, ends = queue.Queue(), queue.Queue()

    class Turns(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            ends.put(None)
            turns.get()

    def run():
        try:
            fit(recipe, folder, data=data, callbacks=(Turns(),), options=FitOptions(picture_epochs=0))
        except BaseException as error:
            ends.put(error)

    def step():
        turns.put(None)
        wait()

    def wait():
        error = ends.get()
        if error:
            raise error

    threading.Thread(target=run, daemon=True).start()
    wait()
    return step


def deformable(size, channels, batch_size, backward):
    """Return a modulated deformable 3x3 convolution whose offsets are about a pixel.

    Args:
        size: Height and width of the map in pixels.
        channels: Channels of the map, and filters.
        batch_size: Number of maps.
        backward: Whether the gradients of the map and of all variables are computed too.
    """
    import tensorflow as tf

    import keras_cnns

    random = np.random.RandomState(0)
    maps = tf.Variable(random.normal(size=(batch_size, size, size, channels)).astype(np.float32))
    layer = keras_cnns.layers.DeformableConv2D(channels, 3, padding="same", modulated=True)
    layer.build(maps.shape)
    layer.offset_kernel.assign(random.normal(0, (9 * channels) ** -0.5, layer.offset_kernel.shape))

    @tf.function
    def step():
        if not backward:
            return layer(maps)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(maps))
        return tape.gradient(total, [maps, *layer.trainable_variables])

    return step


def photographs(folder, count=64, height=300, width=400):
    """Write JPEGs of smooth noise with grain, with as many bytes as photographs of this size; return their paths."""
    random = np.random.RandomState(0)
    files = []
    for number in range(count):
        coarse = Image.fromarray(random.randint(0, 256, (height // 8, width // 8, 3), np.uint8))
        pixels = coarse.resize((width, height), Image.Resampling.BICUBIC) + random.normal(0, 12, (height, width, 3))
        files.append(f"{folder}/{number}.jpg")
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(files[-1], quality=90)
    return files


def input_batches(recipe, files, batches):
    """Return a step of so many training batches of a large data set that repeats some image files."""
    import tensorflow as tf

    from training.batches import training_batches
    from training.data import Data, Split

    numbers = np.arange(100_000)
    read = tf.constant(files)
    split = Split.from_arrays(numbers, numbers % 10, lambda number: tf.io.read_file(read[number % len(files)]))
    data = Data(tuple("0123456789"), split, split, split)
    return lambda: seconds_of_batches(training_batches(data, recipe, epoch=0), batches)


def seconds_of_batches(loader, batches, filling=4):
    """Return the seconds of so many batches, after some that do not count: until all threads and processes are busy.

    The iterator is a new one, since one that has waited has worked ahead.
    """
    iterator = iter(loader)
    for _ in range(filling):
        next(iterator)
    started = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    return time.perf_counter() - started


def inference(model, batch_size):
    """Return a forward pass of a network of this project at 224 pixels."""
    import tensorflow as tf

    import keras_cnns

    images, network = tf.constant(random_images(batch_size, 224)), keras_cnns.builder(model)(weights=None)
    forward = tf.function(lambda images: network(images, training=False))
    return lambda: forward(images)


def exported(model, batch_size, name, quantize=None, options=None):
    """Return a forward pass at 224 pixels of a network of this project, exported and loaded by the export's runtime;
    it normalizes the pixels.

    Args:
        model: Name of the network.
        batch_size: Number of images.
        name: What to write, see `training.formats.export`.
        quantize: As there.
        options: Further arguments of the network's builder.
    """
    from training import formats

    images = random_images(batch_size, 224)
    with tempfile.TemporaryDirectory() as folder:
        alone(write_export, model, f"{folder}/{name}", quantize, options or {})
        export = formats.Export(f"{folder}/{name}")
    return lambda: export(images)


def write_export(model, path, quantize, options):
    """Write what `exported` loads, in a process of its own: converters need more memory than runtimes."""
    import keras_cnns
    from training import formats

    network = keras_cnns.builder(model)(weights=None, **options)
    # Or the probabilities, which are compared, would be 0 and 1 up to rounding errors.
    kernel = network.get_layer("head_dense").kernel
    kernel.assign(1e-3 * kernel)
    formats.export(network, path, quantize=quantize, representative=random_images(8, 224))


def keras_exported(model, batch_size, kind):
    """Return a forward pass at 224 pixels of a network of keras.applications, exported by Keras and loaded by a
    runtime.

    Args:
        model: Name of the network.
        batch_size: Number of images.
        kind: "savedmodel", "onnx" or "openvino".
    """
    images = random_images(batch_size, 224)
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/model.onnx"
        alone(write_keras_export, model, folder if kind == "savedmodel" else file)
        if kind == "savedmodel":
            import tensorflow as tf

            loaded = tf.saved_model.load(folder)
            return lambda: loaded.serve(images).numpy()
        if kind == "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
            inputs = {session.get_inputs()[0].name: images}
            return lambda: session.run(None, inputs)
        import openvino

        compiled = openvino.compile_model(openvino.convert_model(file), "CPU", FLOAT32)
    return lambda: compiled(images)


def write_keras_export(model, path):
    """Write what `keras_exported` loads: a SavedModel, or an ONNX file if the path ends so."""
    import keras

    network = getattr(keras.applications, model)(weights=None)
    if not path.endswith(".onnx"):
        network.export(path, verbose=False)
        return
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization):  # Keras would make its tensors inputs of the file
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
    network(random_images(1, 224))  # or Keras would refuse to export it
    network.export(path, format="onnx", verbose=False)


def keras_inference(model, batch_size):
    """Return a forward pass of a network of keras.applications at 224 pixels."""
    import keras
    import tensorflow as tf

    network = getattr(keras.applications, model)(weights=None)
    images = tf.constant(random_images(batch_size, 224))
    forward = tf.function(lambda images: network(images, training=False))
    return lambda: forward(images)


def building(model):
    """Return a step that builds a network of this project."""
    import keras_cnns

    return keras_cnns.builder(model)


def keras_building(model, he_normal=False):
    """Return a step that builds a network of keras.applications, on request with he_normal for Keras's default
    glorot_uniform."""
    import keras

    def step():
        with keras.utils.custom_object_scope({"glorot_uniform": keras.initializers.HeNormal} if he_normal else {}):
            getattr(keras.applications, model)(weights=None)

    return step


def python(words, code=0):
    """Return a step that runs Python with a command line, and checks its exit code."""

    def step():
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
        if done.returncode != code:
            raise RuntimeError(f"python {' '.join(words)} ended with {done.returncode}: {done.stderr[-1000:]}")

    return step


def fit_to_step_0(recipe):
    """Do what `fit` does until its first step begins, and end the process."""
    choose(recipe)
    import_tensorflow(())
    import keras

    from training.run import fit

    class Leave(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            folder.cleanup()
            os._exit(0)

    folder = tempfile.TemporaryDirectory()
    fit(recipe, f"{folder.name}/run", callbacks=(Leave(),))


def measure_dashboards(recipe, steps, pairs):
    """Measure steps with and without the dashboards, and the end of an epoch with pictures.

    Returns:
        A list of (seconds per step without, seconds per step with); the mean seconds per step spent in the callbacks;
        {dashboard: seconds} at the end of the second epoch, after everything is compiled; the steps per epoch.
    """
    import_tensorflow(())
    import keras

    from training import dashboards
    from training.batches import training_batches

    recipe, data, model, step = prepared(recipe)
    with tempfile.TemporaryDirectory() as folder:
        boards = dashboards.of_run(dashboards.Log(folder), recipe, data, {}, picture_epochs=1)
        listed = {
            watched: keras.callbacks.CallbackList(boards if watched else (), model=model, steps=steps)
            for watched in (True, False)
        }

        inside = []

        def seconds(watched):
            callbacks, batches = listed[watched], iter(training_batches(data, recipe, 0).repeat())
            next(batches)  # fills the buffers
            callbacks.on_epoch_begin(1)  # not 0: before the first epoch the probes run, which is measured below
            started = time.perf_counter()
            for number in range(steps):
                images, targets, _ = next(batches)
                begun = time.perf_counter()
                callbacks.on_train_batch_begin(number)
                stepped = time.perf_counter()
                values = step(images, targets)
                model.gradient_norm = values["gradient_norm"]
                ended = time.perf_counter()
                callbacks.on_train_batch_end(number, values)
                if watched:
                    inside.append(stepped - begun + time.perf_counter() - ended)
            return (time.perf_counter() - started) / steps

        listed[True].on_train_begin()
        seconds(True), seconds(False)
        inside.clear()
        # The order within a pair alternates.
        timed = [{watched: seconds(watched) for watched in (pair % 2 == 0, pair % 2 == 1)} for pair in range(pairs)]
        logs = dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), 0.0)
        ends = {}
        for epoch in (0, 1):
            for board in boards:
                started = time.perf_counter()
                board.on_epoch_end(epoch, logs)
                ends[type(board).__name__] = time.perf_counter() - started
    pairs = [(pair[False], pair[True]) for pair in timed]
    return pairs, statistics.mean(inside), ends, data.train.size // recipe.batch_size
