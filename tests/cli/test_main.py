"""``pyro-ext`` itself: help that is quick, the list of models, bad input on one line."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from pyro_ext import __version__
from pyro_ext.cli.__main__ import COMMANDS, main
from pyro_ext.models import MODELS


def test_top_help_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and summary in shown for name, (_, summary) in COMMANDS.items())


def test_version(capsys):
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_fit_help_lists_the_models(capsys):
    assert main(["fit", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in MODELS)


def test_models_tells_name_summary_data_and_paper(capsys):
    assert main(["models"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, model in MODELS.items():
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
    assert all(find_spec(module) is not None for module, _ in COMMANDS.values())


def completion(capsys, tmp_path, words):
    """Return what the tab key offers in bash after some words."""
    script = tmp_path / "pyro-ext.bash"
    assert main(["completion", "bash"]) == 0
    script.write_text(capsys.readouterr().out)
    last, before = words[-1], words[-2]
    line = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_pyro_ext pyro-ext '{last}' {before}"
    command = ["bash", "-c", f"source {script}; {line}; echo ${{COMPREPLY[@]}}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_completion_knows_commands_models_and_options(capsys, tmp_path, monkeypatch):
    some = {name: MODELS[name] for name in ("categorical_vae", "point_matching")}
    monkeypatch.setattr("pyro_ext.cli.completion.MODELS", some)
    assert completion(capsys, tmp_path, ["pyro-ext", "fit", "categ"]) == ["categorical_vae"]
    options = completion(capsys, tmp_path, ["pyro-ext", "fit", "categorical_vae", "--model.num_"])
    assert {"--model.num_latents", "--model.num_categories"} <= {*options}


@pytest.mark.slow
def test_completion_of_all_models(capsys):
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in MODELS)


def test_a_reader_who_leaves_is_no_error():
    command = f"{sys.executable} -m pyro_ext.cli models | head -n 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert done.stdout == "categorical_vae\n"
    assert done.stderr == ""


WRONG = [
    ([], "a command is missing: one of {commands} (pyro-ext --help tells more)"),
    (["train"], "there is no command 'train'; choose one of {commands}"),
    (["models", "--long"], "unrecognized arguments: --long"),
    (["fit"], "fit needs a MODEL before its options: one of {models}, or my_module:build"),
    (["fit", "--seed", "3"], "fit needs a MODEL before its options: one of {models}, or my_module:build"),
    (["fit", "vae"], "there is no model 'vae'; choose one of {models}, or a function of your own, my_module:build"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words) or "nothing" for words, _ in WRONG])
def test_bad_input_is_one_line_on_stderr(capsys, words, message):
    assert main(words) == 2
    shown = capsys.readouterr()
    filled = message.format(commands=", ".join(COMMANDS), models=", ".join(MODELS))
    assert (shown.out, shown.err) == ("", f"pyro-ext: {filled}\n")
