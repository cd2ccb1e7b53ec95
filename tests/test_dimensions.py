"""`dimensions`: the trials of each curve, and the paper's two figures."""

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.errors import DivergedError
from tuning.figure import Point, figure_3, figure_8

pytest_plugins = ["tests.searching"]


def test_the_papers_figures_are_drawn(cli, training, tmp_path):
    assert cli("dimensions", "--phi", 0, 1)[0] == 0
    assert len(training.trained) == 5  # the baseline once
    images = EventAccumulator(str(tmp_path / "search" / "figures"), size_guidance={"tensors": 0}).Reload()
    for name in ("figure3", "figure8"):
        file = (tmp_path / "search" / f"{name}.png").read_bytes()
        assert file.startswith(b"\x89PNG")
        (event,) = images.Tensors(name)
        width, height, image = event.tensor_proto.string_val
        assert int(width) > int(height) > 400
        np.testing.assert_array_equal(tf.io.decode_png(image), tf.io.decode_png(file, channels=3))


def test_failed_trials_are_listed_and_not_drawn(cli, training):
    def accuracy(recipe):
        if recipe.model_args["depth"] > 8:
            raise DivergedError("The loss is nan")
        return 0.5

    training.accuracy = accuracy
    code, out, _ = cli("dimensions", "--phi", 0, 1)
    rows = {line.split()[0]: line for line in out.splitlines() if line.count("  ") > 2}
    assert code == 0 and {"width", "depth", "resolution", "compound", "baseline"} <= rows.keys()
    assert ["failed" in rows[curve] for curve in ("width", "depth", "compound")] == [False, True, True]
    assert "The loss is nan" in rows["depth"]


def test_figures_show_what_was_measured():
    curve = [Point(3_000_000, (0.8, 0.9), "d=2"), Point(1_000_000, (0.5,), "d=1")]
    curves = dict.fromkeys(("width", "depth", "resolution", "compound"), curve)
    plots, (together,) = figure_3(curves).axes, figure_8(curves).axes
    assert [plot.get_title() for plot in plots] == ["width", "depth", "resolution"]
    assert [text.get_text() for text in plots[1].texts] == ["d=1", "d=2"]
    assert [text.get_text() for text in together.get_legend().get_texts()] == list(curves)
    for plot in (*plots, together):
        line, _, (bars,) = plot.containers[0].lines
        assert line.get_xdata().tolist() == [1, 3] and line.get_ydata() == pytest.approx([50, 85])
        assert bars.get_segments()[1][:, 1] == pytest.approx([80, 90])  # from the lowest seed to the highest
