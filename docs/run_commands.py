"""Run every command of the documentation: python -m docs.run_commands [--dry] [DOCUMENT ...].

The commands of a document are run one after the other in a scratch folder with small data, and with options that make
them short. A dry run only lists them. Commands that are not run are listed with the reason.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]

# {regular expression of commands that are not run: the reason}.
NOT_RUN = {
    r"make (\w|-)+": "a target of the Makefile; continuous integration runs lint and test",
    r"source .venv/bin/activate": "changes the shell",
    r"pip install ": "needs a package index",
    r"python -m training convert ": "needs a published file",
    r"python -m training .*imagenet( |$)": "downloads published weights; tests/test_published.py has a hub of its own",
    r"python -m training (export .*--format|predict .*exports)": "needs other runtimes; tests/test_formats.py has them",
    r"docker |curl ": "needs a server; tests/test_serving.py has one",
    r"python -m training benchmark": "takes many minutes; tests/test_benchmark.py has short runs",
    r"export |.*/shared/|srun ": "needs several machines",
}

# {program and command: options that make it short}.
SHORT = {
    "training fit": "--epochs 1 --warmup_epochs 0 --image_size 32 --picture_epochs 0",
    "training launch": "--epochs 1 --warmup_epochs 0 --image_size 32 --picture_epochs 0",
    "training study": "--quick --seeds 1",
    "tuning compound": "--triples 1/1.4/1 --epochs 1 --warmup_epochs 0",
    "tuning dimensions": "--phi 0 1 --epochs 1 --warmup_epochs 0",
    "tuning recipe": "--max_trials 1 --epochs 1 --warmup_epochs 0",
}

# {placeholder for a name that depends on the run, as a regular expression: glob pattern of the files it stands for}.
PLACEHOLDERS = {
    r"runs/([\w-]+)-XXXXXXXX": r"runs/\1-????????",
    r"runs/FIRST": "runs/finetune_photos*",
    r"runs/\.\.\./coefficients\.json": "runs/*/coefficients.json",
}


def blocks(text, *languages):
    """Yield the code blocks of a Markdown text in one of the languages; "" is that of a block without one."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language in languages:
            yield block


def commands(document):
    """Yield the commands in the blocks of a document, as lists of words.

    Raises:
        ValueError: A block of language sh contains an unknown command.
    """
    known = re.compile("|".join(["python -m (training|tuning) ", *NOT_RUN]))
    text = (ROOT / document).read_text()
    for language in ("sh", ""):
        for block in blocks(text, language):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and known.match(shlex.join(words)):
                    yield words
                elif words and language == "sh":
                    raise ValueError(f"{document}: {line!r} is not a known command. Correct it, or add it to NOT_RUN.")


def reason_not_run(words):
    """Return why a command is not run; None if it is."""
    line = shlex.join(words)
    return next((reason for pattern, reason in NOT_RUN.items() if re.match(pattern, line)), None)


def shortened(words):
    """Return a command with the options that make it short."""
    name = " ".join(words[2:4])
    options = SHORT.get(name, "").split()
    if options and "--list" not in words:
        batch = "8" if any("photos" in word for word in words) else "128"
        options += ["--batch_size", batch]
    return [*words, *options]


def filled_in(words, folder):
    """Return a command in which the latest matching file of a folder replaces each placeholder."""
    filled = []
    for word in words:
        for placeholder, pattern in PLACEHOLDERS.items():
            found = re.search(placeholder, word)
            if found:
                files = sorted(folder.glob(found.expand(pattern)), key=os.path.getmtime)
                word = word.replace(found[0], str(files[-1].relative_to(folder)))
        filled.append(word)
    return filled


def prepare(folder):
    """Write the files that the documentation assumes: photos/, image.jpg, lite0.safetensors and resnet.json."""
    import numpy as np
    import tensorflow as tf

    import keras_cnns
    from training.recipes import RECIPES

    random = np.random.RandomState(0)
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(20):
            image = tf.io.encode_jpeg(random.randint(0, 256, (40, 50, 3)).astype(np.uint8)).numpy()
            (folder / "photos" / name / f"{number}.jpg").write_bytes(image)
    (folder / "image.jpg").write_bytes(image)
    keras_cnns.save_weights(keras_cnns.EfficientNetLite0(weights=None), folder / "lite0.safetensors")
    recipe = json.loads(RECIPES["resnet18_digits"].to_json())
    recipe |= {"model": "ResNetCIFAR", "model_args": {"depth": 8, "width": 0.25}, "image_size": 8}
    (folder / "resnet.json").write_text(json.dumps(recipe))


def run(document, dry):
    """Run or list the commands of a document, and return whether all succeeded."""
    succeeded = True
    with tempfile.TemporaryDirectory() as folder:
        if not dry:
            prepare(Path(folder))
        for words in commands(document):
            reason = reason_not_run(words)
            print(f"{document}: {shlex.join(words)}" + (f"  # not run: {reason}" if reason else ""), flush=True)
            if not reason and not dry:
                line = filled_in(shortened(words), Path(folder))
                environment = os.environ | {"PYTHONPATH": str(ROOT)}
                code = subprocess.run([sys.executable, *line[1:]], cwd=folder, env=environment).returncode
                print(f"  exit code {code}", flush=True)
                succeeded = succeeded and code == 0
    return succeeded


def main(arguments):
    """Run the commands of the documents that the arguments name, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.run_commands", description=__doc__)
    parser.add_argument("documents", nargs="*", metavar="DOCUMENT", help="such as docs/tuning.md; by default all")
    parser.add_argument("--dry", action="store_true", help="list the commands and run none")
    options = parser.parse_args(arguments)
    results = [run(document, options.dry) for document in options.documents or DOCUMENTS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
