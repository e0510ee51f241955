import pytest
import torch

from pyro_ext.ops.graphs import adjacency_matrix, normalize_adjacency
from pyro_ext.ops.sparse import SparseMatrix, dropout, dropout_values, multiply, multiply_sparse, stored_rows
from tests.contracts.device_guard import DEVICE, DeviceGuard


@pytest.fixture
def dense(dtype):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 9, generator=generator, dtype=dtype) * (torch.rand(6, 9, generator=generator) < 0.3)
    matrix[2] = 0  # an empty row
    matrix[:, 4] = 0
    return matrix


@pytest.fixture
def other(dtype):
    return torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_values_and_structure_are_those_of_the_dense_matrix(dense):
    matrix = SparseMatrix.from_dense(dense)
    assert torch.equal(matrix.to_dense(), dense)
    assert torch.equal(matrix.T.to_dense(), dense.T)
    assert torch.equal(matrix.T.T.to_dense(), dense)
    assert torch.equal(stored_rows(matrix), dense.nonzero()[:, 0])
    assert (matrix.dtype, matrix.device, matrix.shape) == (dense.dtype, dense.device, (6, 9))
    assert SparseMatrix.from_csr(matrix.crow, matrix.col, matrix.values, (6, 9)).to_dense().equal(dense)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_product(dense, other, batch):
    others = torch.randn(*batch, 9, 4, generator=torch.Generator().manual_seed(2), dtype=dense.dtype)
    torch.testing.assert_close(multiply(SparseMatrix.from_dense(dense), others), dense @ others)
    torch.testing.assert_close(SparseMatrix.from_dense(dense) @ other, dense @ other)


def test_gradients_to_second_order(dense, other):
    matrix = SparseMatrix.from_dense(dense.double())
    values, other = matrix.values.clone().requires_grad_(), other.double().requires_grad_()

    def product(values, other):
        return multiply(matrix.with_values(values), other)

    assert torch.autograd.gradcheck(product, (values, other))
    assert torch.autograd.gradgradcheck(product, (values, other))


def test_a_symmetric_matrix_is_its_own_backward_pass():
    matrix = normalize_adjacency(adjacency_matrix(torch.tensor([[0, 1, 1, 4], [1, 2, 3, 4]]), 6)).to(torch.float64)
    assert matrix.T is matrix
    other = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(6, 2, dtype=torch.float64)
    (own,) = torch.autograd.grad(multiply(matrix, other), other, gradient)
    assert torch.equal(own, multiply(matrix, gradient))
    changed = matrix.with_values(torch.rand_like(matrix.values))  # not symmetric any more
    assert not changed.is_symmetric
    (own,) = torch.autograd.grad(multiply(changed, other), other, gradient)
    torch.testing.assert_close(own, changed.to_dense().T @ gradient)


def test_dropout_is_that_of_stored_values(dense):
    matrix = SparseMatrix.from_dense(dense)
    assert dropout_values(matrix, 0.5, training=False) is matrix
    assert dropout_values(matrix, 0.0) is matrix
    torch.manual_seed(0)
    wide = SparseMatrix.from_dense(torch.ones(100, 200, dtype=dense.dtype))
    dropped = dropout_values(wide, 0.25)
    torch.testing.assert_close(dropped.values.unique(), torch.tensor([0, 1 / 0.75], dtype=dense.dtype))
    kept = (dropped.values > 0).double().mean()
    assert abs(kept - 0.75) < 5 * (0.25 * 0.75 / 20_000) ** 0.5
    assert dropped.crow is wide.crow
    assert dropped.transposed is wide.transposed  # built once


def test_product_of_sparse_matrices(dense):
    first, second = (SparseMatrix.from_dense(part.double()) for part in (dense, dense.T))
    product = multiply_sparse(first, second)
    torch.testing.assert_close(product.to_dense(), dense.double() @ dense.double().T)

    def of_values(values):
        return multiply_sparse(first, second.with_values(values)).values

    assert torch.autograd.gradcheck(of_values, second.values.clone().requires_grad_())


def test_dropout_keeps_the_mean_and_its_gradient(dtype):
    torch.manual_seed(0)
    x = torch.full((40_000,), 3.0, dtype=dtype, requires_grad=True)
    dropped = dropout(x, 0.2)
    kept = (dropped > 0).double().mean()
    assert abs(kept - 0.8) < 5 * (0.16 / 40_000) ** 0.5
    torch.testing.assert_close(dropped[dropped > 0], torch.full_like(dropped[dropped > 0], 3.75))
    (gradient,) = torch.autograd.grad(dropped.sum(), x)
    torch.testing.assert_close(gradient * 3, dropped)
    assert dropout(x, 0.2, training=False) is x


def test_empty_matrices():
    places = torch.zeros(0, dtype=torch.int64)
    matrix = SparseMatrix.from_coo(places, places, torch.zeros(0), (3, 2))
    other = torch.ones(2, 4, requires_grad=True)
    product = multiply(matrix, other)
    assert torch.equal(product, torch.zeros(3, 4))
    product.sum().backward()
    assert torch.equal(other.grad, torch.zeros(2, 4))
    assert SparseMatrix.from_coo(places, places, torch.zeros(0), (0, 2)) @ other.detach() is not None


def test_moved_to_another_type_and_device(dense):
    matrix = SparseMatrix.from_dense(dense).to(torch.float32)
    assert matrix.dtype == torch.float32
    with DeviceGuard():
        there = matrix.to(DEVICE)
        assert there.device == there.crow.device == there.transposed[3].device == DEVICE
        product = multiply(dropout_values(there, 0.5), torch.ones(9, 2, device=DEVICE, requires_grad=True))
        product.sum().backward()


VECTOR = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: multiply(m, torch.ones(3, 2)), r"dense must have shape \(..., 9, K\) for a sparse matrix of 6 x 9"),
        (lambda m: multiply(m, torch.ones(9)), r"dense must have shape .* got \(9,\)"),
        (lambda m: multiply(m, torch.ones(9, 2).half()), "dense must be torch.float.* as the matrix is, got"),
        (lambda m: m.with_values(torch.ones(1)), "values must have shape"),
        (lambda m: multiply_sparse(m, m), "second must have 9 rows, as first has columns, got 6"),
        (lambda m: dropout(torch.ones(2), -0.1), r"p must be a number in \[0, 1\)"),
        (lambda m: dropout_values(m, 1.0), r"p must be a number in \[0, 1\), got 1.0"),
        (lambda m: SparseMatrix.from_dense(torch.ones(3)), "dense must be a matrix"),
        (lambda m: SparseMatrix.from_coo(VECTOR, VECTOR, torch.ones(3), (2, 2)), "must be vectors of one length"),
        (lambda m: SparseMatrix.from_coo(VECTOR, VECTOR, VECTOR, (2, 2)), "values must be floating point, got"),
        (lambda m: SparseMatrix.from_coo(VECTOR, VECTOR, torch.ones(2), (2, 1)), "col must hold integers from 0 to 0"),
        (lambda m: SparseMatrix.from_coo(-VECTOR, VECTOR, torch.ones(2), (2, 2)), "row must hold integers from 0 to 1"),
        (lambda m: SparseMatrix.from_csr(VECTOR, VECTOR, torch.ones(2), (2, 2)), "crow must be 3 integers that rise"),
        (lambda m: SparseMatrix.from_csr(torch.tensor([0, 3, 2]), VECTOR, torch.ones(2), (2, 2)), "crow must be 3"),
    ],
)
def test_bad_input(dense, call, message):
    with pytest.raises(ValueError, match=message):
        call(SparseMatrix.from_dense(dense))
