import math

import pyro
import pytest
import torch

from pyro_ext.datasets import IndexedDataset, Splits
from pyro_ext.inference import FitSettings, fit
from pyro_ext.models.disentangling import (
    AdversarialObjective,
    ClassPartners,
    Decoder,
    Discriminator,
    DiscriminatorObjective,
    Encoder,
    Guide,
    Model,
    SwapObjective,
    build,
)
from pyro_ext.models.disentangling.losses import swap_loss
from tests.models.disentangling.parts import NOISE, halves

X = torch.rand(12, 64, generator=torch.Generator().manual_seed(0))
DATA = IndexedDataset(X, torch.arange(12) % 3)
BATCH = DATA.__getitems__([5, 0, 7, 4])


def players(num_classes=3):
    """Return model, guide, discriminator and partners of random images."""
    torch.manual_seed(0)
    sizes = ((8, 8), 3, 2, 8)
    model, guide = Model(12, Decoder(*sizes), 3, 2), Guide(12, Encoder(*sizes))
    return model, guide, Discriminator((8, 8), num_classes, 8), ClassPartners(DATA)


def test_what_is_decoded_from_z_of_the_first_and_s_of_the_second_is_to_be_the_first():
    """With a decoder that puts the halves of images together, the swapped image is known."""
    model, guide = halves()
    x1, x2 = torch.randn(2, 5, 4)
    swapped = torch.cat([x1[:, :2], x2[:, 2:]], -1)
    constant = 2 * math.log(2 * math.pi * NOISE**2)
    expected = constant + ((x1 - swapped) / NOISE).square().sum(-1).mean() / 2
    torch.testing.assert_close(swap_loss(model, guide, x1, x2), expected)
    assert swap_loss(model, guide, x1, torch.cat([x2[:, :2], x1[:, 2:]], -1)) == pytest.approx(constant, abs=1e-4)


def test_swap_partners_are_of_the_same_class():
    """If s is the class itself, a swap changes nothing."""
    labels = torch.arange(6) % 3
    x = torch.cat([torch.randn(6, 2), torch.stack([labels, -labels], 1).float()], 1)
    model, guide = halves()
    objective = SwapObjective(model, guide, ClassPartners(IndexedDataset(x, labels)))
    loss = objective(x, labels, torch.arange(6)).total
    assert loss == pytest.approx(2 * math.log(2 * math.pi * NOISE**2), abs=1e-4)


@pytest.mark.parametrize("mismatched_weight", [0.0, 1.0])
@pytest.mark.parametrize("num_classes", [3, 0])
def test_neither_side_has_gradients_for_the_other(num_classes, mismatched_weight):
    model, guide, critic, partners = players(num_classes)
    own = [*model.parameters(), *guide.parameters()]
    AdversarialObjective(model, guide, critic, partners)(*BATCH).total.backward()
    assert all(p.grad is None for p in critic.parameters())
    assert all(p.grad is not None for p in own if p is not guide.encoder.z_log_variance)
    for p in own:
        p.grad = None
    objective = DiscriminatorObjective(model, guide, critic, partners, mismatched_weight=mismatched_weight)
    objective(*BATCH).total.backward()
    assert all(p.grad is None for p in own)
    assert all(p.grad is not None for p in critic.parameters())


def test_neither_side_changes_running_statistics_of_the_other():
    """The networks of this package have none, those of others may."""
    model, guide, critic, partners = players()
    for network in (model.decoder, guide.encoder, critic):
        network.register_module("normal", torch.nn.BatchNorm1d(64, momentum=0.5))
    critic.register_forward_pre_hook(lambda module, inputs: (module.normal(inputs[0]), *inputs[1:]))
    guide.encoder.register_forward_pre_hook(lambda module, inputs: (module.normal(inputs[0]),))
    model.decoder.register_forward_hook(lambda module, inputs, images: module.normal(images))

    def statistics():
        return [module.normal.running_mean.clone() for module in (model.decoder, guide.encoder, critic)]

    before = statistics()
    AdversarialObjective(model, guide, critic, partners)(*BATCH).total.backward()
    generator = statistics()
    assert [torch.equal(a, b) for a, b in zip(before, generator, strict=True)] == [False, False, True]
    DiscriminatorObjective(model, guide, critic, partners)(*BATCH).total.backward()
    assert [torch.equal(a, b) for a, b in zip(generator, statistics(), strict=True)] == [True, True, False]


@pytest.mark.parametrize("still", ["autoencoder", "discriminator"])
def test_steps_of_one_player_leave_the_other_as_it_is(still):
    pyro.set_rng_seed(0)
    data = Splits("toy", DATA, image_shape=(8, 8))
    plan = build(data, hidden=8)
    assert [player.name for player in plan.players] == ["autoencoder", "discriminator"]
    one, other = (player.named_parameters() for player in plan.players)
    assert not {id(p) for p in one.values()} & {id(p) for p in other.values()}
    (slow,) = (player for player in plan.players if player.name == still)
    slow.every = 1000  # takes the first step only
    plan.evaluate, plan.headline = None, ""
    states = []

    def note(step):
        states.append({p.name: [v.detach().clone() for v in p.named_parameters().values()] for p in plan.players})

    plan.schedules.append(note)
    quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
    fit(plan, data, FitSettings(max_epochs=3, batch_size=4, seed=0), **quiet)
    for name in ("autoencoder", "discriminator"):
        unchanged = all(torch.equal(a, b) for a, b in zip(states[1][name], states[-1][name], strict=True))
        assert unchanged == (name == still)


def test_smoothing_is_one_sided():
    """A discriminator without an opinion: each side costs log 2. One that is sure pays for real images alone."""
    model, guide, critic, partners = players()
    objective = DiscriminatorObjective(model, guide, critic, partners, real_target=0.9)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
    with torch.no_grad():
        losses = objective(*BATCH)
    assert losses.total == pytest.approx(2 * math.log(2))
    with torch.no_grad():
        critic.output.bias.fill_(-20.0)
    with torch.no_grad():
        losses = objective(*BATCH)
    assert losses.total == pytest.approx(0.9 * 20, rel=1e-4)
    assert (losses.terms["right_real"], losses.terms["right_decoded"]) == (0, 1)
    with torch.no_grad():
        critic.output.bias.fill_(20.0)
    assert objective(*BATCH).total.item() == pytest.approx(0.1 * 20 + 20, rel=1e-4)


@pytest.mark.parametrize("num_classes", [3, 0])
def test_mismatched_images_are_real_ones_beside_another_class(num_classes):
    """Images say their class, so that the discriminator below knows each mismatch; it pays for nothing else."""
    labels = torch.arange(12) % 3
    x = labels[:, None].float() / 4 + torch.zeros(12, 64)
    model, guide, critic, _ = players(num_classes)
    partners = ClassPartners(IndexedDataset(x, labels))
    seen = []

    def note(images, context):
        other = context if num_classes else 4 * context[:, 0]
        seen.append((4 * images[:, 0], other))
        return torch.zeros(len(images))

    critic.forward = note
    index = torch.arange(12)
    losses = DiscriminatorObjective(model, guide, critic, partners, mismatched_weight=3.0)(x, labels, index)
    assert losses.total == pytest.approx((2 + 3) * math.log(2))
    assert [*losses.terms] == ["right_real", "right_decoded", "right_mismatched"]
    images, context = (part.unflatten(0, (4, 12)) for part in seen[0])
    assert torch.equal(context, labels.expand(4, -1).to(context))
    assert torch.equal(images[0], labels.float())
    assert (images[3] != labels).all()
    assert torch.equal(images[3], images[3].round())


def test_generator_wants_the_discriminator_to_be_wrong():
    model, guide, critic, partners = players()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
        critic.output.bias.fill_(3.0)
    with torch.no_grad():
        losses = AdversarialObjective(model, guide, critic, partners)(*BATCH)
    assert losses.total == pytest.approx(math.log1p(math.exp(-3.0)), rel=1e-5)


@pytest.mark.parametrize(
    ("inputs", "names"), [("both", ["other", "prior"]), ("other", ["other"]), ("prior", ["prior"])]
)
def test_inputs(inputs, names):
    with torch.no_grad():
        losses = AdversarialObjective(*players(), inputs)(*BATCH)
    assert [*losses.terms] == names
    assert losses.total == pytest.approx(float(sum(losses.terms.values())) / len(names))


def test_decoded_images_have_s_of_the_batch_and_z_of_the_other_image_or_the_prior():
    model, guide = halves(log_variance=-60.0)
    x, other = torch.randn(2, 5000, 4)
    objective = AdversarialObjective(model, guide, players()[2], players()[3])
    torch.manual_seed(0)
    decoded = objective.decoded(x, other)
    torch.testing.assert_close(decoded["other"], torch.cat([other[:, :2], x[:, 2:]], -1))
    assert torch.equal(decoded["prior"][:, 2:], x[:, 2:])
    z = decoded["prior"][:, :2]
    assert z.mean().abs() < 0.04  # four standard errors of 10,000 draws
    assert z.var() == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AdversarialObjective(*players(), "none"), "inputs must be one of both, other, prior; got 'none'"),
        (lambda: DiscriminatorObjective(*players(), mismatched_weight=-1.0), "mismatched_weight must be a finite"),
        (lambda: DiscriminatorObjective(*players(), real_target=0.0), r"real_target must be a number in \(0, 1\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
