"""Figures 3 and 8 of Tan & Le 2019, drawn from the trials of a search."""

from typing import NamedTuple

from training.dashboards import new_figure

DIMENSIONS = ("width", "depth", "resolution")


class Point(NamedTuple):
    """A trained network."""

    multiply_adds: int  # per image
    accuracies: tuple[float, ...]  # one per seed, from 0 to 1
    label: str  # its factor, e.g. "d=2"


def figure_3(curves):
    """Return Figure 3: one plot per dimension that is scaled alone, accuracy against multiply-adds.

    Args:
        curves: {"width", "depth" or "resolution": list of `Point`}; other curves are not drawn.
    """
    figure = new_figure(15, 5.5)
    plots = figure.subplots(1, len(DIMENSIONS), sharey=True)
    for number, (dimension, axes) in enumerate(zip(DIMENSIONS, plots, strict=True)):
        points = sorted(curves[dimension])
        plot(axes, points, dimension, f"C{number}")
        for point in points:
            position = (point.multiply_adds / 1e6, 100 * mean(point))
            axes.annotate(point.label, position, xytext=(4, -12), textcoords="offset points")
        axes.set_title(dimension)
    plots[0].set_ylabel("validation accuracy (%)")
    return figure


def figure_8(curves):
    """Return Figure 8: all ways of scaling in one plot, accuracy against multiply-adds.

    Args:
        curves: {way of scaling: list of `Point`}
    """
    figure = new_figure(9, 6.5)
    axes = figure.subplots()
    for number, (way, points) in enumerate(curves.items()):
        plot(axes, sorted(points), way, f"C{number}")
    axes.set_ylabel("validation accuracy (%)")
    axes.legend(title="scaled by")
    return figure


def plot(axes, points, label, color):
    """Draw a curve through the means, with bars from the lowest to the highest accuracy of the seeds."""
    means = [100 * mean(point) for point in points]
    bars = [
        [middle - 100 * min(point.accuracies) for middle, point in zip(means, points, strict=True)],
        [100 * max(point.accuracies) - middle for middle, point in zip(means, points, strict=True)],
    ]
    sizes = [point.multiply_adds / 1e6 for point in points]
    axes.errorbar(sizes, means, bars, marker="o", capsize=3, color=color, label=label)
    axes.set_xlabel("multiply-adds (millions)")
    axes.grid(alpha=0.3)


def mean(point):
    """Return the mean accuracy of a point over its seeds."""
    return sum(point.accuracies) / len(point.accuracies)
