"""Subsplit Bayesian networks: seconds to read, index, fit, evaluate and sample real posteriors.

The data are runs of MrBayes on the alignments DS1 and DS8, which lie under PYRO_EXT_DATA. ``--peer FOLDER`` names a
checkout of github.com/zcrabbit/sbn, ported to Python 3, whose code is timed on the same files.

References:
    | Generalizing tree probability estimation via Bayesian networks (Zhang and Matsen, 2018)
    | https://arxiv.org/abs/1805.07834
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from support.report import Report
from support.sbn_peer import Peer

from pyro_ext.datasets.locate import data_root
from pyro_ext.distributions import SubsplitBayesianNetwork, tree_kl
from pyro_ext.phylo import SubsplitSupport, TreeSet, read_trees, write_trees
from pyro_ext.phylo.random_trees import random_trees

T = TypeVar("T")
_FLOOR = 2.220446049250313e-16


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    report = Report("sbn", "Subsplit Bayesian networks: reading, fitting, evaluating, sampling")
    ds1 = time_ds1(report)
    ds8, ds8_peak = time_ds8(report)
    flood = time_reading(report, options.trees)
    if options.peer is not None:
        compare(report, Peer(options.peer), ds1)
    report.check(ds1["read and index"] < 10, "DS1's golden run read and indexed in under 10 s")
    report.check(ds1["EM iteration"] < 0.015, "an EM iteration on DS1 in under 15 ms")
    report.check(ds1["sample 10,000"] < 0.2, "10,000 trees sampled in under .2 s")
    report.check(ds1["log_prob of 1,000"] < 0.02, "log_prob of 1,000 trees in under 20 ms")
    report.check(ds8 < 60, "DS8's short run fitted by EM in under 60 s")
    report.check(ds8_peak < 1, "DS8's short run fitted and evaluated in under 1 GB, DS1's golden run included")
    report.check(flood < 6, f"{options.trees:,} trees of 50 taxa read in under 6 s")
    if options.save:
        print(f"\nwritten to {report.save()}")


def time_ds1(report: Report) -> dict[str, float]:
    """Time all steps on the golden run and on a short run of DS1."""
    golden_files = _files("golden", "DS1")
    read, golden = _timed(lambda: read_trees(*golden_files, rooted=False, branch_lengths=False).unique())
    index, support = _timed(lambda: SubsplitSupport.from_trees(golden))
    sample = read_trees(_files("short_runs", "DS1")[0], rooted=False, branch_lengths=False)
    short_read, _ = _timed(lambda: read_trees(_files("short_runs", "DS1")[0], rooted=False, branch_lengths=False))
    short, _ = _timed(lambda: SubsplitSupport.from_trees(sample))
    average, _ = _timed(lambda: SubsplitBayesianNetwork.fit(sample))
    em, (network, history) = _timed(lambda: SubsplitBayesianNetwork.fit(sample, method="em"))
    kl, divergence = _timed(lambda: tree_kl(golden.parents, network, golden.weights, floor=_FLOOR))
    thousand = golden.parents[:1000]
    times = {
        "read and index": read + index,
        "read, short run": short_read,
        "index, short run": short,
        "simple average": average,
        "EM": em,
        "EM iteration": _iteration(sample),
        "KL of the golden run": kl,
        "log_prob of 1,000": _best(lambda: network.log_prob(thousand)),
        "sample 10,000": _best(lambda: network.sample((10_000,))),
        "50 distinct trees": _best(lambda: network.sample_without_replacement(50)),
    }
    notes = {
        "read and index": f"{len(golden_files)} files, {len(golden):,} trees, {support.num_parameters:,} splits",
        "index, short run": f"{len(sample):,} trees",
        "EM": f"{history.num_iterations} iterations",
        "KL of the golden run": f"{float(divergence):.6f} nats",
    }
    rows = [[name, f"{seconds * 1e3:.1f}", notes.get(name, "")] for name, seconds in times.items()]
    report.table("DS1, 27 taxa", ["", "ms", "what"], rows)
    return times


def time_ds8(report: Report) -> tuple[float, float]:
    """Time a fit by EM to a short run of DS8, evaluated on another; return the seconds and the memory in GB."""
    sample, other = (read_trees(path, rooted=False, branch_lengths=False) for path in _files("short_runs", "DS8")[:2])
    seconds, (network, history) = _timed(lambda: SubsplitBayesianNetwork.fit(sample, method="em"))
    evaluation, divergence = _timed(lambda: tree_kl(other, network, floor=_FLOOR))
    coverage = network.subsplits.coverage(other)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    report.text(
        f"- DS8, 64 taxa, {len(sample):,} trees, {network.subsplits.num_parameters:,} splits: EM in {seconds:.1f} s, "
        f"{history.num_iterations} iterations; divergence of another run of {len(other):,} trees, {coverage.trees:.0%} "
        f"of them in the support, {float(divergence):.3f} nats in {evaluation * 1e3:.0f} ms; "
        f"largest memory so far {peak:.2f} GB",
        "",
    )
    return seconds, peak


def time_reading(report: Report, num_trees: int) -> float:
    """Time the reading of many trees of 50 taxa."""
    taxa = [f"t{i:02}" for i in range(50)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many.nwk"
        write_trees(path, TreeSet(tuple(taxa), random_trees(50, num_trees)))
        seconds, _ = _timed(lambda: read_trees(path, rooted=False))
    report.text(f"- {num_trees:,} trees of 50 taxa read in {seconds:.1f} s", "")
    return seconds


def compare(report: Report, peer: Peer, ours: dict[str, float]) -> None:
    """Time the other implementation on the same short run, and report ratios."""
    times = peer.times(_files("short_runs", "DS1")[0])
    rows = [[name, f"{t * 1e3:.0f}", f"{ours[name] * 1e3:.1f}", f"{t / ours[name]:.0f}"] for name, t in times.items()]
    report.table("Compared with zcrabbit/sbn on DS1", ["", "its ms", "ours", "ratio"], rows)


def _iteration(sample: TreeSet) -> float:
    """Return the seconds of one update by EM, from the difference between many and one."""
    few, many = (
        _best(lambda n=n: SubsplitBayesianNetwork.fit(sample, method="em", max_iterations=n, min_iterations=n))
        for n in (1, 41)
    )
    return (many - few) / 40


def _files(run: str, name: str) -> list[Path]:
    root = data_root()
    folder = None if root is None else root / "phylo" / run / name
    if folder is None or not folder.is_dir():
        raise SystemExit(f"PYRO_EXT_DATA must name a folder that holds phylo/{run}/{name}, MrBayes runs")
    return sorted(folder.rglob("*.trprobs*"), key=lambda path: int(path.parent.name.removeprefix("rep_")))


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


def _best(call: Callable[[], object], rounds: int = 5) -> float:
    return median(_timed(call)[0] for _ in range(rounds))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=int, default=100_000, help="the number of trees of 50 taxa to read")
    parser.add_argument("--peer", type=Path, help="a checkout of github.com/zcrabbit/sbn")
    parser.add_argument("--threads", type=int, default=2, help="the number of threads of PyTorch")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/sbn-DATE-MACHINE.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
