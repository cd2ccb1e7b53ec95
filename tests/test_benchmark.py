"""The benchmark's frame, its report, and the work that is measured; the speed of the machine is not tested."""

import dataclasses
import inspect
import json
import os
import subprocess
import sys
import time
import types

import numpy as np
import psutil
import pytest

from training import benchmarks
from training.__main__ import main
from training.benchmarks import convolutions, frame, ours, parts, peers, report
from training.benchmarks.frame import Group, Limit, Ratio, Result, Settings, Variant
from training.errors import UserError
from training.recipe import Recipe
from training.run_folder import Run

TINY = Recipe(model="ResNetCIFAR", model_args={"depth": 8}, image_size=8, batch_size=64)


def sleeping(seconds):
    return lambda: time.sleep(seconds)


def reading(variable):
    value = os.environ[variable]
    return lambda: float(value)  # a step may return its own seconds


def raising(when):
    if when == "built":
        raise ValueError("it cannot be built")
    return lambda: os._exit(9)


SLEEPERS = (Variant("slow", sleeping, {"seconds": 0.1}), Variant("fast", sleeping, {"seconds": 0.02}))
RATIOS = (Ratio("fast", "slow", 2.0), Ratio("slow", "fast", 2.0), Limit("fast", 9.0), Ratio("fast", "absent", 1.0))


class Load:
    """A meter for `measure` that reports one core of load in the given turns, and none in the others."""

    def __init__(self, turns):
        self.turns, self.calls, self.total = turns, 0, 0.0

    def __call__(self, pid):
        self.calls += 1
        turn, ends = divmod(self.calls - 1, 2)
        self.total += 1.0 if ends and turn in self.turns else 0.0
        return self.total


def test_variants_are_measured_in_turn_and_a_disturbed_round_is_repeated():
    group = Group("sleep", (*SLEEPERS, Variant("absent", sleeping, needs=("no_such_library", "json"))), RATIOS, "ms")
    meter = Load(turns={1})
    result = frame.measure(group, Settings(rounds=2, seconds=0.05), meter)
    assert meter.calls == 2 * 2 * 3  # two variants in three rounds, the first of which was disturbed
    assert result.disturbed == 0 and max(result.load.values()) == 0
    assert {name: len(seconds) for name, seconds in result.seconds.items()} == {"slow": 2, "fast": 2}
    assert min(result.seconds["slow"]) >= 0.1 and min(result.seconds["fast"]) >= 0.02
    assert result.missing == {"absent": ["no_such_library"]} and not result.failed
    assert all(0 <= memory < 100 for memory in result.memory.values())


def test_not_more_than_twice_the_rounds_are_measured():
    meter = Load(turns=range(1, 100))
    result = frame.measure(Group("sleep", SLEEPERS[1:]), Settings(rounds=2, seconds=0.05), meter)
    assert meter.calls == 2 * 4
    assert result.disturbed == 1  # the first of the four was not
    assert "sleep (1 of 2 rounds, up to " in report.disturbance(result)


def test_a_variant_has_its_environment_and_one_that_fails_is_left_out():
    variants = (
        Variant("mine", reading, {"variable": "BENCHMARKED"}, {"BENCHMARKED": "0.25"}),
        Variant("built", raising, {"when": "built"}),
        Variant("killed", raising, {"when": "called"}),
    )
    result = frame.measure(Group("failures", variants, repeated=False), Settings(rounds=1), Load(()))
    assert result.seconds == {"mine": [0.25]}
    assert result.failed["built"] == "ValueError: it cannot be built"
    assert "was killed" in result.failed["killed"]
    assert "BENCHMARKED" not in os.environ


def test_the_load_is_that_of_other_processes(monkeypatch):
    times = types.SimpleNamespace(
        user=1000.0, nice=1.0, system=20.0, idle=5e5, iowait=5e5, irq=0.1, softirq=0.1, steal=0.1
    )
    monkeypatch.setattr(psutil, "cpu_times", lambda: times)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    before = {pid: frame.others_seconds(pid) for pid in (other.pid, os.getpid())}
    assert before[other.pid] == pytest.approx(1021.3, abs=0.5)
    started = time.process_time()
    while time.process_time() - started < 0.3:
        pass
    times.user += 0.3
    assert frame.others_seconds(os.getpid()) == pytest.approx(before[os.getpid()], abs=0.1)
    assert frame.others_seconds(other.pid) == pytest.approx(before[other.pid] + 0.3, abs=0.1)
    other.communicate(b"\n")


SECONDS = {"slow": [0.5, 1.0, 0.75], "fast": [0.25, 0.25, 0.25]}


def result(*comparisons, **fields):
    return Result(Group("sleep", SLEEPERS, comparisons, images=4), SECONDS, **fields)


def test_a_ratio_is_the_median_of_those_of_the_rounds():
    ratio, limit = Ratio("fast", "slow", 3.0), Limit("slow", 0.5, "fast")
    assert ratio.values(SECONDS) == [2, 4, 3]
    assert ratio.holds(3.0) and not ratio.holds(2.9) and Ratio("fast", "slow").holds(0.0)
    either = Ratio("slow", "slow", alternatives=("fast", "absent"))
    assert either.values(SECONDS) == [2, 4, 3] and str(either) == "fastest of slow, fast, absent / slow"
    assert limit.values(SECONDS) == [0.25, 0.75, 0.5] and Limit("fast", 1).values(SECONDS) == SECONDS["fast"]
    assert limit.holds(0.5) and not limit.holds(0.51)
    rows = list(report.comparison_rows(result(ratio, dataclasses.replace(ratio, at_least=3.1), RATIOS[-1])))
    assert rows[0] == ["sleep", "fast / slow", "3", "2", "4", "at least 3", "reached"]
    assert rows[1][-2:] == ["at least 3.1", "**missed**"]
    assert rows[2] == ["sleep", "fast / absent", "not measured", "", "", "at least 1", ""]
    assert next(report.variant_rows(result())) == ["sleep", "slow", "5.33", "4", "8", "images/s", "", ""]


def test_a_missed_target_is_the_exit_code(monkeypatch, capsys, tmp_path):
    measured = [result(Ratio("fast", "slow", 5.0), memory={"slow": 1024.0}, load={"slow": 0.1}, notes=["a note"])]
    monkeypatch.setattr(report, "FUNCTIONS", {name: lambda settings: iter(measured) for name in benchmarks.PARTS})
    file = tmp_path / "figures.json"
    assert main(["benchmark", "deformable", "--rounds", "3", "--json", str(file)]) == 1
    shown = capsys.readouterr().out
    assert "| sleep | slow | 5.33 | 4 | 8 | images/s | 1,024 | 0.10 |" in shown and "a note" in shown
    assert "target missed: sleep, fast / slow, 3, at least 5" in shown
    values = json.loads(file.read_text())
    assert values["rounds"] == 3 and "cores" in values["machine"] and list(values["parts"]) == ["deformable"]
    (entry,) = values["parts"]["deformable"]
    assert entry["variants"]["slow"]["figures"] == pytest.approx([8, 4, 16 / 3])
    assert entry["comparisons"][0]["holds"] is False
    assert entry["comparisons"][0]["values"] == [2, 4, 3]

    measured[:] = [result(Ratio("fast", "slow", 2.0), RATIOS[-1], missing={"absent": ["torch", "timm"]})]
    assert main(["benchmark"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n## {name}\n" in shown for name in benchmarks.PARTS)
    assert "torch, timm: not installed; pip install torch timm" in shown

    assert main(["benchmark", "--json", str(tmp_path)]) == 2  # before anything is measured
    assert not capsys.readouterr().out

    measured[:] = [result(failed={"killed": "its process was killed"})]
    assert main(["benchmark", "all"]) == 1
    assert "failed: sleep, killed: its process was killed" in capsys.readouterr().out


def all_groups():
    makers = (
        parts.small_steps,
        parts.large_steps,
        parts.other_steps,
        parts.deformable_groups,
        lambda: parts.input_groups(["file"]),
        parts.predict_groups,
        parts.export_groups,
        lambda: parts.command_groups("run", "image"),
        parts.building_groups,
        lambda: parts.run_groups("folder"),
    )
    return [group for make in makers for group in make()]


def test_the_groups_are_consistent():
    groups = all_groups()
    assert parts.FUNCTIONS.keys() == benchmarks.PARTS.keys()
    assert len({group.title for group in groups}) == len(groups)
    for group in groups:
        names = [variant.name for variant in group.variants]
        assert len(set(names)) == len(names)
        for comparison in group.comparisons:
            alternatives = getattr(comparison, "alternatives", ())
            assert {comparison.variant, comparison.other, *alternatives} - {None} <= set(names)
        for variant in group.variants:
            inspect.signature(variant.build).bind(**variant.arguments)
            if variant.build.__module__ == peers.__name__:
                assert set(variant.needs) & {"torch"}


def test_only_the_groups_that_are_asked_for_are_measured(monkeypatch):
    monkeypatch.setattr(parts, "measure", lambda group, settings: group.title)
    networks = ("ResNet50", "SEResNet50", "DeformableResNet50")
    assert list(parts.step(Settings(only="ResNet50"))) == [f"{network}, 224 px, batch 8" for network in networks]


def test_a_step_of_a_run_is_an_epoch_of_it(tmp_path):
    recipe = dataclasses.replace(parts.LEAST, image_size=8, batch_size=128, epochs=2)
    run = Run(tmp_path / "run", recipe)
    step = ours.whole_run(recipe, run.folder, steps=10, validate=False)
    assert not run.best.exists()
    step()
    assert run.best.exists() and run.checkpoints.files()
    with pytest.raises(ValueError, match="steps=9, but an epoch has 10"):
        ours.whole_run(recipe, tmp_path / "other", steps=9, validate=False)


def test_an_error_in_a_run_ends_its_step(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        ours.whole_run(dataclasses.replace(parts.LEAST, batch_size=128), tmp_path / "file", steps=10, validate=True)


def test_work_that_is_measured_is_done(tmp_path):
    ours.training_steps(TINY, steps=2)()
    assert ours.building("ResNetCIFAR")().name == "resnet_cifar"
    ours.deformable(size=4, channels=2, batch_size=1, backward=False)()
    assert len(ours.deformable(size=4, channels=2, batch_size=1, backward=True)()) == 7
    files = ours.photographs(tmp_path, count=2)
    assert 30_000 < os.path.getsize(files[0]) < 90_000
    for fields in ({}, {"mixup": 0.2}):
        assert ours.input_batches(Recipe(image_size=32, batch_size=4, **fields), files, 2)() > 0
    ours.python(["-c", "raise SystemExit(3)"], code=3)()
    with pytest.raises(RuntimeError, match=r"ended with 1: [\s\S]*ZeroDivisionError"):
        ours.python(["-c", "1 / 0"])()


def test_a_network_and_its_export_are_called():
    for call in (ours.inference("ResNet18", 2), ours.exported("ResNet18", 2, "model.onnx")):
        probabilities = call()
        assert probabilities.shape == (2, 1000)
        assert np.asarray(probabilities).sum(axis=1) == pytest.approx([1, 1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["savedmodel", "onnx", "openvino"])
def test_exports_of_keras_are_called(kind):
    answer = ours.keras_exported("MobileNetV2", 2, kind)()
    probabilities = answer if kind == "savedmodel" else answer[0]
    assert np.asarray(probabilities).sum(axis=1) == pytest.approx([1, 1])


def test_forms_of_convolutions_are_measured_and_the_used_one_is_compared(monkeypatch):
    monkeypatch.setattr(parts, "alone", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr("keras_cnns.layers.convolution_forms.onednn_is_on", lambda: False)
    shapes = [(2, 3, 1, 1, 4, 4), (2, 1, 3, 1, 256, 256), (2, 4, 3, 2, 4, 4), (2, 4, 5, 1, 4, None)]
    monkeypatch.setattr(convolutions, "SHAPES", shapes)
    results = list(parts.layers(Settings(rounds=2, seconds=0.01)))[:10]
    assert results[0].group.title == "oneDNN off, (2, 3, 3, 4), 1x1, stride 1, 4 filters, output"
    assert results[1].group.title.endswith("4 filters, gradient of the input")
    assert [sorted(result.seconds) for result in results] == [
        *[["product, used", "tensorflow"]] * 6,
        ["tensorflow, used"],
        *[["taps", "tensorflow, used"]] * 2,
        ["tensorflow, used"],
    ]
    assert all(len(figures) == 2 for result in results for figures in result.seconds.values())
    assert [str(ratio) for ratio in results[0].group.comparisons] == ["product, used / tensorflow"]
    assert not results[7].group.comparisons


def test_dashboards_are_measured_with_and_without(monkeypatch):
    from training import dashboards  # not above: the processes of variants import this module, and need no TensorFlow

    of_run = dashboards.of_run
    monkeypatch.setattr(
        dashboards, "of_run", lambda *args, **options: of_run(*args, **options)[:1]
    )  # pictures are slow
    pairs, inside, ends, steps = ours.measure_dashboards(TINY, steps=2, pairs=2)
    assert len(pairs) == 2 and 0 < inside < max(max(pair) for pair in pairs)
    assert ends.keys() == {"Scalars"} and steps == 20
    made = parts.dashboards_result("tiny", 4, [(0.1, 0.102), (0.1, 0.101)], 0.0015, {"Pictures": 2.0}, 40, every=5)
    assert made.seconds == {"without": [0.1, 0.1], "with dashboards": [0.102, 0.101]}
    assert "callbacks take 1.50% of a step" in made.notes[0]
    assert "Pictures 2.00 s; every 5 epochs of 40 steps that is 10.0%" in made.notes[0]  # 2 s of 5 x 40 x 0.1 s
