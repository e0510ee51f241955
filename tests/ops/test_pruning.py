"""Pruning: against listing all histories, ordinary autograd and finite differences; underflow, impossible sites."""

import itertools
import math

import pytest
import torch

from pyro_ext.ops import _pruning_passes, pruning
from pyro_ext.ops.kernels import kernels
from pyro_ext.ops.pruning import ancestral_marginals, log_likelihoods, site_log_likelihoods
from tests.ops.trees import listed_likelihood, random_trees

F64 = torch.float64


@pytest.fixture(autouse=True, params=["torch", "numba"])
def program(request):
    """Every test runs by both."""
    if request.param == "numba":
        pytest.importorskip("numba")
    with kernels(request.param):
        yield request.param


def random_matrices(*shape, num_states=4, dtype=F64):
    """Matrices whose rows sum to 1, most mass on the diagonal."""
    matrices = torch.rand(*shape, num_states, num_states, dtype=F64) + 3 * torch.eye(num_states, dtype=F64)
    return (matrices / matrices.sum(-1, keepdim=True)).to(dtype)


def random_partials(num_taxa, num_sites, num_states=4, dtype=F64):
    """One-hot rows, the first site all gaps, the second ambiguous."""
    partials = torch.eye(num_states, dtype=dtype)[torch.randint(num_states, (num_taxa, num_sites))]
    partials[:, 0] = 1
    partials[:, 1:2, :2] = 1
    return partials


def close(dtype):
    return {"rtol": 1e-12, "atol": 0} if dtype == F64 else {"rtol": 2e-5, "atol": 1e-6}


@pytest.mark.parametrize("rooted", [False, True])
@pytest.mark.parametrize(("num_taxa", "num_states"), [(2, 4), (3, 4), (5, 2), (4, 3)])
@pytest.mark.parametrize("rescale", [None, False, True])
def test_against_all_histories(rooted, num_taxa, num_states, rescale, dtype):
    trees = random_trees(3, num_taxa, rooted)
    matrices = random_matrices(3, trees.shape[-1] - 1, num_states=num_states, dtype=dtype)
    frequencies = torch.rand(3, num_states, dtype=dtype)
    partials = random_partials(num_taxa, 5, num_states, dtype)
    result = site_log_likelihoods(trees, matrices, frequencies, partials, rescale=rescale)
    expected = [listed_likelihood(*case, partials).log() for case in zip(trees, matrices, frequencies, strict=True)]
    torch.testing.assert_close(result, torch.stack(expected), **close(dtype))


@pytest.mark.parametrize("rooted", [False, True])
@pytest.mark.parametrize("rescale", [False, True])
def test_gradients(rooted, rescale):
    """The backward pass against finite differences, and against the graph that ordinary autograd builds."""
    trees = random_trees(2, 6, rooted)
    partials = random_partials(6, 4)
    arguments = (random_matrices(2, trees.shape[-1] - 1).requires_grad_(), torch.rand(4, dtype=F64).requires_grad_())

    def function(matrices, frequencies, **options):
        return site_log_likelihoods(trees, matrices, frequencies, partials, **options)

    assert torch.autograd.gradcheck(lambda *x: function(*x, rescale=rescale), arguments)
    weight = torch.randn(2, 4, dtype=F64)
    ours = torch.autograd.grad((function(*arguments, rescale=rescale) * weight).sum(), arguments)
    plain = torch.autograd.grad((function(*arguments, differentiable_twice=True) * weight).sum(), arguments)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rescale", [False, True])
def test_levels_cut_into_steps(rescale, monkeypatch):
    """Many trees of unlike shapes, four nodes a step: as by one tree after the other."""
    monkeypatch.setattr(_pruning_passes, "_STEP_BYTES", 0)
    trees, partials = random_trees(9, 15), random_partials(15, 6)
    matrices, frequencies = random_matrices(9, 27).requires_grad_(), torch.rand(9, 4, dtype=F64)
    result = site_log_likelihoods(trees, matrices, frequencies, partials, rescale=rescale)
    (gradient,) = torch.autograd.grad(result.sum(), matrices)
    one_by_one = zip(trees, matrices, frequencies, strict=True)
    expected = torch.stack([site_log_likelihoods(*one, partials, differentiable_twice=True) for one in one_by_one])
    (expected_gradient,) = torch.autograd.grad(expected.sum(), matrices)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rescale", [None, True])
def test_large_batches_in_chunks(rescale, monkeypatch):
    """Three trees at a time, their pass to the root made again: as all at once."""
    trees, partials = random_trees(8, 7).view(4, 2, 12), random_partials(7, 6)
    matrices, frequencies = random_matrices(4, 2, 11).requires_grad_(), torch.rand(2, 4, dtype=F64).requires_grad_()

    def differentiate():
        result = site_log_likelihoods(trees, matrices, frequencies, partials, rescale=rescale)
        return result, *torch.autograd.grad(result[..., 1:].sum(), (matrices, frequencies))

    expected = differentiate()
    monkeypatch.setattr(pruning, "_MOST_BYTES", 0)
    monkeypatch.setattr(pruning, "_CHUNK_BYTES", 3 * 3 * 5 * partials[0].nbytes)
    assert pruning._chunk_size(matrices.flatten(0, 1), partials) == 3
    torch.testing.assert_close(differentiate(), expected, rtol=1e-14, atol=0)


def test_without_gradients():
    """Messages are not kept then, and the values are the same."""
    trees, partials, frequencies = random_trees(3, 12), random_partials(12, 7), torch.rand(4, dtype=F64)
    matrices = random_matrices(3, 21)
    kept = site_log_likelihoods(trees, matrices.clone().requires_grad_(), frequencies, partials)
    assert torch.equal(site_log_likelihoods(trees, matrices, frequencies, partials), kept)
    with torch.no_grad():
        result = site_log_likelihoods(trees, matrices.clone().requires_grad_(), frequencies, partials)
    assert torch.equal(result, kept)
    with torch.inference_mode():
        assert torch.equal(site_log_likelihoods(trees, matrices, frequencies, partials), kept)


def test_a_graph_outlives_changes_in_place():
    trees, partials, frequencies = random_trees(2, 6), random_partials(6, 4), torch.rand(4, dtype=F64)
    matrices = random_matrices(2, 9)
    first, second = (matrices.clone().requires_grad_() for _ in range(2))
    likelihoods = [site_log_likelihoods(trees, x, frequencies, partials).sum() for x in (first, second)]
    with torch.no_grad():
        second.zero_()
    for likelihood in likelihoods:
        likelihood.backward()
    assert torch.equal(first.grad, second.grad)


@pytest.mark.parametrize("differentiable_twice", [False, True])
@pytest.mark.parametrize("rooted", [False, True])
def test_second_derivatives(rooted, differentiable_twice):
    trees, partials = random_trees(2, 5, rooted), random_partials(5, 4)
    matrices = random_matrices(2, trees.shape[1] - 1).requires_grad_()
    frequencies = torch.rand(2, 4, dtype=F64, requires_grad=True)

    def function(x, pi):
        return site_log_likelihoods(trees, x, pi, partials, differentiable_twice=differentiable_twice)

    assert torch.autograd.gradgradcheck(function, (matrices, frequencies), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda pi: function(matrices.detach(), pi), (frequencies,), fast_mode=True)


def test_second_derivatives_in_chunks(monkeypatch):
    """Where the pass to the root is made again; an impossible site is left out of first derivatives in any case."""
    monkeypatch.setattr(pruning, "_MOST_BYTES", 0)
    monkeypatch.setattr(pruning, "_CHUNK_BYTES", 1)
    trees, partials, frequencies = random_trees(3, 6), random_partials(6, 4), torch.rand(4, dtype=F64)
    matrices = random_matrices(3, 9).requires_grad_()

    def function(x):
        return site_log_likelihoods(trees, x, frequencies, partials)

    assert torch.autograd.gradgradcheck(function, (matrices,), fast_mode=True)
    with torch.no_grad():
        matrices[:] = torch.eye(4)
    result = site_log_likelihoods(trees, matrices, frequencies, partials).sum()
    (gradient,) = torch.autograd.grad(result, matrices, retain_graph=True)
    (other,) = torch.autograd.grad(result, matrices, create_graph=True)
    torch.testing.assert_close(gradient, other.detach())


def test_batch_shapes_broadcast():
    trees = random_trees(6, 5).reshape(2, 3, 8)
    matrices, frequencies = random_matrices(4, 1, 1, 7), torch.rand(3, 4, dtype=F64)
    partials = random_partials(5, 6)
    result = site_log_likelihoods(trees, matrices, frequencies, partials)
    assert result.shape == (4, 2, 3, 6)
    one = site_log_likelihoods(trees[1, 2], matrices[3, 0, 0], frequencies[2], partials)
    torch.testing.assert_close(result[3, 1, 2], one)


@pytest.mark.parametrize("rescale", [None, True])
def test_thousand_taxa(rescale, dtype):
    """No underflow, and float32 agrees with float64, whose log-likelihoods lie near -1,300 a site."""
    trees = random_trees(2, 1000)
    matrices, frequencies = random_matrices(2, 1997, dtype=dtype), torch.full((4,), 0.25, dtype=dtype)
    matrices.requires_grad_()
    partials = random_partials(1000, 8)
    result = site_log_likelihoods(trees, matrices, frequencies, partials, rescale=rescale)
    (gradient,) = torch.autograd.grad(result.sum(), matrices)
    exact = matrices.detach().double().requires_grad_()
    expected = site_log_likelihoods(trees, exact, frequencies.double(), partials)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), exact)
    assert expected[:, 2:].max() < -1000
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-2, atol=1e-3)


def test_underflow_is_noticed():
    """Nearly impossible changes: 1e-9 each underflows in float32 with a dozen taxa, unless rescaled."""
    trees = random_trees(1, 12)[0]
    matrices = (1e-9 + torch.eye(4, dtype=F64)).expand(21, 4, 4)
    partials = torch.eye(4, dtype=F64)[torch.randint(4, (12, 20))]
    frequencies = torch.full((4,), 0.25, dtype=F64)
    expected = site_log_likelihoods(trees, matrices, frequencies, partials)
    result = site_log_likelihoods(trees, matrices.float(), frequencies.float(), partials)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=0)
    assert (
        site_log_likelihoods(trees, matrices.float(), frequencies.float(), partials, rescale=False).min() == -math.inf
    )


def test_impossible_sites():
    """They are -inf, leave their neighbours alone and send no NaN back."""
    tree = torch.tensor([-1, 3, 3, 0])
    matrices = torch.eye(4, dtype=F64).expand(3, 4, 4).clone().requires_grad_()
    partials = torch.eye(4, dtype=F64)[torch.tensor([[0, 0], [0, 1], [0, 1]])]
    result = site_log_likelihoods(tree, matrices, torch.full((4,), 0.25, dtype=F64), partials)
    assert result.tolist() == [math.log(0.25), -math.inf]
    (gradient,) = torch.autograd.grad(result.sum(), matrices)
    assert gradient.isfinite().all()
    assert gradient[:, 0, 0].tolist() == [1, 1, 1]


def test_graph_may_be_used_twice():
    trees, partials = random_trees(2, 7), random_partials(7, 5)
    matrices = random_matrices(2, 11).requires_grad_()
    first = site_log_likelihoods(trees, matrices, torch.rand(4, dtype=F64), partials)
    before = torch.autograd.grad(first.sum(), matrices, retain_graph=True)
    other = site_log_likelihoods(trees, random_matrices(2, 11), torch.rand(4, dtype=F64), partials)
    del other  # its buffers are lent again below
    site_log_likelihoods(trees, random_matrices(2, 11), torch.rand(4, dtype=F64), partials)
    after = torch.autograd.grad(first.sum(), matrices)
    assert torch.equal(before[0], after[0])


@pytest.mark.parametrize("rooted", [False, True])
def test_ancestral_marginals(rooted):
    """Against the share of the listed histories in which the node has the state."""
    (tree,) = random_trees(1, 4, rooted)
    matrices, frequencies = random_matrices(len(tree) - 1, num_states=2), torch.rand(2, dtype=F64)
    partials = random_partials(4, 6, 2)
    result = ancestral_marginals(tree, matrices, frequencies, partials)
    assert result.shape == (len(tree) - 4, 6, 2)
    total = listed_likelihood(tree, matrices, frequencies, partials)
    for node, state in itertools.product(range(4, len(tree)), range(2)):
        blocked, roots = matrices.clone(), frequencies.clone()
        if tree[node] < 0:
            roots[1 - state] = 0
        else:
            blocked[node - 1][:, 1 - state] = 0
        share = listed_likelihood(tree, blocked, roots, partials) / total
        torch.testing.assert_close(result[node - 4, :, state], share)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 3, 0, 1, 2], dtype=F64)])
def test_weighted_sums(weights, dtype):
    trees, partials = random_trees(3, 8), random_partials(8, 5, dtype=dtype)
    arguments = random_matrices(3, 13, dtype=dtype).requires_grad_(), torch.rand(4, dtype=dtype).requires_grad_()
    weights = None if weights is None else weights.to(dtype)
    result = log_likelihoods(trees, *arguments, partials, weights)
    by_site = site_log_likelihoods(trees, *arguments, partials)
    expected = by_site.sum(-1) if weights is None else (by_site * weights).sum(-1)
    torch.testing.assert_close(result, expected, **close(dtype))
    factors = torch.tensor([2.0, -1, 0.5], dtype=dtype)
    ours, theirs = (torch.autograd.grad(x @ factors, arguments) for x in (result, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4 if dtype == torch.float32 else 1e-12, atol=1e-5)


def test_derivatives_of_weighted_sums():
    trees, partials, weights = random_trees(2, 5), random_partials(5, 4), torch.rand(4, dtype=F64, requires_grad=True)
    arguments = random_matrices(2, 7).requires_grad_(), torch.rand(2, 4, dtype=F64).requires_grad_()

    def function(*x):
        return log_likelihoods(trees, *x, partials, weights.detach())

    assert torch.autograd.gradcheck(function, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)
    matrices, frequencies = (x.detach() for x in arguments)
    by_site = site_log_likelihoods(trees, matrices, frequencies, partials)
    (gradient,) = torch.autograd.grad(log_likelihoods(trees, matrices, frequencies, partials, weights).sum(), weights)
    torch.testing.assert_close(gradient, by_site.sum(0))


def test_weights_of_another_number():
    with pytest.raises(ValueError, match=r"weights must have shape \(2,\), one for each site of partials, got \(3,\)"):
        log_likelihoods(TREE, MATRICES, QUARTER, torch.ones(3, 2, 4), torch.ones(3))


NOT_IN_PREORDER = torch.tensor([-1, 8, 9, 11, 11, 10, 10, 0, 7, 7, 9, 8])
TREE, MATRICES, QUARTER = torch.tensor([-1, 3, 3, 0]), torch.eye(4).expand(3, 4, 4), torch.full((4,), 0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TREE.float(), MATRICES, QUARTER, torch.ones(3, 2, 4)), "parents must be int64"),
        ((torch.tensor(0), MATRICES, QUARTER, torch.ones(3, 2, 4)), "parents must be int64"),
        ((TREE, MATRICES, QUARTER, torch.ones(4, 2, 4)), r"partials must have shape \(n, S, A\) for the n = 3 taxa"),
        ((TREE, MATRICES[:2], QUARTER, torch.ones(3, 2, 4)), "transitions must have shape .* one matrix for each edge"),
        ((TREE, MATRICES, QUARTER[:3], torch.ones(3, 2, 4)), r"frequencies must have shape batch_shape \+ \(4,\)"),
        ((NOT_IN_PREORDER, torch.eye(4).expand(11, 4, 4), QUARTER, torch.ones(7, 2, 4)), "parents must hold canonical"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        site_log_likelihoods(*arguments)


@pytest.mark.gpu
def test_on_gpu():
    trees, partials = random_trees(3, 20), random_partials(20, 50)
    matrices, frequencies = random_matrices(3, 37), torch.full((4,), 0.25, dtype=F64)
    expected = site_log_likelihoods(trees, matrices, frequencies, partials)
    result = site_log_likelihoods(*(x.cuda() for x in (trees, matrices, frequencies, partials)))
    torch.testing.assert_close(result.cpu(), expected)
