"""What is done with a run, from the first step to the exported network."""

import contextlib
import dataclasses
import json
import math
import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import tensorflow as tf

import keras_cnns
from training import checkpoint, dashboards
from training.dashboards.hparams import write_result
from training.data import first_broken_file, load_data
from training.data_record import DataRecord
from training.devices import (
    check_agreement,
    chief_first,
    found_distribution,
    is_chief,
    make_strategy,
    prepare_network,
    total,
)
from training.errors import DataError, ImageError, Interrupted, ResourceError, StateError, UserError, WorkerLostError
from training.evaluation import make_evaluation
from training.export import export
from training.finetuning import freeze, initialize, origin, trained_on, weights_file
from training.image_file import FORMATS, SUFFIXES, decode_reason, read_header
from training.image_folder import find_images
from training.loop import train
from training.pixels import decode, resize
from training.recipe import Recipe, prepare_machine
from training.recipes import find_recipe
from training.run_folder import Run, check_folder

# What TensorFlow says in a process when another one is gone.
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)

# What it says of an image that is broken, gone, or not to be read.
UNREADABLE = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.DataLossError,
)

# What "auto" in these fields comes to depends on the machine, or on a file that may be gone when a run is resumed.
DECIDED_ONCE = ("precision", "jit", "deterministic", "distribution", "preprocessing")

PREDICTED_AT_ONCE = 32  # images in a batch of predict


def fit(
    recipe: Recipe | str,
    folder: str | Path | None = None,
    *,
    download: bool = False,
    overwrite: bool = False,
    force: bool = False,
    save_steps: int = 500,
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
    **shown,
) -> Run:
    """Train a recipe, evaluate its best epoch on the test split and export it. The same call again resumes.

    Everything that can be wrong before the first step is found before anything in the folder changes.

    Args:
        recipe: What to train: a Recipe, or the name of one, as on the command line.
        folder: The run folder; by default runs/NAME-DIGEST, of the recipe as it is given: on another machine, where
            "auto" may mean something else, it is the same.
        download: Whether TFDS may download.
        overwrite: Whether to start anew where the folder already has a run.
        force: Whether to resume although versions, devices or images are not those of before.
        save_steps: Steps between two states; more often by the clock, and always at the end of an epoch.
        callbacks: Further Keras callbacks.
        shown: How much TensorBoard shows: `picture_epochs`, `profile_steps` and `row` of
            training.dashboards.of_run.

    Returns:
        The run.

    Raises:
        TrainingError: One of its kinds, see training.errors.
    """
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    if not isinstance(recipe, Recipe):
        raise UserError(f"recipe={recipe!r}: it must be a Recipe, or the name of one.")
    if save_steps < 1:
        raise UserError(f"save_steps={save_steps}: it must be at least 1 step.")
    recipe = recipe.with_known_network()
    folder = Path(folder or f"runs/{recipe.run_name}")
    check_folder(folder, overwrite)
    begun = Run.open(folder) if (folder / "recipe.json").exists() and not overwrite else None
    recipe = (as_begun(recipe, begun.recipe) if begun else recipe).resolved()
    if overwrite and recipe.init and weights_file(recipe.init).resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"init={recipe.init!r} is in {folder}, which --overwrite would replace. Pass another --run, or copy the "
            "weights to another place first."
        )
    strategy = make_strategy(recipe.distribution)
    run = Run(folder, recipe, is_chief(strategy), begun and begun.written)
    replicas = strategy.num_replicas_in_sync
    if recipe.batch_size % replicas:
        raise UserError(
            f"batch_size={recipe.batch_size} cannot be divided among {replicas} devices. Pass a multiple of {replicas}."
        )
    if replicas > 1 and recipe.jit:
        raise UserError("jit=True: XLA does not compile a step on several devices. Pass --jit false.")
    try:
        with contextlib.ExitStack() as stack:
            with chief_first(strategy):
                if run.chief:
                    stack.enter_context(checkpoint.locked(folder))
                    check_unchanged(begun, folder, overwrite)
                if begun:
                    check_same_recipe(begun, recipe)
                    if run.metrics.exists():
                        check_finished(run)
                        return run
                    check_same_environment(begun, force)
                prepare_machine(recipe)
                data = load_run_data(run, begun, download=download, force=force)
            states = [file.name for file in run.checkpoints.files()[:1]] if begun else []
            seen = f"{states} {data.train.size} {data.class_names}"
            check_agreement(strategy, seen, f"run folder {folder} or data")
            with strategy.scope():
                model = recipe.build(len(data.class_names))
            fit_in(run, begun, model, data, strategy, save_steps, callbacks, shown)
            total(strategy, 0)  # nobody leaves before the chief is done
    except LOST as error:
        if strategy.cluster_resolver is None:
            raise
        if run.metrics.exists():
            return run  # another process left first, when all was done
        raise WorkerLostError(
            "Another process of this run is gone, and none can continue without it. Start all of them again: they "
            "resume from the last saved state."
        ) from error
    return run


def as_begun(recipe, begun):
    """Return the recipe with what "auto" came to when the run was begun, maybe on another machine."""
    decided = {name: getattr(begun, name) for name in DECIDED_ONCE if getattr(recipe, name) == "auto"}
    if found_distribution() == "multiworker":  # these processes cannot train separately
        decided.pop("distribution", None)
    return dataclasses.replace(recipe, **decided)


def check_unchanged(begun, folder, overwrite):
    """Raise a UserError if the run in a folder is not the one that was read before the folder was locked."""
    check_folder(folder, overwrite)
    now = Run.open(folder).written if (folder / "recipe.json").exists() else None
    if not overwrite and now != (begun and begun.written):
        raise UserError(f"{folder} was changed by another process in this moment. Give the command again.")


def check_finished(run):
    """Check that all of a finished run is there, and write the export again if that alone is not.

    Raises:
        StateError: Something else is missing, damaged or of another run.
    """
    run.check_finished()
    DataRecord.read(run.folder)
    if run.chief and not run.has_whole_export():
        print(f"{run.export} is missing or damaged, and written again")
        write_export(run)


def load_run_data(run, begun=None, *, download=False, force=False):
    """Load the data of a run that begins, or compare them with what they were when it began.

    Args:
        run: The run.
        begun: The same, if it has begun.
        download: Whether TFDS may download.
        force: Whether images may be others than before.

    Raises:
        UserError: The data are not those that the run began with.
        StateError: What they were is not known.
    """
    if not begun:
        seen = trained_on(run.recipe.init) if run.recipe.init else frozenset()
        return load_data(run.recipe, download=download, seen=seen)
    data = load_data(run.recipe, download=download, record=DataRecord.read(run.folder))
    different = data_differences(begun, data)
    classes = list(data.class_names) != begun.class_names
    if different and (classes or not force):
        again = "" if classes else "--force to resume all the same, "
        raise UserError(
            f"{run.folder} was begun with other data ({'; '.join(different)}). Pass the same data, {again}another "
            "--run, or --overwrite."
        )
    return data


def data_differences(run, data):
    """Return in what the data differ from those that a run began with, as texts.

    Raises:
        StateError: The run has no record of its data, or it is damaged.
    """
    if list(data.class_names) != run.class_names:
        return [f"classes: {', '.join(run.class_names)} there, {', '.join(data.class_names)} now"]
    if data.record is None:
        return []
    there = DataRecord.read(run.folder)
    if there is None:
        raise StateError(
            f"{run.folder} has no data.json: an earlier version began it, and which images it was trained on is not "
            "known. Start anew with --overwrite."
        )
    return there.differences(data.record)


def start_from(model, run, resumed, class_names):
    """Give a network its initial weights, if the run has no state yet, and freeze what the recipe says.

    Returns:
        What init.json records; None if there is nothing new to record.
    """
    init, said = None, []
    if run.recipe.init and not resumed:
        init = origin(run.recipe.init)
        init["done"] = initialize(model, run.recipe.init, class_names)
        said.append(init["done"])
    if run.recipe.freeze:
        said.append(freeze(model, run.recipe.freeze))
    if run.chief:
        print(*said, sep="\n", end="\n" if said else "")
    return init


class Beginning(keras.callbacks.Callback):
    """Calls a function before the first step, when all that can be checked before it has been.

    Args:
        begin: The function.
    """

    def __init__(self, begin):
        super().__init__()
        self.begin = begin

    def on_train_begin(self, logs=None):
        self.begin()

    def state(self):
        return {}

    def load_state(self, state):
        pass


def fit_in(run, begun, model, data, strategy, save_steps, callbacks, shown):
    """Do what `fit` does in the folder, which is locked."""
    recipe, folder = run.recipe, run.folder
    machine = json.dumps(environment() | {"directory": os.getcwd()}, indent=2)
    with strategy.scope():
        init = start_from(model, run, begun and run.checkpoints.files(), data.class_names)
        prepare_network(model, recipe, strategy)
    if run.chief:
        check_space(run, model)
        print(opening(run, model, data, strategy), flush=True)
    files = {"environment.json": machine + "\n"}
    if init:
        files["init.json"] = json.dumps(init, indent=2) + "\n"
    if not begun:
        files |= {"recipe.json": recipe.to_json(), "classes.json": json.dumps(data.class_names) + "\n"}

    def begin():
        if run.chief and begun:
            for name, text in files.items():
                run.write(name, text)
            if data.record:
                data.record.write(folder)
        elif run.chief:
            run.begin(files, data.record)
        total(strategy, 0)  # nobody looks for states before those of a former run are gone

    try:
        callbacks = (Beginning(begin), *callbacks)
        if run.chief:
            log = dashboards.Log(folder / "tensorboard")
            texts = {
                "recipe": fenced(recipe.to_json()),
                "environment": fenced(machine),
                "network": fenced(str(keras_cnns.complexity(model))),
                "command": fenced(f"python -m training fit {folder}/recipe.json --run {folder}-again"),
            }
            callbacks = (callbacks[0], *dashboards.of_run(log, recipe, data, texts, **shown), *callbacks[1:])
        with strategy.scope():
            progress = train(model, data, recipe, run, callbacks, save_steps=save_steps)
        if not run.chief:
            return
        # Out of the scope: in it every variable would be made by all processes together.
        network = run.network()
        test = make_evaluation(network, len(data.class_names), recipe)(data.test)
        if shown.get("picture_epochs", 5):
            dashboards.draw_best(log, network, data, recipe, progress["best_epoch"])
    except UNREADABLE as error:
        if str(folder) in str(error):  # of a file of the run
            raise
        raise data_error(data, error) from error
    except Interrupted as stopped:
        if run.checkpoints.epochs() == recipe.epochs:
            stopped.args = ("stopped; training is complete: the same command evaluates the test images and exports",)
        raise
    scalars = {"loss/main": test.loss, "accuracy/main": test.accuracy}
    scalars |= {"accuracy/top5": test.top5} if len(data.class_names) > 5 else {}
    log.scalars(progress["epoch"], scalars, "test")
    if shown.get("row", True):
        write_result(log, progress["epoch"], test.accuracy)
    write_export(run, network)
    run.write_results({"test": test.to_json(), "best_epoch": progress["best_epoch"], "history": progress["history"]})


def opening(run, model, data, strategy):
    """Return what a run says of itself before the first step."""
    recipe, size = run.recipe, data.train.size
    lines = [*data.notes, data.conversions] if data.conversions else [*data.notes]
    if left_out := size % recipe.batch_size:
        lines.append(f"each epoch leaves out {left_out}, others every time: {recipe.batch_size} make a batch")
    devices = "; ".join(environment()["devices"])
    replicas = strategy.num_replicas_in_sync
    return "\n".join(
        [
            f"network      {recipe.model}, {model.count_params():,} parameters, {recipe.image_size} pixels",
            f"data         {recipe.data}: {len(data.class_names)} classes, {size:,} images to train, "
            f"{data.validation.size:,} to validate, {data.test.size:,} to test",
            *[f"             {line}" for line in lines],
            f"device       {devices}{f', {replicas} replicas' if replicas > 1 else ''}; {recipe.precision}",
            f"run folder   {run.folder}",
            "preparing the first step: minutes for a deep network, or with XLA",
        ]
    )


def check_space(run, model):
    """Raise a ResourceError unless the disk has room for the states, the best weights and the export.

    What the folder has of them is room too: it is replaced.
    """
    weights = sum(variable.dtype.startswith("float") * math.prod(variable.shape) * 4 for variable in model.variables)
    # A state has two optimizer slots and maybe an average beside the weights.
    needed = weights * ((3 + bool(run.recipe.ema)) * (checkpoint.KEPT + 1) + 3)
    there = [run.best, *run.checkpoints.folder.glob("*"), *run.export.glob("**/*")]
    free = checkpoint.free_bytes(run.folder) + sum(file.stat().st_size for file in there if file.is_file())
    if free < needed:
        raise ResourceError(
            f"{run.folder}: {needed / 2**20:.0f} MiB are needed for checkpoints and export and {free / 2**20:.0f} MiB "
            "are free. Make room, or pass --run with a folder on another disk."
        )


def check_same_environment(begun, force):
    """Raise a UserError that lists in what versions and devices differ from those that began the run."""
    there, now = begun.environment, environment()
    different = differences({name: there.get(name) for name in now}, now)
    if different and not force:
        raise UserError(
            f"{begun.folder} was begun with other versions or devices ({'; '.join(different)}): resuming would not "
            "give the same result. Pass --force to resume all the same, or --overwrite."
        )


def check_same_recipe(begun, recipe):
    """Raise a UserError that lists the fields in which a recipe and that of the run in the folder differ."""
    different = differences(dataclasses.asdict(begun.recipe), dataclasses.asdict(recipe))
    if different:
        raise UserError(
            f"{begun.folder} holds a run of another recipe ({'; '.join(different)}). Pass another --run, or "
            "--overwrite."
        )


def differences(there, here):
    """In which fields two records differ, each as text: what the folder has, and what is asked for now."""
    return [
        f"{name}: {there.get(name)!r} there, {here.get(name)!r} now"
        for name in there | here
        if there.get(name) != here.get(name)
    ]


def data_error(data, error):
    """What to raise for an error of TensorFlow in reading the data: the file that is broken, where there is one."""
    for split in (data.train, data.validation, data.test):
        broken = first_broken_file(split)
        if broken:
            return broken
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
    """Evaluate the best epoch of a run on one of its splits: "train", "validation" or "test".

    No image that the run was trained on is in another split, whatever has become of the data since.
    """
    network = run.network()
    data = load_data(from_its_directory(run), record=DataRecord.read(run.folder))
    different = data_differences(run, data)
    if list(data.class_names) != run.class_names:
        raise DataError(f"{run.recipe.data} has other classes than the run ({different[0]}). Pass a run of these data.")
    if different:
        print(f"{run.recipe.data} has changed since the run began: {'; '.join(different)}", file=sys.stderr)
    try:
        return make_evaluation(network, len(data.class_names), run.recipe)(getattr(data, split))
    except UNREADABLE as error:
        raise data_error(data, error) from error


def from_its_directory(run):
    """Return the recipe of a run with relative paths of data made whole, where they are found from the directory in
    which the run was begun; elsewhere they are looked for from this one."""
    recipe, begun_in = run.recipe, Path(run.environment.get("directory", "."))
    kind, _, path = recipe.data.partition(":")
    if kind == "folder" and (begun_in / path).is_dir():
        recipe = dataclasses.replace(recipe, data=f"folder:{begun_in / path}")
    if recipe.data_dir and (begun_in / recipe.data_dir).is_dir():
        recipe = dataclasses.replace(recipe, data_dir=str(begun_in / recipe.data_dir))
    return recipe


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
        except UNREADABLE as error:
            return ImageError(file, "broken", f"cannot be decoded: {decode_reason(error)}", f"Pass a {FORMATS} image.")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), PREDICTED_AT_ONCE):
            images = list(pool.map(load, map(str, files[start : start + PREDICTED_AT_ONCE])))
            good = [image for image in images if not isinstance(image, DataError)]
            classes = iter(keras_cnns.decode_predictions(probabilities(tf.stack(good)), names, top) if good else ())
            yield from (image if isinstance(image, DataError) else next(classes) for image in images)


def export_run(run):
    """Write the SavedModel of a run into its folder `export`."""
    with checkpoint.locked(run.folder):
        write_export(run)


def write_export(run, network=None):
    """Do what `export_run` does, in a folder that is locked."""
    network = network or run.network()
    temporary = run.export.with_name(f"export.tmp-{os.getpid()}")
    try:
        export(network, run.class_names, run.recipe, temporary)
        run.replace_export(temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def summary(run):
    """Return what a finished run tells at the end."""
    results = run.results()
    test = results["test"]
    return (
        f"{run.recipe.model} on {run.recipe.data}: {test['accuracy']:.2%} of {test['images']} test images right "
        f"(epoch {results['best_epoch']} of {run.recipe.epochs}, the best on the validation images)\n"
        f"run folder   {run.folder}\n"
        f"TensorBoard  tensorboard --logdir {run.folder.parent}\n"
        f"SavedModel   {run.export}"
    )
