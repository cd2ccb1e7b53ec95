"""What all tests share: a quiet TensorFlow, and Keras's global settings as they were before each test."""

import fcntl
import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow reads it when it is imported

import keras
import pytest
import tensorflow as tf

# Two virtual CPUs, for the tests of several devices; it has to be said before TensorFlow first uses one.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(autouse=True)
def keras_settings():
    """Puts the precision policy and the image data format back, whatever the test did to them."""
    policy, data_format = keras.config.dtype_policy(), keras.config.image_data_format()
    yield
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(data_format)


@pytest.fixture
def zeros_for_kernels(monkeypatch):
    """For tests that count weights or replace them: VGG would draw 140 million random numbers first."""
    zeros = keras.initializers.Zeros()
    monkeypatch.setattr(keras.initializers.HeNormal, "__call__", lambda _, shape, dtype=None: zeros(shape, dtype))
    yield
    gc.collect()  # a model is part of a cycle, and VGG's weights are half a gigabyte


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory, worker_id):
    """The folder of a short run of the default recipe, made with the command line, once for all of pytest's workers."""
    from training.__main__ import main

    root = tmp_path_factory.getbasetemp()
    folder = (root if worker_id == "master" else root.parent) / "runs" / "digits"
    folder.parent.mkdir(exist_ok=True)
    words = ["fit", "googlenet_digits", "--epochs", "2", "--picture_epochs", "0", "--run", str(folder)]
    with open(folder.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(words) == 0  # at once where another worker has made it
    return folder
