"""The states of a run on the disk: damage is found, and the newest undamaged state is used."""

import errno
from pathlib import Path

import numpy as np
import pytest

from training import checkpoint, files
from training.errors import ResourceError, StateError

ARRAYS = {"kernel": np.arange(12.0).reshape(4, 3), "iterations": np.array(7)}


def save(folder, epoch=3):
    checkpoint.Checkpoints(folder).save(ARRAYS, {"epoch": epoch, "step": 0, "history": [0.1]})


def load(folder):
    arrays, progress = checkpoint.Checkpoints(folder).load()
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
    return progress


def test_a_state_has_arrays_and_progress(tmp_path):
    save(tmp_path)
    assert load(tmp_path) == {"epoch": 3, "step": 0, "history": [0.1]}


def test_damage_anywhere_is_found_named_and_the_state_before_is_used(tmp_path, capsys):
    random = np.random.RandomState(0)
    for epoch in range(5):
        save(tmp_path, epoch)
    newest, *older = checkpoint.Checkpoints(tmp_path).files()
    assert len(older) == checkpoint.KEPT - 1
    content = newest.read_bytes()
    flips = []
    for bit in random.choice(8 * len(content), 100, replace=False):
        flips.append(bytearray(content))
        flips[-1][bit // 8] ^= 1 << bit % 8
    for damaged in [b"", content[:-1], content + b"0", *flips]:
        newest.write_bytes(damaged)
        assert load(tmp_path)["epoch"] == 3
        assert f"{newest} is damaged" in capsys.readouterr().err
    for file in older:
        file.write_bytes(b"")
    with pytest.raises(StateError, match=r"every state is damaged.*--overwrite"):
        load(tmp_path)


@pytest.mark.parametrize("failing", ["write_bytes", "fsync", "replace"])
def test_a_full_disk_leaves_the_last_state_and_the_error_has_the_sizes(tmp_path, monkeypatch, failing):
    save(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*{"write_bytes": (Path, failing)}.get(failing, (files.os, failing)), full)
    with pytest.raises(ResourceError, match=r"epoch0004.* MiB are needed and .* MiB are free.*intact"):
        save(tmp_path, 4)
    monkeypatch.undo()
    assert load(tmp_path)["epoch"] == 3
    assert len(list(tmp_path.iterdir())) == 1


def test_the_newest_state_is_kept_after_epoch_9999(tmp_path):
    states = checkpoint.Checkpoints(tmp_path)
    for epoch in range(9997, 10_003):
        states.save(ARRAYS, {"epoch": epoch, "step": 0})
    assert states.load()[1]["epoch"] == 10_002
