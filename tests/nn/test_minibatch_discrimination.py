import pytest
import torch
from torch import nn

from pyro_ext.nn import MinibatchDiscrimination, batch_similarity, initialize_from_data_


def rows(number=7, kernels=4, size=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, kernels, size, dtype=dtype, generator=generator)


@pytest.mark.parametrize("exclude_self", [False, True])
def test_the_formula(exclude_self, dtype):
    m = rows(dtype=dtype)
    expected = torch.zeros(7, 4, dtype=dtype)
    for i in range(7):
        for j in range(7):
            if not (exclude_self and i == j):
                expected[i] += (-(m[i] - m[j]).abs().sum(-1)).exp()
    found = batch_similarity(m, exclude_self)
    torch.testing.assert_close(found, expected)
    assert found.dtype == dtype


def test_the_term_of_itself_is_exactly_one():
    m = rows()
    torch.testing.assert_close(batch_similarity(m) - batch_similarity(m, exclude_self=True), torch.ones(7, 4).double())
    far = 30.0 * torch.arange(5.0)[:, None, None]  # what is small is not lost beside the 1
    alone = batch_similarity(far, exclude_self=True)
    torch.testing.assert_close(alone[0], torch.tensor([-30.0]).exp(), atol=0, rtol=1e-4)


def test_rows_in_another_order_are_similar_in_another_order():
    m, order = rows(), torch.randperm(7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(batch_similarity(m[order]), batch_similarity(m)[order])


@pytest.mark.parametrize("max_elements", [1, 49, 100, 147])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_few_kernels_at_a_time_give_the_same(max_elements, exclude_self):
    whole, parts = rows().requires_grad_(), rows().requires_grad_()
    expected, found = batch_similarity(whole, exclude_self), batch_similarity(parts, exclude_self, max_elements)
    torch.testing.assert_close(found, expected)
    for y in (expected, found):
        y.square().sum().backward()
    torch.testing.assert_close(parts.grad, whole.grad)
    with torch.no_grad():
        torch.testing.assert_close(batch_similarity(parts, exclude_self, max_elements), expected)


def test_no_tensor_is_larger_than_allowed():
    class Sizes(torch.overrides.TorchFunctionMode):
        largest = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.largest = max(self.largest, result.numel())
            return result

    with Sizes() as sizes:
        batch_similarity(rows(40, 30, 2), max_elements=2 * 40 * 40)
    assert sizes.largest == max(2 * 40 * 40, 40 * 30 * 2)


def test_gradients():
    torch.autograd.gradcheck(lambda m: batch_similarity(m, True), rows(4, 2, 2).requires_grad_())


def test_a_collapsed_batch_is_seen():
    """What real and generated images that are all alike look like: n - 1 neighbours at no distance."""
    layer = MinibatchDiscrimination(5, kernels=3, kernel_size=2, exclude_self=True)
    x = torch.randn(20, 5)
    initialize_from_data_(layer, x)
    varied, alike = layer(x)[:, 5:], layer(x[:1].expand(20, 5))[:, 5:]
    torch.testing.assert_close(varied.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(alike - layer.bias, torch.full((20, 3), 19.0))
    assert (alike.mean(0) - varied.mean(0)).min() > 10


def test_initialisation_puts_the_nearest_neighbour_at_two():
    layer = MinibatchDiscrimination(5, kernels=3, kernel_size=2, exclude_self=True).double()
    x = torch.randn(20, 5).double()
    initialize_from_data_(layer, x)
    m = (x @ layer.directions).unflatten(1, (3, 2)) * layer.log_length.exp()[:, None]
    distance = (m[:, None] - m[None]).abs().sum(-1) + 1e9 * torch.eye(20)[..., None]
    torch.testing.assert_close(distance.amin(1).mean(0), torch.full((3,), 2.0).double())


def test_one_row_and_rows_that_are_equal_initialise():
    for x in (torch.ones(1, 5), torch.ones(4, 5)):
        layer = initialize_from_data_(MinibatchDiscrimination(5, kernels=3), x)
        assert layer(torch.randn(2, 5)).isfinite().all()


def test_features_are_passed_on_and_their_number_is_known():
    layer, x = MinibatchDiscrimination(5, kernels=3), torch.randn(6, 5)
    assert layer(x).shape == (6, layer.out_features)
    assert torch.equal(layer(x)[:, :5], x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MinibatchDiscrimination(0), "in_features must be an integer of at least 1, got 0"),
        (lambda: MinibatchDiscrimination(3, kernels=0), "kernels must be an integer of at least 1"),
        (lambda: MinibatchDiscrimination(3)(torch.zeros(2, 4)), r"features must have shape \(n, 3\), got \(2, 4\)"),
        (lambda: batch_similarity(torch.zeros(2, 4)), r"projected must have shape \(n, kernels, kernel_size\)"),
        (lambda: batch_similarity(rows(), max_elements=0), "max_elements must be an integer of at least 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_it_learns_to_tell_a_collapsed_generator():
    """Single examples cannot tell: each one of the collapsed batch is an ordinary real example."""
    torch.manual_seed(0)
    real = torch.randn(64, 4)
    net = nn.Sequential(MinibatchDiscrimination(4, kernels=5, exclude_self=True), nn.Linear(9, 1))
    initialize_from_data_(net, real)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(30):
        varied, alike = net(torch.randn(64, 4)), net(torch.randn(1, 4).expand(64, 4))
        loss = nn.functional.softplus(-varied).mean() + nn.functional.softplus(alike).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3
