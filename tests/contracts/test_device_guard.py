"""The guard refuses and counts what it says."""

import copy
import pickle

import pytest
import torch

from tests.contracts.device_guard import DEVICE, DeviceError, DeviceGuard


@pytest.fixture
def guard():
    with DeviceGuard() as guard:
        yield guard


@pytest.fixture
def x(guard):
    return torch.arange(3.0, device=DEVICE)


REFUSED = {
    "sum of both": lambda x: x + torch.ones(3),
    "in place": lambda x: torch.ones(3).add_(x),
    "in place, of a scalar": lambda x: torch.ones(3).add_(x[0]),
    "joined": lambda x: torch.cat([x, torch.zeros(3)]),
    "joined scalars": lambda x: torch.stack([x[0], torch.tensor(1.0)]),
    "product": lambda x: x @ torch.ones(3),
    "index of a tensor on the CPU": lambda x: torch.ones(3)[x.long()],
    "values given to an index": lambda x: x.index_put((x.long(),), torch.ones(3)),
    "generator": lambda x: torch.rand(3, device=DEVICE, generator=torch.Generator()),
    "output": lambda x: torch.add(x, x, out=torch.empty(3)),
    "linear layer": lambda x: torch.nn.Linear(3, 1)(x),
}
ALLOWED = {
    "scalar": lambda x: x + torch.tensor(1.0),
    "scalar in where": lambda x: torch.where(x > 0, x, torch.tensor(0.0)),
    "index on the CPU": lambda x: x[torch.tensor([0, 2])],
    "copy": lambda x: x.copy_(torch.ones(3)),
    "output": lambda x: torch.add(x, x, out=torch.empty_like(x)),
}
COUNTED = {
    "item": (lambda x: x[0].item(), 1),
    "float": (lambda x: float(x.sum()), 1),
    "if": (lambda x: bool((x > 0).all()), 1),
    "list": (lambda x: x.tolist(), 1),
    "copy": (lambda x: x.cpu(), 1),
    "move": (lambda x: x.to("cpu"), 1),
    "copy into": (lambda x: torch.empty(3).copy_(x), 1),
    "mask": (lambda x: x[x > 0], 1),
    "assignment to a mask": (lambda x: x.__setitem__(x > 0, 0.0), 1),
    "nonzero": (lambda x: x.nonzero(), 1),
    "unique": (lambda x: x.unique(), 1),
    "equal": (lambda x: torch.equal(x, x), 1),
    "index by a scalar": (lambda x: x[x[1].long()], 1),
    "repeat": (lambda x: x.repeat_interleave(x.long()), 1),
    "repeat a number of times": (lambda x: x.repeat_interleave(2), 0),
    "one_hot": (lambda x: torch.nn.functional.one_hot(x.long(), 3), 0),
    "one_hot of as many as there are": (lambda x: torch.nn.functional.one_hot(x.long()), 1),
    "Cholesky factor": (lambda x: torch.linalg.cholesky(torch.eye(3, device=DEVICE)), 1),
    "Cholesky factor, unchecked": (lambda x: torch.linalg.cholesky_ex(torch.eye(3, device=DEVICE)), 0),
    "arithmetic": (lambda x: torch.where(x > 0, x, 0).cumsum(0).exp(), 0),
    "move there": (lambda x: torch.ones(3).to(DEVICE), 0),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_refuses(call, x):
    with pytest.raises(DeviceError, match="test_device_guard"):
        call(x)


@pytest.mark.parametrize("call", ALLOWED.values(), ids=ALLOWED)
def test_allows(call, x):
    assert call(x).device == DEVICE


@pytest.mark.parametrize(("call", "number"), COUNTED.values(), ids=COUNTED)
def test_counts(call, number, guard, x):
    call(x)
    assert sum(guard.waits.values()) == number
    assert all("test_device_guard.<lambda>" in place for place in guard.waits)


def test_numpy_is_refused(x):
    with pytest.raises(TypeError, match="convert lazy device type tensor to numpy"):
        x.numpy()


def test_factories_follow_the_device(x):
    made = [torch.tensor([1, 2], device=DEVICE), x.new_zeros(2), torch.zeros_like(x), torch.randn(2, device=DEVICE)]
    assert {y.device for y in made} == {DEVICE}
    with torch.device(DEVICE):
        assert torch.ones(2).device == torch.tensor(1.0).device == DEVICE
    assert torch.ones(2).device.type == "cpu"


def test_modules_move_and_train(x):
    net = torch.nn.Linear(3, 1)
    weight = net.weight
    before = weight.detach().clone()
    net.to(DEVICE)
    optimizer = torch.optim.Adam(net.parameters())
    net(x).sum().backward()
    optimizer.step()
    assert net.weight is weight
    assert weight.device == weight.grad.device == DEVICE
    torch.testing.assert_close(weight.grad.cpu(), torch.tensor([[0.0, 1.0, 2.0]]))
    assert (weight.detach().cpu() != before).any()


def test_copies_and_views_are_what_they_are_elsewhere(x):
    x[1:] += 1
    assert x.tolist() == [0, 2, 3]
    for other in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert other.device == DEVICE
        assert other.tolist() == x.tolist()


def test_outside_of_a_guard_there_is_no_device():
    with DeviceGuard():
        x = torch.ones(2, device=DEVICE)
    with pytest.raises(DeviceError, match="outside of a guard"):
        x + 1
