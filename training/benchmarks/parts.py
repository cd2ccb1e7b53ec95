"""The parts of `python -m training benchmark`: what is compared with what, and the targets."""

import dataclasses
import itertools
import statistics
import tempfile

import numpy as np
from PIL import Image

from training.benchmarks import convolutions, ours, peers
from training.benchmarks.frame import CPU, Group, Limit, Ratio, Result, Variant, changed_environment, measure
from training.measure import alone
from training.onednn import KEEP_PREPARED, VARIABLE, best_setting
from training.recipe import Recipe
from training.recipes import DIGITS, RECIPES
from training.runtimes import FEW_COPIES

TENSORFLOW = ("tensorflow", "keras_cnns")
TORCH = ("torch", "torchvision", "timm")
ONEDNN = {setting: {VARIABLE: str(int(setting == "on"))} for setting in ("off", "on")}
TRAINING = {setting: environment | KEEP_PREPARED for setting, environment in ONEDNN.items()}  # what `fit` sets

# The least ratios of speed, on two cores. A target that is not reached stands here all the same.

# {recipe: against the same network in torch, at 32 pixels, batch 32}.
SMALL_STEPS = {
    "resnet18_digits": 2.0,
    "seresnet18_digits": 2.0,
    "efficientnetb0_digits": 2.0,
    "googlenet_digits": 1.5,
    "inceptionv1_digits": 1.25,
    "densenet40_digits": 1.0,
}
# {network: against torch, and against keras.applications, which lacks some, at 224 pixels, batch 8}.
LARGE_STEPS = {
    "ResNet50": (1.0, 1.25),
    "InceptionV1": (1.0, None),
    "SEResNet50": (1.0, None),
    "VGG16": (1.0, 1.25),
    "DenseNet121": (1.15, 1.25),
    "EfficientNetB0": (1.1, 1.3),
}
FORM = 1.0  # of a convolution or its gradient, against TensorFlow's own kernel
DEFORMABLE = {"forward": 2.5, "with backward": 6.0}  # against torchvision
INPUT = 1.0  # against torchvision
WHOLE_RUN = 0.95  # against the bare step
EXPORT = 1.0  # against onnxruntime and OpenVINO on Keras's own export
SAVED_MODEL = 1.1  # against Keras's
# {network: the arguments that make it that of keras.applications}
KERAS_NETWORKS = {"ResNet50": {"version": "1"}, "EfficientNetB0": {}, "DenseNet121": {}}
BUILDING = 1.0  # against keras.applications
AT_ONCE = 1.0  # seconds of help, recipes and mistakes
PREDICT = 2.0  # seconds beyond TensorFlow's import
STEP_0 = 3.0  # seconds beyond TensorFlow's import

DENSENET_BC = {"depth": 100, "growth_rate": 12, "bottleneck": True, "compression": 0.5}
# Networks that are not compared with others: the rest of the families at the image size of their papers, and a DenseNet
# with and without recomputation, to compare their memory.
OTHER_STEPS = {
    "AlexNet": [{"image_size": 227}],
    "GoogLeNet": [{"model_args": {"aux_heads": True}}],
    "DeformableResNet50": [{}],
    "DenseNetCIFAR": [
        {"model_args": DENSENET_BC | extra, "image_size": 32, "batch_size": 64}
        for extra in ({}, {"memory_efficient": True})
    ],
}

BATCHES = 16  # of 32 images, in a turn of an input pipeline
# {pipeline: fields of the recipe, torchvision's transform of the same kind}.
PIPELINES = {
    "as in evaluation": ({}, "evaluation"),
    "crop, flip": ({"crop": "area", "flip": True}, "crop"),
    "crop, flip, RandAugment": ({"crop": "area", "flip": True, "policy": "randaugment"}, "randaugment"),
    "crop, flip, TrivialAugment": ({"crop": "area", "flip": True, "policy": "trivialaugment"}, "trivialaugment"),
    "crop, flip, mixup, CutMix": ({"crop": "area", "flip": True, "mixup": 0.2, "cutmix": 1.0}, None),
}

# The recipes with which the dashboards are measured, and the number of steps per block; a block is timed as a whole.
WATCHED = {
    "GoogLeNet, 32 px, batch 32": (
        Recipe(model_args={"aux_heads": True}, image_size=32, optimizer="adam", epochs=20),
        20,
    ),
    "ResNet50, 224 px, batch 8": (
        Recipe(model="ResNet50", data="synthetic", image_size=224, batch_size=8, epochs=20),
        5,
    ),
}

# A small network, so that the rest of `fit` is what takes time.
LEAST = dataclasses.replace(DIGITS, name="least", model="ResNetCIFAR", model_args={"depth": 8})


def with_and_without_onednn(what, build, environments=ONEDNN, **arguments):
    """Return two variants, {setting of oneDNN: Variant}; the environments are ONEDNN or TRAINING."""
    return {
        setting: Variant(f"{what}, oneDNN {setting}", build, arguments, environment, TENSORFLOW)
        for setting, environment in environments.items()
    }


def against(mine, best, other, at_least=None):
    """Return the ratios of the variants {setting: Variant} to another one; the better setting has the target."""
    order = sorted(mine, key=lambda setting: setting != best)
    return [Ratio(mine[name].name, other.name, at_least if name == best else None) for name in order]


def small_steps():
    """Yield the groups of training steps on small images."""
    for name, target in SMALL_STEPS.items():
        recipe = dataclasses.replace(RECIPES[name], image_size=32)
        mine = with_and_without_onednn("ours", ours.training_steps, TRAINING, recipe=recipe)
        shape = {"image_size": recipe.image_size, "batch_size": recipe.batch_size, "optimizer": recipe.optimizer}
        heads = {"heads": "aux_heads" in recipe.model_args}
        torch = Variant("torch", peers.torch_training_step, {"model": recipe.model} | shape | heads, needs=TORCH)
        ratios = against(mine, best_setting(recipe), torch, target)
        yield Group(f"{name}, 32 px, batch 32", (*mine.values(), torch), tuple(ratios), images=recipe.batch_size)


def large_steps():
    """Yield the groups of training steps on images of 224 pixels."""
    for model, (target, keras_target) in LARGE_STEPS.items():
        recipe = Recipe(model=model, data="synthetic", image_size=224, batch_size=8, learning_rate=0.01)
        mine = with_and_without_onednn("ours", ours.training_steps, TRAINING, recipe=recipe)
        best, shape = best_setting(recipe), {"model": model, "image_size": 224, "batch_size": 8}
        torch = Variant("torch", peers.torch_training_step, shape | {"optimizer": "sgd"}, needs=TORCH)
        variants, ratios = [*mine.values(), torch], against(mine, best, torch, target)
        if keras_target:
            keras = Variant("keras.applications", ours.keras_training_step, shape, needs=TENSORFLOW)
            same = dataclasses.replace(keras, name=f"{keras.name}, oneDNN {best}", environment=ONEDNN[best])
            variants += [keras, same]
            ratios += [*against(mine, best, keras, keras_target), Ratio(mine[best].name, same.name)]
        yield Group(f"{model}, 224 px, batch 8", tuple(variants), tuple(ratios), images=8)


def other_steps():
    """Yield the groups of training steps without a peer."""
    for model, alternatives in OTHER_STEPS.items():
        variants = []
        for fields in alternatives:
            fields = {"data": "synthetic", "image_size": 224, "batch_size": 8, "learning_rate": 0.01} | fields
            recipe = Recipe(model=model, **fields)
            name = "ours, memory_efficient" if "memory_efficient" in recipe.model_args else "ours"
            setting = best_setting(recipe)
            variants.append(with_and_without_onednn(name, ours.training_steps, TRAINING, recipe=recipe)[setting])
        size, batch = recipe.image_size, recipe.batch_size
        yield Group(f"{model}, {size} px, batch {batch}", tuple(variants), images=batch)


def forms_result(setting, shape, what, seconds, chosen):
    """Return the Result of one item of `measure_forms`; the form that Conv2D uses has the target."""
    names = {form: f"{form}, used" if form == chosen else form for form in seconds}
    others = [Ratio(names[chosen], names["tensorflow"], FORM)] if chosen != "tensorflow" else []
    title = f"oneDNN {setting}, {convolutions.title(shape)}, {what}"
    return Result(
        Group(title, (), tuple(others), unit="ms"), {names[form]: figures for form, figures in seconds.items()}
    )


def deformable_groups():
    """Yield the groups of deformable convolutions."""
    for (size, channels), (what, target) in itertools.product(((56, 64), (14, 256)), DEFORMABLE.items()):
        arguments = {"size": size, "channels": channels, "batch_size": 8, "backward": what != "forward"}
        mine = with_and_without_onednn("ours", ours.deformable, TRAINING, **arguments)
        torch = Variant("torchvision", peers.torch_deformable, arguments, needs=("torch", "torchvision"))
        ratios = against(mine, "on", torch, target)
        yield Group(f"(8, {size}, {size}, {channels}), {what}", (*mine.values(), torch), tuple(ratios), unit="ms")


def input_groups(files):
    """Yield the groups of input pipelines, which read image files."""
    for name, (fields, transform) in PIPELINES.items():
        recipe = Recipe(image_size=224, batch_size=32, **fields)
        arguments = {"files": files, "batches": BATCHES}
        mine = Variant("ours", ours.input_batches, {"recipe": recipe} | arguments, needs=TENSORFLOW)
        variants, ratios = [mine], []
        if transform:
            variants.append(
                Variant("torchvision", peers.torch_input_batches, {"transform": transform} | arguments, needs=TORCH[:2])
            )
            # Policies are measured too, but the targets are those of decoding and scaling.
            ratios.append(Ratio("ours", "torchvision", None if "policy" in fields else INPUT))
        yield Group(name, tuple(variants), tuple(ratios), images=BATCHES * 32, repeated=False)


def predict_groups():
    """Yield the groups of forward passes."""
    for model, batch_size in itertools.product(("ResNet50", "EfficientNetB0", "DenseNet121"), (1, 8)):
        arguments = {"model": model, "batch_size": batch_size}
        network = with_and_without_onednn("ours", ours.inference, **arguments)
        export = with_and_without_onednn("our export", ours.exported, **arguments, name="export")
        others = (
            Variant("keras.applications", ours.keras_inference, arguments, needs=TENSORFLOW),
            Variant("torch", peers.torch_inference, arguments, needs=TORCH),
            Variant("onnxruntime", peers.onnxruntime_inference, arguments, needs=(*TORCH, "onnxscript", "onnxruntime")),
            Variant("OpenVINO", peers.openvino_inference, arguments, needs=(*TORCH, "openvino")),
        )
        ratios = [Ratio(mine["on"].name, mine["off"].name) for mine in (network, export)]
        ratios += [ratio for other in others for ratio in against(network, "on", other)]
        variants = (*network.values(), *export.values(), *others)
        yield Group(f"{model}, batch {batch_size}", variants, tuple(ratios), images=batch_size)


def export_groups():
    """Yield the groups of exports, each in its own runtime, ours and those that Keras makes of its own networks."""
    for (model, options), batch_size in itertools.product(KERAS_NETWORKS.items(), (1, 8)):
        arguments = {"model": model, "batch_size": batch_size}
        own = arguments | {"options": options}
        saved = with_and_without_onednn("SavedModel", ours.exported, **own, name="export")
        theirs = with_and_without_onednn("Keras's SavedModel", ours.keras_exported, **arguments, kind="savedmodel")
        onnx = ("tf2onnx", "onnx", "onnxruntime")
        files = [
            Variant(name, ours.exported, own | {"name": file, "quantize": quantize}, needs=needs)
            for name, file, quantize, needs in (
                ("ONNX", "model.onnx", None, onnx),
                ("OpenVINO", "model.xml", None, (*onnx[:2], "openvino")),
                ("LiteRT", "model.tflite", None, ("ai_edge_litert",)),
                ("LiteRT, int8", "model.tflite", "int8", ("ai_edge_litert",)),
            )
        ]
        others = [
            Variant(name, ours.keras_exported, arguments | {"kind": kind}, FEW_COPIES, needs=onnx)
            for name, kind in (("Keras's ONNX", "onnx"), ("Keras's ONNX in OpenVINO", "openvino"))
        ]
        ratios = [Ratio(saved[setting].name, theirs[setting].name, SAVED_MODEL) for setting in ONEDNN]
        ratios += [Ratio("ONNX", "Keras's ONNX"), Ratio("LiteRT, int8", "LiteRT")]
        first, *further = [variant.name for variant in (*saved.values(), *files[:-1])]  # without int8
        ratios += [Ratio(first, other.name, EXPORT, tuple(further)) for other in others]
        variants = (*saved.values(), *theirs.values(), *files, *others)
        yield Group(f"exports of {model}, batch {batch_size}", variants, tuple(ratios), images=batch_size)


def command_groups(run, image):
    """Yield the groups of whole commands; `run` is a run folder, `image` an image file."""

    def command(name, *words, code=0):
        return Variant(name, ours.python, {"words": ["-m", "training", *words], "code": code})

    at_once = (
        command("--help", "--help"),
        command("recipes", "recipes"),
        command("fit --help", "fit", "--help"),
        command("unknown option", "fit", "resnet18_digits", "--epoch_s", "1", code=2),
        command("unknown model", "fit", "resnet18_digits", "--model", "ResNet19", code=2),
        command("unknown recipe", "fit", "resnet19_digits", code=2),
        command("missing run", "predict", f"{run}-missing", image, code=2),
    )
    limits = tuple(Limit(variant.name, AT_ONCE) for variant in at_once)
    yield Group("answers that need no TensorFlow", at_once, limits, unit="s", repeated=False)
    script = f"from training.benchmarks.ours import *\nfrom training.recipe import Recipe\nfit_to_step_0({LEAST})"
    commands = (
        Variant("import tensorflow", ours.python, {"words": ["-c", "import tensorflow"]}),
        command("predict", "predict", run, image),
        Variant("fit, to step 0", ours.python, {"words": ["-c", script]}),
    )
    limits = (Limit("predict", PREDICT, commands[0].name), Limit("fit, to step 0", STEP_0, commands[0].name))
    yield Group("commands that need TensorFlow", commands, limits, unit="s", repeated=False)


def building_groups():
    """Yield the groups of building networks."""
    for model in ("ResNet50", "ResNet152", "DenseNet201", "EfficientNetB0"):
        mine = Variant("ours", ours.building, {"model": model}, needs=TENSORFLOW)
        keras = Variant("keras.applications", ours.keras_building, {"model": model}, needs=TENSORFLOW)
        # Drawing he_normal's truncated normal numbers takes four times as long as glorot_uniform's.
        same = Variant(
            f"{keras.name}, he_normal", ours.keras_building, {"model": model, "he_normal": True}, {}, TENSORFLOW
        )
        ratios = (Ratio("ours", keras.name, BUILDING), Ratio("ours", same.name))
        yield Group(f"building {model}", (mine, keras, same), ratios, unit="s", repeated=False)


def run_groups(folder):
    """Yield the group of whole runs; the folder is for the runs.

    The run with the target validates one batch of images only, since a bare step has no validation. Pictures and
    histograms are left out: they are drawn every few epochs, and `dashboards` measures them.
    """
    recipe, steps = dataclasses.replace(RECIPES["googlenet_digits"], epochs=1000), 40
    shared = {"recipe": recipe, "steps": steps}
    environment = TRAINING[best_setting(recipe)]
    bare = Variant("bare step", ours.training_steps, shared, environment, TENSORFLOW)
    runs = []
    for name, validate in (("run", False), ("run, with its validation", True)):
        arguments = shared | {"folder": f"{folder}/{validate}", "validate": validate}
        runs.append(Variant(name, ours.whole_run, arguments, environment, TENSORFLOW))
    ratios = (Ratio(runs[0].name, bare.name, WHOLE_RUN), Ratio(runs[1].name, bare.name))
    yield Group("googlenet_digits", (bare, *runs), ratios, images=steps * recipe.batch_size)


def measured(groups, settings):
    """Yield the Results of the groups that the settings select."""
    for group in groups:
        if settings.only in group.title:
            yield measure(group, settings)


def step(settings):
    yield from measured(itertools.chain(small_steps(), large_steps(), other_steps()), settings)


def layers(settings):
    for setting, environment in TRAINING.items():
        shapes = [shape for shape in convolutions.SHAPES if settings.only in convolutions.title(shape)]
        with changed_environment(CPU | environment):
            measured_forms = alone(convolutions.measure_forms, shapes, settings.rounds, settings.seconds)
        for figures in measured_forms:
            yield forms_result(setting, *figures)


def deformable(settings):
    yield from measured(deformable_groups(), settings)


def input_(settings):
    with tempfile.TemporaryDirectory() as folder:
        yield from measured(input_groups(ours.photographs(folder)), settings)


def predict(settings):
    yield from measured(predict_groups(), settings)


def export(settings):
    yield from measured(export_groups(), settings)


def start(settings):
    with tempfile.TemporaryDirectory() as folder:
        run, image = f"{folder}/run", f"{folder}/image.png"
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(image)
        for group in command_groups(run, image):
            if settings.only in group.title and group.title == "commands that need TensorFlow":
                short = ["--epochs", "1", "--warmup_epochs", "0", "--picture_epochs", "0"]
                ours.python(["-m", "training", "fit", "googlenet_digits", *short, "--run", run])()
            yield from measured([group], settings)
    yield from measured(building_groups(), settings)


def run(settings):
    with tempfile.TemporaryDirectory() as folder:
        yield from measured(run_groups(folder), settings)


def dashboards(settings):
    for title, (recipe, steps) in WATCHED.items():
        if settings.only in title:
            with changed_environment(CPU | TRAINING[best_setting(recipe)]):
                measures = alone(ours.measure_dashboards, recipe, steps, 2 * settings.rounds)
            yield dashboards_result(title, recipe.batch_size, *measures)


def dashboards_result(title, batch_size, pairs, inside, ends, steps, every=5):
    """Return the Result of what `measure_dashboards` returns, for pictures every so many epochs."""
    names = ("without", "with dashboards")
    group = Group(title, (), (Ratio(names[1], names[0]),), images=batch_size)
    seconds = dict(zip(names, map(list, zip(*pairs, strict=True)), strict=True))
    median = statistics.median(seconds["without"])
    slow = ", ".join(f"{board} {taken:.2f} s" for board, taken in ends.items() if taken > 0.005)
    share = sum(ends.values()) / every / (median * steps)
    notes = [
        f"{title}: the callbacks take {inside / median:.2%} of a step; the end of an epoch with pictures: {slow}; "
        f"every {every} epochs of {steps} steps that is {share:.1%}"
    ]
    return Result(group, seconds, notes=notes)


# {part: a function (settings) -> Results}, in the order of `training.benchmarks.PARTS`.
FUNCTIONS = {
    "step": step,
    "layers": layers,
    "deformable": deformable,
    "input": input_,
    "predict": predict,
    "export": export,
    "start": start,
    "run": run,
    "dashboards": dashboards,
}
