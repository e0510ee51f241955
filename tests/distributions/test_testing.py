"""check_distribution passes what is right, Pyro's own included, and names what is wrong."""

import pyro.distributions as dist
import pytest
import torch

from pyro_ext.distributions import UnorderedSet
from pyro_ext.distributions.goodness_of_fit import largest_excess, volume_ratios
from pyro_ext.distributions.testing import CHECKS, check_distribution

STATISTICAL = ("frequencies", "rsample", "moments", "entropy", "goodness_of_fit", "score")
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
        (Biased, "frequencies"),
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


class Moved(dist.Normal):
    """Its samples are those of another mean, but for ``rsample``."""

    def sample(self, sample_shape=()):
        return super().rsample(torch.Size(sample_shape)).detach() + 0.6


class Shifted(dist.Normal):
    """Its samples are those of another mean."""

    def rsample(self, sample_shape=()):
        return super().rsample(torch.Size(sample_shape)) + 0.6

    def sample(self, sample_shape=()):
        return self.rsample(sample_shape).detach()


class Scaled(dist.Normal):
    """Its density is that of a scale a quarter larger."""

    def log_prob(self, value):
        return dist.Normal(self.loc, 1.25 * self.scale).log_prob(value)


class Improper(dist.Normal):
    """Its density does not integrate to 1, which no gradient tells."""

    def log_prob(self, value):
        return super().log_prob(value) + 0.2


class Heavy(dist.StudentT):
    """Its density is normal, of the samples' variance."""

    def log_prob(self, value):
        return dist.Normal(self.loc, (self.df / (self.df - 2)).sqrt() * self.scale).log_prob(value)


@pytest.mark.parametrize(
    ("build", "checks"),
    [
        (Moved, {"rsample", "moments", "entropy", "goodness_of_fit", "score"}),
        (Shifted, {"moments", "entropy", "goodness_of_fit", "score"}),
        (Scaled, {"entropy", "goodness_of_fit"}),
        (Improper, {"entropy", "goodness_of_fit"}),
        (lambda loc, scale: Heavy(3.0, loc, scale), {"entropy", "goodness_of_fit"}),
    ],
)
def test_a_continuous_sampler_off_its_distribution_is_found(build, checks):
    """By each of the checks it should be, and by no other."""
    loc = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    d = build(loc, 1.0)
    failed = set()
    for name in STATISTICAL:
        try:
            check_distribution(d, parameters=[loc], skip=CHECKS.keys() - {name, "log_prob"})
        except AssertionError:
            failed.add(name)
    assert failed == checks


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_no_false_alarm_from_cells(dim):
    """300 trials at a rate of 1 in 100: more than 14 come by chance once in 2e6 times."""
    alarms = 0
    for _ in range(300):
        y = torch.randn(2000, 1, dim, dtype=torch.float64).cumsum(-1)
        log_density = dist.Normal(0.0, 1.0).log_prob(y.diff(dim=-1, prepend=torch.zeros(2000, 1, 1))).sum(-1)
        alarms += largest_excess(volume_ratios(y, log_density) - 1, 0.0, 0.01) > 0
    assert alarms <= 14


def test_checks_can_be_skipped_and_the_generator_is_left_alone():
    logits = LOGITS.expand(3, 4).clone().requires_grad_()
    before = torch.get_rng_state()
    check_distribution(Biased(2, logits), parameters=[logits], skip=["frequencies", "entropy", "score"])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", range(20))
def test_no_false_alarm_over_seeds(seed):
    logits = LOGITS.double().requires_grad_()
    check_distribution(UnorderedSet(2, logits), parameters=[logits], seed=seed, num_samples=2000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"skip": ["everything"]},
            r"skip names no check: \['everything'\]; there are \['dtype', 'entropy', 'enumerate'",
        ),
        ({"parameters": [torch.zeros(3)]}, "parameters must require gradients"),
    ],
)
def test_wrong_calls_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_distribution(dist.Normal(0.0, 1.0), **arguments)
