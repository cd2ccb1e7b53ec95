"""The reliability diagram: the accuracy by confidence, before and after the division by a temperature."""

import numpy as np

from training.calibration import BINS, calibration_error
from training.dashboards.log import new_figure


def reliability_figure(before, after, temperature):
    """Draw the reliability diagrams before and after the division by the temperature: the accuracy by confidence, and
    the share of the images in each bin.

    Args:
        before, after: As `training.calibration.reliability` returns them, summed over a split.
        temperature: The temperature.
    """
    figure = new_figure(9, 4.5)
    edges = np.linspace(0, 1, BINS + 1)
    for place, (bins, title) in enumerate(((before, "temperature 1"), (after, f"temperature {temperature:.3g}")), 1):
        images, confidences, right = bins
        full = images > 0
        axes = figure.add_subplot(1, 2, place)
        axes.bar(edges[:-1], images / max(images.sum(), 1), 1 / BINS, align="edge", color="0.85", label="images")
        axes.plot((0, 1), (0, 1), color="black", linewidth=1, linestyle="--", label="calibrated")
        axes.plot(confidences[full] / images[full], right[full] / images[full], "o-", color="#0072B2", label="accuracy")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy, and share of the images")
        axes.set_title(f"{title}: expected calibration error {calibration_error(bins):.1%}", fontsize=10)
        axes.legend(loc="upper left", fontsize=9)
    return figure
