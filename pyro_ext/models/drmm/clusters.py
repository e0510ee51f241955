"""Classes without labels: clusters to start from, and which class each has turned out to be."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.models.drmm.em import fit_templates
from pyro_ext.models.drmm.model import DRMM
from pyro_ext.models.drmm.programs import as_images
from pyro_ext.ops.assignment import linear_assignment
from pyro_ext.utils.checks import positive_int

__all__ = ["match_clusters", "start_classes"]


@torch.no_grad()
def start_classes(
    model: DRMM, x: Tensor, generator: torch.Generator | None = None, num_steps: int = 10, solver_steps: int = 20
) -> Tensor:
    """Start a model without labels: cluster the features that the network finds, and fit the templates to that.

    Features are compared by their angles, as the length of a template would otherwise decide: spherical k-means, from
    images far apart as k-means++ chooses them. Class templates are the clusters' mean features; they and the templates
    of every layer are then fitted to the images, given the clusters and the network's switches, and so is the noise.

    Args:
        model: without batch norm; changed in place.
        x: images, ``(N,) + image_shape``, or flattened, ``(N, D)``.
        generator: of the choice of images.
        num_steps: of k-means.
        solver_steps: of conjugate gradients for each layer.

    Returns:
        The clusters, int64 ``(N,)``.

    Raises:
        ValueError: if there are fewer images than classes, or there is batch norm.

    References:
        | Concept decompositions for large sparse text data using clustering (Dhillon and Modha, 2001)
        | https://doi.org/10.1023/A:1007612920971
        | k-means++: the advantages of careful seeding (Arthur and Vassilvitskii, 2007)

    Example:
        >>> from pyro_ext.models.drmm import DRMM, Layer
        >>> model = DRMM([Layer(4, 3, pool=2)], classes=3, image_shape=(1, 8, 8), prior="factorised")
        >>> start_classes(model, torch.rand(50, 1, 8, 8)).unique()
        tensor([0, 1, 2])
    """
    model.check_plain("a start by least squares")
    positive_int("num_steps", num_steps)
    images = as_images(model, x)
    if len(images) < model.classes:
        raise ValueError(f"x must hold at least {model.classes} images, one for each class, got {len(images)}")
    found = model.infer(images)
    c = _spherical_k_means(found.features.flatten(1), model.classes, num_steps, generator)
    member = F.one_hot(c, model.classes).to(found.features)
    sums = member.mT @ found.features.flatten(1)
    counts = member.sum(0).clamp_min(1)
    model.class_templates.copy_((sums / counts[:, None]).view_as(model.class_templates))
    fit_templates(model, images, c, found.switches, solver_steps)
    error = (images - model.rendering(c, found.switches).image).square().mean()
    model.noise.copy_(error.sqrt().clamp_min(1e-3))
    return c


def match_clusters(c: Tensor, y: Tensor, classes: int) -> Tensor:
    """Return the class of every cluster, int64 ``(C,)``: the one-to-one matching that most images agree with.

    Args:
        c: clusters, ``(N,)``.
        y: labels, ``(N,)``, -1 for none: such images do not count.
        classes: C, of which both are.

    Raises:
        ValueError: if shapes differ, or a cluster or label is out of range.

    Example:
        >>> c = torch.tensor([0, 0, 1, 1, 2])
        >>> match_clusters(c, torch.tensor([2, 2, 0, 1, 1]), classes=3)
        tensor([2, 0, 1])
    """
    if c.shape != y.shape or c.dim() != 1:
        raise ValueError(f"c and y must both have shape (N,), got {tuple(c.shape)} and {tuple(y.shape)}")
    if ((c < 0) | (c >= classes)).any() or ((y < -1) | (y >= classes)).any():
        raise ValueError(f"c must hold clusters and y labels of 0 .. {classes - 1}, or -1 for no label")
    known = y >= 0
    pairs = c[known] * classes + y[known]
    return linear_assignment(pairs.bincount(minlength=classes**2).view(classes, classes).double())


def _spherical_k_means(rows: Tensor, clusters: int, num_steps: int, generator: torch.Generator | None) -> Tensor:
    rows = F.normalize(rows, dim=-1)
    centres = rows[_far_apart(rows, clusters, generator)]
    for _ in range(num_steps):
        c = (rows @ centres.mT).argmax(-1)
        member = F.one_hot(c, clusters).to(rows)
        centres = torch.where(member.any(0)[:, None], F.normalize(member.mT @ rows, dim=-1), centres)
    return (rows @ centres.mT).argmax(-1)


def _far_apart(rows: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
    """Choose rows of unit length, each in proportion to its squared distance from those before."""
    chosen = torch.randint(len(rows), (1,), generator=generator).tolist()
    distance = rows.new_full((len(rows),), torch.inf)
    while len(chosen) < number:
        distance = torch.minimum(distance, (rows - rows[chosen[-1]]).square().sum(-1))
        weights = distance.cpu() + torch.finfo(distance.dtype).tiny  # equal images leave a choice too
        chosen += torch.multinomial(weights, 1, generator=generator).tolist()
    return torch.tensor(chosen, device=rows.device)
