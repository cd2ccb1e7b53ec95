"""The networks on the other backends of Keras, and files that one backend wrote read by another."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from tests import backends
from tests.small_networks import DISTINCT

# Their golden files: one of each kind of block.
PROVEN = ("resnet18", "inceptionv1", "densenet121", "seresnet50", "alexnetonetower", "efficientnetb0")
PROVEN += ("deformableresnet50",)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_the_contract_on_another_backend(backend, tmp_path):
    """A process of its own: a backend is chosen once, and torch and TensorFlow can crash in one process."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    for name in DISTINCT:
        backends.write(name, tmp_path)
    environment = os.environ | {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.backends", str(tmp_path), *PROVEN]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert len(finished.stdout.splitlines()) == len(PROVEN) + len(DISTINCT) + len(backends.TRAINED)
    for name in DISTINCT:  # and what it wrote is read here
        assert backends.read(name, tmp_path) == sorted([backend, "tensorflow"])


def test_the_contract_is_that_of_this_backend_too(tmp_path):
    """In this process, so that every run of the tests tries the checks themselves."""
    backends.write("AlexNet", tmp_path)
    backends.learning("AlexNet")
    assert backends.read("AlexNet", tmp_path) == ["tensorflow"]


def test_a_wrong_answer_is_found(tmp_path):
    backends.write("ResNet18", tmp_path)
    file = tmp_path / "ResNet18-tensorflow.npz"
    with np.load(file) as outputs:
        np.savez(file, main=outputs["main"] * 1.001)
    with pytest.raises(AssertionError, match=r"ResNet18 of tensorflow: 9\.99e-04 of the largest"):
        backends.read("ResNet18", tmp_path)
