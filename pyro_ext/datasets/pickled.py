"""Numbers, lists, arrays and sparse matrices out of pickles, which are read as data: nothing of them is ever run.

A pickle is a program for a small machine with a stack, which can call any function that can be imported. The machine
here has no way to call or import anything. It knows those instructions that numbers and containers need, and takes
a dozen names (``numpy.ndarray``, ``scipy.sparse.csr_matrix``, ``collections.defaultdict``, ...) as labels of what it
makes itself; whatever else a file asks for, it refuses. Work and memory are in proportion to the size of the file, and
the number of instructions is bounded.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyro_ext.utils.packed import unpacked

__all__ = ["StoredMatrix", "read_pickle"]

_MOST_BYTES = 2**28
_MOST_INSTRUCTIONS = 2**24  # each may leave an object of 64 bytes, however few bytes of a packed file it takes
_MOST_PLACES = 2**32
_LONGEST_NUMBER = 40  # characters or bytes
_LARGEST_KEY = 2**60  # integers beyond can be chosen such that all have one hash, and a dict looks through all of them
_LARGEST_DIM = 2**31

_NAMES = {
    "array": "numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct",
    "bytes": "__builtin__.bytes builtins.bytes",
    "csr_matrix": "scipy.sparse.csr.csr_matrix scipy.sparse._csr.csr_matrix",
    "defaultdict": "collections.defaultdict",
    "dtype": "numpy.dtype",
    "encode": "_codecs.encode",
    "frombuffer": "numpy.core.numeric._frombuffer numpy._core.numeric._frombuffer",
    "list": "__builtin__.list builtins.list",
    "ndarray": "numpy.ndarray",
    "object": "__builtin__.object builtins.object",
    "reconstructor": "copy_reg._reconstructor copyreg._reconstructor",
}
_ALLOWED = {name: label for label, names in _NAMES.items() for name in names.split()}


class _Damage(Exception):
    """What is wrong with a file, in words of our own."""


@dataclass(frozen=True)
class StoredMatrix:
    """The parts of a sparse matrix in compressed rows.

    Args:
        data: the values.
        indices: their columns.
        indptr: where the rows begin and the last one ends.
        shape: the numbers of rows and columns.
    """

    data: np.ndarray[Any, Any]
    indices: np.ndarray[Any, Any]
    indptr: np.ndarray[Any, Any]
    shape: tuple[int, int]


@dataclass(frozen=True)
class _Label:
    """A name that a file may mention."""

    name: str


@dataclass
class _Type:
    """The type of an array's numbers."""

    dtype: np.dtype[Any]


@dataclass
class _Made:
    """An array or a matrix, empty until its state is known."""

    kind: str
    value: Any = None


def read_pickle(path: str | Path) -> Any:
    """Read a file that Python 2 or 3 pickled, plain or compressed.

    Args:
        path: the file, of at most 256 MiB when unpacked.

    Returns:
        Numbers, text (bytes where Python 2 wrote it), lists, tuples, dicts, arrays or a :class:`StoredMatrix`.

    Raises:
        ValueError: if the file is damaged, or holds anything else; the message names it.
        OSError: if the file cannot be read.

    Example:
        >>> import pickle, tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write(pickle.dumps({0: [1, 2]}, protocol=2)), file.flush()
        ...     read_pickle(file.name)
        {0: [1, 2]}
    """
    path = Path(path)
    content = bytearray()
    for piece in unpacked(path, 2**20):
        content += piece
        if len(content) > _MOST_BYTES:
            raise ValueError(f"{path}: more than {_MOST_BYTES // 2**20} MiB, which is more than is read here")
    try:
        return _Machine(bytes(content)).run()
    except _Damage as error:
        raise ValueError(f"{path}: {error}") from error


@dataclass
class _Machine:
    """The stack, the marks in it, and what was put aside."""

    content: bytes
    at: int = 0
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    encoded: int = 0  # bytes made of text so far

    def run(self) -> Any:
        for _ in range(_MOST_INSTRUCTIONS):
            code = self.take(1)
            if code == b".":
                return _opened(self.pop())
            own = _INSTRUCTIONS.get(code)
            if own is None:
                raise _Damage(f"instruction {code!r} at byte {self.at - 1} is none that data need; nothing was run")
            own(self)
        raise _Damage(f"more than {_MOST_INSTRUCTIONS:,} instructions, which is more than is read here")

    # Bytes

    def take(self, number: int) -> bytes:
        if number < 0 or self.at + number > len(self.content):
            raise _Damage("the file ends too early; get it again")
        self.at += number
        return self.content[self.at - number : self.at]

    def sized(self, width: int) -> bytes:
        """Take as many bytes as a number before them says."""
        return self.take(int.from_bytes(self.take(width), "little"))

    def line(self) -> bytes:
        end = self.content.find(b"\n", self.at)
        if end < 0:
            raise _Damage("the file ends too early; get it again")
        return self.take(end + 1 - self.at)[:-1]

    # The stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _Damage(f"nothing is on the stack at byte {self.at}; get the file again")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        value = self.pop()
        self.push(value)
        if type(value) is not kind:
            raise _Damage(f"a {kind.__name__} is missing at byte {self.at}; get the file again")
        return value

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise _Damage(f"a mark is missing at byte {self.at}; get the file again")
        begin = self.marks.pop()
        items = self.stack[begin:]
        del self.stack[begin:]
        return items

    def pops(self, number: int) -> list[Any]:
        return [self.pop() for _ in range(number)][::-1]

    # Instructions with more to them

    def put(self, place: int) -> None:
        if not 0 <= place < _MOST_PLACES:
            raise _Damage(f"there is no place {place} to put things aside; get the file again")
        value = self.pop()
        self.push(value)
        self.memo[place] = value

    def get(self, place: int) -> None:
        if place not in self.memo:
            raise _Damage(f"nothing was put aside at place {place}; get the file again")
        self.push(self.memo[place])

    def add(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def set(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise _Damage(f"a value is missing at byte {self.at}; get the file again")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (int, str, bytes):  # hashing nested tuples can take for ever
                raise _Damage(f"a {type(key).__name__} as the key of a dict, where integers and text belong")
            if type(key) is int and abs(key) >= _LARGEST_KEY:
                raise _Damage(f"{key} as the key of a dict, where numbers of things belong; get the file again")
            target[key] = value

    def label(self, module: str, name: str) -> None:
        allowed = _ALLOWED.get(f"{module}.{name}")
        if allowed is None:
            raise _Damage(
                f"it asks for {module[:60]}.{name[:60]}, which is neither a number nor a container; nothing was run"
            )
        self.push(_Label(allowed))

    def stack_label(self) -> None:
        module, name = self.pops(2)
        if type(module) is not str or type(name) is not str:
            raise _Damage(f"a name is missing at byte {self.at}; get the file again")
        self.label(module, name)

    def call(self) -> None:
        made, arguments = self.pops(2)
        if not isinstance(made, _Label) or type(arguments) is not tuple:
            raise _Damage(f"something that is not a name is called at byte {self.at}; nothing was run")
        self.push(self.made(made.name, arguments))

    def made(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Make what a call of an allowed name stands for."""
        first = arguments[0] if arguments else None
        if name == "reconstructor" and arguments == (_Label("csr_matrix"), _Label("object"), None):
            return _Made("csr_matrix")
        if name == "csr_matrix" and not arguments:
            return _Made("csr_matrix")
        if name == "array" and len(arguments) == 3 and first == _Label("ndarray"):
            return _Made("ndarray")
        if name == "dtype" and arguments:
            return _Type(_number_type(first))
        if name == "defaultdict" and arguments in ((), (_Label("list"),)):
            return {}
        if name == "bytes" and not arguments:
            return b""
        if name == "encode" and arguments[1:] == ("latin1",) and type(first) is str:
            return self.encode(first)
        if name == "frombuffer" and len(arguments) == 4:
            raw, kind, shape, order = arguments
            return _Made("ndarray", _array(raw, kind, shape, order == "F"))
        raise _Damage(f"{name} is called at byte {self.at} with arguments that no data have; get the file again")

    def encode(self, text: str) -> bytes:
        self.encoded += len(text)
        if self.encoded > 4 * len(self.content):
            raise _Damage("the same text is used again and again; get the file again")
        try:
            return text.encode("latin1")
        except UnicodeEncodeError as error:
            raise _Damage(f"text before byte {self.at} holds no bytes; get the file again") from error

    def build(self) -> None:
        target, state = self.pops(2)
        if isinstance(target, _Made) and target.value is None:
            target.value = _filled(target.kind, state)
        elif isinstance(target, _Type) and type(state) is tuple and len(state) >= 2:
            order = _text(state[1])
            if order not in ("<", ">", "|", "="):
                raise _Damage(f"an unknown byte order at byte {self.at}; get the file again")
            target.dtype = target.dtype.newbyteorder(order)
        else:
            raise _Damage(f"a state of something that has none at byte {self.at}; get the file again")
        self.push(target)


def _number_type(code: Any) -> np.dtype[Any]:
    text = _text(code)
    if not isinstance(text, str) or not re.fullmatch(r"[biuf][1248]", text) or text in ("f1", "b2", "b4", "b8"):
        shown = repr(text[:20]) if isinstance(text, str) else type(code).__name__  # not all of it: tuples can nest
        raise _Damage(f"an array of {shown}, where numbers belong")
    return np.dtype(text)


def _text(value: Any) -> Any:
    return value.decode("latin1") if type(value) is bytes else value


def _filled(kind: str, state: Any) -> Any:
    """Return the array or the matrix that a state describes."""
    if kind == "ndarray" and type(state) is tuple and len(state) == 5:
        _, shape, dtype, is_fortran, raw = state
        return _array(raw, dtype, shape, bool(is_fortran))
    if kind == "csr_matrix" and type(state) is dict:
        parts = {_text(name): _opened(value) for name, value in state.items()}
        arrays = [parts.get(name) for name in ("data", "indices", "indptr")]
        shape = parts.get("_shape", parts.get("shape"))
        fits = all(isinstance(array, np.ndarray) and array.ndim == 1 for array in arrays)
        sizes = shape if type(shape) is tuple and len(shape) == 2 else ()
        if fits and sizes and all(type(size) is int and 0 <= size < _LARGEST_DIM for size in sizes):
            data, indices, indptr = arrays
            return StoredMatrix(data, indices, indptr, sizes)  # type: ignore[arg-type]
    raise _Damage(f"the parts of a {kind} are incomplete; get the file again")


def _array(raw: Any, kind: Any, shape: Any, is_fortran: bool) -> np.ndarray[Any, Any]:
    if type(raw) is not bytes or not isinstance(kind, _Type) or type(shape) is not tuple:
        raise _Damage("the parts of an array are incomplete; get the file again")
    if len(shape) > 2 or not all(type(size) is int and 0 <= size < _LARGEST_DIM for size in shape):
        raise _Damage(f"an array with {len(shape)} dims, or of a wrong size; get the file again")
    number = int(np.prod(shape, dtype=object)) if shape else 1
    if number * kind.dtype.itemsize != len(raw):
        raise _Damage(f"{len(raw)} bytes for an array of {number} numbers of type {kind.dtype}; get the file again")
    return np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if is_fortran else "C")


def _opened(value: Any) -> Any:
    if isinstance(value, _Made):
        if value.value is None:
            raise _Damage(f"a {value.kind} is incomplete; get the file again")
        return value.value
    if isinstance(value, _Label | _Type):
        raise _Damage("it holds a name alone; get the file again")
    return value


# Text and numbers

_ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"0": b"\0", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


def _integer(text: bytes) -> int:
    if len(text) > _LONGEST_NUMBER or not re.fullmatch(rb"-?[0-9]+L?", text):
        raise _Damage(f"{text[:20]!r} is no integer; get the file again")
    return int(text.rstrip(b"L"))


def _int_line(machine: _Machine) -> None:
    text = machine.line()
    machine.push({b"00": False, b"01": True}[text] if text in (b"00", b"01") else _integer(text))


def _float_line(machine: _Machine) -> None:
    text = machine.line()
    if len(text) > _LONGEST_NUMBER or not re.fullmatch(rb"-?([0-9]+\.?[0-9]*(e[-+]?[0-9]+)?|inf|nan)", text):
        raise _Damage(f"{text[:20]!r} is no number; get the file again")
    machine.push(float(text))


def _long(machine: _Machine, width: int) -> None:
    raw = machine.sized(width)
    if len(raw) > _LONGEST_NUMBER:
        raise _Damage(f"an integer of {len(raw)} bytes; get the file again")
    machine.push(int.from_bytes(raw, "little", signed=True))


def _string_line(machine: _Machine) -> None:
    text = machine.line()
    if len(text) < 2 or text[:1] not in (b"'", b'"') or text[-1:] != text[:1]:
        raise _Damage(f"text without quotes before byte {machine.at}; get the file again")

    def replaced(match: re.Match[bytes]) -> bytes:
        sign = match[1]
        return bytes([int(sign[1:], 16)]) if len(sign) == 3 else _ESCAPES.get(sign, sign)

    machine.push(re.sub(rb"\\(x[0-9a-fA-F]{2}|.)", replaced, text[1:-1]))


def _utf8(machine: _Machine, raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise _Damage(f"text before byte {machine.at} is no UTF-8; get the file again") from error


def _unicode_line(machine: _Machine) -> None:
    try:
        machine.push(machine.line().decode("raw-unicode-escape"))
    except UnicodeDecodeError as error:
        raise _Damage(f"text before byte {machine.at} is damaged; get the file again") from error


def _ascii(raw: bytes) -> str:
    return raw.decode("latin1")


def _new_object(machine: _Machine) -> None:
    kind, arguments = machine.pops(2)
    if kind != _Label("csr_matrix") or arguments != ():
        raise _Damage(f"an object other than a sparse matrix at byte {machine.at}; nothing was run")
    machine.push(_Made("csr_matrix"))


def _unsigned(width: int) -> Any:
    return lambda machine: machine.push(int.from_bytes(machine.take(width), "little"))


def _index(machine: _Machine, width: int) -> int:
    return int.from_bytes(machine.take(width), "little")


def _list(machine: _Machine) -> None:
    machine.push(machine.pop_mark())


def _dict(machine: _Machine) -> None:
    items = machine.pop_mark()
    machine.push({})
    machine.set(items)


_INSTRUCTIONS: dict[bytes, Any] = {
    b"\x80": lambda m: m.take(1),  # protocol
    b"\x95": lambda m: m.take(8),  # length of a frame
    b"(": lambda m: m.marks.append(len(m.stack)),
    # numbers
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": _int_line,
    b"L": lambda m: m.push(_integer(m.line())),
    b"J": lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
    b"K": _unsigned(1),
    b"M": _unsigned(2),
    b"\x8a": lambda m: _long(m, 1),
    b"\x8b": lambda m: _long(m, 4),
    b"F": _float_line,
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    # text
    b"S": _string_line,
    b"T": lambda m: m.push(m.sized(4)),
    b"U": lambda m: m.push(m.sized(1)),
    b"B": lambda m: m.push(m.sized(4)),
    b"C": lambda m: m.push(m.sized(1)),
    b"\x8e": lambda m: m.push(m.sized(8)),
    b"\x96": lambda m: m.push(m.sized(8)),
    b"V": _unicode_line,
    b"X": lambda m: m.push(_utf8(m, m.sized(4))),
    b"\x8c": lambda m: m.push(_utf8(m, m.sized(1))),
    b"\x8d": lambda m: m.push(_utf8(m, m.sized(8))),
    # containers
    b"]": lambda m: m.push([]),
    b"l": _list,
    b"a": lambda m: m.add([m.pop()]),
    b"e": lambda m: m.add(m.pop_mark()),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.pop_mark())),
    b"\x85": lambda m: m.push(tuple(m.pops(1))),
    b"\x86": lambda m: m.push(tuple(m.pops(2))),
    b"\x87": lambda m: m.push(tuple(m.pops(3))),
    b"}": lambda m: m.push({}),
    b"d": _dict,
    b"s": lambda m: m.set(m.pops(2)),
    b"u": lambda m: m.set(m.pop_mark()),
    # what was put aside
    b"p": lambda m: m.put(_integer(m.line())),
    b"q": lambda m: m.put(_index(m, 1)),
    b"r": lambda m: m.put(_index(m, 4)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.get(_integer(m.line())),
    b"h": lambda m: m.get(_index(m, 1)),
    b"j": lambda m: m.get(_index(m, 4)),
    # names, and what stands for calls of them
    b"c": lambda m: m.label(_ascii(m.line()), _ascii(m.line())),
    b"\x93": _Machine.stack_label,
    b"R": _Machine.call,
    b"\x81": _new_object,
    b"b": _Machine.build,
}
