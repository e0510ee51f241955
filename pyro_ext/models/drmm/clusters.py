"""Training without labels: clusters to start from, and the matching of clusters with classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.models.drmm.em import fit_templates
from pyro_ext.models.drmm.model import DRMM
from pyro_ext.ops.assignment import linear_assignment
from pyro_ext.utils.checks import positive_int

__all__ = ["match_clusters", "start_classes"]


@torch.no_grad()
def start_classes(
    model: DRMM, x: Tensor, generator: torch.Generator | None = None, num_steps: int = 10, solver_steps: int = 20
) -> Tensor:
    """Initialise a model without labels: cluster the network's features, and fit the templates to the clusters.

    The clustering is spherical k-means, which compares features by their angles, since otherwise the lengths of
    templates would decide; it starts at images that are far apart, chosen as by k-means++. Class templates are the
    mean features of clusters. They, the templates of every layer, and the noise are then fitted to the images, given
    the clusters and the network's switches.

    Args:
        model: a model without batch norm; changed in place.
        x: images, ``(N,) + image_shape``, or flattened, ``(N, D)``.
        generator: the random generator by which the first images are chosen.
        num_steps: the number of steps of k-means.
        solver_steps: the number of steps of conjugate gradients for each layer.

    Returns:
        The cluster of each image, int64 ``(N,)``.

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
    model.check_no_batch_norm("start_classes")
    positive_int("num_steps", num_steps)
    images = model.as_images(x)
    if len(images) < model.classes:
        raise ValueError(f"x must hold at least {model.classes} images, one for each class, got {len(images)}")
    inferred = model.infer(images)
    c = _spherical_k_means(inferred.features.flatten(1), model.classes, num_steps, generator)
    member = F.one_hot(c, model.classes).to(inferred.features)
    sums = member.mT @ inferred.features.flatten(1)
    counts = member.sum(0).clamp_min(1)
    model.class_templates.copy_((sums / counts[:, None]).view_as(model.class_templates))
    fit_templates(model, images, c, inferred.switches, solver_steps)
    error = (images - model.rendering(c, inferred.switches).image).square().mean()
    model.noise.copy_(error.sqrt().clamp_min(1e-3))
    return c


def match_clusters(c: Tensor, y: Tensor, classes: int) -> Tensor:
    """Return the class of every cluster, int64 ``(C,)``: the one-to-one matching that is right for most images.

    Args:
        c: the cluster of each image, ``(N,)``.
        y: the label of each image, ``(N,)``, -1 for none: such images do not count.
        classes: the number C of classes and of clusters.

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
    """Choose rows of unit length, each with a probability proportional to its squared distance from those before."""
    chosen = torch.randint(len(rows), (1,), generator=generator, device="cpu").tolist()
    distance = rows.new_full((len(rows),), torch.inf)
    while len(chosen) < number:
        distance = torch.minimum(distance, (rows - rows[chosen[-1]]).square().sum(-1))
        weights = distance.cpu() + torch.finfo(distance.dtype).tiny  # a choice is possible among equal images too
        chosen += torch.multinomial(weights, 1, generator=generator).tolist()
    return torch.tensor(chosen, device=rows.device)
