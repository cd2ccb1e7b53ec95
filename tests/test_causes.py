"""What a user, a disk, a file or memory can do to a command: each ends with its exit code and one line that says how to
fix it, never with a traceback."""

import contextlib
import errno
import itertools
import os
import shutil
import socket

import pytest
import tensorflow as tf
from conftest import LEAST

from training import __main__ as training
from training import files
from training import run as runs
from training.recipe import Recipe
from tuning import __main__ as tuning

NOT_UTF8 = os.fsdecode(b"caf\xe9")
DEEP = "[" * 100_000


@pytest.fixture
def place(tmp_path, photos, photo_run):
    """A folder with `photos` and `run`, copies that a test may damage."""
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(photo_run, tmp_path / "run")
    return tmp_path


def ends(program, words, capfd):
    """Carry out a command line; return its exit code and standard error."""
    try:
        code = program.main([str(word) for word in words])
    except SystemExit as error:
        code = error.code
    complaint = capfd.readouterr().err
    assert "Traceback" not in complaint
    assert code == 0 or complaint.splitlines()[-1].strip()
    return code, complaint


def written(file, content=b""):
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir():
        shutil.rmtree(file)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(file):
    file.write_bytes(file.read_bytes()[:99])


def a_socket(file):
    # The name of a socket has at most 108 characters.
    with socket.socket(socket.AF_UNIX) as opened, contextlib.chdir(file.parent):
        opened.bind(file.name)


# What a folder of images can hold: {name: (function (photos), exit code of fit and check-data)}.
IN_THE_PHOTOS = {
    "no such folder": (lambda photos: shutil.rmtree(photos), 2),
    "a file in its place": (lambda photos: (shutil.rmtree(photos), written(photos)), 2),
    "nothing": (lambda photos: (shutil.rmtree(photos), photos.mkdir()), 3),
    "one class": (lambda photos: (shutil.rmtree(photos / "dog"), shutil.rmtree(photos / "owl")), 3),
    "a class without images": (lambda photos: (photos / "new").mkdir(), 3),
    "a class of one image": (lambda photos: written(photos / "new/0.png", (photos / "cat/0.png").read_bytes()), 3),
    "text with an image's suffix": (lambda photos: written(photos / "cat/a.jpg", "text"), 3),
    "an empty image": (lambda photos: written(photos / "cat/a.jpg"), 3),
    "cut off images": (lambda photos: [cut(file) for file in (photos / "cat").iterdir()], 3),
    "a FIFO": (lambda photos: os.mkfifo(photos / "cat/a.png"), 3),
    "a socket": (lambda photos: a_socket(photos / "cat/a.png"), 3),
    "a folder with an image's suffix": (lambda photos: (photos / "cat/a.png").mkdir(), 0),
    "a link to nothing": (lambda photos: (photos / "cat/a.png").symlink_to("nothing"), 3),
    "a file name that is not UTF-8": (
        lambda photos: os.rename(photos / "cat/0.png", photos / f"cat/{NOT_UTF8}.png"),
        3,
    ),
    "a class name that is not UTF-8": (lambda photos: os.rename(photos / "cat", photos / NOT_UTF8), 3),
    "another class in one part": (
        lambda photos: [shutil.copytree(photos / "cat", photos / p) for p in ("train/cat", "train/dog", "test/cat")],
        3,
    ),
}


@pytest.mark.parametrize("command", ["fit", "check-data"])
@pytest.mark.parametrize("cause", IN_THE_PHOTOS)
def test_a_folder_of_images(command, cause, place, capfd):
    change, code = IN_THE_PHOTOS[cause]
    change(place / "photos")
    source = f"folder:{place / 'photos'}"
    words = [source] if command == "check-data" else [*LEAST, "--data", source, "--run", place / "new"]
    if command == "fit" and code == 0:
        return  # check-data shows that it is no error; fit would train
    assert ends(training, [command, *words], capfd)[0] == code
    assert not (place / "new").exists()


# What can be in the place of a file of a run: {name: function (file)}.
IN_A_FILES_PLACE = {
    "nothing": lambda file: file.unlink(),
    "an empty file": lambda file: written(file),
    "bytes that are not UTF-8": lambda file: written(file, b"\xff\xfe{}"),
    "another JSON value": lambda file: written(file, "7"),
    "an empty list": lambda file: written(file, "[]"),
    "an empty object": lambda file: written(file, "{}"),
    "deep nesting": lambda file: written(file, DEEP),
    "half of it": lambda file: written(file, file.read_bytes()[: file.stat().st_size // 2]),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}
OF_A_RUN = ("recipe.json", "classes.json", "environment.json", "metrics.json", "data.json", "best.safetensors")
# Which commands read which files.
READS = {
    "evaluate": {"recipe.json", "classes.json", "data.json", "best.safetensors"},
    "predict": {"recipe.json", "classes.json", "best.safetensors"},
    "export": {"recipe.json", "classes.json", "best.safetensors"},
    "fit": {"recipe.json", "classes.json", "environment.json", "metrics.json", "data.json", "best.safetensors"},
    "compare": {"recipe.json", "metrics.json", "classes.json", "best.safetensors"},
}


# Every file with every cause, and every file with every command that reads it; not all three with each other.
DAMAGES = [
    (file, cause, command)
    for file in OF_A_RUN
    for cause, command in zip(
        IN_A_FILES_PLACE, itertools.cycle(command for command, files in READS.items() if file in files), strict=False
    )
    if (file, cause) != ("metrics.json", "nothing")  # a run that is not finished yet
]


USERS_MISTAKES = {
    ("recipe.json", "nothing"),
    ("recipe.json", "a folder"),
    ("environment.json", "an empty object"),
}


@pytest.mark.parametrize(("file", "cause", "command"), DAMAGES)
def test_a_damaged_run(file, cause, command, place, photos, capfd):
    words = {
        "evaluate": [place / "run"],
        "predict": [place / "run", place / "photos/cat/0.png"],
        "export": [place / "run"],
        "fit": [*LEAST, "--data", f"folder:{photos}", "--run", place / "run"],
        "compare": [place / "run", "--output", place / "compare"],
    }
    if file == "environment.json":  # read where a run is resumed
        (place / "run/metrics.json").unlink()
    IN_A_FILES_PLACE[cause](place / "run" / file)
    code, complaint = ends(training, [command, *words[command]], capfd)
    # Without recipe.json it is no run, and an environment without versions is of other versions: mistakes of the user.
    if (file, cause) in USERS_MISTAKES:
        assert code in (2, 5), complaint
    else:
        assert code == 5 and file in complaint, complaint


# Command lines whose files are wrong: {name: (words, exit code)}; words are made from the folder of `place`.
WRONG_PATHS = {
    "evaluate nothing": (lambda place: ["evaluate", place / "nothing"], 2),
    "evaluate a file": (lambda place: ["evaluate", place / "photos/cat/0.png"], 2),
    "export a folder": (lambda place: ["export", place / "photos"], 2),
    "profile a run without one": (lambda place: ["profile", place / "run"], 2),
    "predict nothing": (lambda place: ["predict", place / "run", place / "nothing.png"], 2),
    "predict a NUL": (lambda place: ["predict", place / "run", "a\0b.png"], 2),
    "predict an empty folder": (lambda place: ["predict", place / "run", place / "run/states"], 2),
    "predict a FIFO": (lambda place: ["predict", place / "run", fifo(place / "a.png")], 3),
    "predict text": (lambda place: ["predict", place / "run", place / "run/recipe.json"], 3),
    "predict /dev/zero": (lambda place: ["predict", place / "run", "/dev/zero"], 3),
    "--csv at a folder": (lambda place: ["predict", place / "run", place / "photos/cat", "--csv", place / "photos"], 2),
    "--csv in no folder": (
        lambda place: ["predict", place / "run", place / "photos/cat", "--csv", place / "no/a.csv"],
        2,
    ),
    "--csv at a device": (lambda place: ["predict", place / "run", place / "photos/cat", "--csv", "/dev/null"], 2),
    "compare nothing": (lambda place: ["compare", place / "nothing"], 2),
    "compare no runs": (lambda place: ["compare", place / "photos"], 2),
    "compare into a file": (lambda place: ["compare", place / "run", "--output", place / "photos/cat/0.png"], 2),
    "convert nothing": (lambda place: ["convert", place / "a.pth", place / "b", "--model", "ResNet18"], 2),
    "convert a folder": (lambda place: ["convert", place / "run", place / "b", "--model", "ResNet18"], 2),
    "convert text": (lambda place: ["convert", text(place / "a.safetensors"), place / "b", "--model", "ResNet18"], 3),
    "convert for no network": (lambda place: ["convert", text(place / "a.pth"), place / "b", "--model", "ResNet19"], 2),
    "convert with wrong arguments": (
        lambda place: [
            "convert",
            text(place / "a.pth"),
            place / "b",
            "--model",
            "ResNet18",
            "--model_args",
            '{"a": 1}',
        ],
        2,
    ),
    "convert into a folder": (
        lambda place: ["convert", place / "run/best.safetensors", place / "run", "--model", "ResNetCIFAR"],
        2,
    ),
    "check-data nothing": (lambda place: ["check-data", place / "nothing"], 2),
    "check-data a file": (lambda place: ["check-data", f"folder:{place / 'run/recipe.json'}"], 2),
    "check-data synthetic": (lambda place: ["check-data", "synthetic"], 2),
    "check-data of a version that is not there": (lambda place: ["check-data", "digits:9.9.9"], 2),
    "launch something else": (lambda place: ["launch", "evaluate", place / "run"], 2),
    "a recipe that is a folder": (lambda place: ["fit", place / "run"], 2),
    "a recipe that is not UTF-8": (lambda place: ["fit", text(place / "a.json", b"\xff\xfe")], 2),
    "a recipe of another kind": (lambda place: ["fit", text(place / "a.json", '{"name": 3}')], 2),
    "a recipe in a recipe": (lambda place: ["fit", text(place / "a.json", '{"model_args": {"a": {"b": []}}}')], 2),
    "--init nothing": (lambda place: [*fit(place), "--init", place / "nothing"], 2),
    "--init text": (lambda place: [*fit(place), "--init", text(place / "a.safetensors")], 2),
    "--init of another network": (
        lambda place: [*fit(place), "--init", place / "run", "--model_args", '{"depth": 14}'],
        2,
    ),
    "--freeze what is not there": (lambda place: [*fit(place), "--init", place / "run", "--freeze", "stage9"], 2),
    "--coefficients nothing": (lambda place: [*fit(place), "--coefficients", place / "a.json"], 2),
    "--coefficients not UTF-8": (lambda place: [*fit(place), "--coefficients", text(place / "a.json", b"\xff")], 2),
    "--coefficients beyond reason": (
        lambda place: [*fit(place), "--coefficients", text(place / "a.json", '{"alpha": 1e9, "beta": 1, "gamma": 1}')],
        2,
    ),
    "--phi beyond reason": (lambda place: [*fit(place), "--phi", "1e9", "--coefficients", coefficients(place)], 2),
    "--data_dir at a file": (
        lambda place: [*fit(place), "--data", "digits:9", "--data_dir", place / "run/recipe.json"],
        2,
    ),
    "a data set that is not there": (lambda place: [*fit(place), "--data", "nosuchset"], 2),
    "a network that is not there": (lambda place: [*fit(place), "--model", "ResNet51"], 2),
    "more images in a batch than there are": (lambda place: [*fit(place), "--batch_size", 1000], 2),
    "--run at a file": (lambda place: [*fit(place), "--run", place / "photos/cat/0.png"], 2),
    "--run below a file": (lambda place: [*fit(place), "--run", place / "photos/cat/0.png/run"], 2),
    "--run with a NUL": (lambda place: [*fit(place), "--run", "a\0b"], 2),
    "--run with too long a name": (lambda place: [*fit(place), "--run", place / ("a" * 300)], 2),
    "--run below /proc": (lambda place: [*fit(place), "--run", "/proc/run"], (2, 4)),
    "--run at other files": (lambda place: [*fit(place), "--run", place / "photos"], 2),
    "--overwrite other files": (lambda place: [*fit(place), "--run", place / "photos", "--overwrite"], 2),
    "a lock that is a folder": (lambda place: [*fit(place), "--run", with_a_lock(place)], (2, 5)),
}


def fit(place):
    """Return the command line that trains a run in `place / "new"`; later words replace earlier ones."""
    return ["fit", *LEAST, "--data", f"folder:{place / 'photos'}", "--run", place / "new", "--picture_epochs", "0"]


def text(file, content="text"):
    written(file, content)
    return file


def coefficients(place):
    return text(place / "coefficients.json", '{"alpha": 1.2, "beta": 1.1, "gamma": 1.15}')


def fifo(file):
    os.mkfifo(file)
    return file


def with_a_lock(place):
    (place / "locked/lock").mkdir(parents=True)
    return place / "locked"


@pytest.mark.parametrize("cause", WRONG_PATHS)
def test_a_wrong_path(cause, place, capfd):
    words, expected = WRONG_PATHS[cause]
    before = contents(place)
    words = words(place)
    made = contents(place)  # by the test itself
    code, complaint = ends(training, words, capfd)
    assert code in (expected if isinstance(expected, tuple) else (expected,)), complaint
    assert contents(place) == made | before  # nothing made, nothing changed


def contents(folder):
    """Return {path below a folder: its bytes, or None if it is not a file}."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name not in ("lock", "locked")
    }


# What a disk and memory can do while a run is trained: {name: (what raises it, the error, exit code, word)}.
FULL = OSError(errno.ENOSPC, "No space left on device", "a")
TF_FULL = tf.errors.ResourceExhaustedError(None, None, "a/variables; No space left on device")
TF_MEMORY = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[8,8]")
WHILE_TRAINING = {
    "a disk that is full for a state": ("training.files.Path.write_bytes", FULL, 4, "free"),
    "a disk that is full for a text": ("training.files.Path.write_text", FULL, 4, "free"),
    "a disk that is full for TensorBoard": ("training.dashboards.log.Log.flush", TF_FULL, 4, "disk"),
    "a disk that is full for the export": ("training.inference.write_saved_model", TF_FULL, 4, "disk"),
    "a disk that is read only": (
        "training.files.Path.write_bytes",
        OSError(errno.EROFS, "Read-only file system", "a"),
        4,
        "written",
    ),
    "too little memory for a step": ("training.loop.make_train_step", TF_MEMORY, 4, "memory"),
    "too little memory in Python": ("training.loop.make_train_step", MemoryError(), 4, "memory"),
    "an image that vanishes": (
        "training.evaluation.evaluation_batches",
        tf.errors.NotFoundError(None, None, "a.png; No such file or directory"),
        3,
        "a.png",
    ),
    "an image that is cut off": (
        "training.evaluation.evaluation_batches",
        tf.errors.InvalidArgumentError(None, None, "jpeg::Uncompress failed"),
        3,
        "check-data",
    ),
}


@pytest.mark.parametrize("cause", WHILE_TRAINING)
def test_while_training(cause, place, capfd, monkeypatch):
    target, error, expected, word = WHILE_TRAINING[cause]

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(target, fail)
    words = ["export", place / "run"] if "export" in target else fit(place)
    code, complaint = ends(training, words, capfd)
    assert code == expected, complaint
    assert word in complaint
    assert not list(place.rglob("*.tmp-*"))


def test_a_full_disk_is_reported_before_the_first_step(place, capfd, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda path: 1000)
    code, complaint = ends(training, fit(place), capfd)
    assert code == 4 and "MiB are needed" in complaint


def test_images_that_vanish_after_they_were_listed(place, capfd, monkeypatch):
    load = runs.load_data

    def load_and_remove(*args, **kwargs):
        data = load(*args, **kwargs)
        shutil.rmtree(place / "photos/cat")
        return data

    monkeypatch.setattr(runs, "load_data", load_and_remove)
    code, complaint = ends(training, fit(place), capfd)
    assert code == 3 and "photos/cat" in complaint


def numbers(program):
    """(command, option) of every option of a program that takes a number and is no field of a recipe, as its parser
    knows them; what the fields refuse is in test_recipe.py."""
    parser = program.parser()
    commands = next(action for action in parser._actions if hasattr(action, "_name_parser_map"))
    for command, options in commands._name_parser_map.items():
        for action in options._actions:
            kind = getattr(action, "_typehint", None) or action.type
            number = isinstance(kind, type) and issubclass(kind, int | float) and kind is not bool
            if number and action.option_strings and action.dest not in Recipe.__dataclass_fields__:
                yield command, action.option_strings[-1]


NUMBERS = [(program, *found) for program in (training, tuning) for found in numbers(program)]
ZERO_IS_FINE = {"--picture_epochs", "--profile_steps", "--phi", "--workers", "--tolerance", "--unsure"}
REST = {
    "fit": ["resnet18_digits"],
    "launch": ["fit", "resnet18_digits"],
    "predict": ["nowhere", "nothing.png"],
    "scale": ["--coefficients", "nothing.json"],
    "recipe": ["--space", "rate"],
}


@pytest.mark.parametrize(("program", "command", "option"), NUMBERS)
def test_an_impossible_number(program, command, option, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zero = [] if option in ZERO_IS_FINE and command != "launch" else ["0"]
    for value in ("-1", "nan", "inf", *zero):
        code, complaint = ends(program, [command, f"{option}={value}", *REST.get(command, [])], capfd)
        assert code == 2 and option.strip("-") in complaint, value
    assert not list(tmp_path.iterdir())


def test_every_number_is_tried():
    assert {(command, option) for _, command, option in NUMBERS} == {
        ("fit", "--save_steps"),
        ("fit", "--phi"),
        ("fit", "--picture_epochs"),
        ("fit", "--profile_steps"),
        ("fit", "--seeds"),
        ("study", "--seeds"),
        ("launch", "--workers"),
        ("predict", "--unsure"),
        ("benchmark", "--rounds"),
        ("benchmark", "--seconds"),
        *((command, "--phi") for command in ("scale", "dimensions")),
        *(("compound", option) for option in ("--budget", "--tolerance", "--step")),
        *(
            (command, option)
            for command in ("compound", "scale", "dimensions", "recipe")
            for option in ("--seeds", "--max_trials", "--workers")
        ),
    }


WRONG_SEARCHES = {
    "a space that is not there": (lambda place: ["recipe", "--space", "nothing"], 2),
    "a recipe that is not there": (lambda place: ["recipe", "nothing", "--space", "rate"], 2),
    "a search folder that holds other files": (
        lambda place: ["recipe", "resnet18_digits", "--space", "rate", "--search", place / "photos"],
        2,
    ),
    "a search folder that is a file": (
        lambda place: ["recipe", "resnet18_digits", "--space", "rate", "--search", place / "photos/cat/0.png"],
        2,
    ),
    "a search folder that is a run": (
        lambda place: ["recipe", "resnet18_digits", "--space", "rate", "--search", place / "run", "--overwrite"],
        2,
    ),
    "coefficients that are not there": (lambda place: ["scale", "--coefficients", place / "a.json"], 2),
    "coefficients without a baseline": (lambda place: ["scale", "--coefficients", coefficients(place)], 2),
    "coefficients beyond reason": (
        lambda place: ["scale", "--coefficients", text(place / "a.json", '{"alpha": 1e9, "beta": 1, "gamma": 1}')],
        2,
    ),
    "triples of two numbers": (lambda place: ["compound", "--list", "--triples", "1/1"], 2),
    "triples below one": (lambda place: ["compound", "--list", "--triples", "1/1/0.5"], 2),
    "triples that are not finite": (lambda place: ["compound", "--list", "--triples", "1/1/nan"], 2),
    "a worker without a chief": (lambda place: ["recipe", "--space", "rate", "--role", "worker"], 2),
    "a chief on an open network": (
        lambda place: ["recipe", "--space", "rate", "--role", "chief", "--chief", "192.0.2.1:80"],
        2,
    ),
    "a chief without a port": (
        lambda place: ["recipe", "--space", "rate", "--role", "chief", "--chief", "localhost"],
        2,
    ),
    "data that are not there": (
        lambda place: ["recipe", "resnet18_digits", "--space", "rate", "--data", f"folder:{place / 'nothing'}"],
        2,
    ),
}


@pytest.mark.parametrize("cause", WRONG_SEARCHES)
def test_a_wrong_search(cause, place, capfd, monkeypatch):
    monkeypatch.chdir(place)
    words, expected = WRONG_SEARCHES[cause]
    words = words(place)
    before = contents(place)
    assert ends(tuning, words, capfd)[0] == expected
    assert contents(place) == before
