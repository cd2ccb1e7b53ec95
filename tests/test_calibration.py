"""Calibration: the error and the temperature against definitions, and where a user meets them."""

import csv
import re

import keras
import numpy as np
import pytest
import scipy.optimize

from tests.dashboard_helpers import events
from tests.stripes import DATA, RECIPE, network
from training import calibration
from training.__main__ import main
from training.evaluation import make_evaluation
from training.run_folder import Run


def cross_entropy(logits, labels):
    logits = logits - logits.max(-1, keepdims=True)
    return float((np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]).mean())


def drawn(scale, count=20_000, classes=5):
    """Return logits that are `scale` times too large, and labels drawn from the probabilities before that."""
    random = np.random.RandomState(0)
    true = random.normal(0, 2, (count, classes))
    probabilities = np.exp(true) / np.exp(true).sum(-1, keepdims=True)
    labels = (random.uniform(size=(count, 1)) > probabilities.cumsum(-1)).sum(-1).clip(0, classes - 1)
    return (scale * true).astype("float32"), labels


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_temperature_is_that_of_the_least_loss(scale):
    logits, labels = drawn(scale)
    losses = calibration.losses_by_temperature(logits, labels).numpy() / len(labels)
    np.testing.assert_allclose(losses[20], cross_entropy(logits, labels), rtol=1e-5)  # TEMPERATURES[20] is 1
    found = calibration.best_temperature(losses, accuracy=0.6)
    best = scipy.optimize.minimize_scalar(
        lambda t: cross_entropy(logits / t, labels), bounds=(0.05, 20), method="bounded"
    )
    assert found == pytest.approx(best.x, rel=0.01) and found == pytest.approx(scale, rel=0.05)


def test_without_a_mistake_or_a_finite_loss_the_temperature_is_1():
    losses = np.linspace(0, 1, len(calibration.TEMPERATURES))
    assert calibration.best_temperature(losses, accuracy=1.0) == 1
    assert calibration.best_temperature(losses * np.nan, accuracy=0.5) == 1
    assert calibration.best_temperature(losses, accuracy=0.5) == 1 / 16  # the end of the range
    assert calibration.best_temperature(losses[::-1], accuracy=0.5) == 16


def test_the_calibration_error_by_hand():
    """Three images 90 % sure, of which two are right, and one 50 % sure that is wrong."""
    sure, half = np.log([0.9, 0.1]), np.log([0.5, 0.5])
    logits = np.array([sure, sure, sure, half], "float32")
    bins = calibration.reliability(logits, np.array([0, 0, 1, 1])).numpy()
    assert bins[0].sum() == 4 and bins[2].sum() == 2
    assert calibration.calibration_error(bins) == pytest.approx((3 * (0.9 - 2 / 3) + 0.5) / 4, abs=1e-6)
    assert calibration.calibration_error(np.zeros((3, calibration.BINS))) == 0
    ends = calibration.reliability(np.array([[100.0, 0.0], [0.0, 0.0]], "float32"), np.array([0, 0])).numpy()
    assert ends[0, -1] == 1 and ends[0, 7] == 1  # 1.0 is in the last bin, 0.5 in that from 7/15 to 8/15


def test_the_right_temperature_makes_the_error_smaller():
    logits, labels = drawn(3.0)
    before, after = (
        calibration.calibration_error(calibration.reliability(logits / t, labels).numpy()) for t in (1.0, 3.0)
    )
    assert before > 0.15 and after < 0.01


def test_a_run_knows_its_temperature_and_evaluate_shows_it(photo_run, capsys):
    run = Run.open(photo_run)
    test = run.results()["test"]
    assert main(["evaluate", str(photo_run)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    before, after = (f"{test[name]:.2%}" for name in ("calibration_error", "calibration_error_with_temperature"))
    assert line == (
        f"expected calibration error {before}, and {after} with the temperature of the validation images, "
        f"{run.temperature:.3g}"
    )
    assert float(run.weights_metadata["temperature"]) == run.temperature
    assert "reliability" in events(photo_run, "test").Tags()["tensors"]


def test_accuracy_and_loss_are_the_same_to_the_bit_with_any_temperature():
    keras.utils.set_random_seed(0)
    model = network()
    one, other = (make_evaluation(model, 2, RECIPE, t)(DATA.validation) for t in (1.0, 0.37))
    assert (one.confusion == other.confusion).all() and one.loss == other.loss and one.top5 == other.top5
    assert one.reliability[0].tolist() == other.reliability[0].tolist()
    assert one.reliability[1].tolist() != other.reliability[1].tolist()


def test_unsure_answers_are_marked(photo_run, photos, tmp_path, capsys):
    files = [str(photos / "cat/0.png"), str(photos / "owl/3.png")]
    assert main(["predict", str(photo_run), *files, "--unsure", "1"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith("unsure")] == [
        f"{file}  unsure" for file in files
    ]
    assert main(["predict", str(photo_run), *files, "--unsure", "0.01"]) == 0
    assert "unsure" not in capsys.readouterr().out
    table = tmp_path / "answers.csv"
    assert main(["predict", str(photo_run), *files, "--unsure", "1", "--csv", str(table)]) == 0
    rows = list(csv.DictReader(table.open()))
    assert [row["unsure"] for row in rows] == ["yes", "yes"] and rows[0]["file"] == files[0]
    assert main(["predict", str(photo_run), *files, "--unsure", "90"]) == 2
    assert re.search(r"unsure.*90", capsys.readouterr().err)
