import pytest
import torch
from torch import nn

from pyro_ext.nn import MinibatchDiscrimination, WeightNorm, initialize_from_data_
from tests.contracts.device_guard import DEVICE, DeviceGuard

LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (6,)),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, stride=2), (2, 9)),
    "conv2d": (lambda: nn.Conv2d(2, 4, (3, 1), padding="same", groups=2), (2, 5, 4)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(2, 4, 5, stride=2, padding=2, output_padding=1), (2, 3, 3)),
}


def made(name, dtype=torch.float64):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    return make().to(dtype), 2.0 + 3.0 * torch.randn(40, *shape, dtype=dtype)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_what_it_was_until_its_lengths_change(name, dtype):
    layer, x = made(name, dtype)
    expected = layer(x)
    own = WeightNorm(layer)
    torch.testing.assert_close(own(x), expected)
    assert own(x).dtype == dtype


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_are_those_of_torchs_parametrisation(name):
    layer, x = made(name)
    dim = 1 if "transpose" in name else 0
    expected = nn.utils.parametrizations.weight_norm(made(name)[0], dim=dim)
    own = WeightNorm(layer)
    with torch.no_grad():
        scale = torch.rand(4, dtype=x.dtype) + 0.5
        own.scale.copy_(scale)
        length, direction = (getattr(expected.parametrizations.weight, f"original{at}") for at in (0, 1))
        length.copy_(scale.reshape(length.shape))
    torch.testing.assert_close(own(x), expected(x))
    for y in (own(x), expected(x)):
        y.square().sum().backward()
    torch.testing.assert_close(own.layer.weight.grad, direction.grad)
    torch.testing.assert_close(own.scale.grad, length.grad.flatten())


@pytest.mark.parametrize("name", LAYERS)
def test_longer_weights_change_nothing(name):
    layer, x = made(name)
    own = WeightNorm(layer)
    before = own(x)
    with torch.no_grad():
        own.layer.weight.mul_(7.0)
    torch.testing.assert_close(own(x), before)


@pytest.mark.parametrize("name", LAYERS)
def test_data_set_means_and_deviations(name, dtype):
    layer, x = made(name, dtype)
    own = initialize_from_data_(WeightNorm(layer, init_scale=0.5), x)
    rows = own(x).transpose(0, 1).flatten(1)
    torch.testing.assert_close(rows.mean(1), torch.zeros(4, dtype=dtype), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.std(1, correction=0), torch.full((4,), 0.5, dtype=dtype))


def test_a_feature_that_is_constant_stays_finite():
    own = initialize_from_data_(WeightNorm(nn.Linear(3, 2)), torch.ones(5, 3))
    assert own(torch.randn(4, 3)).isfinite().all()


def test_scales_that_are_not_trained_and_no_bias():
    own = WeightNorm(nn.Linear(3, 2), train_scale=False, bias=False)
    initialize_from_data_(own, torch.randn(50, 3))
    own(torch.randn(4, 3)).sum().backward()
    assert own.bias is None
    assert own.scale.grad is None
    assert [*own.state_dict()] == ["scale", "layer.weight"]


def test_initialisation_leaves_running_statistics_and_the_rest_alone():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), WeightNorm(nn.Linear(4, 2)))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    initialize_from_data_(net, torch.randn(50, 3))
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"2.scale", "2.bias"}
    assert not net[2].initializing


def test_an_error_on_the_way_ends_initialisation():
    net = nn.Sequential(WeightNorm(nn.Linear(3, 2)), nn.Linear(5, 1))
    with pytest.raises(RuntimeError):
        initialize_from_data_(net, torch.randn(4, 3))
    assert not net[0].initializing


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WeightNorm(nn.ReLU()), "layer must be a linear or convolutional layer of torch.nn, got ReLU"),
        (lambda: WeightNorm(nn.LazyLinear(3)), "layer must have its sizes, got LazyLinear"),
        (lambda: WeightNorm(nn.ConvTranspose1d(4, 4, 3, groups=2)), "must have one group if it is a transposed"),
        (lambda: WeightNorm(nn.Linear(2, 2), init_scale=0.0), "init_scale must be a positive, finite number, got 0.0"),
        (lambda: initialize_from_data_(nn.Linear(2, 2), torch.ones(2, 2)), "module must have layers such as Weight"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_on_a_device_without_waits():
    with DeviceGuard() as guard:
        net = nn.Sequential(WeightNorm(nn.Linear(6, 4)), nn.ReLU(), MinibatchDiscrimination(4, 3, 2)).to(DEVICE)
        x = torch.randn(8, 6, device=DEVICE)
        initialize_from_data_(net, x)
        net(x).sum().backward()
        assert not guard.waits
        assert {p.grad.device for p in net.parameters()} == {DEVICE}
