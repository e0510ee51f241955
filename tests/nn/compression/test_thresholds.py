"""Thresholds by gaps and by error."""

import math

import pytest
import torch

from pyro_ext.nn import choose_threshold, widest_gap


def test_the_gap_between_two_clusters():
    torch.manual_seed(0)
    scores = torch.cat([torch.randn(50) - 6, torch.randn(200) + 2])
    assert -4 < widest_gap(scores[torch.randperm(250)]) < 0


def test_a_single_stray_score_is_no_cluster():
    scores = torch.tensor([-100.0, -6.0, -5.5, 1.0, 1.5])
    assert widest_gap(scores) == -53.0
    assert widest_gap(scores, fewest=2) == pytest.approx(-2.25)


def test_nothing_to_tell_apart():
    assert widest_gap(torch.tensor([1.0])) == math.inf
    assert widest_gap(torch.tensor([1.0, math.inf])) == math.inf
    with pytest.raises(ValueError, match="fewest must be an integer of at least 1, got 0"):
        widest_gap(torch.ones(3), 0)


def test_the_error_decides():
    scores = torch.arange(100.0)
    threshold, tried = choose_threshold(scores, lambda t: 1.0 + max(0.0, 50 - t), tolerance=0.0, number=100)
    assert 50 <= threshold < 51
    assert tried[0] == (math.inf, 0.0, 1.0)
    assert [point.removed for point in tried] == sorted(point.removed for point in tried)
    assert tried[-1].removed == 1.0


def test_nothing_is_removed_where_nothing_may_be():
    threshold, _ = choose_threshold(torch.arange(4.0), lambda t: 0.0 if t == math.inf else 1.0, tolerance=0.5)
    assert threshold == math.inf


def test_equal_scores_go_together():
    threshold, tried = choose_threshold(torch.ones(5), lambda t: 0.0)
    assert threshold <= 1.0
    assert {point.removed for point in tried} == {0.0, 1.0}


def test_bad_numbers():
    with pytest.raises(ValueError, match="tolerance must be a finite number of at least 0, got -1"):
        choose_threshold(torch.ones(3), lambda t: 0.0, tolerance=-1)
