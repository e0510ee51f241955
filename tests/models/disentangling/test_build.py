import pyro
import pytest
import torch

from pyro_ext.datasets import IndexedDataset, Splits, load
from pyro_ext.inference import FitSettings, TraceUnorderedSet_ELBO, fit
from pyro_ext.models.disentangling import Discriminator, build
from pyro_ext.models.disentangling.plots import interpolations, prior_samples, swap_grid
from pyro_ext.plotting import save
from tests.inference.training.toys import StopAfter, StopError
from tests.models.disentangling.parts import halves

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def images(labels, size=64, shape=(8, 8)):
    return Splits("toy", IndexedDataset(torch.rand(len(labels), size), torch.tensor(labels)), image_shape=shape)


PAIRS = images([0, 1, 0, 1, 1, 0])


def discriminator(plan):
    (found,) = (m for m in plan.players[1].objective.modules() if isinstance(m, Discriminator))
    return found


def test_players_and_parts():
    plan = build(PAIRS, hidden=4)
    assert [*plan.players[0].objective.objectives] == ["neg_elbo", "swap", "adversarial"]
    assert discriminator(plan).num_classes == 2
    assert discriminator(build(PAIRS, hidden=4, discriminator="pair")).num_classes == 0
    (alone,) = build(PAIRS, hidden=4, adversarial_weight=0.0).players
    assert [*alone.objective.objectives] == ["neg_elbo", "swap"]
    (plain,) = build(PAIRS, hidden=4, adversarial_weight=0.0, swap_weight=0.0).players
    assert [*plain.objective.objectives] == ["neg_elbo"]
    elbo = TraceUnorderedSet_ELBO(num_samples=2)
    assert build(PAIRS, hidden=4).with_elbo(elbo).elbo_objective("a test").elbo is elbo


def test_networks_follow_the_size_of_images():
    def convolutions(plan):
        return [m for m in plan.players[0].objective.modules() if isinstance(m, torch.nn.Conv2d)]

    large = images([0, 0, 1, 1], 32 * 20, (32, 20))
    assert convolutions(build(large, hidden=4))
    assert not convolutions(build(large, hidden=4, network="perceptron"))
    assert not convolutions(build(images([0, 0, 1, 1], 30 * 20, (30, 20)), hidden=4))


def test_sprites_have_a_table_of_their_factors(tmp_path):
    data = load("sprites", num_train=60, num_valid=150)
    plan = build(data, hidden=4, network="perceptron")
    plan.files["factors.md"](tmp_path / "factors.md")
    table = (tmp_path / "factors.md").read_text()
    assert table.count("rotation") == 3
    assert "disentanglement" in table


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"discriminator": "pair", "network": "convolutional"}])
def test_both_players_step_in_one_type(dtype, options):
    x, y = torch.rand(12, 64, dtype=dtype), torch.arange(12) % 3
    plan = build(Splits("toy", IndexedDataset(x, y), image_shape=(8, 8)), hidden=4, **options)
    for player in plan.players:
        player.objective.to(dtype)
        losses = player.objective(x[:6], y[:6], torch.arange(6))
        assert {value.dtype for value in (losses.total, *losses.terms.values())} == {dtype}
        losses.total.backward()
        assert all(p.grad.dtype == dtype for p in player.named_parameters().values())


def test_two_players_resume_in_the_middle_of_an_epoch_to_the_same_digits(tmp_path):
    """Partners, z from the prior and the noise of inputs are drawn anew in each step."""
    data = images([0, 1, 2] * 8)

    def run(every=None, **options):
        pyro.set_rng_seed(1)
        plan = build(data, hidden=4)
        plan.evaluate, plan.headline = None, ""
        settings = FitSettings(max_epochs=3, batch_size=4, seed=3, checkpoint_every_n_steps=every)
        fit(plan, data, settings, **QUIET, **options)
        return [value.detach() for player in plan.players for value in player.named_parameters().values()]

    whole = run()
    with pytest.raises(StopError):
        run(every=1, out=tmp_path, callbacks=[StopAfter(9)])
    resumed = run(out=tmp_path, resume=True)
    assert all(torch.equal(one, other) for one, other in zip(resumed, whole, strict=True))


def test_a_collapsed_code_is_remarked_on():
    plan = build(PAIRS, hidden=4)
    (warning,) = plan.diagnose({"kl": 0.01})
    assert "z has collapsed: it holds 0.010 nats per image" in warning
    assert plan.diagnose({"kl": 5.0}) == []


def test_plots_put_codes_where_they_say():
    model, guide = halves()
    first, second = torch.rand(3, 4), torch.rand(2, 4)
    top, *rows = swap_grid(model, guide, with_s=first, with_z=second)
    assert torch.equal(top[1:], second)
    for row, image in zip(rows, first, strict=True):
        assert torch.equal(row[0], image)
        torch.testing.assert_close(row[1:], torch.cat([second[:, :2], image[2:].expand(2, 2)], 1))
    square = torch.stack(interpolations(model, guide, first[0], first[1], 5))
    assert square.shape == (5, 5, 4)
    torch.testing.assert_close(square[0, 0], first[0])
    torch.testing.assert_close(square[4, 4], first[1])
    torch.testing.assert_close(square[1, 4], torch.cat([first[1][:2], first[0][2:].lerp(first[1][2:], 0.25)]))
    samples = torch.stack(prior_samples(model, guide, first, number=6, seed=1))
    assert torch.equal(samples[0, 1:, :2], samples[2, 1:, :2])
    assert torch.equal(samples[:, 0], first)


def test_plots_without_held_out_images(tmp_path):
    for name, draw in build(PAIRS, hidden=4).plots.items():
        assert save(draw(), tmp_path / f"{name}.png").stat().st_size > 500


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (images([0, 0, 1]), {}, "class 1 has a single image in data.train"),
        (images([0, 0, 1, 1], 60), {}, "data.train.x must have rows of 8 x 8 pixels, got 60"),
        (Splits("toy", torch.rand(4, 64)), {}, "data.image_shape must be height and width"),
        (
            Splits("toy", torch.rand(4, 64), image_shape=(8, 8)),
            {},
            "data.train must have labels, got none",
        ),
        (Splits("toy", (16 * torch.ones(4, 64), torch.tensor([0, 0, 1, 1])), image_shape=(8, 8)), {}, r"in \[16, 16\]"),
        (images([-1, -1, 1, 1]), {}, "data.train.y must hold classes from 0 on, got -1"),
        (PAIRS, {"swap_weight": -1.0}, "swap_weight must be a finite number of at least 0, got -1.0"),
        (PAIRS, {"adversarial_weight": float("nan")}, "adversarial_weight must be a finite number"),
        (PAIRS, {"mismatched_weight": -1.0}, "mismatched_weight must be a finite number of at least 0, got -1.0"),
        (PAIRS, {"input_noise": -1.0}, "input_noise must be a finite number of at least 0, got -1.0"),
        (PAIRS, {"discriminator": "image"}, "discriminator must be one of class, pair; got 'image'"),
        (PAIRS, {"real_target": 1.5}, r"real_target must be a number in \(0, 1\], got 1.5"),
        (PAIRS, {"network": "linear"}, "network must be one of perceptron, convolutional; got 'linear'"),
        (PAIRS, {"noise": 0.0}, "noise must be a positive, finite number, got 0.0"),
    ],
)
def test_bad_input(data, options, message):
    with pytest.raises(ValueError, match=message):
        build(data, **options)


@pytest.mark.slow
def test_the_adversary_hides_the_class_from_draws_of_z():
    """One seed; five are in benchmarks/disentangling.py."""
    metrics = {}
    for weight in (0.0, 20.0):
        pyro.set_rng_seed(0)
        data = load("digits", binarize=None)
        settings = FitSettings(max_epochs=60, seed=0)
        once = QUIET | {"check_val_every_n_epoch": 60}
        metrics[weight] = fit(build(data, adversarial_weight=weight), data, settings, **once).metrics
    assert metrics[20.0]["probe_s"] > 85
    assert metrics[20.0]["kl"] > 1
    assert metrics[20.0]["probe_z"] < metrics[0.0]["probe_z"] - 10
