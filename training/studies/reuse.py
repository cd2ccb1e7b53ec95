"""A DenseNet keeps earlier maps and passes them on to all later layers (L17).

Source: Huang, Liu, van der Maaten, Weinberger 2017, "Densely Connected Convolutional Networks", section 5, "Feature
reuse", and Figure 5: the mean absolute weight that a layer gives to the maps of each earlier one, in a trained network,
here DenseNet with 40 layers and growth rate 12, on the digits. Weights of batch normalization in between are ignored,
as there.
"""

import re
import statistics
from dataclasses import replace

import numpy as np

from training.inference import trained_network
from training.recipes import RECIPES
from training.studies import drawing
from training.studies.frame import Claim, Row, values

WEIGHT = "mean absolute weight, in units of the largest of its layer, block {}"
EARLY = "weight of the first third of a block's layers, in units of the mean over all sources"
TRANSITIONS = "weight of the source that transitions use least, in units of the mean over all sources"
INPUT = "weight of a block's input in blocks 2 and 3, in units of the mean over all sources"
LATE = "weight that the classifier gives to the last third of block 3, in units of the first third"
SOURCE = "Huang et al. 2017, section 5"

CLAIMS = (
    Claim("L17", "Layers use the maps of early layers of their block directly.", EARLY, SOURCE, least=0.5),
    Claim("L17", "Transitions use the maps of all layers of a block.", TRANSITIONS, SOURCE, least=0.3),
    Claim(
        "L17", "Layers of the second and third block use the output of the transition least.", INPUT, SOURCE, greatest=1
    ),
    Claim("L17", "The classifier concentrates on the maps of the last layers.", LATE, SOURCE, least=1),
)

READING = """
Each square shows how strongly a layer (column) uses the maps of a source (row): the input of the block, row 0, and the
layers before it. The last column is the transition, or the classifier. Bright squares far above the diagonal are
features that are used again many layers later.
"""


def recipe_of(seed, lab):
    """Return the recipe of DenseNet-40 at the size that the digits have."""
    depth = 13 if lab.quick else 40
    recipe = replace(RECIPES["densenet40_digits"], image_size=8, seed=seed)
    return lab.shortened(replace(recipe, model_args=recipe.model_args | {"depth": depth}))


def measure(lab):
    """Yield the weights by block, source and layer, and what the claims are about."""
    for seed in lab.seeds:
        network = trained_network(lab.train(recipe_of(seed, lab)))
        tables = [table_of(network, block) for block in (1, 2, 3)]
        for block, table in enumerate(tables, start=1):
            for layer, weights in enumerate(table, start=1):
                for source, weight in enumerate(weights):
                    yield Row(WEIGHT.format(block), str(layer), source, seed, weight / max(weights))
        inside = [weights for table in tables for weights in table[:-1] if len(weights) > 2]
        thirds = [relative(weights)[1 : 1 + max(1, len(weights) // 3)] for weights in inside]
        yield Row(EARLY, "", "", seed, mean_of(thirds))
        yield Row(TRANSITIONS, "", "", seed, mean_of([[min(relative(table[-1]))] for table in tables[:2]]))
        late = [[relative(weights)[0]] for table in tables[1:] for weights in table[1:-1]]
        yield Row(INPUT, "", "", seed, mean_of(late))
        last = tables[2][-1][1:]
        third = max(1, len(last) // 3)
        yield Row(LATE, "", "", seed, statistics.mean(last[-third:]) / statistics.mean(last[:third]))


def relative(weights):
    """Return weights in units of their mean."""
    return [weight / statistics.mean(weights) for weight in weights]


def mean_of(lists):
    """Return the mean over all numbers in lists."""
    return statistics.mean(number for numbers in lists for number in numbers)


def table_of(network, block):
    """Return, for each layer of a block and for what follows it, the mean absolute weight of each source."""
    names = [layer.name for layer in network.layers if re.fullmatch(rf"dense{block}_layer\d+_conv1_conv", layer.name)]
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
    """Draw a heat map for each block."""
    picture, (plots,) = drawing.figure("Which earlier maps the layers of a DenseNet use", columns=3, width=4.6)
    for block, axes in enumerate(plots, start=1):
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
    picture.colorbar(image, ax=plots, label="mean absolute weight, largest of the layer = 1", shrink=0.8)
    return picture
