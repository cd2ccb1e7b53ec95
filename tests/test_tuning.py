"""The command line of tuning: how options are parsed, and what errors say."""

from pathlib import Path

import pytest

import tuning
from training.errors import UserError
from training.recipes import RECIPES
from tuning.__main__ import parse, without_workers

pytest_plugins = ["tests.searching"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compound", "--triples", "1.2/1.1"), "three numbers"),
        (("compound", "--triples", "3/1/1"), "--tolerance 1"),
        (("compound", "--model", "AlexNet", "--model_args", '{"depth": null, "width": null}'), "ResNetCIFAR"),
        (("recipe", "--space", "nonsense"), "rate"),
        (("recipe", "--space", "reduction"), "it has ratio; ResNetCIFAR takes"),
        (("compound", "--role", "worker"), "--chief HOST:PORT"),
        (("compound", "--role", "chief", "--chief", "0.0.0.0:8000"), "--i_trust_this_network"),
        (("compound", "--role", "chief", "--chief", "127.0.0.1:99999"), "below 65536"),
        (("compound", "--role", "worker", "--chief", "127.0.0.1:1", "--worker", "chief2"), "must not contain chief"),
        (("compound", "--role", "worker", "--workers", "2"), "Pass one of them"),
        (("compound", "--budget", "32", "--step", "0.01"), "Pass a larger --step"),
    ],
)
def test_errors_say_how_to_fix_them(cli, training, words, message):
    code, _, complaint = cli(*words)
    assert code == 2 and message in complaint


def test_the_position_of_an_option_makes_no_difference():
    def baseline(*words):
        return parse(list(words))[1].baseline

    assert baseline("compound", "--list", "resnet56_cifar") == RECIPES["resnet56_cifar"]
    assert baseline("compound", "resnet56_cifar", "--list") == RECIPES["resnet56_cifar"]
    assert baseline("recipe", "--space", "rate", "resnet18_digits") == RECIPES["resnet18_digits"]
    assert baseline("recipe", "--space", "rate", "--epochs", "3").epochs == 3
    with pytest.raises(UserError, match="There is no recipe 'no_such'"):
        parse(["dimensions", "--epochs", "3", "no_such"])
    # As for `fit`: arguments of the network are merged, and another network changes the name.
    narrow = RECIPES["efficientnet_narrow_digits"].model_args
    arguments = ("--model_args", '{"drop_connect": 0.5}')
    assert baseline("compound", *arguments).model_args == narrow | {"drop_connect": 0.5} != {"drop_connect": 0.5}
    assert baseline("compound", "resnet18_digits", "--model", "ResNetCIFAR").name == "resnet18_digits-ResNetCIFAR"


def test_numbers_that_make_no_sense_are_refused():
    commands = {
        "compound": {"budget": "0", "tolerance": "-0.1", "step": "0", "seeds": "0", "max_trials": "-1", "workers": "0"},
        "scale": {"phi": "-1"},
        "dimensions": {"phi": "101", "epochs": "0"},
    }
    for command, options in commands.items():
        needed = ["--coefficients=c.json"] if command == "scale" else []
        for option, wrong in options.items():
            for value in (wrong, "nan", "inf"):
                with pytest.raises(UserError, match=option):
                    parse([command, *needed, f"--{option}={value}"])


def test_chief_and_workers_get_the_command_line_without_workers():
    kept = ["compound", "--seeds", "2"]
    assert without_workers([*kept, "--workers", "3"]) == without_workers(["compound", "--workers=3", *kept[1:]]) == kept


def test_parsed_options_do_not_leave_the_command_line():
    files = Path(tuning.__file__).parent.glob("*.py")
    assert [file.name for file in files if "argparse" in file.read_text()] == ["__main__.py"]
