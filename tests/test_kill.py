"""A run that is killed, at whatever moment, and started again ends with the bits of one that was not."""

import hashlib
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from training.checkpoint import Checkpoints

NAMED = [("batch", 6), ("write", 1), ("before_rename", 2), ("after_rename", 1), ("epoch_end", 1)]


@pytest.fixture
def trainer(request):
    """A function (folder, point, count) -> "killed" or "ended CODE"; all runs are children of one process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.killed_run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"EPOCHS": str(getattr(request, "param", 3))},
    )

    def run(folder, point="never", count=1):
        print(json.dumps([str(folder), point, count]), file=process.stdin, flush=True)
        return process.stdout.readline().strip()

    yield run
    process.stdin.close()
    process.wait()


def outcome(folder):
    """Everything that a finished run has but times: JSON values, arrays, the digest of the best weights' file."""
    arrays, progress = Checkpoints(folder / "states").load()
    best = folder / "best.safetensors"
    arrays |= {f"best/{name}": array for name, array in safetensors.numpy.load_file(best).items()}
    metrics = json.loads((folder / "metrics.json").read_text())
    return {"progress": progress, **metrics}, arrays, hashlib.sha256(best.read_bytes()).hexdigest()


def check_equal(straight, killed):
    (values, arrays, best), (values2, arrays2, best2) = straight, killed
    assert values2 == values
    assert arrays2.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(arrays2[name], array, err_msg=name)
    assert best2 == best
    kinds = {name.split("/")[0] for name in arrays}
    assert kinds == {"model", "optimizer", "average", "best"}
    assert any("seed" in name for name in arrays)
    assert any(value for value in values["progress"]["callbacks"]["ReduceLROnPlateau0"].values())


def kill_and_compare(trainer, tmp_path, kills):
    assert trainer(tmp_path / "straight") == "ended 0", (tmp_path / "straight.log").read_text()
    log = tmp_path / "killed.log"
    for point, count in kills:
        assert trainer(tmp_path / "killed", point, count) in ("killed", "ended 0"), log.read_text()
        leftovers = list((tmp_path / "killed" / "states").glob("*.tmp-*"))
        assert bool(leftovers) == (point in ("write", "before_rename")) or isinstance(point, float)
    assert trainer(tmp_path / "killed") == "ended 0", log.read_text()
    assert not list((tmp_path / "killed").rglob("*.tmp-*"))
    check_equal(outcome(tmp_path / "straight"), outcome(tmp_path / "killed"))


def test_five_named_kills_and_three_random_ones(trainer, tmp_path):
    draw = random.Random(0)
    kills = [*NAMED, *((round(draw.uniform(3, 9), 2), 1) for _ in range(3))]
    kill_and_compare(trainer, tmp_path, kills)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [25], indirect=True)
def test_fifty_random_kills_and_the_named_ones(trainer, tmp_path):
    draw = random.Random(1)
    kills = [*NAMED, *((draw.uniform(2, 12), 1) for _ in range(50))]
    kill_and_compare(trainer, tmp_path, kills)
