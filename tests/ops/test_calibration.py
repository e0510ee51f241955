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


@pytest.mark.parametrize(
    ("probs", "labels", "bins", "message"),
    [
        (torch.ones(3), torch.zeros(3), 5, r"probs must have shape \(N, C\)"),
        (torch.ones(3, 2), torch.zeros(2), 5, r"labels \(N,\)"),
        (torch.ones(0, 2), torch.zeros(0), 5, "with N at least 1"),
        (torch.ones(3, 2), torch.zeros(3), 0, "num_bins must be an integer of at least 1"),
    ],
)
def test_bad_input(probs, labels, bins, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(probs, labels, bins)
