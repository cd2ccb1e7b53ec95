"""Squeeze and excitation models relations between channels and emphasises the important ones (L18).

Source: Hu, Shen, Sun 2018, "Squeeze-and-Excitation Networks", section on the role of excitation and Figure 6: gates are
alike for all classes in early blocks, specific to the class in later ones, and nearly saturated in the last. Measured
in SEResNet18 trained on the digits: the mean gate of each channel by class, the share of the gates' variance that is
between classes, and the test error when the gates of a stage are replaced by their means over all images.
"""

import re
import statistics
from dataclasses import replace

import keras
import numpy as np

import keras_cnns
from training.dashboards.probes import restored
from training.inference import trained_network
from training.recipes import RECIPES
from training.studies import drawing
from training.studies.frame import Claim, Row, values
from training.studies.probing import arrays, error_of

GATE = "mean gate of a channel, {}"
SHARE = "share of the gates' variance that is between classes"
HIGH = "share of the gates above 0.9 in the last block"
ERROR = "test error with constant gates in a stage, %"
WHOLE = "test error, %"
LATER = f"{SHARE}, last stage minus first"
ABLATION = "rise of the test error by constant gates, last stage minus first, points"
SOURCE = "Hu, Shen, Sun 2018, Figure 6"
SHOWN = 32  # channels of a block in the figure

CLAIMS = (
    Claim("L18", "Gates depend on the class in late stages more than in early ones.", LATER, SOURCE, least=0.1),
    Claim("L18", "In the last block most gates are nearly open.", HIGH, SOURCE, least=0.5),
    Claim("L18", "Constant gates cost more accuracy in the last stage than in the first.", ABLATION, SOURCE, least=0),
)

READING = """
A line is the mean gate of one class over the channels of a block. Where the lines lie on each other, the gates treat
all classes alike; where they part, a channel is open for some classes and closed for others: in the late stages, as in
the paper. The last block is not nearly open, as the paper's is after a hundred epochs of ImageNet. Bottom right: the
share of the variance that is between classes grows with depth; with constant gates in any one stage the error is nearly
the same, so that on the digits the network does not depend on them.
"""


def gates_of(network):
    """Return the layers whose outputs are gates."""
    return [layer for layer in network.layers if re.search(r"_gate_.*sigmoid$", layer.name)]


def measure(lab):
    """Yield the gates by class, the share between classes, and the errors with constant gates."""
    recipes = [lab.shortened(replace(RECIPES["seresnet18_digits"], epochs=4, seed=seed)) for seed in lab.seeds]
    for seed, recipe, run in zip(lab.seeds, recipes, lab.train_all(recipes), strict=True):
        network = trained_network(run)
        images, labels = arrays(recipe, most=60 if lab.quick else None)
        look = keras.Model(network.input, [layer.output for layer in gates_of(network)])
        gates = look.predict(keras_cnns.preprocess_input(images, run.recipe.preprocessing), verbose=0)
        names = [layer.name.partition("_gate")[0] for layer in gates_of(network)]
        gates = {name: gate.reshape(len(labels), -1) for name, gate in zip(names, gates, strict=True)}
        shares = {}
        for name, gate in gates.items():
            shares[name] = between_classes(gate, labels)
            yield Row(SHARE, "SENet", name, seed, shares[name])
            if seed == lab.seeds[0]:
                for label in range(len(run.class_names)):
                    for channel, value in enumerate(gate[labels == label].mean(axis=0)[:SHOWN]):
                        yield Row(GATE.format(name), run.class_names[label], channel, seed, float(value))
        stages = list(dict.fromkeys(map(keras_cnns.level_of, names)))
        yield Row(LATER, "", "", seed, last_minus_first(shares))
        yield Row(HIGH, "", "", seed, float((gates[names[-1]] > 0.9).mean()))
        yield from ablated(network, run.recipe.preprocessing, images, labels, gates, stages, seed)


def last_minus_first(shares):
    """Return the mean share of the blocks in the last stage minus that of the blocks in the first one."""
    stages = [keras_cnns.level_of(block) for block in shares]
    last, first = (
        statistics.mean(share for share, of in zip(shares.values(), stages, strict=True) if of == stage)
        for stage in (stages[-1], stages[0])
    )
    return last - first


def between_classes(gate, labels):
    """Return the share of the variance of gates (images, channels), over images, that is between classes; the mean over
    the channels, weighted by their variance. Constant gates have none: 0."""
    means = np.stack([gate[labels == label].mean(axis=0) for label in labels])
    total = gate.var(axis=0).sum()
    return float(means.var(axis=0).sum() / total) if total > 1e-12 else 0.0


def ablated(network, preprocessing, images, labels, gates, stages, seed):
    """Yield the error with constant gates in each stage."""
    error = error_of(network, preprocessing, images, labels)
    whole = error()
    yield Row(WHOLE, "SENet", "", seed, whole)
    rises = {}
    for stage in stages:
        with restored(network.weights):
            for name in (name for name in gates if name.startswith(stage)):
                expand = [layer for layer in network.layers if layer.name.startswith(f"{name}_gate") and layer.weights][
                    -1
                ]
                mean = np.clip(gates[name].mean(axis=0), 1e-6, 1 - 1e-6)
                kernel, bias = expand.weights
                kernel.assign(0 * kernel)
                bias.assign(np.log(mean / (1 - mean)))
            rises[stage] = error() - whole
        yield Row(ERROR, "SENet", stage, seed, whole + rises[stage])
    yield Row(ABLATION, "", "", seed, rises[stages[-1]] - rises[stages[0]])


def draw(rows):
    """Draw a panel for each block with a line for each class, and the shares and errors."""
    blocks = list(dict.fromkeys(row.x for row in rows if row.quantity == SHARE))
    picture, plots = drawing.figure(
        "Gates of SE-ResNet-18 by class", columns=3, rows=-(-(len(blocks) + 1) // 3), height=2.8
    )
    for axes, block in zip(plots.flat, blocks, strict=False):
        classes = list(dict.fromkeys(series for series, _ in values(rows, GATE.format(block))))
        for place, name in enumerate(classes):
            found = values(rows, GATE.format(block), name)
            curve = [gates[0] for gates in found.values()]
            axes.plot(curve, linewidth=0.9, color=drawing.shade(place, len(classes)), label=name)
        axes.set(title=block, xlabel=f"channel, the first {SHOWN}", ylabel="gate", ylim=(0, 1))
    plots.flat[0].legend(fontsize=6, ncols=5, title="class", title_fontsize=7)
    axes = plots.flat[len(blocks)]
    shares = {x.replace("stage", "").replace("_block", "."): v for (_, x), v in values(rows, SHARE).items()}
    drawing.curve(axes, shares, **drawing.style("SENet", label="variance between classes"))
    axes.set(xlabel="stage.block", ylabel="share", ylim=(0, 1))
    other = axes.twinx()
    errors = {f"{x.removeprefix('stage')}.2": v for (_, x), v in values(rows, ERROR).items()}
    drawing.curve(other, errors, **drawing.style("plain", label="error, constant gates in the stage"))
    other.set_ylabel("test error, %")
    axes.legend(fontsize=7, loc="upper left")
    other.legend(fontsize=7, loc="lower right")
    for unused in plots.flat[len(blocks) + 1 :]:
        unused.axis("off")
    return picture
