import pytest
import torch
from torch.distributions import Normal

from pyro_ext.datasets.worms import lag_moments, simulate_activity
from pyro_ext.models.neuron_matching import LinearDynamics


def transitions(dtype, *batch):
    return 0.3 * torch.randn(*batch, 3, 3, dtype=dtype)


def test_density_is_that_of_the_activity(dtype, device):
    transition = transitions(dtype, 4).to(device)
    activity = simulate_activity(transition, 30)
    means = activity[:, :-1] @ transition.mT
    expected = Normal(means, 1.0).log_prob(activity[:, 1:]).sum((-2, -1))
    torch.testing.assert_close(LinearDynamics(transition, 30).log_prob(lag_moments(activity)), expected)


def test_values_and_parameters_broadcast():
    d = LinearDynamics(transitions(torch.float64, 2, 1), 5)
    assert d.batch_shape == (2, 1)
    values = d.sample((7,))
    assert values.shape == (7, 2, 1, 6, 6)
    assert d.log_prob(values).shape == (7, 2, 1)
    wide = d.expand((2, 3))
    assert wide.log_prob(values[0]).shape == (2, 3)
    torch.testing.assert_close(wide.log_prob(values[0])[:, 2:], d.log_prob(values[0]))


def test_gradient_vanishes_at_the_regression():
    value = LinearDynamics(transitions(torch.float64), 50).sample()
    best = (value[:3, 3:] @ value[3:, 3:].inverse()).requires_grad_()
    LinearDynamics(best, 50).log_prob(value).backward()
    assert best.grad.abs().max() < 1e-10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearDynamics(torch.zeros(2, 3), 5), r"transition must have shape .* got \(2, 3\)"),
        (lambda: LinearDynamics(torch.zeros(3), 5), "transition must have shape"),
        (lambda: LinearDynamics(torch.eye(3), 0), "num_steps must be an integer of at least 1, got 0"),
        (lambda: LinearDynamics(torch.full((2, 2), float("nan")), 5), "transition"),
        (lambda: LinearDynamics(torch.eye(2), 5).log_prob(torch.full((4, 4), float("nan"))), "value"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()
