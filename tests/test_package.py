"""The shape of the repository and what importing the package does, and does not do, to a session."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyro_ext

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ["lightning", "pytorch_lightning", "jsonargparse", "matplotlib", "sklearn", "pooch", "Bio"]

# What a session holds that an import could disturb. Printed before and after; pyro itself is imported before.
PROBE = """
import importlib, json, os, random, sys, warnings
import numpy, pyro, torch

def state():
    return {
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch validation": torch.distributions.Distribution._validate_args,
        "pyro validation": pyro.distributions.Normal(0.0, 1.0)._validate_args,
        "pyro settings": {key: repr(value) for key, value in sorted(pyro.settings.get().items())},
        "pyro stack": len(pyro.poutine.runtime._PYRO_STACK),
        "parameters": sorted(pyro.get_param_store().keys()),
        "torch seed": [torch.initial_seed(), hash(torch.get_rng_state().numpy().tobytes())],
        "random": hash(random.getstate()),
        "numpy random": hash(numpy.random.get_state()[1].tobytes()),
        "warning filters": [repr(f) for f in warnings.filters],
        "environment": dict(os.environ),
        "is_tensor": torch.is_tensor.__module__,
        "tensor methods": hash(tuple((n, id(v)) for n, v in sorted(vars(torch.Tensor).items()))),
    }

before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps({"before": before, "after": state(), "modules": sorted(sys.modules)}))
"""


def public_modules() -> list[str]:
    """The package and those of its sub-packages that re-export a public interface."""
    names = [m.name for m in pkgutil.walk_packages(pyro_ext.__path__, "pyro_ext.") if m.ispkg]
    return ["pyro_ext", *(name for name in names if not name.split(".")[-1].startswith("_"))]


@pytest.fixture(scope="module")
def probe() -> dict[str, Any]:
    command = [sys.executable, "-c", PROBE, *public_modules()]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "0"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.serial
def test_importing_changes_no_setting(probe: dict[str, Any]) -> None:
    changed = {key: (probe["before"][key], new) for key, new in probe["after"].items() if new != probe["before"][key]}
    assert not changed


@pytest.mark.serial
def test_importing_stays_light(probe: dict[str, Any]) -> None:
    assert "pyro_ext.inference" in probe["modules"]
    assert not [name for name in HEAVY if name in probe["modules"]]


@pytest.mark.parametrize("name", ["inference", "models"])
def test_top_level_links_point_into_the_package(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert os.readlink(link) == f"pyro_ext/{name}"
    assert link.resolve() == ROOT / "pyro_ext" / name
    assert (link / "__init__.py").is_file()


def test_version_is_in_the_changelog() -> None:
    assert f"## [{pyro_ext.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_public_name_exists_and_is_listed_once() -> None:
    for module_name in public_modules():
        names = getattr(importlib.import_module(module_name), "__all__", [])
        assert len(names) == len(set(names)), module_name
        assert not [name for name in names if not hasattr(importlib.import_module(module_name), name)], module_name


def is_behaviour(member: Any) -> bool:
    """Whether it is a class of ours to make objects from: no interface, and no record or error."""
    if not inspect.isclass(member) or not member.__module__.startswith("pyro_ext") or inspect.isabstract(member):
        return False
    return not issubclass(member, (tuple, BaseException)) and not dataclasses.is_dataclass(member)


def test_every_public_class_is_documented_with_an_example() -> None:
    undocumented = set()
    for module_name in public_modules():
        module = importlib.import_module(module_name)
        for name in getattr(module, "__all__", []):
            member = getattr(module, name)
            if is_behaviour(member) and ">>>" not in (member.__doc__ or ""):
                undocumented.add(f"{member.__module__}.{name}")
    assert not undocumented


def test_every_public_name_has_a_docstring() -> None:
    undocumented = set()
    for module_name in public_modules():
        module = importlib.import_module(module_name)
        members = [getattr(module, name) for name in getattr(module, "__all__", [])]
        code = [member for member in members if inspect.isfunction(member) or inspect.isclass(member)]
        undocumented |= {f"{module_name}.{member.__name__}" for member in code if not member.__doc__}
    assert not undocumented


def test_imports_run_only_downwards(monkeypatch: pytest.MonkeyPatch) -> None:
    cli = pytest.importorskip("importlinter.cli")
    monkeypatch.chdir(ROOT)
    assert cli.lint_imports(no_cache=True, no_logo=True) == cli.EXIT_STATUS_SUCCESS
