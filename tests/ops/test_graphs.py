import pytest
import torch

from pyro_ext.ops.graphs import adjacency_matrix, normalize_adjacency, normalize_rows, scaled_laplacian
from pyro_ext.ops.sparse import SparseMatrix

EDGES = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 3, 2, 3]])  # 2 and 3 have edges to themselves, 4 has none
NAMES = ["symmetric", "row"]


@pytest.fixture
def adjacency(dtype):
    return adjacency_matrix(EDGES, 5, torch.ones(6, dtype=dtype))


def test_each_edge_counts_once_in_both_directions(adjacency, dtype):
    expected = torch.zeros(5, 5, dtype=dtype)
    for one, other in EDGES.T.tolist():
        expected[one, other] = expected[other, one] = 1
    assert torch.equal(adjacency.to_dense(), expected)
    assert adjacency.is_symmetric
    assert adjacency.dtype == dtype


@pytest.mark.parametrize("self_loops", ["add", "remaining", "none"])
@pytest.mark.parametrize("mode", NAMES)
def test_normalised_as_dense(adjacency, mode, self_loops, dtype):
    full = adjacency.to_dense()
    if self_loops == "add":
        full = full + torch.eye(5, dtype=dtype)
    elif self_loops == "remaining":
        full = full + torch.diag((full.diagonal() == 0).to(dtype))
    degree = full.sum(1)
    scale = torch.where(degree > 0, degree.rsqrt(), 0)
    inverse = torch.where(degree > 0, 1 / degree, 0)
    expected = scale[:, None] * full * scale if mode == "symmetric" else inverse[:, None] * full
    result = normalize_adjacency(adjacency, mode, self_loops)
    torch.testing.assert_close(result.to_dense(), expected)
    assert result.is_symmetric == (mode == "symmetric")
    if mode == "symmetric":
        assert torch.equal(result.to_dense(), result.to_dense().T)


def test_loops_added_or_kept_differ_around_nodes_that_had_one(adjacency):
    added, kept = (normalize_adjacency(adjacency, self_loops=own).to_dense() for own in ("add", "remaining"))
    different = (added != kept).any(1)
    assert different.tolist() == [False, True, True, True, False]  # nodes 2 and 3, and the neighbour 1 of 2


def test_a_node_alone_keeps_its_features_only_with_a_loop(adjacency):
    assert normalize_adjacency(adjacency).to_dense()[4].tolist() == [0, 0, 0, 0, 1]
    assert normalize_adjacency(adjacency, self_loops="none").to_dense()[4].tolist() == [0] * 5
    assert normalize_adjacency(adjacency, "row", "none").to_dense()[4].tolist() == [0] * 5


@pytest.mark.parametrize("mode", ["symmetric", "row"])
def test_edges_of_weight_zero_have_gradients(mode):
    weights = torch.tensor([0.0, 2.0], requires_grad=True)
    adjacency = adjacency_matrix(torch.tensor([[0, 2], [1, 3]]), 4, weights)  # nodes 0 and 1 have degree 0
    (gradient,) = torch.autograd.grad(normalize_adjacency(adjacency, mode, "none").values.sum(), weights)
    assert gradient.isfinite().all()


def test_edges_of_weight_zero_make_no_nan(dtype):
    adjacency = adjacency_matrix(torch.tensor([[0, 1], [1, 2]]), 3, torch.tensor([0.0, 2.0], dtype=dtype))
    for mode in NAMES:
        for self_loops in ("add", "remaining", "none"):
            assert normalize_adjacency(adjacency, mode, self_loops).values.isfinite().all()


@pytest.mark.parametrize("lambda_max", [2.0, 1.5])
def test_scaled_laplacian_as_dense(adjacency, lambda_max, dtype):
    averaging = normalize_adjacency(adjacency, self_loops="none").to_dense()
    laplacian = torch.eye(5, dtype=dtype) - averaging
    result = scaled_laplacian(adjacency, lambda_max)
    torch.testing.assert_close(result.to_dense(), 2 / lambda_max * laplacian - torch.eye(5, dtype=dtype))
    assert result.is_symmetric


def test_spectrum_of_the_scaled_laplacian_is_within_one():
    edges = torch.randint(20, (2, 40), generator=torch.Generator().manual_seed(0))
    values = torch.linalg.eigvalsh(scaled_laplacian(adjacency_matrix(edges, 20)).to_dense().double())
    assert -1 - 1e-6 <= values.min() <= values.max() <= 1 + 1e-6


def test_rows_of_zeros_stay(dtype):
    rows = torch.tensor([[1, 3], [0, 0], [0, 2]], dtype=dtype)
    result = normalize_rows(SparseMatrix.from_dense(rows)).to_dense()
    assert torch.equal(result, torch.tensor([[0.25, 0.75], [0, 0], [0, 1]], dtype=dtype))


SQUARE = SparseMatrix.from_dense(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
PAIR = torch.tensor([[0], [1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adjacency_matrix(torch.zeros(3, 2, dtype=torch.int64), 2), r"edges must be integers of shape \(2, E"),
        (lambda: adjacency_matrix(torch.zeros(2, 2), 2), "edges must be integers"),
        (lambda: adjacency_matrix(PAIR, 1), "edges names node 1; there are nodes 0 to 0"),
        (lambda: adjacency_matrix(-PAIR, 2), "edges names node -1"),
        (lambda: adjacency_matrix(PAIR, 0), "num_nodes must be an integer of at least 1"),
        (lambda: adjacency_matrix(PAIR, 2, torch.ones(3)), "weights must hold one number for each of 1 edges"),
        (lambda: adjacency_matrix(PAIR, 2, torch.tensor([-0.5])), "weights must be finite and at least 0, got -0.5"),
        (lambda: adjacency_matrix(PAIR, 2, torch.tensor([float("nan")])), "weights must be finite and at least 0"),
        (
            lambda: adjacency_matrix(torch.tensor([[0, 1], [1, 0]]), 2, torch.tensor([1.0, 2.0])),
            "weights must be the same wherever an edge is repeated",
        ),
        (lambda: normalize_adjacency(SQUARE), "adjacency must be symmetric for mode='symmetric'"),
        (lambda: normalize_adjacency(SQUARE, "rows"), "mode must be one of symmetric, row; got 'rows'"),
        (lambda: normalize_adjacency(SQUARE, "row", "yes"), "self_loops must be one of add, remaining, none"),
        (lambda: normalize_adjacency(SparseMatrix.from_dense(torch.ones(2, 3)), "row"), "adjacency must be square"),
        (lambda: normalize_adjacency(SparseMatrix.from_dense(-torch.eye(2)), "row"), "at least 0, got -1"),
        (lambda: scaled_laplacian(adjacency_matrix(PAIR, 2), 0.0), "lambda_max must be a positive"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
