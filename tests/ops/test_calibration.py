import pytest
import torch

from pyro_ext.ops.calibration import calibration_bins, expected_calibration_error


def by_hand(probs, labels, num_bins):
    total = 0.0
    for m in range(num_bins):
        inside = [
            (float(row.max()), int(row.argmax()) == int(y))
            for row, y in zip(probs, labels, strict=True)
            if m / num_bins < float(row.max()) <= (m + 1) / num_bins
        ]
        if inside:
            confidence, right = (sum(part) / len(inside) for part in zip(*inside, strict=True))
            total += len(inside) / len(probs) * abs(confidence - right)
    return total


def test_error_by_hand(dtype):
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(200, 4, generator=generator, dtype=dtype).mul(2).softmax(-1)
    labels = torch.randint(4, (200,), generator=generator)
    result = expected_calibration_error(probs, labels, 10)
    assert result.dtype == dtype
    assert result.item() == pytest.approx(by_hand(probs, labels, 10), abs=1e-5)
    bins = calibration_bins(probs, labels, 10)
    assert bins.share.sum().item() == pytest.approx(1)


def test_labels_drawn_from_the_probabilities_are_calibrated():
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(40_000, 3, generator=generator).softmax(-1)
    labels = torch.multinomial(probs, 1, generator=generator)[:, 0]
    assert expected_calibration_error(probs, labels).item() < 0.012  # 15 bins with a standard error of .01 or less each
    assert expected_calibration_error(probs, (labels + 1) % 3).item() > 0.1


def test_certainty_lies_in_the_last_bin():
    assert calibration_bins(torch.eye(3), torch.arange(3), 5).share.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_types_count_all_predictions(half):
    """Sums of ones stop at 256 in bfloat16 and at 2048 in float16."""
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(5000, 3, generator=generator).softmax(-1).to(half)
    labels = torch.randint(3, (5000,), generator=generator)
    bins, expected = calibration_bins(probs, labels), calibration_bins(probs.double(), labels)
    for one, other in zip(bins, expected, strict=True):
        torch.testing.assert_close(one, other.float(), atol=1e-5, rtol=1e-5)


def test_predictions_of_a_diverged_network_are_no_error():
    assert expected_calibration_error(torch.full((3, 2), torch.nan), torch.tensor([0, 1, 1])).isnan()


@pytest.mark.parametrize(
    ("probs", "labels", "bins", "message"),
    [
        (torch.ones(3), torch.zeros(3), 5, r"probs must have shape \(N, C\)"),
        (torch.ones(3, 2), torch.zeros(2), 5, r"labels \(N,\)"),
        (torch.ones(0, 2), torch.zeros(0), 5, "with N at least 1"),
        (torch.full((3, 2), 1.5), torch.zeros(3), 5, "probs must be probabilities, from 0 to 1; use .softmax"),
        (torch.ones(3, 2), torch.tensor([0, -1, 1]), 5, "labels must be classes from 0 to 1, got -1 to 1"),
        (torch.ones(3, 2), torch.tensor([0, 2, 1]), 5, "labels must be classes from 0 to 1, got 0 to 2"),
        (torch.ones(3, 2), torch.zeros(3), 0, "num_bins must be an integer of at least 1"),
    ],
)
def test_bad_input(probs, labels, bins, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(probs, labels, bins)
