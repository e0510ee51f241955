"""Networks that read mutation matrices of tumours: branches, errors, and how to eliminate these.

* ``branching``: does the phylogeny have branches? Accuracies of several networks on simulated 10 x 10 matrices, trained
  without errors and with, and tested with 0 to 35 % of false positives and false negatives; beside the exact test.
* ``real``: the probability of branches of the matrices of patients, found under ``PYRO_EXT_DATA``: by networks that
  were trained for matrices of their size, and by those for 10 x 10, on samples.
* ``noise``: has the matrix errors? Accuracies at 20,000 training matrices, and up to 500,000.
* ``oracle_4x4``: noise elimination on 4 x 4 matrices, beside the least cost over all 65,536 of them.
* ``elimination_10x10``: noise elimination on 1,000 simulated matrices beside greedy search, exact optima, and ScisTree2
  where it is installed.
* ``elimination_real``: the same on matrices of patients.
* ``variance``: the variance of gradients of noise elimination, by several estimators.

Finished runs are kept in ``runs/tumour``, so that an interrupted benchmark continues when it is started
again.

References:
    | Tumor phylogeny topology inference via deep learning (Azer et al., 2020)
    | https://doi.org/10.1016/j.isci.2020.101655
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import torch
from matplotlib.figure import Figure
from support.elimination_parts import elimination_10x10, elimination_real, oracle_4x4, variance
from support.report import Report
from support.rows import FinishedRuns
from support.tumour_labels import SIZES, branching_part, noise_part, real_part

WORK = Path(__file__).resolve().parents[1] / "runs" / "tumour"
ELIMINATION = {
    "oracle_4x4": oracle_4x4,
    "elimination_10x10": elimination_10x10,
    "elimination_real": elimination_real,
    "variance": variance,
}
PARTS = ("branching", "noise", "real", *ELIMINATION)


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="only .* are classified correctly")
    report = Report("tumour", "Mutation matrices of tumours")
    labels = FinishedRuns(options.work / "labels.csv", ("part", "run", "setting", "seed"))
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    if "branching" in options.parts:
        branching_part(report, labels, options, left)
    if "noise" in options.parts:
        noise_part(report, labels, options, right)
    if "real" in options.parts:
        real_part(report, labels, options)
    for name, part in ELIMINATION.items():
        if name in options.parts:
            part(report, options.work)
    options.work.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.work / "labels.png", dpi=80)
    print(f"figure in {options.work / 'labels.png'}")
    if options.save:
        path = report.save()
        figure.savefig(path.with_name(f"{path.stem}-labels.png"), dpi=80)
        print(f"written to {path}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each network (default: 3)")
    parser.add_argument("--num_train", type=int, default=10_000, help="training matrices 10 x 10 of branching")
    parser.add_argument("--epochs", type=int, default=15, help="epochs on these")
    parser.add_argument("--num_real", type=int, default=2000, help="training matrices of the size of real ones")
    parser.add_argument("--epochs_real", type=int, default=6, help="epochs on these")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of matrices of the curve of noise")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder of finished runs")
    parser.add_argument("--save", action="store_true", help="write the report into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
