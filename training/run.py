"""One run from start to end: train a recipe, evaluate its best epoch on the test split, export it."""

import contextlib
import dataclasses
import json
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

import keras_cnns
from training import dashboards, files
from training.checkpoint import KEPT
from training.dashboards.hparams import write_result
from training.data import CUSTOM, Data, load_data
from training.data_record import DataRecord
from training.datasets import as_data_of_run
from training.devices import (
    check_agreement,
    chief_first,
    is_chief,
    make_strategy,
    prepare_network,
    total,
)
from training.errors import Interrupted, ResourceError, UserError, WorkerLostError
from training.evaluation import make_evaluation
from training.finetuning import IMAGENET, freeze, initial_weights, initialize, trained_on, weights_file
from training.inference import export_network, image_errors, trained_network
from training.loop import train
from training.machine import onednn_of_process, prepare, resolve
from training.recipe import Recipe
from training.recipes import find_recipe
from training.run_folder import (
    CLASSES_FILE,
    ENVIRONMENT_FILE,
    INIT_FILE,
    RECIPE_FILE,
    Run,
    begun_run,
    check_folder,
    differences,
    holds_run,
)

# TensorFlow's errors in a process when another process of the run has ended.
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)


@dataclass(frozen=True)
class FitOptions:
    """Options of carrying out a run, as opposed to its recipe, which decides the result.

    Args:
        download: Whether TFDS may download the data.
        overwrite: Whether to replace the run in the folder, if there is one.
        force: Whether to resume although versions, devices, kernels or images have changed.
        save_steps: Steps between two saved states; one is saved at least every five minutes and at the end of an epoch.
        picture_epochs: Epochs between two rounds of pictures and histograms in TensorBoard; 0 for none.
        profile_steps: Steps of the first epoch that the profiler records.
        hparams_row: Whether the run is a row of TensorBoard's HParams tab.
        export: Whether to write the SavedModel; `python -m training export` can do so later.
    """

    download: bool = False
    overwrite: bool = False
    force: bool = False
    save_steps: int = 500
    picture_epochs: int = 5
    profile_steps: int = 0
    hparams_row: bool = True
    export: bool = True

    def __post_init__(self):
        for name, least in (("save_steps", 1), ("picture_epochs", 0), ("profile_steps", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: it must be at least {least}.")


def fit(
    recipe: Recipe | str,
    folder: str | Path | None = None,
    *,
    data: Data | None = None,
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
    options: FitOptions = FitOptions(),
) -> Run:
    """Train a recipe, evaluate its best epoch on the test split and export it. The same call resumes the run.

    All errors that can be found before the first step are raised before anything in the folder changes.

    Args:
        recipe: A Recipe, or the name of one, as on the command line.
        folder: The run folder; by default runs/NAME-DIGEST. The digest is that of the recipe as it is passed: it is
            the same on another machine, where "auto" may mean something else.
        data: The data set, such as `training.datasets.from_datasets` makes of your own tf.data pipelines; by default
            the one that the recipe names.
        callbacks: Further Keras callbacks.
        options: How the run is carried out.

    Returns:
        The run.

    Raises:
        TrainingError: One of its kinds, see training.errors.
    """
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    if not isinstance(recipe, Recipe):
        raise UserError(f"recipe={recipe!r}: it must be a Recipe, or the name of one.")
    recipe.check_model_args()
    if data is not None:
        recipe = dataclasses.replace(recipe, data=CUSTOM)
    folder = Path(folder or f"runs/{recipe.run_name}")
    begun = begun_run(folder, options.overwrite)
    recipe = resolve(recipe, begun and begun.recipe)
    if options.overwrite:
        check_init_survives(recipe, folder)
    strategy = make_strategy(recipe.distribution)
    check_replicas(recipe, strategy.num_replicas_in_sync)
    run = Run(folder, recipe, is_chief(strategy), begun and begun.written)
    try:
        prepare_and_train(run, begun, data, strategy, callbacks, options)
    except LOST as error:
        if strategy.cluster_resolver is None:
            raise
        if not run.metrics.exists():  # otherwise another process ended first, when everything was done
            raise WorkerLostError(
                "Another process of this run has ended, and the others cannot continue without it. Start all of them "
                "again: they resume from the last saved state."
            ) from error
    return run


def prepare_and_train(run, begun, data, strategy, callbacks, options):
    """Do what `fit` does, once it is known what is to be run: lock the folder, check it, load the data, train.

    Args:
        run: The run.
        begun: The run in the folder, if it is resumed.
        data: The data set that was passed, or None.
        strategy: The strategy of tf.distribute.
        callbacks, options: As for `fit`.
    """
    with contextlib.ExitStack() as stack:
        with chief_first(strategy):
            if run.chief:
                stack.enter_context(files.locked(run.folder))
                check_unchanged(begun, run.folder, options.overwrite)
            if begun:
                check_same_recipe(begun, run.recipe)
                if run.metrics.exists():
                    check_finished(run, options.export)
                    return
                check_same_environment(begun, options.force)
            prepare(run.recipe)
            data = load_run_data(run, begun, data, download=options.download, force=options.force)
        states = [file.name for file in run.checkpoints.files()[:1]] if begun else []
        view = f"{states} {data.train.size} {data.class_names}"
        check_agreement(strategy, view, f"run folder {run.folder} or data")
        with strategy.scope():
            model = run.recipe.build(len(data.class_names))
        train_and_finish(run, begun, model, data, strategy, callbacks, options)
        total(strategy, 0)  # no process ends before the chief is done


def train_and_finish(run, begun, model, data, strategy, callbacks, options):
    """Train a network, evaluate and export it in a locked folder; arguments as for `prepare_and_train`."""
    recipe = run.recipe
    machine = json.dumps(environment() | {"directory": os.getcwd()}, indent=2)
    with strategy.scope():
        init = initialize_network(model, run, begun and run.checkpoints.files(), data.class_names)
        prepare_network(model, recipe, strategy)
    if run.chief:
        check_space(run, model)
        print(opening(run, model, data, strategy), flush=True)
    beginning = Beginning(lambda: write_first_files(run, begun, data, machine, init, strategy))
    log = dashboards.Log(run.tensorboard)
    shown = {"picture_epochs": options.picture_epochs, "profile_steps": options.profile_steps}
    try:
        with image_errors(data, run.folder):
            texts = texts_of(run, model, machine)
            boards = dashboards.of_run(log, recipe, data, texts, row=options.hparams_row, **shown) if run.chief else ()
            callbacks = (beginning, *boards, *callbacks)
            with strategy.scope():
                progress = train(model, data, recipe, run, callbacks, save_steps=options.save_steps)
            if not run.chief:
                return
            # Outside the scope, where all processes together would create every variable.
            network = trained_network(run)
            test = make_evaluation(network, len(data.class_names), recipe, run.temperature)(data.test)
            if options.picture_epochs:
                dashboards.draw_best(log, network, data, recipe, progress.best_epoch)
    except Interrupted as stopped:
        if run.checkpoints.epochs() == recipe.epochs:
            stopped.args = ("stopped; training is complete: the same command evaluates the test images and exports",)
        raise
    scalars = {"loss/main": test.loss, "accuracy/main": test.accuracy}
    scalars |= {"accuracy/top5": test.top5} if len(data.class_names) > 5 else {}
    log.scalars(progress.epoch, scalars, "test")
    if options.picture_epochs:
        dashboards.draw_reliability(log, test, run.temperature, progress.best_epoch, "test")
    if options.hparams_row:
        write_result(log, progress.epoch, test.accuracy)
    if options.export:
        export_network(run, network)
    run.write_results({"test": test.to_json(), "best_epoch": progress.best_epoch, "history": progress.history})


class Beginning(keras.callbacks.Callback):
    """Calls a function before the first step, when everything has been checked that can be.

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


def write_first_files(run, begun, data, machine, init, strategy):
    """Write the files that a run begins with, or those that change when it is resumed."""
    texts = {ENVIRONMENT_FILE: machine + "\n"}
    if init:
        texts[INIT_FILE] = json.dumps(init, indent=2) + "\n"
    if run.chief and begun:
        for name, text in texts.items():
            run.write(name, text)
        if data.record:
            data.record.write(run.folder)
    elif run.chief:
        texts |= {RECIPE_FILE: run.recipe.to_json(), CLASSES_FILE: json.dumps(data.class_names) + "\n"}
        run.begin(texts, data.record)
    total(strategy, 0)  # no process looks for states before those of a former run are gone


def initialize_network(model, run, resumed, class_names):
    """Load the initial weights into a network, unless the run has a state already, and freeze what the recipe says.

    Returns:
        The content of init.json; None if there is nothing new to record.
    """
    init, lines = None, []
    if run.recipe.init and not resumed:
        init = initialize(model, initial_weights(run.recipe), class_names)
        lines.append(init["done"])
    if run.recipe.freeze:
        lines.append(freeze(model, run.recipe.freeze))
    if run.chief:
        print(*lines, sep="\n", end="\n" if lines else "")
    return init


def load_run_data(run, begun=None, data=None, *, download=False, force=False):
    """Load the data of a new run, or load and compare those of a run that is resumed.

    Args:
        run: The run.
        begun: The same run as the folder has it, if it is resumed.
        data: The data set that was passed in Python, or None to load the one that the recipe names.
        download: Whether TFDS may download.
        force: Whether the images may have changed.

    Raises:
        UserError: The data are not those that the run began with.
        StateError: It is not known what they were.
    """
    record = DataRecord.read(run.folder) if begun else None
    seen = trained_on(initial_weights(run.recipe)) if run.recipe.init and not begun else frozenset()
    if data is None:
        data = load_data(run.recipe, download=download, record=record, seen=seen)
    else:
        data = as_data_of_run(data, run.recipe, record.trained_on if record else seen)
    different = begun.data_differences(data) if begun else []
    classes = begun and list(data.class_names) != begun.class_names
    if different and (classes or not force):
        again = "" if classes else "--force to resume all the same, "
        raise UserError(
            f"{run.folder} was begun with other data ({'; '.join(different)}). Pass the same data, {again}another "
            "--run, or --overwrite."
        )
    return data


def check_init_survives(recipe, folder):
    """Raise a UserError if the initial weights are in the folder that is to be replaced."""
    if recipe.init and recipe.init != IMAGENET and weights_file(recipe.init).resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"init={recipe.init!r} is in {folder}, which --overwrite would replace. Pass another --run, or copy the "
            "weights to another place first."
        )


def check_replicas(recipe, replicas):
    """Raise a UserError if a recipe cannot be trained on so many replicas."""
    if recipe.batch_size % replicas:
        raise UserError(
            f"batch_size={recipe.batch_size} cannot be divided among {replicas} devices. Pass a multiple of {replicas}."
        )
    if replicas > 1 and recipe.jit:
        raise UserError("jit=True: XLA does not compile a step on several devices. Pass --jit false.")


def check_unchanged(begun, folder, overwrite):
    """Raise a UserError if the run in a folder is not the one that was read before the folder was locked."""
    check_folder(folder, overwrite)
    now = Run.open(folder).written if holds_run(folder) else None
    if not overwrite and now != (begun and begun.written):
        raise UserError(f"{folder} has just been changed by another process. Run the command again.")


def check_same_recipe(begun, recipe):
    """Raise a UserError that lists the differences between a recipe and that of the run in the folder."""
    different = differences(dataclasses.asdict(begun.recipe), dataclasses.asdict(recipe))
    if different:
        raise UserError(
            f"{begun.folder} holds a run of another recipe ({'; '.join(different)}). Pass another --run, or "
            "--overwrite."
        )


def check_same_environment(begun, force):
    """Raise a UserError that lists the versions and devices that have changed since the run was begun."""
    before, now = begun.environment, environment()
    different = differences({name: before.get(name) for name in now}, now)
    if different and not force:
        raise UserError(
            f"{begun.folder} was begun with other versions or devices ({'; '.join(different)}): resuming would not "
            "give the same result. Pass --force to resume all the same, or --overwrite."
        )


def check_finished(run, export=True):
    """Check the files of a finished run, and write its export again if that alone is missing or damaged.

    Args:
        run: The run.
        export: Whether it is to have an export.

    Raises:
        StateError: Another file is missing, damaged or of another run.
    """
    run.check_finished()
    if run.chief and export and not run.has_whole_export():
        print(f"{run.export} is missing or damaged, and is written again")
        export_network(run, trained_network(run))


def check_space(run, model):
    """Raise a ResourceError unless the disk has room for the states, the best weights and the export.

    The space of the old ones in the folder counts as free: they are replaced.
    """
    weights = sum(variable.dtype.startswith("float") * math.prod(variable.shape) * 4 for variable in model.variables)
    # A state has the weights, two optimizer slots, and perhaps an average.
    needed = weights * ((3 + bool(run.recipe.ema)) * (KEPT + 1) + 3)
    old = [run.best, *run.checkpoints.folder.glob("*"), *run.export.glob("**/*")]
    free = files.free_bytes(run.folder) + sum(file.stat().st_size for file in old if file.is_file())
    if free < needed:
        raise ResourceError(
            f"{run.folder}: {needed / 2**20:.0f} MiB are needed for checkpoints and export and {free / 2**20:.0f} MiB "
            "are free. Free some space, or pass --run with a folder on another disk."
        )


def opening(run, model, data, strategy):
    """Return the description of a run that is printed before the first step."""
    recipe, size = run.recipe, data.train.size
    lines = [*data.notes, data.conversions] if data.conversions else [*data.notes]
    if left_out := size % recipe.batch_size:
        lines.append(
            f"each epoch leaves out {left_out}, different ones each time, so that all batches have {recipe.batch_size}"
        )
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


def texts_of(run, model, machine):
    """Return the texts of a run for TensorBoard, {tag: Markdown}."""
    texts = {
        "recipe": run.recipe.to_json(),
        "environment": machine,
        "network": str(keras_cnns.complexity(model)),
        "command": f"python -m training fit {run.folder}/{RECIPE_FILE} --run {run.folder}-again",
    }
    return {tag: f"```\n{text}\n```" for tag, text in texts.items()}


def environment():
    """Return the versions and devices that a run depends on, as JSON values."""
    gpus = [
        tf.config.experimental.get_device_details(gpu)["device_name"] for gpu in tf.config.list_physical_devices("GPU")
    ]
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "devices": gpus or [f"CPU, {os.cpu_count()} cores"],
        "onednn": onednn_of_process(),
    }


def summary(run):
    """Return the summary of a finished run."""
    results = run.results()
    test = results["test"]
    return (
        f"{run.recipe.model} on {run.recipe.data}: {test['accuracy']:.2%} of {test['images']} test images right "
        f"(epoch {results['best_epoch']} of {run.recipe.epochs}, the best on the validation images)\n"
        f"run folder   {run.folder}\n"
        f"TensorBoard  tensorboard --logdir {run.folder.parent}"
        + (f"\nSavedModel   {run.export}" if run.export.exists() else "")
    )
