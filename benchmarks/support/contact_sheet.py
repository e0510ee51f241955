"""One picture of every plot that the commands write, each under the name of its command and its file.

Each command runs once on little data, in a temporary folder, in two minutes together; the plots are there to be looked
at, not their results. ``make plots``, or

    python benchmarks/support/contact_sheet.py --out runs/plots.png
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

FIT = {
    "categorical_vae": (12, "--model.num_latents 4 --model.evaluation_samples 2 --data.num_train 320"),
    "compressed_lenet": (2, "--model.threshold_images 20 --data.num_train 160 --data.binarize null"),
    "disentangling": (6, "--model.hidden 32 --data.num_train 320 --data.binarize null"),
    "drmm": (4, "--model.num_labels 20 --data.num_train 160 --data.binarize null"),
    "gan": (
        4,
        "--model.width 0.1 --model.batch_size 750 --model.epochs 4 --model.evaluation_samples 20 "
        "--data.num_labels 20 --data.unlabelled all --data.binarize null --batch_size 750",
    ),
    "gcn": (12, "--model.hidden [4] --model.evaluation_samples 4 --data.steps_per_epoch 10"),
    "geco_vae": (8, "--model.num_latents 2 --model.hidden [32] --data.num_train 320 --data.binarize null"),
    "hard_attention": (
        3,
        "--model.window 8 --model.hidden [8] --model.channels 2 --model.evaluation_samples 2 --data.canvas 16 "
        "--data.digit_size 8 --data.num_train 80 --data.num_valid 20",
    ),
    "looks_linear": (
        4,
        "--model.depth 6 --model.width 16 --data.num_train 320 --data.binarize null --data.mixed true",
    ),
    "neuron_matching": (2, "--model.evaluation_samples 4 --data.num_worms 4 --batch_size 1"),
    "phylo": (
        6,
        "--data six.fasta --trees sample.nwk --golden golden.nwk --model.num_particles 4 "
        "--model.evaluation_samples 10 --model.evaluation_repeats 2 --data.steps_per_epoch 20",
    ),
    "point_matching": (10, "--model.evaluation_samples 20 --data.num_problems 4 --batch_size 4"),
    "semi_supervised_vae": (
        6,
        "--model.warm_start 1 --model.hidden [32] --model.classifier_hidden [32] --data.num_labels 50 --batch_size 250",
    ),
    "sparse_lenet": (4, "--model.epochs 4 --data.num_train 320 --data.binarize null"),
    "structured_output": (5, "--model.units 16 --model.samples 1 --model.evaluation_samples 4 --data.num_train 320"),
    "tumour_branching": (
        5,
        "--model.width 8 --data.num_train 200 --data.num_valid 40 --data.cells 5 --data.mutations 4 "
        "--data.labels branching --data.false_negative 0.0",
    ),
    "tumour_elimination": (
        3,
        "--model.num_flips 3 --model.width 8 --model.num_heads 2 --model.evaluation_samples 2 "
        "--data.num_train 16 --data.num_valid 4 --data.cells 5 --data.mutations 4 --data.labels matrix",
    ),
    "tumour_noise": (5, "--model.width 8 --data.num_train 200 --data.num_valid 40 --data.cells 5 --data.mutations 6"),
}
"""Epochs and other options of ``pyro-ext fit`` for each model."""

OTHERS = {
    "demo": "demo --epochs 8 --num_latents 2 --out demo",
    "compare": "compare categorical_vae --model.num_latents 2 --model.num_categories 3 --model.hidden [6,5] "
    "--repeats 40 --epochs 1 --fit_epochs 0 --batch_size 400 --seed 1 --max_leaves 9 --out compare",
    "evidence, one tree": ""
    "evidence six.fasta one.nwk --all --num_importance 200 --num_elbo 100 --num_fit 40 --num_posterior "
    "200 --num_power 8 --num_powers 5 --num_warmup 20 --num_live 10 --nested_steps 6 --max_leapfrog 4 "
    "--seed 1 --out evidence-one",
    "evidence, four trees": ""
    "evidence six.fasta four.nwk --method elbo --method map --method gamma_laplus --method bridge "
    "--method ml --num_elbo 100 --num_fit 40 --num_posterior 200 --num_warmup 20 --max_leapfrog 4 --seed "
    "1 --out evidence-four",
    "sbn fit": "sbn fit sample.nwk --out sbn-fit.npz",
    "sbn evaluate": "sbn evaluate sbn-fit.npz --golden golden.nwk --out sbn-evaluate",
    "sbn sample": "sbn sample sbn-fit.npz --num 500 --seed 1 --out sbn-sample.nwk",
    "tumour branching": "tumour branching matrix.csv --run fit-tumour_branching --samples 5 --tree true --out "
    "tumour-branching",
    "tumour denoise": "tumour denoise matrix.csv --run fit-tumour_elimination --num_samples 16 --out tumour-denoise",
}
"""The other commands that draw, in an order in which each finds what it needs."""

_QUIET = "--trainer.enable_progress_bar false --trainer.accelerator cpu --seed 0"
_COLUMNS = 6
_CELL = (4.2, 3.4)  # inches


def main() -> int:
    options = _options()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["MPLBACKEND"] = "Agg"
    out = Path(options.out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(options.work or folder):
        write_inputs(Path.cwd())
        commands = {
            f"fit {name}": f"fit {name} {words} --trainer.max_epochs {epochs} {_QUIET} --out fit-{name}"
            for name, (epochs, words) in FIT.items()
        }
        chosen = {name: words for name, words in (commands | OTHERS).items() if _is_chosen(name, options.only)}
        failed = [name for name, words in chosen.items() if not run(name, words)]
        plots = sorted(Path.cwd().rglob("*.png"), key=lambda path: path.relative_to(Path.cwd()).parts)
        draw(plots, Path.cwd(), out)
    print(f"{len(plots)} plots of {len(chosen)} commands are in {out}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def write_inputs(folder: Path) -> None:
    """Write an alignment, trees and a mutation matrix for the commands that read files."""
    import torch

    from pyro_ext.distributions import TreeLikelihood
    from pyro_ext.phylo import STATES, TreeSet, all_trees, write_trees

    taxa, trees = ("Bos", "Felis", "Gallus", "Homo", "Mus", "Rana"), all_trees(6)
    torch.manual_seed(11)
    lengths = torch.full((9,), 0.15, dtype=torch.float64)
    sites = TreeLikelihood(trees[37], lengths, weights=torch.ones(60).double()).sample().argmax(-1)
    rows = zip(taxa, sites.tolist(), strict=True)
    (folder / "six.fasta").write_text("".join(f">{name}\n{''.join(STATES[s] for s in row)}\n" for name, row in rows))
    write_trees(folder / "one.nwk", TreeSet(taxa, trees[37:38]))
    write_trees(folder / "four.nwk", TreeSet(taxa, trees[[37, 36, 5, 90]]))
    for name, seed in (("sample", 1), ("golden", 2)):
        torch.manual_seed(seed)
        weights = torch.randn(len(trees), generator=torch.Generator().manual_seed(0)).mul(2).softmax(0)
        write_trees(folder / f"{name}.nwk", TreeSet(taxa, trees[weights.multinomial(2000, replacement=True)]))
    (folder / "matrix.csv").write_text(
        "cell,TP53,KRAS,APC,BRAF,MYC\nA,1,1,0,0,0\nB,1,0,1,0,0\nC,1,NA,1,1,0\nD,0,0,0,0,1\nE,1,1,0,0,1\n"
    )


def run(name: str, words: str) -> bool:
    """Run a command, and return whether it succeeded; what it says is shown only if not."""
    from pyro_ext.cli.__main__ import main as pyro_ext
    from pyro_ext.cli.demo.__main__ import main as demo

    begun, said = time.process_time(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as that so short a run has not converged
        first, *rest = words.split()
        try:
            code = demo(rest) if first == "demo" else pyro_ext([first, *rest])
        except Exception as error:
            code, _ = 1, said.write(f"{type(error).__name__}: {error}")
    print(f"{time.process_time() - begun:6.1f} s  {name}", flush=True)
    if code != 0:
        print(said.getvalue(), file=sys.stderr)
    return code == 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", default="runs/plots.png", help="the picture (runs/plots.png)")
    parser.add_argument("--only", nargs="*", default=[], help="words; commands without any of them are left out")
    parser.add_argument("--work", default="", help="an empty folder in which the results stay, if they shall")
    return parser.parse_args()


def _is_chosen(name: str, words: Sequence[str]) -> bool:
    return not words or any(word in name for word in words)


def draw(plots: Sequence[Path], folder: Path, out: Path) -> None:
    """Put the pictures below one another in columns, each under its name in the folder."""
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    down = max(1, math.ceil(len(plots) / _COLUMNS))
    figure = Figure(figsize=(_COLUMNS * _CELL[0], down * _CELL[1]), layout="constrained")
    axes = figure.subplots(down, _COLUMNS, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, path in zip(axes, plots, strict=False):
        ax.imshow(imread(path), interpolation="antialiased")
        ax.set_title(str(path.relative_to(folder)), fontsize=9, family="monospace")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
