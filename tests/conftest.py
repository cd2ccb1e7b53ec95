"""What all tests share: a quiet TensorFlow, and Keras's global settings as they were before each test."""

import fcntl
import functools
import gc
import os
import sys
import typing

# TensorFlow reads these when it is imported or first used, in the processes that tests start too. Two workers on two
# cores are faster with one thread each.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # otherwise each run that is started chooses for itself

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

# Two virtual CPUs, for the tests of several devices; it has to be said before TensorFlow first uses one.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

# The recipe of the least network, one epoch of 8 px, as words of a command line. The step of SGD is traced faster than
# that of Adam.
LEAST = ["resnet18_digits", "--name", "least", "--model", "ResNetCIFAR", "--model_args", '{"depth": 8, "width": 0.25}']
LEAST += ["--image_size", "8", "--batch_size", "8", "--epochs", "1", "--warmup_epochs", "0", "--optimizer", "sgd"]

# The files that take longest, which begin first so that no worker is alone at the end.
LONGEST = ("devices", "cli", "kill", "tuning_processes", "golden", "studies", "contract", "published", "formats")


def pytest_collection_modifyitems(items):
    longest = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: longest.get(item.path.stem, len(longest)))


# Python 3.11 lists a protocol's attributes anew at every isinstance: a tenth of the time that Keras takes to build.
if sys.version_info < (3, 12):
    typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)

# A network is hundreds of thousands of objects, and each collection looks at all of them and at TensorFlow's own.
gc.freeze()
gc.set_threshold(200_000, 20, 20)


@pytest.fixture(autouse=True, scope="module")
def garbage():
    """Networks are parts of cycles, which are collected late: here after each file."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def keras_settings():
    """Restore the precision policy and the image data format after each test."""
    policy, data_format = keras.config.dtype_policy(), keras.config.image_data_format()
    yield
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(data_format)


@pytest.fixture(scope="session")
def shared_runs(tmp_path_factory, worker_id):
    """A function (name, words) -> the folder of the run that `fit WORDS` makes, once for all of pytest's workers."""
    from training.__main__ import main

    root = tmp_path_factory.getbasetemp()
    folder = (root if worker_id == "master" else root.parent) / "runs"
    folder.mkdir(exist_ok=True)

    def run(name, words):
        with open(folder / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made = folder / f"{name}.made"  # a worker's test may hold the run's lock meanwhile
            if not made.exists():
                assert main(["fit", *words, "--picture_epochs", "0", "--run", str(folder / name)]) == 0
                made.touch()
        return folder / name

    return run


@pytest.fixture(scope="session")
def digits_run(shared_runs):
    """The folder of a short run of the default recipe."""
    return shared_runs("digits", ["googlenet_digits", "--epochs", "2"])


@pytest.fixture(scope="session")
def photo_run(shared_runs, photos):
    """The folder of a run of the least network on `photos`."""
    return shared_runs("photos", [*LEAST, "--data", f"folder:{photos}"])


@pytest.fixture(scope="session")
def photos(tmp_path_factory, worker_id):
    """A folder of small images in three classes, as many pixels wide as their number says."""
    root = tmp_path_factory.getbasetemp()
    folder = (root if worker_id == "master" else root.parent) / "photos"
    random = np.random.RandomState(0)
    for label, name in enumerate(("cat", "dog", "owl")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(10):
            pixels = random.randint(0, 80, (10, 10 + number, 3)) + 80 * np.eye(3, dtype=int)[label]
            file = folder / name / f"{number}.png"
            temporary = file.with_name(f".{worker_id}-{file.name}")
            Image.fromarray(pixels.astype(np.uint8)).save(temporary, "png")
            os.replace(temporary, file)  # another worker may make the same
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine with one small file, and an empty cache; no file is pinned."""
    from huggingface_hub import constants

    from keras_cnns import published
    from tests.local_hub import CONTENT, REPOSITORY, Hub

    monkeypatch.setattr(published, "pins", dict)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with Hub({REPOSITORY: CONTENT}).running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template)
        yield hub
