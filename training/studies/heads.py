"""Auxiliary classifiers inject gradient into the lower layers, and are used in training only (L10, L11).

Sources: Szegedy et al. 2015, section 5: the heads "increase the gradient signal that gets propagated back" and "are
discarded at inference time"; Szegedy et al. 2016, "Rethinking the Inception Architecture", section 4: they do not help
early in training, where there is batch normalization.

Trained: GoogLeNet, without batch normalization, and InceptionV1, with it, both with their heads, on the digits. Before
training and after epochs, the gradient of each head's loss alone, with its weight in training, on a fixed batch.
"""

import functools
import itertools
import math
from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf

import keras_cnns
from training.forward import forward
from training.inference import trained_network
from training.recipes import RECIPES
from training.studies import drawing
from training.studies.frame import Claim, Row, values
from training.studies.probing import arrays, gradient_norms

NORM = "norm of the gradient by a kernel, after epochs {}"
ADDED = "log10 of the gradient of aux1 over that of the main head in the first layer, before training"
ABOVE = "gradient of aux1 above the module that it is attached to"
LEFT = "layers of auxiliary heads in the network for inference"
OUTPUTS = "largest difference of the outputs without the heads"
HEADS = ("main", "aux1", "aux2")
NETWORKS = {"GoogLeNet": "googlenet_digits", "InceptionV1": "inceptionv1_digits"}
EARLY = "Szegedy et al. 2015, section 5"

CLAIMS = (
    Claim(
        "L10",
        "Without batch normalization a head, with its weight of 0.3, adds a tenth of the main head's gradient to the "
        "first layer, or more.",
        f"{ADDED}, GoogLeNet",
        EARLY,
        least=-1,
    ),
    Claim(
        "L10",
        "With batch normalization the main head's gradient is larger at the start, and the heads are not needed.",
        f"{ADDED}, InceptionV1",
        "Szegedy et al. 2016, section 4",
        greatest=0,
    ),
    Claim("L10", "A head adds nothing above its module.", f"{ABOVE}, GoogLeNet", EARLY, least=0, greatest=0),
    Claim("L11", "No layer of a head is left for inference.", LEFT, EARLY, least=0, greatest=0),
    Claim("L11", "The outputs are the same without the heads.", OUTPUTS, EARLY, least=0, greatest=0),
)

READING = """
The norm of the gradient that each head alone sends to each layer, from the input (left) to the last module. A head's
curve ends at the module that it is attached to. Without batch normalization, above, the first head sends more gradient
to the lower layers than the main head before training, and less after an epoch; with it, below, the main head has the
most from the beginning.
"""


def recipe_of(name, seed, lab):
    """Return the recipe of a network of this study."""
    return lab.shortened(replace(RECIPES[NETWORKS[name]], epochs=5, seed=seed))


def head_gradients(recipe, images, labels, model):
    """Return {head: {layer: norm}} of each head's loss alone, with its weight in training."""
    weights = {head: 1.0 if head == "main" else recipe.aux_weight for head in HEADS}
    recipe = replace(recipe, preprocessing="imagenet")
    return {head: gradient_norms(model, recipe, images, labels, head, weight) for head, weight in weights.items()}


def train(lab, recipe):
    """Train a network of this study, and return its Run and {epochs: what `head_gradients` returned}."""
    look = functools.partial(head_gradients, recipe, *arrays(recipe, "train", 8 if lab.quick else 32))
    look.__name__ = "head_gradients"
    return lab.watch(recipe, look, (0, 1, recipe.epochs))


def measure(lab):
    """Yield the gradients by head and layer, and what the claims are about."""
    networks = list(itertools.product(NETWORKS, lab.seeds))
    trained = lab.map(train, [(lab, recipe_of(name, seed, lab)) for name, seed in networks])
    for (name, seed), (run, seen) in zip(networks, trained, strict=True):
        for epochs, heads in seen.items():
            for head, norms in heads.items():
                for layer, norm in norms.items():
                    yield Row(NORM.format(epochs), f"{name}, {head}", layer, seed, norm)
        yield from at_the_start(name, seen[0], seed)
        if name == "GoogLeNet":
            yield from without_heads(run, recipe_of(name, seed, lab), seed)


def at_the_start(name, heads, seed):
    """Yield what aux1 adds before training, from what `head_gradients` returned."""
    added, main = (max(heads[head]["conv1_conv"], 1e-30) for head in ("aux1", "main"))
    yield Row(f"{ADDED}, {name}", name, "", seed, math.log10(added / main))
    above = [norm for layer, norm in heads["aux1"].items() if layer.startswith("inception") and layer > "inception4b"]
    yield Row(f"{ABOVE}, {name}", name, "", seed, max(above))


def without_heads(run, recipe, seed):
    """Yield what is left of the heads in the network that a run is used with."""
    network = trained_network(run)
    yield Row(LEFT, "GoogLeNet", "", seed, sum(keras_cnns.is_auxiliary(layer.name) for layer in network.layers))
    whole = run.recipe.build(len(run.class_names))
    for layer in network.layers:
        whole.get_layer(layer.name).set_weights(layer.get_weights())
    images = tf.constant(arrays(recipe, most=32)[0])
    outputs = [forward(model, images, run.recipe.preprocessing) for model in (whole, network)]
    difference = np.abs(keras.ops.convert_to_numpy(outputs[0]["main"]) - outputs[1]).max()
    yield Row(OUTPUTS, "GoogLeNet", "", seed, float(difference))


def draw(rows):
    """Draw the gradients by layer, a row of plots for each network, a column for each time."""
    times = sorted({int(row.quantity.split()[-1]) for row in rows if row.quantity.startswith(NORM[:-3])})
    picture, plots = drawing.figure(
        "Where the gradient of each head arrives", columns=len(times), rows=len(NETWORKS), sharey="row"
    )
    lines = {"main": "-", "aux1": "--", "aux2": ":"}
    for line, (plot, name) in enumerate(zip(plots, NETWORKS, strict=True)):
        for axes, epochs in zip(plot, times, strict=True):
            for head in HEADS:
                found = values(rows, NORM.format(epochs), f"{name}, {head}")
                names = [x for _, x in found]
                curve = {place: norms for place, norms in enumerate(found.values()) if max(norms) > 0}
                colour = drawing.FAMILIES["GoogLeNet"][0] if head == "main" else drawing.FAMILIES["plain"][0]
                drawing.curve(axes, curve, color=colour, linestyle=lines[head], label=head)
            ticks = [place for place, layer in enumerate(names) if layer.endswith("_1x1_conv") or place == 0]
            labels = [names[place].split("_")[0].removeprefix("inception") for place in ticks]
            axes.set_xticks(ticks, labels, fontsize=8)
            axes.set(title=f"{name}, {epochs} epochs", yscale="log", xlabel="layer")
            axes.legend(fontsize=9)
        plots[line, 0].set_ylabel("norm of the gradient by the kernel")
    return picture
