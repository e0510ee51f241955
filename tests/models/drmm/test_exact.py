"""Exact inference through Pyro: evidence, most probable configurations, labels."""

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate, infer_discrete

from pyro_ext.models.drmm.exact import ExactProgram, decode, exact_map, log_evidence, log_joint
from tests.models.drmm.tiny import NAMES, images, tiny


@pytest.mark.parametrize("prior", ["path", "factorised"])
@pytest.mark.parametrize("name", NAMES)
def test_enumerating_elbo_sums_over_all_configurations(name, prior):
    model = tiny(name, 3, prior=prior, noise=0.8)
    for layer in model.layers:
        layer.position_logits.normal_()
        layer.on_logits.normal_()
    x = images(model, 2)
    program = config_enumerate(ExactProgram(model))
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(program, lambda x: None, x)
    assert -loss == pytest.approx(log_joint(model, x).flatten(1).logsumexp(-1).sum().item(), rel=1e-8)
    if prior == "factorised":
        assert -loss == pytest.approx(log_evidence(model, x).sum().item(), rel=1e-8)


@pytest.mark.parametrize("switch", ["relu", "leaky"])
@pytest.mark.parametrize("name", NAMES)
def test_discrete_inference_agrees_with_the_network(name, switch):
    for seed in range(2):
        model = tiny(name, seed, nonnegative=True, switch=switch, noise=0.7)
        x = images(model, 3)
        program = infer_discrete(config_enumerate(ExactProgram(model)), first_available_dim=-2, temperature=0)
        trace = pyro.poutine.trace(program).get_trace(x)
        c = trace.nodes["c"]["value"]
        assert torch.equal(c, model.dcn(x).argmax(-1))
        codes = [trace.nodes[f"g{number}"]["value"] for number in range(1, len(model.layers) + 1)]
        g = [decode(layer, code) for layer, code in zip(model.layers, codes, strict=True)]
        rendering = model.rendering(c, g)
        value = (x * rendering.image).sum((-1, -2, -3)) + rendering.bias_term + model.noise**2 * model.class_logits[c]
        torch.testing.assert_close(value, model.dcn(x).amax(-1), rtol=1e-8, atol=1e-8)


def test_discrete_inference_under_the_factorised_prior():
    model = tiny("two", 5, prior="factorised", noise=0.7)
    x = images(model, 6)
    program = infer_discrete(config_enumerate(ExactProgram(model)), first_available_dim=-2, temperature=0)
    c = pyro.poutine.trace(program).get_trace(x).nodes["c"]["value"]
    assert torch.equal(c, exact_map(model, x).c)


def test_path_prior_has_no_evidence_to_maximise():
    model = tiny("one", 0, noise=1.0)
    x = images(model, 1)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    bounds = {}
    for prior in ("path", "factorised"):
        values = []
        for scale in (1, 2, 4, 8):
            other = model.like(prior=prior)
            other.load_state_dict(model.state_dict())
            with torch.no_grad():
                other.class_templates.mul_(scale)
            values.append(-elbo.loss(config_enumerate(ExactProgram(other)), lambda x: None, x))
        bounds[prior] = values
    assert bounds["path"][3] > bounds["path"][2] + 10 > bounds["path"][0] + 10
    assert bounds["factorised"][3] < bounds["factorised"][0] + 1


def test_exact_map_respects_labels():
    model = tiny("two", 4, prior="factorised")
    x = images(model)
    y = torch.tensor([2, -1, 0, -1])
    given, free = exact_map(model, x, y), exact_map(model, x)
    assert torch.equal(given.c, torch.where(y >= 0, y, free.c))
    assert (given.log_joint <= free.log_joint + 1e-12).all()
