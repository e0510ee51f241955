"""check_distribution passes what is right, Pyro's own included, and names what is wrong."""

import pyro.distributions as dist
import pytest
import torch

from pyro_ext.distributions import UnorderedSet
from pyro_ext.distributions.testing import check_distribution

LOGITS = torch.tensor([0.3, -1.0, 0.7, 0.0])


@pytest.mark.parametrize(
    "build",
    [
        lambda x: dist.Normal(x, 1.0),
        lambda x: dist.Normal(x, x.exp()).to_event(1),
        lambda x: dist.Dirichlet(x.exp()),
        lambda x: dist.Gamma(x.exp(), 2.0),
        lambda x: dist.Categorical(logits=x.expand(2, 4)),
        lambda x: dist.OneHotCategorical(logits=x),
        lambda x: dist.Bernoulli(logits=x),
        lambda x: dist.Poisson(x.exp()),
        lambda x: dist.RelaxedOneHotCategorical(torch.tensor(1.0), logits=x),
    ],
)
def test_right_distributions_pass(build):
    parameter = LOGITS.clone().requires_grad_()
    check_distribution(build(parameter), parameters=[parameter])


class Biased(UnorderedSet):
    """Draws sets as if all categories were equally probable."""

    def sample(self, sample_shape=()):
        return UnorderedSet(self.k, torch.zeros(self.num_categories)).expand(self.batch_shape).sample(sample_shape)


class Reversed(UnorderedSet):
    def sample(self, sample_shape=()):
        return super().sample(sample_shape).flip(-1)


class Unnormalised(UnorderedSet):
    def log_prob(self, value):
        return super().log_prob(value) + 0.01


class Detached(UnorderedSet):
    def log_prob(self, value):
        return super().log_prob(value).detach()


class Incomplete(UnorderedSet):
    def enumerate_support(self, expand=True):
        return super().enumerate_support(expand)[1:]


class Doubled(UnorderedSet):
    def log_prob(self, value):
        return super().log_prob(value).double()


class Collapsed(UnorderedSet):
    def log_prob(self, value):
        return super().log_prob(value).sum(0)


class Tagging(UnorderedSet):
    """Tells its own samples from others by an attribute."""

    def sample(self, sample_shape=()):
        value = super().sample(sample_shape)
        value.drawn = True
        return value

    def log_prob(self, value):
        return super().log_prob(value) + (0 if hasattr(value, "drawn") else 1)


class Nameless(UnorderedSet):
    def __repr__(self):
        return "?"


class Forgetful(UnorderedSet):
    """Its expansion forgets the parameters."""

    def expand(self, batch_shape, _instance=None):
        new = super().expand(batch_shape, _instance)
        new.logits = torch.zeros_like(new.logits)
        return new


class Seedless(UnorderedSet):
    count = 0

    def sample(self, sample_shape=()):
        Seedless.count += 1
        return super().sample(sample_shape).roll(Seedless.count, 0)


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (Biased, "sample_law"),
        (Reversed, "support"),
        (Unnormalised, "enumerate"),
        (Detached, "gradients"),
        (Incomplete, "enumerate"),
        (Doubled, "dtype"),
        (Collapsed, "log_prob"),
        (Tagging, "log_prob"),
        (Nameless, "repr"),
        (Forgetful, "expand"),
        (Seedless, "seed"),
    ],
)
def test_wrong_distributions_are_named(kind, check):
    logits = LOGITS.expand(3, 4).clone().requires_grad_()
    with pytest.raises(AssertionError, match=f"{kind.__name__} fails the check '{check}'"):
        check_distribution(kind(2, logits), parameters=[logits])


class Shifted(dist.Normal):
    def sample(self, sample_shape=()):
        return super().sample(torch.Size(sample_shape)) + 0.2


def test_a_continuous_sampler_off_its_density_is_found():
    loc = torch.zeros(3, requires_grad=True)
    with pytest.raises(AssertionError, match="'score': the mean of the score is not zero"):
        check_distribution(Shifted(loc, 1.0), parameters=[loc])


def test_checks_can_be_skipped_and_the_generator_is_left_alone():
    logits = LOGITS.expand(3, 4).clone().requires_grad_()
    before = torch.get_rng_state()
    check_distribution(Biased(2, logits), parameters=[logits], skip=["sample_law", "score"])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", range(20))
def test_no_false_alarm_over_seeds(seed):
    logits = LOGITS.double().requires_grad_()
    check_distribution(UnorderedSet(2, logits), parameters=[logits], seed=seed, num_samples=2000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"skip": ["everything"]}, r"skip names no check: \['everything'\]; there are \['dtype', 'enumerate'"),
        ({"parameters": [torch.zeros(3)]}, "parameters must require gradients"),
    ],
)
def test_wrong_calls_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_distribution(dist.Normal(0.0, 1.0), **arguments)
