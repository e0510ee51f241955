import math

import pytest
import torch

from pyro_ext.ops.inception_score import inception_score

K = 10


def draws(number=500, dtype=torch.float64):
    return torch.randn(number, K, generator=torch.Generator().manual_seed(0)).to(dtype).mul(3).softmax(-1)


def test_the_formula():
    probs = draws()
    marginal = probs.mean(0)
    expected = math.exp(float((probs * (probs / marginal).log()).sum(1).mean()))
    found = inception_score(probs, splits=1)
    assert found.mean.item() == pytest.approx(expected)
    assert found.deviation == 0


def test_bounds_and_what_is_exactly_zero():
    sure = torch.eye(K).repeat(50, 1)
    torch.testing.assert_close(inception_score(sure, splits=1).mean, torch.tensor(float(K)))
    for alike in (torch.full((100, K), 1 / K), torch.eye(K)[:1].expand(60, K)):
        torch.testing.assert_close(torch.stack([*inception_score(alike)]), torch.tensor([1.0, 0.0]))
    assert 1 <= inception_score(draws()).mean <= K


def test_samples_in_the_order_of_their_classes_are_shuffled():
    """Ten parts of a class each would score 1."""
    ordered = torch.eye(K).repeat_interleave(100, 0)
    assert inception_score(ordered, splits=10).mean > 9.5
    assert inception_score(ordered, seed=1) == inception_score(ordered, seed=1) != inception_score(ordered, seed=2)


def test_torchmetrics_agrees():
    from torchmetrics.image.inception import InceptionScore

    probs = draws().float()
    with pytest.warns(UserWarning, match="will save all extracted features"):
        metric = InceptionScore(feature=torch.nn.Identity(), splits=1)
    metric.update(probs.log())
    with pytest.warns(UserWarning, match="degrees of freedom"):
        expected = metric.compute()[0]
    torch.testing.assert_close(inception_score(probs, splits=1).mean, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_types(dtype):
    found = inception_score(draws(dtype=dtype)).mean
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), inception_score(draws()).mean, rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3, 2),), r"probs must hold probabilities that sum to 1 in each row, got a row that sums to 2"),
        ((torch.tensor([[1.5, -0.5]]),), "got a row that has a negative entry, -0.5; use .softmax"),
        ((torch.full((3, 2), math.nan),), "got a row that sums to nan"),
        ((draws().log(),), "probs must hold probabilities"),
        ((torch.zeros(3),), r"probs must be probabilities of shape \(N, K\), N and K at least 1, got shape \(3,\)"),
        ((torch.zeros(0, 2),), r"got shape \(0, 2\)"),
        ((torch.ones(3, 1, dtype=torch.int64),), "of torch.int64"),
        (([[1.0]],), "got list"),
        ((draws(5), 6), "splits must be at most the number of samples, 5, got 6"),
        ((draws(5), 0), "splits must be an integer of at least 1"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        inception_score(*arguments)
