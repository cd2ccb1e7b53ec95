"""A 1x1 convolution keeps the plane and mixes the channels of each pixel (statement L9).

Source: Lin, Chen, Yan 2014, "Network In Network", section 3.1; Szegedy et al. 2015, section 3. Prediction: a 1x1
convolution is a dense layer applied to each pixel, and it does not matter whether pixels are moved before or after it;
for a 3x3 convolution it does. Nothing is trained: kernels, maps and permutations are drawn at random.
"""

import numpy as np

import keras_cnns
from training.studies import drawing
from training.studies.frame import Claim, Row

DENSE = "largest difference from a dense layer on each pixel, of the largest output"
MOVED = "largest difference if pixels are moved before the convolution instead of after it, of the largest output"
SOURCE = "Lin, Chen, Yan 2014, section 3.1"
SHAPE, FILTERS = (2, 14, 14, 64), 32

CLAIMS = (
    Claim("L9", "A 1x1 convolution is a dense layer on each pixel.", f"{DENSE}, 1x1", SOURCE, greatest=1e-6),
    Claim("L9", "A 1x1 convolution does not see where a pixel is.", f"{MOVED}, 1x1", SOURCE, greatest=1e-6),
    Claim("L9", "A 3x3 convolution sees where a pixel is.", f"{MOVED}, 3x3", SOURCE, least=0.1),
)

READING = """
The first two bars are rounding errors of float32: the 1x1 convolution computes what a dense layer computes for every
pixel by itself. So it can reduce the number of channels in front of an expensive convolution, and nothing about the
arrangement of the pixels is lost or used.
"""


def measure(lab):
    """Yield the differences for each seed."""
    for seed in lab.seeds:
        random = np.random.RandomState(seed)
        maps, order = random.normal(size=SHAPE).astype(np.float32), random.permutation(SHAPE[1] * SHAPE[2])
        for size in (1, 3):
            convolution = keras_cnns.layers.Conv2D(FILTERS, size, padding="same", use_bias=False)
            convolution.build(SHAPE)
            kernel = random.normal(size=convolution.kernel.shape).astype(np.float32)
            convolution.kernel.assign(kernel)
            outputs = np.asarray(convolution(maps))
            scale = np.abs(outputs).max()
            if size == 1:
                difference = np.abs(outputs - maps @ kernel[0, 0]).max() / scale
                yield Row(f"{DENSE}, 1x1", "1x1", DENSE, seed, difference)
            before = np.asarray(convolution(moved(maps, order)))
            difference = np.abs(before - moved(outputs, order)).max() / scale
            yield Row(f"{MOVED}, {size}x{size}", f"{size}x{size}", MOVED, seed, difference)


def moved(maps, order):
    """Return maps (batch, height, width, channels) with their pixels in another order."""
    batch, height, width, channels = maps.shape
    return maps.reshape(batch, height * width, channels)[:, order].reshape(maps.shape)


def draw(rows):
    """Draw a bar for each difference."""
    picture, ((axes,),) = drawing.figure("A 1x1 convolution works on each pixel by itself", width=7, height=3)
    bars = {
        f"{DENSE}, 1x1": "1x1 against a dense layer",
        f"{MOVED}, 1x1": "1x1, pixels moved before / after",
        f"{MOVED}, 3x3": "3x3, pixels moved before / after",
    }
    for quantity, label in bars.items():
        values = [row.value for row in rows if row.quantity == quantity]
        axes.barh(label, max(values), color=drawing.FAMILIES["GoogLeNet" if "1x1" in label else "plain"][0])
    axes.set_xscale("log")
    axes.set_xlabel("largest difference, in units of the largest output")
    axes.invert_yaxis()
    return picture
