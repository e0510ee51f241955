"""A variational phylogeny for the fit engine and the command line."""

from __future__ import annotations

from typing import Literal

import pyro
import torch

from pyro_ext.datasets.alignment import AlignedSequences
from pyro_ext.inference.fit.built import Built
from pyro_ext.models.phylo.annealing import Annealing
from pyro_ext.models.phylo.assessment import Assessment
from pyro_ext.models.phylo.files import read_golden, read_support
from pyro_ext.models.phylo.pictures import pictures
from pyro_ext.models.phylo.variational import VariationalPhylogeny

__all__ = ["build"]

_REMARKS = (
    "The model is trained on the likelihood to the power of an inverse temperature, which rises to 1: `train_loss` is "
    "minus that annealed bound, at the rising `inverse_temperature` whose value at the end of the epoch is in the "
    "table. All other figures are of the posterior itself, at inverse temperature 1, in nats. `lower_bound_K` is the "
    "mean bound of K samples, with its standard error; `log_evidence` the mean of {repeats} importance-sampled "
    "estimates from {samples} samples each, `log_evidence_sd` their standard deviation."
)
_GOLDEN = (
    " `kl` is the divergence of the network from the reference sample of topologies, of whose weight the share "
    "`golden_in_support` is within reach; what is not counts as having probability 2.2e-16."
)


def build(
    data: AlignedSequences,
    trees: list[str],
    num_particles: int = 10,
    annealing_steps: int = 100_000,
    annealing_start: float = 0.001,
    branch_rate: float = 10.0,
    golden: list[str] | None = None,
    unroot: bool = False,
    dtype: Literal["float32", "float64"] = "float32",
    evaluation_samples: int = 1000,
    evaluation_repeats: int = 10,
    evaluation_seed: int = 0,
) -> Built:
    """Build the posterior of trees of an alignment under JC69, the only model of substitution so far, and its guide.

    Its ELBO is ``TraceVIMCO_ELBO`` of ``num_particles``; to use another one, such as ``TraceUnorderedSet_ELBO`` over
    topologies, set the ``elbo`` of what is returned. The published recipe is 200 epochs of 1,000 steps of Adam at a
    learning rate of 0.001 that falls by a quarter every 20,000 steps; the command line has it as its default.

    Args:
        data: an alignment.
        trees: files whose trees have all the subsplits that topologies may be made of, from short runs of a sampler or
            from bootstraps: Newick or NEXUS (``.trprobs``, ``.t``, ``.trees``), also ``.gz``, or ``.npz`` files of
            subsplits or networks. Also written ``--trees FILE FILE``.
        num_particles: of the multi-sample bound; without effect on another ELBO.
        annealing_steps: steps until the likelihood has its full weight; 0: from the beginning.
        annealing_start: the power of the likelihood at the first step.
        branch_rate: the rate of the exponential prior of each branch length, 1e-6 to 1e9.
        golden: files of a reference sample of topologies, of equal weight, to compare the network with. Also written
            ``--golden FILE FILE``.
        unroot: whether to forget the roots of rooted trees.
        dtype: of parameters and likelihoods.
        evaluation_samples: importance samples to an estimate of the evidence.
        evaluation_repeats: how many such estimates at each evaluation.
        evaluation_seed: the seed of those draws.

    Raises:
        ValueError: if the data are no alignment, a file is wrong, its taxa differ from the alignment's, its trees are
            rooted, or an option is out of range.
    """
    from pyro_ext.inference import TraceVIMCO_ELBO

    if not isinstance(data, AlignedSequences):
        raise ValueError(f"data must be an alignment, got {getattr(data, 'name', data)!r}; load it by 'alignment'")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
    elbo = TraceVIMCO_ELBO(num_particles, max_plate_nesting=0)
    sequences = data.alignment.to(dtype=getattr(torch, dtype))
    reference = None if golden is None else read_golden(golden, sequences, unroot)
    # Modules made under local parameters serve engines that use them and users who do not.
    with pyro.settings.context(module_local_params=True):
        phylogeny = VariationalPhylogeny(sequences, read_support(trees, sequences, unroot), branch_rate=branch_rate)
    annealing = Annealing(phylogeny.model, annealing_start, annealing_steps)
    annealing(0)
    found = Assessment(phylogeny, evaluation_samples, evaluation_repeats, evaluation_seed, reference)
    remarks = _REMARKS.format(repeats=evaluation_repeats, samples=evaluation_samples)
    return Built(
        model=phylogeny.model,
        guide=phylogeny.guide,
        elbo=elbo,
        evaluate=found.metrics,
        plots=pictures(found),
        schedules=[annealing],
        curves={"bounds": ("lower_bound_1", "lower_bound_10", "log_evidence")} | ({"kl": ("kl",)} if golden else {}),
        files={"network.npz": found.write_network, "topologies.nex": found.write_trees},
        remarks=remarks + (_GOLDEN if golden else ""),
    )
