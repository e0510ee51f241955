"""What pruning and rounding have saved, layer by layer and in all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_ext.nn.compression.chain import analyse, is_chain, layer_sizes
from pyro_ext.nn.compression.pruning import export_masked, prunable
from pyro_ext.ops.compression import code_entropy, exponent_bits, round_to_bits, significand_bits
from pyro_ext.utils.tables import markdown_table

__all__ = ["LayerSparsity", "SparsityReport", "sparsity_report"]

_FULL = 32  # bits of a weight before compression


@dataclass(frozen=True)
class LayerSparsity:
    """One row of a :class:`SparsityReport`.

    Args:
        layer: the name of the weight.
        numel: the number of its entries.
        kept: the number of those that are not removed.
        percent_kept: the same in per cent.
        rows: the number of outputs, or output channels.
        rows_alive: the number of those that later layers use.
        columns: the number of inputs, or input channels.
        columns_alive: the number of those that this layer uses.
        bits: bits for each weight, sign, exponent and significand together.
        significand_bits: those of the significand.
    """

    layer: str
    numel: int
    kept: int
    percent_kept: float
    rows: int
    rows_alive: int
    columns: int
    columns_alive: int
    bits: int
    significand_bits: int


@dataclass(frozen=True)
class SparsityReport:
    """What :func:`sparsity_report` returns; ``str`` of it is a table.

    Args:
        layers: one row for each layer with weights.
        numel: the number of weights.
        kept: the number of those that are not removed.
        percent_kept: the same in per cent.
        sizes: the learned sizes of the layers, see :func:`sparsity_report`.
        nonzero_compression: weights by weights that are not removed.
        pruning_compression: see :func:`sparsity_report`.
        fast_compression: see there.
        maximum_compression: see there.
    """

    layers: tuple[LayerSparsity, ...]
    numel: int
    kept: int
    percent_kept: float
    sizes: tuple[int, ...]
    nonzero_compression: float
    pruning_compression: float
    fast_compression: float
    maximum_compression: float

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, with the names above."""
        return {**asdict(self), "layers": [asdict(row) for row in self.layers], "sizes": [*self.sizes]}

    def significands(self) -> dict[str, int]:
        """Return the bits of significands by the names of weights, for :func:`quantize`."""
        return {row.layer: row.significand_bits for row in self.layers}

    def __str__(self) -> str:
        rows = [
            [
                row.layer,
                row.numel,
                row.kept,
                f"{row.percent_kept:.1f}",
                f"{row.rows_alive}/{row.rows}",
                f"{row.columns_alive}/{row.columns}",
                row.bits,
            ]
            for row in self.layers
        ]
        rows.append(["total", self.numel, self.kept, f"{self.percent_kept:.1f}", "", "", ""])
        rates = (
            f"compression: {self.nonzero_compression:.1f} by non-zeros, {self.pruning_compression:.1f} by pruning, "
            f"{self.fast_compression:.1f} fast, {self.maximum_compression:.1f} at most (an estimate); "
            f"sizes {'-'.join(map(str, self.sizes))}"
        )
        return f"{markdown_table(rows, ['layer', 'numel', 'kept', '%', 'rows', 'columns', 'bits'])}\n\n{rates}"


@torch.no_grad()
def sparsity_report(
    module: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    *,
    variances: Mapping[str, Tensor] | None = None,
    bits: int | Mapping[str, int] | None = None,
) -> SparsityReport:
    r"""Count what is left of the weights of linear and convolutional layers, biases excluded.

    Rates are those of Louizos et al. (2017), section 5; each compares P weights of 32 bits with what is stored:

    * **non-zero**: P by the number of weights that are not removed;
    * **pruning**: P by the number of weights in the dense matrices that are left when unused inputs and outputs are cut
      out of all layers at once, as :func:`compact` does;
    * **fast**: 32 P by the bits of those dense matrices, with one number of bits per layer: a sign, the bits of the
      exponent (:func:`~pyro_ext.ops.compression.exponent_bits`, of all layers together) and those of the significand;
    * **maximum**: an estimate of what coding can reach, 32 P by the bits of each layer's cheaper coding with its
      weights rounded to its significand (:func:`~pyro_ext.ops.compression.round_to_bits`). One is an entropy code of
      the dense matrix, zeros included; the other an entropy code of non-zeros with their columns and the beginnings of
      rows in fixed-length integers; each pays for a table of its distinct values. An entropy code is counted with
      its Shannon bound, so no Huffman code is shorter.

    Sizes are listed as in the paper: inputs used by a linear layer, outputs of a convolutional one.

    Args:
        module: the network, with or without zeros where weights have been removed. In an ``nn.Sequential`` that
            :func:`compact` understands, rows and columns are followed from layer to layer; in other networks those of
            each layer are counted by themselves.
        masks: which entries of parameters are kept, by name.
        variances: the posterior variance of each weight, by the names of the weights, from which its layer's
            significand follows, see :func:`~pyro_ext.ops.compression.significand_bits`.
        bits: instead of variances, the bits of significands; of each weight by name, or of all. If neither is given,
            weights have 32 bits, 23 of them in the significand.

    Raises:
        ValueError: if a mask, a variance or a number of bits fits no weight, or both ``variances`` and ``bits`` are
            given.

    References:
        | Bayesian compression for deep learning (Louizos et al., 2017), section 5
        | https://arxiv.org/abs/1705.08665

    Example:
        >>> from pyro_ext.nn import prune
        >>> network = nn.Sequential(nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10))
        >>> print(sparsity_report(network, prune(network, sparsity=0.95), bits=6))
        | layer    | numel | kept |   % |  rows | columns | bits |
        |:---------|------:|-----:|----:|------:|--------:|-----:|
        | 0.weight |  1920 |   96 | 5.0 | 14/30 |   31/64 |   10 |
        | 2.weight |   300 |   15 | 5.0 | 10/10 |   14/30 |   10 |
        | total    |  2220 |  111 | 5.0 |       |         |      |
        <BLANKLINE>
        compression: 20.0 by non-zeros, 3.9 by pruning, 12.4 fast, 168.9 at most (an estimate); sizes 31-14
    """
    masked = export_masked(module, masks or {})
    weights = {name: weight.detach() for name, weight in prunable(masked).items()}
    if not weights:
        raise ValueError(f"module must have linear or convolutional layers, got {type(module).__name__}")
    significands = _significands(weights, variances, bits)
    exponents = 8
    if significands is not None:
        exponents = int(exponent_bits(torch.cat([weight.flatten() for weight in weights.values()])))
    dense, used, sizes = _shrunken(masked, weights)
    rows, fast, maximum = [], 0, 0.0
    for name, weight in weights.items():
        significand = 23 if significands is None else significands[name]
        word = 1 + exponents + significand
        kept = int((weight != 0).sum()) if masks is None or name not in masks else int(masks[name].sum())
        outputs, inputs = used[name]
        total = weight.numel()
        rows.append(
            LayerSparsity(
                name, total, kept, 100 * kept / total, len(weight), outputs, weight.shape[1], inputs, word, significand
            )
        )
        fast += dense[name].numel() * word
        maximum += _coded_bits(dense[name], significand, word)
    numel, kept = sum(row.numel for row in rows), sum(row.kept for row in rows)
    return SparsityReport(
        layers=tuple(rows),
        numel=numel,
        kept=kept,
        percent_kept=100 * kept / numel,
        sizes=tuple(sizes),
        nonzero_compression=_ratio(numel, kept),
        pruning_compression=_ratio(numel, sum(one.numel() for one in dense.values())),
        fast_compression=_ratio(_FULL * numel, fast),
        maximum_compression=_ratio(_FULL * numel, maximum),
    )


def _ratio(before: float, after: float) -> float:
    return before / after if after else math.inf


def _significands(
    weights: Mapping[str, Tensor], variances: Mapping[str, Tensor] | None, bits: int | Mapping[str, int] | None
) -> dict[str, int] | None:
    """Return the bits of significands by layer, or None for single precision."""
    if variances is not None and bits is not None:
        raise ValueError("give either variances or bits, got both")
    given: Any = variances if bits is None else bits
    if given is None:
        return None
    if isinstance(given, Mapping):
        unknown = sorted(given.keys() - weights.keys())
        if unknown:
            raise ValueError(
                f"{'variances' if bits is None else 'bits'} names {unknown}; the weights are {', '.join(weights)}"
            )
        missing = [name for name in weights if name not in given]
        if missing:
            raise ValueError(
                f"{'variances' if bits is None else 'bits'} must name the weights {', '.join(weights)}; "
                f"got none for {', '.join(missing)}"
            )
    if variances is None:
        return {name: int(given[name]) if isinstance(given, Mapping) else int(given) for name in weights}
    return {name: int(significand_bits(variances[name], weight != 0)) for name, weight in weights.items()}


def _shrunken(
    module: nn.Module, weights: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, tuple[int, int]], list[int]]:
    """Return dense matrices without unused rows and columns, the numbers of the used ones, and the learned sizes."""
    if is_chain(module):
        layers = analyse(module)[1]
        names = {f"{one.name}.weight" if one.name else "weight": one for one in layers}
        dense = {name: one.shrunken for name, one in names.items()}
        return dense, {name: (len(one), one.shape[1]) for name, one in dense.items()}, layer_sizes(layers)
    dense = {}
    for name, weight in weights.items():
        used = weight != 0
        rows, columns = used.flatten(1).any(1), used.transpose(0, 1).flatten(1).any(1)
        dense[name] = weight[rows][:, columns]
    sizes = [one.shape[1] if one.dim() == 2 else len(one) for one in dense.values()]
    return dense, {name: (len(one), one.shape[1]) for name, one in dense.items()}, sizes


def _coded_bits(dense: Tensor, significand: int, word: int) -> float:
    """Return the bits of the cheaper of two codings of a layer."""
    rounded = round_to_bits(dense, significand).flatten(1)
    nonzeros = rounded[rounded != 0]
    number = nonzeros.numel()
    as_dense = rounded.numel() * float(code_entropy(rounded)) + word * torch.unique(rounded).numel()
    places = number * _integer_bits(rounded.shape[1] - 1) + (len(rounded) + 1) * _integer_bits(number)
    as_rows = number * float(code_entropy(nonzeros)) + places + word * torch.unique(nonzeros).numel()
    return min(as_dense, max(as_rows, 1.0))  # at the least a bit that says that nothing is there


def _integer_bits(largest: int) -> int:
    return max(largest, 0).bit_length()
