"""Noise elimination: its cost against brute force, its program under several ELBOs, and what denoising returns."""

import copy
import itertools
import math

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceGraph_ELBO

from pyro_ext.datasets import IndexedDataset, Splits, load
from pyro_ext.inference import TraceLeaveOneOut_ELBO, TraceUnorderedBeam_ELBO, local_params
from pyro_ext.models.toolkit.baseline import LearnedBaselineObjective
from pyro_ext.models.tumour.elimination import (
    Critic,
    FlipPolicy,
    Guide,
    Model,
    build,
    denoise,
    draw_flips,
    flip_changes,
    greedy_search,
    matrix_cost,
    observe,
    prefix_costs,
)
from pyro_ext.models.tumour.elimination.evaluation import diagnose, elimination_metrics
from pyro_ext.models.tumour.elimination.policy import entry_rows
from pyro_ext.ops.mutations import count_conflicts, gamete_product, is_conflict_free

ALPHA, BETA, GAMMA = 0.01, 0.2, 0.04
CONFLICT = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1]], dtype=torch.int8)
SMALL = {"width": 8, "num_heads": 2}


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def rates(dtype=torch.float64):
    return torch.tensor(ALPHA, dtype=dtype), torch.tensor(BETA, dtype=dtype)


def loglikelihood(observed, true):
    """Entry by entry, as in the definition of the two rates."""
    table = {(0, 0): 1 - ALPHA, (1, 0): ALPHA, (0, 1): BETA, (1, 1): 1 - BETA, (3, 0): 1.0, (3, 1): 1.0}
    return sum(math.log(table[pair]) for pair in zip(observed.flatten().tolist(), true.flatten().tolist(), strict=True))


def conflicts(matrix):
    """Count triples of cells and ordered pairs of columns, by loops."""
    total = 0
    for p, q in itertools.permutations(range(len(matrix[0])), 2):
        gametes = [(row[p], row[q]) for row in matrix]
        total += gametes.count((1, 1)) * gametes.count((1, 0)) * gametes.count((0, 1))
    return total


def every_3x3():
    return ((torch.arange(512).unsqueeze(-1) >> torch.arange(9)) & 1).to(torch.int8).view(-1, 3, 3)


@pytest.mark.parametrize("row", [100, 341])
def test_cost_is_that_of_brute_force(row):
    every = every_3x3()
    observed = every[row].clone()
    observed[1, 1] = 3
    expected = [GAMMA * -loglikelihood(observed, a) + conflicts(a.tolist()) for a in every]
    costs = matrix_cost(every.double(), observe(observed, *rates()), GAMMA)
    torch.testing.assert_close(costs, torch.tensor(expected, dtype=torch.float64))


def test_a_conflicting_matrix_costs_more_than_its_likelihood():
    seen = observe(CONFLICT, *rates())
    assert matrix_cost(CONFLICT.double(), seen, GAMMA) >= 2
    assert matrix_cost(CONFLICT.double(), seen, 0.0) == conflicts(CONFLICT.tolist())


def test_gamma_is_the_weight_of_a_nat():
    every = every_3x3()
    seen = observe(every[341], *rates())
    free = every[is_conflict_free(every)].double()
    small, large = (matrix_cost(free, seen, gamma) for gamma in (0.04, 0.08))
    torch.testing.assert_close(2 * small, large)
    changed = observe(every[341], rates()[0], 2 * rates()[1])  # the rate of false negatives is no weight
    nats = matrix_cost(free, changed, 1.0)
    torch.testing.assert_close(matrix_cost(free, changed, GAMMA), GAMMA * nats)


def test_unflipped_zeros_are_true_negatives():
    seen = observe(torch.zeros(3, 3), *rates())
    assert seen.start.item() == pytest.approx(-9 * math.log(1 - ALPHA))
    seen = observe(torch.ones(3, 3), *rates())
    assert seen.start.item() == pytest.approx(-9 * math.log(1 - BETA))


def test_missing_entries_and_padding_cost_nothing():
    x = torch.tensor([[1, 3, -1], [0, 3, -1], [-1, -1, -1]])
    seen = observe(x, *rates())
    assert seen.start.item() == pytest.approx(-math.log(1 - ALPHA) - math.log(1 - BETA))
    assert (seen.changes[x >= 1] == 0).sum() == 2
    assert (seen.changes[x < 0] == 0).all()
    assert seen.rates[0, 1] == 0.5
    assert seen.present.sum() == 4


def test_prefix_costs_are_those_of_the_matrices_flipped(dtype):
    x = torch.randint(2, (5, 4, 3))
    seen = observe(x, *rates(dtype))
    positions = torch.rand(2, 5, 12).argsort(-1)[..., :6]
    costs = prefix_costs(positions, seen, GAMMA)
    assert costs.shape == (2, 5, 7)
    assert costs.dtype == dtype
    for i in range(7):
        flips = torch.zeros(2, 5, 12, dtype=torch.long).scatter(-1, positions[..., :i], 1).view(2, 5, 4, 3)
        torch.testing.assert_close(costs[..., i], matrix_cost((x - flips).abs().to(dtype), seen, GAMMA))
    again = torch.cat([positions, positions[..., :1]], -1)
    torch.testing.assert_close(prefix_costs(again, seen, GAMMA)[..., -1], costs[..., -1])


def test_flip_changes_are_differences(dtype):
    matrix = torch.randint(2, (20, 5, 4)).to(dtype)
    graded, pairs, involved = flip_changes(matrix)
    for i, j in itertools.product(range(5), range(4)):
        flipped = matrix.clone()
        flipped[:, i, j] = 1 - flipped[:, i, j]
        assert torch.equal(graded[:, i, j], 2 * (gamete_product(flipped) - gamete_product(matrix)))
        assert torch.equal(pairs[:, i, j], (count_conflicts(flipped) - count_conflicts(matrix)).to(dtype))
    assert torch.equal(involved.sum((-2, -1)), 6 * gamete_product(matrix))


def programs(x, num_flips=3, **options):
    policy = FlipPolicy(ALPHA, BETA, GAMMA, **{**SMALL, **options})
    return Model(len(x), ALPHA, BETA, num_flips, GAMMA, 0.5), Guide(len(x), policy, num_flips)


@pytest.mark.parametrize("state", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_all_elbos_estimate_the_same_bound(state):
    """Two flips of a 3 x 3 matrix, 72 sequences that are summed up; tolerance: 4 standard errors, s.d. measured."""
    x = CONFLICT[None]
    model, guide = (module.double() for module in programs(x, 2, state=state))
    truth = TraceUnorderedBeam_ELBO(72, max_plate_nesting=1).differentiable_loss(model, guide, x)
    truth.backward()
    assert guide.policy.decoder.scores[1].weight.grad.abs().sum() > 0
    draws = {
        Trace_ELBO(100, max_plate_nesting=1, vectorize_particles=True): 100,
        TraceGraph_ELBO(8, max_plate_nesting=1): 8,
        TraceUnorderedBeam_ELBO(4, num_particles=4, max_plate_nesting=1): 4,
        TraceLeaveOneOut_ELBO(8, vectorize_samples=False, max_plate_nesting=1): 8,
    }
    single = Trace_ELBO(max_plate_nesting=1)
    deviation = torch.tensor([single.loss(model, guide, x) for _ in range(15)]).std().item()
    for elbo, number in draws.items():
        assert elbo.loss(model, guide, x) == pytest.approx(truth.item(), abs=4 * deviation / math.sqrt(number))


def test_a_critic_trains_the_same_programs():
    x = CONFLICT[None]
    model, guide = programs(x, 2)
    objective = LearnedBaselineObjective(model, guide, Critic(ALPHA, BETA, **SMALL))
    total, terms = objective(x)
    total.backward()
    assert terms["baseline_error"] > 0
    assert all(p.grad is not None for p in objective.parameters())


def test_the_guide_draws_each_entry_once_and_repeats_with_its_seed(dtype):
    x = CONFLICT.expand(2, 3, 3)
    _, guide = (module.to(dtype) for module in programs(x, 9))
    pyro.set_rng_seed(1)
    positions = guide(x)
    assert (positions.sort(-1).values == torch.arange(9)).all()
    pyro.set_rng_seed(1)
    assert torch.equal(positions, guide(x))


def test_a_beam_encodes_a_batch_once_and_keeps_nothing():
    x = CONFLICT.expand(2, 3, 3)
    model, guide = programs(x)
    calls = []
    guide.policy.encoder.register_forward_hook(lambda *_: calls.append(1))
    elbo = TraceUnorderedBeam_ELBO(4, max_plate_nesting=1)
    for _ in range(2):
        elbo.differentiable_loss(model, guide, x).backward()
    assert len(calls) == 2
    assert guide.policy.remembered._items is None
    copy.deepcopy(guide)


def test_the_order_of_rows_says_nothing():
    """Rows of A'' may come in any order: attention and pointer treat them as a set."""
    policy = FlipPolicy(ALPHA, BETA, GAMMA, **SMALL, num_blocks=2, state=False).eval()
    observed = observe(CONFLICT[None], policy.false_positive, policy.false_negative)
    rows, order = entry_rows(observed), torch.randperm(9)
    assert rows.shape == (1, 9, 4)
    _, logits = policy.decoder.step(policy.decoder.start(policy.encoder(rows)))
    _, shuffled = policy.decoder.step(policy.decoder.start(policy.encoder(rows[:, order])))
    torch.testing.assert_close(logits[:, order], shuffled)


def test_rows_are_cell_mutation_rate_and_value():
    x = torch.tensor([[[1, 0], [3, 1], [0, 0]]])
    rows = entry_rows(observe(x, *rates()))[0]
    torch.testing.assert_close(rows[:, 0], torch.tensor([0, 0, 0.5, 0.5, 1, 1], dtype=torch.float64))
    torch.testing.assert_close(rows[:, 1], torch.tensor([0.0, 1, 0, 1, 0, 1], dtype=torch.float64))
    torch.testing.assert_close(rows[:, 2], torch.tensor([ALPHA, BETA, 0.5, ALPHA, BETA, BETA], dtype=torch.float64))
    torch.testing.assert_close(rows[:, 3], torch.tensor([1, 0, 0.5, 1, 0, 0], dtype=torch.float64))


@pytest.mark.parametrize("state", [True, False])
def test_padding_changes_no_logit_and_is_never_flipped(state):
    policy = FlipPolicy(ALPHA, BETA, GAMMA, **SMALL, state=state).eval()
    x = torch.full((1, 5, 4), -1, dtype=torch.int8)
    x[0, :3, :3] = CONFLICT
    padded, plain = policy.start(x), policy.start(CONFLICT[None])
    inside = padded.logits().view(1, 5, 4)
    assert (inside[0, :3, :3] > -torch.inf).all()
    assert (inside.isinf().sum()) == 11
    for _ in range(9):
        position = torch.distributions.Categorical(logits=padded.logits()).sample()
        padded.flip(position)
    assert (padded.matrix[0, 3:] == 0).all()
    assert (padded.matrix[0, :3, :3] == 1 - CONFLICT).all()
    padded.flip(torch.tensor([19]))  # nothing is left
    assert (padded.matrix[0, 3:] == 0).all()
    assert plain.logits().shape == (1, 9)


@pytest.mark.parametrize("shape", [(6, 10), (1, 3), (3, 1), (12, 2)])
def test_networks_run_on_other_sizes(shape):
    policy = FlipPolicy(ALPHA, BETA, GAMMA, **SMALL)
    x = torch.randint(2, (1, *shape))
    result = denoise(policy, x, num_samples=8)
    assert result.matrix.shape == x.shape
    assert torch.equal(result.matrix, x.bool()) or shape in ((6, 10), (12, 2))


def test_denoised_matrices_are_the_most_probable_of_those_without_conflict(dtype):
    x = torch.randint(2, (6, 4, 4))
    policy = FlipPolicy(ALPHA, BETA, GAMMA, **SMALL).to(dtype)
    result = denoise(policy, x, num_samples=64, temperature=3.0)
    seen = observe(x, *rates(dtype))
    assert (result.conflicts == 0).all()
    assert is_conflict_free(result.matrix).all()
    torch.testing.assert_close(result.cost, matrix_cost(result.matrix.to(dtype), seen, GAMMA))
    torch.testing.assert_close(result.cost, GAMMA * result.neg_log_likelihood)
    assert torch.equal(result.num_flips, (result.matrix != x.bool()).sum((-2, -1)))
    assert result.neg_log_likelihood.dtype == dtype
    free = is_conflict_free(x)
    assert (result.num_flips[free] == 0).all()
    assert policy.training


def test_gamma_changes_what_the_network_sees_and_no_cost():
    policy, x = FlipPolicy(ALPHA, BETA, GAMMA, **SMALL).eval(), torch.randint(2, (6, 4, 4))
    logits = [policy.start(x, gamma=gamma).logits() for gamma in (None, GAMMA, 10.0)]
    torch.testing.assert_close(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])
    result = denoise(policy, x, num_samples=4, gamma=10.0)
    torch.testing.assert_close(result.cost, GAMMA * result.neg_log_likelihood)


def test_without_a_way_out_the_least_cost_is_returned():
    x = torch.randint(2, (8, 6, 6))
    result = denoise(FlipPolicy(ALPHA, BETA, GAMMA, **SMALL), x, num_samples=2, max_flips=1)
    assert (result.num_flips <= 1).all()
    assert (result.conflicts > 0).any()
    assert (result.cost <= matrix_cost(x.float(), observe(x, *rates(torch.float32)), GAMMA) + 1e-4).all()


def test_missing_entries_are_filled_without_cost():
    x = CONFLICT.clone()
    x[1, 0] = 3  # without it nothing is in conflict
    result = greedy_search(x[None], ALPHA, BETA)
    assert result.num_flips == 0
    x = torch.tensor([[[1, 1], [1, 3], [3, 1]]])
    x[0, 1, 1] = 0  # a conflict if the missing entry is a 0
    result = greedy_search(x, ALPHA, BETA)
    assert result.conflicts == 0
    assert result.matrix[0, 2, 0]
    assert result.num_flips == 0


def test_greedy_search_is_no_better_than_all_matrices():
    every = every_3x3()
    x = every[~is_conflict_free(every)][::7]
    best = torch.stack([matrix_cost(every.float(), observe(a, *rates(torch.float32)), GAMMA).amin() for a in x])
    result = greedy_search(x, ALPHA, BETA, GAMMA)
    assert (result.conflicts == 0).all()
    assert (result.cost >= best - 1e-6).all()
    assert (result.cost <= best + 0.2).all()


def test_rates_of_mutations_may_differ():
    x = CONFLICT[None]
    unsure = torch.tensor([0.49, 0.001, 0.001])
    result = greedy_search(x, 1e-6, unsure)
    assert result.conflicts == 0
    assert torch.equal(result.matrix[0, :, 1:], x[0, :, 1:].bool())


def data(**options):
    return load("simulated_tumours", num_train=8, num_valid=4, labels="matrix", cells=4, mutations=4, **options)


def test_metrics_compare_with_greedy_search_and_the_truth():
    plan = build(data(), num_flips=3, **SMALL, evaluation_samples=4)
    guide = plan.elbo_objectives[0].guide
    part = data().valid
    with local_params(), torch.no_grad():
        metrics = elimination_metrics(guide, 4)(part.x, part.y, torch.arange(4))
    assert all(value.shape == (4,) for value in metrics.values())
    assert (metrics["denoised_cost"] > 0).all()
    expected = (part.x != part.y).float().mean((-2, -1))
    torch.testing.assert_close(metrics["observed_wrong"], expected)
    assert "wrong" not in elimination_metrics(guide, 4)(part.x, None, torch.arange(4))


def test_warnings():
    assert diagnose({"conflict_free": 1.0, "denoised_cost": 1.0, "greedy_cost": 1.0}) == []
    assert "10.0%" in diagnose({"conflict_free": 0.9})[0]
    assert "greedy" in diagnose({"denoised_cost": 2.0, "greedy_cost": 1.0})[0]


def test_the_plot_shows_what_was_changed():
    x = torch.tensor([[[1, 1, 0], [1, 0, 3]]])
    other = torch.tensor([[[1, 0, 1], [1, 0, 1]]]).bool()
    image = draw_flips(x, {"other": other}).images[0].get_array()
    assert image[:2].tolist() == [[1, 1, 0], [1, 0, 4]]
    assert image[3:].tolist() == [[1, 3, 2], [1, 0, 5]]


BAD = {
    "non-binary": (lambda: greedy_search(torch.full((1, 3, 3), 2), ALPHA, BETA), "x must hold 0, 1, 3 .* got 2"),
    "nan": (lambda: greedy_search(torch.full((1, 3, 3), math.nan), ALPHA, BETA), "x must hold 0, 1, 3 .* got nan"),
    "empty": (lambda: greedy_search(torch.zeros(1, 0, 3), ALPHA, BETA), "with an entry at least"),
    "one matrix": (lambda: denoise(FlipPolicy(ALPHA, BETA), CONFLICT), r"\(batch, cells, mutations\)"),
    "rate 0": (lambda: greedy_search(CONFLICT[None], 0.0, BETA), r"false_positive must be a number in \(0, 1\), got 0"),
    "rate 1": (lambda: FlipPolicy(ALPHA, 1.0), r"false_negative must be a number in \(0, 1\), got 1"),
    "rates": (
        lambda: denoise(FlipPolicy(ALPHA, BETA), CONFLICT[None], (torch.tensor([0.1, 1.5, 0.1]), BETA)),
        r"false_positive must be a number in \(0, 1\), got 1.5",
    ),
    "samples": (lambda: denoise(FlipPolicy(ALPHA, BETA), CONFLICT[None], num_samples=0), "num_samples must be"),
    "temperature": (lambda: denoise(FlipPolicy(ALPHA, BETA), CONFLICT[None], temperature=0), "temperature must be"),
    "flips": (lambda: build(data(), num_flips=17), r"num_flips must be at most .* \(16\), got 17"),
    "no rates": (
        lambda: build(Splits("own", IndexedDataset(CONFLICT[None])), num_flips=2),
        "false_positive must be given",
    ),
    "rate of the data": (
        lambda: build(data(false_positive=0.0), num_flips=2),
        "the rate of the data; give the option false_positive",
    ),
    "images": (lambda: build(Splits("own", IndexedDataset(torch.zeros(3, 4)))), "data.train.x must be matrices"),
    "patient": (
        lambda: build(Splits("own", torch.utils.data.TensorDataset(torch.zeros(3)))),
        "data.train must hold matrices as rows of x",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
