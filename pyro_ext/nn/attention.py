"""An encoder of sets by self-attention: what it returns for an item does not depend on the order of the items."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_ext.utils.checks import positive_int, positive_number

__all__ = ["AttentionEncoder", "MaskedBatchNorm"]


class MaskedBatchNorm(nn.Module):
    r"""Batch normalisation of items of sets, of which some are padding.

    .. math::  y = w \, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + b,

    with mean and variance of each feature over all items of the batch that are no padding. Running averages of both
    take their place in evaluation mode, and in training too where the batch holds a single item, which has no variance.

    Args:
        width: the number D of features.
        momentum: the weight of a batch in the running averages, in (0, 1].
        eps: what is added to the variance.

    Raises:
        ValueError: if ``width`` is not a positive integer, or another argument is not a positive number.

    References:
        | Batch normalization: accelerating deep network training by reducing internal covariate shift
          (Ioffe and Szegedy, 2015)
        | https://arxiv.org/abs/1502.03167

    Example:
        >>> norm, mask = MaskedBatchNorm(1), torch.tensor([[True, True, False]])
        >>> norm(torch.tensor([[[1.0], [3.0], [100.0]]]), mask).squeeze().round(decimals=2)
        tensor([-1.,  1.,  0.], grad_fn=<RoundBackward1>)
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, width: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        positive_int("width", width)
        self.momentum = positive_number("momentum", momentum)
        self.eps = positive_number("eps", eps)
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_variance", torch.ones(width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise items.

        Args:
            x: items, ``(..., D)``.
            mask: which items are no padding, bool ``(...)``; all of them if None.

        Returns:
            Items of the same shape; zeros where there is padding.
        """
        mean, variance = self._moments(x, mask) if self.training else (self.running_mean, self.running_variance)
        y = (x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias
        return y if mask is None else y * mask.unsqueeze(-1)

    def _moments(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        flat = x.reshape(-1, x.shape[-1])
        present = flat.new_ones(len(flat), 1) if mask is None else mask.reshape(-1, 1).to(flat.dtype)
        number = present.sum()
        mean = (present * flat).sum(0) / number.clamp(min=1)
        variance = (present * (flat - mean).square()).sum(0) / number.clamp(min=1)
        enough = number > 1
        with torch.no_grad():
            weight = self.momentum * enough
            unbiased = variance * number / (number - 1).clamp(min=1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight.to(self.running_mean.dtype))
            self.running_variance.lerp_(unbiased.to(self.running_variance.dtype), weight.to(self.running_mean.dtype))
        return torch.where(enough, mean, self.running_mean), torch.where(enough, variance, self.running_variance)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"{len(self.weight)}, momentum={self.momentum:g}"


class AttentionEncoder(nn.Module):
    r"""Embeds the items of a set and lets each of them attend to all others.

    Items :math:`x \in \mathbb{R}^{N \times F}` are mapped linearly to D features and normalised over the batch; then
    each block computes

    .. math::  h' = \mathrm{BN}\big(h + \mathrm{Attention}(h)\big), \qquad
        h'' = \mathrm{BN}\big(h' + W_2 \max(0, W_1 h')\big),

    where attention has several heads and :math:`W_1` widens D to ``expansion`` times D. There is no encoding of the
    position: a permutation of the items permutes the result.

    Args:
        num_features: the number F of features of an item.
        width: the number D of features inside.
        num_heads: the number of heads, which divides ``width``.
        num_blocks: the number of blocks; with 0 there is the embedding alone.
        expansion: how many times wider than D the layer between two others of a block is.

    Raises:
        ValueError: if a number is out of range, or the heads do not divide the width; when called, if ``x`` has another
            shape.

    References:
        | Attention is all you need (Vaswani et al., 2017), https://arxiv.org/abs/1706.03762
        | Learning heuristics for the TSP by policy gradient (Deudon et al., 2018), section 3
        | https://doi.org/10.1007/978-3-319-93031-2_12

    Example:
        >>> encoder = AttentionEncoder(num_features=4, width=128, num_heads=16, num_blocks=3)
        >>> encoder(torch.randn(2, 100, 4)).shape
        torch.Size([2, 100, 128])
    """

    def __init__(
        self, num_features: int, width: int = 128, num_heads: int = 16, num_blocks: int = 3, expansion: int = 4
    ) -> None:
        super().__init__()
        positive_int("num_features", num_features)
        positive_int("width", width)
        positive_int("num_heads", num_heads)
        positive_int("num_blocks", num_blocks, minimum=0)
        positive_int("expansion", expansion)
        if width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads ({num_heads}), got {width}")
        self.num_features = num_features
        self.embedding = nn.Linear(num_features, width)
        self.norm = MaskedBatchNorm(width)
        self.blocks = nn.ModuleList(_Block(width, num_heads, expansion) for _ in range(num_blocks))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode sets.

        Args:
            x: the items, ``(B, N, F)``.
            mask: which items are no padding, bool ``(B, N)``; all of them if None.

        Returns:
            ``(B, N, D)``; zeros where there is padding.
        """
        if x.dim() != 3 or x.shape[-1] != self.num_features:
            raise ValueError(f"x must have shape (batch, items, {self.num_features}), got {tuple(x.shape)}")
        h = self.norm(self.embedding(x), mask)
        for block in self.blocks:
            h = block(h, mask)
        return h


class _Block(nn.Module):
    """Attention and a perceptron, each with a shortcut and batch normalisation."""

    def __init__(self, width: int, num_heads: int, expansion: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, expansion * width), nn.ReLU(), nn.Linear(expansion * width, width)
        )
        self.norms = nn.ModuleList([MaskedBatchNorm(width), MaskedBatchNorm(width)])

    def forward(self, h: Tensor, mask: Tensor | None) -> Tensor:
        parts = self.queries_keys_values(h).unflatten(-1, (3, self.num_heads, -1)).movedim(-3, 0).transpose(-2, -3)
        if mask is None:
            seen = None
        else:  # a set of padding alone sees all of it, since a softmax of nothing is not a number
            seen = (mask | ~mask.any(-1, keepdim=True))[:, None, None, :]
        queries, keys, values = parts.unbind(0)
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen).transpose(-2, -3).flatten(-2)
        h = self.norms[0](h + self.mix(attended), mask)
        normed: Tensor = self.norms[1](h + self.perceptron(h), mask)
        return normed
