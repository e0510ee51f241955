"""Stochastic beam search: the distribution of the sets it draws, and where the mass goes."""

import math
from itertools import product

import pytest
import torch

from pyro_ext.ops.sets import beam_step, stochastic_beam_search
from tests.ops.references import all_sets, z_scores

# two actions, then three: the second distribution depends on the first action
FIRST = torch.tensor([0.6, 0.4], dtype=torch.float64).log()
SECOND = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64).log()


def two_levels(prefix):
    if prefix.shape[-1] == 0:
        return FIRST.expand(*prefix.shape[:-1], 2)
    return SECOND[prefix[..., 0]]


def random_table(length, num_actions, batch_shape=(), dtype=torch.float64):
    """A random autoregressive distribution over sequences: a table of conditionals for each prefix."""
    tables = [torch.randn(num_actions**t, num_actions, dtype=dtype).log_softmax(-1) for t in range(length)]

    def step(prefix):
        code = torch.zeros(prefix.shape[:-1], dtype=torch.int64)
        for t in range(prefix.shape[-1]):
            code = code * num_actions + prefix[..., t]
        return tables[prefix.shape[-1]][code]

    return step


def log_prob_of(step, actions):
    total = 0
    for t in range(actions.shape[-1]):
        total = total + step(actions[..., :t]).gather(-1, actions[..., t : t + 1]).squeeze(-1)
    return total


@pytest.mark.parametrize("k", [1, 3])
def test_set_frequencies(k):
    sequences = list(product(range(2), range(3)))
    p = torch.stack([(FIRST[a] + SECOND[a, b]).exp() for a, b in sequences])
    sets, probs = all_sets(p, k)
    total = 100_000
    actions = stochastic_beam_search(two_levels, 2, k, batch_shape=(total,)).actions
    codes = (actions[..., 0] * 3 + actions[..., 1]).sort(-1).values
    counts = torch.tensor([(codes == torch.tensor(s)).all(-1).sum() for s in sets])
    assert counts.sum() == total
    assert z_scores(counts, probs, total).abs().max() < 4.5


def test_mass_is_conserved():
    step = random_table(6, 3)
    drawn = stochastic_beam_search(step, 6, 4, batch_shape=(2000,))
    total = drawn.log_prob.exp().sum(-1) + drawn.log_rest.exp()
    assert (total - 1).abs().max() < 1e-14
    torch.testing.assert_close(drawn.log_prob, log_prob_of(step, drawn.actions), rtol=1e-14, atol=1e-14)
    distinct = drawn.actions.mul(3 ** torch.arange(6)).sum(-1).sort(-1).values.diff()
    assert (distinct > 0).all()


def test_a_tiny_rest_keeps_its_digits():
    """Eight sequences, seven of them of probability e^-50 and less: one minus the rest is just one."""
    row = torch.tensor([0.0, -50.0], dtype=torch.float64)

    drawn = stochastic_beam_search(lambda prefix: row.expand(*prefix.shape[:-1], 2), 3, 1)
    assert drawn.actions.tolist() == [[0, 0, 0]]
    assert float(drawn.log_rest) == pytest.approx(math.log(3) - 50, rel=1e-12)


def test_fewer_sequences_than_asked_for():
    drawn = stochastic_beam_search(two_levels, 2, 10, batch_shape=(3,))
    assert drawn.actions.shape == (3, 6, 2)
    assert (drawn.log_rest == -math.inf).all()
    torch.testing.assert_close(drawn.log_prob.exp().sum(-1), torch.ones(3, dtype=torch.float64))


def test_impossible_children_come_last():
    dead = torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf]])

    def step(prefix):
        if prefix.shape[-1] == 0:
            return torch.tensor([0.5, 0.5]).log().expand(*prefix.shape[:-1], 2)
        return dead[prefix[..., 0]]

    drawn = stochastic_beam_search(step, 2, 3, batch_shape=(200,))
    assert not drawn.log_prob.isnan().any()
    assert (drawn.actions[:, 0] == 0).all()
    assert (drawn.log_prob[:, 1:] == -math.inf).all()
    assert (drawn.log_rest == -math.inf).all()
    assert (drawn.actions[:, :, 0] * 2 + drawn.actions[:, :, 1]).sort(-1).values.diff().min() > 0


def test_one_step_keeps_the_parents_maximum(dtype):
    """The best child of each beam inherits its perturbed value; the others stay below."""
    log_prob = torch.tensor([0.6, 0.4], dtype=dtype).log()
    perturbed = torch.tensor([1.5, 0.5], dtype=dtype)
    children = torch.randn(1000, 2, 5, dtype=dtype).log_softmax(-1)
    step = beam_step(log_prob.expand(1000, 2), perturbed.expand(1000, 2), children, 10, torch.full((1000,), -math.inf))
    best = [step.perturbed.masked_fill(step.parent != b, -math.inf).amax(-1) for b in range(2)]
    assert torch.equal(torch.stack(best, -1), perturbed.double().expand(1000, 2))
    assert step.log_prob.dtype == step.log_rest.dtype == torch.float64
    assert (step.perturbed.diff() <= 0).all()


def test_dtype_is_that_of_the_distribution(dtype):
    drawn = stochastic_beam_search(random_table(3, 4, dtype=dtype), 3, 5)
    assert drawn.log_prob.dtype == drawn.log_rest.dtype == dtype
    assert drawn.actions.dtype == torch.int64


def test_masses_are_differentiable():
    logits = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def step(prefix):
        return logits.log_softmax(-1).expand(*prefix.shape[:-1], 2)

    drawn = stochastic_beam_search(step, 3, 5)
    total = drawn.log_prob.exp().sum() + drawn.log_rest.exp()
    (grad,) = torch.autograd.grad(total, logits)
    assert grad.abs().max() < 1e-14
    (grad,) = torch.autograd.grad(stochastic_beam_search(step, 3, 8).log_prob.sum(), logits)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stochastic_beam_search(two_levels, 0, 2), "length must be an integer of at least 1, got 0"),
        (lambda: stochastic_beam_search(two_levels, 2, "3"), "k must be an integer of at least 1, got '3'"),
        (lambda: stochastic_beam_search(lambda x: torch.zeros(5, 2), 2, 3), "log_prob must have shape"),
        (lambda: stochastic_beam_search(lambda x: torch.zeros(2), 2, 3), r"batch_shape \+ \(beams, C\)"),
        (
            lambda: beam_step(torch.zeros(2), torch.zeros(2), torch.zeros(2, 3), 2, torch.zeros(2)),
            "log_rest must have shape",
        ),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
