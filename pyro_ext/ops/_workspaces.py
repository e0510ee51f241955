"""Large buffers that are used again: new ones cost page faults, which take longer than the arithmetic on them."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

__all__ = ["Lease", "lease"]

_MOST_BYTES: Final = 1 << 29

_Key = tuple[int, torch.dtype]


class _Pool:
    """Idle buffers on the CPU by size and type, up to half a gigabyte; the least recently used are dropped first."""

    def __init__(self) -> None:
        self.idle: dict[_Key, list[Tensor]] = {}  # in the order of their last use
        self.bytes = 0

    def take(self, key: _Key) -> Tensor:
        try:
            buffer = self.idle[key].pop()
        except (KeyError, IndexError):
            with torch.inference_mode(False):  # buffers outlive the caller's mode
                return torch.empty(key[0], dtype=key[1], device="cpu")
        self.bytes -= buffer.nbytes
        return buffer

    def give_back(self, key: _Key, buffer: Tensor) -> None:
        if buffer.nbytes > _MOST_BYTES:
            return
        buffers = self.idle.pop(key, [])
        buffers.append(buffer)
        self.idle[key] = buffers
        self.bytes += buffer.nbytes
        while self.bytes > _MOST_BYTES:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        key = next(iter(self.idle))
        if self.idle[key]:
            self.bytes -= self.idle[key].pop().nbytes
        else:
            del self.idle[key]


_POOL = _Pool()


class Lease:
    """A buffer that goes back to the pool when the last reference to the lease is gone.

    Attributes:
        tensor: the uninitialised buffer in the requested shape.
    """

    def __init__(self, shape: tuple[int, ...], like: Tensor) -> None:
        self._key: _Key | None = None
        if like.device.type != "cpu":  # on other devices torch's own allocator keeps blocks
            self.tensor = like.new_empty(shape)
            return
        self._key = math.prod(shape), like.dtype
        self._buffer = _POOL.take(self._key)
        self.tensor = self._buffer.view(shape)

    def __del__(self) -> None:
        if self._key is not None:
            _POOL.give_back(self._key, self._buffer)


def lease(shape: tuple[int, ...], like: Tensor) -> Lease:
    """Lend an uninitialised buffer of this shape, on the device and of the type of ``like``.

    >>> lease((2, 3), torch.zeros(())).tensor.shape
    torch.Size([2, 3])
    """
    return Lease(shape, like)
