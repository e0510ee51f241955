import importlib
import itertools
import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot
from torch.utils.data import DataLoader

from pyro_ext.datasets import IndexedDataset, Splits, collate, load
from pyro_ext.models import MODELS, builder
from pyro_ext.models.categorical_vae import Guide, Model, build

inference = importlib.import_module("pyro_ext.inference")

SIZE, PIXELS, LATENTS, CATEGORIES = 40, 6, 2, 3
SIZES = {"num_latents": LATENTS, "num_categories": CATEGORIES, "hidden": (8, 5)}


@pytest.fixture
def data():
    x = (torch.rand(SIZE, PIXELS, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    return Splits("toy", IndexedDataset(x), IndexedDataset(x[:10]), image_shape=(2, 3))


@pytest.fixture
def pair():
    return Model(SIZE, PIXELS, **SIZES), Guide(SIZE, PIXELS, **SIZES)


def loader(data, batch_size=4):
    return DataLoader(data.valid, batch_size=batch_size, collate_fn=collate)


def exact(model, guide, x):
    """The negative ELBO of every image, shape (B,), by going through all codes."""
    every = torch.tensor(list(itertools.product(range(CATEGORIES), repeat=LATENTS)))
    codes = one_hot(every, CATEGORIES).to(x)
    log_q = (guide.encode(x)[:, None].log_softmax(-1) * codes).sum((-1, -2))
    pixels = model.decode(codes).expand(len(x), -1, -1)
    log_p = -binary_cross_entropy_with_logits(pixels, x[:, None].expand_as(pixels), reduction="none").sum(-1)
    return (log_q.exp() * (log_q - log_p + LATENTS * math.log(CATEGORIES))).sum(-1)


def test_shapes_and_scale(pair, data):
    model, guide = pair
    batch = data.train.__getitems__(range(8))
    guide_trace = poutine.trace(guide).get_trace(*batch)
    trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(*batch)
    trace.compute_log_prob()
    assert trace.nodes["z"]["value"].shape == (8, LATENTS, CATEGORIES)
    assert trace.nodes["_RETURN"]["value"].shape == (8, PIXELS)
    assert [t.nodes[n]["scale"] for t, n in ((guide_trace, "z"), (trace, "z"), (trace, "x"))] == [SIZE / 8] * 3
    assert trace.nodes["x"]["log_prob"].shape == (8,)
    torch.testing.assert_close(
        trace.nodes["z"]["log_prob"], torch.full((8,), -SIZE / 8 * LATENTS * math.log(CATEGORIES))
    )


def test_indices_are_handed_to_the_plate(pair, data):
    x, y, index = data.train.__getitems__([7, 3])
    assert poutine.trace(pair[0]).get_trace(x, y, index).nodes["data"]["value"].tolist() == [7, 3]
    assert poutine.trace(pair[0]).get_trace(x).nodes["data"]["value"].tolist() == [0, 1]


def test_losses_of_batches_average_to_that_of_the_whole(pair, data):
    elbo = Trace_ELBO(num_particles=400, vectorize_particles=True, max_plate_nesting=1)
    whole = exact(*pair, data.train.x).sum().item()
    halves = [elbo.loss(*pair, *data.train.__getitems__(range(i, i + 20))) for i in (0, 20)]
    # The codes' losses differ by about 1 nat per image: standard error about 40 / sqrt(40 * 400) = 0.3 nats.
    assert sum(halves) / 2 == pytest.approx(whole, abs=1.5)


def test_whole_sets_give_the_exact_loss(pair, data):
    batch = data.train.__getitems__(range(20))
    elbo = inference.TraceUnorderedSet_ELBO(num_samples=CATEGORIES**LATENTS)
    assert elbo.loss(*pair, *batch) == pytest.approx(2 * exact(*pair, batch[0]).sum().item(), rel=1e-5)


@pytest.mark.parametrize("name", ["TraceUnorderedSet_ELBO", "TraceLeaveOneOut_ELBO", "TraceSumAndSample_ELBO"])
def test_gradients_reach_every_parameter(data, name, dtype):
    plan = build(data, **SIZES)
    bound = plan.elbo_objectives[0]
    bound.model.to(dtype), bound.guide.to(dtype)
    x, y, index = data.train.__getitems__(range(8))
    elbo = getattr(inference, name)(num_samples=4)(bound.model, bound.guide)
    elbo(x.to(dtype), y, index).backward()
    for parameter in elbo.parameters():
        assert parameter.grad.dtype == dtype
        assert parameter.grad.abs().sum() > 0


def test_svi_trains_it(data):
    plan = build(load("digits", num_train=200), num_latents=2)
    bound = plan.elbo_objectives[0]
    svi = SVI(bound.model, bound.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    batch = (load("digits", num_train=200).train.x,)
    losses = [svi.step(*batch) for _ in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_evaluation_is_the_bound(data):
    plan = build(data, **SIZES, evaluation_samples=2000)
    bound = plan.elbo_objectives[0]
    metrics = plan.evaluate(loader(data))
    # Standard deviation of one code's loss below 1 nat: standard error below 1 / sqrt(10 * 2000) = 0.007.
    assert metrics["neg_elbo"] == pytest.approx(exact(bound.model, bound.guide, data.valid.x).mean().item(), abs=0.03)
    assert metrics["neg_elbo"] == pytest.approx(metrics["reconstruction"] + metrics["kl"], rel=1e-6)


def test_evaluation_repeats_and_leaves_the_noise_alone(data):
    plan = build(data, **SIZES)
    pyro.set_rng_seed(1)
    first = plan.evaluate(loader(data))
    drawn = torch.rand(3)
    torch.rand(17)
    second = plan.evaluate(loader(data))
    pyro.set_rng_seed(1)
    assert first == second
    assert torch.equal(drawn, torch.rand(3))
    assert len(pyro.get_param_store()) == 0


def test_evaluation_follows_dtype(data):
    plan = build(data, **SIZES)
    bound = plan.elbo_objectives[0]
    single = plan.evaluate(loader(data))["kl"]
    bound.model.double(), bound.guide.double()
    assert plan.evaluate(loader(data))["kl"] == pytest.approx(single, rel=1e-4)


def test_evaluation_of_nothing(data):
    with pytest.raises(ValueError, match="loader must hold at least one data point"):
        build(data, **SIZES).evaluate([])


def test_build_repeats_under_a_seed(data):
    states = []
    for _ in range(2):
        pyro.set_rng_seed(3)
        states.append(build(data, **SIZES).elbo_objectives[0].guide.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_sizes_follow_the_pixels():
    splits = load("digits")
    plan = build(splits)
    bound = plan.elbo_objectives[0]
    widths = [layer.out_features for layer in bound.guide.encoder if isinstance(layer, torch.nn.Linear)]
    assert widths == [128, 64, 200]
    assert [layer.out_features for layer in Model(1, 784).decoder[::2]] == [256, 512, 784]
    assert bound.model.size == 1500
    assert isinstance(bound.elbo, inference.TraceUnorderedSet_ELBO)


@pytest.mark.parametrize(("pixels", "lr"), [(256, 1e-2), (257, 1e-3)])
def test_learning_rate_follows_the_pixels(pixels, lr):
    images = IndexedDataset(torch.zeros(4, pixels))
    plan = build(Splits("blank", images, images), hidden=(8, 5))
    assert plan.players[0].optimizer.lr == lr


def test_state_dict_holds_every_tensor_once(pair):
    assert sorted(pair[0].state_dict()) == [f"decoder.{i}.{kind}" for i in (0, 2, 4) for kind in ("bias", "weight")] + [
        "prior_logits"
    ]


@pytest.mark.parametrize(("name", "shape"), [("reconstruction", (7, 41)), ("samples", (7, 41))])
def test_plots(data, name, shape):
    from matplotlib.figure import Figure

    plot = build(data, **SIZES).plots[name]
    ax = Figure().add_subplot()
    assert plot(ax=ax) is ax
    assert ax.images[0].get_array().shape == shape
    assert plot().images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_latents": 0}, "num_latents must be an integer of at least 1, got 0"),
        ({"num_categories": 1}, "num_categories must be an integer of at least 2, got 1"),
        ({"hidden": (8, 0)}, "hidden must be an integer of at least 1, got 0"),
        ({"hidden": (8,)}, r"hidden must hold two widths, got \(8,\)"),
        ({"evaluation_samples": 0}, "evaluation_samples must be an integer of at least 1, got 0"),
    ],
)
def test_bad_options(data, options, message):
    with pytest.raises(ValueError, match=message):
        build(data, **options)


def test_grey_images_are_refused():
    with pytest.raises(ValueError, match=r"data.train.x must hold zeros and ones, got values in \[0, 1\]; threshold"):
        build(load("digits", binarize=None))


def test_unflattened_images_are_refused(data):
    data.train = IndexedDataset(data.train.x.reshape(-1, 2, 3))
    with pytest.raises(ValueError, match=r"data.train.x must have shape \(N, pixels\), got \(40, 2, 3\)"):
        build(data)


def test_batch_of_another_width_is_refused(pair):
    for module in pair:
        with pytest.raises(ValueError, match=r"x must have shape \(batch, 6\), got \(4, 5\)"):
            module(torch.zeros(4, 5))


def test_every_model_is_described_and_builds():
    for name, entry in MODELS.items():
        assert callable(builder(name))
        assert "arXiv" in entry.paper or "doi" in entry.paper
        if entry.data != "alignment":  # which is a file of one's own
            assert len(load(entry.data).train) > 0


@pytest.mark.gpu
def test_runs_where_its_parameters_are(data):
    plan = build(data, **SIZES)
    bound = plan.elbo_objectives[0]
    bound.model.cuda(), bound.guide.cuda()
    batch = [part if part is None else part.cuda() for part in data.train.__getitems__(range(8))]
    bound.elbo(bound.model, bound.guide)(*batch).backward()
    assert bound.model.decoder[0].weight.grad.is_cuda
    assert math.isfinite(plan.evaluate(loader(data))["neg_elbo"])
    plan.plots["reconstruction"]()
