"""``pyro-ext tumour``: a trained network and a matrix, as a user would; bad input that leaves nothing."""

import re

import pytest

from pyro_ext.cli.__main__ import main
from pyro_ext.datasets import load
from pyro_ext.inference import FitSettings, fit
from pyro_ext.models.tumour import branching

MATRIX = "cell,TP53,KRAS,APC,BRAF,MYC\nA,1,1,0,0,0\nB,1,0,1,0,0\nC,1,NA,1,1,0\nD,0,0,0,0,1\nE,1,1,0,0,1\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of tumour_branching on 4 x 5 matrices, by the command line."""
    folder = tmp_path_factory.mktemp("runs") / "branching"
    words = ["--data.num_train", "200", "--data.num_valid", "20", "--data.cells", "4", "--data.mutations", "5"]
    words += ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false", "--seed", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        assert main(["fit", "tumour_branching", *words, "--model.width", "8", "--out", str(folder)]) in (0, 2)
    assert (folder / "last.ckpt").is_file()
    return str(folder)


@pytest.fixture
def matrix(tmp_path):
    path = tmp_path / "patient.csv"
    path.write_text(MATRIX)
    return str(path)


def test_branches_of_a_matrix(run, matrix, tmp_path, capsys):
    pytest.importorskip("pysat", reason="python-sat is not installed")
    words = ["tumour", "branching", matrix, "--run", run, "--samples", "5"]
    assert main([*words, "--tree", "false", "--out", str(tmp_path / "plain")]) == 0
    assert {path.name for path in (tmp_path / "plain").iterdir()} == {"matrix.png", "report.md"}
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"matrix: +\S+patient.csv, 5 cells x 5 mutations, 4.0% of the entries missing", shown)
    assert re.search(r"pairs in conflict: +[1-9]\d* of 10", shown)
    assert re.search(r"seen by the network as: +5 random samples of it, standard deviation 0\.\d+", shown)
    probability = re.search(r"probability of branches: +(\d\.\d+)", shown)[1]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"matrix.png", "report.md", "tree.nwk", "tree.png"}
    report = (tmp_path / "out" / "report.md").read_text()
    assert probability in report
    assert "most probable tree" in report
    assert (tmp_path / "out" / "tree.nwk").read_text().count("TP53") == 1
    assert main(words) == 0
    assert probability in capsys.readouterr().out


def test_a_smaller_matrix_is_filled_up(run, tmp_path, capsys):
    path = tmp_path / "small.tsv"
    path.write_text("1\t1\t0\n1\t0\t0\n")
    assert main(["tumour", "branching", str(path), "--run", run]) == 0
    shown = capsys.readouterr().out
    assert "filled up with zeros: 2 cells, 2 mutations" in shown
    assert "a chain of mutations" in shown


def test_without_the_solver(run, matrix, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pysat.formula", None)
    assert main(["tumour", "branching", matrix, "--run", run, "--out", str(tmp_path / "out")]) == 0
    assert "no tree is drawn: maximum_likelihood_phylogeny needs python-sat" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"matrix.png", "report.md"}


def test_help(capsys):
    assert main(["tumour", "--help"]) == 0
    assert "branching  the probability that the phylogeny has branches" in capsys.readouterr().out
    assert main(["tumour", "branching", "--help"]) == 0
    assert "--run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,0\n1\n", "line 2 has 1 fields"),
        ("1,0,1\n1,1,2\n1,1,1\n", "entries must be 0, 1, or 3 or NA"),
        ("", "the file is empty"),
    ],
)
def test_broken_matrices(run, tmp_path, capsys, text, message):
    path = tmp_path / "broken.csv"
    path.write_text(text)
    assert main(["tumour", "branching", str(path), "--run", run, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "tumour needs a task before its options: one of branching"),
        (["forests"], "tumour has no task 'forests'"),
        (["branching", "MATRIX"], "--run"),
        (["branching", "MATRIX", "--run", "nowhere"], "does not exist"),
        (["branching", "none.csv", "--run", "RUN"], "none.csv"),
        (["branching", "MATRIX", "--run", "RUN", "--samples", "0"], "samples"),
        (["branching", "MATRIX", "--run", "RUN", "--out", "MATRIX"], "is a file; name a folder"),
        (["branching", "MATRIX", "--run", "RUN", "--out", "FULL"], "is not empty"),
        (["branching", "MATRIX", "--run", "RUN", "--out", "new", "--false_positive", "1"], "false_positive must be"),
    ],
)
def test_wrong_words(run, matrix, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    names = {"MATRIX": matrix, "RUN": run, "FULL": "full"}
    assert main(["tumour", *(names.get(word, word) for word in words)]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "new").exists()


def test_a_run_of_another_model(matrix, tmp_path, capsys):
    data = load("simulated_tumours", labels="branching", num_train=20, num_valid=10, cells=4, mutations=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_ext.models.tumour.plans.diagnose", lambda metrics: [])
        quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
        fit(branching.build(data, width=4), data, FitSettings(max_epochs=1), out=tmp_path / "own", **quiet)
    assert main(["tumour", "branching", matrix, "--run", str(tmp_path / "own")]) == 2
    assert "does not say how its plan was built" in capsys.readouterr().err
