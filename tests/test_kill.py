"""A run that is killed at any time and started again ends with the same bits as one that was not."""

import hashlib
import json
import os
import random
import signal

import numpy as np
import pytest
import safetensors.numpy

from tests.forked import Forked
from tests.killed_run import train
from training.checkpoint import Checkpoints

# With as many threads as commands have, unlike the other tests: their order must not change a bit either.
ALL_THREADS = {name: value for name, value in os.environ.items() if name != "TF_NUM_INTRAOP_THREADS"}
NAMED = [("batch", 6), ("write", 1), ("before_rename", 2), ("after_rename", 1), ("epoch_end", 1)]


def trained(folder, point="never", count=1, epochs=3):
    """Return the exit code of a run that is killed at a point, or after a number of seconds."""
    with open(f"{folder}.log", "a") as log:
        streams = {"stdout": log.fileno(), "stderr": log.fileno()}
        process = Forked(train, folder, point, count, epochs, env=ALL_THREADS, **streams)
    if isinstance(point, float):
        process.wait(point)
        process.kill()
    return process.wait()


def outcome(folder):
    """Return all of a finished run except times: JSON values, arrays, the digest of the best weights."""
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


def kill_and_compare(tmp_path, kills, epochs):
    straight, killed, log = tmp_path / "straight", tmp_path / "killed", tmp_path / "killed.log"
    assert trained(straight, epochs=epochs) == 0, (tmp_path / "straight.log").read_text()
    for point, count in kills:
        codes = (-signal.SIGKILL, 0) if isinstance(point, float) else (-signal.SIGKILL,)
        assert trained(killed, point, count, epochs) in codes, log.read_text()
        leftovers = list((killed / "states").glob("*.tmp-*"))
        assert bool(leftovers) == (point in ("write", "before_rename")) or isinstance(point, float)
    assert trained(killed, epochs=epochs) == 0, log.read_text()
    assert not list(killed.rglob("*.tmp-*"))
    check_equal(outcome(straight), outcome(killed))


def test_five_named_kills(tmp_path):
    kill_and_compare(tmp_path, NAMED, 3)


@pytest.mark.slow
def test_fifty_random_kills_and_the_named_ones(tmp_path):
    draw = random.Random(1)
    kills = [*NAMED, *((draw.uniform(1, 10), 1) for _ in range(50))]
    kill_and_compare(tmp_path, kills, 25)
