"""An alignment of sequences that evolved along a tree, as an observed distribution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import one_hot

from pyro_ext.ops.pruning import ancestral_marginals, log_likelihoods, site_log_likelihoods
from pyro_ext.phylo.rates import ConstantRate, SiteModel
from pyro_ext.phylo.substitution import JC69, SubstitutionModel
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["TreeLikelihood"]


class TreeLikelihood(TorchDistribution):
    r"""Sites of an alignment, independent given a tree along whose edges states are substituted.

    .. math::  \log p(D \mid \tau, b) = \sum_s w_s \log \sum_k q_k \, p(D_s \mid \tau, r_k b),

    with weights w of the patterns and rates r_k of probability q_k. A value holds the likelihood of each state at each
    leaf, ``(n, S, 4)`` in the order A C G T, as ``Alignment.patterns`` does: one-hot where the state is known, ones
    where nothing is. Batch elements may be different trees; all are evaluated in one traversal. Samples are one-hot.

    Args:
        tree: canonical trees of n taxa, int64 ``batch_shape + (2n - 2,)`` unrooted, or ``(2n - 1,)`` rooted.
        branch_lengths: expected substitutions per site above every node but the root, ``batch_shape + (E,)``.
        substitution_model: the substitution process along an edge; JC69 if None.
        site_model: how rates vary over sites; all sites have rate 1 if None.
        weights: how often each pattern occurs, ``(S,)``; each once if None.
        num_sites: the number S of sites, for sampling without weights; 1 if None.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if a branch length is negative or not finite, or shapes disagree.

    References:
        | Evolutionary trees from DNA sequences: a maximum likelihood approach (Felsenstein, 1981)
        | https://doi.org/10.1007/BF01734359

    >>> tree = torch.tensor([-1, 3, 3, 0])  # three taxa
    >>> d = TreeLikelihood(tree, torch.tensor([0.1, 0.1, 0.3]))
    >>> d.log_prob(torch.eye(4)[torch.tensor([[0, 0], [0, 1], [0, 1]])])  # sites AAA and ACC
    tensor(-5.9322)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "branch_lengths": constraints.independent(constraints.nonnegative, 1),
    }
    support = constraints.independent(constraints.nonnegative, 3)
    """Likelihoods of states, not negative, ``(n, S, 4)``."""

    has_rsample = False

    def __init__(
        self,
        tree: Tensor,
        branch_lengths: Tensor,
        substitution_model: SubstitutionModel | None = None,
        site_model: SiteModel | None = None,
        weights: Tensor | None = None,
        num_sites: int | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if self._validate_args if validate_args is None else validate_args:
            _check(tree, branch_lengths, weights, num_sites)
        self.substitution_model = JC69(branch_lengths) if substitution_model is None else substitution_model
        self.site_model = ConstantRate() if site_model is None else site_model
        self._mixture = self.site_model.mixture(branch_lengths)
        self.weights = weights
        batch_shape = broadcast_shapes(
            tree.shape[:-1],
            branch_lengths.shape[:-1],
            self.substitution_model.frequencies.shape[:-1],
            self._mixture.rates.shape[:-1],
        )
        self.tree = tree.expand(*batch_shape, tree.shape[-1])
        self.branch_lengths = branch_lengths.expand(*batch_shape, branch_lengths.shape[-1])
        size = num_sites if weights is None else len(weights)
        self._any_size = size is None
        event_shape = (tree.shape[-1] // 2 + 1, size or 1, self.substitution_model.frequencies.shape[-1])
        super().__init__(batch_shape, torch.Size(event_shape), validate_args=validate_args)

    @classmethod
    def infer_shapes(cls, **arg_shapes: Sequence[int]) -> tuple[torch.Size, torch.Size]:
        """Raise a NotImplementedError: shapes of parameters do not tell the number of sites."""
        raise NotImplementedError("the event shape of a TreeLikelihood follows from its taxa and its number of sites")

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same distribution with its parameters broadcast to ``batch_shape``."""
        new = self._get_checked_instance(TreeLikelihood, _instance)
        batch_shape = torch.Size(batch_shape)
        new.substitution_model, new.site_model, new._mixture = self.substitution_model, self.site_model, self._mixture
        new.weights, new._any_size = self.weights, self._any_size
        new.tree = self.tree.expand(*batch_shape, -1)
        new.branch_lengths = self.branch_lengths.expand(*batch_shape, -1)
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-likelihood of alignments ``(..., n, S, 4)``, the sum over patterns by weight.

        Any number S of patterns is taken where neither ``weights`` nor ``num_sites`` was given. Several alignments of
        one tree are evaluated at once; alignments of their own for different trees, tree after tree.
        """
        if value.dim() == 3:
            self._check_value(value)
            log_probs = self._mixture.log_probs
            return log_likelihoods(*self._arguments(), value, self.weights, category_log_probs=log_probs)
        sites = self.site_log_prob(value)
        return (sites if self.weights is None else sites * self.weights).sum(-1)

    def site_log_prob(self, value: Tensor, differentiable_twice: bool = False) -> Tensor:
        """Return the log-likelihood of each pattern, not weighted, ``(..., S)``.

        Args:
            value: alignments ``(..., n, S, 4)``.
            differentiable_twice: as in :func:`~pyro_ext.ops.pruning.site_log_likelihoods`.
        """
        self._check_value(value)
        if value.dim() == 3:
            return site_log_likelihoods(
                *self._arguments(),
                value,
                category_log_probs=self._mixture.log_probs,
                differentiable_twice=differentiable_twice,
            )
        shape = broadcast_shapes(value.shape[:-3], self.batch_shape)
        own = shape[len(shape) - len(self.batch_shape) :]
        values = value.expand(*shape, *value.shape[-3:]).reshape(-1, own.numel(), *value.shape[-3:])
        expanded = self.expand(own)
        elements = enumerate(product(*map(range, own)))
        sites = [expanded._sites_of(index, values[:, k], differentiable_twice) for k, index in elements]
        return torch.stack(sites, 1).reshape(*shape, -1)

    def category_matrices(self) -> Tensor:
        """Return the transition matrices of every category and edge, ``batch_shape + (C, E, 4, 4)``."""
        times = self._mixture.rates.unsqueeze(-1) * self.branch_lengths.unsqueeze(-2)
        matrices = self.substitution_model.transition_matrices(times.flatten(-2))
        return matrices.unflatten(-3, times.shape[-2:])

    def ancestral_marginals(self, value: Tensor) -> Tensor:
        """Return the posterior probability of every state at every internal node, ``batch_shape + (I, S, 4)``.

        They are zeros where a site is impossible.

        Args:
            value: one alignment, ``(n, S, 4)``.
        """
        arguments = (*self._arguments(), value)
        log_joint = self._mixture.log_probs.unsqueeze(-1) + site_log_likelihoods(*arguments)
        weight = log_joint.detach().softmax(-2).nan_to_num(0)
        return (ancestral_marginals(*arguments) * weight[..., None, :, None]).sum(-4)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Simulate alignments, one-hot ``sample_shape + batch_shape + (n, S, 4)``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        num_taxa, num_sites, num_states = self.event_shape
        log_probs = self._mixture.log_probs.expand(*shape, -1)
        category = torch.distributions.Categorical(logits=log_probs, validate_args=False).sample((num_sites,))
        category = category.movedim(0, -1)
        matrices = self.category_matrices().expand(*shape, -1, -1, -1, -1)
        parents = self.tree.expand(*shape, -1)
        root = num_taxa if parents.shape[-1] % 2 else 0
        states = parents.new_zeros((*shape, parents.shape[-1], num_sites))
        frequencies = self.substitution_model.frequencies.expand(*shape, num_states)
        states[..., root, :] = _categorical(frequencies.unsqueeze(-2).expand(*shape, num_sites, num_states))
        # parents come before their children in this order
        internal = [i for i in range(num_taxa, parents.shape[-1]) if i != root]
        for node in [*internal, *(i for i in range(num_taxa) if i != root)]:
            above = parents[..., node, None, None].expand(*shape, 1, num_sites)
            start = states.gather(-2, above).squeeze(-2)
            edge = matrices[..., node - (node > root), :, :].flatten(-3, -2)
            rows = (category * num_states + start).unsqueeze(-1).expand(*shape, num_sites, num_states)
            states[..., node, :] = _categorical(edge.gather(-2, rows))
        return one_hot(states[..., :num_taxa, :], num_states).to(self.branch_lengths.dtype)

    def _sites_of(self, index: tuple[int, ...], values: Tensor, differentiable_twice: bool) -> Tensor:
        """Return the log-likelihoods ``(M, S)`` of alignments ``(M, n, S, 4)``, side by side, for one batch element."""
        tree, matrices, frequencies = self._arguments()
        element = (
            tree[index],
            matrices[index],
            frequencies.expand(*self.batch_shape, *frequencies.shape[-2:])[index],
            values.movedim(0, 1).flatten(1, 2),
        )
        log_probs = self._mixture.log_probs
        log_probs = log_probs.expand(*self.batch_shape, log_probs.shape[-1])[index]
        sites = site_log_likelihoods(*element, category_log_probs=log_probs, differentiable_twice=differentiable_twice)
        return sites.view(len(values), -1)

    def _arguments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return trees, transition matrices and frequencies with a dim for the categories."""
        return self.tree.unsqueeze(-2), self.category_matrices(), self.substitution_model.frequencies.unsqueeze(-2)

    def _check_value(self, value: Tensor) -> None:
        num_taxa, num_sites, num_states = self.event_shape
        shape = value.shape[-3:]
        if (
            len(shape) != 3
            or (shape[0], shape[2]) != (num_taxa, num_states)
            or not (self._any_size or shape[1] == num_sites)
        ):
            sites = "S" if self._any_size else num_sites
            raise ValueError(
                f"value must have shape (..., {num_taxa}, {sites}, {num_states}), taxa, sites and states, "
                f"got {tuple(value.shape)}"
            )
        if self._validate_args:
            wrong = ~(value >= 0) | value.isinf()
            if wrong.any():
                raise ValueError(
                    f"value must hold likelihoods of states, finite and not negative, got {value[wrong][0]:g}"
                )

    def __repr__(self) -> str:
        return (
            f"TreeLikelihood(batch_shape: {tuple(self.batch_shape)}, n={self.event_shape[0]}, "
            f"{self.substitution_model!r}, {self.site_model!r})"
        )


def _categorical(probs: Tensor) -> Tensor:
    return torch.distributions.Categorical(probs=probs.clamp_min(0), validate_args=False).sample()


def _check(tree: Tensor, branch_lengths: Tensor, weights: Tensor | None, num_sites: int | None) -> None:
    if tree.dim() < 1 or tree.dtype != torch.int64 or tree.shape[-1] < 2:
        raise ValueError(
            f"tree must be int64 batch_shape + (2n - 2,) or (2n - 1,), got {tree.dtype} {tuple(tree.shape)}"
        )
    num_edges = tree.shape[-1] - 1
    if branch_lengths.dim() < 1 or branch_lengths.shape[-1] != num_edges:
        raise ValueError(
            f"branch_lengths must have shape batch_shape + ({num_edges},), one for each edge of the tree, "
            f"got {tuple(branch_lengths.shape)}"
        )
    lengths = branch_lengths.detach()
    wrong = ~(lengths >= 0) | lengths.isinf()
    if wrong.any():
        raise ValueError(f"branch_lengths must be finite and not negative, got {lengths[wrong][0]:g}")
    if weights is not None:
        if weights.dim() != 1 or not bool((weights >= 0).all()):
            raise ValueError(f"weights must be (S,) and not negative, got shape {tuple(weights.shape)}")
        if num_sites is not None:
            raise ValueError(f"give weights or num_sites={num_sites}, not both")
