"""The losses of the rendering mixture as a plain network computes them: by convolutions, pooling and its inverse."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.models.drmm.objective import SemiSupervisedObjective

__all__ = ["plain_total"]


def plain_total(objective: SemiSupervisedObjective, x: Tensor) -> Tensor:
    """Return the total loss of a batch, of the same parameters, with all labelled images; for ReLU switches only."""
    model, weights = objective.model, objective.weights
    images, known, labels = model.as_images(x), objective.labelled_x, objective.labelled_y
    number = len(images)
    h = torch.cat([images, known])
    inverses = []
    for layer in model.layers:
        v = F.conv2d(h, layer.templates, layer.biases, padding=layer.layer.padding)
        if layer.norm_up is not None:
            v = layer.norm_up(v)
        active = v.relu()
        shape = active.shape[-2:]
        pooled, places = active, None
        if layer.layer.pool > 1:
            pooled, places = F.max_pool2d(active, layer.layer.pool, return_indices=True)
        h = F.avg_pool2d(pooled, layer.layer.mean_pool) if layer.layer.mean_pool > 1 else pooled
        inverses.append((layer, places, pooled.detach() > 0, shape))
    logits = (h.flatten(1) @ model.class_templates.flatten(1).T) / model.noise**2 + model.class_logits
    own = logits[:number]
    log_q = own.log_softmax(-1)
    q = log_q.exp()
    total = weights.label * F.cross_entropy(logits[number:], labels)
    total = total - weights.entropy * (q * log_q).sum(-1).mean()
    h = model.class_templates[own.detach().argmax(-1)]
    violation = h.clamp(max=0).square().mean()
    for number_of_layer, (layer, places, on, shape) in reversed([*enumerate(inverses)]):
        if layer.layer.mean_pool > 1:
            h = F.interpolate(h, scale_factor=layer.layer.mean_pool) / layer.layer.mean_pool**2
        h = h * on[:number]
        if places is not None:
            h = F.max_unpool2d(h, places[:number], layer.layer.pool, output_size=shape)
        h = F.conv_transpose2d(h, layer.templates, padding=layer.layer.padding)
        if layer.norm_down is not None:
            h = layer.norm_down(h)
        if number_of_layer > 0:  # the image may have any sign
            violation = violation + h.clamp(max=0).square().mean()
    total = total + weights.reconstruction * (images - h).square().mean()
    return total + weights.nonnegativity * violation
