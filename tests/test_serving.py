"""Exports behind a server from PyPI, in a process that does not import this project.

Eight clients at once send files, pixels and broken requests: every answer is that of `predict`, every broken request
gets a reason, and the server stays.
"""

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from training.__main__ import main
from training.inference import predict
from training.run_folder import Run

SERVER = Path(__file__).parent / "serving" / "server.py"
CLIENTS, ROUNDS = 8, 5


@contextlib.contextmanager
def served(export, folder):
    """Start a server for an export and give the address that it answers at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(SERVER), str(Path(export).resolve()), str(port)]
    log = folder / "server.txt"
    with open(log, "w") as lines:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=lines, stderr=lines, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 90
        while not is_ready(address):
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield address
        assert process.poll() is None and is_ready(address), log.read_text()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_ready(address):
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def ask(address, body):
    """Send a body and return the status and the answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/predict", content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(scope="module")
def sent(digits_run, tmp_path_factory):
    """Return image files and pixels, each with the answer of the run, and broken requests."""
    run, folder = Run.open(digits_run), tmp_path_factory.mktemp("sent")
    files = [folder / name for name in ("0.png", "1.png", "2.png", "3.jpg", "4.png")]
    for digit, file in zip(load_digits().images, files, strict=False):
        grey = np.kron(digit * 255 / 16, np.ones((9, 10))).astype(np.uint8)
        Image.fromarray(grey).save(file, quality=95)
    size = run.recipe.image_size
    Image.open(files[-1]).resize((size, size)).convert("RGB").save(files[-1])  # sent as pixels
    bodies = [{"image": base64.b64encode(file.read_bytes()).decode()} for file in files[:-1]]
    bodies.append({"pixels": np.asarray(Image.open(files[-1])).tolist()})
    good = list(zip(bodies, predict(run, files, top=10), strict=True))
    assert len({answer[0][0] for _, answer in good}) > 2  # a server that mixes the clients up gives wrong answers
    jpeg = files[3]
    broken = [
        b"{no json",
        {},
        {"image": "???"},
        {"image": base64.b64encode(jpeg.read_bytes()[:100]).decode()},
        {"image": base64.b64encode(b"no image").decode()},
        {"pixels": [[1, 2], [3]]},
        {"pixels": [[[1.0]]]},
        {"pixels": np.zeros((size, size, 4)).tolist()},
        {"pixels": "text"},
        {"image": None, "pixels": None},
    ]
    return good, broken


@pytest.mark.parametrize("kind", ["onnx", pytest.param("savedmodel", marks=pytest.mark.slow)])
def test_eight_clients_and_broken_requests(kind, digits_run, sent, tmp_path):
    run = shutil.copytree(digits_run, tmp_path / "run")
    assert main(["export", str(run), "--format", kind]) == 0
    good, broken = sent
    with served(run / ("export" if kind == "savedmodel" else "exports/model.onnx"), tmp_path) as address:

        def client(number):
            for turn in range(ROUNDS):
                body, expected = good[(number + turn) % len(good)]
                status, answer = ask(address, body)
                assert status == 200, answer
                assert answer["classes"][0] == expected[0][0]
                wanted = dict(expected)
                found = [wanted[name] for name in answer["classes"]]
                # The server of the ONNX file decodes with Pillow, which has another cosine transform for JPEG.
                np.testing.assert_allclose(answer["probabilities"], found, atol=1e-5 if kind == "savedmodel" else 0.05)
                status, reason = ask(address, broken[(number * ROUNDS + turn) % len(broken)])
                assert status in (400, 422) and reason, (status, reason)
                assert "Traceback" not in str(reason)

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(client, range(CLIENTS)))
