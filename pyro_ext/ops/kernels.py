"""Which program runs the innermost loops: functions compiled by Numba, or plain PyTorch.

The two give the same numbers to rounding. Compiled kernels serve tensors on the CPU where Numba can be imported (``pip
install 'pyro-ext[fast]'``); PyTorch serves everything else: other devices, second derivatives, and machines without
Numba. A kernel is compiled when it is first called, which takes seconds, and its machine code is kept on the disk where
that can be written (``NUMBA_CACHE_DIR`` names another folder), so that later processes start at once.

Kernels run with the number of threads that :func:`torch.get_num_threads` gives.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pyro_ext.utils.checks import one_of

__all__ = ["Kernels", "kernels", "set_kernels"]

Kernels = Literal["auto", "numba", "torch"]

_VARIABLE = "PYRO_EXT_KERNELS"
_choice: Kernels | None = None  # None: not chosen in this process, the environment decides


@cache
def _numba_is_there() -> bool:
    return find_spec("numba") is not None


def _chosen() -> Kernels:
    if _choice is not None:
        return _choice
    return _checked(os.environ.get(_VARIABLE, "auto"), f"the environment variable {_VARIABLE}")


def _checked(choice: str, name: str) -> Kernels:
    one_of(name, choice, get_args(Kernels))
    if choice == "numba" and not _numba_is_there():
        raise ValueError(f"{name} is 'numba', which is not installed: run pip install 'pyro-ext[fast]', or use 'auto'")
    return choice  # type: ignore[return-value]  # checked above


def set_kernels(choice: Kernels) -> None:
    """Choose for the whole process which program runs the innermost loops.

    Args:
        choice: ``"auto"`` for compiled kernels where Numba is installed (the default), ``"numba"`` for the same and an
            error where it is not, ``"torch"`` for PyTorch everywhere. Without a call, the environment variable
            ``PYRO_EXT_KERNELS`` decides in the same words.

    Raises:
        ValueError: if the choice is unknown, or Numba is asked for and not installed.

    Example:
        >>> set_kernels("torch")
        >>> set_kernels("auto")
    """
    global _choice
    _choice = _checked(choice, "choice")


@contextmanager
def kernels(choice: Kernels) -> Iterator[None]:
    """Choose as :func:`set_kernels` does, inside of a ``with`` block only.

    Args:
        choice: ``"auto"``, ``"numba"`` or ``"torch"``.

    Raises:
        ValueError: if the choice is unknown, or Numba is asked for and not installed.

    Example:
        >>> from pyro_ext.ops.birkhoff import break_sticks
        >>> half = torch.full((1, 1), 0.5)
        >>> with kernels("torch"):
        ...     matrix, _ = break_sticks(half, half)
        >>> matrix
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    global _choice
    before = _choice
    set_kernels(choice)
    try:
        yield
    finally:
        _choice = before


def use_kernels(*tensors: Tensor) -> bool:
    """Return whether a compiled kernel serves these tensors."""
    return _chosen() != "torch" and _numba_is_there() and are_at_hand(*tensors)


def are_at_hand(*tensors: Tensor) -> bool:
    """Return whether values can be looked at without a wait: on the CPU, with storage of their own, not traced."""
    if torch.compiler.is_compiling():
        return False
    return all(t.device.type == "cpu" and type(t) in (Tensor, torch.nn.Parameter) for t in tensors) and not (
        torch._C._functorch.peek_interpreter_stack()  # vmap, grad and jvp wrap their tensors
    )


def compiled(function: Callable[..., Any] | None = None, *, reassociate: bool = False) -> Callable[..., Any]:
    """Compile a function by Numba, without the interpreter's lock; for modules that are imported at the first call.

    The kernel's machine code is kept on the disk where a folder for it can be written. Threads come from
    :func:`in_threads`, never from Numba, whose thread pools do not survive a fork. Without Numba the function comes
    back as it is, so that its module can be imported everywhere.

    Args:
        function: what to compile; without it, a decorator with the chosen options comes back.
        reassociate: whether sums may be taken in another order and products be fused with them, as sums in vector
            registers need.
    """
    if function is None:
        return partial(compiled, reassociate=reassociate)
    if not _numba_is_there():
        return function
    import numba

    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    if reassociate:
        settings["fastmath"] = {"reassoc", "contract"}
    try:
        return numba.njit(cache=True, **settings)(function)
    except RuntimeError:  # there is no folder that can be written
        return numba.njit(**settings)(function)


@contextmanager
def one_process_at_a_time() -> Iterator[None]:
    """Hold a lock of this user while kernels are compiled: processes that wait for it find the results on the disk."""
    try:
        import fcntl

        path = os.path.join(tempfile.gettempdir(), f"pyro-ext-kernels-{os.getuid()}.lock")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (ImportError, OSError):  # not every system has such locks, and all goes well without
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def in_threads(function: Callable[[int, int], None], size: int, *, smallest: int = 1) -> None:
    """Call ``function(start, stop)`` for consecutive parts of ``range(size)``, in as many threads as PyTorch uses.

    Args:
        function: writes its results into arrays of its own; called once per thread, with parts of nearly equal size.
        size: the number of items.
        smallest: the smallest number of items that is worth a thread.
    """
    parts = max(1, min(torch.get_num_threads(), size // max(smallest, 1)))
    bounds: Sequence[int] = [part * size // parts for part in range(parts + 1)]
    if parts == 1:
        function(0, size)
        return
    with ThreadPoolExecutor(parts) as pool:
        for call in [pool.submit(function, start, stop) for start, stop in pairwise(bounds)]:
            call.result()
