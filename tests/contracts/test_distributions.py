"""Every distribution keeps one contract; a new member is one line in the list."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pyro
import pytest
import torch

from pyro_ext import distributions
from pyro_ext.distributions import (
    ExpRelaxedOneHotCategorical,
    GumbelMatching,
    GumbelRaoOneHotCategorical,
    GumbelSinkhorn,
    LogitRelaxedBernoulli,
    LogUniform,
    OneHotCategoricalReinMax,
    PermutationMatching,
    PlackettLuce,
    RelaxedBernoulli,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategorical,
    RelaxedOneHotCategoricalStraightThrough,
    RelaxedRoundingPermutation,
    RelaxedStickBreakingPermutation,
    RelaxedTopK,
    StickBreakingPermutation,
    UniformPermutation,
    UnorderedSet,
)
from pyro_ext.distributions.permutations import PermutationDistribution
from pyro_ext.distributions.testing import check_distribution

INF = math.inf
MATRICES = (GumbelSinkhorn, RelaxedRoundingPermutation, RelaxedStickBreakingPermutation)
NO_DENSITY = {"log_prob": "the distribution of relaxed values is intractable"}
NO_PROBABILITIES = {"log_prob": "the distribution of a perturbed matching is intractable"}
IMPROPER = dict.fromkeys(
    ("gradients", "score", "goodness_of_fit"), "samples are of a proper distribution, whose bounds the density ignores"
)
NO_GRADIENT = dict.fromkeys(("gradients", "score"), "all probabilities are 1 / N!")
DEPENDS_ON_K = {"infer_shapes": "the event shape is the value of k"}
SQUARE = [[0.3, -1.0, 0.7], [0.0, 0.5, -0.2], [1.0, 0.1, 0.4]]
WITH_HOLES = [[0.3, -INF, 0.7], [0.0, 0.5, -INF], [1.0, 0.1, 0.4]]


class Member(NamedTuple):
    """How to build a distribution from parameters, the parameters' values, and the reasons for checks left out."""

    build: Callable
    parameters: list
    skip: dict[str, str] = {}  # noqa: RUF012
    num_samples: int = 10_000
    coordinates: Callable | None = None


def gaussian_cells(d):
    """The matrix before it was rounded: X itself has gaps between the cells around the permutations."""
    allowed = torch.ones(d.shape()) if d.allowed is None else d.allowed
    log_volume = allowed.sum((-2, -1)) * d.temperature.log()
    return lambda x: (d.unrounded(x).flatten(-2), log_volume.expand(x.shape[:-2]))


MEMBERS = {
    "UnorderedSet": Member(lambda logits: UnorderedSet(2, logits), [[0.3, -1.0, 0.7, 0.0]]),
    "UnorderedSet, batch": Member(lambda logits: UnorderedSet(3, logits), [[[0.3, -1.0, 2.0, 0.0, 0.1]] * 3]),
    "UnorderedSet, probs": Member(lambda probs: UnorderedSet(2, probs=probs), [[0.1, 0.2, 0.3, 0.4]]),
    "UnorderedSet, a category never drawn": Member(lambda logits: UnorderedSet(2, logits), [[0.3, -INF, 0.7, 0.0]]),
    "UnorderedSet, single draw": Member(lambda logits: UnorderedSet(1, logits), [[0.3, -1.0, 0.7, 0.0]]),
    "UnorderedSet, large": Member(lambda logits: UnorderedSet(12, logits), [[0.1 * i for i in range(14)]], {}, 2000),
    "PlackettLuce": Member(lambda logits: PlackettLuce(logits), [[[0.3, -1.0, 0.7, 0.0]] * 2]),
    "PlackettLuce, leading": Member(
        lambda logits: PlackettLuce(logits, k=2), [[[0.3, -1.0, 0.7, 0.0]] * 2], DEPENDS_ON_K
    ),
    "PlackettLuce, probs": Member(lambda probs: PlackettLuce(probs=probs), [[0.1, 0.2, 0.3, 0.4]]),
    "PlackettLuce, a category never drawn": Member(
        lambda logits: PlackettLuce(logits, k=2), [[0.3, -INF, 0.7, 0.0]], DEPENDS_ON_K
    ),
    "RelaxedOneHotCategorical": Member(
        lambda t, logits: RelaxedOneHotCategorical(t, logits=logits), [0.7, [0.3, -1.0, 0.7, 0.0]]
    ),
    "RelaxedOneHotCategorical, batches": Member(
        lambda t, probs: RelaxedOneHotCategorical(t, probs), [[[0.7], [1.5]], [[0.1, 0.2, 0.7]] * 3]
    ),
    "RelaxedOneHotCategorical, an impossible category": Member(
        lambda t, logits: RelaxedOneHotCategorical(t, logits=logits), [[0.7, 1.0], [0.3, -INF, 0.7, 0.0]]
    ),
    "ExpRelaxedOneHotCategorical": Member(
        lambda t, logits: ExpRelaxedOneHotCategorical(t, logits=logits), [[0.1, 1.0], [0.3, -1.0, 0.7, 0.0]]
    ),
    "ExpRelaxedOneHotCategorical, an impossible category": Member(
        lambda t, logits: ExpRelaxedOneHotCategorical(t, logits=logits), [[0.1, 1.0], [0.3, -INF, 0.7, 0.0]]
    ),
    "RelaxedOneHotCategoricalStraightThrough": Member(
        lambda logits: RelaxedOneHotCategoricalStraightThrough(0.5, logits=logits), [[[0.3, -1.0, 0.7, 0.0]] * 2]
    ),
    "RelaxedOneHotCategoricalStraightThrough, probs": Member(
        lambda probs: RelaxedOneHotCategoricalStraightThrough(0.5, probs), [[0.2, 0.3, 0.5]]
    ),
    "RelaxedOneHotCategoricalStraightThrough, an impossible category": Member(
        lambda logits: RelaxedOneHotCategoricalStraightThrough(0.5, logits=logits), [[0.3, -INF, 0.7, 0.0]]
    ),
    "GumbelRaoOneHotCategorical": Member(
        lambda logits: GumbelRaoOneHotCategorical(0.5, logits, num_inner=5), [[[0.3, -1.0, 0.7, 0.0]] * 2]
    ),
    "GumbelRaoOneHotCategorical, an impossible category": Member(
        lambda logits: GumbelRaoOneHotCategorical(0.5, logits), [[0.3, -INF, 0.7, 0.0]]
    ),
    "OneHotCategoricalReinMax": Member(
        lambda logits: OneHotCategoricalReinMax(logits=logits), [[[0.3, -1.0, 0.7, 0.0]] * 2]
    ),
    "OneHotCategoricalReinMax, Rao-Blackwellised": Member(
        lambda probs: OneHotCategoricalReinMax(0.7, probs, variant="rao", num_inner=5), [[0.2, 0.3, 0.5]]
    ),
    "OneHotCategoricalReinMax, control variate, an impossible category": Member(
        lambda logits: OneHotCategoricalReinMax(0.5, logits=logits, variant="cv"), [[0.3, -INF, 0.7, 0.0]]
    ),
    "LogUniform": Member(LogUniform, [[0.1, 1e-3], [1.0]], IMPROPER),
    "RelaxedBernoulli": Member(
        lambda t, logits: RelaxedBernoulli(t, logits=logits), [[[0.5], [2.0]], [-1.0, 0.3, 2.0]]
    ),
    "RelaxedBernoulli, probs": Member(lambda t, probs: RelaxedBernoulli(t, probs), [0.5, [0.1, 0.8]]),
    "LogitRelaxedBernoulli": Member(
        lambda t, logits: LogitRelaxedBernoulli(t, logits=logits), [[[0.1], [2.0]], [-30.0, 0.3, 2.0]]
    ),
    "RelaxedBernoulliStraightThrough": Member(
        lambda logits: RelaxedBernoulliStraightThrough(0.5, logits=logits), [[-1.0, 0.3, 2.0]]
    ),
    "RelaxedTopK": Member(
        lambda t, logits: RelaxedTopK(2, t, logits),
        [0.5, [0.3, -1.0, 0.7, 0.0]],
        NO_DENSITY,
    ),
    "RelaxedTopK, straight-through": Member(
        lambda logits: RelaxedTopK(2, 0.5, logits, straight_through=True), [[[0.3, -1.0, 0.7, 0.0]] * 2]
    ),
    "RelaxedStickBreakingPermutation": Member(RelaxedStickBreakingPermutation, [SQUARE, 1.0, 0.9]),
    "RelaxedStickBreakingPermutation, batches": Member(
        RelaxedStickBreakingPermutation, [[SQUARE, SQUARE], [[[1.5]], [[1.0]]], [0.8, 1.0]], {}, 4000
    ),
    "RelaxedStickBreakingPermutation, two": Member(RelaxedStickBreakingPermutation, [[[0.5]], 1.0, 0.3]),
    "StickBreakingPermutation": Member(StickBreakingPermutation, [SQUARE]),
    "StickBreakingPermutation, batch": Member(StickBreakingPermutation, [[SQUARE, SQUARE]]),
    "RelaxedRoundingPermutation": Member(
        lambda loc, scale: RelaxedRoundingPermutation(loc, scale, 0.7), [SQUARE, 0.3], {}, 2000, gaussian_cells
    ),
    "RelaxedRoundingPermutation, straight-through": Member(
        lambda loc, scale: RelaxedRoundingPermutation(loc, scale, 0.7, "straight_through"),
        [SQUARE, 0.3],
        {},
        2000,
        gaussian_cells,
    ),
    "RelaxedRoundingPermutation, score function, batch": Member(
        lambda loc, scale: RelaxedRoundingPermutation(loc, scale, 0.7, "score_function"),
        [[SQUARE] * 2, 0.3],
        {},
        2000,
        gaussian_cells,
    ),
    "RelaxedRoundingPermutation, mask": Member(
        lambda loc: RelaxedRoundingPermutation(loc, 0.3, 0.7, mask=loc.detach() > -0.5),
        [SQUARE],
        {},
        2000,
        gaussian_cells,
    ),
    "GumbelSinkhorn": Member(GumbelSinkhorn, [WITH_HOLES, [0.5, 1.0]], NO_DENSITY),
    "GumbelMatching": Member(GumbelMatching, [[WITH_HOLES] * 2], NO_PROBABILITIES),
    "UniformPermutation": Member(UniformPermutation, [SQUARE], NO_GRADIENT),
    "PermutationMatching": Member(PermutationMatching, [SQUARE]),
    "PermutationMatching, batch with cells never used": Member(PermutationMatching, [[SQUARE, WITH_HOLES]]),
}


# one element only: what there is to draw is certain
SINGLE = {
    "UnorderedSet": lambda zero: UnorderedSet(1, zero),
    "PlackettLuce": PlackettLuce,
    "RelaxedOneHotCategorical": lambda zero: RelaxedOneHotCategorical(0.5, logits=zero),
    "ExpRelaxedOneHotCategorical": lambda zero: ExpRelaxedOneHotCategorical(0.5, logits=zero),
    "RelaxedOneHotCategoricalStraightThrough": lambda zero: RelaxedOneHotCategoricalStraightThrough(0.5, logits=zero),
    "GumbelRaoOneHotCategorical": lambda zero: GumbelRaoOneHotCategorical(0.5, zero),
    "OneHotCategoricalReinMax": lambda zero: OneHotCategoricalReinMax(logits=zero),
    "RelaxedTopK": lambda zero: RelaxedTopK(1, 0.5, zero),
    "RelaxedStickBreakingPermutation": lambda zero: RelaxedStickBreakingPermutation(zero.new_zeros(0, 0), 1.0, 0.5),
    "StickBreakingPermutation": lambda zero: StickBreakingPermutation(zero.new_zeros(0, 0)),
    "RelaxedRoundingPermutation": lambda zero: RelaxedRoundingPermutation(zero.unsqueeze(-1), 1e-9, 0.5),
    "GumbelSinkhorn": lambda zero: GumbelSinkhorn(zero.unsqueeze(-1), 0.5),
    "GumbelMatching": lambda zero: GumbelMatching(zero.unsqueeze(-1)),
    "PermutationMatching": lambda zero: PermutationMatching(zero.unsqueeze(-1)),
    "UniformPermutation": lambda zero: UniformPermutation(zero.unsqueeze(-1)),
}


def check(member, dtype, device):
    parameters = [torch.tensor(value, dtype=dtype, device=device, requires_grad=True) for value in member.parameters]
    d = member.build(*parameters)
    check_distribution(
        d,
        parameters=parameters,
        skip=member.skip,
        num_samples=member.num_samples,
        coordinates=member.coordinates and member.coordinates(d),
    )


@pytest.mark.parametrize("name", MEMBERS)
def test_contract(name, dtype, device):
    check(MEMBERS[name], dtype, device)


def test_every_distribution_is_here():
    packages = tuple(
        f"pyro_ext.distributions.{name}" for name in ("log", "permutations", "plackett", "relaxed", "unordered")
    )
    modules = {name: getattr(value, "__module__", "") for name, value in vars(distributions).items()}
    expected = {name for name, module in modules.items() if module.startswith(packages)} - {"kl_divergence"}
    assert {name.partition(",")[0] for name in MEMBERS} == expected


@pytest.mark.parametrize("name", {name.partition(",")[0]: None for name in MEMBERS})
def test_supports_are_known_of_the_class(name):
    """As Pyro's own classes do, without an instance, where all instances agree."""
    family = getattr(distributions, name)
    event_dim = (
        0
        if "Bernoulli" in name or name == "LogUniform"
        else 2
        if issubclass(family, (PermutationDistribution, *MATRICES))
        else 1
    )
    assert family.support.event_dim == event_dim
    if family is not RelaxedTopK:  # whose samples are k-hot or not
        assert family.support.is_discrete == (
            name in {"UnorderedSet", "PlackettLuce", "GumbelRaoOneHotCategorical", "OneHotCategoricalReinMax"}
            or "StraightThrough" in name
            or issubclass(family, PermutationDistribution)
        )


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_element(name, dtype):
    d = SINGLE[name](torch.zeros(1, dtype=dtype))
    x = d.sample((5,))
    certain = 0 if name in {"UnorderedSet", "PlackettLuce", "ExpRelaxedOneHotCategorical"} else 1
    torch.testing.assert_close(x, torch.full_like(x, certain), rtol=0, atol=1e-6)
    if d.has_enumerate_support:
        assert len(d.enumerate_support()) == 1
    try:
        log_prob = d.log_prob(x)
    except NotImplementedError:
        assert name in {"GumbelSinkhorn", "GumbelMatching"}
        return
    if name != "RelaxedRoundingPermutation":  # Gaussian noise is left
        assert (log_prob == 0).all()


@pytest.mark.gpu
@pytest.mark.parametrize("name", MEMBERS)
def test_contract_on_cuda(name, dtype):
    check(MEMBERS[name], dtype, torch.device("cuda"))


@pytest.mark.parametrize("name", [name for name in MEMBERS if "log_prob" not in MEMBERS[name].skip])
def test_as_a_site_of_a_model(name):
    member = MEMBERS[name]
    d = member.build(*(torch.tensor(value) for value in member.parameters))

    def model():
        with pyro.plate("outer", 3, dim=-1 - len(d.batch_shape)):
            return pyro.sample("x", d.to_event(0))

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (3, *d.batch_shape)
    assert torch.isfinite(trace.nodes["x"]["log_prob"]).all()
