"""Substitution models: against exponentials of their rate matrices, each other, and bad input."""

import pytest
import torch

from pyro_ext.phylo.substitution import GTR, HKY85, JC69, K80

F64 = torch.float64
TIMES = torch.tensor([0.0, 1e-6, 0.1, 1.0, 50.0], dtype=F64)


def rate_matrix(rates, frequencies):
    """Q with one expected substitution per unit time; exchangeabilities AC AG AT CG CT GT."""
    matrix = torch.zeros(4, 4, dtype=F64)
    upper, right = torch.triu_indices(4, 4, 1)
    matrix[upper, right] = rates
    matrix = (matrix + matrix.T) * frequencies
    matrix = matrix - matrix.sum(-1).diag()
    return matrix / -(matrix.diag() * frequencies).sum()


def random_frequencies():
    frequencies = torch.rand(4, dtype=F64) + 0.1
    return frequencies / frequencies.sum()


def cases():
    torch.manual_seed(3)
    pi, rates = random_frequencies(), torch.rand(6, dtype=F64) + 0.1
    kappa, quarter, one = torch.tensor(3.7, dtype=F64), torch.full((4,), 0.25, dtype=F64), torch.ones(6, dtype=F64)
    transitions = torch.tensor([1, 3.7, 1, 1, 3.7, 1], dtype=F64)
    return {
        "JC69": (JC69(quarter), one, quarter),
        "K80": (K80(kappa), transitions, quarter),
        "HKY85": (HKY85(kappa, pi), transitions, pi),
        "GTR": (GTR(rates, pi), rates, pi),
        "GTR of equal rates": (GTR(one, quarter), one, quarter),
    }


CASES = cases()


@pytest.mark.parametrize("case", CASES)
def test_against_exponentials(case):
    model, rates, frequencies = CASES[case]
    expected = torch.matrix_exp(rate_matrix(rates, frequencies) * TIMES[:, None, None])
    result = model.transition_matrices(TIMES)
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(model.frequencies @ result, frequencies.expand(5, 4), rtol=0, atol=1e-13)


@pytest.mark.parametrize("case", CASES)
def test_endless_branches_forget_where_they_began(case):
    """The rounding error of an eigenvalue of 0 must not grow with the time."""
    model, _, frequencies = CASES[case]
    times = torch.tensor([1e3, 1e17, 1e52, 1e300], dtype=F64).requires_grad_()
    result = model.transition_matrices(times)
    torch.testing.assert_close(result, frequencies.expand(4, 4, 4), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(result[..., 0].sum(), times)
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize("case", CASES)
def test_float32_keeps_short_branches(case):
    """Off the diagonal, entries of a millionth keep their digits."""
    model = CASES[case][0]
    single = {
        JC69: lambda m: JC69(torch.zeros(())),
        K80: lambda m: K80(m.kappa.float()),
        HKY85: lambda m: HKY85(m.kappa.float(), m.frequencies.float()),
        GTR: lambda m: GTR(m.rates.float(), m.frequencies.float()),
    }[type(model)](model)
    result = single.transition_matrices(TIMES.float())
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), model.transition_matrices(TIMES), rtol=1e-5, atol=1e-14)


@pytest.mark.parametrize("build", [lambda k, pi: HKY85(k, pi), lambda k, pi: K80(k)])
def test_gradients_of_kappa(build):
    kappa, pi = torch.tensor([0.5, 1.0, 4.0], dtype=F64, requires_grad=True), random_frequencies().requires_grad_()
    times = torch.rand(3, 2, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda k, p, t: build(k, p / p.sum()).transition_matrices(t), (kappa, pi, times), check_undefined_grad=False
    )


def test_gradients_of_the_general_model():
    rates, pi = torch.ones(2, 6, dtype=F64, requires_grad=True), torch.full((4,), 0.25, dtype=F64, requires_grad=True)
    times = torch.rand(2, 3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r, p, t: GTR(r, p / p.sum()).transition_matrices(t), (rates, pi, times))


def test_reprs():
    assert [repr(model) for model, *_ in CASES.values()] == [
        "JC69()",
        "K80(kappa=3.7)",
        "HKY85(kappa=3.7, frequencies=(4,))",
        "GTR(rates=(6,), frequencies=(4,))",
        "GTR(rates=(6,), frequencies=(4,))",
    ]


QUARTER = torch.full((4,), 0.25)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: K80(torch.tensor(-1.0)), "kappa must be positive and finite, got -1"),
        (lambda: HKY85(torch.tensor(1.0), 2 * QUARTER), "frequencies must sum to 1, got a sum of 2; divide by it"),
        (lambda: HKY85(torch.tensor(1.0), torch.ones(3) / 3), r"frequencies must have shape batch_shape \+ \(4,\)"),
        (lambda: GTR(torch.ones(5), QUARTER), r"rates must have shape batch_shape \+ \(6,\), AC AG AT CG CT GT"),
        (lambda: GTR(torch.tensor([1, 1, 1, 1, 1, float("nan")]), QUARTER), "rates must be positive and finite"),
        (lambda: GTR(torch.ones(6), torch.tensor([0.5, 0.5, 0.0, 0.0])), "frequencies must be positive"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
