import pytest

from pyro_ext.plotting.branch_lengths import branch_intervals


def test_longest_branch_is_at_the_top_with_its_interval():
    ax = branch_intervals([[0.1, 0.2, 0.01], [0.2, 0.4, 0.02], [0.3, 0.7, 0.03]])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["2", "1", "3"]
    assert ax.yaxis_inverted()
    (bars,) = ax.collections
    ends = [[float(x) for x, _ in segment] for segment in bars.get_segments()]
    assert ends == [pytest.approx(pair) for pair in ([0.2, 0.7], [0.1, 0.3], [0.01, 0.03])]


@pytest.mark.parametrize(
    ("quantiles", "labels", "message"),
    [
        ([[0.1, 0.2]], (), r"quantiles must have shape \(3, E\), got \(1, 2\)"),
        ([[], [], []], (), r"quantiles must have shape \(3, E\), got \(3, 0\)"),
        ([[0.1], [0.2], [0.3]], ["a", "b"], "labels must name each of the 1 branches, got 2"),
    ],
)
def test_wrong_calls(quantiles, labels, message):
    with pytest.raises(ValueError, match=message):
        branch_intervals(quantiles, labels=labels)
