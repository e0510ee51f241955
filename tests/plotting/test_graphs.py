import pytest
import torch

from pyro_ext.plotting import confusion_matrix, draw_graph, embedding, reliability_diagram, save

EDGES = torch.tensor([[0, 1, 2, 2], [1, 2, 0, 3]])


def test_a_reliability_diagram_shows_accuracy_and_error(tmp_path):
    probs = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.45, 0.55], [0.3, 0.7]])
    ax = reliability_diagram(probs, torch.tensor([0, 1, 1, 1]))
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == [0, 0, 0, 0, 0, 1, 1, 0, 0, 0.5]
    assert ax.get_title() == "expected calibration error 0.412"
    assert save(ax, tmp_path / "plot.png").stat().st_size > 1000


def test_a_confusion_matrix_has_a_row_for_each_true_class(tmp_path):
    ax = confusion_matrix(torch.tensor([0, 0, 2, 1]), torch.tensor([0, 1, 2, 1]), class_names=["a", "b", "c"])
    assert [text.get_text() for text in ax.texts] == ["1", "0", "0", "1", "1", "0", "0", "0", "1"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]
    assert save(ax, tmp_path / "plot.png").stat().st_size > 1000


def test_classes_without_members_have_a_row_if_they_have_a_name():
    ax = confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 0]), class_names=["a", "b", "c"])
    assert len(ax.texts) == 9


def test_a_drawn_graph_has_all_nodes_with_their_marks(tmp_path):
    ax = draw_graph(EDGES, torch.tensor([0, 0, 1, -1, 1]), marked=[0], wrong=[2], names="abcde")
    assert [text.get_text() for text in ax.texts] == [*"abcde"]
    assert len(ax.lines) == 4
    assert ax.collections[0].get_sizes() > ax.collections[1].get_sizes()
    rims = [float(own.get_linewidth()[0]) for own in ax.collections[:5]]
    assert rims == [0.5, 0.5, 2.5, 0.5, 0.5]
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert named == ["class unknown", "class 0", "class 1", "marked", "wrong"]
    assert save(ax, tmp_path / "plot.png").stat().st_size > 1000


def test_an_embedding_is_in_the_plane_of_the_first_components(tmp_path):
    torch.manual_seed(0)
    points = torch.randn(50, 5) * torch.tensor([1.0, 9.0, 0.1, 5.0, 0.1])
    ax = embedding(points, torch.arange(50) % 3 - 1)
    drawn = torch.cat([torch.as_tensor(own.get_offsets()) for own in ax.collections])
    assert drawn.var(0).tolist() == pytest.approx(points[:, [1, 3]].double().var(0).tolist(), rel=0.02)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["unknown", "class 0", "class 1"]
    assert embedding(points[:, :1], torch.zeros(50).long()).collections
    assert save(ax, tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confusion_matrix(torch.zeros(2), torch.zeros(3)), "must be vectors of one length"),
        (lambda: confusion_matrix(torch.zeros(0), torch.zeros(0)), "at least 1"),
        (lambda: confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, -1])), "classes of at least 0, got -1"),
        (lambda: confusion_matrix(torch.tensor([2]), torch.tensor([0]), class_names="ab"), "name 3 classes, got 2"),
        (lambda: draw_graph(EDGES, torch.zeros(3)), "edges must be between nodes 0 to 2"),
        (lambda: draw_graph(EDGES, torch.zeros(4), names="abc"), "a name for each of 4 nodes, got 3"),
        (lambda: reliability_diagram(torch.zeros(2), torch.zeros(2)), r"probs must have shape \(N, C\)"),
        (lambda: embedding(torch.zeros(3), torch.zeros(3)), r"points must have shape \(N, D\)"),
        (lambda: embedding(torch.zeros(1, 2), torch.zeros(1)), "N at least 2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
