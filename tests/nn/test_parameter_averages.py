import copy

import pytest
import torch
from torch import nn

from pyro_ext.nn import HistoricalAverage, ParameterAverage
from tests.contracts.device_guard import DEVICE, DeviceGuard


def walk(module, steps, average, seed=0):
    """Let all parameters take random values, and note them."""
    generator, seen = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        average.update()
        seen.append([parameter.detach().clone() for parameter in module.parameters()])
    return [torch.stack(values) for values in zip(*seen, strict=True)]


def test_at_first_it_is_the_plain_mean(dtype):
    """A mean that begins at zero would be at 1e-4 of the parameters after the first step."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).to(dtype)
    average = ParameterAverage(module)
    seen = walk(module, 20, average)
    assert [*average.means()] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    for mean, values in zip(average.means().values(), seen, strict=True):
        torch.testing.assert_close(mean, values.mean(0))


def test_later_it_forgets():
    module = nn.Linear(1, 1, bias=False).double()
    average = ParameterAverage(module, min_weight=0.25)
    (values,) = walk(module, 12, average)
    expected = values[:4].mean(0)
    for value in values[4:]:
        expected = 0.75 * expected + 0.25 * value
    torch.testing.assert_close(average.means()["weight"], expected)


def test_it_is_called_like_the_module_whose_buffers_it_shares():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average = ParameterAverage(module)
    x = torch.randn(5, 2)
    module(x)
    assert torch.equal(average(x), module(x))
    walk(module, 3, average)
    module.eval()
    before = average(x)
    assert not torch.equal(before, module(x))
    average.copy_to_module()
    torch.testing.assert_close(module(x), before)


def test_its_state_is_its_own_and_goes_on():
    module = nn.Linear(2, 2)
    average = ParameterAverage(module, 0.0)
    walk(module, 5, average)
    assert [*average.state_dict()] == ["weight", "bias", "num_updates"]
    assert [*average.parameters()] == []
    other_module = copy.deepcopy(module)
    other = ParameterAverage(other_module, 0.0)
    other.load_state_dict(average.state_dict())
    for own, each in ((average, module), (other, other_module)):
        walk(each, 3, own, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(average.means().values(), other.means().values(), strict=True))


def test_names_with_dots_are_kept_in_the_state():
    average = ParameterAverage(nn.Sequential(nn.Sequential(nn.Linear(1, 1))))
    assert [*average.state_dict()] == ["0/0/weight", "0/0/bias", "num_updates"]


def test_the_penalty_and_its_gradient():
    module = nn.Linear(2, 2).double()
    history = HistoricalAverage(module)
    assert history.penalty() == 0
    history.penalty().backward()  # a step before the first update
    assert (module.weight.grad == 0).all()
    seen = walk(module, 6, history)
    module.zero_grad()
    penalty = history.penalty()
    expected = sum((p - values.mean(0)).square().sum() for p, values in zip(module.parameters(), seen, strict=True))
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    torch.testing.assert_close(module.bias.grad, 2 * (module.bias - seen[1].mean(0)).detach())
    assert not any(mean.requires_grad for mean in history.means().values())


def test_on_a_device_without_waits():
    with DeviceGuard() as guard:
        module = nn.Linear(2, 2)
        both = nn.ModuleList([module, HistoricalAverage(module)]).to(DEVICE)
        for _ in range(2):
            both[1].update()
            both[1].penalty().backward()
        both[1](torch.ones(3, 2, device=DEVICE))
        assert not guard.waits


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ParameterAverage(nn.ReLU()), "module must have parameters to average, ReLU has none"),
        (lambda: ParameterAverage(nn.Linear(1, 1), 1.5), r"min_weight must be a number in \[0, 1\], got 1.5"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
