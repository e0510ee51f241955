import math

import pytest
import torch

from pyro_ext.datasets import draw_sprites, sprites


def test_images_labels_and_factors_belong_together():
    data = sprites(num_train=50, num_valid=20, classes=("shape", "x"))
    for part in ("train", "valid"):
        dataset, factors = getattr(data, part), data.factors[part]
        assert torch.equal(draw_sprites(factors).flatten(1), dataset.x)
        assert torch.equal(dataset.y, 32 * factors[:, 0] + factors[:, 3])
    assert len(torch.cat([*data.factors.values()]).unique(dim=0)) == 70
    assert not torch.equal(sprites(50, 20, seed=1).train.x, data.train.x)
    assert torch.equal(sprites(50, 20).train.y, data.factors["train"][:, 0])


def test_areas_and_edges():
    middle = torch.tensor([[shape, 5, 0, 16, 16] for shape in range(3)])
    square, ellipse, heart = draw_sprites(middle)
    assert square.sum() == pytest.approx(2 * 7**2, rel=0.03)
    assert ellipse.sum() == pytest.approx(math.pi * 7**2 / 2, rel=0.03)
    assert 70 < heart.sum() < 200
    for image in (square, ellipse, heart):
        assert ((image > 0) & (image < 1)).any()
        assert image.max() == 1


def test_factors_do_what_their_names_say():
    base = torch.tensor([[2, 3, 0, 10, 20]])
    image = draw_sprites(base)[0]
    pixels = torch.arange(32.0) + 0.5

    def moments(image):
        mass = image.sum()
        return (image.sum(0) @ pixels / mass), (image.sum(1) @ pixels / mass), mass

    x, y, mass = moments(image)
    right = moments(draw_sprites(base + torch.tensor([0, 0, 0, 4, 0]))[0])
    assert right[0] - x == pytest.approx(4 * 16 / 31, abs=0.05)
    assert right[1] - y == pytest.approx(0, abs=0.05)
    down = moments(draw_sprites(base + torch.tensor([0, 0, 0, 0, 4]))[0])
    assert down[1] - y == pytest.approx(4 * 16 / 31, abs=0.05)
    larger = moments(draw_sprites(base + torch.tensor([0, 1, 0, 0, 0]))[0])
    assert larger[2] / mass == pytest.approx((0.9 / 0.8) ** 2, rel=0.05)
    half_turn = draw_sprites(torch.tensor([[0, 3, 20, 10, 20]]))
    torch.testing.assert_close(half_turn, draw_sprites(torch.tensor([[0, 3, 0, 10, 20]])), atol=0.13, rtol=0)


def test_every_sprite_lies_inside():
    ends = torch.cartesian_prod(torch.arange(3), torch.tensor([5]), torch.arange(40), *[torch.tensor([0, 31])] * 2)
    images = draw_sprites(ends)
    border = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    assert border.max() == 0
    assert images.sum((1, 2)).min() > 60


def test_fewer_values_are_the_largest_scales_some_rotations_and_the_middle():
    data = sprites(num_train=2300, num_valid=4, scales=3, rotations=8, positions=6)
    factors = torch.cat([*data.factors.values()])
    assert len(factors.unique(dim=0)) == 2304
    values = [column.unique().tolist() for column in factors.unbind(1)]
    assert values == [[0, 1, 2], [3, 4, 5], [*range(0, 40, 5)], [*range(13, 19)], [*range(13, 19)]]
    torch.testing.assert_close(data.valid.x, draw_sprites(data.factors["valid"]).flatten(1))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_type_and_device(device):
    assert draw_sprites(torch.zeros(2, 5, dtype=torch.long, device=device)).device.type == device
    assert draw_sprites(torch.zeros(0, 5, dtype=torch.long, device=device)).shape == (0, 32, 32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sprites(classes=("colour",)), "classes must be some of shape, scale, rotation, x, y, .* got colour"),
        (lambda: sprites(classes=()), "got none"),
        (lambda: sprites(num_train=0), "num_train must be an integer from 1 to 737279, got 0"),
        (lambda: sprites(num_valid=737280), "num_valid must be an integer from 1 to 731280"),
        (lambda: sprites(scales=1), "scales must be an integer from 2 to 6, got 1"),
        (lambda: sprites(positions=33), "positions must be an integer from 2 to 32, got 33"),
        (lambda: sprites(rotations=12), "rotations must divide 40, got 12; use 20, 10 or 8, say"),
        (lambda: sprites(scales=2, rotations=2, positions=2), "num_train must be an integer from 1 to 47, got 6000"),
        (lambda: draw_sprites(torch.zeros(3, 4)), r"factors must have shape \(N, 5\), got \(3, 4\)"),
        (lambda: draw_sprites(torch.tensor([[0, 6, 0, 0, 0]])), "factors: scale must be an integer from 0 to 5"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
