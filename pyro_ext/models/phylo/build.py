"""The training plan of a variational phylogeny, from an alignment and files of trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import torch

from pyro_ext.datasets.alignment import AlignedSequences
from pyro_ext.inference import (
    ELBOObjective,
    Losses,
    OptimizerSettings,
    Player,
    SchedulerSettings,
    TraceVIMCO_ELBO,
    TrainingPlan,
)
from pyro_ext.models.phylo.evaluation import Evaluation
from pyro_ext.models.phylo.variational import VariationalPhylogeny
from pyro_ext.models.toolkit import linear_ramp
from pyro_ext.phylo import Alignment, SubsplitSupport, TreeSet, read_trees, reference_sample
from pyro_ext.utils.checks import number_between, one_of, positive_int

__all__ = ["AnnealedELBO", "build"]

_REMARKS = (
    "The model is trained on the likelihood to the power of an inverse temperature, which rises to 1. `train_loss` is "
    "minus that annealed bound, and `train_inverse_temperature` the inverse temperature; both are means over the steps "
    "of the epoch. All other figures are of the posterior itself, at inverse temperature 1, in nats. "
    "`lower_bound_K` is the mean bound of K samples, with its standard error; `log_evidence` the mean of {repeats} "
    "importance-sampled estimates from {samples} samples each, `log_evidence_sd` their standard deviation."
)
_GOLDEN = (
    " `kl` is the divergence of the network from the reference sample of topologies, where topologies that the network "
    "cannot generate count as having probability 2.2e-16; `golden_in_support` is the share of the sample that it can "
    "generate."
)


class AnnealedELBO(ELBOObjective):
    r"""Minus the bound of an annealed model, with its inverse temperature among the terms.

    .. math::  -\mathbb{E} \left[ \log \frac1K \sum_k \frac{p(D \mid \tau_k, b_k)^\beta \, p(\tau_k, b_k)}
        {q(\tau_k, b_k)} \right]

    for the ELBO of the publication; with another ELBO it is that one's bound.

    Args:
        model: a PyroModule with a buffer ``inverse_temperature``, such as
            :class:`~pyro_ext.models.phylo.TopologyModel`.
        guide: the guide, called like the model.
        elbo: any ELBO of Pyro or of this package that has ``differentiable_loss``.
        size: the number N of data points by which the bound is divided; an alignment is one.

    References:
        | Variational Bayesian phylogenetic inference (Zhang and Matsen, 2019), section 4.1
        | https://openreview.net/forum?id=SJVmjjR9FX

    Example:
        >>> alignment = Alignment.from_sequences({"a": "ACGT", "b": "ACGA", "c": "AGGA", "d": "AGGT"})
        >>> support = SubsplitSupport.from_trees(torch.tensor([[-1, 4, 5, 5, 0, 4]]), taxa=alignment.taxa)
        >>> phylogeny = VariationalPhylogeny(alignment, support)
        >>> objective = AnnealedELBO(phylogeny.model, phylogeny.guide, TraceVIMCO_ELBO(10, 0, vectorize_particles=True))
        >>> objective().terms
        {'inverse_temperature': tensor(1., dtype=torch.float64)}
    """

    def forward(self, *batch: Any) -> Losses:
        """Return minus the bound, and the inverse temperature at which it was computed."""
        losses = super().forward(*batch)
        return Losses(losses.total, {"inverse_temperature": self.model.inverse_temperature.clone()})


def build(
    data: AlignedSequences,
    trees: list[str],
    num_particles: int = 10,
    annealing_steps: int = 100_000,
    annealing_start: float = 0.001,
    branch_rate: float = 10.0,
    golden: list[str] | None = None,
    unroot: bool = False,
    burnin: float = 0,
    thin: int = 1,
    polytomies: Literal["refuse", "random", "zero_length", "all", "skip"] = "refuse",
    dtype: Literal["float32", "float64"] = "float32",
    evaluation_samples: int = 1000,
    evaluation_repeats: int = 10,
    evaluation_seed: int = 0,
) -> TrainingPlan:
    r"""Build the posterior of trees of an alignment under JC69, the only model of substitution so far, and its guide.

    Its ELBO is ``TraceVIMCO_ELBO`` of ``num_particles`` particles; ``with_elbo`` of the plan takes another one, such as
    ``TraceUnorderedSet_ELBO`` over topologies. The optimiser is the published one: Adam with a learning rate of 0.001
    that is multiplied by 0.75 every 20,000 steps, for 200 epochs of 1,000 steps. After t steps the likelihood has the
    power :math:`\min(1, \mathrm{annealing\_start} + t / \mathrm{annealing\_steps})`.

    Args:
        data: an alignment, as the data set ``alignment`` loads it.
        trees: files of trees whose subsplits make up the support, from short runs of a sampler or from bootstraps:
            Newick or NEXUS (``.trprobs``, ``.t``, ``.trees``), plain or ``.gz``, or ``.npz`` files of subsplits or
            networks. Also written ``--trees FILE FILE``.
        num_particles: the number of particles of the multi-sample bound; another ELBO does not use it.
        annealing_steps: the number of steps until the likelihood has its full weight; 0 for full weight from the
            first step.
        annealing_start: the power of the likelihood at the first step, in (0, 1].
        branch_rate: the rate of the exponential prior of each branch length, from 1e-6 to 1e9.
        golden: files of a reference sample of topologies to compare the network with; all files have equal weight.
            Also written ``--golden FILE FILE``.
        unroot: whether to forget the roots of rooted trees.
        burnin: how many trees to leave out at the beginning of each file of trees or reference sample: a share below 1,
            or a number of trees.
        thin: of the trees that remain in a file, every which one is read.
        polytomies: what becomes of trees with multifurcations: they are refused, resolved at random, in the same
            way always or in all ways, or skipped.
        dtype: the type of parameters and likelihoods.
        evaluation_samples: the number of importance samples in each estimate of the evidence, a multiple of 10.
        evaluation_repeats: the number of estimates of the evidence at each evaluation, at least 2.
        evaluation_seed: the seed of the draws of the evaluation.

    Raises:
        ValueError: if the data are no alignment, a file is wrong, its taxa differ from the alignment's, its trees are
            rooted, or an option is out of range.
    """
    if not isinstance(data, AlignedSequences):
        raise ValueError(f"data must be an alignment, got {getattr(data, 'name', data)!r}; load it by 'alignment'")
    one_of("dtype", dtype, ("float32", "float64"))
    number_between("annealing_start", annealing_start, 0, 1, "(]")
    ramp = linear_ramp(annealing_start, positive_int("annealing_steps", annealing_steps, minimum=0))
    elbo = TraceVIMCO_ELBO(num_particles, max_plate_nesting=0, vectorize_particles=True)
    sequences = data.alignment.to(dtype=getattr(torch, dtype))
    reading = {"rooted": False if unroot else None, "burnin": burnin, "thin": thin, "polytomies": polytomies}
    reference = None if golden is None else _read_golden(golden, sequences, reading)
    phylogeny = VariationalPhylogeny(sequences, _read_support(trees, sequences, reading), branch_rate=branch_rate)
    evaluation = Evaluation(phylogeny, evaluation_samples, evaluation_repeats, evaluation_seed, reference)
    objective = AnnealedELBO(phylogeny.model, phylogeny.guide, elbo)

    def anneal(step: int) -> None:
        phylogeny.model.inverse_temperature.fill_(ramp(step))

    anneal(0)
    plots = {"topologies": evaluation.plot_topologies, "branch_lengths": evaluation.plot_branch_lengths}
    curves: dict[str, tuple[str, ...]] = {"bounds": ("lower_bound_1", "lower_bound_10", "log_evidence")}
    remarks = _REMARKS.format(repeats=evaluation_repeats, samples=evaluation_samples)
    if golden:
        plots["golden"] = evaluation.plot_golden
        curves["kl"] = ("kl",)
        remarks += _GOLDEN
    return TrainingPlan(
        [Player("model", objective, optimizer=_published_optimizer())],
        evaluate=evaluation.metrics,
        # Not log_evidence: importance sampling corrects for the guide, so that its estimate hardly changes any more
        # once the guide is a fair approximation, and it is noisier. The bound of 10 samples goes on rising with the
        # quality of the guide, and its standard error is small.
        headline="lower_bound_10",
        headline_mode="max",
        plots=plots,
        curves=curves,
        files={"network.npz": evaluation.write_network, "topologies.nex": evaluation.write_topologies},
        schedules=[anneal],
        remarks=remarks,
    )


def _published_optimizer() -> OptimizerSettings:
    decay = SchedulerSettings("StepLR", interval="step", step_size=20_000, gamma=0.75)
    return OptimizerSettings("Adam", lr=1e-3, scheduler=decay)


def _read_support(paths: Sequence[str | Path], alignment: Alignment, reading: Mapping[str, Any]) -> SubsplitSupport:
    """Collect the subsplits of the unrooted trees in files.

    Args:
        paths: files of trees in Newick or NEXUS, of subsplits or networks (``.npz``), or of several of these kinds.
        alignment: the sequences, whose taxa the trees must have.
        reading: options of :func:`~pyro_ext.phylo.read_trees`.

    Raises:
        ValueError: if there are no files, one does not exist or is wrong, its trees are rooted, or it has other taxa.
    """
    _check_files("trees", paths)
    stored = [path for path in paths if Path(path).suffix == ".npz"]
    supports = [SubsplitSupport.load(path) for path in stored]
    for path, support in zip(stored, supports, strict=True):
        _check_trees("trees", path, support.taxa, support.rooted, alignment)
        if not support.sisters:
            raise ValueError(f"trees: {str(path)!r} holds splits of clades, not subsplits; name a network or its trees")
    written = [path for path in paths if path not in stored]
    if written:
        trees = read_trees(*written, branch_lengths=False, **reading)
        _check_trees("trees", written[0], trees.taxa, trees.rooted, alignment)
        supports.append(SubsplitSupport.from_trees(trees))
    return reduce(SubsplitSupport.union, supports)


def _read_golden(paths: Sequence[str | Path], alignment: Alignment, reading: Mapping[str, Any]) -> TreeSet:
    """Read a reference sample of unrooted trees from files of equal weight; raise ValueErrors like _read_support."""
    _check_files("golden", paths)
    trees = reference_sample(*paths, **reading)
    _check_trees("golden", paths[0], trees.taxa, trees.rooted, alignment)
    return trees


def _check_files(name: str, paths: Sequence[str | Path]) -> None:
    if isinstance(paths, str) or not paths:
        raise ValueError(f"{name} must be a list of one or more files of trees, got {paths!r}")
    for path in paths:
        if not Path(path).is_file():
            raise ValueError(f"{name}: there is no file {str(path)!r}")


def _check_trees(name: str, path: str | Path, taxa: Sequence[str], rooted: bool, alignment: Alignment) -> None:
    if rooted:
        raise ValueError(
            f"{name}: the trees in {str(path)!r} are rooted, those of the model are not; forget the roots with "
            "unroot=True (--model.unroot true)"
        )
    different = sorted({*taxa} ^ {*alignment.taxa})
    if different:
        raise ValueError(
            f"{name}: {str(path)!r} and the alignment must have the same taxa; only one of them has "
            f"{', '.join(different[:5])}"
        )
