"""Exact ECM: the evidence never decreases, planted templates, classes without data."""

import itertools

import pytest
import torch

from pyro_ext.models.drmm import DRMM, Layer
from pyro_ext.models.drmm.ecm import Responsibilities, _fit_class_templates, e_step, exact_ecm, m_step
from pyro_ext.models.drmm.exact import configurations, log_evidence, log_joint
from tests.models.drmm.tiny import images, tiny

NAMES = ["one", "overlapping", "means"]


def test_log_evidence_never_decreases():
    truth = tiny("one", 9, prior="factorised", noise=0.3)
    x, _ = truth.sample(150)
    for seed in range(4):
        model = tiny("one", seed, prior="factorised", noise=1.0)
        history = exact_ecm(model, x, num_steps=30)
        steps = [after - before for before, after in itertools.pairwise(history)]
        assert min(steps) > -1e-10 * abs(history[-1])
        assert history[-1] > history[0] + 10
        assert history[-1] == pytest.approx(log_evidence(model, x).sum().item(), rel=1e-12)


@pytest.mark.parametrize(
    "layers", [[Layer(1, 2, pool=2, mean_pool=2)], [Layer(2, 3, pool=2, padding=1, switch="leaky")]]
)
def test_log_evidence_never_decreases_with(layers):
    shape = (1, 5, 5) if layers[0].mean_pool > 1 else (2, 2, 2)
    truth = DRMM(layers, 2, shape, prior="factorised", noise=0.3).double()
    x, _ = truth.sample(40)
    model = truth.like(noise=1.0)
    history = exact_ecm(model, x, num_steps=6)
    assert all(after >= before - 1e-10 * abs(before) for before, after in itertools.pairwise(history))
    assert history[-1] > history[0]


def certain(model, c, number, x):
    """Responsibilities of one for the classes c and the combinations ``number``."""
    count = configurations(model)[1][0].on.shape[1]
    weight = torch.zeros(model.classes, count, dtype=x.dtype)
    weight.index_put_((c, number), torch.ones_like(x[:, 0, 0, 0]), accumulate=True)
    image = torch.zeros(model.classes, count, *x.shape[1:], dtype=x.dtype)
    image.index_put_((c, number), x, accumulate=True)
    return Responsibilities(weight, image, x.square().sum(), torch.zeros(()))


@pytest.mark.parametrize("block", ["templates", "class_templates"])
@pytest.mark.parametrize("name", NAMES)
def test_planted_templates_are_recovered(name, block):
    truth = tiny(name, 4, prior="factorised")
    _, (g,) = configurations(truth)
    number = torch.randint(g.on.shape[1], (300,))
    c = torch.arange(300) % truth.classes
    own = [type(g)(g.position[0, number], g.on[0, number])]
    x = truth.rendering(c, own).image.detach()
    model = truth.like()
    model.load_state_dict(truth.state_dict())
    chosen = model.class_templates if block == "class_templates" else model.layers[0].templates
    expected = chosen.detach().clone()
    if block == "templates":
        # The templates come first, and are right: the class templates then stay as they are.
        with torch.no_grad():
            chosen.normal_()
        m_step(model, certain(model, c, number, x))
    else:
        with torch.no_grad():
            chosen.normal_()
            _fit_class_templates(model, model.layers[0], g, certain(model, c, number, x))
    torch.testing.assert_close(chosen.detach(), expected, rtol=1e-10, atol=1e-10)


def test_noise_and_probabilities_are_recovered():
    truth = tiny("one", 7, prior="factorised", noise=0.1)
    with torch.no_grad():
        truth.class_templates.mul_(3)  # so that classes do not overlap
        truth.class_logits.copy_(torch.tensor([0.6, 0.3, 0.1]).log())
    truth.layers[0].on_logits.fill_(1.0)
    x, _ = truth.sample(2000)
    model = truth.like()
    model.load_state_dict(truth.state_dict())
    exact_ecm(model, x, num_steps=3)
    # 18,000 pixels: the standard error of the noise is 0.0005; of class probabilities at most 0.011.
    assert model.noise.item() == pytest.approx(0.1, abs=0.003)
    torch.testing.assert_close(
        model.class_logits.softmax(-1), torch.tensor([0.6, 0.3, 0.1]).double(), rtol=0, atol=0.06
    )


def test_m_step_maximises_over_templates():
    """No small change of the templates does better than the M step, at its responsibilities."""
    model = tiny("one", 2, prior="factorised", noise=0.7)
    x = images(model, 40)
    table = log_joint(model, x)
    gamma = (table - table.flatten(1).logsumexp(-1)[:, None, None]).exp()
    m_step(model, e_step(model, x))

    def expected():
        return (gamma * log_joint(model, x)).sum().item()

    best = expected()
    for parameter in (model.class_templates, model.class_logits, model.layers[0].on_logits):
        for _ in range(5):
            change = 1e-3 * torch.randn_like(parameter)
            with torch.no_grad():
                parameter.add_(change)
                assert expected() <= best + 1e-9
                parameter.sub_(change)


def test_a_class_without_data_survives():
    model = tiny("one", 1, prior="factorised", noise=0.5)
    x = images(model, 40)
    with torch.no_grad():
        model.class_logits[2] = -800.0  # its responsibilities are zero
    history = exact_ecm(model, x, num_steps=8)
    assert all(after >= before - 1e-10 * abs(before) for before, after in itertools.pairwise(history))
    assert model.class_logits.softmax(-1)[2] < 1e-100
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_templates_without_data_stay():
    model = tiny("one", 1, prior="factorised")
    x = images(model, 40)
    before = model.class_templates.detach().clone()
    m_step(model, certain(model, torch.arange(40) % 2, torch.randint(64, (40,)), x))
    assert torch.equal(model.class_templates[2], before[2])
    assert not torch.allclose(model.class_templates[0], before[0])


def test_noise_does_not_vanish():
    truth = tiny("one", 1, prior="factorised")
    x = truth.sample(30, with_noise=False)[0]
    model = truth.like(noise=0.1)
    state = truth.state_dict()
    state["noise"] = model.noise
    model.load_state_dict(state)
    history = exact_ecm(model, x, num_steps=5, min_noise=0.01)
    assert model.noise.item() == pytest.approx(0.01)
    assert torch.tensor(history).isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiny("one"), "EM needs prior='factorised', got 'path'"),
        (lambda: tiny("two", prior="factorised"), "exact ECM needs a model of one layer, got 2; use hard_em"),
        (lambda: DRMM([Layer(8, 2, pool=2)], 3, (1, 7, 7), prior="factorised").double(), "more than the 262144"),
        (lambda: tiny("one", prior="factorised", batch_norm="up"), "EM needs a model without batch norm"),
    ],
)
def test_bad_models(make, message):
    model = make()
    with pytest.raises(ValueError, match=message):
        exact_ecm(model, images(model))


def test_path_prior_has_no_evidence():
    model = tiny("one")
    with pytest.raises(ValueError, match="the path prior is not normalised, so there is no evidence"):
        log_evidence(model, images(model))
