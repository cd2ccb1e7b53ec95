"""Deeper networks are computationally more complex (L5).

Source: He et al. 2016, "Deep Residual Learning", Table 1: 1.8, 3.6, 3.8, 7.6 and 11.3 G multiply-adds for 18 to 152
layers (the last three with the strides of version 1). Counted: multiply-adds, parameters and activations by depth;
measured: the time of a forward pass.
"""

import keras

import keras_cnns
from training.inference import undrawn
from training.measure import seconds_per_image
from training.studies import drawing
from training.studies.frame import Claim, Row, by_x

COUNTS = {
    "multiply_adds": "multiply-adds, G",
    "parameters": "parameters, millions",
    "activations": "activations, millions",
}
UNITS = {"multiply_adds": 1e9, "parameters": 1e6, "activations": 1e6}
TIME = "forward pass, ms per image"
SLOWER = "time of the deepest ResNet over that of the shallowest"
IMAGENET = {18: "ResNet18", 34: "ResNet34", 50: "ResNet50", 101: "ResNet101", 152: "ResNet152"}
CIFAR = (8, 20, 32, 44, 56, 110)
HE = "He et al. 2016, Table 1"

CLAIMS = (
    Claim("L5", "ResNet18 has 1.8 G multiply-adds.", f"{COUNTS['multiply_adds']}, ResNet18", HE, 1.75, 1.85),
    Claim("L5", "ResNet34 has 3.6 G.", f"{COUNTS['multiply_adds']}, ResNet34", HE, 3.55, 3.68),
    Claim("L5", "ResNet50 has 3.8 G.", f"{COUNTS['multiply_adds']}, ResNet50", HE, 3.75, 3.9),
    Claim("L5", "ResNet101 has 7.6 G.", f"{COUNTS['multiply_adds']}, ResNet101", HE, 7.5, 7.65),
    Claim("L5", "ResNet152 has 11.3 G.", f"{COUNTS['multiply_adds']}, ResNet152", HE, 11.2, 11.4),
    Claim("L5", "The time grows with them.", SLOWER, f"{HE}: 6.3 times the multiply-adds", least=3),
)

READING = """
Cost by depth. The multiply-adds of the CIFAR networks grow in proportion to the layers; those of the ImageNet networks
jump where bottleneck blocks begin, at 50 layers. Time follows multiply-adds.
"""


def measure(lab):
    """Yield the counts and the times by depth."""
    for depth, name in IMAGENET.items():
        arguments = {} if depth < 50 else {"version": "1"}
        yield from counts_of(name, "ImageNet, 224 pixels", depth, keras_cnns.builder(name), arguments)
    for depth in CIFAR:
        yield from counts_of(f"CIFAR-{depth}", "CIFAR, 32 pixels", depth, keras_cnns.ResNetCIFAR, {"depth": depth})
    times = {}
    for depth in (18, 34) if lab.quick else IMAGENET:
        times[depth] = forward_time(IMAGENET[depth], 32 if lab.quick else 224, 1 if lab.quick else 5)
        yield Row(TIME, "ImageNet, 224 pixels", depth, None, 1000 * times[depth])
    yield Row(SLOWER, "", "", None, times[max(times)] / times[18])


def counts_of(name, series, depth, build, arguments):
    """Yield the counts of a network."""
    with keras.StatelessScope(initialize_variables=False):
        cost = keras_cnns.complexity(build(**arguments))
    for count, quantity in COUNTS.items():
        value = getattr(cost, count) / UNITS[count]
        yield Row(quantity, series, depth, None, value)
        if count == "multiply_adds" and series.startswith("ImageNet"):
            yield Row(f"{quantity}, {name}", series, depth, None, value)


def forward_time(name, size, repetitions, batch=4):
    """Return the median seconds per image of a forward pass."""
    keras.backend.clear_session()
    with undrawn():
        network = keras_cnns.builder(name)(input_shape=(size, size, 3))
    return seconds_per_image(network, (size, size, 3), batch, repetitions)


def draw(rows):
    """Draw each count, and the time, by depth."""
    picture, (plots,) = drawing.figure("What depth costs: ResNets", columns=4, width=4)
    for axes, quantity in zip(plots, (*COUNTS.values(), TIME), strict=True):
        for series, line in (("ImageNet, 224 pixels", "-"), ("CIFAR, 32 pixels", "--")):
            found = by_x(rows, quantity, series)
            if found:
                drawing.curve(axes, found, **drawing.style("residual", linestyle=line, label=series))
        axes.set(xlabel="layers", ylabel=quantity)
        if quantity != TIME:
            axes.set_yscale("log")
        axes.legend(fontsize=8)
    return picture
