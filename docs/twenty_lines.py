"""The picture of the home page: the twenty lines of the README, run by two estimators.

    python docs/twenty_lines.py

reads the code from README.md, runs it once as it stands and once with Pyro's estimator in the one line that differs,
and writes docs/_static/twenty_lines.svg. It takes half a minute on one core.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib
import pyro
import torch

from pyro_ext import plotting

ROOT = Path(__file__).resolve().parents[1]
OURS = "TraceUnorderedSet_ELBO(num_samples=4)"
PYRO = "pyro.infer.Trace_ELBO(num_particles=4, vectorize_particles=True)"


def program() -> str:
    """Return the code of the README up to its training loop."""
    code = re.search(r"## In twenty lines.*?```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert code is not None
    assert OURS in code[1]
    return code[1].partition("for _ in range")[0]


def curve(elbo: str, epochs: int = 30) -> list[float]:
    """Return minus the ELBO per held-out image, in nats, after each epoch with an estimator."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    names: dict[str, Any] = {}
    exec(program().replace(OURS, elbo), names)
    digits, svi, losses = names["digits"], names["svi"], []
    for _ in range(epochs):
        for rows in torch.randperm(len(digits.train)).split(100):
            svi.step(digits.train.x[rows])
        losses.append(sum(svi.evaluate_loss(digits.valid.x) for _ in range(5)) / 5 / len(digits.valid))
    return losses


def main() -> None:
    """Draw the picture."""
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "twenty lines"
    colours = plotting.COLOURS
    ax = plotting.given_or_new(None)
    ax.figure.set_size_inches(7, 3.4)
    for colour, name, elbo in (
        (colours[1], "Pyro's Trace_ELBO, 4 particles", PYRO),
        (colours[0], "TraceUnorderedSet_ELBO, 4 samples", OURS),
    ):
        losses = curve(elbo)
        print(f"{name}: {losses[-1]:.2f}")
        style = "-" if elbo == OURS else "--"
        ax.plot(range(1, len(losses) + 1), losses, style, color=colour, label=name)
        ax.annotate(f"{losses[-1]:.1f}", (len(losses), losses[-1]), (4, 0), textcoords="offset points", va="center")
    ax.axhline(24.6, color="grey", linestyle=":", label="frequencies of the pixels alone")
    ax.set(xlabel="epoch", ylabel="minus the ELBO (nats per image)", title="One line differs")
    ax.set_ylim(top=30)
    ax.legend(frameon=False, loc="upper right")
    ax.spines[["top", "right"]].set_visible(False)
    ax.figure.savefig(ROOT / "docs" / "_static" / "twenty_lines.svg", metadata={"Date": None}, bbox_inches="tight")


if __name__ == "__main__":
    main()
