"""The measuring tools: calls are timed without the first, peaks only grow, and another process has its own."""

import os

import pytest

from training import measure
from training.errors import ResourceError


def test_the_first_call_is_not_timed():
    calls = []
    seconds = measure.seconds_per_call(lambda: calls.append(len(calls)), 3)
    assert calls == [0, 1, 2, 3]
    assert len(seconds) == 3 and min(seconds) >= 0


def growth():
    measure.device = lambda: "CPU:0"
    before = measure.peak_memory()
    b"1" * 300 * 2**20
    return measure.peak_memory() - before


def test_the_peak_memory_of_the_process_grows_by_what_is_allocated(monkeypatch):
    assert 200 < measure.alone(growth) < 400  # in a process of its own: this one's peak may be higher already
    monkeypatch.setattr(measure, "device", lambda: "CPU:0")
    assert list(measure.memory()) == ["process_memory_mib"]


def test_the_peak_of_a_device_is_measured_once():
    first = measure.peak_flops(measure.device(), "float32")
    assert first > 1e8
    assert measure.peak_flops(measure.device(), "float32") == first


def test_a_function_runs_in_a_process_of_its_own():
    assert measure.alone(os.getpid) != os.getpid()
    with pytest.raises(ResourceError, match="The process that measured 9 was killed"):
        measure.alone(os._exit, 9)
