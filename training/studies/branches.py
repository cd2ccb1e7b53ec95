"""An inception module looks at its input with filters of several sizes at once (L7).

Source: Szegedy et al. 2015, section 4 and Table 1: "visual information should be processed at various scales and then
aggregated". What each branch carries is not in the paper. Counted: its share of the channels and of the multiply-adds.
Measured in the GoogLeNet of the study `heads`: its share of the output times its gradient, summed over images, by
module; and the test error when one branch is silent in all modules.
"""

import keras
import numpy as np
import tensorflow as tf

import keras_cnns
from training.dashboards.probes import restored
from training.inference import trained_network
from training.studies import drawing, heads
from training.studies.frame import Claim, Row, values
from training.studies.probing import arrays, error_of

CHANNELS = "share of the channels of a module, %"
COST = "share of the multiply-adds of a module, %"
CARRIED = "share of the output times its gradient, %"
ERROR = "test error, %"
LARGEST = "share of the 3x3 branch in the channels of all modules, %"
RISE = "rise of the test error without the branch that is missed least, points"
MOST = "rise of the test error without 3x3 minus the rise without the pool, points"
BRANCHES = {"1x1": ("1x1",), "3x3": ("3x3reduce", "3x3"), "5x5": ("5x5reduce", "5x5"), "pool": ("poolproj",)}
SOURCE = "Szegedy et al. 2015, Table 1"

CLAIMS = (
    Claim("L7", "The 3x3 branch has the most channels.", LARGEST, SOURCE, least=40),
    Claim("L7", "Every branch is used: without any one of them the error rises.", RISE, SOURCE, least=0),
    Claim("L7", "The 3x3 branch is missed more than the pool.", MOST, SOURCE, least=0),
)

READING = """
What each branch has of a module's channels and multiply-adds, what it carries of the output times its gradient, from
the first module to the last, and the test error when one branch of all modules is silent. The large filters work where
there is something to see: at 32 pixels the maps of modules 5a and 5b have a single position, so that 3x3 and 5x5 meet
nothing but padding beside it, and the 1x1 branch carries the most. The 5x5 branch is missed least.
"""


def modules_of(network):
    """Return the names of the inception modules."""
    levels = dict.fromkeys(keras_cnns.level_of(layer.name) for layer in network.layers)
    return [level for level in levels if level.startswith("inception")]


def last_of(network, module, branch):
    """Return the last convolution of a branch."""
    return network.get_layer(f"{module}_{BRANCHES[branch][-1]}_conv")


def measure(lab):
    """Yield the shares by module and the errors without a branch."""
    for seed in lab.seeds:
        recipe = heads.recipe_of("GoogLeNet", seed, lab)
        run, _ = heads.train(lab, recipe)
        network = trained_network(run)
        if seed == lab.seeds[0]:
            yield from counted(network, recipe.image_size)
        images, labels = arrays(recipe, most=36 if lab.quick else None)
        yield from carried(network, run.recipe, images[:64], labels[:64], seed)
        error = error_of(network, run.recipe.preprocessing, images, labels)
        whole = error()
        yield Row(ERROR, "all branches", "", seed, whole)
        rises = {}
        for branch in BRANCHES:
            with restored(network.weights):
                for module in modules_of(network):
                    for variable in last_of(network, module, branch).weights:
                        variable.assign(0 * variable)
                rises[branch] = error() - whole
            yield Row(ERROR, f"without {branch}", "", seed, whole + rises[branch])
        yield Row(RISE, "", "", seed, min(rises.values()))
        yield Row(MOST, "", "", seed, rises["3x3"] - rises["pool"])


def counted(network, size):
    """Yield the shares of channels and multiply-adds."""
    costs = {layer.name: layer for layer in keras_cnns.complexity(network, (size, size, 3)).layers}
    totals = dict.fromkeys(BRANCHES, 0)
    for module in modules_of(network):
        channels = {branch: last_of(network, module, branch).filters for branch in BRANCHES}
        cost = {
            branch: sum(costs[f"{module}_{unit}_conv"].multiply_adds for unit in units)
            for branch, units in BRANCHES.items()
        }
        for quantity, found in ((CHANNELS, channels), (COST, cost)):
            for branch, value in found.items():
                yield Row(quantity, branch, module, None, 100 * value / sum(found.values()))
        totals = {branch: totals[branch] + channels[branch] for branch in BRANCHES}
    yield Row(LARGEST, "3x3", "", None, 100 * totals["3x3"] / sum(totals.values()))


def carried(network, recipe, images, labels, seed):
    """Yield the share of each branch in the absolute output times gradient of its module."""
    modules = modules_of(network)
    outputs = [network.get_layer(f"{module}_out").output for module in modules]
    # Gradients by maps inside the network: each is used again by the rest of it.
    parts = [keras.Model(network.input, outputs[0])]
    parts += [keras.Model(start, end) for start, end in zip(outputs, [*outputs[1:], network.output], strict=True)]
    with tf.GradientTape() as tape:
        x = keras_cnns.preprocess_input(tf.constant(images), recipe.preprocessing)
        maps = []
        for part in parts[:-1]:
            x = part(x, training=False)
            maps.append(x)
            tape.watch(x)
        logits = parts[-1](x, training=False)
        loss = tf.reduce_mean(keras.ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))
    for module, values_, gradient in zip(modules, maps, tape.gradient(loss, maps), strict=True):
        by_channel = np.abs(values_ * gradient).sum((0, 1, 2))
        sizes = [last_of(network, module, branch).filters for branch in BRANCHES]
        shares = [part.sum() for part in np.split(by_channel, np.cumsum(sizes)[:-1])]
        for branch, share in zip(BRANCHES, shares, strict=True):
            yield Row(CARRIED, branch, module, seed, 100 * float(share / max(sum(shares), 1e-30)))


def draw(rows):
    """Draw the shares by module as curves, and the errors as bars."""
    picture, (plots,) = drawing.figure("What the branches of inception modules carry", columns=4, width=4)
    looks = dict(
        zip(
            BRANCHES,
            (("#000000", "s", "--"), ("#D55E00", "^", "-"), ("#0072B2", "o", "-."), ("#999999", "v", ":")),
            strict=True,
        )
    )
    for axes, quantity in zip(plots, (CHANNELS, COST, CARRIED), strict=False):
        for branch, (colour, marker, line) in looks.items():
            found = {x.removeprefix("inception"): v for (_, x), v in values(rows, quantity, branch).items()}
            drawing.curve(axes, found, color=colour, marker=marker, linestyle=line, label=branch)
        axes.set(
            xlabel="module",
            title=quantity.removesuffix(", %").removeprefix("share of the "),
            ylabel="share, %",
            ylim=(0, None),
        )
        axes.legend(fontsize=9)
    for (series, _), found in values(rows, ERROR).items():
        colour = looks[series.removeprefix("without ")][0] if series.startswith("without") else "#56B4E9"
        drawing.bar(plots[3], series, found, 0.8, horizontal=True, color=colour)
    plots[3].set(xlabel=ERROR, title="a branch silent in all modules")
    plots[3].invert_yaxis()
    return picture
