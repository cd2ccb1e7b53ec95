"""A residual network survives the loss of blocks, as a collection of many paths would (L15).

Source: Veit, Wilber, Belongie 2016, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks", Figures
3, 5 and 6: a block of a trained residual network can be deleted almost without harm, one of a plain network cannot; the
error grows smoothly with the number of deleted and of swapped blocks; and the gradient flows through short paths.

The networks are those of the study `degradation` with 56 layers. Deleting a residual block sets the scale and shift of
its last batch normalization to zero; a plain block becomes the identity, with kernels that copy each channel. Swapping
exchanges the weights of two blocks of the same stage. A path of k blocks is followed by the gradient only: k blocks,
drawn at random, pass it through their convolutions, all others through their shortcuts.
"""

import itertools
import math
import random
import re
import statistics

import keras
import numpy as np
import tensorflow as tf

import keras_cnns
from training.dashboards.probes import restored
from training.inference import trained_network
from training.studies import degradation, drawing
from training.studies.frame import Claim, Row, by_x, values
from training.studies.probing import arrays, error_of

ONE = "test error after deleting one block, %"
MANY = "test error after deleting several blocks, %"
SWAPPED = "test error after swapping pairs of blocks, %"
NORM = "norm of the gradient at the first block through a path"
WHOLE = "test error, %"
LENGTH = "mean length of a path, weighted by number and gradient, over the number of blocks"
MEDIAN = "median rise of the test error by deleting one block, points"
TREND = "rank correlation of the test error with the number of deleted blocks, residual"
SOURCE = "Veit, Wilber, Belongie 2016"
DRAWS = 5

CLAIMS = (
    Claim(
        "L15",
        "Most blocks of a residual network can be deleted without harm, each by itself.",
        f"{MEDIAN}, residual",
        f"{SOURCE}, Figure 3",
        greatest=5,
    ),
    Claim(
        "L15",
        "A plain network fails without any one of its blocks.",
        f"{MEDIAN}, plain",
        f"{SOURCE}, Figure 3",
        least=20,
    ),
    Claim(
        "L15",
        "The error of a residual network grows smoothly with the number of deleted blocks.",
        TREND,
        f"{SOURCE}, Figure 5a",
        least=0.9,
    ),
    Claim(
        "L15",
        "The gradient flows through paths that are shorter than half the blocks.",
        LENGTH,
        f"{SOURCE}, Figure 6",
        greatest=0.4,
    ),
)

READING = """
Left: each point is a network without one block. The residual network misses only the first block. The plain network,
which is a bad one to begin with, comes near to chance without any block; since its own error differs so much between
the seeds, they do not decide how much worse that is. Middle: the error of the residual network grows with the number of
deleted blocks as that of an ensemble would, and hardly with the number of swapped pairs. Right: paths of half the
blocks are the most frequent ones, but the gradient that reaches the first block through a path falls steeply with its
length, so that the product of the two lies at short paths.
"""


def blocks_of(network):
    """Return the names of a network's blocks, in order."""
    return list(
        dict.fromkeys(found[0] for layer in network.layers if (found := re.match(r"stage\d_block\d+", layer.name)))
    )


def input_of(network, block):
    """Return the tensor that a block takes."""
    return next(layer.input for layer in network.layers if layer.name.startswith(f"{block}_conv1"))


def layers_of(network, block):
    """Return the convolutions and the batch normalizations of a block's branch."""
    inside = [layer for layer in network.layers if re.fullmatch(rf"{block}_conv\d_(conv|bn)", layer.name)]
    return [x for x in inside if x.name.endswith("_conv")], [x for x in inside if x.name.endswith("_bn")]


def delete(network, block, residual):
    """Remove what a block does: its branch adds nothing, or its layers copy their input."""
    convolutions, normalizations = layers_of(network, block)
    if residual:
        normalizations[-1].gamma.assign(0 * normalizations[-1].gamma)
        normalizations[-1].beta.assign(0 * normalizations[-1].beta)
        return
    for convolution, normalization in zip(convolutions, normalizations, strict=True):
        kernel = np.zeros(convolution.kernel.shape, np.float32)
        np.fill_diagonal(kernel[kernel.shape[0] // 2, kernel.shape[1] // 2], 1)
        convolution.kernel.assign(kernel)
        normalization.gamma.assign(keras.ops.sqrt(normalization.moving_variance + normalization.epsilon))
        normalization.beta.assign(normalization.moving_mean)


def swap(network, one, other):
    """Exchange the weights of two blocks of equal shapes."""
    for a, b in zip(*(itertools.chain(*layers_of(network, block)) for block in (one, other)), strict=True):
        weights = a.get_weights()
        a.set_weights(b.get_weights())
        b.set_weights(weights)


def measure(lab):
    """Return the errors after lesions and the gradients by path, and what the claims are about."""
    jobs = [
        (lab, name, recipe, seed)
        for seed in lab.seeds
        for name, recipe in degradation.recipes(lab, seed)
        if name.endswith("56")
    ]
    return lab.rows(rows_of, jobs)


def rows_of(lab, name, recipe, seed):
    """Yield the rows of one network."""
    run, _ = degradation.train(lab, name, recipe)
    network, family = trained_network(run), name.removesuffix("-56")
    error = error_of(network, run.recipe.preprocessing, *arrays(recipe, most=36 if lab.quick else None))
    yield from lesions(network, family, error, random.Random(seed), seed)
    if family == "residual":
        images, labels = arrays(recipe, "train", 32)
        yield from paths(run, images, labels, random.Random(seed), seed, 2 if lab.quick else 20)


def lesions(network, family, error, draw, seed):
    """Yield the errors of a trained network after deleting and swapping blocks."""
    blocks, whole = blocks_of(network), error()
    yield Row(WHOLE, family, "", seed, whole)
    rises = []
    for place, block in enumerate(blocks, start=1):
        with restored(network.weights):
            delete(network, block, family == "residual")
            found = error()
        rises.append(found - whole)
        yield Row(ONE, family, place, seed, found)
    yield Row(f"{MEDIAN}, {family}", family, "", seed, statistics.median(rises))
    counts = [count for count in (1, 2, 4, 6, 8, 10, 12, 16, 20, 24) if count < len(blocks)]
    means = []
    for count in counts:
        errors = []
        for _ in range(DRAWS):
            with restored(network.weights):
                for block in draw.sample(blocks, count):
                    delete(network, block, family == "residual")
                errors.append(error())
        means.append(statistics.mean(errors))
        yield Row(MANY, family, count, seed, means[-1])
    if family == "residual":
        yield Row(TREND, family, "", seed, rank_correlation(counts, means))
        # Blocks that change the size of the map have no equal.
        stages = [list(group) for _, group in itertools.groupby(blocks, key=lambda block: block.split("_")[0])]
        pairs = [pair for stage in stages for pair in itertools.combinations(stage[1:], 2)]
        for count in (1, 2, 4, 8, 16):
            errors = []
            for _ in range(DRAWS if pairs else 0):
                with restored(network.weights):
                    for pair in draw.choices(pairs, k=count):
                        swap(network, *pair)
                    errors.append(error())
            if errors:
                yield Row(SWAPPED, family, count, seed, statistics.mean(errors))


def rank_correlation(xs, ys):
    """Return Spearman's correlation; 1 for a single pair, which is in order."""
    if len(xs) < 2:
        return 1.0
    ranks = [np.argsort(np.argsort(numbers)) for numbers in (xs, ys)]
    return float(np.corrcoef(*ranks)[0, 1])


def paths(run, images, labels, draw, seed, draws):
    """Yield the norm of the gradient at the first block by the length of the path, and the mean length.

    Args:
        run: The run of the residual network.
        images, labels: A batch.
        draw: Random generator.
        seed: The seed, for the rows.
        draws: Paths of each length.
    """
    network = trained_network(run)
    blocks, parts = blocks_of(network), {}
    for block in blocks:
        start, (branch, shortcut) = input_of(network, block), network.get_layer(f"{block}_add").input
        parts[block] = keras.Model(start, branch), None if shortcut is start else keras.Model(start, shortcut)
    stem = keras.Model(network.input, input_of(network, blocks[0]))
    head = keras.Model(network.get_layer(f"{blocks[-1]}_out").output, network.output)
    maps = stem(keras_cnns.preprocess_input(images, run.recipe.preprocessing), training=False)

    @tf.function(autograph=False)
    def norm(x, through):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = x
            for place, block in enumerate(blocks):
                branch, shortcut = (part(value, training=False) if part else value for part in parts[block])
                # The values stay those of the whole network; the gradient takes one of the two ways.
                shares = ((through[place], branch), (1 - through[place], shortcut))
                value = tf.nn.relu(sum(share * part + (1 - share) * tf.stop_gradient(part) for share, part in shares))
            logits = head(value, training=False)
            loss = tf.reduce_mean(keras.ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))
        return tf.norm(tape.gradient(loss, x))

    total = weighted = 0.0
    for length in range(len(blocks) + 1):
        norms = []
        for _ in range(draws):
            through = np.zeros(len(blocks), np.float32)
            through[draw.sample(range(len(blocks)), length)] = 1
            norms.append(float(norm(maps, tf.constant(through))))
        mean = statistics.mean(norms)
        yield Row(NORM, "residual", length, seed, mean)
        total += math.comb(len(blocks), length) * mean
        weighted += math.comb(len(blocks), length) * mean * length
    yield Row(LENGTH, "residual", "", seed, weighted / total / len(blocks))


def draw(rows):
    """Draw the errors after deleting one and several blocks, and the gradient by length of path."""
    picture, ((one, many, length),) = drawing.figure("Lesions of trained networks of 56 layers", columns=3)
    for family in degradation.NETWORKS:
        for axes, quantity in ((one, ONE), (many, MANY)):
            found = by_x(rows, quantity, family)
            drawing.curve(axes, found, **drawing.style(family, label=f"{family}, deleted"))
        whole = statistics.mean(values(rows, WHOLE, family)[family, ""])
        one.axhline(whole, color=drawing.FAMILIES[family][0], linewidth=0.8)
    swapped = by_x(rows, SWAPPED)
    if swapped:
        drawing.curve(many, swapped, **drawing.style("SENet", label="residual, pairs swapped"))
    one.set(title="one block deleted", xlabel="block, from the input; lines: the whole network", ylabel="test error, %")
    many.set(title="several blocks", xlabel="number of blocks or pairs", ylabel="test error, %")
    norms = {x: statistics.mean(v) for (_, x), v in values(rows, NORM).items()}
    lengths, blocks = list(norms), int(max(norms))
    for label, line, numbers in (
        ("number of paths", ":", [math.comb(blocks, int(x)) for x in lengths]),
        ("gradient of a path", "--", list(norms.values())),
        ("product", "-", [math.comb(blocks, int(x)) * norm for x, norm in norms.items()]),
    ):
        style = drawing.style("residual", linestyle=line, marker="", label=label)
        length.plot(lengths, [number / max(numbers) for number in numbers], **style)
    length.set(title="paths", xlabel="blocks on the path", ylabel="in units of the largest")
    for axes in (one, many, length):
        axes.legend(fontsize=9)
    return picture
