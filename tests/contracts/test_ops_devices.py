"""Tensor operations keep to the device and the type of their inputs. A new one is one line in ``OPS``."""

import importlib
import pkgutil

import pytest
import torch

from pyro_ext import ops
from pyro_ext.ops import (
    assignment,
    birkhoff,
    calibration,
    compression,
    gamma_quantiles,
    graphs,
    inception_score,
    log_uniform,
    mutations,
    permanent,
    pruning,
    relaxed,
    segments,
    sets,
    sinkhorn,
    sparse,
    windows,
)
from pyro_ext.ops.symmetric_exp import symmetric_exp
from tests.contracts.device_guard import DEVICE, DeviceGuard
from tests.contracts.test_devices import WAYS, elsewhere

TREE = [-1, 5, 5, 4, 0, 4]


class Inputs:
    """What operations are tried on, made on one device."""

    def __init__(self, device):
        def made(values, dtype=torch.float32):
            return torch.tensor(values, dtype=dtype, device=device)

        self.matrix = made([[0.3, -1.0, 0.7], [0.0, 0.5, -0.2], [1.0, 0.1, 0.4]])
        self.symmetric = self.matrix + self.matrix.mT
        self.log_p = made([[0.1, 0.2, 0.3, 0.4]] * 2).log()
        self.logits = made([[0.3, -1.0, 2.0, 0.0]] * 2)
        self.simplex = made([[0.1, 0.2, 0.3, 0.4]] * 2)
        self.hard = made([[0.0, 1.0, 0.0, 0.0]] * 2)
        self.temperature, self.times = made(0.7), made([0.1, 0.5])
        self.coordinates = made([[[0.3, 0.7], [0.6, 0.4], [0.5, 0.5]]]).log()
        self.permutation = made([2, 0, 1], torch.int64)
        self.segment = made([0, 0, 1, 1], torch.int64)
        self.mask = made([[1, 1, 0], [0, 1, 1], [1, 0, 1]], torch.bool)
        self.doubly = made([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]])
        self.members, self.log_rest = made([[0.2, 0.3]]).log(), made([0.5]).log()
        self.tree = made(TREE, torch.int64)
        self.transitions = (0.1 + 0.6 * torch.eye(4, device=device, dtype=torch.float32)).expand(5, 4, 4)
        self.frequencies = made([0.25] * 4)
        self.partials = made([[[1.0, 0, 0, 0]] * 3, [[0, 1.0, 0, 0]] * 3] * 2)
        self.one = made([[0.0]])
        self.edges, self.weights = made([[0, 1], [1, 2]], torch.int64), made([0.5, 2.0])

    @property
    def adjacency(self):
        return graphs.adjacency_matrix(self.edges, 3, self.weights)

    @property
    def sparse(self):
        return sparse.SparseMatrix.from_coo(*self.edges, self.weights, (2, 3))


def pruned(x):
    return x.tree, x.transitions, x.frequencies, x.partials


def remainder(x):
    members = sets.product_topk(x.coordinates, 2)
    branches = sets.product_remainder(x.coordinates, members.index)
    return sets.sample_product_remainder(x.coordinates, members, branches, members.index.new_zeros(1), 3)


def stored(matrix):
    return matrix.crow, matrix.col, matrix.values, *(matrix.transposed or ())


def uniform(x):
    return lambda prefix: x.log_p.new_full((*prefix.shape[:-1], 2), 0.5).log()


OPS = {
    "assignment.best_permutation": (lambda x: assignment.best_permutation(x.matrix), 1),
    "assignment.has_perfect_matching": (lambda x: assignment.has_perfect_matching(x.mask), 1),
    "assignment.linear_assignment": (lambda x: assignment.linear_assignment(x.matrix), 1),
    "assignment.permutation_matrix": (lambda x: assignment.permutation_matrix(x.permutation, torch.float32), 0),
    "assignment.total_support": (lambda x: assignment.total_support(x.mask), 3),
    "birkhoff.break_sticks": (lambda x: birkhoff.break_sticks(x.symmetric[:2, :2], -x.symmetric[:2, :2]), 0),
    "birkhoff.sticks_of": (lambda x: birkhoff.sticks_of(x.doubly), 0),
    "calibration.calibration_bins": (lambda x: calibration.calibration_bins(x.simplex, x.segment[1:3], 5), 1),
    "calibration.expected_calibration_error": (
        lambda x: calibration.expected_calibration_error(x.simplex, x.segment[1:3], 5),
        1,
    ),
    "gamma_quantiles.gamma_category_means": (lambda x: gamma_quantiles.gamma_category_means(x.temperature, 4), 1),
    "graphs.adjacency_matrix": (lambda x: stored(x.adjacency), None),
    "graphs.normalize_adjacency": (lambda x: stored(graphs.normalize_adjacency(x.adjacency)), None),
    "graphs.normalize_rows": (lambda x: stored(graphs.normalize_rows(x.sparse)), None),
    "graphs.scaled_laplacian": (lambda x: stored(graphs.scaled_laplacian(x.adjacency)), None),
    "compression.code_entropy": (lambda x: compression.code_entropy(x.matrix).float(), 1),
    "compression.exponent_bits": (lambda x: compression.exponent_bits(x.matrix), 0),
    "compression.round_to_bits": (lambda x: compression.round_to_bits(x.matrix, 3), 0),
    "compression.significand_bits": (lambda x: compression.significand_bits(x.simplex, x.hard > 0), 0),
    "inception_score.inception_score": (lambda x: inception_score.inception_score(x.simplex, splits=2), 1),
    "log_uniform.log_alpha": (lambda x: log_uniform.log_alpha(x.matrix, x.matrix), 0),
    "log_uniform.log_uniform_kl": (
        lambda x: (log_uniform.log_uniform_kl(x.matrix), log_uniform.log_uniform_kl(x.matrix, "exact")),
        0,
    ),
    "mutations.conflicting_pairs": (lambda x: mutations.conflicting_pairs(x.mask), 0),
    "mutations.count_conflicts": (lambda x: mutations.count_conflicts(x.mask), 0),
    "mutations.fill_missing": (lambda x: mutations.fill_missing(x.segment), 0),
    "mutations.gamete_counts": (lambda x: mutations.gamete_counts(x.simplex), 0),
    "mutations.gamete_product": (lambda x: mutations.gamete_product(x.mask), 0),
    "mutations.is_conflict_free": (lambda x: mutations.is_conflict_free(x.mask), 0),
    "mutations.is_linear": (lambda x: mutations.is_linear(x.mask), 0),
    "mutations.lexsort": (lambda x: mutations.lexsort(x.mask), 0),
    "mutations.observation_nll": (lambda x: mutations.observation_nll(x.mask, x.hard[0, :3], 0.1, 0.2), 0),
    "permanent.column_chooser": (
        lambda x: permanent.column_chooser(x.matrix)(x.permutation.new_zeros(1, 0)).float(),
        0,
    ),
    "permanent.log_permanent": (lambda x: permanent.log_permanent(x.matrix), 0),
    "permanent.sample_matchings": (lambda x: permanent.sample_matchings(x.matrix, 3), 0),
    "pruning.ancestral_marginals": (lambda x: pruning.ancestral_marginals(*pruned(x)), 0),
    "pruning.log_likelihoods": (lambda x: pruning.log_likelihoods(*pruned(x)), 0),
    "pruning.site_log_likelihoods": (lambda x: pruning.site_log_likelihoods(*pruned(x)), 0),
    "relaxed.bernoulli_score": (lambda x: relaxed.bernoulli_score(x.simplex, x.logits), 0),
    "relaxed.categorical_score": (lambda x: relaxed.categorical_score(x.simplex, x.logits), 0),
    "relaxed.conditional_perturbed_logits": (
        lambda x: relaxed.conditional_perturbed_logits(x.logits, x.hard, 3).float(),
        0,
    ),
    "relaxed.exp_concrete_log_prob": (
        lambda x: relaxed.exp_concrete_log_prob(x.log_p, x.logits, x.temperature),
        0,
    ),
    "relaxed.floored_log": (lambda x: relaxed.floored_log(x.hard), 0),
    "relaxed.gumbel_log_softmax": (lambda x: relaxed.gumbel_log_softmax(x.logits, x.temperature, (2,)), 0),
    "relaxed.infinite": (lambda x: relaxed.infinite(x.logits.masked_fill(x.logits > 0, torch.inf)), 0),
    "relaxed.logistic_like": (lambda x: relaxed.logistic_like(x.logits).float(), 0),
    "relaxed.normalised_logits": (lambda x: relaxed.normalised_logits(x.simplex), 0),
    "relaxed.one_hot_of_largest": (lambda x: relaxed.one_hot_of_largest(x.simplex), 0),
    "relaxed.rao_blackwell_softmax": (
        lambda x: relaxed.rao_blackwell_softmax(x.logits, x.hard, x.temperature, 3),
        0,
    ),
    "relaxed.relaxed_top_k": (lambda x: relaxed.relaxed_top_k(x.logits, 2, x.temperature), 0),
    "relaxed.sigmoid": (lambda x: relaxed.sigmoid(x.logits), 0),
    "relaxed.straight_through": (lambda x: relaxed.straight_through(x.hard, x.simplex), 0),
    "segments.segment_log_softmax": (lambda x: segments.segment_log_softmax(x.logits, x.segment, 2), 0),
    "segments.segment_logsumexp": (lambda x: segments.segment_logsumexp(x.logits, x.segment, 2), 0),
    "segments.segment_max": (lambda x: segments.segment_max(x.logits, x.segment, 2), 0),
    "segments.segment_sum": (lambda x: segments.segment_sum(x.logits, x.segment, 2), 0),
    "sets.beam_step": (lambda x: sets.beam_step(x.one, x.one, x.log_p[:1, None], 2, x.one[0])[0].float(), 0),
    "sets.first_and_second_log_ratios": (lambda x: sets.first_and_second_log_ratios(x.members, x.log_rest), 0),
    "sets.exponential_like": (lambda x: sets.exponential_like(x.log_p).float(), 0),
    "sets.gumbel_like": (lambda x: sets.gumbel_like(x.log_p).float(), 0),
    "sets.gumbel_topk": (lambda x: sets.gumbel_topk(x.log_p, 2), 0),
    "sets.leave_one_out_log_ratios": (lambda x: sets.leave_one_out_log_ratios(x.members, x.log_rest), 0),
    "sets.log_remaining_mass": (lambda x: sets.log_remaining_mass(x.log_p, x.segment[:2].expand(2, 2)).float(), 0),
    "sets.optimal_num_summed": (lambda x: sets.optimal_num_summed(x.log_p, 3), 0),
    "sets.order_log_prob": (lambda x: sets.order_log_prob(x.members, x.log_rest), 0),
    "sets.perturb": (lambda x: sets.perturb(x.log_p).float(), 0),
    "sets.product_gumbel_topk": (lambda x: sets.product_gumbel_topk(x.coordinates, 2)[0], 0),
    "sets.product_remainder": (
        lambda x: sets.product_remainder(x.coordinates, sets.product_topk(x.coordinates, 2).index).float(),
        0,
    ),
    "sets.product_topk": (lambda x: sets.product_topk(x.coordinates, 2)[0], 0),
    "sets.sample_product_remainder": (remainder, 0),
    "sets.set_log_prob": (lambda x: sets.set_log_prob(x.members, x.log_rest), 0),
    "sets.stochastic_beam_search": (
        lambda x: sets.stochastic_beam_search(uniform(x), 3, 2, device=x.log_p.device).actions,
        0,
    ),
    "sets.topk_remainder": (lambda x: sets.topk_remainder(x.log_p, 2), 0),
    "sinkhorn.log_sinkhorn": (lambda x: sinkhorn.log_sinkhorn(x.matrix), None),
    "sinkhorn.sinkhorn": (lambda x: sinkhorn.sinkhorn(x.matrix, num_iterations=5), 1),
    "sparse.dropout": (lambda x: sparse.dropout(x.matrix, 0.5), 0),
    "sparse.dropout_values": (lambda x: stored(sparse.dropout_values(x.sparse, 0.5)), None),
    "sparse.multiply": (lambda x: sparse.multiply(x.sparse, x.matrix), None),
    "sparse.multiply_sparse": (lambda x: stored(sparse.multiply_sparse(x.adjacency, x.sparse.T)), None),
    "sparse.stored_rows": (lambda x: sparse.stored_rows(x.sparse), None),
    "symmetric_exp.symmetric_exp": (lambda x: symmetric_exp(x.symmetric, x.times), 0),
    "windows.crop_windows": (lambda x: windows.crop_windows(x.matrix, x.permutation, 2), 0),
    "windows.place_windows": (lambda x: windows.place_windows(x.matrix, x.simplex, (2, 2)), 0),
    "windows.window_mask": (lambda x: windows.window_mask(x.permutation, (2, 2), 2), 0),
}
"""A call of each operation, and how often the host waits for it: None where that depends on values."""


def test_every_operation_is_here():
    found = set()
    for module in pkgutil.iter_modules(ops.__path__):
        if not module.name.startswith("_") and module.name not in ("subsplits", "kernels"):  # trees, and a switch
            public = importlib.import_module(f"pyro_ext.ops.{module.name}")
            found |= {f"{module.name}.{name}" for name in public.__all__ if name[0].islower()}
    assert OPS.keys() == found


def results(value):
    return [value] if isinstance(value, torch.Tensor) else [y for x in value for y in results(x)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OPS)
def test_results_are_like_the_inputs(name, way):
    with elsewhere(way) as (_, device):
        for result in results(OPS[name][0](Inputs(device))):
            assert result.device == device
            assert result.dtype in (torch.float32, torch.int64, torch.bool)


@pytest.mark.parametrize("name", OPS)
def test_waits(name):
    call, number = OPS[name]
    with DeviceGuard() as guard:
        x = Inputs(DEVICE)
        call(x)  # makes tables
        guard.waits.clear()
        call(x)
        assert sum(guard.waits.values()) == number or number is None
