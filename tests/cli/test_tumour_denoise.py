"""``pyro-ext tumour denoise``: a run, a table, and what is written or said."""

import pytest

from pyro_ext.cli.__main__ import main
from pyro_ext.ops.mutations import is_conflict_free
from pyro_ext.phylo import read_mutations

TABLE = "cell,x,y,z\na,1,1,0\nb,1,0,0\nc,0,1,NA\nd,0,0,1\n"
FIT = (
    "fit tumour_elimination --model.num_flips 3 --model.width 8 --model.num_heads 2 --model.evaluation_samples 2 "
    "--data.num_train 8 --data.num_valid 4 --data.cells 4 --data.mutations 4 --trainer.max_epochs 1 --batch_size 8 "
    "--trainer.enable_progress_bar false --trainer.accelerator cpu --out"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run of one step, and a table."""
    folder = tmp_path_factory.mktemp("tumour")
    assert main([*FIT, str(folder / "run")]) == 0  # its warnings go to the terminal
    (folder / "table.csv").write_text(TABLE)
    return folder


def denoise(folder, *words, table="table.csv", run="run", out="out"):
    where = ["--run", str(folder / run), "--out", str(folder / out)]
    return main(["tumour", "denoise", str(folder / table), *where, "--num_samples", "16", *words])


def test_a_matrix_a_tree_and_plots_are_written(folder, capsys):
    assert denoise(folder, "--false_positive", "0.001", "--false_negative", "0.2", out="a") == 0
    said = capsys.readouterr().out
    assert "4 x 3" in said
    assert "0.001, 0.2" in said
    denoised = read_mutations(folder / "a" / "denoised.csv")
    assert is_conflict_free(denoised.values)
    assert denoised.cells == ("a", "b", "c", "d")
    assert denoised.observed.all()
    assert (folder / "a" / "tree.nwk").read_text().endswith(";\n")
    for name in ("matrices.png", "tree.png", "report.md"):
        assert (folder / "a" / name).stat().st_size > 100
    assert denoise(folder, out="a") == 2
    assert "exists; --overwrite replaces it" in capsys.readouterr().err
    assert denoise(folder, "--overwrite", out="a") == 0
    assert "0.002, 0.1" in capsys.readouterr().out  # the rates of the run


def test_conflicts_that_are_left_are_named(folder, capsys):
    rows = ["1,1,0,1,0,1", "1,0,1,0,1,0", "0,1,1,0,1,1", "1,1,0,0,1,0", "0,1,0,1,1,1", "1,0,1,1,0,0"]
    (folder / "hard.csv").write_text("\n".join(rows) + "\n")
    assert denoise(folder, "--max_flips", "1", table="hard.csv", out="b") == 0
    assert "conflicts are left" in capsys.readouterr().out
    assert not (folder / "b" / "tree.nwk").exists()
    assert "conflicts are left" in (folder / "b" / "report.md").read_text()


BAD = {
    "ragged": ("1,0\n1\n", (), "line 2"),
    "two": ("0,1,0\n0,2,1\n1,0,1\n", (), "entries must be 0, 1"),
    "empty": ("", (), "empty.csv"),
    "rate": (TABLE, ("--false_positive", "0"), "--false_positive must be a number in (0, 1), got 0"),
    "samples": (TABLE, ("--num_samples", "0"), "--num_samples must be an integer of at least 1, got 0"),
    "gamma": (TABLE, ("--gamma", "0"), "--gamma must be a positive, finite number, got 0"),
    "temperature": (TABLE, ("--temperature", "-1"), "--temperature must be a positive, finite number, got -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_line(folder, capsys, name):
    text, words, message = BAD[name]
    (folder / f"{name}.csv").write_text(text)
    capsys.readouterr()
    assert denoise(folder, *words, table=f"{name}.csv", out="c") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "c").exists()


def test_other_runs_are_refused(folder, capsys):
    assert denoise(folder, run="nothing", out="c") == 2
    assert "does not exist; name the folder of a run" in capsys.readouterr().err
    assert denoise(folder, table="no.csv", out="c") == 2
    assert "no.csv" in capsys.readouterr().err
