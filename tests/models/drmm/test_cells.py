"""Pooling with switches: ties, leftovers, ways back, adjoints."""

import pytest
import torch

from pyro_ext.models.drmm import DRMM, SWITCHES, Layer
from pyro_ext.models.drmm.cells import max_cells, mean_cells, spread_cells, unpool


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("shape", [(4, 6), (5, 5), (7, 7), (3, 8)])
@pytest.mark.parametrize("pool", [1, 2, 3])
def test_maxima_of_every_cell(shape, pool, switch, dtype):
    off, on = SWITCHES[switch]
    v = torch.randn(2, 3, *shape, dtype=dtype)
    x, g = max_cells(v, pool, (off, on))
    assert x.shape == g.on.shape == g.position.shape == (2, 3, shape[0] // pool, shape[1] // pool)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in x.shape)).tolist():
        b, k, i, j = place
        cell = v[b, k, i * pool : (i + 1) * pool, j * pool : (j + 1) * pool].flatten()
        states = torch.stack([off * cell, on * cell])
        assert x[b, k, i, j] == states.max()
        assert states[int(g.on[b, k, i, j]), g.position[b, k, i, j]] == states.max()


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_constant_image_has_one_position_per_cell(switch):
    x, g = max_cells(torch.ones(1, 4, 4), 2, SWITCHES[switch])
    assert torch.equal(x, torch.ones(1, 2, 2))
    back = unpool(x * g.on, g.position, 2, (4, 4))
    assert torch.equal(back.unflatten(-1, (2, 2)).unflatten(-3, (2, 2)).sum((-1, -3)), torch.ones(1, 2, 2))
    again, _ = max_cells(back, 2, SWITCHES[switch])
    assert torch.equal(again, x)


def test_a_constant_image_is_rendered_once():
    model = DRMM([Layer(1, 1, pool=2)], classes=1, image_shape=(1, 4, 4))
    with torch.no_grad():
        model.layers[0].templates.fill_(1.0)
        model.class_templates.fill_(1.0)
    x = torch.ones(1, 1, 4, 4)
    assert model.infer(x).features.tolist() == [[[[1.0, 1.0], [1.0, 1.0]]]]
    assert model.reconstruct(x).sum() == 4


def test_a_flat_background_switches_off():
    _, g = max_cells(torch.zeros(1, 2, 2), 2, SWITCHES["relu"])
    assert g.on.item() == 0


@pytest.mark.parametrize("size", [5, 7])
def test_leftover_pixels_are_neither_seen_nor_rendered(size):
    model = DRMM([Layer(2, 1, pool=2)], classes=2, image_shape=(1, size, size)).double()
    x = torch.randn(3, 1, size, size, dtype=torch.float64)
    assert model.infer(x).features.shape[-2:] == (size // 2, size // 2)
    other = x.clone()
    other[..., -1], other[..., -1, :] = 99.0, 99.0
    torch.testing.assert_close(model.dcn(other), model.dcn(x))
    image = model.reconstruct(x)
    assert image.shape == x.shape
    assert (image[..., -1] == 0).all()
    assert (image[..., -1, :] == 0).all()
    assert image.abs().sum() > 0


@pytest.mark.parametrize("pool", [1, 2, 3])
def test_pooling_undoes_unpooling(pool, dtype):
    h = torch.rand(2, 3, 4, 5, dtype=dtype)
    position = torch.randint(pool**2, h.shape)
    v = unpool(h, position, pool, (4 * pool + 1, 5 * pool) if pool > 1 else (4, 5))
    x, g = max_cells(v, pool, SWITCHES["relu"])
    assert torch.equal(x, h)
    assert torch.equal(g.position, position)
    assert (g.on == 1).all()


@pytest.mark.parametrize("shape", [(4, 6), (5, 7)])
def test_spreading_is_the_adjoint_of_means(shape):
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    h = torch.randn(2, 3, shape[0] // 2, shape[1] // 2, dtype=torch.float64)
    torch.testing.assert_close((mean_cells(x, 2) * h).sum(), (x * spread_cells(h, 2, shape)).sum())


def test_batch_shapes_of_any_kind():
    v = torch.randn(2, 1, 3, 4, 6, 6)
    x, g = max_cells(v, 2, SWITCHES["abs"])
    one, own = max_cells(v[1, 0, 2], 2, SWITCHES["abs"])
    assert torch.equal(x[1, 0, 2], one)
    assert torch.equal(g.position[1, 0, 2], own.position)


def test_gradients_pass_through_the_largest_value_alone():
    v = torch.tensor([[[1.0, 3.0], [3.0, -2.0]]], requires_grad=True)
    x, g = max_cells(v, 2, SWITCHES["relu"])
    x.sum().backward()
    assert v.grad.sum() == 1
    assert v.grad.flatten()[g.position] == 1
    assert not g.on.requires_grad
