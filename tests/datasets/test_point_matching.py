import pytest
import torch

from pyro_ext.datasets import PointProblems, load, point_matching


def residuals(problems):
    points, observed = problems.valid.x.unbind(1)
    return observed - points.gather(1, problems.valid.y.unsqueeze(-1).expand_as(points))


def test_shapes_and_types():
    problems = load("point_matching", noise=0.25, num_problems=7, size=4)
    assert isinstance(problems, PointProblems)
    assert problems.noise == 0.25
    assert problems.valid.x.shape == (7, 2, 4, 2)
    assert problems.valid.x.dtype == torch.float32
    assert problems.valid.y.dtype == torch.int64
    assert torch.equal(problems.valid.y.sort().values, torch.arange(4).expand(7, 4))


def test_training_sees_the_same_problems_without_their_permutations():
    problems = point_matching(num_problems=5)
    assert problems.train.y is None
    assert torch.equal(problems.train.x, problems.valid.x)


def test_points_and_residuals_have_their_deviations():
    problems = point_matching(noise=0.3, num_problems=2000)
    # 24,000 coordinates each: standard errors of .0046 and .0014; five of them fail falsely once in a million
    assert problems.train.x[:, 0].std() == pytest.approx(1, abs=0.023)
    assert residuals(problems).std() == pytest.approx(0.3, abs=0.007)


def test_permutations_are_uniform():
    y = point_matching(num_problems=6000, size=3).valid.y
    counts = (y @ torch.tensor([9, 3, 1])).unique(return_counts=True)[1]
    assert len(counts) == 6
    # standard deviation of a count 29
    assert (counts - 1000).abs().max() < 5 * 29


def test_seeds_repeat_and_differ():
    first, again, other = (point_matching(seed=seed).train.x for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_noises_share_problems():
    quiet, loud = point_matching(noise=0.1), point_matching(noise=0.5)
    assert torch.equal(quiet.valid.y, loud.valid.y)
    torch.testing.assert_close(5 * residuals(quiet), residuals(loud), atol=2e-6, rtol=0)


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    point_matching()
    assert torch.equal(before, torch.get_rng_state())


def test_one_point():
    assert point_matching(size=1, num_problems=2).valid.y.tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 0.0}, "noise must be a positive, finite number, got 0.0"),
        ({"noise": float("nan")}, "noise must be a positive, finite number, got nan"),
        ({"noise": "loud"}, "noise must be a positive, finite number, got 'loud'"),
        ({"num_problems": 0}, "num_problems must be an integer of at least 1, got 0"),
        ({"size": 2.5}, "size must be an integer of at least 1, got 2.5"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        point_matching(**options)
