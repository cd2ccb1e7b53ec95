"""Files that are whole or not there."""

import keras
import numpy as np
import pytest

from training import checkpoint
from training.errors import StateError


def model(units=3, seed=0):
    keras.utils.set_random_seed(seed)
    image = keras.Input((4,))
    x = keras.layers.Dropout(0.5, name="drop")(image)
    network = keras.Model(image, keras.layers.Dense(units, name="dense")(x))
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


def test_the_state_has_seeds_and_optimizer(tmp_path):
    first, second = model(seed=1), model(seed=2)
    first(np.ones((2, 4), "float32"), training=True)  # moves the seed of the dropout
    first.optimizer.apply([np.ones(v.shape, "float32") for v in first.trainable_variables])
    checkpoint.save_state(first, tmp_path / "state", {"epoch": 3, "history": [0.1]})
    assert checkpoint.load_state(second, tmp_path / "state") == {"epoch": 3, "history": [0.1]}
    pairs = list(
        zip(first.variables + first.optimizer.variables, second.variables + second.optimizer.variables, strict=True)
    )
    for one, other in pairs:
        np.testing.assert_array_equal(one, other, err_msg=one.path)
    assert int(second.optimizer.iterations) == 1
    assert any("seed" in one.path for one, _ in pairs)


def test_a_file_that_is_damaged_or_of_another_network_changes_nothing(tmp_path):
    checkpoint.save_state(model(), tmp_path / "good", {})
    content = (tmp_path / "good").read_bytes()
    (tmp_path / "short").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty").write_bytes(b"")
    checkpoint.save_state(model(units=5), tmp_path / "other", {})
    for name in ("short", "empty", "other"):
        network = model(seed=7)
        before = [keras.ops.convert_to_numpy(variable) for variable in network.variables]
        with pytest.raises(StateError, match=f"{name} cannot be resumed from.*--overwrite"):
            checkpoint.load_state(network, tmp_path / name)
        for old, variable in zip(before, network.variables, strict=True):
            np.testing.assert_array_equal(old, variable)
