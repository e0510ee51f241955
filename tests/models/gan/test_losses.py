import pyro
import pytest
import torch
from torch import nn

from pyro_ext.datasets import IndexedDataset, Splits, TwoStreams
from pyro_ext.inference import FitSettings, fit
from pyro_ext.models.gan import (
    Discriminator,
    DiscriminatorObjective,
    Generator,
    GeneratorObjective,
    LastImages,
    build,
    discriminator_network,
    feature_matching_loss,
    generator_network,
    latent_size,
    standard_loss,
)
from pyro_ext.nn import ParameterAverage

METHODS = ("feature_matching", "standard", "minibatch_discrimination")


def batch(dtype=torch.float32, number=6):
    generator = torch.Generator().manual_seed(0)
    x, labelled = (torch.rand(size, 64, generator=generator, dtype=dtype) for size in (number, 4))
    return (x, None, torch.arange(number)), (labelled, torch.arange(4) % 3, torch.arange(4))


def players(method="feature_matching", dtype=torch.float32, **options):
    torch.manual_seed(0)
    kernels = 3 if method == "minibatch_discrimination" else 0
    network = discriminator_network("digits", (1, 8, 8), 3, kernels, width=0.1).to(dtype)
    generator = Generator(generator_network("digits", (1, 8, 8), width=0.1), latent_size("digits")).to(dtype)
    discriminator, last = Discriminator(network), LastImages(generator)
    loss = "feature_matching" if method == "feature_matching" else "standard"
    return (
        GeneratorObjective(generator, discriminator, loss, last, **options),
        DiscriminatorObjective(discriminator, ParameterAverage(network), last, **options),
    )


def parameters(module):
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("historical_weight", [0.0, 0.1])
def test_neither_side_has_gradients_for_the_other(method, historical_weight, dtype):
    plays, judges = players(method, dtype, historical_weight=historical_weight)
    generator, discriminator = plays.generator, plays.discriminator
    total = plays(*batch(dtype)).total
    total.backward()
    assert total.dtype == dtype
    assert all(p.grad is None for p in discriminator.parameters())
    assert all(p.grad is not None for p in parameters(generator))
    generator.zero_grad()
    judges(*batch(dtype)).total.backward()
    assert all(p.grad is None for p in generator.parameters())
    assert all(p.grad is not None for p in parameters(discriminator))


def test_the_turn_of_the_generator_leaves_statistics_of_the_discriminator():
    plays, judges = players()
    plays.discriminator.network.features.append(nn.BatchNorm1d(6))
    own, other = (
        next(m for m in side.modules() if isinstance(m, nn.BatchNorm1d))
        for side in (plays.generator, judges.discriminator)
    )
    plays(*batch())
    assert (own.num_batches_tracked, other.num_batches_tracked) == (1, 0)
    judges(*batch())
    plays(*batch())
    assert (own.num_batches_tracked, other.num_batches_tracked) == (2, 1)  # one batch of images a step


@pytest.mark.parametrize("still", ["generator", "discriminator"])
@pytest.mark.parametrize("method", METHODS)
def test_steps_of_one_player_leave_the_other_as_it_is(method, still):
    pyro.set_rng_seed(0)
    (x, _, _), (labelled, y, _) = batch(number=12)
    data = Splits("toy", TwoStreams(x, IndexedDataset(labelled, y)), IndexedDataset(labelled, y), image_shape=(8, 8))
    plan = build(data, method=method, width=0.1, kernels=3, epochs=3, batch_size=4)
    assert [player.name for player in plan.players] == ["discriminator", "generator"]
    one, other = ({id(p) for p in player.named_parameters().values()} for player in plan.players)
    assert not one & other
    (slow,) = (player for player in plan.players if player.name == still)
    slow.every = 1000  # takes the first step only
    plan.evaluate, plan.headline, plan.diagnose = None, "", None
    states = []

    def note(step):
        states.append({p.name: [v.detach().clone() for v in p.parameters] for p in plan.players})

    plan.schedules.append(note)
    quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
    fit(plan, data, FitSettings(max_epochs=3, batch_size=4, seed=0), **quiet)
    for name in ("generator", "discriminator"):
        unchanged = all(torch.equal(a, b) for a, b in zip(states[1][name], states[-1][name], strict=True))
        assert unchanged == (name == still)


def test_feature_matching_by_hand():
    real = torch.tensor([[1.0, 2.0], [3.0, 2.0]], requires_grad=True)
    generated = torch.tensor([[0.0, 0.0], [2.0, 2.0], [1.0, 1.0]], requires_grad=True)
    loss = feature_matching_loss(real, generated)  # means (2, 2) and (1, 1)
    assert loss == 1.0
    loss.backward()
    assert real.grad is None  # real features are constants
    torch.testing.assert_close(generated.grad, torch.full((3, 2), -1 / 3))


def test_the_objective_matches_the_last_hidden_layer():
    plays, _ = players()
    plays.eval()  # no noise
    unlabelled, labelled = batch()
    torch.manual_seed(3)
    found = plays(unlabelled, labelled).total
    torch.manual_seed(3)
    features = plays.discriminator.network.features
    images = plays.generator(len(unlabelled[0]))
    torch.testing.assert_close(found, feature_matching_loss(features(unlabelled[0]), features(images)))


def test_the_standard_loss_does_not_saturate():
    logits = torch.tensor([[-50.0, -60.0], [0.0, 0.0]], requires_grad=True)
    standard_loss(logits).backward()
    torch.testing.assert_close(logits.grad[0].sum(), torch.tensor(-0.5))  # a sure discriminator leaves a slope of 1


def test_images_are_drawn_once_a_step():
    plays, judges = players()
    drawn = []
    plays.generator.network.register_forward_hook(lambda module, inputs, images: drawn.append(len(images)))
    judges(*batch())
    plays(*batch())
    assert drawn == [6]
    plays(*batch())  # on its own
    assert drawn == [6, 6]
    judges(*batch())
    plays(*batch(number=2))  # a batch of another size
    assert drawn == [6, 6, 6, 2]


def test_gradients_are_those_of_images_drawn_anew():
    """Although the generator's parameters need none in the turn of the discriminator."""
    gradients = []
    for shared in (True, False):
        plays, judges = players()
        torch.manual_seed(7)
        own = parameters(plays.generator)
        if shared:
            for parameter in own:
                parameter.requires_grad_(False)
            judges.last_images.draw(6)
            assert not any(parameter.requires_grad for parameter in own)
            for parameter in own:
                parameter.requires_grad_(True)
        plays.discriminator.eval()  # no noise in features
        plays(*batch()).total.backward()
        gradients.append([parameter.grad for parameter in own])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert any(gradient.abs().max() > 0 for gradient in gradients[0])


def test_images_of_another_kind_are_not_taken():
    plays, judges = players()
    for like in (torch.zeros(1, dtype=torch.float64), torch.zeros(1, device="meta")):
        judges.last_images.draw(3)
        assert plays.last_images.take(3, like) is None


def test_terms_add_up_to_the_total():
    _, judges = players(historical_weight=0.5)
    judges.history.update()
    with torch.no_grad():
        for parameter in judges.discriminator.parameters():
            parameter.add_(0.1)
    total, terms = judges(*batch())
    assert terms["historical"] > 0
    torch.testing.assert_close(total, sum(terms[name] for name in ("y", "real", "generated", "historical")))
    assert 0 <= terms["error"] <= 100


def test_averages_move_after_a_step_only():
    _, judges = players()
    before = [mean.clone() for mean in judges.average.means().values()]
    with torch.no_grad():
        for parameter in judges.discriminator.parameters():
            parameter.add_(1.0)
    judges(*batch())
    assert all(torch.equal(a, b) for a, b in zip(before, judges.average.means().values(), strict=True))
    judges.after_step()
    assert not any(torch.equal(a, b) for a, b in zip(before, judges.average.means().values(), strict=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: players(historical_weight=-1.0), "historical_weight must be a finite number of at least 0, got -1.0"),
        (
            lambda: GeneratorObjective(players()[0].generator, players()[0].discriminator, "hinge"),
            "loss must be one of feature_matching, standard; got 'hinge'",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
