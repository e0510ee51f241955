from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_ext.ops.mutations import (
    MISSING,
    conflicting_pairs,
    count_conflicts,
    fill_missing,
    gamete_counts,
    gamete_product,
    is_conflict_free,
    is_linear,
    lexsort,
)


def every(n, m):
    """All matrices of n cells and m mutations."""
    return (torch.arange(2 ** (n * m)).unsqueeze(-1) >> torch.arange(n * m) & 1).reshape(-1, n, m)


def clades(matrix):
    return [{i for i, row in enumerate(matrix) if row[j]} for j in range(len(matrix[0]))]


def compatible(matrix):
    """Whether clades are nested or disjoint, pair by pair: the definition of a perfect phylogeny."""
    return all(not p & q or p <= q or q <= p for p, q in combinations(clades(matrix), 2))


def chained(matrix):
    return all(p <= q or q <= p for p, q in combinations(clades(matrix), 2))


def graded(matrix):
    """The sum over unordered pairs of columns and triples of cells that show the three gametes."""
    columns = list(zip(*matrix, strict=True))
    return sum(
        (p[i] and q[i]) and (p[j] and not q[j]) and (not p[k] and q[k])
        for p, q in combinations(columns, 2)
        for i, j, k in product(range(len(matrix)), repeat=3)
    )


def test_all_small_matrices():
    matrices = every(3, 3)
    rows = matrices.tolist()
    assert is_conflict_free(matrices).tolist() == [compatible(matrix) for matrix in rows]
    assert is_linear(matrices).tolist() == [chained(matrix) for matrix in rows]
    assert gamete_product(matrices).tolist() == [graded(matrix) for matrix in rows]
    assert (int(is_conflict_free(matrices).sum()), int(is_linear(matrices).sum())) == (398, 230)


def test_all_matrices_of_four():
    matrices = every(4, 4)
    free, linear = is_conflict_free(matrices), is_linear(matrices)
    assert (int(free.sum()), int(linear.sum())) == (21196, 6902)
    assert bool(free[linear].all())
    sample = torch.randperm(len(matrices), generator=torch.Generator().manual_seed(0))[:2000]
    rows = matrices[sample].tolist()
    assert free[sample].tolist() == [compatible(matrix) for matrix in rows]
    assert linear[sample].tolist() == [chained(matrix) for matrix in rows]
    assert torch.equal(count_conflicts(matrices) == 0, free)
    assert torch.equal(gamete_product(matrices) == 0, free)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 7), st.integers(0, 6), st.integers(0, 10**6))
def test_orders_of_cells_and_mutations_do_not_matter(n, m, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.rand(n, m, generator=generator) < 0.5
    rows, columns = torch.randperm(n, generator=generator), torch.randperm(m, generator=generator)
    moved = matrix[rows][:, columns]
    for function in (count_conflicts, is_conflict_free, is_linear, gamete_product):
        assert torch.equal(function(matrix), function(moved))
    assert torch.equal(conflicting_pairs(matrix)[columns][:, columns], conflicting_pairs(moved))
    if m:  # a column more never removes conflicts
        assert count_conflicts(matrix[:, :-1]) <= count_conflicts(matrix)
        assert gamete_product(matrix[:, :-1]) <= gamete_product(matrix)


def test_duplicate_and_constant_columns_are_in_no_conflict():
    matrix = torch.rand(9, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    column = matrix[:, :1]
    assert not conflicting_pairs(torch.cat([column, column], 1)).any()
    more = torch.cat([matrix, torch.zeros(9, 1, dtype=torch.bool), torch.ones(9, 1, dtype=torch.bool)], 1)
    assert count_conflicts(more) == count_conflicts(matrix)
    assert count_conflicts(torch.cat([matrix, matrix], 1)) == 4 * count_conflicts(matrix)


def test_one_cell_and_one_mutation():
    assert bool(is_conflict_free(torch.ones(1, 5)))
    assert bool(is_linear(torch.tensor([[1, 0, 1]])))
    assert bool(is_linear(torch.tensor([[1], [0]])))
    assert gamete_product(torch.ones(0, 3)) == 0
    assert is_linear(torch.ones(2, 4, 0)).tolist() == [True, True]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int64, torch.float32, torch.float64])
def test_types(dtype):
    matrix = every(3, 3).to(dtype).reshape(8, 64, 3, 3)
    counts = gamete_counts(matrix)
    expected = dtype if dtype.is_floating_point else torch.int64
    assert {count.dtype for count in counts} == {expected}
    assert counts[0].shape == (8, 64, 3, 3)
    assert gamete_product(matrix).dtype == expected
    assert count_conflicts(matrix).dtype == torch.int64
    assert is_conflict_free(matrix).sum() == 398


def test_counts_are_those_of_cells():
    matrix = torch.rand(5, 20, 6, generator=torch.Generator().manual_seed(2)) < 0.4
    both, first, second = gamete_counts(matrix)
    p, q = matrix.unsqueeze(-1), matrix.unsqueeze(-2)
    assert torch.equal(both, (p & q).sum(1))
    assert torch.equal(first, (p & ~q).sum(1))
    assert torch.equal(second, (~p & q).sum(1))


def test_probabilities_give_expected_counts():
    """Of independent entries, for pairs of different columns."""
    chance = torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    matrices = every(3, 2).double()
    weights = torch.where(matrices == 1, chance, 1 - chance).prod(-1).prod(-1)
    for expected, counts in zip(gamete_counts(chance), gamete_counts(matrices), strict=True):
        torch.testing.assert_close(expected[0, 1], (weights * counts[:, 0, 1]).sum())
    assert torch.autograd.gradcheck(gamete_product, chance)


def test_a_row_alone_is_refused():
    with pytest.raises(ValueError, match=r"matrix must be cells x mutations.*got shape \(3,\)"):
        gamete_counts(torch.ones(3))


@pytest.mark.parametrize(("n", "m"), [(6, 10), (10, 6), (1, 4), (4, 1), (40, 7), (100, 30), (5, 0), (0, 5)])
def test_sorted_columns(n, m):
    matrices = torch.randint(0, 4, (5, n, m), generator=torch.Generator().manual_seed(4))
    matrices[:, : n - 2] = 1  # ties up to the last rows
    done = lexsort(matrices)
    assert done.shape == (5, n, m)  # never transposed
    for before, after in zip(matrices.tolist(), done.tolist(), strict=True):
        columns = [*zip(*before, strict=True)]
        assert [*zip(*after, strict=True)] == sorted(columns, reverse=True)
    rows = lexsort(matrices, -2)
    assert rows.tolist() == [sorted(matrix, reverse=True) for matrix in matrices.tolist()]


def test_sorting_keeps_the_type():
    for dtype in (torch.bool, torch.int8, torch.float64):
        matrix = torch.tensor([[0, 1], [1, 1]], dtype=dtype)
        assert torch.equal(lexsort(matrix), torch.tensor([[1, 0], [1, 1]], dtype=dtype))
    with pytest.raises(ValueError, match="dim must be one of -1, -2; got 0"):
        lexsort(matrix, 0)


def test_missing_entries_are_filled():
    matrix = torch.tensor([[0, 1, MISSING]], dtype=torch.int8)
    assert torch.equal(fill_missing(matrix), torch.tensor([[0, 1, 0]], dtype=torch.int8))
    assert fill_missing(matrix.float(), 1).tolist() == [[0, 1, 1]]
    assert fill_missing(matrix > 0).tolist() == [[False, True, True]]
