"""The benchmark scripts are imported as a script run by path imports them."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """Import from the folder that a script run by path imports from."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
