"""What a training step costs, beside the same step written by hand in plain PyTorch, in turns in one process.

- The categorical autoencoder (20 variables of 10 categories, k = 4, digits) at batches of 100 and 1,500 images: the
  peers know this one model and validate nothing; ours run with Pyro's validation, as a user has it, and without.
- One variable of 100,000 categories in a plate of 16: sum-and-sample by its number of samples.
- The rendering mixture beside a plain network with the same parameters and losses.

The machine's own limits are printed first: a product of matrices, and a copy of memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO, Trace_ELBO
from support import vae
from support.gradients import Step
from support.hand_written import HAND_WRITTEN
from support.limits import copy_rate, gemm_rate
from support.plain_drmm import plain_total
from support.report import Report
from support.timing import StepTime, interleaved_times

from pyro_ext.datasets import IndexedDataset, Splits, digits
from pyro_ext.inference import TraceLeaveOneOut_ELBO, TraceSumAndSample_ELBO, TraceUnorderedSet_ELBO
from pyro_ext.models.drmm.build import build

ELBOS = {
    "leave-one-out": TraceLeaveOneOut_ELBO,
    "unordered set": TraceUnorderedSet_ELBO,
    "sum and sample": TraceSumAndSample_ELBO,
}
BOUNDS = {("leave-one-out", 100): 2.0, ("leave-one-out", 1500): 1.5}
BOUNDS |= {("unordered set", batch): 1.4 for batch in (100, 1500)}
PEERS = {"leave-one-out": 1.05, "unordered set": 0.5}  # at most so many times as long as Storchastic's
CATEGORIES, PLATE = 100_000, 16


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    report = Report("steps", "Steps, ours and written by hand")
    report.text(
        f"Limits: {gemm_rate(torch.float32):.0f} GFLOP/s in a product of matrices, {copy_rate():.1f} GB/s in a copy.",
        "",
    )
    for batch in options.batches:
        autoencoder(report, batch, options.rounds)
    many_categories(report, options.rounds)
    rendering_mixture(report, options.rounds)
    if options.save:
        print(f"\nwritten to {report.save()}")


def autoencoder(report: Report, batch: int, rounds: int) -> None:
    """Report the steps of the autoencoder at one size of the batch."""
    splits = digits()
    rows = torch.arange(batch) % len(splits.train)
    plan = vae.autoencoder(splits, 20)
    bound = vae.bound(plan)
    x = splits.train.x[rows]

    def ours(elbo: ELBO, validated: bool) -> Step:
        step = vae.step(plan, elbo, (x, None, rows))

        def checked() -> None:
            with pyro.validation_enabled(validated):
                step()

        return checked

    def by_hand(name: str) -> Step:
        def step() -> None:
            bound.zero_grad(set_to_none=True)
            HAND_WRITTEN[name](bound.guide.encoder, bound.model.decoder, x, 4).backward()

        return step

    steps: dict[str, Step] = {}
    for name, make in ELBOS.items():
        for validated in (True, False):
            elbo = make(4, analytic_kl=True, max_plate_nesting=1)
            steps[f"{name}{'' if validated else ', not validated'}"] = ours(elbo, validated)
    of_pyro = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    steps["Pyro's Trace_ELBO, 4 particles"] = ours(of_pyro, True)
    steps |= {f"{name}, by hand": by_hand(name) for name in HAND_WRITTEN}
    if importlib.util.find_spec("storch"):
        from support import peer

        steps |= {f"{name}, Storchastic": peer.vae_step(plan, x, name, 4) for name in peer.METHODS}
    times = interleaved_times(steps, rounds)
    table = [[name, *_cells(time), _ratio(times, name)] for name, time in times.items()]
    report.table(f"Categorical autoencoder, batch {batch:,}", ["step", "ms", "least ms", "by hand x"], table)
    for (name, size), bound_on_ratio in BOUNDS.items():
        if size == batch:
            ratio = times[name].least / times[f"{name}, by hand"].least
            report.check(ratio <= bound_on_ratio, f"{name} at most {bound_on_ratio} x its loop: {ratio:.2f} x")
    for name in PEERS:
        if (peers := f"{name}, Storchastic") in times:
            ratio = times[name].least / times[peers].least
            report.check(ratio <= PEERS[name], f"{name} at most {PEERS[name]} x Storchastic's: {ratio:.2f} x")
    ratio = times["sum and sample"].least / times["unordered set"].least
    report.check(ratio <= 1, f"sum and sample at most as long as the unordered set: {ratio:.2f} x")
    report.text("")


def many_categories(report: Report, rounds: int) -> None:
    """Report steps at one site with many categories."""
    torch.manual_seed(0)
    logits = torch.nn.Parameter(3 * torch.randn(PLATE, CATEGORIES))
    costs, prior = torch.randn(CATEGORIES), torch.zeros(CATEGORIES)

    def model() -> None:
        with pyro.plate("rows", PLATE):
            z = pyro.sample("z", dist.Categorical(logits=prior))
            pyro.factor("cost", costs[z])

    def guide() -> None:
        with pyro.plate("rows", PLATE):
            pyro.sample("z", dist.Categorical(logits=logits))

    def step_of(elbo: ELBO) -> Step:
        def step() -> None:
            logits.grad = None
            elbo.differentiable_loss(model, guide).backward()

        return step

    numbers = (4, 8, 16, 32, 64)
    steps = {f"sum and sample, k = {k}": step_of(TraceSumAndSample_ELBO(k, max_plate_nesting=1)) for k in numbers}
    steps["leave-one-out, k = 4"] = step_of(TraceLeaveOneOut_ELBO(4, max_plate_nesting=1))
    times = interleaved_times(steps, rounds, inner=1)
    rows, before = [], math.nan
    for name, time in times.items():
        growth = math.log2(time.least / before) if before == before and name.startswith("sum") else math.nan
        rows.append([name, *_cells(time), "" if math.isnan(growth) else f"{growth:.2f}"])
        before = time.least
    header = ["step", "ms", "least ms", "exponent of k"]
    report.table(f"One site of {CATEGORIES:,} categories, a plate of {PLATE}", header, rows)
    most = times["sum and sample, k = 4"].least
    report.check(most <= 100, f"sum and sample, k = 4, at most 100 ms: {most:.0f} ms")
    growth = math.log2(times["sum and sample, k = 64"].least / times["sum and sample, k = 32"].least)
    report.check(growth <= 1.3, f"exponent of k from 32 to 64 at most 1.3: {growth:.2f}")
    report.text("")


def rendering_mixture(report: Report, rounds: int) -> None:
    """Report steps of the rendering mixture and of the plain network."""
    torch.manual_seed(0)
    part = IndexedDataset(torch.rand(300, 784), torch.arange(300) % 10)
    large = Splits("28 x 28", part, part, image_shape=(28, 28))
    cases = {
        "digits": (digits(), {}),
        "28 x 28": (large, {"architecture": "mnist_small"}),
    }
    rows = []
    for name, (data, settings) in cases.items():
        objective = build(data, **settings).players[0].objective
        x = data.train.x[:100]

        def ours(objective: torch.nn.Module = objective, x: torch.Tensor = x) -> None:
            objective.zero_grad(set_to_none=True)
            objective(x).total.backward()

        def plain(objective: torch.nn.Module = objective, x: torch.Tensor = x) -> None:
            objective.zero_grad(set_to_none=True)
            plain_total(objective, x).backward()

        torch.testing.assert_close(objective(x).total, plain_total(objective, x))
        times = interleaved_times({"ours": ours, "plain": plain}, rounds if name == "digits" else max(rounds // 5, 1))
        ratio = times["ours"].least / times["plain"].least
        rows.append([name, *_cells(times["ours"]), *_cells(times["plain"]), f"{ratio:.2f}"])
        report.check(ratio <= 1.3, f"rendering mixture, {name}: at most 1.3 x the plain network: {ratio:.2f} x")
    header = ["images", "ms", "least ms", "plain ms", "plain least ms", "ratio"]
    report.table("Rendering mixture, batch 100 and 50 labelled images, the same total loss", header, rows)


def _cells(time: StepTime) -> list[str]:
    return [f"{time.wall:.1f}", f"{time.least:.1f}"]


def _ratio(times: Mapping[str, StepTime], name: str) -> str:
    peer = f"{name.removesuffix(', not validated')}, by hand"
    return f"{times[name].least / times[peer].least:.2f}" if peer in times else ""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[100, 1500], help="sizes of the batch")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each step (default: 30)")
    parser.add_argument("--threads", type=int, default=1, help="the number of threads of PyTorch (default: 1)")
    parser.add_argument("--save", action="store_true", help="write the report into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
