"""The command line: python -m training fit|launch|recipes|evaluate|predict|export|compare|profile|..."""

from training.interruption import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # until `main` handles signals

    from training.errors import check_requirements

    check_requirements()

import contextlib
import csv
import dataclasses
import itertools
import sys
from pathlib import Path
from typing import Literal, get_args, get_type_hints

# TensorFlow takes seconds to import. Only the commands that need it import it: help, `recipes` and errors appear at
# once.
from training.benchmarks import PARTS
from training.command_line import carry_out, import_tensorflow, parsed, parsed_with_recipe
from training.errors import DataError, ResourceError, UserError
from training.files import atomic, check_exists, check_replaceable
from training.image_file import FORMATS
from training.image_folder import image_files, part_folders
from training.onednn import choose
from training.recipe import JSON, Recipe, known_network
from training.recipes import RECIPES, find_recipe, recipe_from
from training.run_folder import SEED, Run, begun_run
from training.runtimes import QUANTIZED, RUNTIMES, check_format, format_of
from training.scaling import check_file
from training.studies import STATEMENTS, STUDIES


def parser(defaults=None):
    """Return the parser of all commands; `fit` has the fields of Recipe as options, with the values of `defaults`."""
    from jsonargparse import ArgumentParser
    from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt

    fit = ArgumentParser(
        description="Train a recipe, evaluate its best epoch and export it. The same command resumes a run.",
        allow_abbrev=False,
    )
    fit.add_argument("recipe", help="a name from `python -m training recipes`, or a recipe.json")
    fit.add_argument("--run", help="the run folder; by default runs/NAME-DIGEST")
    fit.add_argument("--download", action="store_true", help="let TFDS download what is missing")
    fit.add_argument("--overwrite", action="store_true", help="replace the run in the folder")
    fit.add_argument("--force", action="store_true", help="resume although versions, devices, kernels or images differ")
    fit.add_argument("--coefficients", help="coefficients.json of `python -m tuning compound`, to scale the network")
    fit.add_argument("--phi", type=float, help="exponent of the coefficients; by default 1")
    fit.add_argument("--save_steps", type=PositiveInt, default=500, help="steps between two saved states")
    fit.add_argument(
        "--picture_epochs",
        type=NonNegativeInt,
        default=5,
        help="epochs between two rounds of pictures and histograms in TensorBoard; 0 for none",
    )
    fit.add_argument("--seeds", type=PositiveInt, default=1, help="runs, with this many seeds from --seed on")
    fit.add_argument("--profile_steps", type=NonNegativeInt, default=0, help="steps that the profiler records")
    fit.add_argument("--export", type=bool, default=True, help="write the SavedModel; `export` can do so later")
    fit.add_class_arguments(Recipe)
    if defaults:
        fit.set_defaults({name: getattr(defaults, name) for name in Recipe.__dataclass_fields__})

    launch = ArgumentParser(
        description="Run `fit` in several processes on this machine, as TF_CONFIG would on several machines.",
        allow_abbrev=False,
    )
    launch.add_argument("--workers", type=PositiveInt, default=2, help="number of processes")
    launch.add_argument("command", nargs="*", help="fit and its arguments")

    recipes = ArgumentParser(description="List the named recipes.")

    evaluate = ArgumentParser(
        description="Evaluate the best epoch of a run, class by class; or, with --model, a network with ImageNet's "
        "classes.",
        allow_abbrev=False,
    )
    evaluate.add_argument("run", nargs="?", help="a run folder")
    evaluate.add_argument("--split", choices=("train", "validation", "test"), default="test", help="of a run's data")
    evaluate.add_argument("--model", help="a network, instead of a run")
    evaluate.add_argument("--weights", default="imagenet", help="its weights: imagenet, or a safetensors file")
    evaluate.add_argument("--data", help="its images: folder:PATH or a name of TFDS, with ImageNet's classes")
    evaluate.add_argument("--data_dir", help="where TFDS has its data sets")
    evaluate.add_argument("--download", action="store_true", help="let TFDS download what is missing")

    predict = ArgumentParser(description="Classify image files: the five most probable classes of each.")
    predict.add_argument("run", help="a run folder, or what `export` has written: a SavedModel's folder, or a file")
    predict.add_argument("images", nargs="+", help=f"{FORMATS} files, and folders of them")
    predict.add_argument(
        "--csv",
        help="write rows of file, class1, probability1, ... to this file instead of the screen; names are written "
        "unchanged: in a spreadsheet, import them as text",
    )
    predict.add_argument(
        "--unsure", type=ClosedUnitInterval, default=0.0, help="mark images whose first class is less probable"
    )

    export = ArgumentParser(description="Write the network of a run for a runtime: TensorFlow's SavedModel, or others.")
    export.add_argument("run", help="a run folder")
    export.add_argument("--format", choices=("savedmodel", *RUNTIMES), default="savedmodel", help="of which runtime")
    export.add_argument("--quantize", choices=QUANTIZED, help="with --format litert, smaller numbers")
    export.add_argument(
        "--fold", type=bool, default=True, help="make batch normalizations part of the layers before them, in inference"
    )

    compare = ArgumentParser(description="Compare accuracy, multiply-adds, time and memory of finished runs.")
    compare.add_argument("runs", nargs="+", help="run folders, and folders of them")
    compare.add_argument("--output", default="runs/compare", help="folder of the figure and tables")

    profile = ArgumentParser(description="List the operations that took most time, from fit --profile_steps.")
    profile.add_argument("run", help="a run folder")

    convert = ArgumentParser(
        description="Write published weights of torch or Keras as a safetensors file for weights=.", allow_abbrev=False
    )
    convert.add_argument(
        "source", help="a .pth file with a state dict (read with torch), its safetensors file, or a .h5 file of Keras"
    )
    convert.add_argument("file", help="the safetensors file to write")
    convert.add_argument(
        "--model", required=True, help="the network that the weights are for, such as EfficientNetLite0"
    )
    convert.add_argument(
        "--model_args",
        type=dict[str, JSON],
        default={},
        help="arguments of its builder, such as '{\"aux_heads\": true}'",
    )
    convert.add_argument(
        "--preprocessing",
        choices=[mode for mode in get_args(get_type_hints(Recipe)["preprocessing"]) if mode != "auto"],
        help="normalisation of its pixels in training; by default that of the network's publisher",
    )

    weights = ArgumentParser(description="List published ImageNet weights; or ask the hub for their digests.")
    weights.add_argument("what", choices=("list", "pin"), help="list them, or write the hub's digests to the package")
    weights.add_argument("network", nargs="?", help="list those of one network")

    check = ArgumentParser(description="Read and decode every image of a source, and list their problems.")
    check.add_argument("source", help="folder:PATH, a folder, or a name of TFDS")
    check.add_argument("--data_dir", help="where TFDS has its data sets")
    check.add_argument("--all", action="store_true", help="list all paths, not only the first twenty of a kind")

    benchmark = ArgumentParser(
        description="Measure on this machine, beside the libraries of requirements-benchmark.txt that are installed. "
        "The exit code is 1 if a target of speed is not reached."
    )
    described = "; ".join(f"{name}, {text}" for name, text in PARTS.items())
    names = Literal["all", *PARTS]
    benchmark.add_argument("what", nargs="*", type=names, default=["all"], help=f"by default all of them: {described}")
    benchmark.add_argument("--rounds", type=PositiveInt, default=5, help="rounds in which each variant has a turn")
    benchmark.add_argument("--seconds", type=PositiveInt, default=3, help="length of a turn")
    benchmark.add_argument("--only", default="", help="measure only what has this text in its name, such as ResNet50")
    benchmark.add_argument("--json", help="write the figures to this file too")

    study = ArgumentParser(
        description="Measure statements of the lecture on convolutional networks. The same command resumes a study."
    )
    study.add_argument("name", type=Literal["list", "all", *STUDIES], help="a study, `all` of them, or `list`")
    study.add_argument("--seeds", type=PositiveInt, help="runs of each recipe; by default 3, or 1 with --quick")
    study.add_argument("--quick", action="store_true", help="show in seconds that it runs; the verdicts mean nothing")
    study.add_argument("--output", help="folder of the studies; by default runs/studies, or runs/studies_quick")

    commands = ArgumentParser(prog="python -m training", description=__doc__, exit_on_error=False, allow_abbrev=False)
    commands.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subcommands = commands.add_subcommands()
    for name, command in (
        ("fit", fit),
        ("launch", launch),
        ("recipes", recipes),
        ("evaluate", evaluate),
        ("predict", predict),
        ("export", export),
        ("compare", compare),
        ("profile", profile),
        ("convert", convert),
        ("weights", weights),
        ("benchmark", benchmark),
        ("check-data", check),
        ("study", study),
    ):
        subcommands.add_subcommand(name, command, help=command.description)
    return commands


def parse(arguments):
    """Parse the command line; the recipe of `fit` is looked up first, since its values are the defaults.

    Returns:
        The options by command; `fit.recipe` is the resulting Recipe.
    """
    words = [word for word in arguments if word != "--debug"]
    if words[:1] == ["launch"] and "fit" in arguments:
        start = arguments.index("fit")
        parse(arguments[start:])  # report an error in it once, here, and not in each worker
        options = parse(arguments[:start])
        options.launch.command = arguments[start:]
        return options
    if words[:1] != ["fit"]:
        return parsed(parser(), arguments)
    options, recipe = parsed_with_recipe(parser, words, lambda options: find_recipe(options.fit.recipe))
    options.fit.recipe = recipe_from(options.fit, recipe)
    return options


def main(arguments):
    """Carry out a command line and return its exit code."""
    return carry_out(run_command, arguments)


def run_command(arguments):
    options = parse(arguments)
    command = options[options.subcommand]
    CHECKS.get(options.subcommand, lambda _: None)(command)
    # A benchmark's processes import it.
    if options.subcommand not in ("recipes", "benchmark") and command.get("name") != "list":
        import_tensorflow(arguments)
    return COMMANDS[options.subcommand](command)


def prepare_fit(options):
    """Raise the errors of `fit` that can be found without TensorFlow, and choose the kernels that it will use."""
    if options.phi is not None and not options.coefficients:
        raise UserError(f"--phi {options.phi:g} needs coefficients. Pass --coefficients with their file.")
    recipe, folder = options.recipe, options.run
    if options.coefficients:
        check_file(options.coefficients)
    else:
        folder = folder or f"runs/{recipe.run_name}{'-seeds' if options.seeds > 1 else ''}"
    if folder and options.seeds > 1:
        folder = f"{folder}/{SEED}{recipe.seed}"
    # The default folder of a scaled network is known only after Keras has been imported.
    begun = begun_run(Path(folder), options.overwrite) if folder else None
    kind, _, path = recipe.data.partition(":")
    if kind == "folder" and folder and not begun:
        part_folders(path)
    choose(recipe, begun and begun.recipe)


def open_run(options):
    options.run = Run.open(options.run)


def check_evaluate(options):
    if (options.run is None) == (options.model is None):
        raise UserError(
            "Pass the folder of a run, or --model with --data, such as --model ResNet50 --data folder:photos."
        )
    if options.run:
        return open_run(options)
    known_network(options.model)
    if not options.data:
        raise UserError("--model needs --data, images of ImageNet's classes: folder:PATH or a name of TFDS.")
    if options.weights != "imagenet":
        check_exists(options.weights)


def check_export(options):
    check_format(options.format, options.quantize)
    open_run(options)


def open_run_and_images(options):
    if kind := format_of(options.run):
        check_exists(options.run)
        check_format(kind)
    else:
        open_run(options)
    options.images = image_files(options.images)


def check_convert(options):
    known_network(options.model)
    check_exists(options.source)


# {command: function (options)}: what is read and checked before TensorFlow is imported, so that errors appear at once.
CHECKS = {
    "fit": prepare_fit,
    "evaluate": check_evaluate,
    "predict": open_run_and_images,
    "export": check_export,
    "compare": lambda options: [check_exists(run) for run in options.runs],
    "profile": open_run,
    "convert": check_convert,
    "weights": lambda options: options.network and known_network(options.network),
}


def fit(options):
    recipe = options.recipe
    from training.run import FitOptions, summary
    from training.run import fit as fit_recipe

    if options.coefficients:
        from training.scaling import read_coefficients, scale

        recipe = scale(recipe, *read_coefficients(options.coefficients), 1.0 if options.phi is None else options.phi)
    named = {field.name: options[field.name] for field in dataclasses.fields(FitOptions) if field.name in options}
    if options.seeds > 1:
        from training.group import fit_seeds, group_summary

        print(group_summary(fit_seeds(recipe, options.run, options.seeds, FitOptions(**named))))
    else:
        print(summary(fit_recipe(recipe, options.run, options=FitOptions(**named))))


def launch(options):
    if options.command[:1] != ["fit"]:
        raise UserError("launch runs `fit` only: python -m training launch --workers 2 fit RECIPE.")
    from training.launch import launch as launch_workers

    return launch_workers(options.workers, options.command)


def recipes(options):
    width = max(map(len, RECIPES))
    for recipe in RECIPES.values():
        print(f"{recipe.name:<{width}} {recipe.model} on {recipe.data}, {recipe.image_size} px, {recipe.epochs} epochs")


def evaluate(options):
    from training import inference, published

    if options.model:
        where = {"data_dir": options.data_dir, "download": options.download}
        print(published.evaluate(options.model, options.weights, options.data, **where))
        return

    from training import dashboards

    evaluation = inference.evaluate(options.run, options.split)
    print(evaluation.table(options.run.class_names))
    print(
        f"{evaluation.images} {options.split} images: accuracy {evaluation.accuracy:.2%}, "
        f"top-5 {evaluation.top5:.2%}, loss {evaluation.loss:.4f}"
    )
    before, after = evaluation.calibration_errors
    print(
        f"expected calibration error {before:.2%}, and {after:.2%} with the temperature of the validation images, "
        f"{options.run.temperature:.3g}"
    )
    try:
        log, epoch = dashboards.Log(options.run.tensorboard), int(options.run.weights_metadata["epoch"])
        dashboards.draw_reliability(log, evaluation, options.run.temperature, epoch, options.split)
    except ResourceError as error:  # a run folder that is read only, such as somebody else's
        print(f"no reliability diagram: {error}", file=sys.stderr)


def predict(options):
    from training import inference

    run, files = options.run, options.images
    if options.csv:
        check_replaceable(options.csv, files)
    if isinstance(run, str):
        from training.formats import Export

        run = Export(run)
        class_names = run.description.classes
        answers = inference.classified(run, class_names, run.description.image_size, files)
    else:
        class_names = run.class_names
        answers = inference.predict(run, files)
    write, bad = None, []
    with contextlib.ExitStack() as stack:
        if options.csv:
            path = stack.enter_context(atomic(options.csv))
            write = csv.writer(stack.enter_context(open(path, "w", newline=""))).writerow
            numbers = range(1, min(5, len(class_names)) + 1)
            columns = (f"{what}{number}" for number in numbers for what in ("class", "probability"))
            write(["file", *columns, *(["unsure"] if options.unsure else [])])
        for file, classes in zip(files, answers, strict=True):
            if isinstance(classes, DataError):
                bad.append(classes)
            else:
                unsure = classes[0][1] < options.unsure
                if write:
                    write([file, *itertools.chain(*classes), *(["yes" if unsure else "no"] if options.unsure else [])])
                else:
                    print_classes(file, classes, unsure)
    if options.csv:
        print(f"{options.csv}: {len(files) - len(bad)} images")
    if len(files) == 1 and bad:
        raise bad[0]
    if bad:
        raise DataError("\n".join([f"{len(bad)} of {len(files)} files could not be classified:", *map(str, bad)]))


def print_classes(file, classes, unsure):
    """Print a file and its classes, each with its probability."""
    print(f"{file}  unsure" if unsure else file)
    for name, probability in classes:
        print(f"  {probability:7.2%}  {name}")


def export(options):
    from training import formats

    print(formats.write(options.run, options.format, quantize=options.quantize, fold=options.fold))


def compare(options):
    from training import compare as comparison

    rows = comparison.compare(options.runs, options.output)
    print(comparison.markdown(rows))
    print(f"{options.output}: compare.png, compare.md, compare.csv and tensorboard/")


def profile(options):
    from training.dashboards import profiling

    print(profiling.table(profiling.top_operations(options.run.folder)))


def weights(options):
    import keras_cnns
    from training import published

    if options.what == "list":
        print(published.table(options.network))
        return
    try:
        for line in keras_cnns.pin_weights():
            print(line)
    except ImportError as error:
        raise UserError("`weights pin` needs huggingface_hub. Run `pip install huggingface_hub`.") from error
    except OSError as error:
        raise DataError(str(error)) from error


def convert(options):
    from training.convert import convert as convert_file

    metadata = convert_file(
        options.source,
        options.file,
        options.model,
        model_args=options.model_args,
        preprocessing=options.preprocessing,
    )
    print(f"{options.file}: {metadata['model']}, preprocessing {metadata['preprocessing']}")


def check_data(options):
    from training.check_data import check_source

    report = check_source(options.source, options.data_dir)
    print(report.text(None if options.all else 20))
    report.raise_if_training_fails()


def benchmark(options):
    from training.benchmarks import report
    from training.benchmarks.frame import Settings

    names = [] if "all" in options.what else options.what
    return report.benchmark(names, Settings(options.rounds, options.seconds, options.only), options.json)


def study(options):
    if options.name == "list":
        for name, statements in STUDIES.items():
            print(name, *(f"  {number} {STATEMENTS[number]}" for number in statements), sep="\n")
        return
    from training.studies.frame import carry_out

    folder = options.output or ("runs/studies_quick" if options.quick else "runs/studies")
    seeds = options.seeds or (1 if options.quick else 3)
    for name in STUDIES if options.name == "all" else [options.name]:
        print(f"study        {name}", flush=True)
        print(*carry_out(name, folder, seeds, options.quick), sep="\n")
        print(f"figure       {folder}/{name}/{name}.png", flush=True)


COMMANDS = {
    "fit": fit,
    "launch": launch,
    "recipes": recipes,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "compare": compare,
    "profile": profile,
    "convert": convert,
    "weights": weights,
    "check-data": check_data,
    "benchmark": benchmark,
    "study": study,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
