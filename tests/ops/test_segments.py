"""Reductions over ragged rows, against loops over the segments."""

import math

import pytest
import torch

from pyro_ext.ops.segments import segment_log_softmax, segment_logsumexp, segment_max, segment_sum

SEGMENT = torch.tensor([0, 0, 0, 2, 3, 3])  # 1 and 4 are empty
NUM = 5
DENSE = {
    segment_sum: lambda x: x.sum(-1),
    segment_max: lambda x: x.amax(-1) if x.shape[-1] else x.new_full(x.shape[:-1], -math.inf),
    segment_logsumexp: lambda x: x.logsumexp(-1),
}


@pytest.mark.parametrize("function", DENSE)
@pytest.mark.parametrize("batch_shape", [(), (2,), (3, 2)])
def test_each_segment_alone(function, batch_shape, dtype):
    x = torch.randn(*batch_shape, len(SEGMENT), dtype=dtype)
    result = function(x, SEGMENT, NUM)
    expected = torch.stack([DENSE[function](x[..., i == SEGMENT]) for i in range(NUM)], -1)
    torch.testing.assert_close(result, expected)


def test_softmax_of_each_segment(dtype):
    x = 50 * torch.randn(3, len(SEGMENT), dtype=dtype)
    result = segment_log_softmax(x, SEGMENT, NUM)
    for i in (0, 2, 3):
        torch.testing.assert_close(result[:, i == SEGMENT], x[:, i == SEGMENT].log_softmax(-1))


def test_impossible_entries():
    x = torch.tensor([0.0, -math.inf, 0.0, -math.inf, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    log_p = segment_log_softmax(x, SEGMENT, NUM)
    half = math.log(0.5)
    torch.testing.assert_close(log_p.detach(), x.new_tensor([half, -math.inf, half, -math.inf, half, half]))
    assert segment_logsumexp(x, SEGMENT, NUM).tolist()[1:3] == [-math.inf, -math.inf]
    finite = log_p > -math.inf
    (grad,) = torch.autograd.grad(log_p[finite] @ torch.arange(4.0, dtype=torch.float64), x)
    assert torch.isfinite(grad).all()
    (grad,) = torch.autograd.grad(segment_logsumexp(x, SEGMENT, NUM)[[0, 3]].sum(), x)
    assert grad.tolist() == [0.5, 0.0, 0.5, 0.0, 0.5, 0.5]


def test_gradients():
    x = torch.randn(2, len(SEGMENT), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: segment_logsumexp(y, SEGMENT, NUM)[..., [0, 2, 3]], x)
    assert torch.autograd.gradcheck(lambda y: segment_log_softmax(y, SEGMENT, NUM), x)
    assert torch.autograd.gradgradcheck(lambda y: segment_log_softmax(y, SEGMENT, NUM), x)


def test_large_values_do_not_overflow(dtype):
    x = torch.full((len(SEGMENT),), 1e4, dtype=dtype)
    assert torch.isfinite(segment_logsumexp(x, SEGMENT, NUM)[[0, 2, 3]]).all()
