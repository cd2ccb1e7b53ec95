"""`scale`: train the baseline of a finished `compound` search, scaled with the coefficients that it found."""

from training.scaling import scale
from tuning.report import OUTCOME, Report, cost, table
from tuning.study import Candidate, Study, list_space


def study(baseline, classes, *, triple, phis):
    """Return the study of a baseline scaled in several steps.

    Args:
        baseline: The baseline recipe.
        classes: Number of classes of its data.
        triple: (alpha, beta, gamma).
        phis: Exponents of the coefficients.
    """
    phis = sorted(set(phis))
    candidates = [Candidate(f"phi{phi:g}", scale(baseline, *triple, phi), {"phi": phi}) for phi in phis]
    return Study("scale", baseline, classes, {"triple": triple, "phi": phis}, lambda _: list_space(candidates))


def report(study, trials, folder):
    """Return the report on a scaled baseline: the table of trials, and a recipe.json for each."""
    recipes = {trial.folder: trial.folder / "recipe.json" for trial in trials}
    columns = {
        "phi": lambda trial: f"{trial.candidate.shown['phi']:g}",
        "pixels": lambda trial: str(trial.candidate.recipe.image_size),
        "multiply-adds": cost("multiply_adds"),
        "parameters": cost("parameters"),
        **OUTCOME,
        "recipe for `training fit`": lambda trial: str(recipes[trial.folder]),
    }
    files = {str(recipes[trial.folder].relative_to(folder)): trial.candidate.recipe.to_json() for trial in trials}
    return Report(table(sorted(trials, key=lambda trial: trial.candidate.shown["phi"]), columns), files)
