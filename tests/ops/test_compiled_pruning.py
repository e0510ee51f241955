"""Compiled pruning: equal to PyTorch's way to rounding, gradients included; what is left to PyTorch."""

import pytest
import torch

from pyro_ext.distributions import TreeLikelihood
from pyro_ext.ops import _compiled_pruning
from pyro_ext.ops._compiled_pruning import CompiledPruning
from pyro_ext.ops.kernels import kernels
from pyro_ext.ops.pruning import log_likelihoods, site_log_likelihoods
from pyro_ext.phylo import GTR, HKY85, GammaRates
from tests.ops.test_pruning import random_matrices, random_partials
from tests.ops.trees import random_trees

pytest.importorskip("numba")

F64 = torch.float64


def both_ways(function, *inputs):
    """Return values and gradients by compiled functions, and by PyTorch."""
    results = []
    for choice in ("numba", "torch"):
        with kernels(choice):
            result = function()
            weight = torch.linspace(0.5, 2, result.numel(), dtype=result.dtype).view_as(result)
            results.append((result.detach(), *torch.autograd.grad((result * weight).sum(), inputs)))
    return results


def assert_equal(results, dtype):
    """Differences are within rounding: some hundred roundings of the largest number."""
    for ours, theirs in zip(*results, strict=True):
        error = (ours - theirs).abs().amax() / theirs.abs().amax()
        assert error < 200 * torch.finfo(dtype).eps
        assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("rooted", [False, True])
@pytest.mark.parametrize(("num_taxa", "num_states"), [(2, 4), (3, 2), (7, 5), (27, 4)])
@pytest.mark.parametrize(("num_trees", "num_sites"), [(1, 300), (5, 128), (4, 1)])
def test_equal_to_torch(rooted, num_taxa, num_states, num_trees, num_sites, dtype):
    trees = random_trees(num_trees, num_taxa, rooted)
    matrices = random_matrices(num_trees, trees.shape[1] - 1, num_states=num_states, dtype=dtype).requires_grad_()
    frequencies = torch.rand(num_trees, num_states, dtype=dtype).requires_grad_()
    partials = random_partials(num_taxa, num_sites, num_states, dtype)
    arguments, weights = (trees, matrices, frequencies, partials), torch.rand(num_sites, dtype=dtype)
    assert_equal(both_ways(lambda: site_log_likelihoods(*arguments), matrices, frequencies), dtype)
    assert_equal(both_ways(lambda: log_likelihoods(*arguments, weights), matrices, frequencies), dtype)


@pytest.mark.parametrize("rescale", [None, True])
def test_many_taxa(rescale, dtype):
    """1,200 taxa: log-likelihoods near -1,600 a site; float32 as near to float64 as PyTorch's way is."""
    trees, partials = random_trees(2, 1200), random_partials(1200, 9)
    matrices = random_matrices(2, 2397).requires_grad_()
    frequencies = torch.full((4,), 0.25, dtype=F64)

    def function(dtype):
        inputs = (x.to(dtype) for x in (matrices, frequencies, partials))
        return lambda: site_log_likelihoods(trees, *inputs, rescale=rescale)

    with kernels("torch"):
        exact = function(F64)()
        (gradient,) = torch.autograd.grad(exact.sum(), matrices)
    with kernels("numba"):
        result = function(dtype)()
        (ours,) = torch.autograd.grad(result.sum(), matrices)
    assert exact[:, 2:].max() < -1000
    tolerance = 1e-12 if dtype == F64 else 1e-4
    torch.testing.assert_close(result.to(F64), exact, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours, gradient, rtol=10 * tolerance, atol=10 * tolerance * float(gradient.abs().max()))


def test_rescaled_where_small(dtype, monkeypatch):
    """Powers of two change no digit, but where numbers had underflowed."""
    trees, partials = random_trees(3, 20), random_partials(20, 140, dtype=dtype)
    matrices, frequencies = random_matrices(3, 37, dtype=dtype).requires_grad_(), torch.full((4,), 0.25, dtype=dtype)
    with kernels("numba"):
        results = []
        for smallest in (-1.0, 1e-3, 1e30):
            monkeypatch.setitem(_compiled_pruning._SMALLEST, dtype, smallest)
            result = site_log_likelihoods(trees, matrices, frequencies, partials)
            results.append((result.detach(), *torch.autograd.grad(result.sum(), matrices)))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=4 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("model", ["gtr, gamma", "hky"])
def test_categories_and_samples(model, dtype):
    """Three samples of lengths and shapes for two trees; ambiguous and unknown states; weights of patterns."""
    trees, value = random_trees(2, 6), random_partials(6, 130, dtype=dtype)
    value[2:, 3, 2] = 1
    lengths = (torch.rand(3, 1, 9, dtype=dtype) + 0.1).requires_grad_()
    shape, rates = (x.to(dtype).requires_grad_() for x in (torch.tensor([[0.3], [0.5], [1.0]]), torch.rand(6) + 0.5))
    frequencies = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=dtype).requires_grad_()
    inputs = (lengths, frequencies, shape, rates) if model == "gtr, gamma" else (lengths, frequencies)

    def function():
        models = (
            (GTR(rates, frequencies), GammaRates(shape, 3)) if "gamma" in model else (HKY85(rates[0], frequencies),)
        )
        weights = torch.arange(130, dtype=dtype)
        return TreeLikelihood(trees, lengths, *models, weights=weights, validate_args=False).log_prob(value)

    results = both_ways(function, *inputs)
    assert results[0][0].shape == (3, 2)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10 if dtype == F64 else 1e-3, atol=1e-8)


@pytest.mark.parametrize(("rooted", "num_taxa"), [(False, 2), (True, 3), (False, 8), (True, 8)])
@pytest.mark.parametrize("num_states", [4, 6])
def test_mixtures_of_categories(rooted, num_taxa, num_states, dtype):
    """Two trees for three mixtures of four categories each: values, and gradients in all inputs."""
    trees = random_trees(2, num_taxa, rooted)[:, None, None]
    matrices = random_matrices(4, trees.shape[-1] - 1, num_states=num_states, dtype=dtype).requires_grad_()
    frequencies = torch.rand(2, 1, 1, num_states, dtype=dtype).requires_grad_()
    log_probs = torch.rand(3, 4, dtype=dtype).log().requires_grad_()
    partials, weights = random_partials(num_taxa, 150, num_states, dtype), torch.rand(150, dtype=dtype)
    arguments, inputs = (trees, matrices, frequencies, partials), (matrices, frequencies, log_probs)

    def by_site():
        return site_log_likelihoods(*arguments, category_log_probs=log_probs)

    def summed():
        return log_likelihoods(*arguments, weights, category_log_probs=log_probs)

    assert (by_site().shape, summed().shape) == ((2, 3, 150), (2, 3))
    assert_equal(both_ways(by_site, *inputs), dtype)
    assert_equal(both_ways(summed, *inputs), dtype)


def test_categories_of_very_different_likelihoods(dtype):
    """300 taxa: likelihoods of one category are 1e-200 of another's, and one has impossible sites."""
    trees, partials = random_trees(1, 300), random_partials(300, 40, dtype=dtype)
    partials[:, :20] = torch.eye(4, dtype=dtype)[0]  # the same state everywhere, possible without any change
    scales = torch.tensor([1.0, 0.2, 1.0], dtype=dtype)[:, None, None, None]
    matrices = random_matrices(3, 597, dtype=dtype) * scales
    matrices[2] = torch.eye(4, dtype=dtype)
    matrices.requires_grad_()
    frequencies = torch.full((4,), 0.25, dtype=dtype).requires_grad_()
    log_probs = torch.tensor([0.2, 0.5, 0.3], dtype=dtype).log().requires_grad_()

    def function():
        return site_log_likelihoods(trees, matrices, frequencies, partials, category_log_probs=log_probs)

    (ours, *gradients), (theirs, *expected) = both_ways(function, matrices, frequencies, log_probs)
    tolerance = 1e-10 if dtype == F64 else 2e-4
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    assert ours[:20].min() > -10 > -100 > ours[20:].max()
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


def test_second_derivatives_of_mixtures():
    """As numerical differences of the first ones say; a category of probability 0 does no harm."""
    trees, partials = random_trees(1, 5), random_partials(5, 6)
    matrices = random_matrices(2, 7).requires_grad_()
    frequencies = torch.rand(4, dtype=F64).requires_grad_()
    log_probs = torch.tensor([0.3, 0.7], dtype=F64).log().requires_grad_()

    def function(matrices, frequencies, log_probs):
        return site_log_likelihoods(trees, matrices, frequencies, partials, category_log_probs=log_probs)

    def summed(matrices, frequencies, log_probs):
        return log_likelihoods(trees, matrices, frequencies, partials, category_log_probs=log_probs)

    with kernels("numba"):
        for each in (function, summed):
            assert torch.autograd.gradgradcheck(each, (matrices, frequencies, log_probs), fast_mode=True)
        certain = torch.tensor([0.0, -torch.inf], dtype=F64)
        alone = site_log_likelihoods(trees[0], matrices[0], frequencies, partials)
        torch.testing.assert_close(function(matrices, frequencies, certain), alone, rtol=1e-14, atol=0)
        (first,) = torch.autograd.grad(function(matrices, frequencies, certain).sum(), matrices, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), matrices)
        assert second.isfinite().all()
        assert first[1].abs().amax() < 1e-300


@pytest.mark.parametrize("num_states", [4, 5])
def test_order_of_the_observations_in_memory(num_states, dtype):
    """The sites or the states of a leaf may lie side by side: the same bits, the same derivatives to rounding."""
    trees, partials = random_trees(2, 6), random_partials(6, 150, num_states, dtype)
    matrices = random_matrices(2, 9, num_states=num_states, dtype=dtype).requires_grad_()
    frequencies = torch.rand(num_states, dtype=dtype).requires_grad_()
    results = []
    with kernels("numba"):
        for tips in (partials, partials.mT.contiguous().mT):
            result = site_log_likelihoods(trees, matrices, frequencies, tips)
            summed = log_likelihoods(trees, matrices, frequencies, tips)
            (first,) = torch.autograd.grad(summed.sum(), frequencies, create_graph=True)
            second = torch.autograd.grad(first.square().sum(), (matrices, frequencies))
            results.append((result, summed, *torch.autograd.grad(result.sum(), (matrices, frequencies)), *second))
    assert torch.equal(results[0][0], results[1][0])
    assert_equal(results, dtype)


@pytest.mark.parametrize("wanted", ["matrices", "frequencies", "neither"])
def test_views_and_inputs_without_gradients(wanted, dtype):
    """Transposed, strided and expanded inputs; gradients for one of them only."""
    trees = random_trees(1, 6)[:, None].expand(2, 3, -1)
    matrices = random_matrices(3, 18, dtype=dtype).mT.contiguous().mT[:, ::2].requires_grad_(wanted == "matrices")
    frequencies = torch.rand(4, 1, dtype=dtype).expand(4, 2).T[:1].requires_grad_(wanted == "frequencies")
    partials = random_partials(6, 260, dtype=dtype).transpose(0, 1).contiguous().transpose(0, 1)[:, ::2]
    assert not matrices.is_contiguous()
    assert not partials.is_contiguous()

    def function():
        return site_log_likelihoods(trees, matrices, frequencies, partials)

    inputs = [x for x in (matrices, frequencies) if x.requires_grad]
    if inputs:
        assert_equal(both_ways(function, *inputs), dtype)
        assert_equal(both_ways(lambda: log_likelihoods(trees, matrices, frequencies, partials), *inputs), dtype)
        return
    with kernels("numba"):
        ours = function()
        assert not ours.requires_grad
    with kernels("torch"):
        torch.testing.assert_close(ours, function(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(threads, monkeypatch):
    """Trees are shared out; every number is the same."""
    trees, partials = random_trees(5, 9), random_partials(9, 140)
    matrices, frequencies = random_matrices(5, 15).requires_grad_(), torch.full((4,), 0.25, dtype=F64)

    def evaluate():
        with kernels("numba"):
            result = log_likelihoods(trees, matrices, frequencies, partials)
            return result, *torch.autograd.grad(result.sum(), matrices)

    expected = evaluate()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(_compiled_pruning, "_WORTH_A_THREAD", 0)
    assert all(torch.equal(x, y) for x, y in zip(evaluate(), expected, strict=True))


def arguments_of(tree, device="cpu", dtype=F64):
    num_taxa = len(tree) // 2 + 1
    roots, probs = torch.full((1, 4), 0.25, dtype=dtype), torch.ones(1, 1, dtype=dtype)
    tensors = (tree, random_matrices(1, len(tree) - 1, dtype=dtype), roots, probs)
    tips = random_partials(num_taxa, 3, dtype=dtype).mT
    return (*(x.to(device) for x in (*tensors, tips)), None)


def test_what_is_left_to_torch():
    """Other devices and types, transforms of functions, trees whose nodes are not in preorder."""
    in_preorder, level_by_level = random_trees(1, 7)[0], torch.tensor([-1, 9, 9, 10, 10, 11, 11, 0, 7, 7, 8, 8])
    with kernels("numba"):
        assert CompiledPruning.where_possible(*arguments_of(in_preorder)) is not None
        assert CompiledPruning.where_possible(*arguments_of(level_by_level)) is None
        assert CompiledPruning.where_possible(*arguments_of(in_preorder, device="meta")) is None
        assert CompiledPruning.where_possible(*arguments_of(in_preorder, dtype=torch.bfloat16)) is None
        trees, matrices, *others, _ = arguments_of(in_preorder)
        seen = []

        def function(x):
            seen.append(CompiledPruning.where_possible(trees, x, *others, None))
            return x.sum()

        torch.func.grad(function)(matrices)
        torch.func.vmap(function)(matrices[None])
        assert seen == [None, None]
    with kernels("torch"):
        assert CompiledPruning.where_possible(*arguments_of(in_preorder)) is None


@pytest.mark.parametrize(
    "tree",
    [
        [0, 3, 3, 0],
        [-1, 3, 3, 1],
        [-1, 3, 3, 3],
        [-1, 4, 3, 0],
        [-1, -1, 3, 0],
        [-1, 9, 3, 0],
        [-1, 5, 5, 4, 0, 5],
        [3, 3, 4, 4, 4],
        [3, 3, 4, -1, 3],
    ],
)
def test_what_is_no_tree_in_preorder(tree):
    """Compiled functions refuse whatever would lead out of their arrays."""
    with kernels("numba"):
        assert CompiledPruning.where_possible(*arguments_of(torch.tensor(tree))) is None
