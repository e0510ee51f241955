"""Every tutorial runs from beginning to end; SMOKE_TEST=1 makes it short."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).resolve().parents[1] / "tutorials").glob("*.py"))


def test_there_are_tutorials() -> None:
    assert TUTORIALS


@pytest.mark.filterwarnings("ignore:the chains of the posterior disagree")  # they are too short then
@pytest.mark.filterwarnings("ignore:the constraint is still")  # as is training
@pytest.mark.filterwarnings("ignore:the digit is found", "ignore:only .* are classified correctly")  # as is training
@pytest.mark.filterwarnings("ignore:predictions are right in", "ignore:matrices denoised by the network cost")
@pytest.mark.filterwarnings("ignore:conflicts are left in")
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    monkeypatch.setattr(plt, "show", lambda: None)  # Agg has no window to show, and warns where there is a display
    monkeypatch.setenv("SMOKE_TEST", "1")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    plt.close("all")
