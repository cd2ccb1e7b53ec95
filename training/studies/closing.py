"""Of AlexNet, VGG, GoogLeNet and ResNet, GoogLeNet is the most efficient (L21).

Source: Canziani, Culurciello, Paszke 2016, "An Analysis of Deep Neural Network Models for Practical Applications",
Figures 1, 2 and 10. The accuracies are published ones for ImageNet, single crop, typed with their sources; parameters
and multiply-adds are counted, time and memory of a forward pass at each network's size are measured here. Nothing is
trained.
"""

from typing import NamedTuple

import keras

import keras_cnns
from training.compare import draw_circle, place_labels
from training.inference import undrawn
from training.measure import alone, peak_memory, seconds_per_image
from training.studies import drawing
from training.studies.frame import Claim, Row, values


class Published(NamedTuple):
    """A network's published accuracy."""

    family: str  # of drawing.FAMILIES
    top1: float  # ImageNet's validation images, one central crop, %
    source: str


TORCHVISION = "torchvision, weights V1"
PUBLISHED = {
    "AlexNet": Published("AlexNet", 57.1, "Caffe, bvlc_alexnet"),
    "VGG16": Published("VGG", 71.59, TORCHVISION),
    "VGG19": Published("VGG", 72.38, TORCHVISION),
    "GoogLeNet": Published("GoogLeNet", 68.7, "Caffe, bvlc_googlenet"),
    "ResNet18": Published("residual", 69.76, TORCHVISION),
    "ResNet50": Published("residual", 76.13, TORCHVISION),
    "ResNet152": Published("residual", 78.31, TORCHVISION),
    "DenseNet121": Published("DenseNet", 74.43, TORCHVISION),
    "SEResNet50": Published("SENet", 77.63, "Hu, Shen, Sun 2018, the authors' release"),
    "EfficientNetB0": Published("EfficientNet", 77.1, "Tan and Le 2019, Table 2"),
    "EfficientNetB3": Published("EfficientNet", 81.6, "Tan and Le 2019, Table 2"),
}
FOUR = ("AlexNet", "VGG16", "GoogLeNet", "ResNet50")
BATCH = 8

TOP1 = "published top-1 accuracy, %"
COUNTS = {"parameters": "parameters, millions", "multiply_adds": "multiply-adds, G"}
TIME, MEMORY = "forward pass, ms per image", f"peak memory of a forward pass of {BATCH} images, MiB"
PER_PARAMETER = "top-1 accuracy per million parameters, GoogLeNet over the best of the other three"
PER_COST = "top-1 accuracy per G multiply-adds, GoogLeNet over the best of the other three"
NEWER = "top-1 accuracy per G multiply-adds, GoogLeNet over EfficientNetB0"
SOURCE = "Canziani et al. 2016"

CLAIMS = (
    Claim(
        "L21",
        "Per parameter GoogLeNet is the most accurate of the four.",
        PER_PARAMETER,
        f"{SOURCE}, Figure 10",
        least=1,
    ),
    Claim(
        "L21",
        "Per multiply-add it is the most accurate of the four.",
        PER_COST,
        f"the lecture; {SOURCE}, Figure 2",
        least=1,
    ),
    Claim("L21", "EfficientNet is more accurate per multiply-add.", NEWER, "Tan and Le 2019, Table 2", greatest=1),
)

READING = """
The lecture's closing figure, from published accuracies and our own counts and measurements; the area of a circle shows
the parameters. On the left by multiply-adds, in the middle by the time that this machine took, on the right what a
million parameters buy. GoogLeNet stands out by its parameters. Its multiply-adds buy less than AlexNet's few, at a much
higher accuracy, and EfficientNet has more of both.
"""


def measure(lab):
    """Yield the published, counted and measured figures, and the ratios of the claims."""
    counts = {}
    # Those that the claims are about, or all.
    names = (*FOUR, "EfficientNetB0") if lab.quick else PUBLISHED
    for name, published in ((name, PUBLISHED[name]) for name in names):
        yield Row(TOP1, name, "", None, published.top1)
        with keras.StatelessScope(initialize_variables=False):  # counts need no values
            counts[name] = keras_cnns.complexity(keras_cnns.builder(name)())
        yield Row(COUNTS["parameters"], name, "", None, counts[name].parameters / 1e6)
        yield Row(COUNTS["multiply_adds"], name, "", None, counts[name].multiply_adds / 1e9)
        if not lab.quick or name == "AlexNet":
            milliseconds, mib = forward_cost(name, 1) if lab.quick else alone(forward_cost, name)
            yield Row(TIME, name, "", None, milliseconds)
            yield Row(MEMORY, name, "", None, mib)

    def efficiency(name, count):
        return PUBLISHED[name].top1 / getattr(counts[name], count)

    for quantity, count in ((PER_PARAMETER, "parameters"), (PER_COST, "multiply_adds")):
        others = max(efficiency(name, count) for name in FOUR if name != "GoogLeNet")
        yield Row(quantity, "GoogLeNet", "", None, efficiency("GoogLeNet", count) / others)
    ratio = efficiency("GoogLeNet", "multiply_adds") / efficiency("EfficientNetB0", "multiply_adds")
    yield Row(NEWER, "GoogLeNet", "", None, ratio)


def forward_cost(name, repetitions=5):
    """Return the milliseconds per image and the MiB of forward passes of a network with a thousand classes."""
    before = peak_memory()
    with undrawn():
        network = keras_cnns.builder(name)()
    seconds = seconds_per_image(network, network.input_shape[1:], BATCH, repetitions)
    return 1000 * seconds, peak_memory() - before


def draw(rows):
    """Draw accuracy by multiply-adds and by time, with circles, and accuracy per parameter as bars."""
    picture, ((cost, clock, per),) = drawing.figure("Published ImageNet accuracy against cost", columns=3, height=4.8)
    parameters = {name: found[0] for (name, _), found in values(rows, COUNTS["parameters"]).items()}
    accuracies = {name: found[0] for (name, _), found in values(rows, TOP1).items()}
    for axes, quantity in ((cost, COUNTS["multiply_adds"]), (clock, TIME)):
        for (name, _), found in values(rows, quantity).items():
            colour = drawing.FAMILIES[PUBLISHED[name].family][0]
            draw_circle(axes, (found[0], accuracies[name]), 8 * parameters[name], name, color=colour, edgecolor="black")
        axes.set(xlabel=f"{quantity}, this machine" if axes is clock else quantity, ylabel=TOP1)
        drawing.log_scale(axes)
        axes.margins(0.15)
    for name, count in sorted(parameters.items(), key=lambda item: accuracies[item[0]] / item[1]):
        per.barh(name, accuracies[name] / count, color=drawing.FAMILIES[PUBLISHED[name].family][0])
    per.set(xlabel="top-1 accuracy, % per million parameters")
    picture.canvas.draw()  # fixes the positions of the circles and the sizes of the labels
    for axes in (cost, clock):
        place_labels(axes)
    return picture
