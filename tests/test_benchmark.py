"""The benchmarks return figures of what they measure; the speed of the machine is not tested."""

import pytest

from training import benchmark
from training.measure import alone
from training.recipe import Recipe

TINY = Recipe(model="ResNetCIFAR", model_args={"depth": 8}, data="synthetic", image_size=8, batch_size=4)


def test_every_input_pipeline_is_measured():
    figures = benchmark.measure_input(size=32, batch=4, rounds=1, batches=2)
    assert figures.keys() == benchmark.PIPELINES.keys()
    assert all(value > 0 for values in figures.values() for value in values)
    line = benchmark.table({"crop": [1.0, 3.0, 2.0]}, "images/s").splitlines()[1]
    assert line.split() == ["crop", "2.0", "1.0", "3.0"]


def test_a_step_is_measured_with_its_memory_in_a_process_of_its_own():
    figures, memory = alone(benchmark.measure_step, "AlexNet", 1)
    assert len(figures) == 5 and min(figures) > 0
    assert memory > 60_965_224 * 4 * 3 / 2**20  # its weights, their gradients and the optimizer's momentum


def test_dashboards_are_measured_with_and_without():
    pairs, inside, ends, steps = benchmark.measure_dashboards(TINY, steps=2, pairs=2)
    assert len(pairs) == 2 and min(min(pair) for pair in pairs) > 0
    assert {"Scalars", "Probes", "Pictures"} <= ends.keys()
    text = benchmark.dashboards_text([(0.1, 0.102), (0.1, 0.103), (0.1, 0.101)], 0.0015, {"Pictures": 2.0}, 40, every=5)
    assert "100.0 ms without" in text and "+2.00% with them (median of 3 pairs; +1.00% to +3.00%)" in text
    assert "of which 1.50% in the callbacks" in text
    assert 0 < inside < max(max(pair) for pair in pairs)
    assert "Pictures 2.00 s; every 5 epochs of 40 steps that is 10.0%" in text  # 2 s of 5 times 40 times 0.1 s
    assert steps == pytest.approx(benchmark.load_data(TINY).train.size // 4)
