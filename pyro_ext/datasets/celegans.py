"""The worm *C. elegans*: its published connectome, and activity simulated on it with hidden identities of neurons."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pyro_ext.datasets.locate import ENVIRONMENT_VARIABLE, MissingDataError, find_file
from pyro_ext.datasets.worms import WormRecordings, check_numbers, record

__all__ = ["celegans", "read_connectome"]

_FOLDER = "celegans"
_TYPES, _CONNECTIONS = "NeuronType.csv", "NeuronConnect.csv"
_RESOLUTION = 0.01  # of positions, in body lengths
_SOURCE = "https://github.com/slinderman/birkhoff, folder data"


def celegans(
    num_worms: int = 1,
    mean_candidates: float = 10.0,
    nu: float | None = None,
    num_known: int = 25,
    num_steps: int = 1000,
    seed: int = 0,
) -> WormRecordings:
    r"""Simulate recordings of worms on the connectome of *C. elegans*, with the neurons in an unknown order.

    Connections are the symmetric pattern of the connectome, weights W are antisymmetric, Gaussian and divided by 1.1
    times their spectral radius, and the activity of worm j with the hidden permutation :math:`X_j` is

    .. math::  y_t = X_j W X_j^\top y_{t-1} + \epsilon_t, \qquad \epsilon_t \sim N(0, I).

    Neuron m may be identity n where their positions along the body differ by less than :math:`\nu`. Some random
    neurons of each worm are known; the others have no known identity among their candidates.

    The files ``NeuronType.csv`` and ``NeuronConnect.csv`` are looked for in the folder ``celegans`` of
    ``PYRO_EXT_DATA``. All 279 neurons of the connectome are used. The publication has 278, presumably for its
    reader takes the header of the table for a neuron and so loses the last one, VD13.

    Positions have two decimals, so the mean number of candidates of 254 unknown neurons can be 9.6, 26, 39, 49, 58 and
    so on. With the publication's :math:`\nu` of 0.01 or 0.02 it depends on the rounding of differences in float64,
    which is done here as there.

    Args:
        num_worms: J.
        mean_candidates: the mean number of candidates of the neurons that are not known, a property of
            :math:`\nu`; the nearest possible one is taken.
        nu: the threshold on the difference in position, in body lengths, instead of ``mean_candidates``. The
            publication's are 0.0075, 0.01, 0.02, 0.04 and 0.05, called 10, 15, 30, 45 and 60 candidates.
        num_known: how many neurons of each worm have a known identity.
        num_steps: T, the number of steps in time.
        seed: of weights, orders, known neurons and activity.

    Returns:
        Moments of the activity, ``(J, 558, 558)``, float32, true identities ``(J, 279)``, int64, the connectome, the
        candidates and the true weights.

    Raises:
        ValueError: if an argument is out of range or a file is damaged.
        MissingDataError: if a file is missing.

    References:
        | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018)
        | https://arxiv.org/abs/1710.09508, section 5.3 and supplement
        | Structural properties of the Caenorhabditis elegans neuronal network (Varshney et al., 2011)
        | https://arxiv.org/abs/0907.2373
    """
    names, position, connectome = read_connectome()
    check_numbers(len(names), num_worms, num_known, num_steps, seed)
    distance = (position[:, None] - position).abs()
    if nu is None:
        nu = _threshold(distance, mean_candidates, num_known)
    elif isinstance(nu, bool) or not isinstance(nu, int | float) or not 0 < nu < math.inf:
        raise ValueError(f"nu must be a positive, finite number of body lengths, got {nu!r}")
    data = record("celegans", connectome, distance < nu, num_worms, num_known, num_steps, seed)
    return replace(data, names=names)


def read_connectome() -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Read the names, the positions and the connections of the 279 neurons.

    Connections count in both directions, chemical synapses and gap junctions alike. Those to muscles and to VC06,
    which is no part of the connected network, are left out, and so is a neuron's connection to itself.

    Returns:
        Names; positions along the body from 0 (head) to 1, float64 ``(N,)``; connections, bool ``(N, N)``.

    Raises:
        MissingDataError: if a file is missing.
        ValueError: naming the file and the line, if it is not as expected.
    """
    path, rows = _table(_TYPES, ("Neuron", "Soma Position"))
    names, position = [row[0].upper() for _, row in rows], []
    for line, row in rows:
        try:
            position.append(float(row[1]))
        except ValueError:
            raise ValueError(f"{path}, line {line}: {row[1]!r} is no position; get the file again") from None
    number = {name: i for i, name in enumerate(names)}
    connectome = torch.zeros(len(names), len(names), dtype=torch.bool)
    _, rows = _table(_CONNECTIONS, ("Neuron 1", "Neuron 2"))
    pairs = [
        (number[a], number[b]) for _, row in rows if (a := row[0].upper()) in number and (b := row[1].upper()) in number
    ]
    first, second = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(-1)
    connectome[first, second] = connectome[second, first] = True
    return tuple(names), torch.tensor(position, dtype=torch.float64), connectome.fill_diagonal_(False)


def _table(name: str, header: tuple[str, str]) -> tuple[Path, list[tuple[int, list[str]]]]:
    """Return the path and the numbered rows of a table whose first two columns are called ``header``."""
    path = find_file(_FOLDER, name)
    if path is None:
        raise MissingDataError(
            f"C. elegans file {name} not found: get it from {_SOURCE}, put it into the folder {_FOLDER} of a folder of "
            f"yours, and set {ENVIRONMENT_VARIABLE} to the latter"
        )
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); get it again from {_SOURCE}") from error
    lines = [(line, row) for line, row in enumerate(csv.reader(io.StringIO(text)), 1) if row]
    if not lines or tuple(cell.strip() for cell in lines[0][1][:2]) != header:
        raise ValueError(f"{path}: the first two columns must be {' and '.join(header)}; get it again from {_SOURCE}")
    short = [line for line, row in lines if len(row) < 2]
    if short or len(lines) < 3:
        where = f"line {short[0]} has" if short else "it has"
        raise ValueError(f"{path}: truncated, {where} too little; get it again from {_SOURCE}")
    return path, lines[1:]


def _threshold(distance: Tensor, mean_candidates: float, num_known: int) -> float:
    """Return the threshold that gives the nearest mean number of candidates to the one wanted."""
    n = len(distance)
    if (
        isinstance(mean_candidates, bool)
        or not isinstance(mean_candidates, int | float)
        or not 1 <= mean_candidates <= n
    ):
        raise ValueError(f"mean_candidates must lie in [1, {n}], the number of neurons; got {mean_candidates!r}")
    levels, counts = (distance / _RESOLUTION).round().flatten().unique(return_counts=True)
    others = counts.cumsum(0).double() / n - 1  # besides itself, before any neuron is known
    unknown = max(n - num_known - 1, 0) / (n - 1)
    chosen = (1 + unknown * others - mean_candidates).abs().argmin()
    return (float(levels[chosen]) + 0.5) * _RESOLUTION
