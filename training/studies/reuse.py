"""A DenseNet keeps earlier maps and passes them on to all later layers (L17).

Source: Huang, Liu, van der Maaten, Weinberger 2017, "Densely Connected Convolutional Networks", section 5, "Feature
reuse", and Figure 5: the mean absolute weight that a layer gives to the maps of each earlier one, in a trained network,
here DenseNet with 40 layers and growth rate 12, on the digits. Weights of batch normalization in between are ignored,
as there.
"""

import re
import statistics
from dataclasses import replace

import keras
import numpy as np

from training.dashboards.probes import restored
from training.inference import trained_network
from training.recipes import RECIPES
from training.studies import drawing
from training.studies.frame import Claim, Row, by_x, values
from training.studies.probing import arrays, error_of

WEIGHT = "mean absolute weight, in units of the largest of its layer, block {}"
EARLY = "weight of the first third of a block's layers, in units of the mean over all sources"
TRANSITIONS = "weight of the source that transitions use least, in units of the mean over all sources"
INPUT = "weight of a block's input in blocks 2 and 3, in units of the mean over all sources"
LATE = "weight that the classifier gives to the last third of block 3, in units of the first third"
ERROR = "test error if layers see only sources up to a distance, %"
CUT = "rise of the test error without the connections that skip a layer, points"
UNTRAINED = "{}, before training"
SOURCE = "Huang et al. 2017, section 5"

CLAIMS = (
    Claim("L17", "Layers use the maps of early layers of their block directly.", EARLY, SOURCE, least=0.5),
    Claim("L17", "Transitions use the maps of all layers of a block.", TRANSITIONS, SOURCE, least=0.3),
    Claim(
        "L17", "Layers of the second and third block use the output of the transition least.", INPUT, SOURCE, greatest=1
    ),
    Claim("L17", "The classifier concentrates on the maps of the last layers.", LATE, SOURCE, least=1),
    Claim(
        "L17", "Without the connections that skip a layer of a block the trained network fails.", CUT, SOURCE, least=5
    ),
)

READING = """
Left: how strongly a layer (column) uses the maps of a source (row): the input of the block, row 0, and the layers
before it. The last column is the transition, or the classifier. The paper's networks were trained for 300 epochs with
weight decay; after 400 steps without it the kernels are still close to their random beginning, and a network that was
never trained has nearly the same numbers (they are in the table), so that the first four predictions say little here.
Right: what the connections are worth. When the layers of a block see only so many sources, counted back, the error
rises to chance: they do use maps that are many layers old.
"""


def recipe_of(seed, lab):
    """Return the recipe of DenseNet-40 at the size that the digits have."""
    depth = 13 if lab.quick else 40
    recipe = replace(RECIPES["densenet40_digits"], image_size=8, seed=seed)
    return lab.shortened(replace(recipe, model_args=recipe.model_args | {"depth": depth}))


def measure(lab):
    """Yield the weights by block, source and layer, and what the claims are about."""
    recipes = [recipe_of(seed, lab) for seed in lab.seeds]
    for seed, recipe, run in zip(lab.seeds, recipes, lab.train_all(recipes), strict=True):
        network = trained_network(run)
        tables = tables_of(network)
        for block, table in enumerate(tables, start=1):
            for layer, weights in enumerate(table, start=1):
                for source, weight in enumerate(weights):
                    yield Row(WEIGHT.format(block), str(layer), source, seed, weight / max(weights))
        keras.utils.set_random_seed(seed)
        untrained = observations(tables_of(recipe.build(10)))
        for quantity, value in observations(tables).items():
            yield Row(quantity, "DenseNet", "", seed, value)
            yield Row(UNTRAINED.format(quantity), "DenseNet", "", seed, untrained[quantity])
        yield from cut(network, error_of(network, run.recipe.preprocessing, *arrays(recipe)), seed)


def observations(tables):
    """Return what the paper observes, {quantity: value}, from the tables of the three blocks."""
    inside = [weights for table in tables for weights in table[:-1] if len(weights) > 2]
    thirds = [relative(weights)[1 : 1 + max(1, len(weights) // 3)] for weights in inside]
    last = tables[2][-1][1:]
    third = max(1, len(last) // 3)
    return {
        EARLY: mean_of(thirds),
        TRANSITIONS: mean_of([[min(relative(table[-1]))] for table in tables[:2]]),
        INPUT: mean_of([[relative(weights)[0]] for table in tables[1:] for weights in table[1:-1]]),
        LATE: statistics.mean(last[-third:]) / statistics.mean(last[:third]),
    }


def cut(network, error, seed):
    """Yield the test errors if the layers of a block see only the sources at most so far before them."""
    blocks = [convolutions_of(network, block) for block in (1, 2, 3)]
    growth, count, errors = blocks[0][0].filters, len(blocks[0]), {}
    for distance in range(1, count + 1):
        with restored(network.weights):
            for before, layer in ((before, layer) for block in blocks for before, layer in enumerate(block)):
                if before >= distance:
                    kernel = layer.kernel.numpy()
                    kernel[:, :, : -growth * distance] = 0
                    layer.kernel.assign(kernel)
            errors[distance] = error()
        yield Row(ERROR, "DenseNet", distance, seed, errors[distance])
    yield Row(CUT, "DenseNet", "", seed, errors[1] - errors[count])


def relative(weights):
    """Return weights in units of their mean."""
    return [weight / statistics.mean(weights) for weight in weights]


def mean_of(lists):
    """Return the mean over all numbers in lists."""
    return statistics.mean(number for numbers in lists for number in numbers)


def convolutions_of(network, block):
    """Return the convolutions of a block."""
    return [layer for layer in network.layers if re.fullmatch(rf"dense{block}_layer\d+_conv1_conv", layer.name)]


def tables_of(network):
    """Return the tables of the three blocks."""
    return [table_of(network, block) for block in (1, 2, 3)]


def table_of(network, block):
    """Return, for each layer of a block and for what follows it, the mean absolute weight of each source."""
    names = [layer.name for layer in convolutions_of(network, block)]
    after = f"transition{block}_conv" if block < 3 else "head_dense"
    growth = network.get_layer(names[0]).filters
    table = []
    for name in [*names, after]:
        kernel = np.abs(network.get_layer(name).get_weights()[0])
        by_channel = kernel.mean(axis=tuple(axis for axis in range(kernel.ndim) if axis != kernel.ndim - 2))
        sources = len(table) if name != after else len(names)
        channels = len(by_channel) - growth * sources  # of the block's input
        parts = np.split(by_channel, channels + growth * np.arange(sources)) if sources else [by_channel]
        table.append([float(part.mean()) for part in parts])
    return table


def draw(rows):
    """Draw a heat map for each block, and the error by the distance that layers see."""
    picture, (plots,) = drawing.figure("Which earlier maps the layers of a DenseNet use", columns=4, width=4.2)
    for block, axes in enumerate(plots[:3], start=1):
        found = values(rows, WEIGHT.format(block))
        layers = max(int(layer) for layer, _ in found)
        grid = np.full((layers, layers), np.nan)
        for (layer, source), weights in found.items():
            grid[int(source), int(layer) - 1] = statistics.mean(weights)
        image = axes.imshow(grid, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
        after = "transition" if block < 3 else "classifier"
        axes.set(title=f"block {block}", xlabel=f"layer; the last is the {after}", ylabel="source; 0 is the input")
        axes.grid(False)
        axes.set_xticks(range(0, layers, 2), range(1, layers + 1, 2))
    picture.colorbar(image, ax=plots[:3], label="mean absolute weight, largest of the layer = 1", shrink=0.8)
    found = by_x(rows, ERROR)
    drawing.curve(plots[3], found, **drawing.style("DenseNet"))
    plots[3].set(
        title="distant sources cut off", xlabel="sources that a layer sees, counted back", ylabel="test error, %"
    )
    return picture
