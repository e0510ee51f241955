"""The discriminator's program: its log-probability is the loss of the paper, term by term."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn
from torch.nn import functional as F

from pyro_ext.models.gan import Discriminator, DiscriminatorNetwork, Generator, SoftTargetBernoulli
from pyro_ext.nn import MinibatchDiscrimination

K = 4


def identity(**options):
    """A discriminator whose logits are its images."""
    return Discriminator(DiscriminatorNetwork(nn.Identity(), nn.Identity()), **options)


def images(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    sizes = (3, 5, 6)
    rows = [3 * torch.randn(size, K, generator=generator, dtype=dtype) for size in sizes]
    return rows[0], torch.tensor([1, 0, 3]), rows[1], rows[2]


def loss(discriminator, *batch):
    return -poutine.trace(discriminator).get_trace(*batch).log_prob_sum()


def test_the_loss_is_that_of_k_plus_one_classes(dtype):
    """The softmax over K + 1 classes, the last logit zero, written out."""
    labelled, y, real, generated = images(dtype)

    def log_p(logits):
        return F.pad(logits, (0, 1)).log_softmax(-1)

    of_class = log_p(labelled)[:, :K].logsumexp(-1)  # of being real
    supervised = -(log_p(labelled)[torch.arange(3), y] - of_class).mean()  # -log p(y | x, y < K + 1)
    unsupervised = -(1 - log_p(real)[:, K].exp()).log().mean() - log_p(generated)[:, K].mean()
    found = loss(identity(), labelled, y, real, generated)
    torch.testing.assert_close(found, supervised + 0.5 * unsupervised)
    torch.testing.assert_close(loss(identity(), labelled, y), supervised)
    torch.testing.assert_close(supervised, F.cross_entropy(labelled, y))
    weighted = loss(identity(unlabelled_weight=3.0), labelled, y, real, generated)
    torch.testing.assert_close(weighted, supervised + 1.5 * unsupervised)


def test_the_loss_is_that_of_the_published_program():
    labelled, y, real, generated = images()
    z_label, z_real, z_generated = (x.logsumexp(-1) for x in (labelled, real, generated))
    of_labels = -labelled[torch.arange(3), y].mean() + z_label.mean()
    rest = -0.5 * z_real.mean() + 0.5 * F.softplus(z_real).mean() + 0.5 * F.softplus(z_generated).mean()
    torch.testing.assert_close(loss(identity(), labelled, y, real, generated), of_labels + rest)


def test_an_elbo_without_a_guide_is_the_same():
    batch = images()
    assert Trace_ELBO().loss(identity(), lambda *args: None, *batch) == pytest.approx(float(loss(identity(), *batch)))


def test_smoothing_is_one_sided():
    labelled, y, real, generated = images()
    s, t = real.logsumexp(-1), generated.logsumexp(-1)
    expected = -(0.9 * F.logsigmoid(s) + 0.1 * F.logsigmoid(-s)).mean() - F.logsigmoid(-t).mean()
    found = loss(identity(real_target=0.9), labelled, y, real, generated) - F.cross_entropy(labelled, y)
    torch.testing.assert_close(found, 0.5 * expected)


@pytest.mark.parametrize("alpha", [1.0, 0.9, 0.75])
def test_the_best_discriminator_under_smoothing(alpha):
    """D* = alpha p / (p + g) on five images that data and generator have with probabilities p and g."""
    p, g = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0]).double(), torch.tensor([0.1, 0.1, 0.2, 0.3, 0.3]).double()
    logits = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        target = torch.full_like(logits, alpha)
        log_prob = [SoftTargetBernoulli(logits=logits).log_prob(value) for value in (target, 0 * target)]
        total = -(p * log_prob[0] + g * log_prob[1]).sum()
        total.backward()
        return total

    optimizer.step(closure)
    torch.testing.assert_close(logits.sigmoid().detach(), alpha * p / (p + g), atol=1e-4, rtol=0)


def test_a_constant_in_all_logits_changes_d_and_not_the_classes():
    labelled, y, real, generated = images()
    before, after = (identity()(labelled + c, y, real + c, generated + c) for c in (0.0, 2.0))
    torch.testing.assert_close(before.labelled.softmax(-1), after.labelled.softmax(-1))
    torch.testing.assert_close(loss(identity(), labelled, y), loss(identity(), labelled + 2.0, y))
    d, shifted = (x.real.logsumexp(-1) for x in (before, after))
    torch.testing.assert_close(shifted, d + 2.0)  # the log-odds of being real
    assert abs(loss(identity(), labelled, y, real, generated) - loss(identity(), *map(_plus_two, images()))) > 0.1


def _plus_two(x):
    return x + 2.0 if x.is_floating_point() else x


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_logits_do_not_overflow(size, dtype):
    x = torch.full((2, K), size, dtype=dtype, requires_grad=True)
    y = torch.tensor([0, 1])
    found = loss(identity(), x, y, x, x)
    found.backward()
    # one of the two halves is certain and wrong, and costs |s| / 2
    assert found.item() == pytest.approx(math.log(K) + abs(size + math.log(K)) / 2, rel=1e-6)
    assert x.grad.isfinite().all()


def test_soft_targets():
    site = SoftTargetBernoulli(logits=torch.tensor([0.3, -1.0]))
    target = torch.tensor([0.9, 0.25])
    expected = -F.binary_cross_entropy_with_logits(site.logits, target, reduction="none")
    torch.testing.assert_close(site.log_prob(target), expected)
    assert {*site.sample((50,)).unique().tolist()} <= {0.0, 1.0}
    assert SoftTargetBernoulli(0.3).expand((4,)).log_prob(torch.tensor(0.5)).shape == (4,)
    with pytest.raises(ValueError, match=r"support.*Interval\(lower_bound=0.0, upper_bound=1.0\)"):
        site.log_prob(torch.tensor(1.1))
    with pytest.raises(ValueError, match="Boolean"), pyro.validation_enabled():
        pyro.distributions.Bernoulli(0.5).log_prob(torch.tensor(0.9))


def test_real_and_generated_images_are_compared_apart():
    """With minibatch discrimination the logits of one group do not depend on the other groups."""
    torch.manual_seed(0)
    similarity = MinibatchDiscrimination(K, kernels=2)
    discriminator = Discriminator(DiscriminatorNetwork(nn.Identity(), nn.Linear(K + 2, 3), similarity))
    labelled, y, real, generated = (x.float() if x.is_floating_point() else x for x in images())
    y = y.clamp(max=2)
    before = discriminator(labelled, y, real, generated)
    after = discriminator(labelled, y, real, real[:1].expand(6, -1))
    torch.testing.assert_close(after.labelled, before.labelled)
    torch.testing.assert_close(after.real, before.real)
    torch.testing.assert_close(discriminator.network(real), before.real)
    mixed = discriminator.network(torch.cat([real, generated]))[:5]
    assert not torch.allclose(mixed, before.real)


def test_images_of_a_generator():
    generator = Generator(nn.Linear(3, 5), latent_size=3)
    trace = poutine.trace(generator).get_trace(1000)
    z = trace.nodes["z"]["value"]
    assert ((z >= 0) & (z < 1)).all()
    torch.testing.assert_close(trace.nodes["x"]["value"], generator.network(z))
    assert generator.double()(1).dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: identity(real_target=0.0), r"real_target must be a number in \(0, 1\], got 0.0"),
        (lambda: identity(unlabelled_weight=-1.0), "unlabelled_weight must be a finite number of at least 0"),
        (lambda: Generator(nn.Linear(3, 5), 0), "latent_size must be an integer of at least 1, got 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
