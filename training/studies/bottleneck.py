"""A naive inception module is costly; 1x1 convolutions in front of the large filters solve that (L8).

Source: Szegedy et al. 2015, "Going Deeper with Convolutions", section 4, Figure 2 and Table 1. Counted at 224 pixels,
module by module, with the time of a forward pass; then both networks are trained on the digits for the same time, the
naive one for as many epochs as it has in the time of the other one's.
"""

import functools
import json
import statistics
from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf

import keras_cnns
from training.benchmarks.ours import training_steps
from training.files import atomic
from training.measure import seconds_per_call
from training.recipes import DIGITS
from training.studies import drawing
from training.studies.frame import Claim, Row, values

COUNTS = {
    "multiply_adds": "multiply-adds of a module, millions",
    "parameters": "parameters of a module, thousands",
    "activations": "activations of a module, thousands",
}
TIME = "forward pass of a module, ms per image"
TIMES = "multiply-adds of the naive network, in units of the other's"
PARAMETERS = "parameters of the naive network, in units of the other's"
SECONDS = "seconds of all modules of the naive network, in units of the other's"
EPOCHS = "epochs in the same time"
TEST = "test error, %"
DIFFERENCE = f"{TEST}, naive minus bottleneck after the same time"
NETWORKS = {"bottleneck": False, "naive": True}
SOURCE = "Szegedy et al. 2015, section 4"

CLAIMS = (
    Claim(
        "L8",
        "Without 1x1 reductions the cost of the modules blows up within a few stages.",
        TIMES,
        SOURCE,
        least=4,
    ),
    Claim("L8", "So does the number of parameters.", PARAMETERS, SOURCE, least=4),
    Claim("L8", "The time that a forward pass takes grows with it.", SECONDS, SOURCE, least=3),
    Claim(
        "L8",
        "Trained for the same time, the naive network is less accurate.",
        DIFFERENCE,
        f"{SOURCE}: the naive form leads to a computational blow up",
        least=0,
    ),
)

READING = """
Without the 1x1 convolutions each module passes on all channels that it gets through its pool, and adds its own: the
modules grow without end, and with them every number that is drawn here. Trained for as long as the other network, the
naive one sees each image far less often.
"""


def measure(lab):
    """Yield the counts and times by module, and the errors after training for the same time."""
    totals = {}
    for kind, naive in NETWORKS.items():
        size = 32 if lab.quick else 224
        model = keras_cnns.GoogLeNet(naive=naive, input_shape=(size, size, 3), include_top=False)
        for module, counts in by_module(model).items():
            for count, quantity in COUNTS.items():
                unit = 1e6 if count == "multiply_adds" else 1e3
                yield Row(quantity, kind, module, None, counts[count] / unit)
        cost = keras_cnns.complexity(model)
        times = dict(module_times(model, 1 if lab.quick else 5))
        for module, seconds in times.items():
            yield Row(TIME, kind, module, None, 1000 * seconds)
        totals[kind] = cost.multiply_adds, cost.parameters, sum(times.values())
    for place, quantity in enumerate((TIMES, PARAMETERS, SECONDS)):
        yield Row(quantity, "naive", "", None, totals["naive"][place] / totals["bottleneck"][place])
    yield from trained(lab)


def by_module(model):
    """Return {module: {count of COUNTS: its sum over the layers}} of the inception modules."""
    modules = {}
    for layer in keras_cnns.complexity(model).layers:
        if (level := keras_cnns.level_of(layer.name)).startswith("inception"):
            sums = modules.setdefault(level, dict.fromkeys(COUNTS, 0))
            for count in COUNTS:
                sums[count] += getattr(layer, count)
    return modules


def module_times(model, repetitions, batch=4):
    """Yield (module, median seconds per image of its forward pass)."""
    random = np.random.RandomState(0)
    for module in by_module(model):
        end = model.get_layer(f"{module}_out").output
        start = model.get_layer(f"{module}_pool").input
        part = keras.Model(start, end)
        forward = tf.function(functools.partial(part, training=False), autograph=False)
        maps = tf.constant(random.normal(size=(batch, *start.shape[1:])).astype(np.float32))
        yield module, statistics.median(seconds_per_call(lambda: forward(maps).numpy(), repetitions)) / batch  # noqa: B023


def trained(lab):
    """Yield the test errors after training for the same time."""
    epochs = 6
    file = lab.folder / "bottleneck" / "ratio.json"
    if not file.exists():  # a resumed study trains for as long as before
        times = [step_seconds(recipe_of(kind, 1, 0)) for kind in ((False,) if lab.quick else (True, False))]
        with atomic(file) as temporary:
            temporary.write_text(f"{times[0] / times[-1]:.3f}\n")
    ratio = json.loads(file.read_text())
    lengths = {"bottleneck": epochs, "naive": max(1, round(epochs / ratio))}
    for kind, length in lengths.items():
        yield Row(EPOCHS, kind, "", None, length)
    for seed in lab.seeds:
        errors = {}
        for kind, length in lengths.items():
            # The naive network has 98 million parameters: not in the quick form.
            run = lab.train(lab.shortened(recipe_of(kind == "naive" and not lab.quick, length, seed)))
            errors[kind] = 100 * (1 - run.results()["test"]["accuracy"])
            yield Row(TEST, kind, "", seed, errors[kind])
        yield Row(DIFFERENCE, "", "", seed, errors["naive"] - errors["bottleneck"])


def recipe_of(naive, epochs, seed):
    """Return the recipe of a network."""
    name, arguments = "naive" if naive else "bottleneck", {"naive": naive}
    return replace(
        DIGITS, name=name, model="GoogLeNet", model_args=arguments, epochs=epochs, warmup_epochs=0.0, seed=seed
    )


def step_seconds(recipe):
    """Return the median time of a recipe's training step."""
    keras.backend.clear_session()
    return statistics.median(seconds_per_call(training_steps(recipe), 5))


def draw(rows):
    """Draw two bars a module for each count, and the errors."""
    picture, plots = drawing.figure("Inception modules with and without 1x1 bottlenecks", columns=2, rows=2)
    colours = {"bottleneck": drawing.FAMILIES["GoogLeNet"][0], "naive": drawing.FAMILIES["plain"][0]}
    for axes, quantity in zip(plots.flat, [COUNTS["multiply_adds"], COUNTS["parameters"], TIME], strict=False):
        for shift, kind in ((-0.2, "bottleneck"), (0.2, "naive")):
            found = {x: v[0] for (_, x), v in values(rows, quantity, kind).items()}
            places = [place + shift for place in range(len(found))]
            axes.bar(places, list(found.values()), 0.4, color=colours[kind], label=kind)
        axes.set_xticks(range(len(found)), [module.removeprefix("inception") for module in found])
        axes.set(xlabel="module", ylabel=quantity, yscale="log")
        axes.legend(fontsize=9)
    axes = plots[1, 1]
    epochs = {series: found[0] for (series, _), found in values(rows, EPOCHS).items()}
    for (kind, _), found in values(rows, TEST).items():
        label = f"{kind}, {epochs[kind]:.0f} epoch{'s' if epochs[kind] > 1 else ''}"
        drawing.bar(axes, label, found, 0.5, capsize=4, color=colours[kind])
    axes.set(ylabel=TEST, title="trained for the same time")
    return picture
