"""Constraints around every ELBO: expectations, means over the data, multipliers, training, bad input."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO, config_enumerate

from benchmarks.support import rate_distortion
from pyro_ext import inference
from pyro_ext.datasets import Splits, as_dataset
from pyro_ext.inference import (
    ELBOObjective,
    FeatureConstraint,
    FitSettings,
    ReconstructionConstraint,
    TraceGECO_ELBO,
    TrainingPlan,
    fit,
)
from pyro_ext.inference.joint_draws.engine import JointDrawsELBO
from tests.inference.feeding import max_z

X = torch.tensor([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.9], [0.1, 0.4]], dtype=torch.float64)
LOCS = torch.tensor([[0.0, 0.4], [1.0, -1.0], [-0.5, 0.7]], dtype=torch.float64)
TOLERANCE = 1.5


class Mixture(torch.nn.Module):
    """Points around one of three means, and a guide that knows which with uncertainty."""

    def __init__(self, dtype=torch.float64, size=4):
        super().__init__()
        self.size = size
        self.locs = torch.nn.Parameter(LOCS.to(dtype))
        self.logits = torch.nn.Parameter(torch.linspace(-1, 1, 12, dtype=dtype).reshape(4, 3))

    def model(self, x, index=None):
        index = torch.arange(len(x)) if index is None else index
        with pyro.plate("data", self.size, subsample=index):
            z = pyro.sample("z", dist.Categorical(torch.ones(3, dtype=x.dtype) / 3))
            pyro.sample("x", dist.Normal(self.locs[z], 0.3).to_event(1), obs=x)

    def guide(self, x, index=None):
        index = torch.arange(len(x)) if index is None else index
        with pyro.plate("data", self.size, subsample=index):
            pyro.sample("z", dist.Categorical(logits=self.logits[index]))

    def exact(self, x, multiplier, tolerance=TOLERANCE):
        """Return loss and mean constraint, by the sum over the three components."""
        log_q = self.logits.log_softmax(-1)
        constraint = (x.unsqueeze(1) - self.locs).square().sum(-1) - tolerance**2
        kl = (log_q.exp() * (log_q + math.log(3))).sum()
        expected = (log_q.exp() * constraint).sum()
        return kl + multiplier * expected, expected.detach() / len(x)


def constrained(base, **options):
    return TraceGECO_ELBO(base, {"x": ReconstructionConstraint(TOLERANCE)}, **options)


def estimate(elbo):
    return elbo.terms()["constraint_x"]


BASES = {
    "trace": lambda: Trace_ELBO(num_particles=40, vectorize_particles=True, max_plate_nesting=1),
    "unordered_set": lambda: inference.TraceUnorderedSet_ELBO(2, max_plate_nesting=1),
    "sum_and_sample": lambda: inference.TraceSumAndSample_ELBO(2, max_plate_nesting=1),
    "leave_one_out": lambda: inference.TraceLeaveOneOut_ELBO(4, max_plate_nesting=1),
    "leave_one_out_runs": lambda: inference.TraceLeaveOneOut_ELBO(4, vectorize_samples=False),
    "beam": lambda: inference.TraceUnorderedBeam_ELBO(2, max_plate_nesting=1),
    "exact": lambda: inference.TraceSampleSet_ELBO(estimator="exact", max_plate_nesting=1),
}


class TestExpectations:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_loss_gradient_and_constraint_are_exact_under_enumeration(self, dtype):
        program = Mixture(dtype)
        elbo = constrained(TraceEnum_ELBO(max_plate_nesting=1), start=0.7, normalize=False)
        loss = elbo.differentiable_loss(program.model, config_enumerate(program.guide), X.to(dtype))
        exact, constraint = program.exact(X.to(dtype), 0.7)
        torch.testing.assert_close(loss, exact)
        torch.testing.assert_close(estimate(elbo).to(dtype), constraint)
        gradients = torch.autograd.grad(loss, [*program.parameters()])
        torch.testing.assert_close(gradients, torch.autograd.grad(exact, [*program.parameters()]))

    def test_normalised_gradients_point_the_same_way(self):
        program = Mixture()
        elbo = constrained(TraceEnum_ELBO(max_plate_nesting=1), start=3.0)
        loss = elbo.differentiable_loss(program.model, config_enumerate(program.guide), X)
        exact, _ = program.exact(X, 3.0)
        torch.testing.assert_close(loss, exact, rtol=1e-6, atol=0)
        expected = [gradient / 4 for gradient in torch.autograd.grad(exact, [*program.parameters()])]
        torch.testing.assert_close(
            torch.autograd.grad(loss, [*program.parameters()]), tuple(expected), rtol=1e-5, atol=0
        )

    @pytest.mark.parametrize("name", BASES)
    def test_unbiased_under_every_elbo(self, name):
        """|z| < 4.5 for 13 means: a false alarm in 1 of 10,000 runs."""
        program, number = Mixture(), 3 if name == "exact" else 150
        elbo = constrained(BASES[name](), start=0.7, normalize=False)
        exact, constraint = program.exact(X, 0.7)
        exact_gradient = torch.cat([g.flatten() for g in torch.autograd.grad(exact, [*program.parameters()])])
        draws = self.draws(elbo, program.model, program.guide, [*program.parameters()], X, number)
        expected = torch.cat([exact_gradient, constraint.reshape(1)])
        if name == "exact":
            torch.testing.assert_close(draws[0], expected, rtol=1e-6, atol=1e-6)
        else:
            assert max_z(draws, expected) < 4.5

    @pytest.mark.parametrize("particles", [1, 2])
    def test_vimco_estimates_the_constrained_bound_of_several_samples(self, particles):
        """The constraint is weighted like the samples: minus the derivative of the exact bound in the multiplier."""
        program, multiplier = Mixture(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        log_q = program.logits.log_softmax(-1)
        constraint = (X.unsqueeze(1) - program.locs).square().sum(-1) - TOLERANCE**2
        log_weight = -math.log(3) - log_q - multiplier * constraint
        if particles == 1:
            bound = (log_q.exp() * log_weight).sum()
        else:
            pairs = torch.logaddexp(log_weight.unsqueeze(1), log_weight.unsqueeze(2)) - math.log(2)
            bound = ((log_q.unsqueeze(1) + log_q.unsqueeze(2)).exp() * pairs).sum()
        exact = torch.autograd.grad(-bound, [*program.parameters(), multiplier])
        exact = torch.cat([gradient.flatten() for gradient in exact])
        exact[-1] /= len(X)
        base = inference.TraceVIMCO_ELBO(particles, vectorize_particles=True, max_plate_nesting=1)
        elbo = constrained(base, start=0.7, normalize=False)
        assert max_z(self.draws(elbo, program.model, program.guide, [*program.parameters()], X, 400), exact) < 4.5

    def test_disarm_for_bernoulli_sites(self):
        logits = torch.nn.Parameter(torch.tensor([0.3, -0.5], dtype=torch.float64))

        def model(x):
            with pyro.plate("data", 2):
                z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5, dtype=x.dtype)))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", 2):
                pyro.sample("z", dist.Bernoulli(logits=logits))

        x = torch.tensor([0.8, 0.1], dtype=torch.float64)
        p = logits.sigmoid()
        constraint = p * (x - 1) ** 2 + (1 - p) * x**2 - TOLERANCE**2
        loss = (p * p.log() + (1 - p) * (1 - p).log() + math.log(2) + 0.7 * constraint).sum()
        exact = torch.cat([*torch.autograd.grad(loss, [logits]), constraint.mean().detach().reshape(1)])
        elbo = constrained(inference.TraceDisARM_ELBO(), start=0.7, normalize=False)
        assert max_z(self.draws(elbo, model, guide, [logits], x, 200), exact) < 4.5

    def draws(self, elbo, model, guide, parameters, x, number):
        """Return gradients and the estimate of the constraint, draw by draw."""
        pyro.set_rng_seed(2)
        rows = []
        for _ in range(number):
            gradients = torch.autograd.grad(elbo.differentiable_loss(model, guide, x), parameters)
            rows.append(torch.cat([*(gradient.flatten() for gradient in gradients), estimate(elbo).double()[None]]))
        return torch.stack(rows)

    def test_no_elbo_is_left_out(self):
        """Those on joint draws (DisARM stands for all of them) and VIMCO have tests of their own."""
        classes = {name: kind for name, kind in vars(inference).items() if isinstance(kind, type)}
        own = {name for name, kind in classes.items() if issubclass(kind, JointDrawsELBO)}
        known = {type(make()).__name__ for make in BASES.values()} | own | {"TraceVIMCO_ELBO"}
        public = {name for name in inference.__all__ if name.startswith("Trace") and name.endswith("_ELBO")}
        assert public - {"TraceGECO_ELBO"} <= known

    def test_bases_without_differentiable_loss_work_in_svi(self):
        program = Mixture()
        base = TraceGraph_ELBO(num_particles=400, vectorize_particles=True, max_plate_nesting=1)
        elbo = constrained(base, start=0.7)
        pyro.set_rng_seed(0)
        loss = elbo.loss_and_grads(program.model, program.guide, X)
        exact, constraint = program.exact(X, 0.7)
        assert loss == pytest.approx(exact.item(), abs=0.3)
        assert estimate(elbo).item() == pytest.approx(constraint.item(), abs=0.1)
        expected = torch.autograd.grad(exact, program.locs)[0] / 1.7
        torch.testing.assert_close(program.locs.grad, expected, rtol=0.2, atol=0.1)
        assert elbo._num_steps == 1
        with pytest.raises(ValueError, match="base=TraceGraph_ELBO has no differentiable_loss; use it in SVI"):
            elbo.differentiable_loss(program.model, program.guide, X)

    def test_a_function_is_a_constraint(self):
        program = Mixture()
        elbo = TraceGECO_ELBO(
            TraceEnum_ELBO(max_plate_nesting=1), {"x": lambda d, value: (d.mean - value).abs().sum(-1) - 1}
        )
        elbo.differentiable_loss(program.model, config_enumerate(program.guide), X)
        each = (X.unsqueeze(1) - LOCS).abs().sum(-1) - 1
        expected = (program.logits.softmax(-1) * each).sum() / 4
        assert estimate(elbo).item() == pytest.approx(expected.item(), rel=1e-6)


class TestMeanOverData:
    """The estimate is a mean over data points, whatever the loss is multiplied by."""

    def value(self, model, guide, *args, base=None):
        elbo = constrained(base or TraceEnum_ELBO(max_plate_nesting=2))
        elbo.differentiable_loss(model, config_enumerate(guide), *args)
        return estimate(elbo).item()

    def test_subsamples(self):
        whole, half = Mixture(), Mixture()
        expected = whole.exact(X, 1.0)[1].item()
        assert self.value(whole.model, whole.guide, X) == pytest.approx(expected, rel=1e-6)
        halves = [self.value(half.model, half.guide, X[rows], rows) for rows in torch.tensor([[0, 1], [2, 3]])]
        assert sum(halves) / 2 == pytest.approx(expected, rel=1e-6)

    def test_scale(self):
        program = Mixture()
        scaled = [pyro.poutine.scale(part, scale=0.01) for part in (program.model, program.guide)]
        expected = program.exact(X, 1.0)[1].item()
        assert self.value(*scaled, X) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("kind", ["handler", "distribution"])
    def test_masked_rows_do_not_count_and_may_hold_nan(self, kind):
        program, mask = Mixture(), torch.tensor([True, False, True, True])
        x = X.clone()
        x[1] = math.nan

        def model(x):
            with pyro.plate("data", 4):
                z = pyro.sample("z", dist.Categorical(torch.ones(3, dtype=x.dtype) / 3))
                fn = dist.Normal(program.locs[z], 0.3).to_event(1)
                with pyro.poutine.mask(mask=mask if kind == "handler" else True):
                    pyro.sample("x", fn if kind == "handler" else fn.mask(mask), obs=x)

        elbo = constrained(TraceEnum_ELBO(max_plate_nesting=1))
        elbo.differentiable_loss(model, config_enumerate(program.guide), x).backward()
        q = program.logits.softmax(-1)
        each = (q * ((x.unsqueeze(1) - program.locs).square().sum(-1) - TOLERANCE**2)).sum(-1)
        assert estimate(elbo).item() == pytest.approx(each[mask].mean().item(), rel=1e-6)
        assert program.locs.grad.isfinite().all()

    @pytest.mark.parametrize("mask", [True, torch.tensor(True)])
    def test_a_mask_of_no_dims(self, mask):
        program = Mixture()
        masked = [pyro.poutine.mask(part, mask=mask) for part in (program.model, program.guide)]
        assert self.value(*masked, X) == pytest.approx(program.exact(X, 1.0)[1].item(), rel=1e-6)

    def test_nothing_in_sight_moves_nothing(self):
        program, elbo = Mixture(), constrained(TraceEnum_ELBO(max_plate_nesting=1))
        hidden = pyro.poutine.mask(program.model, mask=torch.tensor(False))
        elbo.loss_and_grads(hidden, config_enumerate(program.guide), X)
        assert elbo.multipliers == {"x": 1.0}

    def test_particles(self):
        program = Mixture()
        for vectorized in (False, True):
            base = Trace_ELBO(num_particles=3, vectorize_particles=vectorized, max_plate_nesting=1)
            elbo = constrained(base)
            pyro.set_rng_seed(0)
            elbo.differentiable_loss(program.model, program.guide, X)
            each = (X.unsqueeze(1) - program.locs).square().sum(-1) - TOLERANCE**2
            assert each.min() <= estimate(elbo) <= each.max()

    def test_a_site_in_no_plate(self):
        def model():
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))

        def guide():
            pyro.sample("z", dist.Delta(torch.tensor(0.5)))

        assert self.value(model, guide, base=Trace_ELBO()) == pytest.approx(1.5**2 - TOLERANCE**2)


class TestMultipliers:
    def state(self, elbo):
        return {name: value.clone() for name, value in elbo.state_dict().items()}

    def test_only_steps_move_them(self):
        program, elbo = Mixture(), constrained(TraceEnum_ELBO(max_plate_nesting=1))
        guide, before = config_enumerate(program.guide), None
        before = self.state(elbo)
        elbo.loss(program.model, guide, X)
        loss = elbo.differentiable_loss(program.model, guide, X)
        elbo(program.model, guide)(X)
        elbo.after_step()  # nothing went backward
        torch.testing.assert_close(self.state(elbo), before, rtol=0, atol=0)
        loss.backward()
        torch.testing.assert_close(self.state(elbo), before, rtol=0, atol=0)
        elbo.after_step()
        assert elbo._num_steps == 1
        constraint = program.exact(X, 1.0)[1].item()
        assert elbo.averages["x"] == pytest.approx(constraint, rel=1e-6)  # the first one is no average with 0
        first = 0.02 * math.copysign(math.log1p(abs(constraint) / TOLERANCE**2), constraint)
        assert math.log(elbo.multipliers["x"]) == pytest.approx(first, rel=1e-4)
        after = self.state(elbo)
        elbo.after_step()
        torch.testing.assert_close(self.state(elbo), after, rtol=0, atol=0)
        SVI(program.model, guide, pyro.optim.Adam({}), elbo).evaluate_loss(X)
        torch.testing.assert_close(self.state(elbo), after, rtol=0, atol=0)
        elbo.loss_and_grads(program.model, guide, X)
        assert elbo._num_steps == 2

    def test_moving_average_and_accumulated_batches(self):
        program, elbo = Mixture(), constrained(TraceEnum_ELBO(max_plate_nesting=1), decay=0.5)
        guide = config_enumerate(program.guide)
        first = program.exact(X, 1.0)[1].item()
        elbo.loss_and_grads(program.model, guide, X)
        others = [program.exact(x, 1.0)[1].item() for x in (X + 1, X - 1)]
        for x in (X + 1, X - 1):
            (elbo.differentiable_loss(program.model, guide, x) / 7).backward()
        elbo.after_step()
        assert elbo.averages["x"] == pytest.approx(0.5 * first + 0.5 * sum(others) / 2, rel=1e-5)

    def test_multipliers_look_ahead(self):
        """They follow the logarithm of the violation, and in proportion to its change."""
        program, options = Mixture(), {"decay": 0.0, "rate": 0.001, "max_change": 10.0}
        elbo = constrained(TraceEnum_ELBO(max_plate_nesting=1), look_ahead=30, **options)
        guide, logs, violations = config_enumerate(program.guide), [], []
        for x in (X + 3, X + 2, X):
            elbo.loss_and_grads(program.model, guide, x)
            constraint = program.exact(x, 1.0)[1].item()
            violations.append(math.copysign(math.log1p(abs(constraint) / TOLERANCE**2), constraint))
            logs.append(math.log(elbo.multipliers["x"]))
        assert violations[0] > violations[1] > 0 > violations[2]
        expected = [0.001 * (sum(violations[: at + 1]) + 30 * (violations[at] - violations[0])) for at in range(3)]
        assert logs == pytest.approx(expected, rel=1e-4)

    def test_changes_are_clamped_and_wait_for_the_warm_up(self):
        program, guide = Mixture(), config_enumerate(Mixture().guide)
        elbo = constrained(TraceEnum_ELBO(max_plate_nesting=1), rate=100.0, warm_up=2, max_change=0.1)
        seen = []
        for _ in range(4):
            elbo.loss_and_grads(program.model, guide, X + 10)
            seen.append(math.log(elbo.multipliers["x"]))
        assert seen == pytest.approx([0, 0, 0.1, 0.2], abs=1e-6)
        for _ in range(140):
            elbo.loss_and_grads(program.model, guide, X + 10)
        assert elbo.multipliers["x"] == pytest.approx(1e6, rel=1e-3)

    def test_of_two_constraints_the_satisfied_one_falls(self):
        program, guide = Mixture(), config_enumerate(Mixture().guide)
        constraints = {"x": {"loose": ReconstructionConstraint(5.0), "tight": ReconstructionConstraint(0.1)}}
        elbo = TraceGECO_ELBO(TraceEnum_ELBO(max_plate_nesting=1), constraints)
        elbo.loss_and_grads(program.model, guide, X)
        assert elbo.multipliers["x_loose"] < 1 < elbo.multipliers["x_tight"]
        assert elbo.effective_sigma("x_tight") == pytest.approx((2 * elbo.multipliers["x_tight"]) ** -0.5)

    def test_a_loss_that_is_not_finite_spoils_nothing(self):
        program, guide, elbo = Mixture(), config_enumerate(Mixture().guide), constrained(TraceEnum_ELBO())
        with pytest.warns(UserWarning, match="NaN"):
            elbo.loss_and_grads(program.model, guide, X * math.nan)
        assert elbo.multipliers == {"x": 1.0}

    def test_estimates_are_averaged_over_processes(self, monkeypatch):
        program, elbo = Mixture(), constrained(TraceEnum_ELBO(max_plate_nesting=1))
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda value: value.add_(3.0))  # the other one's
        elbo.loss_and_grads(program.model, config_enumerate(program.guide), X)
        expected = (program.exact(X, 1.0)[1].item() + 3) / 2
        assert elbo.averages["x"] == pytest.approx(expected, rel=1e-5)

    def test_no_optimiser_holds_one(self):
        class Parts(Mixture):
            forward = Mixture.model

        program = Parts()
        network = torch.nn.Linear(2, 3).double()
        elbo = TraceGECO_ELBO(TraceEnum_ELBO(), {"x": FeatureConstraint(network, 1.0)})
        objective = ELBOObjective(program, lambda x: None, elbo)
        plan = TrainingPlan([inference.Player("model", objective)])
        names = plan.players[0].named_parameters()
        assert sorted(name.split(".")[-1] for name in names) == ["locs", "logits"]
        assert any("multipliers" in name for name in objective.state_dict())


class TestRateDistortion:
    def test_the_optimum_is_reverse_water_filling(self):
        """Level .3375: lambda = 1 / (2 * .3375), and half the logarithms of 4, 2, 1 and .5 over it are the nats."""
        expected = torch.tensor([1.4815, 1.6, 2.8655], dtype=torch.float64)
        torch.testing.assert_close(rate_distortion.optimum(1.6), expected, rtol=1e-4, atol=0)
        assert rate_distortion.optimum(0.1)[0] == pytest.approx(25)  # every variance is above the level of .02

    def test_soon_close(self):
        end = rate_distortion.train(1.6, 500, look_ahead=20).end()
        torch.testing.assert_close(end, rate_distortion.optimum(1.6), rtol=0.04, atol=0)

    @pytest.mark.slow
    @pytest.mark.parametrize("start", [1e-4, 1e4])
    def test_converges_from_far_away(self, start):
        end = rate_distortion.train(1.6, 3000, start=start).end()
        torch.testing.assert_close(end, rate_distortion.optimum(1.6), rtol=0.01, atol=0)

    @pytest.mark.slow
    def test_a_small_tolerance_makes_no_multiplier_explode(self):
        """Without looking ahead, the multiplier exceeds its optimum of 25 a thousandfold before the error is met."""
        path, optimum = rate_distortion.train(0.1, 2000, lr=0.005), rate_distortion.optimum(0.1)
        assert path.multiplier.max() < 2 * optimum[0]
        torch.testing.assert_close(path.end(), optimum, rtol=0.05, atol=0)
        assert rate_distortion.train(0.1, 300, lr=0.005, look_ahead=0).multiplier.max() > 1000 * optimum[0]


class Autoencoder(torch.nn.Module):
    def __init__(self, part):
        super().__init__()
        self.network = torch.nn.Linear(1, 2) if part == "model" else torch.nn.Linear(2, 2)
        self.part = part

    def forward(self, x, y, index):
        with pyro.plate("data", 40, subsample=index):
            if self.part == "guide":
                loc, scale = self.network(x).unbind(-1)
                pyro.sample("z", dist.Normal(loc.unsqueeze(-1), scale.unsqueeze(-1).exp()).to_event(1))
                return
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.network(z), 1.0).to_event(1), obs=x)


class TestTraining:
    def plan(self):
        pyro.set_rng_seed(0)
        elbo = constrained(TraceMeanField_ELBO(max_plate_nesting=1))
        return TrainingPlan.of(Autoencoder("model"), Autoencoder("guide"), elbo)

    def splits(self):
        x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        return Splits("points", as_dataset(x[:40]), as_dataset(x[40:]))

    def run(self, plan, epochs, out=None, resume=False):
        settings = FitSettings(max_epochs=epochs, batch_size=20)
        flags = {"enable_progress_bar": False, "accelerator": "cpu"}
        return fit(plan, self.splits(), settings, out=out, resume=resume, **flags)

    def test_multipliers_are_in_the_metrics_and_resumed_exactly(self, tmp_path):
        whole_plan = self.plan()
        whole = self.run(whole_plan, 4)
        assert whole.history[-1]["train_multiplier_x"] != 1.0
        assert "train_constraint_x" in whole.history[-1]
        self.run(self.plan(), 2, out=tmp_path / "run")
        plan = self.plan()
        resumed = self.run(plan, 4, out=tmp_path / "run", resume=True)
        assert resumed.metrics == whole.metrics
        elbos = [each.elbo_objective("test").elbo for each in (plan, whole_plan)]
        assert elbos[0].multipliers == elbos[1].multipliers
        assert elbos[0]._num_steps == 8

    def test_another_elbo_goes_under_the_constraints(self):
        plan = self.plan().with_elbo(Trace_ELBO(num_particles=3))
        elbo = plan.elbo_objective("test").elbo
        assert isinstance(elbo, TraceGECO_ELBO)
        assert elbo.base.num_particles == elbo.num_particles == 3
        self.run(plan, 1)
        assert elbo._num_steps == 2

    def test_validation_moves_nothing(self):
        plan = self.plan()
        module = plan.elbo_objective("test")
        batch = self.splits().train.x[:5], None, torch.arange(5)
        with torch.no_grad():
            module(*batch)
        module.after_step()
        assert module.elbo._num_steps == 0


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((Trace_ELBO, {"x": ReconstructionConstraint(1.0)}), "base must be an ELBO instance such as"),
            ((Trace_ELBO(), {}), "constraints must map names of observed sites to constraints, got {}"),
            ((Trace_ELBO(), {1: ReconstructionConstraint(1.0)}), "constraints must map names of sites, got 1"),
            ((Trace_ELBO(), {"x": {}}), "constraints must hold at least one constraint of site 'x'"),
            ((Trace_ELBO(), {"x": 2.0}), "the constraint of 'x' must be a Constraint such as"),
            ((Trace_ELBO(), {"x": ReconstructionConstraint}), "the constraint of 'x' must be a Constraint such as"),
            (
                (Trace_ELBO(), {"x": {"a": lambda d, v: 0}, "x_a": lambda d, v: 0}),
                "two constraints are called 'x_a'",
            ),
        ],
    )
    def test_of_the_elbo(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            TraceGECO_ELBO(*arguments)

    @pytest.mark.parametrize(
        ("option", "value"),
        [("rate", 0), ("decay", 1.0), ("start", 0.0), ("warm_up", -1), ("max_change", -0.1), ("look_ahead", -1.0)],
    )
    def test_of_options(self, option, value):
        with pytest.raises(ValueError, match=f"{option} must be"):
            constrained(Trace_ELBO(), **{option: value})

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("y", "constraints must name observed sites of the model, got 'y'; the observed sites are x"),
            ("z", "site 'z' has a constraint but is not observed"),
        ],
    )
    @pytest.mark.parametrize("method", ["loss", "differentiable_loss", "loss_and_grads"])
    def test_of_sites(self, name, message, method):
        program = Mixture()
        elbo = TraceGECO_ELBO(Trace_ELBO(), {name: ReconstructionConstraint(1.0)})
        with pytest.raises(ValueError, match=message):
            getattr(elbo, method)(program.model, program.guide, X)

    @pytest.mark.parametrize(
        ("result", "shape"),
        [(lambda d, v: d.mean - v, r"\(4, 2\)"), (lambda d, v: 1.0, "float"), (lambda d, v: v.sum(), r"\(\)")],
    )
    def test_of_shapes(self, result, shape):
        program = Mixture()
        elbo = TraceGECO_ELBO(Trace_ELBO(), {"x": result})
        with pytest.raises(ValueError, match=rf"'x' must return a tensor of shape \(4,\).*got {shape}"):
            elbo.loss(program.model, program.guide, X)

    def test_of_names(self):
        constraints = {"x": {"error": ReconstructionConstraint(1.0), "other": lambda d, value: value.sum(-1)}}
        elbo = TraceGECO_ELBO(Trace_ELBO(), constraints)
        with pytest.raises(ValueError, match=r"a constraint on the squared error \(x_error\), got 'x_other'"):
            elbo.effective_sigma("x_other")

    def test_nested(self):
        with pytest.raises(ValueError, match="base must not be a TraceGECO_ELBO itself"):
            constrained(constrained(Trace_ELBO()))

    def test_jit(self):
        with pytest.raises(ValueError, match="base=JitTrace_ELBO compiles the model"):
            constrained(pyro.infer.JitTrace_ELBO())


def test_copies_are_independent():
    program, elbo = Mixture(), constrained(TraceEnum_ELBO())
    other = copy.deepcopy(elbo)
    elbo.loss_and_grads(program.model, config_enumerate(program.guide), X)
    assert other.multipliers == {"x": 1.0} != elbo.multipliers
    other.load_state_dict(elbo.state_dict())
    assert other.multipliers == elbo.multipliers
