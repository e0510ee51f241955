"""Constraints by themselves: their values, the networks inside of them, bad input."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_ext.inference import (
    ClassificationConstraint,
    Constraint,
    FeatureConstraint,
    LikelihoodConstraint,
    PatchCorrelationConstraint,
    ReconstructionConstraint,
    TraceGECO_ELBO,
)

X = torch.tensor([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.9], [0.1, 0.4]], dtype=torch.float64)
TOLERANCE = 1.5


class TestConstraints:
    NORMAL = dist.Normal(X, 1.0).to_event(1)

    def test_a_perfect_reconstruction_leaves_the_tolerance(self):
        expected = torch.full((4,), -(TOLERANCE**2), dtype=torch.float64)
        torch.testing.assert_close(ReconstructionConstraint(TOLERANCE)(self.NORMAL, X, {}), expected)
        torch.testing.assert_close(FeatureConstraint(torch.sin, TOLERANCE)(self.NORMAL, X, {}), expected)

    def test_errors_are_summed_over_the_event_less_what_is_masked(self):
        mask = torch.tensor([True, False])
        error = (X - 1).square()
        constraint, x = ReconstructionConstraint(1.0), torch.ones_like(X)
        torch.testing.assert_close(constraint(self.NORMAL, x, {}), error.sum(-1) - 1)
        torch.testing.assert_close(constraint(dist.Normal(X, 1.0).mask(mask).to_event(1), x, {}), error[:, 0] - 1)
        torch.testing.assert_close(constraint(dist.Normal(X, 1.0), x, {}), error - 1)

    def test_multivariate_events(self):
        d = dist.MultivariateNormal(X, torch.eye(2, dtype=X.dtype))
        torch.testing.assert_close(ReconstructionConstraint(1.0)(d, 0 * X, {}), X.square().sum(-1) - 1)

    def test_likelihood(self):
        torch.testing.assert_close(LikelihoodConstraint(-0.5)(self.NORMAL, X, {}), -self.NORMAL.log_prob(X) + 0.5)

    def test_networks_are_copies_that_nothing_changes(self):
        network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout()).double()
        constraint = FeatureConstraint(network, 1.0)
        constraint.train()
        assert network.training
        assert network[0].weight.requires_grad
        assert not any(parameter.requires_grad for parameter in constraint.parameters())
        torch.testing.assert_close(constraint(self.NORMAL, X, {}), constraint(self.NORMAL, X, {}))
        assert not constraint.features.training

    def test_networks_see_one_batch_dim(self):
        network = torch.nn.Conv1d(1, 2, 2).double()
        d = dist.Normal(X.reshape(2, 2, 1, 2), 1.0).to_event(2)
        constraint = FeatureConstraint(network, 1.0)
        particles = dist.Normal(torch.stack([X.reshape(2, 2, 1, 2)] * 3), 1.0).to_event(2)
        assert constraint(d, X.reshape(2, 2, 1, 2), {}).shape == (2, 2)
        assert constraint(particles, X.reshape(2, 2, 1, 2), {}).shape == (3, 2, 2)

    def test_classes(self):
        constraint = ClassificationConstraint(lambda x: 3 * x, 0.5)
        of_mean = (3 * X).log_softmax(-1)
        torch.testing.assert_close(constraint(self.NORMAL, X, {}), -of_mean.amax(-1) - 0.5)
        labelled = ClassificationConstraint(lambda x: 3 * x, 0.5, label="y")
        torch.testing.assert_close(labelled(self.NORMAL, X, {"y": torch.tensor(1)}), -of_mean[:, 1] - 0.5)
        with pytest.raises(ValueError, match="label must be a site that the model visits before, got 'y'; those are z"):
            labelled(self.NORMAL, X, {"z": torch.tensor(1)})

    def test_labels_come_from_the_model(self):
        def model(x, y):
            with pyro.plate("data", 4):
                pyro.sample("y", dist.Categorical(torch.ones(2)), obs=y)
                pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=x)

        network = torch.nn.Linear(2, 2)
        elbo = TraceGECO_ELBO(Trace_ELBO(), {"x": ClassificationConstraint(network, 0.1, label="y")})
        y = torch.tensor([0, 1, 1, 1])
        elbo.differentiable_loss(model, lambda x, y: None, X.float(), y)
        log_probs = network.bias.log_softmax(-1)
        assert elbo.terms()["constraint_x"].item() == pytest.approx(-log_probs[y].mean().item() - 0.1, rel=1e-5)

    def test_patches_are_compared_whatever_their_brightness(self):
        pyro.set_rng_seed(0)
        x = torch.rand(3, 2, 6, 6)
        constraint = PatchCorrelationConstraint(0.5, (2, 6, 6), patch=3)
        for reconstruction, correlation in ((x, 1), (4 * x + 2, 1), (1 - x, -1)):
            result = constraint(dist.Normal(reconstruction, 1.0).to_event(3), x, {})
            torch.testing.assert_close(result, torch.full((3,), 4 * (0.5 - correlation)), rtol=1e-4, atol=1e-4)
        flat = torch.zeros(3, 36)
        flat[:, 0] = 1.0  # three of four patches are flat
        result = PatchCorrelationConstraint(0.5, (6, 6), patch=3)(dist.Normal(flat, 1.0).to_event(1), flat, {})
        torch.testing.assert_close(result, torch.full((3,), -0.5))


class TestBadInput:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: ReconstructionConstraint(-1.0), "tolerance must be a positive, finite number, got -1.0"),
            (lambda: FeatureConstraint("net", 1.0), "features must be a function or a torch.nn.Module, got 'net'"),
            (lambda: ClassificationConstraint(torch.sin, 0), "tolerance must be a positive, finite number, got 0"),
            (lambda: LikelihoodConstraint(math.inf), "tolerance must be a finite number, got inf"),
            (lambda: PatchCorrelationConstraint(1.5, (8, 8)), "tolerance must be"),
            (lambda: PatchCorrelationConstraint(0.5, (8,)), "image_shape must be"),
            (lambda: PatchCorrelationConstraint(0.5, (8, 3)), "patch must be at most 3, the size of the images, got 4"),
        ],
    )
    def test_of_constraints(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    def test_of_distributions_without_a_mean(self):
        d = dist.TransformedDistribution(dist.Normal(0.0, 1.0), [dist.transforms.ExpTransform()])
        with pytest.raises(ValueError, match="needs a distribution with a mean, got TransformedDistribution"):
            ReconstructionConstraint(1.0)(d, torch.tensor(1.0), {})

    def test_a_constraint_without_forward(self):
        with pytest.raises(NotImplementedError, match="define forward"):
            Constraint()(None, None, {})
