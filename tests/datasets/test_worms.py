import math

import pytest
import torch

from pyro_ext.datasets import IndexedDataset
from pyro_ext.datasets.worms import (
    WormRecordings,
    lag_moments,
    record,
    simulate_activity,
    simulated_worms,
    stable_weights,
)


def test_lag_moments_are_sums_over_time(dtype):
    activity = torch.randn(3, 8, 2, dtype=dtype)
    moments = lag_moments(activity)
    expected = torch.zeros(3, 4, 4, dtype=dtype)
    for t in range(1, 8):
        pair = torch.cat([activity[:, t], activity[:, t - 1]], -1)
        expected += pair[:, :, None] * pair[:, None, :]
    torch.testing.assert_close(moments, expected)


def test_weights_are_antisymmetric_and_stable():
    connectome = simulated_worms(num_neurons=12, num_connections=30).connectome
    weights = stable_weights(connectome, torch.Generator().manual_seed(1))
    torch.testing.assert_close(weights, -weights.mT)
    assert torch.equal(weights != 0, connectome)
    assert torch.linalg.eigvals(weights).abs().max().item() == pytest.approx(1 / 1.1)


def test_activity_follows_its_transition():
    transition = torch.tensor([[0.5, 0.3], [-0.3, 0.2]], dtype=torch.float64)
    activity = simulate_activity(transition, 40_000, generator=torch.Generator().manual_seed(0))
    moments = lag_moments(activity)
    estimate = moments[:2, 2:] @ moments[2:, 2:].inverse()
    # Standard errors are those of regression with unit noise; 5 of them for 4 entries: false alarms below 3e-6.
    errors = moments[2:, 2:].inverse().diagonal().sqrt()
    assert ((estimate - transition).abs() / errors).max() < 5
    assert simulate_activity(transition.expand(3, 2, 2), 5, (4,)).shape == (4, 3, 6, 2)


def test_identities_bring_activity_into_the_networks_order():
    worms = simulated_worms(num_worms=3, num_neurons=8, num_connections=12, num_steps=20_000)
    assert worms.train.y is None
    for moments, identity in zip(worms.valid.x, worms.valid.y, strict=True):
        place = identity.argsort()
        now, before = moments[:8, 8:][place][:, place], moments[8:, 8:][place][:, place]
        errors = before.inverse().diagonal().sqrt()
        # Three worms with 64 entries each, beyond 5 standard errors: false alarms below 2e-4 over all seeds.
        assert (((now @ before.inverse()) - worms.weights).abs() / errors).max() < 5


def test_candidates_hold_the_truth_and_nothing_known():
    worms = simulated_worms(num_worms=3, num_neurons=20, num_nearby=5, num_known=4)
    candidates, identity = worms.candidates, worms.valid.y
    assert candidates.gather(-1, identity.unsqueeze(-1)).all()
    assert (worms.known.sum(-1) >= 4).all()
    assert not torch.equal(worms.known[0], worms.known[1])
    for worm, known, truth in zip(candidates, worms.known, identity, strict=True):
        for neuron in range(20):
            group = {i for i in range(20) if i // 5 == truth[neuron] // 5} - set(truth[known].tolist())
            expected = {int(truth[neuron])} if known[neuron] else group
            assert set(worm[neuron].nonzero().flatten().tolist()) == expected


def test_seeds_repeat_and_differ():
    first, again, other = (simulated_worms(seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.train.x, again.train.x)
    assert torch.equal(first.candidates, again.candidates)
    assert not torch.equal(first.valid.y, other.valid.y)
    assert not torch.equal(first.connectome, other.connectome)


def test_network_has_as_many_connections_as_asked_for():
    worms = simulated_worms(num_neurons=9, num_connections=14)
    assert worms.connectome.sum() == 28
    assert not worms.connectome.diagonal().any()
    assert torch.equal(worms.connectome, worms.connectome.mT)


def test_everything_known():
    worms = simulated_worms(num_known=20)
    assert worms.known.all()
    assert (worms.candidates.int().argmax(-1) == worms.valid.y).all()


def recordings(**changed):
    x = torch.zeros(2, 6, 6)
    parts = {
        "train": IndexedDataset(x),
        "valid": IndexedDataset(x, torch.zeros(2, 3, dtype=torch.long)),
        "connectome": torch.ones(3, 3, dtype=torch.bool),
        "candidates": torch.ones(2, 3, 3, dtype=torch.bool),
    }
    return WormRecordings("own", num_steps=5, **(parts | changed))


def test_own_recordings():
    assert recordings().weights is None
    assert not recordings(valid=IndexedDataset(torch.zeros(2, 6, 6))).known.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulated_worms(num_worms=0), "num_worms must be an integer of at least 1, got 0"),
        (lambda: simulated_worms(num_neurons=1), "num_neurons must be an integer of at least 2, got 1"),
        (lambda: simulated_worms(num_neurons=4, num_connections=7), "num_connections must be an integer from 1 to 6"),
        (lambda: simulated_worms(num_nearby=0), "num_nearby must be an integer of at least 1, got 0"),
        (lambda: simulated_worms(num_known=21), "num_known must be an integer from 0 to 20, got 21"),
        (lambda: simulated_worms(num_steps=True), "num_steps must be an integer of at least 1, got True"),
        (lambda: simulated_worms(seed=-1), "seed must be an integer of at least 0, got -1"),
        (lambda: lag_moments(torch.zeros(1, 3)), r"activity must have shape \(..., T \+ 1, N\) with T at least 1"),
        (lambda: lag_moments(torch.zeros(3)), r"activity must have shape .* got \(3,\)"),
        (
            lambda: record("lone", torch.zeros(3, 3).bool(), torch.eye(3).bool(), 1, 0, 5, 0),
            "connectome must connect at least two neurons, got none",
        ),
        (
            lambda: recordings(candidates=torch.ones(1, 3, 3).bool()),
            r"candidates must have shape \(2, 3, 3\) for 2 worms, got \(1, 3, 3\)",
        ),
        (lambda: recordings(train=IndexedDataset(torch.zeros(2, 5, 6))), r"train.x must have shape \(2, 6, 6\)"),
        (lambda: recordings(connectome=torch.ones(3, 2).bool()), r"connectome must have shape \(3, 3\)"),
        (
            lambda: recordings(valid=IndexedDataset(torch.zeros(2, 6, 6), torch.zeros(2, 4))),
            r"valid.y must have shape \(2, 3\) for 2 worms, got \(2, 4\)",
        ),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_noise_alone_has_the_moments_of_noise():
    moments = lag_moments(simulate_activity(torch.zeros(4, 4, dtype=torch.float64), 10_000)) / 10_000
    # Standard errors sqrt(2) / 100 on the diagonal, 1 / 100 off it; 5 of them for 36 entries.
    assert (moments - torch.eye(8)).abs().max() < 5 * math.sqrt(2) / 100
