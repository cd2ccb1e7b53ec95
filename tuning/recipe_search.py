"""`recipe`: search a space of recipes from tuning/spaces.py."""

import keras_tuner

from tuning.report import OUTCOME, Report, table
from tuning.spaces import SPACES
from tuning.study import Candidate, Space, Study


def study(baseline, classes, *, space, oracle, max_trials):
    """Return the study of a space of recipes.

    Args:
        baseline: The recipe that the space changes.
        classes: Number of classes of its data.
        space: A name in SPACES.
        oracle: "random", "bayesian" or "hyperband".
        max_trials: Maximum number of trials of "random" and "bayesian".

    Raises:
        UserError: The space does not suit the baseline's network.
    """
    hyperparameters = keras_tuner.HyperParameters()
    SPACES[space](hyperparameters, baseline).check_model_args()  # registers the names and ranges

    def candidate(values):
        drawn = keras_tuner.HyperParameters.from_config(hyperparameters.get_config())
        drawn.values = dict(values)
        return Candidate(space, SPACES[space](drawn, baseline), dict(values))

    limit = {} if oracle == "hyperband" else {"max_trials": max_trials}
    return Study(
        "recipe",
        baseline,
        classes,
        settings={"space": space, "oracle": oracle} | limit,
        space=lambda _: Space(hyperparameters, candidate),
        oracle=oracle,
        max_trials=max_trials,
    )


def report(study, trials, folder):
    """Return the report on a space of recipes: the table of trials, and the best one's recipe.json."""
    best, file = trials[0], folder / "recipe.json"
    columns = {name: value_column(name) for name in best.candidate.shown}
    text = (
        f"{table(trials, columns | OUTCOME)}\n\n"
        f"best recipe  {file}: validation accuracy {best.accuracy:.2%}, spread: {best.spread}\n"
        f"train it     python -m training fit {file}\n"
        f"TensorBoard  tensorboard --logdir {folder}"
    )
    return Report(text, {file.name: best.candidate.recipe.to_json()})


def value_column(name):
    """Return a column of `table` with the value of a hyperparameter."""

    def value(trial):
        shown = trial.candidate.shown.get(name)
        return f"{shown:.4g}" if isinstance(shown, float) else str(shown)

    return value
