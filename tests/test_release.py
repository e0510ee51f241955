"""What a release declares: the oldest versions, the same for pip and conda, and what the distributions hold."""

from __future__ import annotations

import runpy
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
"""Names on conda-forge, where they differ."""


@pytest.fixture(scope="module")
def minimum() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / ".ci" / "minimum.py"))


@pytest.fixture(scope="module")
def contents() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / ".ci" / "contents.py"))


def test_oldest_versions_are_those_declared(minimum: dict[str, Any]) -> None:
    pinned = dict(line.split("==") for line in minimum["constraints"](PYPROJECT))
    declared = [
        *PYPROJECT["project"]["dependencies"],
        *chain.from_iterable(EXTRAS.values()),
        *PYPROJECT["dependency-groups"]["dev"],
    ]
    names = [line.partition(">=")[0].partition("[")[0] for line in declared]
    assert set(pinned) == set(names) - {"torch", "pyro-ext"}
    for name, line in zip(names, declared, strict=True):
        assert name in ("torch", "pyro-ext") or line.endswith(f">={pinned[name]}")


@pytest.mark.parametrize("lines", [["numpy"], ["numpy>=1", "numpy>=2"]], ids=["none", "two"])
def test_each_has_one_oldest_version(lines: list[str], minimum: dict[str, Any]) -> None:
    project = {"name": "a", "dependencies": lines, "optional-dependencies": {}}
    with pytest.raises(ValueError, match=r"'numpy.*' must name one oldest version"):
        minimum["constraints"]({"project": project, "dependency-groups": {"dev": []}})


def test_environment_of_conda_is_that_of_pip() -> None:
    yaml = pytest.importorskip("yaml")
    *lines, pips = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (everything,) = EXTRAS["all"]
    extras = everything.partition("[")[2].rstrip("]").split(",")
    declared = [*PYPROJECT["project"]["dependencies"], *chain.from_iterable(EXTRAS[name] for name in extras)]
    parts = [line.partition(">=") for line in declared if "[" not in line]
    expected = [f"{CONDA.get(name, name)}>={version}" for name, _, version in parts]
    assert pips == {"pip": ["-e .[all]"]}  # brings those with extras of their own
    assert [line for line in lines if not line.startswith(("python>", "pip>"))] == expected
    assert f"python{PYPROJECT['project']['requires-python']}" in lines


@pytest.mark.parametrize("packed", [["a"], ["a", "b", "c"], ["a", "b", "b"]], ids=["missing", "extra", "twice"])
def test_contents_of_distributions_are_exact(packed: list[str], contents: dict[str, Any]) -> None:
    contents["compare"]("wheel", ["b", "a"], {"a", "b"})
    with pytest.raises(SystemExit, match="the wheel differs"):
        contents["compare"]("wheel", packed, {"a", "b"})


def test_package_files_are_those_in_the_repository(contents: dict[str, Any]) -> None:
    assert {"pyro_ext/__init__.py", "pyro_ext/py.typed"} < contents["package_files"](ROOT)
    assert all((ROOT / name).is_file() for name in contents["BESIDE"])
