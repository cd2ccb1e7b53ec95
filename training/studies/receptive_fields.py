"""Deeper networks have larger receptive fields (L1).

Sources: Araujo, Norris, Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", Distill: the pixels
that a unit can depend on, for well-known networks; Luo, Li, Urtasun, Zemel 2016, "Understanding the Effective Receptive
Field": the pixels that matter, those with at least 4.55 % of the largest gradient of one unit, cover a field whose
width grows as the root of the number of layers only, a falling share of what the unit can depend on; shortcuts make it
smaller.

Counted in the networks as they are built; the effective field is that of untrained CIFAR networks of several depths,
the mean over images of noise of the absolute gradient of the central unit of the last map by the pixels.
"""

import math
import statistics

import keras
import numpy as np
import tensorflow as tf
from matplotlib.patches import Rectangle
from PIL import Image
from sklearn.datasets import load_sample_image

import keras_cnns
from training.studies import drawing
from training.studies.frame import Claim, Row, values

FIELD = "receptive field, pixels"
THEORETICAL, EFFECTIVE = "theoretical receptive field, pixels", "effective receptive field, pixels"
EXPONENT = "power of the theoretical field by which the effective field of plain networks grows"
SHARE = "effective over theoretical field of a plain network, deepest over shallowest"
SHORTCUTS = "effective field of the deepest residual network over that of the plain one"
LEAST_GRADIENT = 0.0455  # of the largest, Luo et al., section 4.1
DEPTHS = (8, 14, 20, 32, 56)
NETWORKS = {"plain": "PlainNetCIFAR", "residual": "ResNetCIFAR"}
# {what is drawn: (family, network, arguments)}
FAMOUS = {
    "AlexNet": ("AlexNet", "AlexNet", {}),
    "VGG16": ("VGG", "VGG16", {}),
    "ResNet50, version 1": ("residual", "ResNet50", {"version": "1"}),
    "ResNet101, version 1": ("residual", "ResNet101", {"version": "1"}),
    "ResNet152, version 1": ("residual", "ResNet152", {"version": "1"}),
    "GoogLeNet": ("GoogLeNet", "GoogLeNet", {}),
    "DenseNet121": ("DenseNet", "DenseNet121", {}),
    "EfficientNetB0": ("EfficientNet", "EfficientNetB0", {}),
}
ARAUJO, LUO = "Araujo et al. 2019, table of well-known networks", "Luo et al. 2016"

CLAIMS = (
    Claim("L1", "AlexNet's last map sees 195 pixels.", f"{FIELD}, AlexNet", ARAUJO, 195, 195),
    Claim("L1", "VGG16's 212.", f"{FIELD}, VGG16", ARAUJO, 212, 212),
    Claim("L1", "ResNet50's 483.", f"{FIELD}, ResNet50, version 1", ARAUJO, 483, 483),
    Claim("L1", "ResNet101's 1027.", f"{FIELD}, ResNet101, version 1", ARAUJO, 1027, 1027),
    Claim("L1", "ResNet152's 1507.", f"{FIELD}, ResNet152, version 1", ARAUJO, 1507, 1507),
    Claim(
        "L1", "The effective field grows as the root of the theoretical one.", EXPONENT, f"{LUO}, section 2", 0.35, 0.65
    ),
    Claim("L1", "So it is a falling share of it.", SHARE, f"{LUO}, section 2", greatest=1),
    Claim("L1", "Shortcuts make it smaller.", SHORTCUTS, f"{LUO}, section 4.1", greatest=1),
)

READING = """
Left: the field of one unit of the last map on a photograph of 224 pixels; most networks could see more than there is.
Right: what a unit can depend on (lines) grows with depth, and what it does depend on (points) much more slowly.
"""


def measure(lab):
    """Yield the fields and what the claims are about."""
    # The first five are in the claims.
    for name, (_, network, arguments) in list(FAMOUS.items())[: 5 if lab.quick else None]:
        with keras.StatelessScope(initialize_variables=False):
            model = keras_cnns.builder(network)(include_top=False, input_shape=(224, 224, 3), **arguments)
            field = keras_cnns.complexity(model).receptive_field[0]
        yield Row(f"{FIELD}, {name}", name, "", None, field)
    depths = (8, 14) if lab.quick else DEPTHS
    theoretical = {}
    for family, network in NETWORKS.items():
        for depth in depths:
            with keras.StatelessScope(initialize_variables=False):
                model = keras_cnns.builder(network)(depth, include_top=False, input_shape=(32, 32, 3))
                theoretical[family, depth] = keras_cnns.complexity(model).receptive_field[0]
            yield Row(THEORETICAL, family, depth, None, theoretical[family, depth])
    for seed in lab.seeds:
        sizes = {}
        for (family, depth), pixels in theoretical.items():
            keras.backend.clear_session()
            keras.utils.set_random_seed(seed)
            sizes[family, depth] = effective_field(NETWORKS[family], depth, pixels, seed, 1 if lab.quick else 4)
            yield Row(EFFECTIVE, family, depth, seed, sizes[family, depth])
        first, last = depths[0], depths[-1]
        shares = [sizes["plain", depth] / theoretical["plain", depth] for depth in (first, last)]
        logs = [[math.log(found["plain", depth]) for depth in depths] for found in (theoretical, sizes)]
        yield Row(EXPONENT, "plain", "", seed, float(np.polyfit(*logs, 1)[0]))
        yield Row(SHARE, "plain", "", seed, shares[1] / shares[0])
        yield Row(SHORTCUTS, "residual", "", seed, sizes["residual", last] / sizes["plain", last])


def effective_field(network, depth, pixels, seed, count):
    """Return the side in pixels of a square as large as the effective receptive field."""
    size = 4 * (pixels // 4 + 4)  # the whole theoretical field of the central unit, and some more
    model = keras_cnns.builder(network)(depth, include_top=False, input_shape=(size, size, 3))
    images = tf.constant(np.random.RandomState(seed).normal(size=(count, size, size, 3)).astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(images)
        maps = model(images, training=True)
        middle = maps.shape[1] // 2
        unit = tf.reduce_sum(maps[:, middle, middle])
    gradient = tf.reduce_mean(tf.abs(tape.gradient(unit, images)), axis=(0, 3)).numpy()
    return math.sqrt((gradient > LEAST_GRADIENT * gradient.max()).sum())


def draw(rows):
    """Draw the fields as squares on a photograph, and both fields by depth."""
    picture, ((squares, depths),) = drawing.figure("Receptive fields", columns=2, width=6.4, height=5)
    photograph = Image.fromarray(load_sample_image("china.jpg")).crop((106, 0, 533, 427)).resize((224, 224))
    squares.imshow(photograph, extent=(-112, 112, -112, 112))
    fields = {row.series: row.value for row in rows if row.quantity.startswith(f"{FIELD}, ")}
    for place, (name, size) in enumerate(fields.items()):
        colour, _, line = drawing.FAMILIES[FAMOUS[name][0]]
        corner = -size / 2
        frame = Rectangle((corner, corner), size, size, fill=False, color=colour, linestyle=line, linewidth=1.5)
        squares.add_patch(frame)
        # Of two neighbors one has its name above, the other below.
        side, above = (corner, "top") if place % 2 == 0 else (-corner, "bottom")
        squares.text(corner, side, f"{name}, {size:.0f}", fontsize=7, va=above)
    most = max(fields.values()) / 2 * 1.08
    squares.set(
        xlim=(-most, most), ylim=(-most, most), xlabel="pixels from the centre", ylabel="pixels from the centre"
    )
    for family in NETWORKS:
        colour, marker, line = drawing.FAMILIES[family]
        theoretical = {x: v[0] for (_, x), v in values(rows, THEORETICAL, family).items()}
        depths.plot(
            list(theoretical), list(theoretical.values()), color=colour, linestyle=line, label=f"{family}, theoretical"
        )
        found = {x: statistics.mean(v) for (_, x), v in values(rows, EFFECTIVE, family).items()}
        depths.plot(
            list(found), list(found.values()), color=colour, marker=marker, linestyle="", label=f"{family}, effective"
        )
    depths.set(xlabel="layers", ylabel="receptive field, pixels", ylim=(0, None))
    depths.legend(fontsize=9)
    return picture
