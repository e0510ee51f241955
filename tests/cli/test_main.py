"""``pyro-ext`` itself: help that is quick, the list of models, bad input on one line."""

import subprocess
import sys

import pytest

from pyro_ext import __version__
from pyro_ext.cli.__main__ import main
from pyro_ext.cli.commands import COMMANDS, available
from pyro_ext.models import AVAILABLE, describe


def test_top_help_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and command.help.split(":")[0] in shown for name, command in available().items())


def test_version(capsys):
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_fit_help_lists_the_models(capsys):
    assert main(["fit", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in AVAILABLE)


def test_models_tells_name_summary_data_and_paper(capsys):
    assert main(["models"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, model in describe().items():
        for part in (name, model.summary, f"data: {model.data}", f"paper: {model.paper}"):
            assert part in shown


@pytest.mark.parametrize("words", [["--help"], ["models"], ["fit", "--help"]])
def test_quick_commands_import_nothing_heavy(words):
    code = (
        "import sys; from pyro_ext.cli.__main__ import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'pyro', 'lightning', 'matplotlib', 'sklearn'} & set(sys.modules); assert not heavy, heavy;"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_commands_name_modules():
    assert {"fit", "models"} <= available().keys() <= COMMANDS.keys()


WRONG = [
    ([], "a command is missing: one of {commands} (pyro-ext --help tells more)"),
    (["train"], "there is no command 'train'; choose one of {commands}"),
    (["models", "--long"], "unrecognized arguments: --long"),
    (["fit"], "fit needs a MODEL before its options: one of {models}"),
    (["fit", "--seed", "3"], "fit needs a MODEL before its options: one of {models}"),
    (["fit", "vae"], "there is no model 'vae'; choose one of {models}"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words) or "nothing" for words, _ in WRONG])
def test_bad_input_is_one_line_on_stderr(capsys, words, message):
    assert main(words) == 2
    shown = capsys.readouterr()
    filled = message.format(commands=", ".join(available()), models=", ".join(AVAILABLE))
    assert (shown.out, shown.err) == ("", f"pyro-ext: {filled}\n")
