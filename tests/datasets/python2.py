"""Pickles as Python 2 wrote them: text is bytes, and old names of modules. Protocols 0 and 2."""

import collections
import struct

import numpy as np
import scipy.sparse


def pickled(value, protocol):
    return (b"\x80\x02" if protocol == 2 else b"") + _emit(value, protocol) + b"."


def _emit(value, protocol):
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return (b"\x88" if value else b"\x89") if protocol == 2 else b"I01\n" if value else b"I00\n"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value) if protocol == 2 else b"I%d\n" % value
    if isinstance(value, (bytes, str)):
        raw = value.encode("latin1") if isinstance(value, str) else value
        if protocol == 2:
            return (b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))) + raw
        shown = repr(raw)[1:]
        return b"S" + shown.encode("latin1") + b"\n"
    if isinstance(value, tuple):
        return b"(" + b"".join(_emit(part, protocol) for part in value) + b"t"
    if isinstance(value, list):
        parts = [_emit(part, protocol) for part in value]
        if protocol == 2:
            return b"](" + b"".join(parts) + b"e"
        return b"(l" + b"".join(part + b"a" for part in parts)
    if isinstance(value, dict):
        begin = (
            b"ccollections\ndefaultdict\n(c__builtin__\nlist\ntR"
            if isinstance(value, collections.defaultdict)
            else b"}"
        )
        return begin + b"(" + b"".join(_emit(k, protocol) + _emit(v, protocol) for k, v in value.items()) + b"u"
    if isinstance(value, np.ndarray):
        dtype = b"cnumpy\ndtype\n(" + _emit(value.dtype.str[1:], protocol) + b"I0\nI1\ntR("
        dtype += b"".join(_emit(part, protocol) for part in (3, "<", None, None, None, -1, -1, 0)) + b"tb"
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\nt" + _emit("b", protocol) + b"tR"
        state = b"(" + _emit(1, protocol) + _emit(value.shape, protocol) + dtype + _emit(False, protocol)
        return made + state + _emit(value.tobytes(), protocol) + b"tb"
    if isinstance(value, scipy.sparse.csr_matrix):
        if protocol == 2:
            made = b"cscipy.sparse.csr\ncsr_matrix\n)\x81"
        else:
            made = b"ccopy_reg\n_reconstructor\n(cscipy.sparse.csr\ncsr_matrix\nc__builtin__\nobject\nNtR"
        state = {"_shape": tuple(map(int, value.shape)), "maxprint": 50, "data": value.data, "indices": value.indices}
        return made + _emit(state | {"indptr": value.indptr}, protocol) + b"b"
    raise TypeError(type(value))
