"""The evidence of tree topologies by nineteen methods, compared with the posterior of a long run of MrBayes.

The trees are the 42 most probable ones of the alignment DS1 under JC69 with exponential branch lengths of mean .1; they
have 95 % of the posterior probability. The evidence of each follows from its frequency in a run of ten billion steps.
Methods that need no Markov chains run on all of these trees, the others on the five most probable. Estimates are saved
line by line under ``runs/evidence-ds1``; a stopped run continues when it is started again, and ``--report`` prints the
tables of the estimates so far. The alignment and the trees lie under PYRO_EXT_DATA.

References:
    | 19 dubious ways to compute the marginal likelihood of a phylogenetic tree topology (Fourment et al., 2020)
    | https://arxiv.org/abs/1811.11804
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import torch
from support.evidence_runs import Group, Record, Store, run_group
from support.report import Report
from support.tree_scores import Gold, Scores

from pyro_ext.datasets.locate import find_file
from pyro_ext.inference.evidence import EVIDENCE_METHODS, EvidenceSettings
from pyro_ext.models.phylo import FixedTopology
from pyro_ext.phylo import Alignment, read_trees
from pyro_ext.phylo.alignment_files import read_alignment
from pyro_ext.plotting import given_or_new, save

WORK = Path(__file__).resolve().parents[1] / "runs" / "evidence-ds1"
LOG_EVIDENCE = -7108.42  # of the alignment, over all trees, by stepping-stone sampling
BATCH = 32
FEW = 5
GOOD, BAD = 0.01, 0.05  # RMSD of split frequencies, as in the paper's figures

FAST = Group(
    "fast",
    (
        "ml", "map", "gamma_laplus", "lognormal_laplus", "beta_prime_laplus", "gamma_laplus_is", "elbo", "vbis",
        "naive_monte_carlo",
    ),
    EvidenceSettings(batch_size=BATCH),
)  # fmt: skip
CHAINS = (
    Group(
        "posterior",
        ("bridge", "harmonic_mean", "stabilized_harmonic_mean", "cpo", "ppd", "generalized_stepping_stone"),
        EvidenceSettings(batch_size=BATCH, num_powers=12, num_power=200),
    ),
    Group(
        "powers",
        ("stepping_stone", "path_sampling", "modified_path_sampling"),
        EvidenceSettings(batch_size=BATCH, num_power=800, num_warmup=60),
    ),
    Group("nested", ("nested_sampling",), EvidenceSettings(batch_size=64, nested_steps=75)),
)
GROUPS = (FAST, *CHAINS)

# Another implementation on the same trees, with 600 draws where it samples, and plain exponential distributions for
# branches of length zero: KL, RMSD of splits, mean and standard deviation of log Z - gold, seconds.
ELSEWHERE = {
    "gamma_laplus_is": (0.0024, 0.0029, 0.034, 0.080, 2.2),
    "lognormal_laplus": (0.0497, 0.0286, 4.23, 0.365, 1.46),
    "gamma_laplus": (0.0579, 0.0337, 0.643, 0.358, 1.46),
    "beta_prime_laplus": (0.0585, 0.0338, 0.682, 0.360, 1.46),
    "ml": (0.0974, 0.0440, 151.9, 0.49, 0.91),
    "map": (0.0982, 0.0442, 265.3, 0.49, 0.94),
    "naive_monte_carlo": (591.0, 0.252, -3230.0, 266.0, 0.68),
}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    alignment, gold = load()
    store = Store(options.work / "estimates.jsonl")
    if not options.report:
        run_all(store, alignment, gold, options)
    report = Report("evidence", "The evidence of DS1's credible topologies, by nineteen methods")
    describe(report)
    everywhere = tabulate(report, store, gold, len(gold.trees), options.seed)
    few = tabulate(report, store, gold, FEW, options.seed)
    rank(report, few)
    check(report, everywhere, few)
    if few:
        print(f"\nplot in {draw(few, options.work / 'evidence.png')}")
    if options.save:
        print(f"\nwritten to {report.save()}")


def load() -> tuple[Alignment, Gold]:
    """Return the alignment, and the trees with their probabilities."""
    alignment_file = find_file("phylo/alignments", "DS1.fasta")
    tree_file = find_file("phylo/credible", "JC_no_gamma_credible_set_ds1")
    if alignment_file is None or tree_file is None:
        raise SystemExit("PYRO_EXT_DATA must name a folder with phylo/alignments/DS1.fasta and phylo/credible")
    alignment = read_alignment(alignment_file)
    return alignment, Gold(read_trees(tree_file, taxa=alignment.taxa, rooted=False), LOG_EVIDENCE)


def run_all(store: Store, alignment: Alignment, gold: Gold, options: argparse.Namespace) -> None:
    """Run what is missing: one group of methods on one tree at a time."""
    tasks = [(group, tree) for group in GROUPS for tree in range(FEW if group in CHAINS else len(gold.trees))]
    for group, tree in tasks:
        if group.name not in options.groups or store.find(tree, options.seed, group) is not None:
            continue
        begin = time.perf_counter()
        store.add(run_group(group, FixedTopology(alignment, gold.trees.parents[tree]), tree, options.seed))
        print(f"{group.name}, tree {tree + 1}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)


def describe(report: Report) -> None:
    """Report the settings of each group of methods, and what the columns mean."""
    lines = [f"- {', '.join(group.methods)}: {group.sizes or 'default settings'}" for group in GROUPS]
    report.text("Settings, where they are not the defaults:", "", *lines, "")
    report.text(
        "KL, RMSD and asdsf compare probabilities of topologies, scaled to sum to 1, with those of the long run. The",
        "column `log Z - gold` compares with the log-evidence according to that run, which has an error of about .2",
        "nats, the same for all topologies. s/tree is the median time, scaled by the share of a core that the process",
        "had; draws and fits that several methods share count for each of them.",
        "",
    )


def tabulate(report: Report, store: Store, gold: Gold, count: int, seed: int) -> dict[str, tuple[Scores, float]]:
    """Report the scores of methods on the first ``count`` trees; return them with the median seconds."""
    scored, rows = {}, []
    for method, records in _by_method(store, count, seed).items():
        estimates = torch.tensor([record.log_evidence for record in records], dtype=torch.float64)
        errors = torch.tensor([record.std_error for record in records])
        scores = gold.scores(estimates)
        known = [record.seconds * record.share for record in records if record.share == record.share]
        seconds = median(known or [record.seconds for record in records])
        scored[method] = scores, seconds
        rows.append([method, *_cells(scores), _number(float(errors.square().mean().sqrt())), f"{seconds:.1f}"])
        if count > FEW and method in ELSEWHERE:
            kl, rmsd, bias, spread, took = ELSEWHERE[method]
            rows.append(
                ["- other implementation", *_cells(Scores(kl, rmsd, float("nan"), bias, spread)), "", f"{took}"]
            )
    header = ["method", "KL", "split RMSD", "asdsf", "log Z - gold", "its sd", "std. error", "s/tree"]
    if rows:
        report.table(f"The {count} most probable topologies", header, rows)
    return scored


def rank(report: Report, few: dict[str, tuple[Scores, float]]) -> None:
    """Report the methods from best to worst, and those that are worse than the height of the posterior mode."""
    if not few:
        return
    order = sorted(few, key=lambda method: few[method][0].kl)
    rows = [
        [method, str(i), f"{few[method][0].kl:.4f}", f"{few[method][0].rmsd:.4f}", _verdict(few[method][0].rmsd),
         f"{few[method][1]:.1f}"]
        for i, method in enumerate(order, 1)
    ]  # fmt: skip
    header = ["method", "rank", "KL", "split RMSD", "RMSD is", "s/tree"]
    report.table(f"Ranked by KL on the {FEW} most probable topologies", header, rows)
    if "map" in order:
        beaten = order[order.index("map") + 1 :]
        report.text(f"The normalised height of the mode, map, beats {len(beaten)}: {', '.join(beaten) or 'none'}.", "")


def check(report: Report, everywhere: dict[str, tuple[Scores, float]], few: dict[str, tuple[Scores, float]]) -> None:
    """Report which requirements are met."""
    if "gamma_laplus_is" in everywhere:
        scores, _ = everywhere["gamma_laplus_is"]
        report.check(scores.kl <= 0.005, f"gamma_laplus_is: KL {scores.kl:.4f}, at most .005")
        report.check(scores.rmsd <= 0.005, f"gamma_laplus_is: split RMSD {scores.rmsd:.4f}, at most .005")
    for method in ("stepping_stone", "bridge"):
        if method in few:
            bias = few[method][0].bias
            report.check(abs(bias) <= 0.3, f"{method}: {bias:+.3f} nats from gold on average, at most .3")


def draw(few: dict[str, tuple[Scores, float]], path: Path) -> Path:
    """Plot the error of each method against its time; lines separate good, fair and bad."""
    ax = given_or_new(None, width=8.0, height=5.5)
    for method, (scores, seconds) in few.items():
        ax.plot(seconds, scores.rmsd, "o", color="C0")
        ax.annotate(method, (seconds, scores.rmsd), xytext=(4, 4), textcoords="offset points", fontsize="small")
    for threshold in (GOOD, BAD):
        ax.axhline(threshold, color="gray", linewidth=0.8, linestyle="--")
    ax.set(xscale="log", yscale="log", xlabel="seconds per topology", ylabel="RMSD of split frequencies")
    ax.set_xlim(right=4 * ax.get_xlim()[1])  # space for the names
    ax.set_title(f"DS1, the {FEW} most probable topologies")
    return save(ax, path)


def _by_method(store: Store, count: int, seed: int) -> dict[str, list[Record]]:
    """Return the records of each method that was run on all of the first ``count`` trees."""
    by_method: dict[str, list[Record]] = {}
    for group in GROUPS:
        records = [store.find(tree, seed, group) for tree in range(count)]
        for i, method in enumerate(group.methods):
            whole = [own[i] for own in records if own is not None]
            if len(whole) == count:
                by_method[method] = whole
    return {method: by_method[method] for method in EVIDENCE_METHODS if method in by_method}


def _cells(scores: Scores) -> list[str]:
    kl = f"{scores.kl:.4f}" if scores.kl < 10 else f"{scores.kl:.0f}"
    return [kl, f"{scores.rmsd:.4f}", _number(scores.asdsf, 4), f"{scores.bias:+.3f}", f"{scores.spread:.3f}"]


def _number(value: float, digits: int = 3) -> str:
    return "-" if value != value else f"{value:.{digits}f}"


def _verdict(rmsd: float) -> str:
    return "good" if rmsd < GOOD else "bad" if rmsd > BAD else "fair"


def _options() -> argparse.Namespace:
    names = [group.name for group in GROUPS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=names, default=names, help="which groups of methods to run")
    parser.add_argument("--report", action="store_true", help="run nothing, print the tables of the estimates so far")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder of the estimates")
    parser.add_argument("--seed", type=int, default=0, help="the seed of all estimates")
    parser.add_argument("--threads", type=int, default=1, help="the number of threads of PyTorch")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/evidence-DATE-MACHINE.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
