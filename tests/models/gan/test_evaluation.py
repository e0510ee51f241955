import math

import pytest
import torch
from torch import nn

from pyro_ext.models.gan import (
    Discriminator,
    DiscriminatorNetwork,
    Generator,
    SampleHistory,
    classifier_scores,
    diagnose,
    draw_samples,
    frechet_distance,
    num_classes_of,
    spread,
)
from pyro_ext.models.gan.evaluation import evaluation
from pyro_ext.nn import ParameterAverage


def generator(network=None):
    torch.manual_seed(0)
    return Generator(network or nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sigmoid()), latent_size=3)


def test_samples_repeat_and_draw_nothing_from_the_noise_of_training():
    model = generator()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = draw_samples(model, 7, seed=1), draw_samples(model, 7, seed=1)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, draw_samples(model, 7, seed=2))
    assert model.training
    assert model.network[1].num_batches_tracked == 0
    assert draw_samples(model, 1201).shape == (1201, 4)


def test_spread_and_classes():
    x = torch.rand(500, 6).double()
    torch.testing.assert_close(spread(x), x.std(0, correction=0).square().mean().sqrt())
    assert num_classes_of(torch.eye(5).repeat(3, 1)) == pytest.approx(5)
    assert num_classes_of(torch.eye(5)[:1]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({}, []),
        ({"spread": 0.9, "sample_classes": 9.0, "data_classes": 9.9}, []),
        ({"spread": 0.1, "sample_classes": 9.0, "data_classes": 9.9}, ["differ by 10 % of what real images"]),
        ({"spread": 0.9, "sample_classes": 2.0, "data_classes": 9.9}, ["look like 2.0 classes, real images like 9.9"]),
        ({"spread": 0.0, "sample_classes": 1.0, "data_classes": 9.9}, ["has collapsed", "leaves out classes"]),
        ({"spread": math.nan}, []),
    ],
)
def test_collapse_is_remarked_on(metrics, words):
    found = diagnose(metrics)
    assert len(found) == len(words)
    assert all(word in warning for word, warning in zip(words, found, strict=True))


def judged(network, images, y, samples=None):
    """Metrics of a discriminator whose logits are the first three pixels."""
    discriminator = Discriminator(DiscriminatorNetwork(nn.Identity(), nn.Linear(4, 3, bias=False)))
    with torch.no_grad():
        discriminator.network.output.weight.copy_(100 * torch.eye(3, 4))
    average = ParameterAverage(discriminator.network)
    with torch.no_grad():
        discriminator.network.output.weight.mul_(-1)  # the last parameters are wrong where averaged ones are right
    measure = evaluation(discriminator, average, network, num_samples=50)
    batches = [(images[:3], y[:3], torch.arange(3)), (images[3:], y[3:], torch.arange(3, len(y)))]
    return measure(batches)


def test_a_collapsed_generator_is_detected():
    class Constant(nn.Module):
        def forward(self, z):
            return torch.tensor([1.0, 0.0, 0.0, 0.5]).expand(len(z), 4)

    images, y = torch.eye(4)[torch.tensor([0, 1, 2, 0, 1, 2])], torch.tensor([0, 1, 2, 0, 1, 0])
    metrics = judged(generator(Constant()), images, y)
    assert metrics["error"] == pytest.approx(100 / 6)
    assert metrics["error_last"] == pytest.approx(500 / 6)
    assert metrics["spread"] == 0
    assert metrics["sample_classes"] == pytest.approx(1)
    assert metrics["data_classes"] == pytest.approx(3)
    assert len(diagnose(metrics)) == 2
    assert {*judged(None, images, y)} == {"error", "error_last", "label_loss", "belief_real"}


def test_labels_are_needed():
    discriminator = Discriminator(DiscriminatorNetwork(nn.Identity(), nn.Linear(4, 3)))
    measure = evaluation(discriminator, ParameterAverage(discriminator.network), None)
    with pytest.raises(ValueError, match="loader must hold labels, got None"):
        measure([(torch.zeros(2, 4), None, None)])


def test_frechet_distance_of_gaussian_features():
    """Moments put in place exactly: |mu|^2 + tr(S1 + S2 - 2 sqrt(S1 S2))."""
    torch.manual_seed(0)
    x = torch.randn(400, 3).double()
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov()).mT)
    scales, shift = torch.tensor([0.5, 1.0, 3.0]).double(), torch.tensor([1.0, 0.0, 2.0]).double()
    expected = float(shift.square().sum() + (scales - 1).square().sum())
    assert frechet_distance(x * scales + shift, x) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least two images of each kind, got 1 and 400"):
        frechet_distance(x[:1], x)


def test_scores_of_a_classifier_of_ones_own():
    classifier = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        classifier[2].weight.copy_(50 * torch.eye(3, 4))
    images = torch.eye(4)[torch.arange(600) % 3]
    same = classifier_scores(classifier, images, images)
    assert same.inception_score == pytest.approx(3, rel=0.05)  # ten parts of sixty images
    assert same.inception_score_real == same.inception_score
    assert same.frechet_distance == pytest.approx(0, abs=1e-5)
    collapsed = classifier_scores(classifier, images[:1].expand(600, 4), images)
    assert collapsed.inception_score == pytest.approx(1)
    assert collapsed.frechet_distance > 0.3
    assert classifier.training
    other = classifier_scores(classifier, images, images, features=nn.Linear(4, 2))
    assert other.inception_score == same.inception_score
    with pytest.raises(ValueError, match=r"features must be a module for a classifier that is no nn.Sequential"):
        classifier_scores(nn.Linear(4, 3), images, images)


def test_samples_of_the_course_are_kept_once_and_saved(tmp_path):
    model = generator()
    history = SampleHistory(model, 40, (1, 2, 2), rows=3, folder=str(tmp_path / "grids"))
    assert history.steps == [0, 10, 20]
    for step in range(15):
        history.note(step)
        with torch.no_grad():
            model.network[0].weight.add_(0.1)
    first, second = history.pictures()
    assert not torch.equal(first, second)
    assert sorted(path.name for path in (tmp_path / "grids").iterdir()) == [
        "samples-0000000.png",
        "samples-0000010.png",
    ]
    again = SampleHistory(generator(), 40, (1, 2, 2), rows=3)
    again.load_state_dict(history.state_dict())
    assert torch.equal(again.pictures()[1], second)
    assert SampleHistory(model, 1, (1, 2, 2)).steps == [0]
