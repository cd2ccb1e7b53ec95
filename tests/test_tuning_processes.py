"""Searches with real trials in processes of their own: killed ones go on, killed workers are started again, and
TensorBoard shows what came out."""

import json
import multiprocessing
import os
import re
import signal
import sys
import time
import urllib.request

import pytest
from tensorboard import program

from tests.tiny import TINY
from tuning.__main__ import main

TRIPLES = ("1/1/1.4", "1.2/1.1/1.15", "1/1.4/1")
LABELS = ("alpha1_beta1_gamma1.4", "alpha1.2_beta1.1_gamma1.15", "alpha1_beta1.4_gamma1")

forks = multiprocessing.get_context("forkserver")  # imports TensorFlow once
forks.set_forkserver_preload(["tuning.__main__"])


def words(folder, triples=TRIPLES):
    """The command line of a search below a folder."""
    recipe = folder / "tiny.json"
    recipe.write_text(TINY.to_json())
    return ["compound", str(recipe), "--triples", *triples, "--search", str(folder / "search")]


def carry_out(arguments, log):
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(main(arguments))


def start(arguments, log):
    process = forks.Process(target=carry_out, args=(arguments, log))
    process.start()
    return process


def wait_for(condition, seconds=600):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def content(folder):
    """{file: when it was written, what is in it} of everything in a folder."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def killed_search(tmp_path_factory):
    """A search that was killed in its second trial and given again: (its folder, the first trial before, its log)."""
    folder = tmp_path_factory.mktemp("killed")
    search, log = folder / "search", folder / "log"
    process = start(words(folder), log)
    (running,) = wait_for(
        lambda: list(search.glob(f"trials/{LABELS[1]}-*/seed0/tensorboard")) or process.exitcode is not None
    )
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (running.parent / "metrics.json").exists()
    (first,) = search.glob("trials/*/result.json")
    before = content(first.parent)
    process = start(words(folder), log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    return search, before, log.read_text()


def test_a_killed_search_goes_on_and_redoes_only_the_running_trial(killed_search):
    search, before, log = killed_search
    (first,) = search.glob(f"trials/{LABELS[0]}-*")
    assert content(first) == before
    assert re.findall("^trial (.*)$", log, re.MULTILINE) == [LABELS[0], LABELS[1], LABELS[1], LABELS[2]]
    trials = json.loads((search / "coefficients.json").read_text())["trials"]
    assert sorted(trial["accuracies"] for trial in trials) == sorted(
        [max(epoch["val_accuracy"] for epoch in json.loads(file.read_text())["history"])]
        for file in search.glob("trials/*/seed0/metrics.json")
    )
    assert len(trials) == 3


def test_tensorboard_shows_a_row_a_trial(killed_search):
    """As its own page asks for it: a column of numbers for each hyperparameter, the objective as keras-tuner has it."""
    search = killed_search[0]
    server = program.TensorBoard()
    quiet = ("--load_fast", "false", "--reload_interval", "0")
    server.configure(argv=["tensorboard", "--logdir", str(search), "--port", "0", *quiet])
    url = server.launch()

    def ask(what, request):
        headers = {"Content-Type": "application/json", "X-XSRF-Protected": "1"}
        body = json.dumps(request).encode()
        answer = urllib.request.urlopen(urllib.request.Request(f"{url}data/plugin/hparams/{what}", body, headers))
        return json.loads(answer.read())

    def rows():
        experiment = ask("experiment", {"experimentName": ""})
        columns = [{"hparam": column["name"]} for column in experiment.get("hparamInfos", [])]
        columns += [{"metric": column["name"]} for column in experiment.get("metricInfos", [])]
        request = {"colParams": columns, "startIndex": 0, "sliceSize": 100, "allowedStatuses": ["STATUS_UNKNOWN"]}
        groups = ask("session_groups", request).get("sessionGroups", [])
        return (experiment, groups) if len(groups) == 3 else None

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


def test_a_killed_worker_is_started_again_and_nothing_is_lost(tmp_path):
    search, log = tmp_path / "search", tmp_path / "log"
    process = start([*words(tmp_path, TRIPLES[:2]), "--workers", "2"], log)
    try:
        run = wait_for(lambda: list(search.glob("trials/*/seed0/tensorboard")))[0].parent
        os.kill(int(re.match(r"process (\d+) ", (run / "lock").read_text())[1]), signal.SIGKILL)
        assert not (run / "metrics.json").exists()
        wait_for(lambda: process.exitcode is not None)
    finally:
        process.terminate()
        process.join()
    out = log.read_text()
    assert process.exitcode == 0, out
    assert (run / "metrics.json").exists()
    assert re.findall(r"worker \d ended with code (.*); it is started again", out) == ["-9"]
    (label,) = (label for label in LABELS if run.parent.name.startswith(f"{label}-"))
    assert sorted(re.findall("^trial (.*)$", out, re.MULTILINE)) == sorted([*LABELS[:2], label])
    trials = json.loads((search / "coefficients.json").read_text())["trials"]
    assert len(trials) == 2 and not [trial for trial in trials if "failed" in trial]
    # keras-tuner's own view: each trial once, and nobody but the two.
    states = [json.loads(file.read_text())["status"] for file in search.glob("trial_*/trial.json")]
    assert states == ["COMPLETED"] * 2
    assert {file.name for file in search.glob("tuner*.json")} == {"tuner-0.json", "tuner-1.json"}
