"""The compiled kernels of the reading of trees, beside what runs without them."""

import importlib.util
import random
from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest
import torch

import pyro_ext.phylo._lexer as lexer
import pyro_ext.phylo._parser as parser
import pyro_ext.phylo._sweeps as sweeps
from pyro_ext.ops.kernels import kernels
from pyro_ext.phylo import parse_trees
from pyro_ext.phylo._number_kernel import read_numbers
from pyro_ext.phylo.random_trees import random_trees

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")


def numbers(texts):
    raw = [text.encode() for text in texts]
    stops = np.cumsum([len(text) + 1 for text in raw]) - 1
    starts = stops - np.array([len(text) for text in raw])
    return read_numbers(np.frombuffer(b",".join(raw) + b",", np.uint8), starts, stops)


def written(kind):
    rng = random.Random(0)
    if kind == "20 digits":
        return [f"{rng.random():.20f}" for _ in range(2000)]
    if kind == "shortest":
        return [repr(rng.random() * 10 ** rng.randint(-300, 300)) for _ in range(2000)]
    if kind == "any exponent":
        return [f"{rng.randint(0, 10 ** rng.randint(1, 25))}e{rng.randint(-345, 310)}" for _ in range(5000)]
    getcontext().prec = 200
    halves = (
        Fraction(2 * (rng.getrandbits(52) | 1 << 52) + 1, 2) * Fraction(2) ** rng.randint(-60, 10) for _ in range(2000)
    )
    texts = [format(Decimal(half.numerator) / half.denominator, "f") for half in halves]
    return texts + [text + "1" if "." in text else text + ".1" for text in texts]


@pytest.mark.parametrize("kind", ["20 digits", "shortest", "any exponent", "halfway between floats"])
def test_numbers_are_the_nearest_floats(kind):
    texts = written(kind)
    values, undecided = numbers(texts)
    expected = np.array([float(text) for text in texts])
    assert np.array_equal(values[undecided == 0].view(np.int64), expected[undecided == 0].view(np.int64))
    assert undecided.sum() == 0 or kind in ("any exponent", "halfway between floats")


def test_what_is_no_plain_number_is_left_undecided():
    good = ["0", "-0", "+3", ".5", "5.", " 1 ", "1e5", "1E-05", "00012.5", "1.7976931348623157e308"]
    values, undecided = numbers(good)
    assert undecided[:9].sum() == 0
    assert values[:9].tolist() == [float(text) for text in good[:9]]
    bad = ["", " ", "-", ".", "e5", "1e", "1e+", "1e5x", "nan", "inf", "1_0", "1 2", "0x1", "1.2.3", "1e400", "5e-324"]
    assert numbers(bad)[1].all()


@pytest.mark.parametrize("text", ["(a:1,b:1_0);", "(a:1,b:nan);", "(a:1,b:1e999);", "(a:1,b:x);", "(a:1,b:1 2);"])
def test_errors_of_numbers_are_the_same(text, monkeypatch):
    monkeypatch.setattr(parser, "_MANY", 0)
    errors = []
    for choice in ("torch", "numba"):
        with kernels(choice), pytest.raises(ValueError, match=r"length|blank|Newick") as caught:
            parse_trees(text, rooted=True)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


def test_numbers_that_the_kernel_leaves_are_read_by_python(monkeypatch):
    monkeypatch.setattr(parser, "_MANY", 0)
    text = "(a:5e-324,b:9007199254740993.00000000000000000000,c:.25);"
    lengths = []
    for choice in ("torch", "numba"):
        with kernels(choice):
            lengths.append(parse_trees(text).branch_lengths)
    assert torch.equal(*lengths)
    assert sorted(lengths[0][0].tolist()) == [5e-324, 0.25, 9007199254740992.0]


@pytest.mark.parametrize("rooted", [False, True])
@pytest.mark.parametrize(("num_taxa", "number"), [(3, 5), (20, 7), (30, 300)])
def test_sweeps_are_the_same(num_taxa, number, rooted, monkeypatch):
    trees = random_trees(num_taxa, number, rooted=rooted)
    planted = (sweeps.plant_rooted(trees) if rooted else trees).t().contiguous()
    num_leaves = len(planted) // 2 + 1
    monkeypatch.setattr(sweeps, "_SMALL", 10**9)
    expected = *sweeps.subtrees(planted, num_leaves)[1:], sweeps.preorder(planted, num_leaves)
    monkeypatch.setattr(sweeps, "_SMALL", 0)
    monkeypatch.setattr(sweeps, "_FEW", 10**9)
    for choice in ("numba", "torch"):  # compiled, and the same functions in Python
        with kernels(choice):
            ours = *sweeps.subtrees(planted, num_leaves)[1:], sweeps.preorder(planted, num_leaves)
        for part, other in zip(ours[1:], expected[1:], strict=True):
            assert torch.equal(part, other)
        assert torch.equal(ours[0][1:], expected[0][1:])  # that of the root has no meaning


def test_quotes_in_turns_are_those_that_the_pattern_finds(monkeypatch):
    rng = random.Random(0)
    texts = ["".join(rng.choice("'''(,):; ab]=*\n") for _ in range(rng.randint(0, 14))).encode() for _ in range(5000)]
    patterns = (lexer._IN_NEWICK, lexer._IN_NEXUS)

    def hidden():
        return [lexer._hidden(text, np.frombuffer(text, np.uint8), pattern) for text in texts for pattern in patterns]

    ours = hidden()
    monkeypatch.setattr(lexer, "_alternating", lambda array, pattern: None)
    for found, expected in zip(ours, hidden(), strict=True):
        assert found[0] is expected[0] is None
        assert np.array_equal(found[1], expected[1]) if found[1] is not None else expected[1] is None
