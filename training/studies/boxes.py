"""From stage to stage the number of channels doubles and the plane halves (L16).

Sources: Simonyan and Zisserman 2015, section 2.1: the width starts at 64 and doubles after each max pool until it
reaches 512; He et al. 2016, section 3.3: "if the feature map size is halved, the number of filters is doubled". Counted
in the networks as they are built, from the last map at each stride.
"""

import keras
import numpy as np
from matplotlib.patches import Polygon, Rectangle

import keras_cnns
from training.studies import drawing
from training.studies.frame import Claim, Row, values

SIDE, CHANNELS = "side of the plane, pixels", "channels"
RULE = "channels times side of the plane, last stage over first, {}"
# {network: (family, strides of its stages)}
NETWORKS = {
    "VGG16": ("VGG", (1, 2, 4, 8, 16)),
    "ResNet50": ("residual", (4, 8, 16, 32)),
    "GoogLeNet": ("GoogLeNet", (4, 8, 16, 32)),
    "DenseNet121": ("DenseNet", (4, 8, 16, 32)),
    "EfficientNetB0": ("EfficientNet", (2, 4, 8, 16, 32)),
}

CLAIMS = (
    Claim(
        "L16",
        "In ResNet50 the channels double whenever the plane halves.",
        RULE.format("ResNet50"),
        "He et al. 2016, section 3.3",
        1,
        1,
    ),
    Claim(
        "L16",
        "In VGG16 they do so up to 512 channels, which the last two stages have.",
        RULE.format("VGG16"),
        "Simonyan and Zisserman 2015, section 2.1",
        0.5,
        0.5,
    ),
)

READING = """
A box for the last map of each stage: its height is the side of the plane, its length the channels, both to scale within
a network. The rule of the lecture is ResNet's. VGG stops doubling at 512 channels, and the other families follow rules
of their own.
"""


def measure(lab):
    """Yield side and channels of each stage, and what the claims are about."""
    for name, (_, strides) in NETWORKS.items():
        with keras.StatelessScope(initialize_variables=False):
            model = keras_cnns.builder(name)(include_top=False, input_shape=(224, 224, 3))
            shapes = [maps.shape[1:] for maps in keras_cnns.features(model, strides).outputs]
        for stride, (side, _, channels) in zip(strides, shapes, strict=True):
            yield Row(SIDE, name, stride, None, side)
            yield Row(CHANNELS, name, stride, None, channels)
        if name in ("ResNet50", "VGG16"):
            yield Row(RULE.format(name), name, "", None, shapes[-1][0] * shapes[-1][2] / (shapes[0][0] * shapes[0][2]))


def draw(rows):
    """Draw a row of boxes for each network."""
    picture, plots = drawing.figure("Planes and channels", rows=len(NETWORKS), width=11, height=2)
    for (axes,), (name, (family, _)) in zip(plots, NETWORKS.items(), strict=True):
        sides = [v[0] for v in values(rows, SIDE, name).values()]
        channels = [v[0] for v in values(rows, CHANNELS, name).values()]
        left, colour = 0.0, drawing.FAMILIES[family][0]
        for side, count in zip(sides, channels, strict=True):
            height, length, shift = side / max(sides), 3 * count / max(channels), 0.35 * side / max(sides)
            top = np.array(
                [
                    (left, height),
                    (left + length, height),
                    (left + length + shift, height + shift),
                    (left + shift, height + shift),
                ]
            )
            end = np.array(
                [
                    (left + length, 0),
                    (left + length + shift, shift),
                    (left + length + shift, height + shift),
                    (left + length, height),
                ]
            )
            axes.add_patch(Rectangle((left, 0), length, height, facecolor=colour, edgecolor="black", alpha=0.8))
            for corners, alpha in ((top, 0.5), (end, 0.3)):
                axes.add_patch(Polygon(corners, facecolor=colour, edgecolor="black", alpha=alpha))
            axes.text(
                left + length / 2, -0.08, f"{side:.0f} x {side:.0f}, {count:.0f}", ha="center", va="top", fontsize=8
            )
            left += length + shift + 0.6
        axes.set(xlim=(-0.2, 14), ylim=(-0.4, 1.5), aspect="equal")
        axes.set_title(name, fontsize=10, loc="left")
        axes.axis("off")
    return picture
