"""Every member of every family keeps to the device and the type of its inputs, without a GPU at hand.

The members are those of the contracts of distributions, ELBOs, objectives and models: a new one there is one here.
Each is run twice: with inputs on a device that refuses what CUDA refuses, and with inputs on the CPU in float32 where
default device and default type are others, so that a tensor made without regard to the inputs is refused too.
"""

import contextlib
from typing import NamedTuple

import pyro
import pytest
import torch

from pyro_ext.datasets import load
from pyro_ext.distributions import TreeLikelihood, UniformTopology
from pyro_ext.distributions.testing import CHECKS, check_distribution
from pyro_ext.inference import local_params
from pyro_ext.inference.training.data import FitDataModule
from pyro_ext.inference.training.local import materialise
from pyro_ext.models import builder, describe
from tests.contracts import test_distributions, test_elbos, test_models, test_objectives
from tests.contracts.device_guard import DEVICE, DeviceGuard
from tests.distributions.trees import test_contract as test_trees
from tests.models.phylo.six_taxa import write_files

CPU = torch.device("cpu")
WAYS = ("inputs there", "defaults there")
ESSENTIAL = ("shapes", "support", "log_prob", "dtype", "gradients")


class Family(NamedTuple):
    """How to build a distribution from tensors, and their values."""

    build: object
    parameters: list
    skip: tuple = ()


def tree_likelihood(lengths):
    return TreeLikelihood(on(lengths.device)["trees"], lengths, num_sites=4)


def on(device, made={}):  # noqa: B006
    """Return trees on a device, the same ones at every call."""
    if device not in made:
        made[device] = {"trees": torch.tensor([[-1, 5, 5, 4, 0, 4], [-1, 4, 5, 5, 0, 4]], device="cpu").to(device)}
    return made[device]


DISTRIBUTIONS = {
    **{name: Family(own.build, own.parameters, tuple(own.skip)) for name, own in test_distributions.MEMBERS.items()},
    **{
        name: Family(build, [torch.linspace(-1, 1, size).expand(*batch, size).tolist()])
        for name, (size, batch, build) in test_trees.FAMILIES.items()
    },
    "TreeLikelihood": Family(tree_likelihood, [[[0.1, 0.2, 0.3, 0.1, 0.2]] * 2], ("infer_shapes",)),
    "UniformTopology": Family(lambda like: UniformTopology(5, like=like), [0.0], ("gradients", "score")),
}


@contextlib.contextmanager
def elsewhere(way):
    """Return a guard and the device of the inputs; the defaults are not theirs."""
    before = torch.get_default_dtype()
    inputs, default, dtype = (DEVICE, CPU, before) if way == WAYS[0] else (CPU, DEVICE, torch.float64)
    with DeviceGuard() as guard, torch.device(default):
        torch.set_default_dtype(dtype)
        try:
            yield guard, inputs
        finally:
            torch.set_default_dtype(before)


def tensors(values, device, dtype=torch.float32):
    return [torch.tensor(value, dtype=dtype, device=device, requires_grad=True) for value in values]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", {name.partition(",")[0]: name for name in DISTRIBUTIONS}.values())
def test_distributions(name, way):
    check(name, way, torch.float32, ESSENTIAL)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_in_full(name, way, dtype):
    check(name, way, dtype, CHECKS.keys() - {"goodness_of_fit"})  # a test of values: it asks no more of d than others


def check(name, way, dtype, checks):
    member = DISTRIBUTIONS[name]
    with elsewhere(way) as (_, device):
        parameters = tensors(member.parameters, device, dtype)
        skip = {*member.skip, *CHECKS} - {*checks} | {*member.skip}
        check_distribution(member.build(*parameters), parameters=parameters, skip=skip, num_samples=2000)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", test_elbos.MEMBERS)
def test_elbos_(name, way):
    with elsewhere(way) as (_, device):
        model, guide = (make(torch.float32, device) for make in (test_elbos.Model, test_elbos.Guide))
        elbo, index = test_elbos.MEMBERS[name](), torch.tensor([1, 3], device=device)
        loss = elbo(model, guide)(index)
        assert (loss.device, loss.dtype) == (device, torch.float32)
        loss.backward()
        elbo.loss_and_grads(model, guide, index)
        assert {p.grad.device for p in test_elbos.parameters(model, guide)} == {device}


def moved(x, device):
    """Return a batch on a device."""
    if isinstance(x, torch.Tensor):
        return x.to(device)
    return type(x)(moved(part, device) for part in x) if isinstance(x, (tuple, list)) else x


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", test_objectives.OBJECTIVES)
def test_objectives_(name, way, tmp_path):
    make, rows = test_objectives.OBJECTIVES[name]
    objective, batch = make(tmp_path), rows(tmp_path)
    with elsewhere(way) as (_, device):
        total = objective.to(device)(*moved(batch, device)).total  # makes lazy parameters there
        assert (total.device, total.dtype) == (device, torch.float32)
        total.backward()
        assert all(p.grad is None or p.grad.device == device for p in objective.parameters())


class Training:
    """A model at a small size, the batches of its data, and one step and one evaluation with them."""

    def __init__(self, name, folder):
        pyro.set_rng_seed(1)
        small = test_models.SMALL[name]
        if small.files:
            write_files(folder)
        data = load(describe(name).data, **small.data)
        self.plan = builder(name)(data, **small.options)
        self.module = FitDataModule(data, small.batch_size)
        self.batch = self.module.example()
        with local_params():
            materialise(self.plan.in_order(), self.batch)
        self.held_out = [*(self.module.held_out("valid") or self.module.held_out("test") or [])]

    def move(self, device):
        for player in self.plan.players:
            for parameter in player.objective.parameters():
                vars(parameter).pop("unconstrained", None)  # Pyro's weak reference of a parameter to itself
            player.objective.to(device)
        self.batch, self.held_out = moved(self.batch, device), moved(self.held_out, device)
        self.optimizers = [player.optimizer.make(player.objective.named_parameters()) for player in self.plan.players]

    def step(self):
        with local_params():
            for schedule in self.plan.schedules:
                schedule(1)
            for player, optimizer in zip(self.plan.players, self.optimizers, strict=True):
                optimizer.zero_grad()
                player.objective(*self.batch).total.backward()
                optimizer.step()
                player.objective.after_step()

    @torch.no_grad()
    def evaluate(self):
        with local_params():
            return self.plan.evaluate(self.held_out)


@pytest.mark.filterwarnings("ignore:the latent code has collapsed")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", test_models.SMALL)
def test_models_(name, way, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training = Training(name, tmp_path)
    with elsewhere(way) as (_, device):
        training.move(device)
        training.step()
        metrics = training.evaluate()
        assert all(float(value) == float(value) for value in metrics.values())
