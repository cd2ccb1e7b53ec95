"""How the figures of the studies look: the same family in the same colour and marker everywhere, legible in grey."""

import statistics

from matplotlib import colormaps
from matplotlib.ticker import LogLocator, NullFormatter

from training.dashboards import new_figure

# {family: (colour, marker, line)}: the colours of Okabe and Ito, which differ in brightness too.
FAMILIES = {
    "plain": ("#000000", "s", "--"),
    "residual": ("#0072B2", "o", "-"),
    "AlexNet": ("#999999", "v", ":"),
    "VGG": ("#CC79A7", "D", "-."),
    "GoogLeNet": ("#D55E00", "^", "-"),
    "DenseNet": ("#009E73", "P", "-"),
    "SENet": ("#56B4E9", "X", "--"),
    "EfficientNet": ("#E69F00", "*", "-"),
}


def figure(title, columns=1, rows=1, width=5.5, height=4.2, **axes):
    """Return a figure with a title that says what is seen, and its axes as an array (rows, columns).

    Args:
        title: The title.
        columns, rows: Number of plots.
        width, height: Of one plot, in inches.
        axes: Arguments of matplotlib's `subplots`, such as sharey.
    """
    picture = new_figure(width * columns, height * rows)
    picture.suptitle(title, fontsize=12)
    plots = picture.subplots(rows, columns, squeeze=False, **axes)
    for plot in plots.flat:
        plot.grid(alpha=0.3)
    return picture, plots


def style(family, **more):
    """Return the arguments of matplotlib for the curve of a family."""
    colour, marker, line = FAMILIES[family]
    return {"color": colour, "marker": marker, "linestyle": line} | more


def curve(axes, values, **style):
    """Draw the means of values over the seeds as a curve, and the range from the least to the greatest around it.

    Args:
        axes: Where to draw.
        values: {x: values over the seeds}.
        style: Arguments of matplotlib's `plot`.
    """
    places = list(values)
    means = [statistics.mean(values[place]) for place in places]
    (line,) = axes.plot(places, means, **style)
    lowest, highest = ([extreme(values[place]) for place in places] for extreme in (min, max))
    axes.fill_between(places, lowest, highest, color=line.get_color(), alpha=0.15, linewidth=0)


def bar(axes, place, values, thickness, *, horizontal=False, **style):
    """Draw the mean of values over the seeds as a bar, and the range from the least to the greatest as its whisker.

    Args:
        axes: Where to draw.
        place: Where along the axis, a number or a label.
        values: The values over the seeds.
        thickness: Of the bar.
        horizontal: Whether the bar lies.
        style: Further arguments of matplotlib's `bar`.
    """
    mean = statistics.mean(values)
    reach = [[mean - min(values)], [max(values) - mean]]
    draw, error = (axes.barh, "xerr") if horizontal else (axes.bar, "yerr")
    draw(place, mean, thickness, **{error: reach, "capsize": 3} | style)


def shade(place, count):
    """Return the colour of one of several ordered curves, from dark to bright."""
    return colormaps["cividis"](place / max(1, count - 1))


def log_scale(axes):
    """Make the horizontal axis logarithmic, with ticks at 1, 2 and 5 in each decade."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
