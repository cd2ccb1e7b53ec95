"""A run: its folder, and what is done with it from the first step to the exported network."""

import contextlib
import dataclasses
import json
import math
import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

import keras_cnns
from training import checkpoint, dashboards
from training.dashboards.hparams import write_result
from training.data import decode, find_images, first_broken_file, load_data, resize
from training.devices import check_agreement, chief_first, is_chief, make_strategy, prepare_network, total
from training.errors import DataError, ImageError, ResourceError, StateError, UserError, WorkerLostError
from training.evaluation import make_evaluation
from training.export import export
from training.finetuning import freeze, initialize, origin
from training.image_file import FORMATS, SUFFIXES, decode_reason, read_header
from training.loop import train
from training.recipe import Recipe, prepare_machine

# What TensorFlow says in a process when another one is gone.
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)

PREDICTED_AT_ONCE = 32  # images in a batch of predict


@dataclass(frozen=True)
class Run:
    """A run folder.

    recipe.json        the recipe, every "auto" decided
    environment.json   versions and device
    classes.json       the class names, in the order of the outputs
    init.json          of a run with `init`: the file, its SHA-256, and what was taken over from it
    best.safetensors   the weights of the best epoch; keras_cnns.load_weights reads them
    states/            what training goes on from: the last three states
    metrics.json       written at the end: test figures, best epoch, history
    tensorboard/       event files
    export/            the SavedModel
    """

    folder: Path
    recipe: Recipe
    chief: bool = True  # whether this process writes the files; of several machines one does

    best = property(lambda self: self.folder / "best.safetensors")
    checkpoints = property(lambda self: checkpoint.Checkpoints(self.folder / "states"))
    metrics = property(lambda self: self.folder / "metrics.json")
    export = property(lambda self: self.folder / "export")

    @classmethod
    def open(cls, folder):
        """Opens a folder that `fit` made."""
        folder = Path(folder)
        if not (folder / "recipe.json").is_file():
            raise UserError(f"{folder} is no run folder: it has no recipe.json. `python -m training fit` makes one.")
        return cls(folder, Recipe.from_json((folder / "recipe.json").read_text(), folder / "recipe.json"))

    def write(self, name, text):
        """Writes a text file of the run."""
        with checkpoint.atomic(self.folder / name) as temporary:
            temporary.write_text(text)

    @property
    def verbose(self):
        """How Keras's progress bar shows: not at all beside the chief, a line an epoch without a terminal."""
        return 0 if not self.chief else 1 if sys.stdout.isatty() else 2

    @property
    def class_names(self):
        """The class names, in the order of the outputs."""
        return json.loads((self.folder / "classes.json").read_text())

    def network(self):
        """The trained network for use: logits of the main head, weights of the best epoch, images of any size
        that it can take.

        It computes in float32 whatever the run's precision was, so that every machine gives the same answer.
        """
        if not self.best.exists():
            raise StateError(f"{self.folder} has no weights yet. Train it with `python -m training fit`.")
        keras.mixed_precision.set_global_policy("float32")
        network = self.recipe.build(len(self.class_names), for_use=True)
        try:
            keras_cnns.load_weights(network, self.best)
        except ValueError as error:
            raise StateError(f"{error} Start anew with --overwrite.") from error
        return network


def fit(recipe, folder=None, *, download=False, overwrite=False, force=False, save_steps=500, callbacks=(), **shown):
    """Trains a recipe, evaluates its best epoch on the test split and exports it. The same call again goes on.

    Args:
        recipe: What to train.
        folder: The run folder; by default runs/NAME-DIGEST.
        download: Whether TFDS may download.
        overwrite: Whether to start anew where the folder already has a run.
        force: Whether to go on although versions or devices are others than before.
        save_steps: Steps between two states; more often by the clock, and always at the end of an epoch.
        callbacks: Further Keras callbacks.
        shown: How much TensorBoard shows: `picture_epochs`, `profile_steps` and `row` of
            training.dashboards.of_run.

    Returns:
        The run.

    Raises:
        TrainingError: One of its kinds, see training.errors.
    """
    if save_steps < 1:
        raise UserError(f"save_steps={save_steps}: it must be at least 1 step.")
    recipe = (recipe if overwrite else as_begun(recipe, folder)).resolved()
    strategy = make_strategy(recipe.distribution)
    run = Run(Path(folder or f"runs/{recipe.run_name}"), recipe, is_chief(strategy))
    replicas = strategy.num_replicas_in_sync
    if recipe.batch_size % replicas:
        raise UserError(
            f"batch_size={recipe.batch_size} cannot be divided among {replicas} devices. Pass a multiple of {replicas}."
        )
    if replicas > 1 and recipe.jit:
        raise UserError("jit=True: XLA does not compile a step on several devices. Pass --jit false.")
    try:
        with chief_first(strategy):
            if overwrite and run.chief:
                start_anew(run.folder)
            if (run.folder / "recipe.json").exists():
                check_same_recipe(run)
                if run.metrics.exists():
                    return run
                check_same_environment(run, force)
            prepare_machine(recipe)
            data = load_data(recipe, download=download)
        if data.conversions and run.chief:
            print(data.conversions)
        state = [file.name for file in run.checkpoints.files()[:1]]
        check_agreement(strategy, f"{state} {data.train.size} {data.class_names}", f"run folder {run.folder} or data")
        with strategy.scope():
            model = recipe.build(len(data.class_names))  # before the folder is made: a wrong size leaves nothing
        with checkpoint.locked(run.folder) if run.chief else contextlib.nullcontext():
            fit_in(run, model, data, strategy, save_steps, callbacks, shown)
            total(strategy, 0)  # nobody leaves before the chief is done
    except LOST as error:
        if strategy.cluster_resolver is None:
            raise
        if run.metrics.exists():
            return run  # another process left first, when all was done
        raise WorkerLostError(
            "Another process of this run is gone, and none can go on without it. Start all of them again: they go on "
            "from the last saved state."
        ) from error
    return run


def as_begun(recipe, folder):
    """The recipe with the preprocessing of the run that it began in a folder: the weights in `init` may be others now,
    or gone."""
    if recipe.init and recipe.preprocessing == "auto" and folder and (Path(folder) / "recipe.json").exists():
        begun = Run.open(folder).recipe
        if begun.init == recipe.init:
            return dataclasses.replace(recipe, preprocessing=begun.preprocessing)
    return recipe


def start_from(model, run, class_names):
    """Gives a network its initial weights, if the run has no state yet, and freezes what the recipe says.

    Returns:
        What init.json records; None if there is nothing new to record.
    """
    init, said = None, []
    if run.recipe.init and not run.checkpoints.files():
        init = origin(run.recipe.init)
        init["done"] = initialize(model, run.recipe.init, class_names)
        said.append(init["done"])
    if run.recipe.freeze:
        said.append(freeze(model, run.recipe.freeze))
    if run.chief:
        print(*said, sep="\n", end="\n" if said else "")
    return init


def fit_in(run, model, data, strategy, save_steps, callbacks, shown):
    """What `fit` does in the folder, which is this run's own."""
    recipe, folder = run.recipe, run.folder
    machine = json.dumps(environment(), indent=2)
    with strategy.scope():
        init = start_from(model, run, data.class_names)
        prepare_network(model, recipe, strategy)
    if run.chief:
        check_space(run, model)
        run.write("recipe.json", recipe.to_json())
        run.write("environment.json", machine + "\n")
        if init:
            run.write("init.json", json.dumps(init, indent=2) + "\n")
        run.write("classes.json", json.dumps(data.class_names) + "\n")
        texts = {
            "recipe": fenced(recipe.to_json()),
            "environment": fenced(machine),
            "network": fenced(str(keras_cnns.complexity(model))),
            "command": fenced(f"python -m training fit {folder}/recipe.json --run {folder}-again"),
        }
    try:
        if run.chief:
            log = dashboards.Log(folder / "tensorboard")
            callbacks = (*dashboards.of_run(log, recipe, data, texts, **shown), *callbacks)
        with strategy.scope():
            progress = train(model, data, recipe, run, callbacks, save_steps=save_steps)
        if not run.chief:
            return
        # Out of the scope: in it every variable would be made by all processes together.
        network = run.network()
        test = make_evaluation(network, len(data.class_names), recipe)(data.test)
    except tf.errors.InvalidArgumentError as error:
        raise data_error(data, error) from error
    scalars = {"loss/main": test.loss, "accuracy/main": test.accuracy, "accuracy/top5": test.top5}
    log.scalars(progress["epoch"], scalars, "test")
    if shown.get("row", True):
        write_result(log, progress["epoch"], test.accuracy)
    export_run(run, network)
    result = {"test": test.to_json(), "best_epoch": progress["best_epoch"], "history": progress["history"]}
    run.write("metrics.json", json.dumps(result, indent=2) + "\n")


def check_space(run, model):
    """Raises a ResourceError unless the disk has room for the states, the best weights and the export."""
    weights = sum(variable.dtype.startswith("float") * math.prod(variable.shape) * 4 for variable in model.variables)
    needed = weights * (3 * (checkpoint.KEPT + 1) + 3)  # a state has two optimizer slots beside the weights
    free = checkpoint.free_bytes(run.folder)
    if free < needed:
        raise ResourceError(
            f"{run.folder}: {needed / 2**20:.0f} MiB are needed for checkpoints and export and {free / 2**20:.0f} MiB "
            "are free. Make room, or pass --run with a folder on another disk."
        )


def check_same_environment(run, force):
    """Raises a UserError that lists in what versions and devices differ from those that began the run."""
    file, now = run.folder / "environment.json", environment()
    there = json.loads(file.read_text()) if file.exists() else {}
    different = differences(there, {name: now.get(name) for name in there})
    if different and not force:
        raise UserError(
            f"{run.folder} was begun with other versions or devices ({'; '.join(different)}): going on would not give "
            "the same result. Pass --force to go on all the same, or --overwrite."
        )


def check_same_recipe(run):
    """Raises a UserError that lists the fields in which a run's recipe and the folder's differ."""
    there, here = (dataclasses.asdict(recipe) for recipe in (Run.open(run.folder).recipe, run.recipe))
    different = differences(there, here)
    if different:
        raise UserError(
            f"{run.folder} holds a run of another recipe ({'; '.join(different)}). Pass another --run, or --overwrite."
        )


def differences(there, here):
    """In which fields two records differ, each as text: what the folder has, and what is asked for now."""
    return [
        f"{name}: {there.get(name)!r} there, {here.get(name)!r} now"
        for name in there | here
        if there.get(name) != here.get(name)
    ]


def start_anew(folder):
    """Removes a run folder, and nothing that is not one."""
    if (folder / "recipe.json").exists():
        shutil.rmtree(folder)
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} holds files but no run; --overwrite leaves it alone. Pass another --run.")


def data_error(data, error):
    """What to raise for an error of TensorFlow in reading the data: the file that is broken, where there is one."""
    for split in (data.train, data.validation, data.test):
        broken = first_broken_file(split)
        if broken:
            return DataError(f"{broken[0]} cannot be decoded: {broken[1]}. Remove it, or save it again as an image.")
    return DataError(
        f"The images cannot be read: {decode_reason(error)}. `python -m training check-data` lists the broken ones."
    )


def environment():
    """Versions and device, as JSON values."""
    gpus = [
        tf.config.experimental.get_device_details(gpu)["device_name"] for gpu in tf.config.list_physical_devices("GPU")
    ]
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "devices": gpus or [f"CPU, {os.cpu_count()} cores"],
    }


def fenced(text):
    """Text as a block of code in Markdown."""
    return f"```\n{text}\n```"


def evaluate(run, split="test"):
    """Evaluates the best epoch of a run on one of its splits: "train", "validation" or "test"."""
    data = load_data(run.recipe)
    if list(data.class_names) != run.class_names:
        raise DataError(f"{run.recipe.data} has other classes than the run: {', '.join(data.class_names)}.")
    try:
        return make_evaluation(run.network(), len(data.class_names), run.recipe)(getattr(data, split))
    except tf.errors.InvalidArgumentError as error:
        raise data_error(data, error) from error


def image_files(paths):
    """The files among paths, and of the folders among them every image below, in order.

    Raises:
        UserError: A path is not there, or a folder has no images.
    """
    files = []
    for path in map(str, paths):
        found = find_images(path) if Path(path).is_dir() else [path]
        if not found:
            raise UserError(f"{path} has no images. Pass a folder of files with the suffix {', '.join(SUFFIXES)}.")
        if not os.path.lexists(path):
            raise UserError(f"{path}: there is no such file.")
        files += found
    return files


def predict(run, files, top=5):
    """Classifies image files in batches, each image decoded and resized as in evaluation.

    Args:
        run: The run.
        files: Paths of images.
        top: How many classes to give of each image.

    Yields:
        For each file, in order, a list of (class name, probability), the most probable first; or the DataError that
        says why it has none.
    """
    network, names, size = run.network(), run.class_names, run.recipe.image_size

    @tf.function(input_signature=[tf.TensorSpec((None, size, size, 3))])
    def probabilities(images):
        return tf.nn.softmax(network(keras_cnns.preprocess_input(images, run.recipe.preprocessing), training=False))

    def load(file):
        try:
            read_header(file)
            return resize(decode(tf.io.read_file(file)), size)
        except DataError as error:
            return error
        except tf.errors.InvalidArgumentError as error:
            return ImageError(file, "broken", f"cannot be decoded: {decode_reason(error)}", f"Pass a {FORMATS} image.")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), PREDICTED_AT_ONCE):
            images = list(pool.map(load, map(str, files[start : start + PREDICTED_AT_ONCE])))
            good = [image for image in images if not isinstance(image, DataError)]
            classes = iter(keras_cnns.decode_predictions(probabilities(tf.stack(good)), names, top) if good else ())
            yield from (image if isinstance(image, DataError) else next(classes) for image in images)


def export_run(run, network=None):
    """Writes the SavedModel of a run into its folder `export`."""
    temporary = run.export.with_name(f"export.tmp-{os.getpid()}")
    export(network or run.network(), run.class_names, run.recipe, temporary)
    shutil.rmtree(run.export, ignore_errors=True)
    os.replace(temporary, run.export)


def summary(run):
    """What a finished run tells at the end."""
    metrics = json.loads(run.metrics.read_text())
    test = metrics["test"]
    return (
        f"{run.recipe.model} on {run.recipe.data}: {test['accuracy']:.2%} of {test['images']} test images right "
        f"(epoch {metrics['best_epoch']} of {run.recipe.epochs}, the best on the validation images)\n"
        f"run folder   {run.folder}\n"
        f"TensorBoard  tensorboard --logdir {run.folder.parent}\n"
        f"SavedModel   {run.export}"
    )
