"""The worm *C. elegans*: its published connectome, and simulated activity of neurons of unknown identity."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pyro_ext.datasets.locate import MissingDataError, find_file, how_to_get
from pyro_ext.datasets.worms import WormRecordings, check_numbers, record
from pyro_ext.utils.checks import number_between, positive_number
from pyro_ext.utils.packed import unpacked

__all__ = ["celegans", "read_connectome"]

_FOLDER = "celegans"
_TYPES, _CONNECTIONS = "NeuronType.csv", "NeuronConnect.csv"
_OUTSIDE = ("NMJ", "VC06")
"""What neurons are connected to besides one another: muscles, and a neuron that is no part of the network."""

_MOST_BYTES = 2**24  # of a table
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
    r"""Simulate recordings of worms on the connectome of *Caenorhabditis elegans*, neurons in an unknown order.

    Connections are the symmetric pattern of the connectome, weights W are antisymmetric, Gaussian and divided by 1.1
    times their spectral radius. The activity of worm j with the unknown permutation :math:`X_j` is

    .. math::  y_t = X_j W X_j^\top y_{t-1} + \epsilon_t, \qquad \epsilon_t \sim N(0, I).

    Identity n is a candidate of neuron m if their positions along the body differ by less than :math:`\nu`. Some random
    neurons of each worm are known; they are no candidates of the other neurons.

    The files ``NeuronType.csv`` and ``NeuronConnect.csv`` are looked for in the folder ``celegans`` of
    ``PYRO_EXT_DATA``. All 279 neurons of the connectome are used. The publication has 278 neurons, presumably since its
    program takes the header of the table for a neuron and so loses the last one, VD13.

    Positions have two decimals, so that the mean number of candidates of 254 unknown neurons can be 9.6, 26, 39, 49, 58
    and so on. With the publication's :math:`\nu` of 0.01 or 0.02 it depends on the rounding of differences in float64,
    which is done here as there.

    Args:
        num_worms: the number J of worms.
        mean_candidates: the mean number of candidates of the unknown neurons, which chooses :math:`\nu`; the nearest
            possible number is taken. Not used if ``nu`` is given.
        nu: the threshold on the difference in position, in body lengths; None for that of ``mean_candidates``. The
            publication has 0.0075, 0.01, 0.02, 0.04 and 0.05, called 10, 15, 30, 45 and 60 candidates.
        num_known: the number of neurons of each worm whose identity is known.
        num_steps: the number T of steps in time.
        seed: the seed of weights, orders, known neurons and activity.

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
    positive_number("nu", nu)
    data = record("celegans", connectome, distance < nu, num_worms, num_known, num_steps, seed)
    return replace(data, names=names)


def read_connectome() -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Read the names, the positions and the connections of the 279 neurons.

    Chemical synapses and gap junctions count as connections in both directions. Connections to muscles, to the neuron
    itself, and to VC06, which is no part of the connected network, are left out.

    Returns:
        Names; positions along the body from 0 (head) to 1, float64 ``(N,)``; connections, bool ``(N, N)``.

    Raises:
        MissingDataError: if a file is missing.
        ValueError: if a file is not as expected; the message names the file and the line.
    """
    path, rows = _table(_TYPES, ("Neuron", "Soma Position"))
    number: dict[str, int] = {}
    position = []
    for line, row in rows:
        name = row[0].strip().upper()
        if not name or name in number:
            what = f"neuron {name!r} comes twice" if name else "a neuron has no name"
            raise ValueError(f"{path}, line {line}: {what}; get the file again from {_SOURCE}")
        number[name] = len(number)
        position.append(_position(row[1], path, line))
    connectome = _connections(number, path)
    return tuple(number), torch.tensor(position, dtype=torch.float64), connectome.fill_diagonal_(False)


def _position(text: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(
            f"{path}, line {line}: {text!r} is no position from 0 (head) to 1 (tail); get the file again from {_SOURCE}"
        )
    return value


def _connections(number: Mapping[str, int], types: Path) -> Tensor:
    """Read the connections between neurons, which both neurons list.

    Args:
        number: the numbers of the neurons by name.
        types: the file that lists the neurons.
    """
    path, rows = _table(_CONNECTIONS, ("Neuron 1", "Neuron 2"))
    listed = torch.zeros(len(number), len(number), dtype=torch.bool)
    lines: dict[tuple[int, int], int] = {}
    for line, row in rows:
        names = [cell.strip().upper() for cell in row[:2]]
        unknown = [name for name in names if name not in number and name not in _OUTSIDE]
        if unknown:
            raise ValueError(
                f"{path}, line {line}: neuron {unknown[0]!r} is not among the {len(number)} of {types}, so one of the "
                f"files is truncated or damaged; get both again from {_SOURCE}"
            )
        if all(name in number for name in names):
            first, second = (number[name] for name in names)
            listed[first, second] = True
            lines.setdefault((first, second), line)
    if not bool(listed.fill_diagonal_(False).any()):
        raise ValueError(f"{path}: no two of the neurons are connected; get the file again from {_SOURCE}")
    alone = (listed & ~listed.mT).nonzero()
    if len(alone):
        first, second = alone[0].tolist()
        named = [*number]
        raise ValueError(
            f"{path}, line {lines[first, second]}: {named[first]} is connected with {named[second]}, but not the other "
            f"way round, so rows are missing; get the file again from {_SOURCE}"
        )
    return listed


def _table(name: str, header: tuple[str, str]) -> tuple[Path, list[tuple[int, list[str]]]]:
    """Return the path and the numbered rows of a table whose first two columns are called ``header``."""
    path = find_file(_FOLDER, name)
    if path is None:
        raise MissingDataError(how_to_get(f"C. elegans file {name}", f"it from {_SOURCE},", _FOLDER))
    lines = _lines(path)
    if not lines or tuple(cell.strip() for cell in lines[0][1][:2]) != header:
        raise ValueError(f"{path}: the first two columns must be {' and '.join(header)}; get it again from {_SOURCE}")
    short = [line for line, row in lines if len(row) < len(lines[0][1])]
    if short or len(lines) < 3:
        where = f"line {short[0]} has" if short else "it has"
        raise ValueError(f"{path}: truncated, {where} too little; get it again from {_SOURCE}")
    return path, lines[1:]


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a table that are not empty, and the line in which each ends."""
    content = bytearray()
    for piece in unpacked(path, _MOST_BYTES):
        content += piece
        if len(content) > _MOST_BYTES:
            raise ValueError(
                f"{path}: more than {_MOST_BYTES} bytes, which is no table of neurons; get it from {_SOURCE}"
            )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: no UTF-8; get it again from {_SOURCE}") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            if row:
                lines.append((reader.line_num, row))
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: no row of comma-separated values (a carriage return, a zero byte or a "
            f"quote where none belongs); get it again from {_SOURCE}"
        ) from error
    return lines


def _threshold(distance: Tensor, mean_candidates: float, num_known: int) -> float:
    """Return the threshold whose mean number of candidates is nearest to ``mean_candidates``."""
    n = len(distance)
    number_between("mean_candidates", mean_candidates, 1, n)
    levels, counts = (distance / _RESOLUTION).round().flatten().unique(return_counts=True)
    others = counts.cumsum(0).double() / n - 1  # the candidates besides the neuron itself, if no neuron is known
    unknown = max(n - num_known - 1, 0) / (n - 1)
    chosen = (1 + unknown * others - mean_candidates).abs().argmin()
    return (float(levels[chosen]) + 0.5) * _RESOLUTION
