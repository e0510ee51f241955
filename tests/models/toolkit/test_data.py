"""Batches in models: the plate, a check of images, means over a loader."""

import pyro
import pytest
import torch

from pyro_ext.datasets import IndexedTuples, Splits, few_labels
from pyro_ext.models.toolkit import check_image_data, check_images, data_plate, mean_metrics


def test_the_plate_scales_and_takes_indices():
    with data_plate(10, torch.zeros(4, 2), torch.tensor([7, 3, 1, 0]), name="rows") as index:
        assert index.tolist() == [7, 3, 1, 0]
        site = pyro.poutine.trace(lambda: pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))).get_trace().nodes["z"]
    assert site["value"].shape == (4,)
    assert site["cond_indep_stack"][0].name == "rows"


def test_means_are_weighted_by_rows_and_repeat():
    network = torch.nn.Linear(2, 1).double()

    def metrics(x, y, index):
        assert x.dtype == torch.float64  # as the module
        assert index.dtype == torch.int64
        return {"row": x[:, 0], "batch": x[:, 0].mean(), "noise": torch.rand(())}

    evaluate = mean_metrics(network, metrics, seed=3)
    loader = [
        (torch.tensor([[1.0, 0], [2, 0], [3, 0]]), None, torch.arange(3)),
        (torch.tensor([[10.0, 0]]), None, torch.arange(1)),
    ]
    first = evaluate(loader)
    assert (first["row"], first["batch"]) == (4.0, 4.0)
    state = torch.get_rng_state()
    assert evaluate(loader) == first
    assert torch.equal(state, torch.get_rng_state())


def test_an_empty_loader_is_refused():
    with pytest.raises(ValueError, match="loader must hold at least one data point, got none"):
        mean_metrics(torch.nn.Linear(1, 1), lambda x: {})([])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 3), r"data.x must have shape \(N, pixels\), got \(2, 3, 3\); use .flatten\(1\)"),
        (
            torch.tensor([[0.0, 0.5]]),
            r"data.x must hold zeros and ones, got values in \[0, 0.5\]; threshold the pixels",
        ),
        (torch.zeros(0, 4), "data.x must hold at least one image, got none"),
        (torch.zeros(2, 4, dtype=torch.long), "data.x must be of a floating-point type, got torch.int64; use .float"),
    ],
)
def test_images_that_are_not_binary_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        check_images("data.x", images)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            lambda: few_labels(num_labels=20),
            "data.train must hold images as rows of x, .* got TwoStreams; use IndexedDataset",
        ),
        (
            lambda: Splits("pairs", IndexedTuples(torch.zeros(2, 4), torch.zeros(2, 4))),
            "data.train .* got IndexedTuples",
        ),
        (lambda: Splits("grey", torch.zeros(2, 4), torch.full((2, 4), 0.5)), "data.valid.x must hold zeros and ones"),
        (
            lambda: Splits("cut", torch.zeros(2, 4), torch.zeros(2, 3)),
            r"data.valid.x .* as data.train.x has \(4\), got 3",
        ),
    ],
)
def test_data_that_are_no_binary_images_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        check_image_data(data())


def test_nothing_need_be_held_out():
    check_image_data(Splits("all", torch.zeros(2, 4)))


@pytest.mark.parametrize("pixel", [-0.1, 1.5, float("nan")])
def test_pixels_outside_of_the_unit_interval_are_refused(pixel):
    with pytest.raises(
        ValueError, match=r"data.x must hold pixels in \[0, 1\], got values in .*; divide by the largest"
    ):
        check_images("data.x", torch.tensor([[0.5, pixel]]), binary=False)


def test_models_that_need_held_out_images_say_so():
    with pytest.raises(ValueError, match=r"data.valid must hold images as rows of x, .* got None; use IndexedDataset"):
        check_image_data(Splits("all", torch.zeros(2, 4)), held_out=True)
