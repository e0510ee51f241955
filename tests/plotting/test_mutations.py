import networkx as nx
import pytest
import torch

from pyro_ext.phylo import MutationMatrix, perfect_phylogeny
from pyro_ext.plotting import clone_tree, mutation_matrices, save


def test_matrices_stand_side_by_side(tmp_path):
    matrices = torch.randint(0, 2, (7, 5, 4), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    matrices[0, 0, 0] = 3
    ax = mutation_matrices(matrices, titles=["one", "two"], columns=3)
    shown = torch.as_tensor(ax.images[0].get_array())
    assert shown.shape == (3 * 7, 3 * 6)
    assert torch.equal(shown[2:7, 1:5], matrices[0].long())
    assert torch.equal(shown[16:21, 1:5], matrices[6].long())
    assert [text.get_text() for text in ax.texts] == ["one", "two"]
    assert save(ax, tmp_path / "matrices.png").stat().st_size > 1000


def test_conflicts_are_marked():
    ax = mutation_matrices(torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 3], [0, 0, 1]]))
    assert ax.collections[0].get_offsets()[:, 0].tolist() == [1, 2]
    assert len(mutation_matrices(torch.ones(2, 2)).collections[0].get_offsets()) == 0


def test_names_of_one_matrix():
    ax = mutation_matrices(torch.ones(2, 3), cells=["A", "B"], mutations=["x", "y", "z"])
    assert [text.get_text() for text in ax.texts] == ["A", "B", "x", "y", "z"]
    crowd = mutation_matrices(torch.ones(2, 50), mutations=[str(k) for k in range(50)])
    assert not crowd.texts


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(0, 3, 3), torch.zeros(2, 2, 2, 2)])
def test_other_shapes(wrong):
    with pytest.raises(ValueError, match="matrices must have shape"):
        mutation_matrices(wrong)


def test_trees_of_clones(tmp_path):
    matrix = MutationMatrix.of([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]])
    ax = clone_tree(perfect_phylogeny(matrix))
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["1", "1", "m1, m2, m3 and 1 more", "1", "m5", "1", "m6"]
    assert save(ax, tmp_path / "tree.png").stat().st_size > 1000
    alone = clone_tree(perfect_phylogeny(MutationMatrix.of([[0]])))
    assert [text.get_text() for text in alone.texts] == ["1"]
    for wrong in (nx.DiGraph(), nx.DiGraph([(0, 1), (2, 1)])):
        with pytest.raises(ValueError, match="tree must be a directed tree of clones"):
            clone_tree(wrong)
