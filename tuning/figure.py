"""The figures of Tan & Le 2019 that show what scaling buys, from trials that were really run."""

from typing import NamedTuple

from training.dashboards import new_figure

DIMENSIONS = ("width", "depth", "resolution")


class Point(NamedTuple):
    """A network that was trained."""

    multiply_adds: int  # for one image
    accuracies: tuple[float, ...]  # one a seed, from 0 to 1
    label: str  # its factor, as "d=2"


def figure_3(curves):
    """Figure 3: a plot for each dimension that is scaled alone, accuracy against multiply-adds.

    Args:
        curves: {"width", "depth" or "resolution": list of `Point`}; others are left out.
    """
    figure = new_figure(15, 5.5)
    plots = figure.subplots(1, len(DIMENSIONS), sharey=True)
    for number, (dimension, axes) in enumerate(zip(DIMENSIONS, plots, strict=True)):
        points = sorted(curves[dimension])
        plot(axes, points, dimension, f"C{number}")
        for point in points:
            place = (point.multiply_adds / 1e6, 100 * mean(point))
            axes.annotate(point.label, place, xytext=(4, -12), textcoords="offset points")
        axes.set_title(dimension)
    plots[0].set_ylabel("validation accuracy (%)")
    return figure


def figure_8(curves):
    """Figure 8: all ways to scale in one plot, accuracy against multiply-adds.

    Args:
        curves: {way: list of `Point`}
    """
    figure = new_figure(9, 6.5)
    axes = figure.subplots()
    for number, (way, points) in enumerate(curves.items()):
        plot(axes, sorted(points), way, f"C{number}")
    axes.set_ylabel("validation accuracy (%)")
    axes.legend(title="scaled by")
    return figure


def plot(axes, points, label, color):
    """A curve through the means; where there are several seeds, bars from the least accuracy to the greatest."""
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
    return sum(point.accuracies) / len(point.accuracies)
