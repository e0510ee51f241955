"""Images with a class and a style: the bound against sums written out, estimators of the class, labels, options."""

import importlib
import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch.nn import functional as F
from torch.utils.data import DataLoader

from pyro_ext.cli.__main__ import main
from pyro_ext.datasets import IndexedDataset, Splits, TwoStreams, collate, digits, keep_few_labels
from pyro_ext.inference import (
    ELBOObjective,
    FitSettings,
    OptimizerSettings,
    TraceSampleSet_ELBO,
    TraceSumAndSample_ELBO,
    fit,
)
from pyro_ext.models.semi_supervised_vae import Guide, Model, build, label_bounds
from pyro_ext.models.semi_supervised_vae.evaluation import held_out_metrics
from pyro_ext.models.toolkit import Relaxation

inference = importlib.import_module("pyro_ext.inference")

PIXELS, CLASSES, UNLABELLED, LABELLED = 6, 3, 12, 6
SIZES = {"latent_dim": 2, "hidden": (7,)}
FLAGS = {"enable_progress_bar": False, "accelerator": "cpu"}
EXACT = {"estimator": "exact", "max_plate_nesting": 1, "analytic_kl": True}


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(UNLABELLED + LABELLED, PIXELS, generator=generator) > 0.5).float()
    y = torch.arange(LABELLED) % CLASSES
    train = TwoStreams(IndexedDataset(x[:UNLABELLED]), IndexedDataset(x[UNLABELLED:], y), 3)
    return Splits("toy", train, IndexedDataset(x[UNLABELLED:], y), image_shape=(2, 3))


@pytest.fixture
def pair():
    pyro.set_rng_seed(0)
    sizes = (UNLABELLED, LABELLED, PIXELS, CLASSES, 2, (7,))
    model, guide = Model(*sizes).double(), Guide(*sizes, classifier_hidden=(5,)).double()
    with torch.no_grad():  # far from uniform
        guide.classifier[-1].weight.mul_(6)
    return model, guide


def batches(data, first=4, second=3, dtype=torch.float64):
    x, _, index = data.train.first.__getitems__(range(first))
    labelled, y, places = data.train.second.__getitems__(range(second))
    return (x.to(dtype), None, index), (labelled.to(dtype), y, places)


def without_noise(guide):
    """The guide with styles at their means."""

    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.guide = guide

        def forward(self, *batch):
            with _MeanStyles():
                return self.guide(*batch)

    return Fixed()


class _MeanStyles(poutine.messenger.Messenger):
    def _pyro_sample(self, msg):
        if msg["name"].startswith("z"):
            msg["value"], msg["done"] = msg["fn"].mean, True


def written_out(model, guide, batch, per_class=None):
    """Minus the bound at mean styles by loops over images and classes."""
    (x, *_), (labelled, labels, _) = batch

    def bound(image, label):
        y = F.one_hot(torch.tensor(label), CLASSES).to(image)
        style = guide.style(image, y)
        pixels = model.decoder(style.mean, y)
        likelihood = -F.binary_cross_entropy_with_logits(pixels, image, reduction="sum")
        kl = 0.5 * (style.scale**2 + style.loc**2 - 1 - 2 * style.scale.log()).sum()
        return likelihood - kl - math.log(CLASSES)

    total = 0.0
    for image in x:
        q = guide.classify(image).softmax(-1)
        total = total + UNLABELLED / len(x) * sum(q[c] * (bound(image, c) - q[c].log()) for c in range(CLASSES))
    for image, label in zip(labelled, labels, strict=True):
        total = total + LABELLED / len(labelled) * bound(image, int(label))
    return -total


def test_the_exact_bound_is_the_sum_written_out(pair, data):
    model, guide = pair
    batch = batches(data)
    expected = written_out(model, guide, batch)
    elbo = TraceSampleSet_ELBO(**EXACT)
    found = elbo.differentiable_loss(model, without_noise(guide), *batch)
    torch.testing.assert_close(found, expected)
    parameters = [*model.parameters(), *guide.parameters()]
    for one, other in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_pyros_own_enumeration_agrees(pair, data):
    model, guide = pair
    batch = batches(data)
    marked = Guide(UNLABELLED, LABELLED, PIXELS, CLASSES, 2, (7,), (5,), marginalise=True).double()
    marked.load_state_dict(guide.state_dict())
    ours = TraceSampleSet_ELBO(estimator="exact", max_plate_nesting=1)(model, without_noise(guide))(*batch)
    pyros = TraceEnum_ELBO(max_plate_nesting=1)(model, without_noise(marked))(*batch)
    torch.testing.assert_close(ours, pyros)


def test_bounds_of_classes_are_those_of_the_exact_elbo(pair, data):
    model, guide = pair
    unlabelled, labelled = batches(data)
    pyro.set_rng_seed(1)
    by_class = label_bounds(model, guide, unlabelled[0], num_samples=1000)
    q = guide.classify(unlabelled[0]).softmax(-1).T
    bound = (q * (by_class - q.log())).sum(0).mean()
    elbo = TraceSampleSet_ELBO(**EXACT, num_particles=1000, vectorize_particles=True)
    whole = elbo.loss(model, guide, unlabelled, labelled)
    model.labelled_only = guide.labelled_only = True
    labelled_only = elbo.loss(model, guide, unlabelled, labelled)
    # The likelihood of an image varies by less than a nat, 12 unlabelled ones by 12 and 6 labelled ones twice by 6: a
    # standard error below sqrt(144 / 4 + 2 * 36 / 3) / sqrt(1000) / 12 = .02 nats.
    assert (labelled_only - whole) / UNLABELLED == pytest.approx(bound.item(), abs=0.08)


@pytest.mark.parametrize("name", ["sum_and_sample", "unordered_set", "leave_one_out", "reinforce"])
def test_estimators_of_the_class_are_unbiased(pair, data, name):
    model, guide = pair
    one = batches(data, first=1, second=1)
    repeats = 4000
    (x, _, _), labelled = one
    model.size = guide.size = repeats  # a plate of the same image again and again: independent draws of its class
    batch = (x.expand(repeats, -1), None, None), labelled
    parameters = [*guide.classifier.parameters(), *model.decoder.parameters()]

    def gradient(elbo, times):
        total = [torch.zeros_like(p) for p in parameters]
        for _ in range(times):
            loss = elbo.differentiable_loss(model, without_noise(guide), *batch) / repeats
            for part, own in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                part += own / times
        return torch.cat([part.flatten() for part in total])

    pyro.set_rng_seed(3)
    exact = gradient(TraceSampleSet_ELBO(**EXACT), 1)
    options = {"num_samples": 2} | ({"num_summed": 1} if name == "sum_and_sample" else {})
    elbo = TraceSampleSet_ELBO(**(EXACT | {"estimator": name}), **options)
    each = torch.stack([gradient(elbo, 1) for _ in range(25)])
    error = each.std(0) / math.sqrt(len(each))
    moving = error > 1e-12
    z = ((each.mean(0) - exact)[moving] / error[moving]).abs()
    # 100,000 draws; z has 24 degrees of freedom: with 60 coordinates a false alarm above 5 in 0.3 % of the seeds.
    assert z.max() < 5
    torch.testing.assert_close(each.mean(0)[~moving], exact[~moving])


def test_labelled_images_have_no_latent_class(pair, data):
    model, guide = pair
    batch = batches(data)
    guide_trace = poutine.trace(guide).get_trace(*batch)
    trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(*batch)
    trace.compute_log_prob()
    latent = [name for name, site in guide_trace.nodes.items() if site["type"] == "sample" and name.startswith("y")]
    assert latent == ["y"]
    assert trace.nodes["y_labelled"]["is_observed"]
    assert torch.equal(trace.nodes["y_labelled"]["value"].argmax(-1), batch[1][1])
    assert trace.nodes["x"]["scale"] == UNLABELLED / 4
    assert trace.nodes["x_labelled"]["scale"] == LABELLED / 3
    assert trace.nodes["z"]["log_prob"].shape == (4,)


def test_alpha_weighs_the_loss_of_labels_beside_the_bound_per_image(data):
    def total(alpha):
        pyro.set_rng_seed(0)
        plan = build(data, **SIZES, alpha=alpha, dropout=0.0, pixel_dropout=0.0).with_elbo(TraceSampleSet_ELBO(**EXACT))
        pyro.set_rng_seed(1)
        losses = plan.players[0].objective(*batches(data, dtype=torch.float32))
        return losses.total, losses.terms, plan

    (at_zero, terms, plan), (at_two, _, _) = total(0.0), total(2.0)
    torch.testing.assert_close(at_zero, terms["elbo"])
    torch.testing.assert_close(at_two, at_zero + 2 * terms["classification"])
    x, y, _ = batches(data, dtype=torch.float32)[1]
    logits = plan.elbo_objectives[0].guide.classify(x)
    torch.testing.assert_close(terms["classification"], F.cross_entropy(logits, y))
    assert plan.elbo_objectives[0].size == UNLABELLED + LABELLED


def test_a_warm_start_sees_labelled_images_only(data):
    plan = build(data, **SIZES, warm_start=3)
    bound = plan.elbo_objectives[0]
    batch = batches(data, dtype=torch.float32)
    (schedule,) = plan.schedules
    for step, sites in ((0, False), (2, False), (3, True)):
        schedule(step)
        assert ("y" in poutine.trace(bound.guide).get_trace(*batch).nodes) is sites
        assert ("x" in poutine.trace(bound.model).get_trace(*batch).nodes) is sites
    schedule(0)
    plan.players[0].objective(*batch).total.backward()
    assert next(bound.guide.classifier.parameters()).grad is not None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("TraceSumAndSample_ELBO", {"num_samples": 2, "num_summed": 1}),
        ("TraceUnorderedSet_ELBO", {"num_samples": 2}),
        ("TraceUnorderedSet_ELBO", {"num_samples": 10}),
        ("TraceLeaveOneOut_ELBO", {"num_samples": 2, "vectorize_samples": False}),
        ("TraceVIMCO_ELBO", {"num_particles": 3}),
    ],
)
def test_every_parameter_gets_a_gradient(data, name, options, dtype):
    plan = build(data, **SIZES).with_elbo(getattr(inference, name)(**options))
    objective = plan.players[0].objective.to(dtype)
    objective(*batches(data, dtype=dtype)).total.backward()
    for parameter in objective.parameters():
        assert parameter.grad.dtype == dtype
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("straight_through", [True, False])
@pytest.mark.parametrize("objective", ["categorical", "relaxed_categorical", "relaxed_density"])
def test_relaxed_classes(data, straight_through, objective):
    relaxation = Relaxation(objective, straight_through=straight_through, temperature=0.7)
    plan = build(data, **SIZES, alpha=0.5, relaxation=relaxation)
    losses = plan.players[0].objective(*batches(data, dtype=torch.float32))
    assert losses.terms.keys() == {"elbo", "classification"}  # the loss of labels stays
    losses.total.backward()
    guide = plan.elbo_objectives[0].guide.program
    assert next(guide.classifier.parameters()).grad.abs().sum() > 0
    y = poutine.trace(plan.elbo_objectives[0].guide).get_trace(*batches(data, dtype=torch.float32)).nodes["y"]["value"]
    assert bool(((y == 0) | (y == 1)).all()) is straight_through


def test_it_learns_digits():
    data = keep_few_labels(digits(num_train=600), 100)
    pyro.set_rng_seed(0)
    plan = build(data, hidden=(32,), classifier_hidden=(64,), warm_start=15)
    plan = plan.with_optimizer(OptimizerSettings("Adam", lr=1e-2))
    data.valid = IndexedDataset(data.valid.x[:300], data.valid.y[:300])
    loader = DataLoader(data.valid, 300, collate_fn=collate)
    before = plan.evaluate(loader)
    result = fit(plan, data, FitSettings(max_epochs=10, batch_size=125, seed=0), check_val_every_n_epoch=10, **FLAGS)
    assert result.metrics["accuracy"] > 0.65 > 0.3 > before["accuracy"]
    assert result.metrics["neg_elbo"] < before["neg_elbo"] - 2


def test_metrics_are_of_the_discrete_model(pair, data):
    model, guide = pair
    x, y = data.valid.x.double(), data.valid.y
    metrics = held_out_metrics(model, guide, 2, x, y)
    assert all(value.shape == (LABELLED,) for value in metrics.values())
    assert torch.equal(metrics["accuracy"], (guide.classify(x).argmax(-1) == y).double())
    torch.testing.assert_close(
        metrics["label_entropy"], torch.distributions.Categorical(logits=guide.classify(x)).entropy()
    )
    with pytest.raises(ValueError, match="loader must hold labels, got None"):
        held_out_metrics(model, guide, 2, x)


def test_only_training_drops_features(data):
    torch.manual_seed(0)
    plan = build(data, **SIZES)
    guide = plan.elbo_objectives[0].guide
    x = data.valid.x
    assert guide.training
    assert not torch.equal(guide.classify(x), guide.classify(x))
    loader = DataLoader(data.valid, 4, collate_fn=collate)
    in_training = plan.evaluate(loader)  # by a user, right after training
    assert guide.training
    guide.eval()
    assert torch.equal(guide.classify(x), guide.classify(x))
    assert plan.evaluate(loader) == in_training


def test_the_decoder_starts_at_base_rates(data):
    model = build(data, **SIZES).elbo_objectives[0].model
    ones = data.train.first.x.sum(0)
    torch.testing.assert_close(model.decoder.rest[-1].bias.sigmoid(), (ones + 1) / (UNLABELLED + 2))
    with pytest.raises(ValueError, match=r"x must have shape \(batch, 6\), got \(3, 5\)"):
        model.start_at_base_rates(torch.zeros(3, 5))


def test_a_poor_classifier_is_told(data):
    plan = build(data, **SIZES)
    assert "only 20.0% of the held-out images are classified correctly" in plan.diagnose({"accuracy": 0.2})[0]
    assert plan.diagnose({"accuracy": 0.9}) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": -1}, "alpha must be a finite number of at least 0, got -1"),
        ({"warm_start": -1}, "warm_start must be an integer of at least 0, got -1"),
        ({"latent_dim": 0}, "latent_dim must be an integer of at least 1, got 0"),
        ({"hidden": ()}, r"hidden must hold the width of one layer at least, got \(\)"),
        ({"classifier_hidden": (8, 0)}, "classifier_hidden must be an integer of at least 1, got 0"),
        ({"evaluation_samples": 0}, "evaluation_samples must be an integer of at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be a number in \[0, 1\), got 1.0"),
        ({"pixel_dropout": -0.1}, r"pixel_dropout must be a number in \[0, 1\), got -0.1"),
        ({"marginalise": True, "relaxation": Relaxation()}, "marginalise and relaxation exclude each other"),
    ],
)
def test_bad_options(data, change, message):
    with pytest.raises(ValueError, match=message):
        build(data, **(SIZES | change))


def replaced(data, **parts):
    first, second = data.train.first, data.train.second
    x = parts.pop("x", second.x)
    y = parts.pop("y", second.y)
    return Splits("toy", TwoStreams(parts.pop("first", first), IndexedDataset(x, y)), parts.pop("valid", data.valid))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"y": None}, "the second stream of data.train must have labels, got none"),
        ({"y": torch.tensor([0, 0, 2, 2, 2, 0])}, r"must be classes 0 .. C - 1, .* got \[0, 2\]"),
        ({"y": torch.zeros(6, dtype=torch.long)}, r"must be classes 0 .. C - 1, .* got \[0\]"),
        (
            {"y": torch.arange(6) % 2},
            r"data.valid must have labels 0 .. 1, those of the training images, got \[0, 1, 2\]",
        ),
        ({"x": torch.full((6, 6), 0.5)}, "the labelled data.train.x must hold zeros and ones"),
        ({"first": torch.full((6, 6), 0.5)}, "the unlabelled data.train.x must hold zeros and ones"),
        ({"valid": IndexedDataset(torch.zeros(2, 6))}, "data.valid must have one integer label .* got none"),
        ({"valid": None}, "data.valid must hold images with labels, .* got None"),
        (
            {"valid": IndexedDataset(torch.zeros(2, 5), torch.zeros(2).long())},
            "data.valid.x must have 6 .* got 5",
        ),
        (
            {"y": torch.arange(6) % 3 + 0.5},
            r"the labelled data.train must .* got torch.float32 of shape \(6,\)",
        ),
        ({"y": torch.zeros(6, 3).long()}, r"must have one integer label .* got torch.int64 of shape \(6, 3\)"),
    ],
)
def test_bad_data(data, parts, message):
    with pytest.raises(ValueError, match=message):
        build(replaced(data, **parts), **SIZES)


def test_rows_are_refused_with_the_way_to_streams():
    with pytest.raises(ValueError, match=r"data.train must be two streams, .* keep_few_labels\(data, num_labels\)"):
        build(digits(), **SIZES)


def test_batches_of_one_and_of_none(pair, data):
    model, guide = pair
    elbo = TraceSumAndSample_ELBO(num_samples=2, num_summed=1, max_plate_nesting=1)
    unlabelled, labelled = batches(data, first=1, second=1)
    assert math.isfinite(elbo.loss(model, guide, unlabelled, labelled))
    x, _, index = unlabelled
    with pytest.raises(ValueError, match="x must hold at least one image, got none"):
        elbo.loss(model, guide, (x[:0], None, index[:0]), labelled)


def test_bad_batches(pair, data):
    unlabelled, labelled = batches(data)
    for program in pair:
        with pytest.raises(ValueError, match=r"x must have shape \(batch, 6\), got \(4, 5\)"):
            program((torch.zeros(4, 5), None, None), labelled)
        with pytest.raises(ValueError, match=r"labels must have shape \(3,\), one for each labelled image, got None"):
            program(unlabelled, (labelled[0], None, None))


@pytest.mark.gpu
def test_runs_where_its_parameters_are(data):
    plan = build(data, **SIZES)
    objective = plan.players[0].objective.cuda()
    on_device = [
        tuple(part if part is None else part.cuda() for part in stream) for stream in batches(data, dtype=torch.float32)
    ]
    objective(*on_device).total.backward()
    assert all(parameter.grad.is_cuda for parameter in objective.parameters())
    assert math.isfinite(plan.evaluate(DataLoader(data.valid, 4, collate_fn=collate))["neg_elbo"])
    plan.plots["analogies"]()


@pytest.mark.filterwarnings("ignore:only .* are classified correctly")
@pytest.mark.parametrize("elbo", ["TraceUnorderedSet_ELBO", "TraceEnum_ELBO"])
def test_command_line(tmp_path, elbo):
    words = "--data.num_labels 20 --batch_size 740 --trainer.max_epochs 1 --trainer.accelerator cpu --seed 0"
    words += " --model.warm_start 0"
    if elbo == "TraceEnum_ELBO":
        words += " --model.marginalise true"
    assert main(["fit", "semi_supervised_vae", "--elbo", elbo, *words.split(), "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "analogies.png").stat().st_size > 1000


def test_default_elbo_evaluates_two_classes_of_ten(data):
    objective = build(data, **SIZES).elbo_objectives[0]
    assert isinstance(objective, ELBOObjective)
    assert isinstance(objective.elbo, TraceSumAndSample_ELBO)
    assert (objective.elbo.options.num_samples, objective.elbo.options.num_summed) == (2, 1)
    assert Trace_ELBO().differentiable_loss(objective.model, objective.guide, *batches(data, dtype=torch.float32)) > 0
