"""A digit on a canvas: its distribution, the bound against a sum written out, estimators of the position, options."""

import importlib
import math

import pyro
import pytest
import torch
from pyro import poutine
from torch.nn import functional as F
from torch.utils.data import DataLoader

from pyro_ext.cli.__main__ import main
from pyro_ext.datasets import IndexedDataset, Splits, collate, moving_digits
from pyro_ext.inference import OptimizerSettings, TraceSampleSet_ELBO
from pyro_ext.models.hard_attention import DigitOnCanvas, Guide, Model, build, position_metrics
from pyro_ext.models.toolkit import Relaxation
from pyro_ext.models.toolkit.baseline import LearnedBaselineObjective

inference = importlib.import_module("pyro_ext.inference")

SHAPE, WINDOW, SIZE = (4, 5), 3, 12
PIXELS = SHAPE[0] * SHAPE[1]
SMALL = {"window": WINDOW, "latent_dim": 2, "hidden": (6,), "channels": 3}
EXACT = {"estimator": "exact", "max_plate_nesting": 1, "analytic_kl": True}


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(SIZE, PIXELS, generator=generator) > 0.7).float()
    y = torch.randint(PIXELS, (SIZE,), generator=generator)
    return Splits("toy", IndexedDataset(x, y), IndexedDataset(x[:6], y[:6]), image_shape=SHAPE)


@pytest.fixture
def pair():
    pyro.set_rng_seed(0)
    model, guide = (
        Model(SIZE, SHAPE, WINDOW, 2, (6,)).double(),
        Guide(SIZE, SHAPE, WINDOW, 2, (6,), channels=3).double(),
    )
    with torch.no_grad():  # far from uniform
        guide.scores.layers[-2].weight.mul_(30)
        model.background.fill_(-1.0)
    return model, guide


class MeanStyles(poutine.messenger.Messenger):
    """Puts the style of every canvas at its mean, so that only the position is random."""

    def _pyro_sample(self, msg):
        if msg["name"] == "z":
            msg["value"], msg["done"] = msg["fn"].mean, True


class WithoutNoise(torch.nn.Module):
    """The guide with styles at their means."""

    def __init__(self, guide):
        super().__init__()
        self.guide = guide

    def forward(self, *batch):
        with MeanStyles():
            return self.guide(*batch)


def written_out(model, guide, x):
    """The bound of each canvas at mean styles, by a loop over positions that draws each whole canvas."""
    log_q = guide.attend(x).log_softmax(-1)
    bounds = []
    for position in range(PIXELS):
        place = torch.full((len(x),), position)
        style = guide.style(x, place)
        logits = model.canvas(place, style.mean).canvas_logits.flatten(-2)
        likelihood = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        kl = 0.5 * (style.scale**2 + style.loc**2 - 1 - 2 * style.scale.log()).sum(-1)
        bounds.append(likelihood - kl - math.log(PIXELS))
    return (log_q.exp() * (torch.stack(bounds, -1) - log_q)).sum(-1)


def test_the_likelihood_counts_every_pixel_once():
    logits, background = torch.randn(PIXELS, 3, 3, dtype=torch.float64), torch.tensor(-0.7, dtype=torch.float64)
    x = (torch.rand(PIXELS, dtype=torch.float64) > 0.5).double()
    every = torch.arange(PIXELS)
    d = DigitOnCanvas(logits, every, background, SHAPE)
    expected = torch.distributions.Bernoulli(logits=d.canvas_logits.flatten(-2)).log_prob(x).sum(-1)
    torch.testing.assert_close(d.log_prob(x), expected)
    of_weights = DigitOnCanvas(logits, F.one_hot(every, PIXELS).double(), background, SHAPE)
    torch.testing.assert_close(of_weights.log_prob(x), expected)
    assert (d.batch_shape, d.event_shape) == (of_weights.batch_shape, of_weights.event_shape) == ((PIXELS,), (PIXELS,))


def test_samples_follow_their_pixels():
    pyro.set_rng_seed(0)
    d = DigitOnCanvas(torch.zeros(2, 2), torch.tensor([6, 0]), torch.tensor(-2.0), SHAPE)
    mean = d.sample((4000,)).mean(0)
    # standard errors of at most .5 / sqrt(4000) = .008; 40 pixels
    torch.testing.assert_close(mean, d.canvas_logits.sigmoid().flatten(-2), atol=0.035, rtol=0)
    assert d.expand((3, 2)).log_prob(torch.zeros(PIXELS)).shape == (3, 2)
    with pytest.raises(ValueError, match="within the support"):
        d.log_prob(torch.full((PIXELS,), 0.5))


def test_the_exact_bound_is_the_sum_written_out(pair, data):
    model, guide = pair
    x = data.train.x[:4].double()
    expected = -SIZE / 4 * written_out(model, guide, x).sum()
    found = TraceSampleSet_ELBO(**EXACT).differentiable_loss(model, WithoutNoise(guide), x)
    torch.testing.assert_close(found, expected)
    parameters = [*model.parameters(), *guide.parameters()]
    for one, other in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sum_and_sample", {"num_samples": 6, "num_summed": 5}),
        ("unordered_set", {"num_samples": 3}),
        ("leave_one_out", {"num_samples": 3}),
    ],
)
def test_estimators_of_the_position_are_unbiased(pair, data, name, options):
    model, guide = pair
    repeats = 1000
    x = data.train.x[:1].double().expand(repeats, -1)  # independent draws for the same canvas
    model.size = guide.size = repeats
    parameters = [*guide.scores.layers[-2].parameters(), model.background, *model.decoder.parameters()]

    def gradient(elbo):
        loss = elbo.differentiable_loss(model, WithoutNoise(guide), x) / repeats
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])

    pyro.set_rng_seed(3)
    exact = torch.cat(
        [part.flatten() for part in torch.autograd.grad(-written_out(model, guide, x[:1]).sum(), parameters)]
    )
    elbo = TraceSampleSet_ELBO(**(EXACT | {"estimator": name}), **options)
    each = torch.stack([gradient(elbo) for _ in range(25)])
    error = each.std(0) / math.sqrt(len(each))
    moving = error > 1e-12
    z = ((each.mean(0) - exact)[moving] / error[moving]).abs()
    # 25,000 draws; z has 24 degrees of freedom: with 98 coordinates a false alarm above 5.5 in 0.2 % of the seeds.
    assert z.max() < 5.5
    torch.testing.assert_close(each.mean(0)[~moving], exact[~moving])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("TraceSumAndSample_ELBO", {"num_samples": 4, "num_summed": 3}),
        ("TraceUnorderedSet_ELBO", {"num_samples": 4}),
        ("TraceUnorderedSet_ELBO", {"num_samples": 40}),
        ("TraceLeaveOneOut_ELBO", {"num_samples": 4, "vectorize_samples": False}),
        ("TraceVIMCO_ELBO", {"num_particles": 3}),
        ("TraceUnorderedBeam_ELBO", {"num_samples": 3}),
    ],
)
def test_every_parameter_gets_a_gradient(data, name, options, dtype):
    plan = build(data, **SMALL).with_elbo(getattr(inference, name)(**options))
    objective = plan.players[0].objective.to(dtype)
    x, y, index = data.train.__getitems__(range(5))
    objective(x.to(dtype), y, index).total.backward()
    for parameter in objective.parameters():
        assert parameter.grad.dtype == dtype
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("straight_through", [True, False])
@pytest.mark.parametrize("objective", ["categorical", "relaxed_categorical", "relaxed_density"])
def test_relaxed_positions(data, straight_through, objective):
    relaxation = Relaxation(objective, straight_through=straight_through, temperature=0.7)
    plan = build(data, **SMALL, relaxation=relaxation)
    plan.players[0].objective(*data.train.__getitems__(range(5))).total.backward()
    programs = plan.elbo_objectives[0]
    assert programs.guide.program.scores.layers[0].weight.grad.abs().sum() > 0
    position = poutine.trace(programs.guide).get_trace(data.train.x).nodes["position"]["value"]
    assert position.shape == (SIZE, PIXELS)
    assert bool(((position == 0) | (position == 1)).all()) is straight_through


def test_a_straight_through_value_is_the_discrete_one(pair, data):
    model, guide = pair
    x, position = data.train.x.double(), torch.arange(SIZE)
    weights = F.one_hot(position, PIXELS).double()
    torch.testing.assert_close(guide.style(x, weights).loc, guide.style(x, position).loc)
    z = torch.randn(SIZE, 2, dtype=torch.float64)
    torch.testing.assert_close(model.canvas(weights, z).log_prob(x), model.canvas(position, z).log_prob(x))


def test_a_learned_baseline_is_a_part_of_the_plan(data):
    plan = build(data, **SMALL, learned_baseline=True, baseline_hidden=7)
    objective = plan.players[0].objective
    assert isinstance(objective, LearnedBaselineObjective)
    assert objective.state_dict()["baseline.0.weight"].shape == (7, PIXELS)
    objective(*data.train.__getitems__(range(5))).total.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    with pytest.raises(ValueError, match="--elbo"):
        plan.with_elbo(inference.TraceUnorderedSet_ELBO())


def test_evaluation_is_the_bound_and_repeats(data):
    plan = build(data, **SMALL, evaluation_samples=200)
    bound = plan.elbo_objectives[0]
    loader = DataLoader(data.valid, 4, collate_fn=collate)
    metrics = plan.evaluate(loader)
    assert metrics == plan.evaluate(loader)
    elbo = TraceSampleSet_ELBO(**EXACT, num_particles=100, vectorize_particles=True)
    whole = elbo.loss(bound.model, bound.guide, data.valid.x) / SIZE
    # The loss of one draw has a standard deviation of less than 3 nats: standard error 3 / sqrt(6 * 200) = .09.
    assert metrics["neg_elbo"] == pytest.approx(whole, abs=0.45)
    assert {"exact", "near", "exact_aligned", "near_aligned", "position_entropy"} < metrics.keys()


def test_positions_are_judged_with_and_without_a_common_shift():
    true = torch.tensor([11, 22, 33, 44])
    assert position_metrics(true, true, 10) == {"exact": 1, "near": 1, "exact_aligned": 1, "near_aligned": 1}
    moved = torch.tensor([33, 44, 55, 55])  # two rows and columns on, but for the last
    metrics = position_metrics(moved, true, 10)
    assert metrics == {"exact": 0, "near": 0.25, "exact_aligned": 0.75, "near_aligned": 1}
    assert position_metrics(torch.tensor([9]), torch.tensor([10]), 10)["near"] == 0  # the end of the row above


def test_it_finds_digits():
    data = moving_digits(canvas=32, digit_size=12, num_train=300, num_valid=100)
    pyro.set_rng_seed(0)
    plan = build(data, window=12, hidden=(32,), channels=6)
    plan = plan.with_optimizer(OptimizerSettings("Adam", lr=5e-3))
    objective = plan.players[0].objective
    optimizer = torch.optim.Adam(objective.parameters(), 5e-3)
    loader = DataLoader(data.valid, 100, collate_fn=collate)
    before = plan.evaluate(loader)
    for _ in range(12):
        for rows in torch.randperm(300).split(50):
            optimizer.zero_grad()
            objective(*data.train.__getitems__(rows.tolist())).total.backward()
            optimizer.step()
    after = plan.evaluate(loader)
    assert after["near_aligned"] > 0.5 > 0.2 > before["near_aligned"]
    assert after["neg_elbo"] < before["neg_elbo"] - 100


def test_a_lost_digit_is_told(data):
    plan = build(data, **SMALL)
    assert "on 10.0% of the held-out canvases only" in plan.diagnose({"near_aligned": 0.1})[0]
    assert plan.diagnose({"near_aligned": 0.9}) == []


def test_the_plot_marks_what_is_looked_at(data):
    ax = build(data, **SMALL).plots["attention"]()
    assert len(ax.patches) == len(ax.lines) == 6
    assert {patch.get_width() for patch in ax.patches} == {WINDOW}
    row, column = divmod(int(data.valid.y[1]), SHAPE[1])
    assert ax.lines[1].get_xydata().tolist() == [[1 + SHAPE[1] + 1 + column, 1 + row]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 5}, "window must be an integer from 1 to 4, got 5"),
        ({"latent_dim": 0}, "latent_dim must be an integer of at least 1, got 0"),
        ({"channels": 0}, "channels must be an integer of at least 1, got 0"),
        ({"baseline_hidden": 0, "learned_baseline": True}, "widths must be an integer of at least 1, got 0"),
        ({"evaluation_samples": 0}, "evaluation_samples must be an integer of at least 1, got 0"),
        ({"scores": "linear"}, "scores must be one of convolutional, dense; got .linear."),
        ({"learned_baseline": True, "relaxation": Relaxation()}, "learned_baseline and relaxation exclude each other"),
        ({"learned_baseline": True, "marginalise": True}, "learned_baseline and marginalise exclude each other"),
    ],
)
def test_bad_options(data, options, message):
    with pytest.raises(ValueError, match=message):
        build(data, **(SMALL | options))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_shape": None}, "data.image_shape must be height and width of the canvases of 20 pixels, got None"),
        ({"image_shape": (4, 4)}, r"data.image_shape must be .* got \(4, 4\)"),
        ({"valid": IndexedDataset(torch.zeros(2, 20))}, "data.valid must have positions, row times 5 plus column"),
        ({"valid": IndexedDataset(torch.zeros(2, 20), torch.tensor([3, -1]))}, "integers from 0 to 19, as labels"),
        ({"valid": IndexedDataset(torch.zeros(2, 20), torch.zeros(2))}, "integers from 0 to 19, as labels"),
        ({"test": IndexedDataset(torch.zeros(2, 20), torch.tensor([3, 20]))}, "data.test must have positions"),
        (
            {"valid": IndexedDataset(torch.zeros(2, 12), torch.zeros(2).long())},
            "data.valid.x must have as many pixels .*20.* got 12",
        ),
        ({"valid": None}, "data.valid must hold images as rows of x, .* got None; use IndexedDataset"),
        ({"train": IndexedDataset(torch.full((2, 20), 0.5))}, "data.train.x must hold zeros and ones"),
    ],
)
def test_bad_data(data, change, message):
    for name, value in change.items():
        setattr(data, name, value)
    with pytest.raises(ValueError, match=message):
        build(data, **SMALL)


def test_dense_scores_share_nothing_between_places(data):
    guide = build(data, **SMALL, scores="dense").elbo_objectives[0].guide
    x = torch.zeros(1, PIXELS).requires_grad_()
    (gradient,) = torch.autograd.grad(guide.attend(x)[0, 7], x)
    torch.testing.assert_close(gradient[0], guide.scores.layer.weight[7])
    assert guide.scores.layer.weight.shape == (PIXELS, PIXELS)


def test_bad_batches(pair):
    for program in pair:
        with pytest.raises(ValueError, match="x must hold at least one canvas, got none"):
            program(torch.zeros(0, 20))
        with pytest.raises(ValueError, match=r"x must have shape \(batch, 20\), got \(3, 19\)"):
            program(torch.zeros(3, 19))


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"learned_baseline": True}, {"relaxation": Relaxation()}])
def test_runs_where_its_parameters_are(data, options):
    plan = build(data, **SMALL, **options)
    objective = plan.players[0].objective.cuda()
    objective(*(part.cuda() for part in data.train.__getitems__(range(5)))).total.backward()
    assert all(parameter.grad.is_cuda for parameter in objective.parameters() if parameter.grad is not None)
    assert math.isfinite(plan.evaluate(DataLoader(data.valid, 4, collate_fn=collate))["neg_elbo"])
    plan.plots["attention"]()


@pytest.mark.filterwarnings("ignore:the digit is found")
@pytest.mark.parametrize("words", ["--elbo TraceEnum_ELBO --model.marginalise true", "--model.learned_baseline true"])
def test_command_line(tmp_path, words):
    small = "--data.canvas 14 --data.digit_size 8 --data.num_train 20 --data.num_valid 10 --model.window 8 --seed 0"
    words = f"{words} {small} --trainer.max_epochs 1 --trainer.accelerator cpu --out {tmp_path / 'run'}"
    assert main(["fit", "hard_attention", *words.split()]) == 0
    assert (tmp_path / "run" / "attention.png").stat().st_size > 1000
