"""Both passes of pruning as one compiled function: block by block of sites, whose messages stay in the cache.

Imported at the first call, as Numba is. A row holds one number for each of ``BLOCK`` sites, so that every loop
over sites compiles to vector instructions. All numbers in between lie in one array, the room:

* ``(n, A)`` rows for the observations at the leaves;
* for each category of rates, whose mixture a tree is,

  * ``(I, A)`` rows for the likelihood U of what is observed below each node; on the way down, the gradient in it;
  * ``(N, A)`` rows for the message V of each node;
  * a row for each internal node, the powers of two by which its U was multiplied;
  * a row for their exponents, and one for the likelihood of the sites;

* A rows for the gradient in a message.

Places are unsigned where loops run over sites: signed ones could count from the end, which hinders vector instructions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyro_ext.ops.kernels import compiled

__all__ = ["BLOCK", "children_of", "passes", "rows_of_room"]

BLOCK = 128
_LANES = 32  # the sites of a block are filled up to a multiple of it, so that loops have no remainder
_1, _2, _3, _4 = (np.uint64(row * BLOCK) for row in (1, 2, 3, 4))

_Array = np.ndarray[Any, np.dtype[Any]]


def rows_of_room(num_nodes: int, num_taxa: int, num_states: int, num_categories: int) -> int:
    """Return how many rows of ``BLOCK`` numbers :func:`passes` needs room for."""
    return (num_taxa + 1) * num_states + num_categories * _rows_of_category(num_nodes, num_taxa, num_states)


@compiled
def _rows_of_category(num_nodes: int, num_taxa: int, num_states: int) -> int:
    num_internal = num_nodes - num_taxa
    return (num_internal + num_nodes) * num_states + num_internal + 2


@compiled
def children_of(parents: _Array, num_taxa: int, children: _Array) -> bool:
    """Write the two children of all internal nodes, int64 ``(M, I, 2)``; False where a tree is not in preorder."""
    num_trees, num_nodes = parents.shape
    root = num_taxa if num_nodes % 2 == 1 else 0
    top = 1 if num_nodes == 2 else num_taxa  # the only child of a root that is a leaf
    count = np.zeros(num_nodes, np.int64)
    for tree in range(num_trees):
        count[:] = 0
        for node in range(num_nodes):
            above = parents[tree, node]
            if node == root:
                if above != -1:
                    return False
            elif root == 0 and node == top:
                if above != 0:
                    return False
            else:
                if above < num_taxa or above >= num_nodes or count[above] == 2:
                    return False
                if node > num_taxa:
                    before = node - 1
                    while before > above:
                        before = parents[tree, before]
                    if before != above:
                        return False
                children[tree, above - num_taxa, count[above]] = node
                count[above] += 1
    return True  # every place is taken: there are as many as nodes below internal nodes


@compiled(reassociate=True)
def _multiply(
    room: _Array, out: int, matrices: _Array, at: int, down: int, across: int, source: int, states: int, width: int
) -> None:
    """Multiply the rows at ``source`` by the matrix at ``at``, whose entries lie ``down`` and ``across`` apart."""
    for i in range(0, states, 2):
        o = np.uint64((out + i) * BLOCK)
        for j in range(0, states, 4):
            m = at + i * down + j * across
            u = np.uint64((source + j) * BLOCK)
            n = m + down
            p0 = matrices[m]
            p1 = matrices[m + across]
            p2 = matrices[m + 2 * across]
            p3 = matrices[m + 3 * across]
            q0 = matrices[n]
            q1 = matrices[n + across]
            q2 = matrices[n + 2 * across]
            q3 = matrices[n + 3 * across]
            if j == 0:
                for s in range(np.uint64(width)):
                    u0 = room[u + s]
                    u1 = room[u + _1 + s]
                    u2 = room[u + _2 + s]
                    u3 = room[u + _3 + s]
                    room[o + s] = p0 * u0 + p1 * u1 + p2 * u2 + p3 * u3
                    room[o + _1 + s] = q0 * u0 + q1 * u1 + q2 * u2 + q3 * u3
            else:
                for s in range(np.uint64(width)):
                    u0 = room[u + s]
                    u1 = room[u + _1 + s]
                    u2 = room[u + _2 + s]
                    u3 = room[u + _3 + s]
                    room[o + s] += p0 * u0 + p1 * u1 + p2 * u2 + p3 * u3
                    room[o + _1 + s] += q0 * u0 + q1 * u1 + q2 * u2 + q3 * u3


@compiled(reassociate=True)
def _join(room: _Array, out: int, first: int, second: int, states: int, width: int, largest: int) -> float:
    """Multiply rows; return the least of the sites' largest entries, which are put into the row ``largest``."""
    m, zero = np.uint64(largest * BLOCK), room.dtype.type(0)
    for i in range(0, states, 4):
        o, x, y = np.uint64((out + i) * BLOCK), np.uint64((first + i) * BLOCK), np.uint64((second + i) * BLOCK)
        for s in range(np.uint64(width)):
            a = room[x + s] * room[y + s]
            b = room[x + _1 + s] * room[y + _1 + s]
            c = room[x + _2 + s] * room[y + _2 + s]
            d = room[x + _3 + s] * room[y + _3 + s]
            room[o + s] = a
            room[o + _1 + s] = b
            room[o + _2 + s] = c
            room[o + _3 + s] = d
            a = a if a > b else b
            c = c if c > d else d
            a = a if a > c else c
            before = room[m + s] if i > 0 else zero
            room[m + s] = a if a > before else before
    least = room[m]
    for s in range(np.uint64(width)):
        a = room[m + s]
        least = a if a < least else least
    return least


@compiled(reassociate=True)
def _scale(room: _Array, bits: _Array, at: int, factor: int, total: int, states: int, width: int) -> None:
    """Multiply rows by powers of two which bring the numbers in the row ``factor``, their largest, into [1, 2).

    The row ``factor`` becomes that of the powers; the exponents taken away are added up in the row ``total``. They are
    read from the bits of the numbers: powers of two change no digit.
    """
    f, t = np.uint64(factor * BLOCK), np.uint64(total * BLOCK)
    digits, bias = (23, 127) if room.itemsize == 4 else (52, 1023)
    for s in range(np.uint64(width)):
        exponent = bits[f + s] >> digits
        exponent = exponent if exponent > 1 else 1  # zeros stay zeros
        exponent = exponent if exponent < 2 * bias - 1 else 2 * bias - 1
        bits[t + s] += exponent - bias
        bits[f + s] = (2 * bias - exponent) << digits
    _multiply_all(room, at, factor, states, width)


@compiled(reassociate=True)
def _multiply_all(room: _Array, at: int, factor: int, states: int, width: int) -> None:
    f = np.uint64(factor * BLOCK)
    for i in range(0, states, 4):
        o = np.uint64((at + i) * BLOCK)
        for s in range(np.uint64(width)):
            x = room[f + s]
            room[o + s] *= x
            room[o + _1 + s] *= x
            room[o + _2 + s] *= x
            room[o + _3 + s] *= x


@compiled(reassociate=True)
def _descend(
    gradients: _Array, at: int, room: _Array, out: int, above: int, sibling: int, below: int, states: int, width: int
) -> None:
    """Multiply the gradient above by the sibling's message; add its products with what is below, summed over sites."""
    zero = room.dtype.type(0)
    for i in range(0, states, 2):
        o, v, w = np.uint64((out + i) * BLOCK), np.uint64((above + i) * BLOCK), np.uint64((sibling + i) * BLOCK)
        for j in range(0, states, 4):
            u, g, h = np.uint64((below + j) * BLOCK), at + i * states + j, at + (i + 1) * states + j
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = zero
            for s in range(np.uint64(width)):
                a = room[v + s] * room[w + s]
                b = room[v + _1 + s] * room[w + _1 + s]
                room[o + s] = a
                room[o + _1 + s] = b
                u0 = room[u + s]
                u1 = room[u + _1 + s]
                u2 = room[u + _2 + s]
                u3 = room[u + _3 + s]
                a0 += a * u0
                a1 += a * u1
                a2 += a * u2
                a3 += a * u3
                b0 += b * u0
                b1 += b * u1
                b2 += b * u2
                b3 += b * u3
            gradients[g] += a0
            gradients[g + 1] += a1
            gradients[g + 2] += a2
            gradients[g + 3] += a3
            gradients[h] += b0
            gradients[h + 1] += b1
            gradients[h + 2] += b2
            gradients[h + 3] += b3


@compiled
def _copy_tips(
    room: _Array,
    tips: _Array,
    by_state: bool,
    leaf: int,
    start: int,
    sites: int,
    width: int,
    num_sites: int,
    states: int,
) -> None:
    """Copy a block of observations of a leaf; the last site fills the places that are left."""
    last = np.uint64(sites - 1)
    for j in range(states):
        u = np.uint64((leaf * states + j) * BLOCK)
        if by_state:
            t = np.uint64((leaf * states + j) * num_sites + start)
            for s in range(np.uint64(sites)):
                room[u + s] = tips[t + s]
        else:
            t, apart = np.uint64((leaf * num_sites + start) * states + j), np.uint64(states)
            for s in range(np.uint64(sites)):
                room[u + s] = tips[t + apart * s]
        for s in range(np.uint64(sites), np.uint64(width)):
            room[u + s] = room[u + last]


@compiled
def _mix(
    room: _Array, bits: _Array, first: int, apart: int, probs: _Array, likelihood: _Array, exponents: _Array
) -> None:
    """Write the likelihoods of a block of sites, mixed over categories by ``probs``, over powers of two.

    The exponents of the first category are in the row ``first``, its likelihoods in the row behind; those of the
    others follow ``apart`` rows from each other.
    """
    zero = room.dtype.type(0)
    if len(probs) == 1:
        b, z = np.uint64(first * BLOCK), np.uint64((first + 1) * BLOCK)
        for s in range(np.uint64(len(likelihood))):
            likelihood[s] = probs[0] * room[z + s]
            exponents[s] = bits[b + s]
        return
    for s in range(len(likelihood)):
        at, largest = first * BLOCK + s, np.int64(0)
        possible, total = False, zero
        for _ in range(len(probs)):
            if room[at + BLOCK] > zero and (not possible or bits[at] > largest):
                possible, largest = True, np.int64(bits[at])
            at += apart * BLOCK
        at = first * BLOCK + s
        for c in range(len(probs)):
            if room[at + BLOCK] > zero:
                total += probs[c] * room[at + BLOCK] * _power(room, bits[at] - largest)
            at += apart * BLOCK
        likelihood[s], exponents[s] = total, largest


@compiled
def _weigh(
    room: _Array,
    bits: _Array,
    first: int,
    apart: int,
    probs: _Array,
    likelihood: _Array,
    exponents: _Array,
    weights: _Array,
    gradients: _Array,
    width: int,
) -> None:
    """Put the gradients in likelihoods of categories in their place, and add those in ``probs`` to ``gradients``.

    Impossible sites have none, as in logarithms, and places without a site have none either.
    """
    zero, one, sites = room.dtype.type(0), room.dtype.type(1), len(likelihood)
    alone = len(probs) == 1
    for c in range(len(probs)):
        at, total = (first + c * apart) * BLOCK, zero
        for s in range(width):
            value, gradient = room[at + BLOCK + s], zero
            if s < sites and value > zero and likelihood[s] > zero:
                power = one if alone else _power(room, bits[at + s] - np.int64(exponents[s]))
                gradient = weights[s] / likelihood[s] * power
                total += gradient * value
            room[at + BLOCK + s] = probs[c] * gradient
        gradients[c] += total


@compiled
def _power(room: _Array, exponent: int) -> float:
    """Return a power of two, in the type of the room."""
    return room.dtype.type(1) if exponent == 0 else room.dtype.type(math.ldexp(1.0, exponent))


@compiled(reassociate=True)
def _to_root(
    room: _Array,
    bits: _Array,
    children: _Array,
    edges: _Array,
    first_edge: int,
    roots: _Array,
    num_taxa: int,
    shift: int,
    width: int,
    smallest: float,
    scaled: _Array,
) -> None:
    """Pass from the leaves of a tree to its root; ``shift`` is where the rows of its category begin."""
    num_internal, states, unit = len(children), len(roots), np.int64(1)
    num_nodes, rooted, size = num_taxa + num_internal, num_internal == num_taxa - 1, states * states
    root, top = num_taxa if rooted else 0, num_taxa if num_internal > 0 else 1
    highest = -1 if rooted else -2  # taxon 0 as the root counts as an internal node with one child
    messages = num_nodes * states + shift
    factors = messages + num_nodes * states
    total = factors + num_internal
    z, b = np.uint64((total + 1) * BLOCK), np.uint64(total * BLOCK)
    for s in range(np.uint64(width)):
        bits[b + s] = 0
        room[z + s] = room.dtype.type(0)
    for i in range(num_internal - 1, highest, -1):
        for k in range(2 if i >= 0 else 1):
            child = children[i, k] if i >= 0 else top
            edge, row = first_edge + (child - (child > root)) * size, child * states
            below = row + (shift if child >= num_taxa else 0)
            _multiply(room, messages + row, edges, edge, states, unit, below, states, width)
        if i >= 0:
            row = (num_taxa + i) * states + shift
            x, y = messages + children[i, 0] * states, messages + children[i, 1] * states
            scaled[i] = _join(room, row, x, y, states, width, factors + i) < smallest
            if scaled[i]:
                _scale(room, bits, row, factors + i, total, states, width)
    ending = top * states + shift if rooted else messages + top * states  # what the root's probabilities weigh
    for k in range(states):
        prior, x, y = roots[k], np.uint64((ending + k) * BLOCK), np.uint64(k * BLOCK)
        for s in range(np.uint64(width)):
            room[z + s] += prior * room[x + s] if rooted else prior * room[y + s] * room[x + s]


@compiled(reassociate=True)
def _to_leaves(
    room: _Array,
    children: _Array,
    edges: _Array,
    edge_gradients: _Array,
    first_edge: int,
    roots: _Array,
    root_gradients: _Array,
    num_taxa: int,
    shift: int,
    own: int,
    width: int,
    scaled: _Array,
) -> None:
    """Pass from the root of a tree to its leaves, once the gradients in likelihoods are in their place."""
    num_internal, states, unit, zero = len(children), len(roots), np.int64(1), room.dtype.type(0)
    num_nodes, rooted, size = num_taxa + num_internal, num_internal == num_taxa - 1, states * states
    root, top = num_taxa if rooted else 0, num_taxa if num_internal > 0 else 1
    messages = num_nodes * states + shift
    factors = messages + num_nodes * states
    z = np.uint64((factors + num_internal + 1) * BLOCK)
    ending = top * states + shift if rooted else messages + top * states
    for k in range(states):
        prior, x, y, gradient = roots[k], np.uint64((ending + k) * BLOCK), np.uint64(k * BLOCK), zero
        o = x if rooted else np.uint64((messages + k) * BLOCK)  # as if it were the message of taxon 0
        for s in range(np.uint64(width)):
            weighted = room[z + s] if rooted else room[z + s] * room[y + s]
            gradient += room[x + s] * weighted
            room[o + s] = prior * weighted
        root_gradients[k] += gradient
    if len(edge_gradients) == 0:
        return
    for i in range(0 if rooted else -1, num_internal):
        row = (num_taxa + i) * states + shift if i >= 0 else 0
        if i >= 0 and scaled[i]:
            _multiply_all(room, row, factors + i, states, width)
        for k in range(2 if i >= 0 else 1):
            child, sibling = (children[i, k], children[i, 1 - k]) if i >= 0 else (top, 0)
            edge, sibling = first_edge + (child - (child > root)) * size, messages + sibling * states
            below = child * states + (shift if child >= num_taxa else 0)
            _descend(edge_gradients, edge, room, own, row, sibling, below, states, width)
            if child >= num_taxa:
                _multiply(room, below, edges, edge, unit, states, own, states, width)


@compiled(reassociate=True)
def passes(
    children: _Array,
    edges: _Array,
    roots: _Array,
    probs: _Array,
    tips: _Array,
    by_state: bool,
    weights: _Array,
    likelihood: _Array,
    exponents: _Array,
    edge_gradients: _Array,
    root_gradients: _Array,
    prob_gradients: _Array,
    room: _Array,
    bits: _Array,
    smallest: float,
    start: int,
    stop: int,
) -> None:
    """Pass from the leaves to the root, and back where gradients are wanted, on the mixtures from start to stop.

    A mixture is C trees in a row, those of its categories, whose likelihoods are mixed site by site.

    Args:
        children: the children of the internal nodes, int64 ``(M C, I, 2)``.
        edges: the entries of the transition matrices, ``(M C E A A,)``, the number A of states a multiple of four.
        roots: the probabilities of the root's state, ``(M C, A)``.
        probs: the probabilities of the categories, ``(M, C)``.
        tips: the likelihood of each state at each leaf, ``(n A S,)`` or ``(n S A,)``.
        by_state: whether it is the former.
        weights: the gradient in the log-likelihoods, ``(M, S)``, or ``(1, S)`` the same for all; ``(0, 0)`` where no
            gradients are wanted.
        likelihood: for the results, the likelihood of the sites over their powers of two, ``(M, S)``.
        exponents: for the results, the exponents of these powers, ``(M, S)``.
        edge_gradients: zeros as ``edges``, to which the gradients are added; empty where they are not wanted.
        root_gradients: zeros as ``roots``, to which the gradients are added.
        prob_gradients: zeros as ``probs``, to which the gradients are added.
        room: as many rows as :func:`rows_of_room` says, ``(rows BLOCK,)``.
        bits: the same memory as ``room``, as integers of the same size.
        smallest: what is below a node is multiplied by powers of two where it is smaller for some site.
        start: the first mixture.
        stop: the mixture after the last one.
    """
    num_internal, states, num_sites = children.shape[1], roots.shape[1], likelihood.shape[1]
    num_categories, num_taxa = probs.shape[1], len(tips) // (states * num_sites)
    num_nodes = num_taxa + num_internal
    apart = _rows_of_category(num_nodes, num_taxa, states)
    own, first = num_taxa * states + num_categories * apart, num_taxa * states + apart - 2
    scaled = np.zeros((num_categories, num_internal), np.bool_)
    for begin in range(0, num_sites, BLOCK):
        sites = min(BLOCK, num_sites - begin)
        width = (sites + _LANES - 1) // _LANES * _LANES
        for leaf in range(num_taxa):
            _copy_tips(room, tips, by_state, leaf, begin, sites, width, num_sites, states)
        for m in range(start, stop):
            for c in range(num_categories):
                k, shift = m * num_categories + c, c * apart
                edge = k * (num_nodes - 1) * states * states
                _to_root(room, bits, children[k], edges, edge, roots[k], num_taxa, shift, width, smallest, scaled[c])
            values, powers = likelihood[m, begin : begin + sites], exponents[m, begin : begin + sites]
            _mix(room, bits, first, apart, probs[m], values, powers)
            if len(weights) == 0:
                continue
            given = weights[m if len(weights) > 1 else 0, begin : begin + sites]
            _weigh(room, bits, first, apart, probs[m], values, powers, given, prob_gradients[m], width)
            for c in range(num_categories):
                k, shift = m * num_categories + c, c * apart
                edge = k * (num_nodes - 1) * states * states
                _to_leaves(
                    room,
                    children[k],
                    edges,
                    edge_gradients,
                    edge,
                    roots[k],
                    root_gradients[k],
                    num_taxa,
                    shift,
                    own,
                    width,
                    scaled[c],
                )
