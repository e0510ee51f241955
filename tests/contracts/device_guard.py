"""A device that needs no hardware: it refuses what CUDA refuses, and counts how often the host waits for it.

A tensor on :data:`DEVICE` holds an ordinary tensor, on which all arithmetic is done. PyTorch itself takes it for one of
a device without kernels of its own, so that ``x.device``, ``x.to(DEVICE)``, ``torch.zeros(3, device=DEVICE)``,
``torch.set_default_device(DEVICE)`` and autograd are what they are on any other device. All operations inside of
``with DeviceGuard() as guard:`` pass through the guard, which

* raises a :class:`DeviceError` where tensors of two devices meet, unless CUDA takes them too: scalars on the CPU in
  elementwise operations, and indices on the CPU;
* raises it where a generator on the CPU draws numbers on the device, or NumPy is given a tensor there;
* counts in ``guard.waits``, place by place, the operations whose result the host needs before it can go on: ``.item()``
  and its likes, copies to the CPU, and results whose size depends on values.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("lazy")
"""A device that PyTorch knows, for which no kernels are loaded, and whose backward pass runs in the calling thread."""

_CPU = torch.device("cpu")
# Results that the host has to look at, or whose size depends on values; those of `index` with masks are told apart.
_WAITING = set(
    "_is_all_true _is_any_true _linalg_check_errors _local_scalar_dense _unique2 allclose bincount equal is_nonzero "
    "linalg_cholesky linalg_eigvals linalg_inv linalg_solve masked_select nonzero repeat_interleave unique_consecutive "
    "unique_dim unique_dim_consecutive".split()
)
_INDEXING = {"_index_put_impl_", "index", "index_put", "index_put_"}
_COPIES = {"_to_copy", "copy_"}
_FILLING = {"fill", "fill_", "index_fill", "index_fill_", "masked_fill", "masked_fill_", "where"}


class DeviceError(RuntimeError):
    """An operation that CUDA would refuse."""


class OnDevice(torch.Tensor):
    """A tensor on :data:`DEVICE`.

    Args:
        held: the values, on the CPU.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise DeviceError(f"{func} of a tensor on the device, outside of a guard")

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, new):
        if not isinstance(new, OnDevice):
            raise DeviceError(f"data on {new.device} given to a tensor on {DEVICE}")
        self.held = new.held

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def __reduce_ex__(self, protocol):
        return _restored, (self.held.detach(), self.requires_grad, isinstance(self, torch.nn.Parameter))

    def __repr__(self, **_):
        return f"on_device({self.held})"


def _restored(held, requires_grad, is_parameter):
    made = OnDevice(held)
    return torch.nn.Parameter(made, requires_grad) if is_parameter else made.requires_grad_(requires_grad)


class _Uncounted(TorchFunctionMode):
    """Leaves out the checks of values that ``one_hot`` makes on all devices but those it knows."""

    def __init__(self, guard):
        super().__init__()
        self.guard = guard

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not torch.nn.functional.one_hot:
            return func(*args, **(kwargs or {}))
        num_classes = args[1] if len(args) > 1 else (kwargs or {}).get("num_classes", -1)
        counted, self.guard.waits = self.guard.waits, Counter()
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.guard.waits = counted
            if num_classes == -1:
                self.guard.note()


@contextlib.contextmanager
def _as_on_cuda():
    """Let modules keep their parameters when moved, and ``torch.tensor`` fill the CPU's memory before the device's."""
    swaps, lifts = torch.__future__.get_swap_module_params_on_conversion(), torch._C._only_lift_cpu_tensors()
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        torch._C._set_only_lift_cpu_tensors(lifts)


class DeviceGuard(TorchDispatchMode):
    """Watches over the operations inside of it.

    Attributes:
        waits: how often the host had to wait for the device, by place: ``"ops.sinkhorn._solve"``.
    """

    def __init__(self):
        super().__init__()
        self.waits = Counter()
        self._within = contextlib.ExitStack()

    def __enter__(self):
        super().__enter__()
        self._within.enter_context(_Uncounted(self))
        self._within.enter_context(_as_on_cuda())
        return self

    def __exit__(self, *error):
        self._within.close()
        super().__exit__(*error)

    def note(self):
        """Count one wait."""
        self.waits[_place()] += 1

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counter]:
        """Count the waits of a block by themselves."""
        outer, self.waits = self.waits, Counter()
        try:
            yield self.waits
        finally:
            outer.update(self.waits)
            self.waits = outer

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kind, owners, here = _kind(func), {}, []
        plain = [_held(x, owners, here) for x in args]
        options = {key: _held(x, owners, here) for key, x in kwargs.items()} if kwargs else {}
        on_device = bool(owners)
        if options.get("device") is not None:
            on_device = options["device"].type == DEVICE.type
            options["device"] = _CPU
        if on_device and options.get("generator") is not None:
            raise DeviceError(f"{func}: a generator on the cpu cannot draw on {DEVICE}, in {_place()}")
        if owners and here:
            on_device = self._met(func, kind, args, here)
        if owners and _waits(func, kind, args, on_device):
            self.note()
        out = func(*plain, **options)
        return _returned(out, owners) if on_device else out

    def _met(self, func, kind, args, here):
        """Return whether the result of tensors of both devices is on the device; raise an error if CUDA would."""
        first = args[0]
        if kind.name in _COPIES:
            return isinstance(first, OnDevice)
        if kind.name in _INDEXING and isinstance(first, OnDevice):
            return self._refuse(func, here) if any(_is_big(x) for x in args[2:3]) else True
        if any(x.dim() for x in here) or not kind.takes_scalars:
            self._refuse(func, here)
        if kind.is_mutable and not isinstance(first, OnDevice):
            self._refuse(func, here)
        return True

    @staticmethod
    def _refuse(func, here):
        raise DeviceError(
            f"{func} of tensors on {DEVICE} and on the cpu {[tuple(x.shape) for x in here]}, in {_place()}"
        )


class _Kind(NamedTuple):
    """What the guard needs to know of an operation: asking the operation itself takes longer."""

    name: str
    is_mutable: bool
    takes_scalars: bool


@functools.cache
def _kind(func):
    name = func._schema.name.partition("::")[2]
    return _Kind(name, func._schema.is_mutable, torch.Tag.pointwise in func.tags or name in _FILLING)


def _is_big(x):
    return isinstance(x, torch.Tensor) and not isinstance(x, OnDevice) and x.dim() > 0


def _waits(func, kind, args, on_device):
    name = kind.name
    if name in _COPIES:
        return not on_device and isinstance(args[1 if name == "copy_" else 0], OnDevice)
    if name in _INDEXING:
        return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    return name in _WAITING and func is not torch.ops.aten.repeat_interleave.self_int


def _held(x, owners, here):
    """Return what is held by an argument; note tensors on the device among ``owners``, by what they hold."""
    if isinstance(x, torch.Tensor):
        if isinstance(x, OnDevice):
            owners[id(x.held)] = x
            return x.held
        here.append(x)
    elif isinstance(x, (list, tuple)):
        return [_held(each, owners, here) for each in x]
    return x


def _returned(x, owners):
    if isinstance(x, (list, tuple)):
        return type(x)(_returned(each, owners) for each in x)
    if not isinstance(x, torch.Tensor):
        return x
    owner = owners.get(id(x))
    if owner is None:
        return OnDevice(x)
    if owner.shape != x.shape:
        raise NotImplementedError(f"the guard does not follow a change of shape in place, in {_place()}")
    return owner


def _place():
    """Return module and function of the innermost frame that is neither PyTorch's nor this file's."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if "/torch/" not in path and path != __file__ and not path.startswith("<"):
            module = Path(path).with_suffix("").as_posix()
            for before in ("/site-packages/", "/pyro_ext/"):
                module = module.rpartition(before)[2]
            return f"{module.replace('/', '.')}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "?"
