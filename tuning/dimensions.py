"""`dimensions`: scale depth, width and resolution alone and together (Tan & Le 2019, Figures 3 and 8)."""

import itertools
import math

from training.scaling import scale
from tuning.figure import Point, figure_3, figure_8
from tuning.report import OUTCOME, Report, cost, table
from tuning.study import Candidate, Study, list_space

PAPER_TRIPLE = (1.2, 1.1, 1.15)  # Tan & Le 2019, section 3.3
# {curve: (alpha, beta, gamma)}; each doubles the multiply-adds, before layers are rounded. "compound" comes last.
ALONE = {"width": (1.0, math.sqrt(2), 1.0), "depth": (2.0, 1.0, 1.0), "resolution": (1.0, 1.0, math.sqrt(2))}


def study(baseline, classes, *, triple=PAPER_TRIPLE, phis):
    """Return the study of a baseline scaled in each dimension alone and in all together.

    Args:
        baseline: The baseline recipe.
        classes: Number of classes of its data.
        triple: (alpha, beta, gamma) of the compound curve.
        phis: Exponents of the coefficients; 0 is the baseline, which is trained once.
    """
    phis = sorted(set(phis))
    curves = ALONE | {"compound": triple}
    candidates = [
        candidate(baseline, curve, factors, phi)
        for (curve, factors), phi in itertools.product(curves.items(), phis)
        if phi
    ]
    if 0.0 in phis:
        candidates.insert(0, candidate(baseline, "baseline", (1.0, 1.0, 1.0), 0.0))
    return Study("dimensions", baseline, classes, {"triple": triple, "phi": phis}, lambda _: list_space(candidates))


def candidate(baseline, curve, triple, phi):
    """Return the candidate at one point of a curve."""
    depth, width, resolution = (factor**phi for factor in triple)
    return Candidate(
        f"{curve}_phi{phi:g}" if phi else curve,
        scale(baseline, *triple, phi),
        {"dimension": curve, "phi": phi, "depth": depth, "width": width, "resolution": resolution},
    )


def report(study, trials, folder):
    """Return the report on scaled dimensions: the table of trials and the paper's two figures."""
    columns = {
        "dimension": lambda trial: trial.candidate.shown["dimension"],
        "phi": lambda trial: f"{trial.candidate.shown['phi']:g}",
        "multiply-adds": cost("multiply_adds"),
        **OUTCOME,
    }
    rows = sorted(trials, key=lambda trial: (trial.candidate.label, trial.candidate.shown["phi"]))
    text = (
        f"{table(rows, columns)}\n"
        f"figure3      {folder / 'figure3.png'}\n"
        f"figure8      {folder / 'figure8.png'}\n"
        f"TensorBoard  tensorboard --logdir {folder}"
    )
    points = {curve: curve_points(curve, trials) for curve in (*ALONE, "compound")}
    return Report(text, {"figure3.png": figure_3(points), "figure8.png": figure_8(points)})


def curve_points(curve, trials):
    """Return the points of a curve, which starts at the baseline; failed trials have none."""
    return [
        Point(
            trial.result["multiply_adds"], tuple(trial.result["accuracies"]), point_label(curve, trial.candidate.shown)
        )
        for trial in trials
        if trial.candidate.shown["dimension"] in (curve, "baseline") and trial.accuracy is not None
    ]


def point_label(curve, shown):
    """Return a point's label as in the paper: d=2 for twice the depth."""
    return f"{curve[0]}={shown[curve]:.3g}" if curve in shown else f"phi={shown['phi']:g}"
