"""Every tutorial runs from beginning to end; SMOKE_TEST=1 makes it short."""

from __future__ import annotations

import math
import re
import runpy
from pathlib import Path

import pyro
import pytest

TUTORIALS = sorted((Path(__file__).resolve().parents[1] / "tutorials").glob("*.py"))
EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "tutorials" / "examples").glob("*.py"))
FIGURES = {
    "01_discrete_latents": 2,
    "02_permutations": 4,
    "03_relaxed_categoricals": 3,
    "04_trees": 1,
    "05_tree_posterior": 2,
    "06_evidence": 2,
    "07_drmm": 2,
    "08_constrained_vaes": 3,
    "09_semi_supervised": 2,
    "10_disentangling": 2,
    "11_sparse_networks": 3,
    "12_shattered_gradients": 3,
    "13_graph_convolution": 4,
    "14_tumour_phylogeny": 4,
    "15_semi_supervised_gan": 6,
}
"""How many figures a reader of each tutorial sees."""
SLACK = 0.3  # a bound is estimated, within a few standard errors
COLUMNS = 88  # of code on a page of the documentation


def test_there_are_tutorials() -> None:
    assert TUTORIALS


@pytest.mark.parametrize("path", [*TUTORIALS, *EXAMPLES], ids=lambda path: path.stem)
def test_code_fits_the_page(path: Path) -> None:
    """Prose is wrapped by the browser, code is not."""
    cells = re.split(r"^(?=# %%)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    code = [line for cell in cells if not cell.startswith("# %% [markdown]") for line in cell.splitlines()]
    assert not [line for line in code if len(line) > COLUMNS]


@pytest.mark.filterwarnings("ignore:the chains of the posterior disagree")  # they are too short then
@pytest.mark.filterwarnings("ignore:the constraint is still")  # as is training
@pytest.mark.filterwarnings("ignore:the digit is found", "ignore:only .* are classified correctly")  # as is training
@pytest.mark.filterwarnings("ignore:predictions are right in", "ignore:matrices denoised by the network cost")
@pytest.mark.filterwarnings("ignore:conflicts are left in")
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    shown: list[bool] = []

    def show() -> None:  # Agg has no window to show, and warns where there is a display
        shown.extend(any(ax.has_data() for ax in plt.figure(number).axes) for number in plt.get_fignums())
        plt.close("all")

    monkeypatch.setattr(plt, "show", show)
    monkeypatch.setenv("SMOKE_TEST", "1")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    show()
    assert all(shown), "a figure without anything drawn"
    assert len(shown) == FIGURES[path.stem]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_stays_below_its_exact_reference(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOKE_TEST", "1")
    figures = runpy.run_path(str(path), run_name="__main__")["FIGURES"]
    pyro.clear_param_store()
    assert figures
    for reference, ours, pyros in figures.values():
        assert all(math.isfinite(value) for value in (reference, ours, pyros))
        assert max(ours, pyros) <= reference + SLACK


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_comes_near_its_reference(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the table in tutorials/examples says, which has the same digits with the same version of PyTorch."""
    monkeypatch.delenv("SMOKE_TEST", raising=False)
    figures = runpy.run_path(str(path), run_name="__main__")["FIGURES"]
    pyro.clear_param_store()
    table = (path.parent / "index.md").read_text(encoding="utf-8")
    (row,) = [line for line in table.splitlines() if line.startswith("|") and f"({path.name})" in line]
    said = [float(cell.strip().split(",")[0].replace("−", "-")) for cell in row.split("|")[3:6]]
    (measured,) = figures.values()
    assert said == pytest.approx(measured, abs=0.3)
    assert measured[0] == pytest.approx(said[0], abs=0.01)
    assert measured[1] > measured[2] - 0.1


def test_every_example_is_in_the_table() -> None:
    index = (EXAMPLES[0].parent / "index.md").read_text(encoding="utf-8")
    assert all(f"({path.name})" in index and f"\n{path.stem}\n" in index for path in EXAMPLES)
