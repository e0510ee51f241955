import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroSample

from pyro_ext.nn import (
    AutoAdditiveNormal,
    ChebyshevConvolution,
    GraphConvolution,
    LocalNormal,
    SparseBuffer,
    glorot_uniform,
    normalize_adjacency,
)
from pyro_ext.ops.graphs import adjacency_matrix, scaled_laplacian
from pyro_ext.ops.sparse import SparseMatrix, multiply
from tests.contracts.test_devices import WAYS, elsewhere

EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0], [1, 2, 3, 4, 5, 0, 3]])


@pytest.fixture
def graph(dtype):
    weights = torch.ones(EDGES.shape[1], dtype=dtype)
    return adjacency_matrix(EDGES, 7, weights)  # node 6 has no edge


@pytest.fixture
def x(dtype):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(7, 5, generator=generator, dtype=dtype) * (torch.rand(7, 5, generator=generator) < 0.5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("aggregate_first", [False, True])
def test_layer_is_its_formula(graph, x, dtype, bias, sparse, aggregate_first):
    layer = GraphConvolution(5, 3, bias=bias, aggregate_first=aggregate_first).to(dtype)
    adjacency = normalize_adjacency(graph)
    expected = adjacency.to_dense() @ x @ layer.weight.T
    if bias:
        torch.nn.init.normal_(layer.bias)
        expected = expected + layer.bias
    features = SparseMatrix.from_dense(x) if sparse else x
    torch.testing.assert_close(layer(features, adjacency), expected)


def test_without_neighbours_it_is_linear(x, dtype):
    layer = GraphConvolution(5, 3).to(dtype)
    torch.testing.assert_close(layer(x, None), x @ layer.weight.T)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("order", [0, 1, 2, 3, 5])
def test_chebyshev_layer_is_the_sum_of_polynomials(graph, x, dtype, order, sparse):
    layer = ChebyshevConvolution(5, 3, order=order, bias=True).to(dtype)
    laplacian = scaled_laplacian(graph, 1.7)
    full = laplacian.to_dense()
    polynomials = [torch.eye(7, dtype=dtype), full]
    for _ in range(order):
        polynomials.append(2 * full @ polynomials[-1] - polynomials[-2])
    expected = sum(polynomials[k] @ x @ layer.weight[k].T for k in range(order + 1))
    torch.testing.assert_close(layer(SparseMatrix.from_dense(x) if sparse else x, laplacian), expected)


@pytest.mark.parametrize("make", [GraphConvolution, ChebyshevConvolution])
def test_gradients(graph, x, make):
    layer = make(5, 3).double()
    operator = scaled_laplacian(graph).to(torch.float64)
    features = SparseMatrix.from_dense(x.double())

    def output(weight):
        return torch.func.functional_call(layer, {"weight": weight}, (features, operator))

    assert torch.autograd.gradcheck(output, layer.weight.detach().requires_grad_())


@pytest.mark.parametrize(("make", "event_dim"), [(GraphConvolution, 2), (ChebyshevConvolution, 3)])
def test_particles_are_propagated_together(graph, x, make, event_dim):
    layer = make(5, 3, bias=True).double()
    shape, operator, features = layer.weight.shape, scaled_laplacian(graph).to(torch.float64), x.double()
    layer.weight = PyroSample(dist.Normal(torch.zeros(()).double(), 1.0).expand(shape).to_event(event_dim))
    layer.bias = PyroSample(dist.Normal(torch.zeros(()).double(), 1.0).expand([3]).to_event(1))
    weight, bias = torch.randn(4, 1, *shape).double(), torch.randn(4, 1, 3).double()
    for own in (features, SparseMatrix.from_dense(features)):
        together = pyro.condition(layer, data={"weight": weight, "bias": bias})(own, operator)
        one_by_one = [
            pyro.condition(layer, data={"weight": w[0], "bias": b[0]})(own, operator)
            for w, b in zip(weight, bias, strict=True)
        ]
        torch.testing.assert_close(together, torch.stack(one_by_one))


def test_noise_has_the_right_variance_only_after_aggregation(graph, x):
    """The variance of X W before aggregation, taken through it as that of independent noise, is too small."""
    adjacency, scale = normalize_adjacency(graph).to(torch.float64), 0.7
    full, features = adjacency.to_dense(), x.double().abs() + 0.1
    layer = GraphConvolution(5, 1, aggregate_first=True).double()
    layer.weight = PyroSample(dist.Normal(torch.zeros(()).double(), scale).expand([1, 5]).to_event(2))
    torch.manual_seed(0)
    draws = torch.stack([layer(features, adjacency) for _ in range(4000)])[..., 0]
    truth = (full @ features).square().sum(-1) * scale**2
    before = full.square() @ features.square().sum(-1) * scale**2
    connected = slice(0, 6)
    assert (draws.var(0) / truth - 1).abs().max() < 5 * (2 / 4000) ** 0.5
    assert (before / truth)[connected].max() < 0.8


def bayesian(local, rows=5, columns=2):
    """A layer whose weight has a prior, and a guide of it with much noise."""
    layer = GraphConvolution(rows, columns, bias=True, local=local).double()
    start = torch.randn(columns, rows, generator=torch.Generator().manual_seed(1)).double()
    layer.weight = PyroSample(dist.Normal(torch.zeros(()).double(), 1.0).expand([columns, rows]).to_event(2))
    torch.nn.init.constant_(layer.bias, 0.5)
    return layer, AutoAdditiveNormal(layer, init_log_variance=-1.0, init_loc={"weight": start}), start


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_normal_weights_have_the_mean_and_variance_of_their_outputs(graph, x, local, sparse):
    """Of the aggregated features; with local reparameterisation nodes are drawn by themselves, without it together."""
    adjacency, features, number = normalize_adjacency(graph).to(torch.float64), x.double(), 4000
    layer, guide, start = bayesian(local)
    own = SparseMatrix.from_dense(features) if sparse else features
    torch.manual_seed(0)
    guide(own, adjacency)
    particles = pyro.plate("particles", number, dim=-2)
    with torch.no_grad():
        trace = pyro.poutine.trace(particles(guide)).get_trace(own, adjacency)
        draws = particles(pyro.poutine.replay(layer, trace=trace))(own, adjacency)
    assert draws.shape == (number, 7, 2)
    averages = adjacency.to_dense() @ features
    mean, covariance = averages @ start.T + 0.5, averages @ averages.T * math.exp(-1)
    variance = covariance.diagonal()[:, None].expand(7, 2)
    assert ((draws.mean(0) - mean).abs() <= 5 * (variance / number).sqrt() + 1e-7).all()
    found = draws.var(0)
    assert ((found - variance).abs() <= 5 * variance * (2 / number) ** 0.5 + 1e-7).all()
    together = torch.stack([draws[:, :, k].T.cov() for k in range(2)]).mean(0)
    expected = covariance.diagonal().diag() if local else covariance
    assert (together - expected).abs().max() <= 5 * float(variance.max()) * (2 / (2 * number)) ** 0.5


def test_drawn_outputs_are_refused_a_second_time(graph, x):
    adjacency = normalize_adjacency(graph).to(torch.float64)
    layer, _, start = bayesian(local=True)

    class Twice(PyroModule):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self):
            return self.layer(x.double(), adjacency) - self.layer(x.double(), adjacency)

    twice = Twice()
    twice()  # weights of the prior are the same both times
    value = LocalNormal(start, torch.zeros_like(start)).to_event(2).rsample()
    with pytest.raises(ValueError, match="layer 'layer' is used twice in one forward pass"):
        pyro.poutine.condition(twice, data={"layer.weight": value})()


def test_no_dense_matrix_of_features_is_made(graph):
    wide = SparseMatrix.from_coo(torch.arange(7), torch.arange(7) * 1000, torch.ones(7), (7, 10_000))
    layer = GraphConvolution(10_000, 2)
    largest = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            largest.extend(part.numel() for part in torch.utils._pytree.tree_leaves(result) if hasattr(part, "numel"))
            return result

    with Sizes():
        layer(wide, normalize_adjacency(graph).to(torch.float32)).sum().backward()
    assert max(largest) <= layer.weight.numel()


def test_glorot():
    torch.manual_seed(0)
    weights = glorot_uniform(torch.empty(3, 40, 60, dtype=torch.float64))
    assert weights.abs().max() <= 0.06**0.5
    assert weights.std().item() == pytest.approx((0.06 / 3) ** 0.5, rel=0.03)


def test_buffers_follow_a_module_and_are_not_saved(graph):
    module = torch.nn.ModuleDict(
        {"adjacency": SparseBuffer(graph), "features": SparseBuffer(graph.with_values(graph.values))}
    )
    assert not module.state_dict()
    for own in module.values():
        assert own.double()().dtype == torch.float64
        assert torch.equal(own().to_dense(), graph.to_dense().double())
    assert module["adjacency"]().is_symmetric
    assert not module["features"]().is_symmetric


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [GraphConvolution, ChebyshevConvolution])
def test_layers_keep_to_their_device(make, way):
    layer = make(5, 3)
    weights = torch.ones(EDGES.shape[1])
    with elsewhere(way) as (_, device):
        operator = scaled_laplacian(adjacency_matrix(EDGES.to(device), 7, weights.to(device)))
        layer.to(device)
        output = layer(torch.ones(7, 5, device=device, dtype=torch.float32), operator)
        assert (output.device, output.dtype) == (device, torch.float32)
        output.sum().backward()
        assert layer.weight.grad.device == device


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: GraphConvolution(0, 2), "in_features must be an integer of at least 1"),
        (lambda a: GraphConvolution(2, 0), "out_features must be an integer of at least 1"),
        (lambda a: ChebyshevConvolution(2, 2, order=-1), "order must be an integer of at least 0"),
        (lambda a: GraphConvolution(4, 2)(torch.ones(7, 5), a), r"x must have shape \(..., N, 4\), got \(7, 5\)"),
        (lambda a: GraphConvolution(5, 2)(torch.ones(6, 5), a), r"dense must have shape \(..., 7, K\)"),
        (lambda a: multiply(a, torch.ones(7)), "dense must have shape"),
    ],
)
def test_bad_input(call, message):
    adjacency = normalize_adjacency(adjacency_matrix(EDGES, 7))
    with pytest.raises(ValueError, match=message):
        call(adjacency)
