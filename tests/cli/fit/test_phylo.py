"""``pyro-ext fit phylo``: an alignment and trees by their paths, in words and in files of options; resuming."""

import csv
from pathlib import Path

import pytest
import yaml

from pyro_ext.cli.__main__ import main
from pyro_ext.cli.fit.arguments import Arguments
from pyro_ext.cli.program import Program
from tests.models.phylo.six_taxa import write_files

SMALL = [
    *("--data.steps_per_epoch", "4", "--model.evaluation_samples", "20", "--model.evaluation_repeats", "2"),
    *("--model.annealing_steps", "6", "--model.num_particles", "3", "--trainer.accelerator", "cpu", "--seed", "4"),
    *("--trainer.check_val_every_n_epoch", "1"),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(Path())


def rows(folder):
    table = csv.DictReader((Path(folder) / "metrics.csv").read_text().splitlines())
    return [{name: value for name, value in row.items() if name != "seconds"} for row in table]


def test_results_and_exact_resume(capsys):
    words = ["fit", "phylo", "--data", "six.fasta", "--trees", "six.nwk", "--golden", "six.nwk", "six.nwk", *SMALL]
    assert main([*words, "--out", "whole", "--trainer.max_epochs", "2"]) == 0
    assert {path.name for path in Path("whole").iterdir()} == {
        *("config.yaml", "last.ckpt", "metrics.csv", "report.md", "network.npz", "topologies.nex"),
        *("loss.png", "bounds.png", "kl.png", "topologies.png", "branch_lengths.png", "golden.png"),
    }
    report = Path("whole/report.md").read_text()
    assert report.startswith("# phylo on six.fasta\n")
    assert "| TraceVIMCO_ELBO " in report
    assert "Adam(lr=0.001), StepLR(step_size=20000, gamma=0.75) per step" in report
    assert "`train_loss` is minus that annealed bound" in report
    assert "Results are also in `network.npz`, `topologies.nex`." in report
    history = rows("whole")
    assert [row["step"] for row in history] == ["4", "8"]
    assert {"lower_bound_1", "lower_bound_10", "log_evidence", "kl", "train_inverse_temperature"} <= history[-1].keys()
    assert main([*words, "--out", "part", "--trainer.max_epochs", "1"]) == 0
    assert main(["fit", "phylo", "--out", "part", "--resume", "--trainer.max_epochs", "2"]) == 0
    assert rows("part") == history
    assert main(["sbn", "evaluate", "part/network.npz", "--golden", "six.nwk", "--top", "1"]) == 0
    assert "results are in part" in capsys.readouterr().out


def test_another_elbo_from_a_file_of_options():
    elbo = "pyro_ext.inference.TraceUnorderedSet_ELBO"
    options = {"data": "six.fasta", "model": {"trees": ["six.nwk"]}, "elbo": elbo}
    Path("options.yaml").write_text(yaml.safe_dump(options))
    assert main(["fit", "phylo", "--config", "options.yaml", *SMALL, "--out", "run", "--trainer.max_epochs", "1"]) == 0
    noted = yaml.safe_load(Path("run/config.yaml").read_text())
    assert noted["data"] == {"name": "alignment", "path": "six.fasta", "steps_per_epoch": 4, "names": "word"}
    assert noted["elbo"]["class_path"] == "pyro_ext.inference.TraceUnorderedSet_ELBO"
    assert noted["trainer"]["max_epochs"] == 1


def test_published_recipe_is_the_default(capsys):
    assert main(["fit", "phylo", "--data", "six.fasta", "--trees", "six.nwk", "--print_config"]) == 0
    options = yaml.safe_load(capsys.readouterr().out)
    assert options["trainer"]["max_epochs"] * options["data"]["steps_per_epoch"] == 200_000
    assert (options["model"]["annealing_steps"], options["model"]["annealing_start"]) == (100_000, 0.001)
    assert options["model"]["num_particles"] == 10


def parsed(*words):
    return Arguments.parsed("phylo", [*words, "--trees", "six.nwk"])


def test_data_by_path_or_by_name():
    for words in (["--data", "six.fasta"], ["--data=six.fasta"]):
        assert parsed(*words, "--seed", "1").data_options == {
            "path": "six.fasta",
            "steps_per_epoch": 1000,
            "names": "word",
        }
    assert Program.named("phylo", "digits").data == "digits"
    Path("digits").write_text(Path("six.fasta").read_text())
    assert Program.named("phylo", "digits").data == "digits"  # a name wins over a file
    with pytest.raises(ValueError, match=r"--data: 'six\.fasta' is no data set; those are alignment, "):
        Program.named("categorical_vae", "six.fasta")


def test_files_may_be_several():
    words = ["--data", "six.fasta", "--trees", "a b.nwk", "c.nwk", "--seed", "1"]
    assert Arguments.parsed("phylo", words).model_options["trees"] == ["a b.nwk", "c.nwk"]


@pytest.mark.parametrize("data", ["six.fasta", {"name": "six.fasta"}, {"path": "six.fasta"}])
@pytest.mark.parametrize("inside", [True, False])
def test_data_by_path_in_a_file_of_options(data, inside):
    trees = {"model": {"trees": ["six.nwk"]}} if inside else {"trees": ["six.nwk"]}
    Path("options.yaml").write_text(yaml.safe_dump({"seed": 5, "data": data, **trees}))
    arguments = Arguments.parsed("phylo", ["--config", "options.yaml", "--seed", "6"])
    assert (arguments.data_options["path"], arguments.options.seed) == ("six.fasta", 6)
    assert arguments.model_options["trees"] == ["six.nwk"]


GIVEN = ["--data", "six.fasta", "--trees", "six.nwk"]
WRONG = [
    ([], "the following arguments are required: --trees, --data.path"),
    (["--data", "six.fasta"], "the following arguments are required: --trees"),
    (["--data", "none.fasta"], "--data: 'none.fasta' is neither a file (alignment) nor a data set; those are"),
    (
        ["--data.path", "none.fasta", "--trees", "six.nwk"],
        "--data.path: there is no file 'none.fasta'; name an alignment in",
    ),
    (["--data", "unequal.fasta", "--trees", "six.nwk"], "unequal.fasta: taxon 'b' has 3 characters but 'a' has 4: "),
    (["--data", "unknown.fasta", "--trees", "six.nwk"], "unknown.fasta: taxon 'a' has '!' in column 3, which is no"),
    (["--data", "digits", "--trees", "six.nwk"], "data must be an alignment, got 'digits'; load it by 'alignment'"),
    (["--data", "six.fasta", "--trees", "none.nwk"], "--trees: there is no file 'none.nwk'"),
    (["--data", "six.fasta", "--trees"], "--trees needs a value"),
    (["--data", "six.fasta", "--trees", "rooted.nwk"], "--trees: the trees in 'rooted.nwk' are rooted, those of the"),
    (
        ["--data", "six.fasta", "--trees", "others.nwk"],
        "--trees: 'others.nwk' and the alignment must have the same taxa",
    ),
    ([*GIVEN, "--model.annealing_start", "2"], "--model.annealing_start must be a number in (0, 1], got 2.0"),
    ([*GIVEN, "--data.steps_per_epoch", "0"], "--data.steps_per_epoch must be an integer of at least 1, got 0"),
    ([*GIVEN, "--model.dtype", "half"], "--model.dtype takes float32 or float64, not 'half'"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words) or "nothing" for words, _ in WRONG])
def test_bad_input_is_one_line_and_leaves_nothing(capsys, words, message):
    Path("unequal.fasta").write_text(">a\nACGT\n>b\nACG\n")
    Path("unknown.fasta").write_text(">a\nAC!T\n>b\nACGT\n>c\nACGA\n")
    Path("rooted.nwk").write_text("((a,b),((c,d),(e,f)));")
    Path("others.nwk").write_text("(a,b,((c,d),(e,g)));")
    before = {path.name for path in Path().iterdir()}
    assert main(["fit", "phylo", *words, "--out", "run"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"pyro-ext: {message}")
    assert shown.err.count("\n") == 1
    assert {path.name for path in Path().iterdir()} == before


@pytest.mark.data
def test_ds1():
    """A few steps on 27 taxa, against the reference runs."""
    import os

    folder = Path(os.environ["PYRO_EXT_DATA"]) / "phylo"
    runs = {part: str(folder / part / "DS1" / "rep_1" / "DS1.trprobs.gz") for part in ("short_runs", "golden")}
    words = ["--data", str(folder / "alignments" / "DS1.fasta")]
    words += ["--trees", runs["short_runs"], "--golden", runs["golden"]]
    assert main(["fit", "phylo", *words, *SMALL, "--out", "run", "--trainer.max_epochs", "1"]) == 0
    (row,) = rows("run")
    assert float(row["golden_in_support"]) > 0.999
    assert -20_000 < float(row["lower_bound_1"]) < -7108
