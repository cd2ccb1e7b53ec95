"""Files that are whole or not there."""

import errno
import fcntl
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from training import checkpoint
from training.errors import ResourceError, StateError, UserError


def model(units=3, seed=0, name="dense"):
    keras.utils.set_random_seed(seed)
    image = keras.Input((4,))
    x = keras.layers.Dropout(0.5, name="drop")(image)
    network = keras.Model(image, keras.layers.Dense(units, name=name)(x))
    network.compile(optimizer=keras.optimizers.Adam())
    network.optimizer.build(network.trainable_variables)
    return network


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), checkpoint.atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
    with checkpoint.atomic(path) as temporary:
        assert temporary.parent == path.parent  # a rename is atomic within a file system only
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def save(network, folder, epoch=3):
    arrays, _ = checkpoint.arrays_of(checkpoint.state_of(network))
    checkpoint.Checkpoints(folder).save(arrays, {"epoch": epoch, "step": 0, "history": [0.1]})


def load(network, folder):
    arrays, progress = checkpoint.Checkpoints(folder).load()
    checkpoint.restore(checkpoint.state_of(network), [], arrays, {}, folder)
    return progress


def test_the_state_has_seeds_and_optimizer(tmp_path):
    first, second = model(seed=1), model(seed=2)
    first(np.ones((2, 4), "float32"), training=True)  # moves the seed of the dropout
    first.optimizer.apply([np.ones(v.shape, "float32") for v in first.trainable_variables])
    save(first, tmp_path)
    assert load(second, tmp_path) == {"epoch": 3, "step": 0, "history": [0.1]}
    pairs = list(
        zip(first.variables + first.optimizer.variables, second.variables + second.optimizer.variables, strict=True)
    )
    for one, other in pairs:
        np.testing.assert_array_equal(one, other, err_msg=one.path)
    assert int(second.optimizer.iterations) == 1
    assert any("seed" in one.path for one, _ in pairs)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"units": 5}, r"its variables are not this run's.*--overwrite"),
        (
            {"name": "stage1"},
            r"model/stage1/bias, which the network does not have. An earlier version .* stage2 to stage8.*--overwrite",
        ),
    ],
    ids=["another network", "an earlier version"],
)
def test_a_state_of_another_network_changes_nothing(tmp_path, saved, message):
    save(model(**saved), tmp_path)
    network = model(seed=7)
    before = [keras.ops.convert_to_numpy(variable) for variable in network.variables]
    with pytest.raises(StateError, match=message):
        load(network, tmp_path)
    for old, variable in zip(before, network.variables, strict=True):
        np.testing.assert_array_equal(old, variable)


def test_damage_anywhere_is_found_named_and_the_state_before_is_used(tmp_path, capsys):
    random = np.random.RandomState(0)
    for epoch in range(5):
        save(model(), tmp_path, epoch)
    newest, *older = checkpoint.Checkpoints(tmp_path).files()
    assert len(older) == checkpoint.KEPT - 1
    content = newest.read_bytes()
    flips = []
    for bit in random.choice(8 * len(content), 100, replace=False):
        flips.append(bytearray(content))
        flips[-1][bit // 8] ^= 1 << bit % 8
    for damaged in [b"", content[:-1], content + b"0", *flips]:
        newest.write_bytes(damaged)
        assert load(model(), tmp_path)["epoch"] == 3
        assert f"{newest} is damaged" in capsys.readouterr().err
    for file in older:
        file.write_bytes(b"")
    with pytest.raises(StateError, match=r"every state is damaged.*--overwrite"):
        load(model(), tmp_path)


@pytest.mark.parametrize("failing", ["write_bytes", "fsync", "replace"])
def test_a_full_disk_leaves_the_last_state_and_says_the_sizes(tmp_path, monkeypatch, failing):
    save(model(), tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*{"write_bytes": (Path, failing)}.get(failing, (checkpoint.os, failing)), full)
    with pytest.raises(ResourceError, match=r"epoch0004.* MiB are needed and .* MiB are free.*whole"):
        save(model(), tmp_path, 4)
    monkeypatch.undo()
    assert load(model(), tmp_path)["epoch"] == 3
    assert len(list(tmp_path.iterdir())) == 1


def test_keras_callbacks_keep_what_they_remember():
    early = keras.callbacks.EarlyStopping(restore_best_weights=True)
    early.wait, early.best, early.best_weights = 2, np.float32(0.5), [np.ones(3, "float32"), np.array(7)]
    arrays, values = checkpoint.arrays_of({}, [early])
    other = keras.callbacks.EarlyStopping(restore_best_weights=True)
    checkpoint.restore({}, [other], arrays, json.loads(json.dumps(values)), "here")
    assert (other.wait, other.best) == (2, 0.5)
    np.testing.assert_array_equal(other.best_weights[0], np.ones(3))
    assert other.best_weights[1] == 7


def test_the_newest_state_is_kept_after_epoch_9999(tmp_path):
    states = checkpoint.Checkpoints(tmp_path)
    for epoch in range(9997, 10_003):
        states.save({"x": np.zeros(1, "float32")}, {"epoch": epoch, "step": 0})
    assert states.load()[1]["epoch"] == 10_002


def test_a_lock_leaves_nothing(tmp_path):
    with checkpoint.locked(tmp_path / "new" / "folder"):
        assert (tmp_path / "new" / "folder" / "lock").exists()
    assert not list(tmp_path.iterdir())
    (tmp_path / "notes.tmp-old").write_text("not of this project")
    with checkpoint.locked(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.tmp-old"]


def test_a_lock_on_a_file_that_is_no_longer_there_is_none(tmp_path, monkeypatch):
    """The holder before removed it after this process had opened it, and a third one has made another."""
    flock = fcntl.flock

    def late(descriptor, operation):
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").write_text("process 3")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UserError, match="in use"), checkpoint.locked(tmp_path):
        pass
    assert (tmp_path / "lock").read_text() == "process 3"
