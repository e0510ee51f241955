"""The pages of the documentation: their code runs, the site is built without warnings, and its pages open."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyro
import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *(DOCS / "guides").glob("*.md")])
GUIDES = [DOCS / "quickstart.md", *sorted((DOCS / "guides").glob("*.md"))]
LISTED = re.findall(r"^reference/(\S+)$", (DOCS / "reference.md").read_text(encoding="utf-8"), re.M)
NEEDED = ("furo", "jupytext", "latex2mathml", "myst_nb", "sphinx")


def _code(path: Path) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S))


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: f"{path.stem}_page")
def test_code_of_guides_imports_what_there_is(path: Path) -> None:
    for module, names in re.findall(r"^from (pyro_ext\S*) import (.+)$", _code(path), re.M):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.stem}_page")
def test_options_of_commands_exist(path: Path) -> None:
    """Options that do not depend on the model; those of models are in their signatures."""
    from pyro_ext.cli.evidence.command import evidence_parser
    from pyro_ext.cli.parsing import option_names
    from pyro_ext.cli.sbn.command import TASKS

    for command, words in re.findall(r"^\$ pyro-ext (evidence|sbn \w+)(.*)$", path.read_text(encoding="utf-8"), re.M):
        parser = evidence_parser() if command == "evidence" else TASKS[command.split()[1]]()
        for option in re.findall(r"--(\w+)", words.partition("#")[0]):
            assert option in {name.lstrip("-") for name in option_names(parser)}, f"{command} has no --{option}"


def test_reference_has_every_public_package() -> None:
    assert len(LISTED) == len(set(LISTED))
    for name in LISTED:
        assert importlib.import_module(name).__doc__
    packages = {"datasets", "distributions", "inference", "models", "nn", "phylo", "plotting"}
    assert {f"pyro_ext.{name}" for name in packages} <= set(LISTED)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the latent code has collapsed")  # after two epochs of training
@pytest.mark.parametrize("path", GUIDES, ids=lambda path: f"{path.stem}_page")
def test_code_of_guides_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = _code(path)
    if "sbn.npz" in code:  # which a command makes between the blocks of that page
        code = code.partition("from pyro_ext.distributions import SubsplitBayesianNetwork")[0]
    (tmp_path / "page.py").write_text(code, encoding="utf-8")
    runpy.run_path(str(tmp_path / "page.py"))
    pyro.clear_param_store()


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.skipif(any(find_spec(name) is None for name in NEEDED), reason="pip install --group docs")
def test_site_is_built_and_opens(tmp_path: Path) -> None:
    """Without executing the tutorials, which tests of their own do."""
    words = [sys.executable, "-m", "sphinx", "-W", "-q", "-D", "nb_execution_mode=off", str(DOCS), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYRO_EXT_INTERSPHINX": ""}
    subprocess.run(words, check=True, env=environment)
    subprocess.run([sys.executable, str(DOCS / "check_pages.py"), str(tmp_path)], check=True)
