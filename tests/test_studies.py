"""The studies: claims as typed in tests/claims.py, quick forms that run to the end, verdicts that follow the rows."""

import dataclasses
import math
import os

import matplotlib.image
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.claims import CLAIMS
from tests.tiny import TINY
from training.studies import STATEMENTS, STUDIES, gates, gradients, heads
from training.studies.frame import (
    CONTRADICTED,
    MINUTES,
    NOT_REPRODUCED,
    REPRODUCED,
    Claim,
    Lab,
    Row,
    carry_out,
    csv_text,
    module_of,
    read_rows,
    verdict,
)
from training.studies.probing import arrays

POSITIVE = Claim("L1", "It is positive.", "difference", "nowhere", least=0)
BETWEEN = Claim("L1", "It is 5.", "count", "nowhere", least=5, greatest=5)


def planted(*values, quantity="difference", seeds=True):
    return [Row(quantity, "a", "", seed if seeds else None, value) for seed, value in enumerate(values)]


@pytest.mark.parametrize("name", STUDIES)
def test_the_claims_of_a_study_are_those_that_were_typed_before(name):
    claims = module_of(name).CLAIMS
    assert [(c.statement, c.quantity, c.least, c.greatest, c.source) for c in claims] == CLAIMS[name]
    assert {claim.statement for claim in claims} == set(STUDIES[name])


def test_every_study_is_of_statements_of_the_lecture():
    assert CLAIMS.keys() == STUDIES.keys()
    assert {number for numbers in STUDIES.values() for number in numbers} <= STATEMENTS.keys()


# The other studies take half a minute each in their quick form.
AT_ONCE = ("boxes", "closing", "pointwise", "receptive_fields")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in AT_ONCE else [pytest.mark.slow]) for name in STUDIES]
)
def test_the_quick_form_of_a_study_runs_to_the_end(name, tmp_path):
    verdicts = carry_out(name, tmp_path, 1, quick=True)
    rows = read_rows(tmp_path / name / f"{name}.csv")
    assert [found.claim for found in verdicts] == list(module_of(name).CLAIMS)
    assert all(math.isfinite(found.mean) for found in verdicts)
    if name == "boxes":  # counted, in the quick form too
        assert {found.outcome for found in verdicts} == {REPRODUCED}
    assert [row.value > 0 for row in rows if row.quantity == MINUTES] == [True]
    picture = matplotlib.image.imread(tmp_path / name / f"{name}.png")
    assert picture.std() > 0.01


def test_a_study_that_is_repeated_trains_nothing_again_and_counts_all_its_time(tmp_path):
    results = []
    for _ in range(2):
        carry_out("reuse", tmp_path, 1, quick=True)
        states = {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/*/states/*")}
        results.append((states, read_rows(tmp_path / "reuse" / "reuse.csv")))
    (states, rows), (states_again, rows_again) = results
    assert states_again == states and states
    assert rows_again[:-1] == rows[:-1]
    assert rows[-1].quantity == MINUTES and rows_again[-1].value > rows[-1].value


def test_the_same_recipe_is_trained_once(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(Lab, "train", lambda lab, recipe: trained.append(recipe.seed) or f"run {recipe.seed}")
    recipes = [dataclasses.replace(TINY, seed=seed) for seed in (0, 1, 0)]
    assert Lab(tmp_path, (0,), quick=True).train_all(recipes) == ["run 0", "run 1", "run 0"]
    assert trained == [0, 1]


def test_the_jobs_of_a_study_are_done_by_other_processes(tmp_path, capsys):
    """Their results come in the order of the jobs; an error reaches the caller."""
    lab = Lab(tmp_path, (0,))
    *numbers, process = lab.map(
        eval, [("1 + 1",), ("__import__('time').sleep(1) or 2",), ("__import__('os').getpid()",)]
    )
    assert numbers == [2, 2] and process != os.getpid()
    assert "3 of 3 parts done" in capsys.readouterr().out
    with pytest.raises(ZeroDivisionError):
        lab.map(eval, [("1 / 0",)])


def test_a_watched_run_that_is_resumed_keeps_what_was_seen(tmp_path):
    """The second call of `watch` finds the run finished, and the file of the first."""
    recipe, lab = dataclasses.replace(TINY, batch_size=32), Lab(tmp_path, (0,), quick=True)

    def norm(model):
        return float(np.linalg.norm(model.get_layer("head_dense").kernel))

    (run, seen), (_, again) = lab.watch(recipe, norm), lab.watch(recipe, norm)
    assert again == seen and list(seen) == [0, 1] and seen[0] != seen[1]
    weights = load_file(run.best)
    assert seen[1] == pytest.approx(float(np.linalg.norm(weights["head_dense/kernel"])))
    assert not run.export.exists()  # nothing is exported


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ((1.0, 1.1, 0.9), REPRODUCED),
        ((-1.0, -1.1, -0.9), CONTRADICTED),
        ((1.0, -1.0, 0.5), NOT_REPRODUCED),  # the seeds do not agree
        ((0.1, 0.9, 0.2), NOT_REPRODUCED),  # the mean is 0.4, but three seeds leave 0.4 - 1.08
        ((1.0,), NOT_REPRODUCED),  # one seed decides nothing
        ((2.0, 2.0), REPRODUCED),
    ],
)
def test_a_verdict_is_that_of_the_interval_over_the_seeds(values, outcome):
    assert verdict(POSITIVE, planted(*values)).outcome == outcome


def test_the_interval_is_that_of_students_t():
    """Of 1, 2, 3: standard error 1 / sqrt(3), quantile 4.303 with two degrees of freedom."""
    found = verdict(POSITIVE, planted(1.0, 2.0, 3.0))
    assert (found.mean, found.seeds) == (2, 3)
    assert (found.low, found.high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-3)


@pytest.mark.parametrize(("value", "outcome"), [(5, REPRODUCED), (5.1, CONTRADICTED), (4, CONTRADICTED)])
def test_what_is_counted_has_no_interval(value, outcome):
    assert verdict(BETWEEN, planted(value, quantity="count", seeds=False)).outcome == outcome


@pytest.mark.parametrize("rows", [[], planted(1.0, 2.0, seeds=False), [*planted(1.0), *planted(2.0)]])
def test_a_quantity_that_was_not_measured_once_for_each_seed_has_no_verdict(rows):
    with pytest.raises(ValueError, match="it must be once, or once for each"):
        verdict(POSITIVE, rows)


def outcome(claim, rows):
    """Return the outcome that a claim has if three seeds agree."""
    return verdict(claim, [row._replace(seed=seed) for row in rows for seed in range(3)]).outcome


def claim_about(study, quantity):
    return next(claim for claim in study.CLAIMS if claim.quantity == quantity)


def test_without_shortcuts_the_study_of_gradients_ends_differently(monkeypatch):
    """In its quick form, with 20 layers."""
    lab, claims = Lab(None, (0,), quick=True), [claim for claim in gradients.CLAIMS if claim.statement == "L14"]
    outcomes = []
    for residual in ("ResNetCIFAR", "PlainNetCIFAR"):
        monkeypatch.setitem(gradients.NETWORKS, "residual", residual)
        rows = list(gradients.measure(lab))
        outcomes.append([outcome(claim, [r for r in rows if r.quantity == claim.quantity]) for claim in claims])
    assert outcomes == [[REPRODUCED] * 2, [CONTRADICTED] * 2]


def test_heads_without_weight_add_no_gradient():
    recipe = heads.recipe_of("GoogLeNet", 0, Lab(None, (0,), quick=True))
    model, images = recipe.build(10), arrays(recipe, "train", 4)
    claim, outcomes = claim_about(heads, f"{heads.ADDED}, GoogLeNet"), []
    for weight in (recipe.aux_weight, 0.0):
        seen = heads.head_gradients(dataclasses.replace(recipe, aux_weight=weight), *images, model)
        rows = [row for row in heads.at_the_start("GoogLeNet", seen, 0) if row.quantity == claim.quantity]
        outcomes.append(outcome(claim, rows))
    assert outcomes == [REPRODUCED, CONTRADICTED]


def test_constant_gates_do_not_depend_on_the_class():
    random, labels = np.random.RandomState(0), np.arange(300) % 10
    early = random.uniform(size=(300, 8))
    late = random.uniform(size=(10, 8))[labels] + random.uniform(0, 0.3, (300, 8))
    claim, outcomes = claim_about(gates, gates.LATER), []
    for last in (late, np.full((300, 8), 0.5)):
        blocks = {"stage1_block1": early, "stage4_block1": last}
        shares = {block: gates.between_classes(gate, labels) for block, gate in blocks.items()}
        outcomes.append(outcome(claim, [Row(claim.quantity, "", "", 0, gates.last_minus_first(shares))]))
    assert outcomes == [REPRODUCED, CONTRADICTED]


def test_rows_are_written_and_read(tmp_path):
    rows = [Row("error, %", "plain", 3.0, 0, 0.25), Row("count, 2", "a, b", "stage 1", None, 7.0)]
    (tmp_path / "rows.csv").write_text(csv_text(rows))
    assert read_rows(tmp_path / "rows.csv") == rows
