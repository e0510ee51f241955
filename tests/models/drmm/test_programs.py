"""The program over many images with its max-product guide: the bound in closed form, labels, plates, SVI."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO

from pyro_ext.inference import LocalELBOModule
from pyro_ext.models.drmm import DRMM, Layer, Switches
from pyro_ext.models.drmm.estimation import estimate_priors
from pyro_ext.models.drmm.objective import kl_loss

SHAPE = (1, 7, 7)
NUMBER, CLASSES = 6, 3
ELBO = TraceEnum_ELBO(max_plate_nesting=1)


def make(prior="factorised", dtype=torch.float64, **options):
    layers = [Layer(3, 3, pool=2), Layer(4, 2)]
    model = DRMM(layers, CLASSES, SHAPE, prior=prior, noise=0.8, **options).to(dtype)
    with torch.no_grad():
        model.class_logits.normal_()
        for layer in model.layers:
            layer.biases.normal_()
    estimate_priors(model, [torch.randn(40, *SHAPE, dtype=dtype)])
    return model


def images(dtype=torch.float64, number=NUMBER):
    return torch.randn(number, *SHAPE, dtype=dtype)


def bound(model, x, y=None):
    """Minus the ELBO of every image, shape (B,), by a sum over the classes."""
    scores, _, switches = model.infer(x)
    log_q = (scores / model.noise**2).log_softmax(-1)
    if y is not None:
        known = y >= 0
        given = torch.nn.functional.one_hot(y.clamp_min(0), CLASSES).to(x)
        log_q = torch.where(known[:, None], given.clamp_min(torch.finfo(x.dtype).tiny).log(), log_q)
    costs = []
    for c in range(CLASSES):
        label = torch.full((len(x),), c)
        rendering = model.rendering(label, switches)
        pixels = (x - rendering.image).square().flatten(1).sum(-1) / (2 * model.noise**2)
        pixels = pixels + x[0].numel() / 2 * (2 * math.pi * model.noise**2).log()
        if model.prior == "path":
            norm = rendering.image.square().flatten(1).sum(-1) / 2
            pixels = pixels - (norm + rendering.bias_term) / model.noise**2
        costs.append(pixels - model.log_prior(label, switches) + log_q[:, c])
    total = (log_q.exp() * torch.stack(costs, -1)).sum(-1)
    if y is not None:
        own = (scores / model.noise**2).log_softmax(-1).gather(-1, y.clamp_min(0)[:, None])[:, 0]
        total = total - torch.where(known, own, 0.0)
    return total


@pytest.mark.parametrize("prior", ["path", "factorised"])
@pytest.mark.parametrize("labels", [None, [-1, -1, -1, -1, -1, -1], [2, -1, 0, -1, 1, 1]])
def test_bound_is_reconstruction_and_divergence(prior, labels, dtype):
    model, x = make(prior, dtype), images(dtype)
    y = None if labels is None else torch.tensor(labels)
    loss = LocalELBOModule(model, model.guide, ELBO)(x, y)
    torch.testing.assert_close(loss, bound(model, x, y).sum(), rtol=1e-5 if dtype == torch.float32 else 1e-10, atol=0)


def test_bound_holds_the_divergence_with_the_sign_of_the_elbo():
    model, x = make(), images()
    with torch.no_grad():
        model.class_templates.zero_()  # every class renders nothing: what is left of c is the divergence
        model.class_templates[1, 0] = 1e-9
    losses = []
    guide = poutine.block(model.guide, hide=["c", "data"])
    for logits in (torch.zeros(CLASSES).double(), torch.tensor([8.0, 0.0, 0.0]).double()):

        def fixed(x, logits=logits):
            guide(x)
            with pyro.plate("data", len(x), subsample=torch.arange(len(x)), dim=-1):
                pyro.sample("c", pyro.distributions.Categorical(logits=logits), infer={"enumerate": "parallel"})

        own = kl_loss(logits, model.class_logits.detach().log_softmax(-1))
        losses.append(ELBO.loss(model, fixed, x) / len(x) - own.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_gradients_are_those_of_the_closed_form():
    model, x = make(), images()
    y = torch.tensor([2, -1, 0, -1, 1, 1])
    parameters = [*model.parameters()]
    gradients = torch.autograd.grad(LocalELBOModule(model, model.guide, ELBO)(x, y), parameters, allow_unused=True)
    expected = torch.autograd.grad(bound(model, x, y).sum(), parameters, allow_unused=True)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_batches_are_scaled_to_the_whole():
    model = make(size=60)
    x, index = images(), torch.tensor([3, 50, 7, 8, 9, 1])
    trace = poutine.trace(model).get_trace(x, None, index)
    assert trace.nodes["x"]["scale"] == 10
    assert torch.equal(trace.nodes["data"]["value"], index)
    loss = LocalELBOModule(model, model.guide, ELBO)(x, None, index)
    torch.testing.assert_close(loss, 10 * bound(model, x).sum(), rtol=1e-10, atol=0)


def test_rows_of_pixels_are_images():
    model, x = make(), images()
    loss = LocalELBOModule(model, model.guide, ELBO)
    torch.testing.assert_close(loss(x.flatten(1)), loss(x))


def test_program_draws_from_the_prior():
    model = make()
    trace = poutine.trace(model).get_trace(images())
    trace.compute_log_prob()
    nodes = trace.nodes
    assert [name for name in nodes if nodes[name]["type"] == "sample" and not nodes[name]["is_observed"]] == [
        "data", "c", "t1", "a1", "t2", "a2"
    ]  # fmt: skip
    assert nodes["t1"]["value"].shape == nodes["a1"]["value"].shape == (NUMBER, 3, 2, 2)
    g = [Switches(nodes[f"t{n}"]["value"], nodes[f"a{n}"]["value"]) for n in (1, 2)]
    own = sum(nodes[name]["log_prob"] for name in ("c", "t1", "a1", "t2", "a2"))
    torch.testing.assert_close(own, model.log_prior(nodes["c"]["value"], g))
    torch.testing.assert_close(nodes["_RETURN"]["value"], model.render(nodes["c"]["value"], g))


def test_svi_trains_it():
    model, x = make(dtype=torch.float32), images(torch.float32, 30)
    svi = SVI(model, model.guide, pyro.optim.Adam({"lr": 0.02}), TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step(x) for _ in range(30)]
    assert losses[-1] < losses[0] - 10


def test_path_prior_refuses_batch_norm():
    model = DRMM([Layer(2, 3)], CLASSES, SHAPE, batch_norm="up")
    with pytest.raises(ValueError, match=r"the path prior needs a model without batch norm; use .*fold_batch_norm"):
        model(images(torch.float32))
