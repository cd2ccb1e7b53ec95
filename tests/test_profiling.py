"""The window of steps that the profiler records."""

import pytest
import tensorflow as tf

from training import dashboards


@pytest.mark.parametrize(
    ("passed", "steps", "recorded"),
    [(0, 3, [3, 4, 5]), (0, 9, [0, 1, 2, 3, 4, 5]), (4, 3, [4, 5])],
    ids=["a short epoch", "shorter than the window", "resumed"],
)
def test_a_short_epoch_is_profiled(monkeypatch, capsys, tmp_path, passed, steps, recorded):
    board = dashboards.Profile(dashboards.Log(tmp_path), steps)
    monkeypatch.setattr(tf.profiler.experimental, "start", lambda folder: None)
    monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: None)
    board.set_params({"steps": 6})
    seen = []
    for epoch in range(2):
        board.on_epoch_begin(epoch)
        for step in range(passed if epoch == 0 else 0, 6):
            board.on_train_batch_begin(step)
            seen += [step] if board.recording else []
            board.on_train_batch_end(step)
        board.on_epoch_end(epoch)
    assert seen == recorded
    message = f"records {len(recorded)} steps, not {steps}" if len(recorded) < steps else ""
    assert message in capsys.readouterr().out
