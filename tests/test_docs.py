"""Every command line in the documentation is one that the programs take, and every link leads somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from training import __main__ as training
from training.recipes import RECIPES
from tuning import __main__ as tuning

ROOT = Path(__file__).parent.parent
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def command_lines():
    """(document, program, words) of every `python -m training|tuning` in a block of code."""
    for text in TEXTS:
        for block in re.findall(r"^```\n(.*?)^```$", text.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith(("python -m training ", "python -m tuning ")):
                    words = shlex.split(line, comments=True)
                    yield pytest.param({"training": training, "tuning": tuning}[words[2]], words[3:], id=line[:70])


@pytest.mark.parametrize(("program", "words"), command_lines())
def test_a_documented_command_is_understood(program, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet.json").write_text(RECIPES["resnet18_digits"].to_json())
    program.parse(words)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_links_lead_somewhere(text):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text.read_text())
    assert not [link for link in links if not (text.parent / link).exists()]
