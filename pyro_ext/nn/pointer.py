"""A decoder that points at the items of a set one after the other, none of them twice."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_ext.utils.checks import positive_int, positive_number
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["PointerDecoder", "PointerState"]


@dataclass(frozen=True)
class PointerState:
    """Where a pointer stands: what it may point at, and the memory of what it pointed at before.

    Args:
        items: the encoded items, ``(B, N, D)``.
        keys: the items as the pointer and the glimpse see them, each ``(B, N, D)``.
        allowed: what may be pointed at, bool ``(..., B, N)``.
        recent: the item pointed at last, ``(..., B, D)``.
        memory: the hidden state and the cell state of the LSTM, each ``(..., B, D)``.
    """

    items: Tensor
    keys: tuple[Tensor, Tensor]
    allowed: Tensor
    recent: Tensor
    memory: tuple[Tensor, Tensor]


class PointerDecoder(nn.Module):
    r"""An LSTM whose state is compared with the items of a set, which gives the logits of pointing at each of them.

    With the state :math:`q_t` after the items pointed at so far, a glimpse at those that are left makes a query, and
    the query the logits,

    .. math::

        g_t = q_t + \sum_i a_{ti} h_i, \quad a_t = \mathrm{softmax}\big(v_g^\top \tanh(W_g h_i + U_g q_t)\big),
        \qquad \ell_{ti} = C \tanh\big(v^\top \tanh(W h_i + U g_t + e_{ti}) + s_{ti}\big),

    which are :math:`-\infty` for items pointed at before. What may be said of an item at this step alone comes in as
    features :math:`e_{ti}` and as a score :math:`s_{ti}`.

    A sequence is drawn by :meth:`start`, then, in turn, :meth:`step` and :meth:`visit`. The positions may have dims on
    the left of those of the batch: many sequences for the same sets. Where nothing is left all items may be pointed at
    again.

    Args:
        width: the number D of features of an item.
        clip: the largest size C of a logit.

    Raises:
        ValueError: if ``width`` is not a positive integer, or ``clip`` not a positive number.

    References:
        | Pointer networks (Vinyals et al., 2015), https://arxiv.org/abs/1506.03134
        | Neural combinatorial optimization with reinforcement learning (Bello et al., 2016), appendix A
        | https://arxiv.org/abs/1611.09940

    Example:
        >>> decoder, items = PointerDecoder(width=8), torch.randn(2, 5, 8)
        >>> state, order = decoder.start(items), []
        >>> for _ in range(5):
        ...     state, logits = decoder.step(state)
        ...     order.append(torch.distributions.Categorical(logits=logits).sample())
        ...     state = decoder.visit(state, order[-1])
        >>> torch.stack(order, -1).sort(-1).values
        tensor([[0, 1, 2, 3, 4],
                [0, 1, 2, 3, 4]])
    """

    def __init__(self, width: int, clip: float = 10.0) -> None:
        super().__init__()
        positive_int("width", width)
        self.clip = positive_number("clip", clip)
        self.first = nn.Parameter(torch.empty(width).uniform_(-1, 1) / math.sqrt(width))
        self.memory = nn.LSTMCell(width, width)
        self.keys = nn.ModuleList([nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)])
        self.queries = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        self.scores = nn.ModuleList([nn.Linear(width, 1, bias=False), nn.Linear(width, 1, bias=False)])

    def start(self, items: Tensor, allowed: Tensor | None = None) -> PointerState:
        """Return the state before anything has been pointed at.

        Args:
            items: the encoded items, ``(B, N, D)``.
            allowed: what may be pointed at, bool ``(B, N)``; everything if None.
        """
        if allowed is None:
            allowed = torch.ones(items.shape[:-1], dtype=torch.bool, device=items.device)
        zeros = items.new_zeros(len(items), items.shape[-1])
        glimpse, pointer = (layer(items) for layer in self.keys)
        return PointerState(items, (glimpse, pointer), allowed, self.first.expand_as(zeros), (zeros, zeros))

    def step(
        self, state: PointerState, extra: Tensor | None = None, scores: Tensor | None = None
    ) -> tuple[PointerState, Tensor]:
        """Return the state with its memory brought up to date, and the logits of what is pointed at next.

        Args:
            state: the state.
            extra: features of each item at this step alone, ``(..., B, N, D)``; none if None.
            scores: a score of each item at this step alone, ``(..., B, N)``; 0 if None.

        Returns:
            The state and logits ``(..., B, N)``.
        """
        lead = broadcast_shapes(state.recent.shape, state.memory[0].shape)
        flat = (x.expand(lead).reshape(-1, lead[-1]) for x in (state.recent, *state.memory))
        recent, *memory = flat
        hidden, cell = (x.view(lead) for x in self.memory(recent, tuple(memory)))
        allowed = state.allowed | ~state.allowed.any(-1, keepdim=True)
        seen = self._scores(0, state.keys[0], hidden).masked_fill(~allowed, -math.inf)
        query = hidden + torch.einsum("...bn,bnd->...bd", seen.softmax(-1), state.items)
        keys = state.keys[1] if extra is None else state.keys[1] + extra
        raw = self._scores(1, keys, query)
        logits = self.clip * (raw if scores is None else raw + scores).tanh()
        return replace(state, memory=(hidden, cell)), logits.masked_fill(~allowed, -math.inf)

    def visit(self, state: PointerState, position: Tensor) -> PointerState:
        """Return the state after an item has been pointed at.

        Args:
            state: the state.
            position: which item, int64 ``(..., B)``.
        """
        chosen = F.one_hot(position, state.items.shape[-2])
        recent = torch.einsum("...bn,bnd->...bd", chosen.to(state.items.dtype), state.items)
        return replace(state, allowed=state.allowed & ~chosen.bool(), recent=recent)

    def _scores(self, which: int, keys: Tensor, query: Tensor) -> Tensor:
        mixed = (keys + self.queries[which](query).unsqueeze(-2)).tanh()
        scores: Tensor = self.scores[which](mixed).squeeze(-1)
        return scores
