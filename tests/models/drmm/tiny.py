"""Models small enough to enumerate all their configurations, and a renderer that follows single paths."""

import itertools

import pyro
import pytest
import torch

from pyro_ext.models.drmm import DRMM, Layer
from pyro_ext.models.drmm.exact import configurations

LAYERS = {
    "one": ([Layer(2, 2, pool=2)], 3, (1, 3, 3)),
    "overlapping": ([Layer(1, 2, pool=2)], 3, (1, 5, 5)),
    "two": ([Layer(2, 2, pool=2), Layer(2, 1)], 3, (1, 3, 3)),
    "two, pooled above": ([Layer(1, 2), Layer(2, 1, pool=2)], 3, (1, 3, 3)),
    "two, colours and padding": ([Layer(1, 2, pool=2, padding=1), Layer(2, 1)], 3, (2, 2, 2)),
    "three": ([Layer(2, 2), Layer(1, 2), Layer(2, 1)], 2, (1, 3, 3)),
    "means": ([Layer(1, 2, pool=2, mean_pool=2)], 2, (1, 5, 5)),
    "large, two with overlaps": ([Layer(1, 2, pool=2), Layer(1, 2)], 3, (1, 5, 5)),
    "large, two with pooling": ([Layer(1, 2, pool=2), Layer(1, 1, pool=2)], 2, (1, 5, 5)),
}
NUMBERS = dict(zip(LAYERS, (64, 4096, 256, 1024, 32, 2048, 4096, 8192, 32768), strict=True))
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if "large" in name else []) for name in LAYERS]
DEEP = [name for name in NAMES if len(LAYERS[name.values[0]][0]) > 1]


def tiny(name, seed=0, nonnegative=False, layers=None, **options):
    """A model with templates of any sign, or with those nonnegative that should be, random biases and classes."""
    pyro.set_rng_seed(seed)
    own, classes, shape = LAYERS[name]
    model = DRMM(layers or own, classes, shape, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        if nonnegative:
            for parameter in (model.class_templates, *(layer.templates for layer in model.layers[1:])):
                parameter.abs_()
    return model


def images(model, number=4):
    return torch.randn(number, *model.image_shape, dtype=model.class_templates.dtype)


def reached(model, x):
    """<I, h0> + eta of all configurations, shape (B, C, G)."""
    with torch.no_grad():
        rendering = model.rendering(*configurations(model))
        return torch.einsum("bkhw,cgkhw->bcg", x, rendering.image) + rendering.bias_term


def plain_scores(model, x):
    """z without the classes' prior: <mu_c, x^L>."""
    with torch.no_grad():
        return model.dcn(x) - model.noise**2 * model.class_logits


def render_by_paths(model, c, g, size):
    """The image of one class and one set of switches as a sum over paths from the class down to the pixels."""
    image = torch.zeros(size, dtype=model.class_templates.dtype)

    def follow(level, k, i, j, value):
        if level == 0:
            image[k, i, j] += value
            return
        layer, switches = model.layers[level - 1], g[level - 1]
        spec, m = layer.layer, layer.layer.mean_pool
        off, on = layer.factors
        for di, dj in itertools.product(range(m), range(m)):
            row, column = i * m + di, j * m + dj
            factor = on if switches.on[k, row, column] else off
            t = int(switches.position[k, row, column])
            top, left = row * spec.pool + t // spec.pool, column * spec.pool + t % spec.pool
            _, height, width = layer.geometry.finer
            for below, p, q in itertools.product(range(layer.templates.shape[1]), *2 * [range(spec.kernel)]):
                y, x = top + p - spec.padding, left + q - spec.padding
                if 0 <= y < height and 0 <= x < width:
                    follow(level - 1, below, y, x, value / m**2 * factor * layer.templates[k, below, p, q])

    mu = model.class_templates[c]
    for k, i, j in itertools.product(*map(range, mu.shape)):
        follow(len(model.layers), k, i, j, mu[k, i, j])
    return image
