"""Hard EM: planted templates, decreasing errors, labels, classes without data, tiny models with an exact E step."""

import itertools

import pytest
import torch

from pyro_ext.models.drmm import DRMM, Layer, Switches
from pyro_ext.models.drmm.clusters import start_classes
from pyro_ext.models.drmm.em import conjugate_gradients, fit_templates, hard_e_step, hard_em
from pyro_ext.models.drmm.estimation import estimate_priors
from pyro_ext.models.drmm.exact import configurations, log_joint
from tests.models.drmm.tiny import images, tiny

ONE = [Layer(3, 3, pool=2, padding=1)]
TWO = [Layer(3, 3, pool=2, padding=1), Layer(2, 2)]
SHAPE = (1, 6, 6)


def make(layers=TWO, classes=3, **options):
    return DRMM(layers, classes, SHAPE, prior="factorised", **options).double()


def planted(layers, number=60):
    """Images without noise, with their classes and switches."""
    truth = make(layers)
    with torch.no_grad():
        for parameter in truth.parameters():
            parameter.normal_()
    c = torch.arange(number) % 3
    sizes = [(number, *layer.geometry.pooled) for layer in truth.layers]
    g = [
        Switches(torch.randint(layer.layer.pool**2, size), torch.rand(size).gt(0.3).double())
        for layer, size in zip(truth.layers, sizes, strict=True)
    ]
    return truth, truth.rendering(c, g).image.detach(), c, g


def test_conjugate_gradients_solve_least_squares():
    a, b = torch.randn(12, 6, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    solution = conjugate_gradients(lambda v: a @ v.flatten(), b, torch.randn(2, 3, dtype=torch.float64), 6)
    torch.testing.assert_close(solution.flatten(), torch.linalg.lstsq(a, b).solution, rtol=1e-9, atol=1e-9)


def test_conjugate_gradients_do_not_change_what_has_no_effect():
    a = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    start = torch.tensor([5.0, 7.0], dtype=torch.float64)
    solution = conjugate_gradients(lambda v: a @ v, torch.tensor([3.0, 6.0], dtype=torch.float64), start, 5)
    torch.testing.assert_close(solution, torch.tensor([3.0, 7.0], dtype=torch.float64))
    nothing = conjugate_gradients(lambda v: 0 * v, start, start, 3)
    assert torch.equal(nothing, start)


@pytest.mark.parametrize("layers", [ONE, TWO], ids=["one", "two"])
def test_each_block_recovers_what_was_planted(layers):
    truth, x, c, g = planted(layers)
    for name, parameter in truth.named_parameters():
        if name.endswith(("templates", "class_templates")):
            model = make(layers)
            model.load_state_dict(truth.state_dict())
            with torch.no_grad():
                dict(model.named_parameters())[name].normal_()
            if name == "class_templates":
                with torch.no_grad():
                    model.class_templates.copy_(
                        conjugate_gradients(lambda v, m=model: _render(m, v[c], g), x, model.class_templates, 60)
                    )
            else:
                fitted = _fit_layer(model, x, c, g, int(name.split(".")[1]))
                with torch.no_grad():
                    dict(model.named_parameters())[name].copy_(fitted)
            torch.testing.assert_close(dict(model.named_parameters())[name], parameter, rtol=1e-10, atol=1e-10)


def _render(model, h, g):
    for layer, switches in zip(reversed(model.layers), reversed(g), strict=True):
        h = layer.down(h, switches).finer
    return h


def _fit_layer(model, x, c, g, number):
    with torch.no_grad():
        u = model.layers[number].masked(model.render(c, g, number + 1), g[number])

    def through(templates):
        h = model.layers[number].spread(u, templates)
        for below in range(number - 1, -1, -1):
            h = model.layers[below].down(h, g[below]).finer
        return h

    return conjugate_gradients(through, x, model.layers[number].templates, 80)


@pytest.mark.parametrize("layers", [ONE, TWO], ids=["one", "two"])
def test_fitting_lowers_the_error_until_planted_images_are_rendered(layers):
    _, x, c, g = planted(layers)
    model = make(layers)
    errors = []
    for _ in range(8):
        fit_templates(model, x, c, g, solver_steps=15)
        errors.append((x - model.rendering(c, g).image).square().mean().item())
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.05 * x.var().item()


@pytest.mark.parametrize("layers", [ONE, TWO], ids=["one", "two"])
def test_m_steps_lower_the_error(layers):
    _, x, _, _ = planted(layers)
    x = x + 0.1 * torch.randn_like(x)
    model = make(layers)
    start_classes(model, x, torch.Generator().manual_seed(0))
    steps = hard_em(model, x, num_steps=4)
    assert all(step.after <= step.before for step in steps)
    assert steps[-1].after < 0.7 * x.var().item()
    assert model.noise.item() == pytest.approx(steps[-1].after ** 0.5)


@pytest.mark.parametrize("name", ["one", "two"])
def test_exact_e_steps_never_lower_the_joint_density(name):
    truth = tiny(name, 3, prior="factorised", noise=0.3)
    x, _ = truth.sample(30)
    for seed in range(2):
        model = tiny(name, seed, prior="factorised")
        steps = hard_em(model, x, e_step="exact", num_steps=5, solver_steps=12, pseudo_count=1e-12)
        joint = [step.log_joint for step in steps]
        assert all(after >= before - 1e-9 * abs(before) for before, after in itertools.pairwise(joint))
        assert joint[-1] > joint[0]


def test_labels_fix_classes():
    _, x, c, _ = planted(ONE)
    model = make(ONE)
    hard_em(model, x, c, num_steps=3)
    torch.testing.assert_close(
        model.class_logits.exp(), (c.bincount(minlength=3) + 1) / (len(c) + 3), rtol=1e-6, atol=1e-6, check_dtype=False
    )


@pytest.mark.parametrize("e_step", ["network", "joint", "exact"])
def test_a_class_without_data_survives(e_step):
    model = tiny("one", 0, prior="factorised")
    x = images(model, 30)
    with torch.no_grad():
        model.class_templates[2] = 0
    before = model.class_templates[2].clone()
    hard_em(model, x, torch.arange(30) % 2, num_steps=4, e_step=e_step)
    assert torch.equal(model.class_templates[2], before)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert model.class_logits.softmax(-1)[2] > 0


def test_images_without_noise_leave_the_least_noise():
    truth = tiny("one", 1, prior="factorised")
    x = truth.sample(20, with_noise=False)[0]
    model = truth.like()
    model.load_state_dict(truth.state_dict())
    hard_em(model, x, num_steps=3, e_step="exact", min_noise=0.01)
    assert model.noise.item() == pytest.approx(0.01)
    assert model.class_templates.isfinite().all()


def test_the_joint_e_step_chooses_the_best_class_for_the_networks_switches():
    model = tiny("two", 4, prior="factorised", noise=0.8)
    x = images(model, 30)
    c, switches = hard_e_step(model, x, e_step="joint")
    table = log_joint(model, x)
    _, every = configurations(model)
    for n in range(len(x)):
        same = torch.stack(
            [
                ((own.position[0] == g.position[n]) & (own.on[0] == g.on[n])).flatten(1).all(-1)
                for own, g in zip(every, switches, strict=True)
            ]
        ).all(0)
        assert same.sum() == 1
        assert table[n, :, same].argmax().item() == c[n]
    by_network, _ = hard_e_step(model, x, e_step="network")
    assert (by_network != c).any()  # it leaves out the length of what is rendered


def test_joint_e_steps_never_lower_the_error_given_the_switches():
    """Given the switches, E and M steps both lower the error, as classes are equally probable here."""
    _, x, _, _ = planted(ONE)
    x = x + 0.3 * torch.randn_like(x)
    model = make(ONE)
    start_classes(model, x, torch.Generator().manual_seed(1))
    c, g = hard_e_step(model, x, e_step="joint")
    errors = []
    for _ in range(4):
        fit_templates(model, x, c, g)
        errors.append((x - model.rendering(c, g).image).square().mean().item())
        scores = [(x - model.rendering(torch.tensor(k), g).image).square().sum((-1, -2, -3)) for k in range(3)]
        c = torch.stack(scores, -1).argmin(-1)
        errors.append((x - model.rendering(c, g).image).square().mean().item())
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(errors))


def test_samples_of_a_fitted_model():
    _, x, _, _ = planted(TWO)
    model = make(TWO)
    start_classes(model, x)
    hard_em(model, x, num_steps=3)
    estimate_priors(model, [x])
    assert model.sample(5)[0].isfinite().all()


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"prior": "path"}, {}, "EM needs prior='factorised', got 'path': the path prior is not normalised"),
        ({"batch_norm": "up"}, {}, "EM needs a model without batch norm"),
        ({}, {"num_steps": 0}, "num_steps must be an integer of at least 1, got 0"),
        ({}, {"solver_steps": 0}, "solver_steps must be an integer of at least 1, got 0"),
        ({}, {"e_step": "soft"}, "e_step must be one of network, joint, exact; got 'soft'"),
        ({}, {"min_noise": 0.0}, "min_noise must be a positive, finite number, got 0.0"),
        ({}, {"pseudo_count": 0.0}, "pseudo_count must be a positive, finite number, got 0.0"),
        ({}, {"y": torch.full((4,), 3)}, "y must hold classes 0 .. 2, or -1 for no label; got 3"),
    ],
)
def test_bad_input(options, call, message):
    model = DRMM(ONE, 3, SHAPE, **({"prior": "factorised"} | options)).double()
    with pytest.raises(ValueError, match=message):
        hard_em(model, torch.randn(4, *SHAPE, dtype=torch.float64), **call)
