"""Starts without labels, and clusters matched to classes."""

import itertools

import pytest
import torch

from pyro_ext.datasets import load
from pyro_ext.models.drmm import DRMM, Layer
from pyro_ext.models.drmm.clusters import match_clusters, start_classes
from pyro_ext.models.drmm.em import hard_e_step, hard_em

ONE = [Layer(4, 3, pool=2, padding=1)]
SHAPE = (1, 8, 8)


def make(classes=3, **options):
    torch.manual_seed(0)
    return DRMM(ONE, classes, SHAPE, **({"prior": "factorised"} | options)).double()


def bright_thirds(number=60):
    """Images of three kinds, by which part is bright, at any contrast."""
    y = torch.arange(number) % 3
    x = 0.05 * torch.rand(number, *SHAPE, dtype=torch.float64)
    for n, kind in enumerate(y.tolist()):
        x[n, 0, :, 3 * kind : 3 * kind + 2] += 0.3 + n / number
    return x, y


def test_clusters_are_the_kinds_of_images_whatever_their_contrast():
    x, y = bright_thirds()
    model = make()
    c = start_classes(model, x, torch.Generator().manual_seed(0))
    assert torch.equal(match_clusters(c, y, 3)[c], y)
    rendered = model.rendering(c, model.switches(x)).image
    assert (x - rendered).square().mean() < 0.4 * x.var()
    assert 0 < model.noise < 0.8 * x.std()


def test_images_as_rows_and_a_start_that_repeats():
    x, _ = bright_thirds()
    clusters = []
    for images in (x, x.flatten(1), x):
        model = make()
        clusters.append(start_classes(model, images, torch.Generator().manual_seed(3)))
    assert torch.equal(clusters[0], clusters[1])
    assert torch.equal(clusters[0], clusters[2])


def test_equal_images():
    model = make()
    c = start_classes(model, torch.ones(5, *SHAPE, dtype=torch.float64))
    assert c.shape == (5,)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_black_images():
    model = make()
    start_classes(model, torch.zeros(5, *SHAPE, dtype=torch.float64))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_matching_is_the_best_of_all_permutations():
    generator = torch.Generator().manual_seed(0)
    c, y = (torch.randint(4, (40,), generator=generator) for _ in range(2))
    y[:5] = -1
    agree = [(torch.tensor(order)[c] == y).sum().item() for order in itertools.permutations(range(4))]
    assert (match_clusters(c, y, 4)[c] == y).sum().item() == max(agree)


def test_a_cluster_without_images_gets_the_class_that_is_left():
    assert match_clusters(torch.tensor([0, 0, 2]), torch.tensor([1, 1, 0]), 3).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: start_classes(make(batch_norm="up"), torch.rand(5, *SHAPE).double()), "needs a model without batch"),
        (lambda: start_classes(make(), torch.rand(2, *SHAPE).double()), "x must hold at least 3 images, one for each"),
        (lambda: start_classes(make(), torch.rand(5, *SHAPE).double(), num_steps=0), "num_steps must be an integer of"),
        (lambda: match_clusters(torch.zeros(3).long(), torch.zeros(4).long(), 2), r"shape \(N,\), got \(3,\) and"),
        (lambda: match_clusters(torch.tensor([0, 2]), torch.tensor([0, 1]), 2), r"c must hold clusters and y labels"),
        (lambda: match_clusters(torch.tensor([0, 1]), torch.tensor([-2, 1]), 2), r"c must hold clusters and y labels"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
def test_digits_without_labels():
    """One layer, two seeds: about two in three images are in the cluster of their digit; by chance it is one in ten."""
    data = load("digits", binarize=None)
    x, y = data.train.x.view(-1, 1, 8, 8), data.train.y
    for seed in range(2):
        torch.manual_seed(seed)
        model = DRMM([Layer(8, 3, pool=2, padding=1)], 10, (1, 8, 8), prior="factorised")
        start_classes(model, x, torch.Generator().manual_seed(seed))
        steps = hard_em(model, x, num_steps=3, e_step="joint", solver_steps=10)
        assert steps[-1].after < steps[0].after
        c, _ = hard_e_step(model, x)
        assert (match_clusters(c, y, 10)[c] == y).float().mean() > 0.5
