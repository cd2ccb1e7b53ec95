"""How well a few values, one for each seed, determine their mean, and images a share of them."""

import math
import statistics

from scipy import stats

CONFIDENCE = 0.95


def interval(values):
    """Return the interval (low, high) that holds the mean with a confidence of 95 % (Student's t).

    One value alone does not say how far it is from the mean: its interval is (-inf, inf).

    Args:
        values: The values, at least one.
    """
    mean = statistics.mean(values)
    if len(values) < 2:
        return -math.inf, math.inf
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def proportion(count, of):
    """Return the interval (low, high) that holds a share, such as an accuracy, with 95 % (Wilson 1927).

    Args:
        count: How many there were.
        of: Out of how many.
    """
    return tuple(map(float, stats.binomtest(count, of).proportion_ci(CONFIDENCE, method="wilson")))
