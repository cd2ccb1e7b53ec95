"""The comparison of finished runs: its rows, its files, its figure, and what it refuses."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.text import Text

from tests.dashboard_helpers import events, parameters_of
from training import compare, measure
from training.errors import ResourceError, StateError, UserError


@pytest.fixture(scope="module")
def run(photo_run, tmp_path_factory):
    """The folder of a finished run, in a folder of its own."""
    return shutil.copytree(photo_run, tmp_path_factory.mktemp("runs") / "photos")


def test_a_row_holds_what_the_files_of_the_run_hold(run, tmp_path):
    (row,) = compare.compare([run.parent], tmp_path / "out", measure=lambda folder: (2.5, 64.0))
    assert row.parameters == parameters_of(run)
    assert row.accuracy == json.loads((run / "metrics.json").read_text())["test"]["accuracy"]
    (line,) = csv.DictReader((tmp_path / "out" / "compare.csv").open())
    assert (line["model"], float(line["milliseconds"]), float(line["peak_mib"])) == ("ResNetCIFAR", 2.5, 64.0)
    assert f"{row.parameters:,}" in (tmp_path / "out" / "compare.md").read_text()
    assert tf.io.decode_png((tmp_path / "out" / "compare.png").read_bytes()).shape[2] >= 3
    assert "compare" in events(tmp_path / "out", ".").Tags()["tensors"]
    assert compare.measure(run)[0] > 0
    left, right = (axes.get_xlabel() for axes in compare.figure([row]).axes)
    assert left == "multiply-adds per image" and right.startswith("ms per image")
    with pytest.raises(UserError, match="no finished run"):
        compare.find_runs([tmp_path])
    assert compare.find_runs([run, run.parent]) == [run]


def row_of(run, model="ResNet18", accuracy=0.9, cost=1e8, accuracies=None):
    accuracies = accuracies or {0: accuracy}
    return compare.Row(run, model, 32, accuracies, int(cost / 10), int(cost), 1.0, 1.0, 1.0, cost / 1e8)


@pytest.mark.parametrize("count", [3, 10, 30])
def test_labels_do_not_overlap(count):
    random = np.random.RandomState(0)
    rows = [
        row_of(f"a_long_name_{number}-12345678", accuracy=random.uniform(0.97, 0.99), cost=10 ** random.uniform(7, 8.5))
        for number in range(count)
    ]
    for axes in compare.figure(rows).axes:
        boxes = [Text.get_window_extent(label) for label in axes.texts]
        assert sum(box.count_overlaps(boxes) for box in boxes) == count  # each only with itself
        inside = axes.get_window_extent()
        assert all(inside.containsx(x) and inside.containsy(y) for box in boxes for x, y in box.corners())


def test_runs_with_the_same_name_get_different_labels():
    rows = [row_of("photos-aa", "ResNet18"), row_of("photos-bb", "VGG11"), row_of("digits-cc"), row_of("digits-dd")]
    assert compare.short_names(rows) == ["photos ResNet18", "photos VGG11", "digits-cc", "digits-dd"]
    assert compare.short_names([row_of("mine"), row_of("photos-aa")]) == ["mine", "photos"]


def test_rows_whose_paired_interval_holds_zero_are_not_called_different():
    """Pairs matter: the seeds differ by a point, and the better recipe is better with each of them."""
    worse = row_of("worse", accuracies={0: 0.90, 1: 0.91, 2: 0.92})
    better = row_of("better", accuracies={0: 0.905, 1: 0.914, 2: 0.926})
    same = row_of("same", accuracies={0: 0.91, 1: 0.90, 2: 0.925})
    assert not compare.undecided(better, worse)
    assert compare.undecided(same, worse) and compare.undecided(worse, same)
    lines = compare.markdown([better, worse, same, row_of("single")]).splitlines()[2:]
    equal = [line.split(" | ")[-1].rstrip(" |") for line in lines]
    assert equal == ["same, single", "same, single", "better, worse, single", "not known: one seed"]


def test_runs_that_differ_in_more_than_the_seed_are_rows_of_their_own(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    assert [row.accuracies.keys() for row in compare.describe([run, other]).values()] == [{0}, {0}]


def test_a_comparison_that_fails_changes_no_file(run, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    for name in compare.FILES:
        (output / name).write_text("old")

    def assert_refused(error, match, paths=(run,), measure=lambda folder: (2.5, 64.0)):
        before = sorted(os.listdir(output))
        with pytest.raises(error, match=match):
            compare.compare(paths, output, measure)
        assert sorted(os.listdir(output)) == before
        assert all((output / name).read_text() == "old" for name in compare.FILES[:2])

    def killed(folder):
        return measure.alone(os._exit, 9)

    broken = tmp_path / "broken" / run.name
    shutil.copytree(run, broken)
    for damage in ("{", "[]", '{"test": {"accuracy": "high"}}', '{"test": {"accuracy": NaN}}'):
        (broken / "metrics.json").write_text(damage)
        assert_refused(StateError, "broken/photos/metrics.json is damaged", (run, broken))
    assert_refused(ResourceError, "was killed", measure=killed)
    (output / "tensorboard").touch()  # written last
    assert_refused(ResourceError, "tensorboard could not be written")
    (output / "compare.csv").unlink()
    (output / "compare.csv").symlink_to(output / "compare.md")
    assert_refused(UserError, r"compare\.csv is not a regular file")
    with pytest.raises(UserError, match=r"compare\.md is not a folder"):
        compare.compare([run], output / "compare.md" / "below")
