"""A trial: which failures are its own, and when a trial whose process was killed is given up."""

import errno
import json
import os
import signal
import threading

import pytest
import tensorflow as tf

from tests.tiny import TINY, TRIPLES
from training.errors import DataError, DivergedError, StateError, UserError
from tuning.folder import read_record
from tuning.study import Candidate
from tuning.trial import train_candidate

pytest_plugins = ["tests.searching"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DivergedError("The loss is nan in step 3"), "The loss is nan in step 3"),
        (MemoryError("cannot allocate"), "out of memory"),
        (UserError("batch_size=128, but there are 44 training images."), "44 training images"),
    ],
)
def test_a_failed_trial_is_marked_and_the_search_continues(cli, training, tmp_path, error, reason):
    def accuracy(recipe):
        if recipe.model_args["width"] > 0.3:
            raise error
        return 0.5

    training.accuracy = accuracy
    code, out, complaint = cli("compound", "--triples", *TRIPLES)
    assert code == 0 and reason in complaint and "failed" in out
    trials = json.loads((tmp_path / "search" / "coefficients.json").read_text())["trials"]
    assert [("failed" in trial) for trial in trials] == [False, True]
    cli("compound", "--triples", *TRIPLES)
    assert len(training.trained) == 2  # a failed trial is not tried again


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "state"), 4),
        (tf.errors.ResourceExhaustedError(None, None, "/dev/full; No space left on device"), 4),
        (DataError("a.png is broken."), 3),
        (StateError("every state is damaged."), 5),
    ],
)
def test_other_errors_end_the_search_and_the_trial_is_tried_again(cli, training, tmp_path, error, code):
    def accuracy(recipe):
        if recipe.model_args["width"] > 0.3 and error:
            raise error
        return 0.5

    training.accuracy = accuracy
    assert cli("compound", "--triples", *TRIPLES)[0] == code
    assert not list((tmp_path / "search").glob("trials/*/begun.json"))
    error = None
    ended, out, _ = cli("compound", "--triples", *TRIPLES)
    assert ended == 0 and "failed" not in out


def test_a_run_that_cannot_be_resumed_says_what_to_delete(cli, training, tmp_path):
    """For example because other versions began it, which is not the trial's fault."""

    def accuracy(recipe):
        (run,) = (tmp_path / "search").glob("trials/*/seed0")
        (run / "recipe.json").write_text(recipe.to_json())
        raise UserError("begun with other versions.")

    training.accuracy = accuracy
    code, _, complaint = cli("compound", "--triples", "1/1.4/1")
    assert code == 2 and "seed0 to train this trial again" in complaint
    assert not list((tmp_path / "search").glob("trials/*/result.json"))


@pytest.fixture
def killed(cli, training, tmp_path):
    """Return a function that runs a search of one trial, and leaves its folder as if the process had been killed.

    The function takes functions (trial's folder), which are called during training, and returns (exit code, standard
    error).
    """

    def run(*actions):
        folder, begun_files = tmp_path / "search", []

        def accuracy(recipe):
            (begun,) = folder.glob("trials/*/begun.json")
            for action in actions:
                action(begun.parent)
            begun_files.append(begun.read_bytes())
            return 0.5

        training.accuracy = accuracy
        code, _, complaint = cli("compound", "--triples", "1/1.4/1")
        (trial,) = folder.glob("trials/*")
        assert not (trial / "begun.json").exists()
        (folder / "oracle.json").unlink()
        if begun_files:
            (trial / "result.json").unlink()
            (trial / "seed0" / "metrics.json").unlink()
            (trial / "begun.json").write_bytes(begun_files[0])
        return code, complaint

    return run


def save_state(trial):
    states = trial / "seed0" / "states"
    states.mkdir(exist_ok=True)
    (states / f"epoch0000-step{len(list(states.iterdir())):06d}-x.safetensors").touch()


def receive_signal(trial):
    """Receive a signal as training does: the first one is only noted."""
    former = signal.signal(signal.SIGTERM, lambda *_: None)
    os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, former)


def test_a_trial_whose_process_died_twice_is_given_up(killed, training, tmp_path):
    assert killed()[0] == killed()[0] == 0
    code, complaint = killed()
    assert code == 5 and "died 2 times" in complaint
    assert len(training.trained) == 2
    (result,) = (tmp_path / "search").glob("trials/*/result.json")
    assert f"Delete {result} to try it again" in complaint
    result.unlink()
    assert killed()[0] == 0 and len(training.trained) == 3


@pytest.mark.parametrize("action", [save_state, receive_signal])
def test_a_trial_that_saves_or_is_interrupted_is_never_given_up(killed, training, action):
    assert [killed(action)[0] for _ in range(4)] == [0] * 4
    assert len(training.trained) == 4


def test_a_signal_outside_of_training_ends_the_command_in_order(killed, training, tmp_path):
    code, _ = killed(lambda trial: os.kill(os.getpid(), signal.SIGTERM))
    assert code == 143
    assert not list((tmp_path / "search").glob("trials/*/begun.json"))


def test_two_workers_with_equal_values_train_once(training, tmp_path):
    """The second one waits for the result of the first."""
    candidate, folder, results = Candidate("same", TINY, {"width": 1.0}), tmp_path / "trial", []

    def train():
        results.append(train_candidate(candidate, folder, seeds=1, classes=10))

    second = threading.Thread(target=train)

    def accuracy(recipe):
        second.start()
        second.join(0.3)
        assert second.is_alive() and (folder / "begun.json").exists()
        return 0.5

    training.accuracy = accuracy
    train()
    second.join()
    assert results[0] == results[1] and len(training.trained) == 1
    assert read_record(folder / "result.json") == results[0]
