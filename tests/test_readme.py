"""The Python in README.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
EPOCHS = "range(30)"


def run(block: str) -> None:
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_readme_shows_python() -> None:
    assert BLOCKS
    assert sum(block.count(EPOCHS) for block in BLOCKS) == 1


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_block_runs_for_two_epochs(number: int) -> None:
    run(BLOCKS[number].replace(EPOCHS, "range(2)"))


@pytest.mark.slow
def test_readme_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    run(next(block for block in BLOCKS if EPOCHS in block))
    assert 21.0 < float(capsys.readouterr().out) < 21.6
