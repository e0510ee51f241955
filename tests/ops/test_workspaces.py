"""Buffers that are lent again: the same memory, never twice at once, and not more of it than the bound."""

import torch

from pyro_ext.ops import _workspaces
from pyro_ext.ops._workspaces import lease

LIKE = torch.zeros((), dtype=torch.float64)


def test_memory_is_lent_again_but_not_twice_at_once(monkeypatch):
    monkeypatch.setattr(_workspaces, "_POOL", _workspaces._Pool())
    first, second = lease((3, 4), LIKE), lease((3, 4), LIKE)
    places = {x.tensor.data_ptr() for x in (first, second)}
    assert len(places) == 2
    del first, second
    again = [lease((4, 3), LIKE), lease((12,), LIKE), lease((12,), LIKE.float())]
    assert {x.tensor.data_ptr() for x in again[:2]} == places
    assert again[2].tensor.dtype == torch.float32


def test_buffers_unused_for_longest_make_room(monkeypatch):
    pool = _workspaces._Pool()
    monkeypatch.setattr(_workspaces, "_POOL", pool)
    monkeypatch.setattr(_workspaces, "_MOST_BYTES", 100 * 8)
    for size in (30, 40, 30, 50):  # the last one needs the room of the 40, now the oldest
        lease((size,), LIKE)
    assert {key[0]: len(buffers) for key, buffers in pool.idle.items() if buffers} == {30: 1, 50: 1}
    assert pool.bytes == 80 * 8
    lease((101,), LIKE)
    assert pool.bytes == 80 * 8  # too large to keep


def test_buffers_lent_in_inference_mode_may_be_used_outside(monkeypatch):
    monkeypatch.setattr(_workspaces, "_POOL", _workspaces._Pool())
    with torch.inference_mode():
        lease((5,), LIKE)
    assert not lease((5,), LIKE).tensor.is_inference()


def test_buffers_are_where_the_tensor_is_whatever_the_default_device(monkeypatch):
    monkeypatch.setattr(_workspaces, "_POOL", _workspaces._Pool())
    with torch.device("meta"):
        lease((5,), LIKE)
    assert lease((5,), LIKE).tensor.device.type == "cpu"
