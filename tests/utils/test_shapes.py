"""Shapes that broadcast, as torch says."""

import itertools
import subprocess
import sys

import pytest
import torch

from pyro_ext.utils.shapes import broadcast_shapes

SHAPES = [(), (1,), (0,), (3,), (2, 1), (1, 3), (2, 3), (4, 1, 3), (2, 0)]


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_they_are_those_of_torch(number):
    for shapes in itertools.product(SHAPES, repeat=number):
        try:
            expected = torch.broadcast_shapes(*shapes)
        except RuntimeError:
            with pytest.raises(RuntimeError, match="do not broadcast"):
                broadcast_shapes(*shapes)
        else:
            assert broadcast_shapes(*shapes) == expected


def test_nothing_symbolic_is_imported():
    call = "from pyro_ext.utils.shapes import broadcast_shapes as b; b((2,), (1,))"
    code = f"import sys; {call}; assert 'sympy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
