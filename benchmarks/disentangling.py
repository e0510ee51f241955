"""What the codes of the disentangling autoencoder hold: the class in s, and how much of it in z.

Four models of one size and one number of epochs: the ELBO alone, with swapped codes, and with an adversary besides
(by class or by pairs of images). Digits come with scikit-learn; they are split at random, a new split for each seed,
and classifiers with two hidden layers of 256 units learn the class from the codes. Sprites are drawn with known
factors, of which the shape is the class; DCI and mutual information gaps are measured on held-out images. Settings
were chosen on digits with another seed, from four trials whose images overlap those held out here. Finished runs are
kept in ``runs/disentangling`` and not repeated.

References:
    | Disentangling factors of variation in deep representations using adversarial training (Mathieu et al., 2016)
    | https://arxiv.org/abs/1611.03383
"""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import torch
from support.disentangling_runs import METHODS, Budget, digits_run, sprites_run
from support.report import Report
from support.rows import FinishedRuns

from pyro_ext.datasets.sprites import FACTORS

WORK = Path(__file__).resolve().parents[1] / "runs" / "disentangling"
DIGITS = Budget(epochs=80)
SPRITES = Budget(epochs=6, options={"channels": 8})
ADVERSARY = "swaps, adversary"
PARTS = ("digits", "sprites")


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    saved = FinishedRuns(options.work / "runs.csv")
    report = Report("disentangling", "Disentangling the class of images from the rest")
    if "digits" in options.parts:
        digits(report, saved, range(options.seeds), options.methods, options.work)
    if "sprites" in options.parts:
        on_sprites(report, saved, range(options.sprite_seeds))
    if options.save:
        path = report.save()
        for plot in options.work.glob("*.png"):
            (path.parent / f"{path.stem}-{plot.name}").write_bytes(plot.read_bytes())
        print(f"\nwritten to {path}")


def digits(report: Report, saved: FinishedRuns, seeds: range, methods: list[str], work: Path) -> None:
    """Tabulate the accuracies of probes on digits, and check what the model is to show."""
    results = {}
    for seed in seeds:  # seed by seed, so that an interrupted benchmark has something of each method
        for method in methods:
            plots = work if method == ADVERSARY and seed == 0 else None
            run = partial(digits_run, seed, method, DIGITS, plots)
            results[method, seed] = saved.get(f"digits, {method}, {DIGITS.epochs} epochs, seed {seed}", run)
    names = ("probe_s", "probe_z_mean", "probe_z", "kl", "squared_error", "seconds")
    rows, accuracy = [], {}
    for method in methods:
        runs = [results[method, seed] for seed in seeds]
        accuracy[method] = {name: [run[name] for run in runs] for name in names}
        rows.append([method, *(_spread(accuracy[method][name]) for name in names[:3])])
        rows[-1] += [f"{mean(accuracy[method]['kl']):.1f}", f"{mean(accuracy[method]['squared_error']):.4f}"]
        rows[-1].append(f"{mean(accuracy[method]['seconds']):.0f}")
    header = ["losses", "s, %", "mean of z, %", "draws of z, %", "KL, nats", "squared error", "CPU s"]
    title = f"digits, {len(seeds)} seeds, {DIGITS.epochs} epochs: accuracy of classifiers on codes, mean ± deviation"
    report.table(title, header, rows)
    if ADVERSARY in methods:
        own = accuracy[ADVERSARY]
        for code, name, passed in (
            ("s", "probe_s", mean(own["probe_s"]) >= 97),
            ("draws of z", "probe_z", mean(own["probe_z"]) <= 40),
        ):
            bound = "at least 97" if code == "s" else "at most 40"
            report.check(passed, f"{code}: {bound} % as a mean over seeds: {_each(own[name])}")
    if ADVERSARY in methods and "swaps" in methods:
        pairs = zip(accuracy[ADVERSARY]["probe_z"], accuracy["swaps"]["probe_z"], strict=True)
        without = _each(accuracy["swaps"]["probe_z"])
        report.check(all(a < b for a, b in pairs), f"draws of z: less than with swaps alone, seed by seed: {without}")
    report.text("")


def on_sprites(report: Report, saved: FinishedRuns, seeds: range) -> None:
    """Tabulate the scores of codes against the factors of sprites."""
    probes, rows = [], []
    for method in ("swaps", ADVERSARY):
        runs = [
            saved.get(f"sprites, {method}, {SPRITES.epochs} epochs, seed {s}", partial(sprites_run, s, method, SPRITES))
            for s in seeds
        ]
        accuracies = [_spread([run[f"probe_{name}"] for run in runs]) for name in ("s", "z_mean", "z")]
        kl, error = (mean(run[name] for run in runs) for name in ("kl", "squared_error"))
        probes.append([method, *accuracies, f"{kl:.1f}", f"{error:.4f}", f"{mean(run['seconds'] for run in runs):.0f}"])
        for code in ("s", "z"):
            for factor in FACTORS:
                scores = [mean(run[f"{code} {factor} {score}"] for run in runs) for score in _SCORES]
                rows.append([method, code, factor, *(f"{score:.3f}" for score in scores), ""])
            whole = mean(run[f"{code} disentanglement"] for run in runs)
            rows.append([method, code, "all", "", "", "", f"{whole:.3f}"])
    report.table(
        f"sprites, {len(seeds)} seed(s), {SPRITES.epochs} epochs: accuracy of classifiers of the shape",
        ["losses", "s, %", "mean of z, %", "draws of z, %", "KL, nats", "squared error", "CPU s"],
        probes,
    )
    report.text(
        "Guessing is right for a third of the shapes. The few epochs here do not separate the shape from the other "
        "factors.",
        "",
    )
    header = ["losses", "code", "factor", *_SCORES, "disentanglement"]
    report.table("sprites: codes against factors, means over seeds", header, rows, labels=3)


_SCORES = ("informativeness", "completeness", "gap")


def _spread(values: list[float]) -> str:
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _each(values: list[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="which parts to run")
    parser.add_argument(
        "--methods", nargs="+", choices=[*METHODS], default=[*METHODS], help="which losses to train with on digits"
    )
    parser.add_argument("--seeds", type=int, default=5, help="the number of seeds on digits (default: 5)")
    parser.add_argument("--sprite-seeds", type=int, default=3, help="the number of seeds on sprites (default: 3)")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder in which results are kept")
    parser.add_argument("--threads", type=int, default=1, help="the number of threads of PyTorch (default: 1)")
    parser.add_argument("--save", action="store_true", help="write the report and the plots into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
