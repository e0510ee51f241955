"""What a sequence of flips will cost, predicted from the observed matrix: the baseline of REINFORCE."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_ext.models.toolkit import perceptron
from pyro_ext.models.tumour.elimination.cost import observe
from pyro_ext.models.tumour.elimination.policy import entry_rows
from pyro_ext.nn import AttentionEncoder
from pyro_ext.utils.checks import number_between, positive_int

__all__ = ["Critic"]


class Critic(nn.Module):
    """An attention encoder of its own, whose items are averaged, and a hidden layer of rectifiers.

    Args:
        false_positive: the rate of false positives, in (0, 1).
        false_negative: the rate of false negatives, in (0, 1).
        width: the number of features of an encoded entry.
        num_heads: the number of heads of attention, which divides ``width``.
        num_blocks: the number of blocks of attention.
        hidden: the width of the hidden layer.

    Raises:
        ValueError: if a rate lies outside of (0, 1), or a size is out of range.

    Example:
        >>> critic = Critic(false_positive=0.002, false_negative=0.1)
        >>> critic(torch.tensor([[[1, 1], [1, 0], [0, 1]]])).shape
        torch.Size([1])
    """

    false_positive: Tensor
    false_negative: Tensor

    def __init__(
        self,
        false_positive: float,
        false_negative: float,
        width: int = 32,
        num_heads: int = 4,
        num_blocks: int = 1,
        hidden: int = 128,
    ) -> None:
        super().__init__()
        for name, rate in {"false_positive": false_positive, "false_negative": false_negative}.items():
            self.register_buffer(name, torch.tensor(number_between(name, rate, 0, 1, "()")))
        self.encoder = AttentionEncoder(4, width, num_heads, num_blocks)
        self.head = perceptron(width, positive_int("hidden", hidden), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a prediction for each matrix, ``(B,)``, of matrices ``(B, n, m)``."""
        observed = observe(x, self.false_positive, self.false_negative)
        present = observed.present.flatten(-2)
        items = self.encoder(entry_rows(observed), present)
        mean = items.sum(-2) / present.sum(-1, keepdim=True).clamp(min=1)
        prediction: Tensor = self.head(mean).squeeze(-1)
        return prediction
