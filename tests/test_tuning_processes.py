"""Searches in separate processes: killed workers are started again, Ctrl-C lets them save, the same command resumes to
the result of an uninterrupted search, and TensorBoard shows the trials."""

import contextlib
import io
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from tensorboard import program

from tests.forked import Forked
from tests.tiny import TINY, TRIPLES
from training import run as runs
from training.interruption import leave_at_once
from training.run_folder import Run
from tuning import workers
from tuning.__main__ import main

LABELS = ("alpha1.2_beta1.1_gamma1.15", "alpha1_beta1.4_gamma1")


def wait_for(condition, seconds=600):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def content(folder):
    """Return {file: (modification time, bytes)} of everything in a folder."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


class Starter:
    """Starts the chief and the two workers in forked processes, in place of subprocess.Popen."""

    def __init__(self):
        self.starts = 0

    def __call__(self, command, *, env, start_new_session):
        assert command[:3] == [sys.executable, "-m", "tuning"]
        assert start_new_session  # so that a terminal's Ctrl-C reaches it only through the first process
        self.starts += 1
        program = main if self.starts <= 3 else late_main
        return Forked(program, command[3:], env=env, stdout=sys.stdout.fileno(), stderr=sys.stderr.fileno())


def late_main(arguments):
    """Run the program of a worker that is started again after the seconds that a new process takes to import
    TensorFlow, so that its trial ends after the other one."""
    leave_at_once()
    time.sleep(4)
    return main(arguments)


@pytest.fixture(scope="module")
def interrupted_search(tmp_path_factory):
    """Search with two workers, kill one, and press Ctrl-C after the first trial; then finish with the same command
    without workers.

    Return (the search folder, the content of the first trial before the second command, the output of the first
    command, the output of the second).
    """
    folder = tmp_path_factory.mktemp("interrupted")
    search, log, recipe = folder / "search", folder / "log", folder / "tiny.json"
    recipe.write_text(TINY.to_json())
    words = ["compound", str(recipe), "--triples", *TRIPLES[:2], "--search", str(search)]
    ended = threading.Event()

    def interfere():
        (begun, *_) = wait_for(lambda: list(search.glob("trials/*/seed0/tensorboard")) or ended.is_set())
        running = begun.parent
        os.kill(int(re.match(r"process (\d+) ", (running / "lock").read_text())[1]), signal.SIGKILL)
        killed_before_its_end = not (running / "metrics.json").exists()
        (first, *_) = wait_for(lambda: list(search.glob("trials/*/result.json")) or ended.is_set())
        os.kill(os.getpid(), signal.SIGINT)
        return running.parent, killed_before_its_end, first.parent

    with open(log, "a") as file, ThreadPoolExecutor() as thread, pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "subprocess", SimpleNamespace(Popen=Starter()))
        user = thread.submit(interfere)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                code = main([*words, "--workers", "2"])
        finally:
            ended.set()
    assert code == 130, log.read_text()
    running, killed_before_its_end, first = user.result()
    assert killed_before_its_end
    # An interruption leaves no begun.json; the killed worker left one, unless its trial was resumed before.
    assert {file.parent for file in search.glob("trials/*/begun.json")} <= {running}, log.read_text()
    before = content(first)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main(words) == 0
    return search, before, log.read_text(), output.getvalue()


def test_a_killed_worker_is_started_again_and_nothing_is_lost(interrupted_search):
    search, _, log, _ = interrupted_search
    assert re.findall(r"worker \d died with code (.*); it is started again", log) == ["-9"]
    assert log.count("the workers save their progress") == 1 and "Traceback" not in log
    trials = json.loads((search / "coefficients.json").read_text())["trials"]
    assert len(trials) == 2 and not [trial for trial in trials if "failed" in trial]
    # keras-tuner ran each trial once, too.
    states = [json.loads(file.read_text())["status"] for file in search.glob("trial_*/trial.json")]
    assert states == ["COMPLETED"] * 2


def test_an_interrupted_search_resumes_and_repeats_only_what_was_running(interrupted_search):
    search, before, _, again = interrupted_search
    (first,) = {path.parent for path in before if path.name == "result.json"}
    assert {path: value for path, value in content(first).items() if path in before} == before
    started = re.findall("^trial (.*)$", again, re.MULTILINE)
    assert started == [label for label in LABELS if not first.name.startswith(f"{label}-")]
    trials = json.loads((search / "coefficients.json").read_text())["trials"]
    assert sorted(trial["accuracies"] for trial in trials) == sorted(
        [max(epoch["val_accuracy"] for epoch in json.loads(file.read_text())["history"])]
        for file in search.glob("trials/*/seed0/metrics.json")
    )


def test_a_trial_is_reproduced_to_the_last_bit(interrupted_search, tmp_path):
    """Train the same recipe in another folder, without interruption."""
    (trial,) = interrupted_search[0].glob(f"trials/{LABELS[0]}-*")
    run = Run.open(trial / "seed0")
    again = runs.fit(run.recipe, tmp_path / "again", options=runs.FitOptions(picture_epochs=0, export=False))
    assert json.loads(again.metrics.read_text()) == json.loads(run.metrics.read_text())


def test_tensorboard_shows_one_row_per_trial(interrupted_search):
    """Each hyperparameter is a column of numbers, as TensorBoard's own page requests them."""
    search = interrupted_search[0]
    server = program.TensorBoard()
    quiet = ("--load_fast", "false", "--reload_interval", "0")
    server.configure(argv=["tensorboard", "--logdir", str(search), "--port", "0", *quiet])
    url = server.launch()

    def ask(page, request):
        headers = {"Content-Type": "application/json", "X-XSRF-Protected": "1"}
        body = json.dumps(request).encode()
        answer = urllib.request.urlopen(urllib.request.Request(f"{url}data/plugin/hparams/{page}", body, headers))
        return json.loads(answer.read())

    def rows():
        experiment = ask("experiment", {"experimentName": ""})
        columns = [{"hparam": column["name"]} for column in experiment.get("hparamInfos", [])]
        columns += [{"metric": column["name"]} for column in experiment.get("metricInfos", [])]
        request = {"colParams": columns, "startIndex": 0, "sliceSize": 100, "allowedStatuses": ["STATUS_UNKNOWN"]}
        groups = ask("session_groups", request).get("sessionGroups", [])
        return (experiment, groups) if len(groups) == 2 else None

    experiment, groups = wait_for(rows, 60)
    types = {column["name"]: column["type"] for column in experiment["hparamInfos"]}
    assert types == dict.fromkeys(("alpha", "beta", "gamma", "formula", "counted"), "DATA_TYPE_FLOAT64")
    shown = {}
    for group in groups:
        values = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        shown[tuple(group["hparams"][name] for name in ("alpha", "beta", "gamma"))] = values
    found = json.loads((search / "coefficients.json").read_text())
    assert shown.keys() == {tuple(trial[name] for name in ("alpha", "beta", "gamma")) for trial in found["trials"]}
    for trial in found["trials"]:
        values = shown[tuple(trial[name] for name in ("alpha", "beta", "gamma"))]
        assert values["trial/val_accuracy"] == pytest.approx(trial["val_accuracy"])
        assert values["trial/multiply_adds"] == pytest.approx(trial["multiply_adds"])
        assert values["trial/parameters"] == pytest.approx(trial["parameters"])
        assert values["trial/pixels"] == trial["pixels"]
    scores = [json.loads(file.read_text())["score"] for file in search.glob("trial_*/trial.json")]
    assert sorted(scores) == sorted(trial["val_accuracy"] for trial in found["trials"])
