"""Probabilities of labels for matrices of any size, by networks for one size."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_ext.utils.checks import positive_int

__all__ = ["LabelProbability", "predict_label", "resize_matrices"]


class LabelProbability(NamedTuple):
    """The probability that a matrix has label 1.

    Attributes:
        probability: the mean over samples of the matrix.
        std: the standard deviation over samples; 0 where the matrix is taken as a whole.
        samples: the probability of each sample, ``(S,)``.
        padded: the numbers of cells and mutations that were added, with zeros.
        sampled: the numbers of cells and mutations of the matrix of which each sample has fewer, 0 where it has all.
    """

    probability: float
    std: float
    samples: Tensor
    padded: tuple[int, int]
    sampled: tuple[int, int]


def resize_matrices(
    matrix: Tensor, shape: tuple[int, int], num_samples: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Bring a matrix to another size: rows and columns of zeros fill up, random ones are left out.

    A cell without mutations and a mutation that no cell has change neither conflicts nor branches.

    Args:
        matrix: cells x mutations, ``(n, m)``.
        shape: the numbers of cells and mutations wanted.
        num_samples: the number S of samples.
        generator: the random generator, on the CPU; torch's default generator if None.

    Returns:
        ``(S,) + shape``, of the same type. Samples differ only if something is left out.

    Raises:
        ValueError: if the matrix has no two dims, or a number is not positive.

    Example:
        >>> resize_matrices(torch.ones(1, 3), (2, 2))
        tensor([[[1., 1.],
                 [0., 0.]]])
    """
    if matrix.dim() != 2:
        raise ValueError(f"matrix must be cells x mutations, got shape {tuple(matrix.shape)}")
    positive_int("num_samples", num_samples)
    for size in shape:
        positive_int("shape", size)
    result = matrix.new_zeros(num_samples, *shape)
    n, m = (min(have, want) for have, want in zip(matrix.shape, shape, strict=True))
    for sample in result:
        rows, columns = (
            torch.randperm(have, generator=generator, device="cpu")[:kept].sort().values.to(matrix.device)
            for have, kept in zip(matrix.shape, (n, m), strict=True)
        )
        sample[:n, :m] = matrix[rows][:, columns]
    return result


@torch.no_grad()
def predict_label(network: nn.Module, matrix: Tensor, num_samples: int = 200, seed: int = 0) -> LabelProbability:
    """Return the probability that a matrix has label 1: errors, or branches, by what the network was trained for.

    A matrix with fewer cells or mutations than the network takes is filled up with zeros. Of a matrix with more, random
    cells and mutations are taken, and probabilities averaged over samples. Zeros change neither conflicts nor branches,
    but a network that has not been trained on such matrices may say anything of one that is mostly zeros: rather train
    for the size of the matrix, or take :class:`~pyro_ext.models.tumour.networks.PairNetwork`, which takes any size.

    Args:
        network: from matrices ``(B, n, m)`` to log-odds ``(B,)``, with the attribute ``shape``, which is None if it
            takes matrices of any size.
        matrix: entries 0, 1 and 3 (missing), ``(n, m)``.
        num_samples: the number of samples of a larger matrix.
        seed: the seed of their choice.

    Raises:
        ValueError: if the matrix has no two dims, or ``num_samples`` is not positive.

    Example:
        >>> from pyro_ext.models.tumour.networks import MatrixPerceptron
        >>> result = predict_label(MatrixPerceptron((4, 4)), torch.ones(6, 3), num_samples=10)
        >>> result.padded, result.sampled, result.samples.shape
        ((0, 1), (6, 0), torch.Size([10]))
    """
    shape: tuple[int, int] | None = getattr(network, "shape", None)
    n, m = matrix.shape if matrix.dim() == 2 else (0, 0)
    wanted = (n, m) if shape is None else shape
    larger = n > wanted[0] or m > wanted[1]
    generator = torch.Generator().manual_seed(seed)
    positive_int("num_samples", num_samples)
    matrices = resize_matrices(matrix, wanted, num_samples if larger else 1, generator)
    device = next((parameter.device for parameter in network.parameters()), matrix.device)
    training = network.training
    network.eval()
    try:
        samples = torch.cat([network(part.to(device)) for part in matrices.split(100)]).sigmoid().double().cpu()
    finally:
        network.train(training)
    return LabelProbability(
        float(samples.mean()),
        float(samples.std(correction=0)),
        samples,
        (max(wanted[0] - n, 0), max(wanted[1] - m, 0)),
        (n if n > wanted[0] else 0, m if m > wanted[1] else 0),
    )
