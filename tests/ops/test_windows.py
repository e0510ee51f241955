"""Windows cropped from canvases and placed on them."""

import pytest
import torch
from torch.nn import functional as F

from pyro_ext.ops.windows import crop_windows, place_windows, window_mask

HEIGHT, WIDTH = 5, 7
EVERY = torch.arange(HEIGHT * WIDTH)


def by_loops(canvas, position, size):
    row, column = divmod(int(position), WIDTH)
    window = torch.zeros(size, size, dtype=canvas.dtype)
    for i in range(size):
        for j in range(size):
            r, c = row - size // 2 + i, column - size // 2 + j
            if 0 <= r < HEIGHT and 0 <= c < WIDTH:
                window[i, j] = canvas[r, c]
    return window


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_crops_at_every_position(size):
    canvas = torch.rand(HEIGHT, WIDTH, dtype=torch.float64)
    expected = torch.stack([by_loops(canvas, position, size) for position in EVERY])
    assert torch.equal(crop_windows(canvas, EVERY, size), expected)
    weights = torch.eye(len(EVERY), dtype=torch.float64)
    torch.testing.assert_close(crop_windows(canvas, weights, size), expected)
    inside = crop_windows(torch.ones_like(canvas), EVERY, size) > 0
    assert torch.equal(window_mask(EVERY, (HEIGHT, WIDTH), size), inside)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_a_crop_undoes_a_placement_up_to_what_lies_beyond_the_border(size):
    windows = torch.rand(len(EVERY), size, size, dtype=torch.float64)
    placed = place_windows(windows, EVERY, (HEIGHT, WIDTH))
    inside = window_mask(EVERY, (HEIGHT, WIDTH), size)
    assert torch.equal(crop_windows(placed, EVERY, size), windows * inside)
    torch.testing.assert_close(placed.sum((-1, -2)), (windows * inside).sum((-1, -2)))  # and nothing elsewhere
    weights = torch.eye(len(EVERY), dtype=torch.float64)
    torch.testing.assert_close(place_windows(windows, weights, (HEIGHT, WIDTH)), placed)


@pytest.mark.parametrize("size", [2, 3])
def test_they_are_adjoint(size, dtype):
    canvas, window = torch.rand(4, HEIGHT, WIDTH, dtype=dtype), torch.rand(3, 4, size, size, dtype=dtype)
    weights = torch.rand(3, 4, HEIGHT * WIDTH, dtype=dtype)
    for position in (torch.randint(HEIGHT * WIDTH, (3, 4)), weights):
        crop, placed = crop_windows(canvas, position, size), place_windows(window, position, (HEIGHT, WIDTH))
        assert crop.dtype == placed.dtype == dtype
        assert crop.shape == window.shape
        torch.testing.assert_close((crop * window).sum((-1, -2)), (canvas * placed).sum((-1, -2)))


def test_leading_dims_broadcast():
    canvases = torch.rand(4, HEIGHT, WIDTH)
    every = crop_windows(canvases, EVERY[:, None], 3)  # all positions of each canvas
    assert every.shape == (len(EVERY), 4, 3, 3)
    assert torch.equal(every[11], crop_windows(canvases, torch.full((4,), 11), 3))
    window = torch.rand(3, 3)
    assert place_windows(window, EVERY[:, None].expand(-1, 2), (HEIGHT, WIDTH)).shape == (len(EVERY), 2, HEIGHT, WIDTH)


def test_gradients_reach_windows_and_weights():
    window = torch.rand(3, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(HEIGHT * WIDTH, dtype=torch.float64, requires_grad=True)
    canvas = torch.rand(HEIGHT, WIDTH, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda w: crop_windows(canvas, w, 3), (weights,))
    assert torch.autograd.gradcheck(lambda a, w: place_windows(a, w, (HEIGHT, WIDTH)), (window, weights))
    assert torch.autograd.gradcheck(lambda a: place_windows(a, EVERY[:3], (HEIGHT, WIDTH)), (window,))


def test_weights_average_over_positions():
    canvas = torch.rand(HEIGHT, WIDTH, dtype=torch.float64)
    weights = F.one_hot(torch.tensor([3, 20]), len(EVERY)).double().mean(0)
    expected = crop_windows(canvas, torch.tensor([3, 20]), 3).mean(0)
    torch.testing.assert_close(crop_windows(canvas, weights, 3), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crop_windows(torch.zeros(5, 7), EVERY, 0), "size must be an integer of at least 1, got 0"),
        (lambda: crop_windows(torch.zeros(5, 7), torch.zeros(34), 3), r"must hold 35 weights, .* got shape \(34,\)"),
        (lambda: place_windows(torch.zeros(2, 3), EVERY, (5, 7)), r"windows must be square, got shape \(2, 3\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
