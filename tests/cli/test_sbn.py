"""``pyro-ext sbn``: fit, evaluate and sample as a user would, published figures, bad input that leaves nothing."""

import json
import math
import os
import re
import sys
from pathlib import Path

import pytest
import torch

from pyro_ext.cli.__main__ import main
from pyro_ext.distributions import SubsplitBayesianNetwork
from pyro_ext.phylo import TreeSet, read_trees

TREES = """#NEXUS
begin trees;
    translate 1 a, 2 b, 3 c, 4 d, 5 e;
    tree one = [&U] [&W 0.6] (1,(2,(3,4)),5);
    tree two = [&U] [&W 0.3] (1,(2,3),(4,5));
    tree three = [&U] [&W 0.1] (1,((2,5),3),4);
end;
"""


@pytest.fixture
def trees(tmp_path):
    path = tmp_path / "run.trprobs"
    path.write_text(TREES)
    return str(path)


@pytest.fixture
def network(tmp_path, trees, capsys):
    path = str(tmp_path / "sbn.npz")
    assert main(["sbn", "fit", trees, "--out", path]) == 0
    capsys.readouterr()
    return path


def files_in(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def kl_in(text):
    return float(re.search(r"KL divergence[^:]*: +(\S+) nats", text)[1])


def test_fit_writes_network_and_plot(tmp_path, trees, capsys):
    assert main(["sbn", "fit", trees, "--method", "simple_average", "--out", str(tmp_path / "sbn.npz")]) == 0
    shown = capsys.readouterr().out
    assert "3 unrooted trees of 5 taxa" in shown
    assert re.search(r"mean log-likelihood -\d", shown)
    assert {path.name for path in tmp_path.iterdir()} == {"run.trprobs", "sbn.npz", "sbn.png"}


def test_fit_shows_its_progress_if_asked(tmp_path, trees, capsys):
    words = ["sbn", "fit", trees, "--out", str(tmp_path / "sbn.npz"), "--progress", "true"]
    assert main(words) == 0
    assert "EM:" in capsys.readouterr().err


def test_evaluate_prints_and_writes(tmp_path, trees, network, capsys):
    out = tmp_path / "evaluation"
    words = ["sbn", "evaluate", network, "--golden", trees, "--top", "3", "--out", str(out)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert kl_in(shown) >= -1e-9
    assert "100.0000%" in shown
    assert "(a,(b,(c,d)),e)" in shown
    assert {path.name for path in out.iterdir()} == {"report.md", "trees.csv", "probabilities.png", "dispersion.png"}
    assert len((out / "trees.csv").read_text().splitlines()) == 4
    assert main(words) == 2
    assert "is not empty; choose another folder" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


def test_evaluate_beside_a_short_sample(tmp_path, trees, network, capsys):
    """The network's dispersion, and that of a sample which lacks a tree and has the others twice too often."""
    golden = tmp_path / "golden.nwk"
    golden.write_text("[&W .4](a,b,((c,d),e));[&W .4](a,(b,(c,d)),e);[&W .2]((a,c),b,(d,e));")
    short = tmp_path / "short.nwk"
    short.write_text("(a,b,((c,d),e));" * 8 + "(a,(b,(c,d)),e);" * 2)
    words = ["sbn", "evaluate", network, "--golden", str(golden), "--sample", str(short), "--out", str(tmp_path / "o")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    expected = (0.4 * math.log(0.8 / 0.4) + 0.4 * math.log(0.4 / 0.2)) / 0.8
    assert re.search(r"dispersion of its frequencies: +([\d.]+) nats", shown)[1] == f"{expected:.4f}"
    assert "66.6667%, of weight 80.0000%" in shown
    assert re.search(r"dispersion of probabilities: +[\d.]+ nats", shown)
    assert "![dispersion](dispersion.png)" in (tmp_path / "o" / "report.md").read_text()


def test_the_most_probable_trees_are_exact(tmp_path, trees, network, capsys):
    assert main(["sbn", "evaluate", network, "--golden", trees, "--top", "4"]) == 0
    shown = re.findall(r"^\| +(\d\.\d{6}) \|.*\| (\(.*;) +\|$", capsys.readouterr().out, re.M)
    best = SubsplitBayesianNetwork.load(network).most_probable_trees(4)
    assert [float(p) for p, _ in shown] == pytest.approx(best.log_prob.exp().tolist(), abs=1e-6)
    taxa = read_trees(trees).taxa
    assert [newick for _, newick in shown] == TreeSet(taxa, best.values).to_newick()
    assert main(["sbn", "evaluate", network, "--golden", trees, "--top", "0"]) == 0
    assert "most probable" not in capsys.readouterr().out


def test_evaluate_says_how_many_trees_are_proved(trees, network, capsys, monkeypatch):
    search = SubsplitBayesianNetwork.most_probable_trees
    monkeypatch.setattr(SubsplitBayesianNetwork, "most_probable_trees", lambda d, k: search(d, k, limit=1))
    assert main(["sbn", "evaluate", network, "--golden", trees]) == 0
    shown = capsys.readouterr().out
    assert "(a,(b,(c,d)),e)" in shown
    assert "No more trees are proved to be the next most probable ones." in shown


def test_summary(tmp_path, network, capsys):
    out = tmp_path / "summary"
    words = ["sbn", "summarize", network, "--level", "0.9", "--top", "2", "--out", str(out)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^entropy: +\d\.\d{6} nats$", shown, re.M)
    assert len(re.findall(r"^\| +\d\.\d{6} \|", shown, re.M)) == 2
    assert {p.name for p in out.iterdir()} == {
        "credible_set.nwk",
        "credible_set.csv",
        "map.nwk",
        "mcc.nwk",
        "report.md",
    }
    d = SubsplitBayesianNetwork.load(network)
    expected = d.credible_set(0.9)
    read = read_trees(out / "credible_set.nwk", rooted=False)
    assert torch.equal(read.parents, expected.values)
    torch.testing.assert_close(read.weights, expected.log_prob.exp())
    rows = (out / "credible_set.csv").read_text().splitlines()
    assert rows[0] == "rank,probability,cumulative,tree"
    assert float(rows[1].split(",")[1]) == pytest.approx(float(expected.log_prob[0].exp()))
    assert len(rows) == 1 + len(expected.values)
    assert torch.equal(read_trees(out / "map.nwk", rooted=False).parents[0], d.map_tree())
    assert torch.equal(read_trees(out / "mcc.nwk", rooted=False).parents[0], d.max_clade_credibility_tree())
    assert main(words) == 2
    assert "is not empty; choose another folder" in capsys.readouterr().err


def test_the_method_is_chosen_by_held_out_trees(tmp_path, capsys):
    run = tmp_path / "run.nwk"
    run.write_text("(a,(b,(c,d)),e);\n" * 6 + "(a,(b,c),(d,e));\n(a,((b,e),c),d);\n" * 4)
    words = ["sbn", "fit", str(run), "--out", str(tmp_path / "sbn.npz"), "--overwrite", "--method", "auto"]
    for rooted, methods in (("false", ["simple_average", *["em"] * 5]), ("true", ["maximum_likelihood"] * 5)):
        run.write_text(run.read_text() if rooted == "false" else "((a,b),(c,d));\n(((a,b),c),d);\n" * 5)
        assert main([*words, "--rooted", rooted]) == 0
        shown = capsys.readouterr().out
        rows = re.findall(r"^\| (\w+) +\| +([\d.e-]+) \| +(-[\d.]+) \|$", shown, re.M)
        assert [method for method, _, _ in rows] == methods
        best = max(rows, key=lambda row: float(row[2]))
        assert f"method {best[0]} with alpha {best[1]}, as it predicts held-out trees best, in 5 folds" in shown


def test_trees_outside_the_support(tmp_path, network, capsys):
    other = tmp_path / "other.nwk"
    other.write_text("(a,(b,e),(c,d));\n(a,(b,(c,d)),e);\n")
    assert main(["sbn", "evaluate", network, "--golden", str(other), "--rooted", "false"]) == 0
    assert kl_in(capsys.readouterr().out) == float("inf")
    words = ["sbn", "evaluate", network, "--golden", str(other), "--rooted", "false", "--floor", "2.220446e-16"]
    assert main(words) == 0
    assert 16 < kl_in(capsys.readouterr().out) < 18.5


@pytest.mark.parametrize("name", ["drawn.nwk", "drawn.nex", "drawn.nwk.gz"])
def test_samples_can_be_read_again_and_repeat(tmp_path, network, name, capsys):
    words = ["sbn", "sample", network, "--num", "50", "--seed", "3", "--out"]
    assert main([*words, str(tmp_path / name)]) == 0
    assert main([*words, str(tmp_path / ("again_" + name))]) == 0
    first, second = (read_trees(tmp_path / (prefix + name), rooted=False) for prefix in ("", "again_"))
    assert len(first) == 50
    assert torch.equal(first.parents, second.parents)
    assert (tmp_path / "drawn.png").is_file()
    assert "seed 3" in capsys.readouterr().out


def test_distinct_samples_are_weighed(tmp_path, network):
    assert main(["sbn", "sample", network, "--num", "99", "--distinct", "--out", str(tmp_path / "drawn.nex")]) == 0
    drawn = read_trees(tmp_path / "drawn.nex")
    assert len(drawn) == len(drawn.unique()) < 99
    assert float(drawn.weights.sum()) == pytest.approx(1, abs=1e-5)


def test_rooted_trees(tmp_path, capsys):
    (tmp_path / "rooted.nwk").write_text("((a,b),(c,d));\n(((a,b),c),d);\n")
    words = ["sbn", "fit", str(tmp_path / "rooted.nwk"), "--rooted", "true", "--out", str(tmp_path / "sbn.npz")]
    assert main([*words, "--method", "em"]) == 2
    shown = capsys.readouterr().err
    assert "--method em is not for rooted trees: use 'maximum_likelihood', or forget" in shown
    assert "with --rooted false" in shown
    assert main(words) == 0
    assert "method maximum_likelihood, as the trees are rooted" in capsys.readouterr().out
    golden = ["--golden", str(tmp_path / "rooted.nwk")]
    assert main(["sbn", "evaluate", str(tmp_path / "sbn.npz"), *golden]) == 0
    assert "2 distinct trees" in capsys.readouterr().out


def test_burn_in_thinning_and_a_file_that_is_still_written(tmp_path, capsys):
    run = tmp_path / "run.t"
    trees = ["(a,b,(c,d))"] * 4 + ["(a,c,(b,d))"] * 6
    run.write_text("#NEXUS\nbegin trees;\n" + "".join(f"tree t{k} = [&U] {t};\n" for k, t in enumerate(trees)))
    words = ["sbn", "fit", str(run), "--out", str(tmp_path / "sbn.npz"), "--overwrite"]
    assert main(words) == 2
    assert "has no 'end;': the file is truncated; pass --allow_truncated to read" in capsys.readouterr().err
    for options, counts in (
        (["--burnin", "0.4"], "6 trees, 1 of them distinct"),
        (["--burnin", "2"], "8 trees, 2 of them distinct"),
        (["--burnin", "2", "--thin", "3"], "3 trees, 2 of them distinct"),
        (["--thin", "5"], "2 trees, 2 of them distinct"),
    ):
        assert main([*words, "--allow_truncated", *options]) == 0
        assert counts in capsys.readouterr().out
    golden = ["sbn", "evaluate", str(tmp_path / "sbn.npz"), "--golden", str(run), "--allow_truncated"]
    assert main([*golden, "--burnin", "0.4"]) == 0
    assert "1 distinct trees of 4 taxa" in capsys.readouterr().out


def test_an_infinite_divergence_has_a_hint(tmp_path, network, capsys):
    other = tmp_path / "other.nwk"
    other.write_text("(a,(b,e),(c,d));\n(a,(b,(c,d)),e);\n")
    words = ["sbn", "evaluate", network, "--golden", str(other), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "gives probability 0 to 1 of the 2 reference trees, of weight 50.0000%" in shown
    assert "--burnin 0.25" in shown
    assert "--floor 2.2e-16" in shown
    assert "--burnin 0.25" in (tmp_path / "out" / "report.md").read_text()
    assert main([*words, "--burnin", "1", "--overwrite"]) == 0
    assert "--floor" not in capsys.readouterr().out


def test_multifurcations_and_mixed_weights_have_options(tmp_path, capsys, caplog):
    run = tmp_path / "run.nwk"
    words = ["sbn", "fit", str(run), "--out", str(tmp_path / "sbn.npz"), "--overwrite"]
    run.write_text("(a,b,c,d);\n(a,b,(c,d));\n")
    assert main(words) == 2
    assert "with --polytomies all, or leave such trees out with --polytomies skip" in capsys.readouterr().err
    for option, count in (("random", 2), ("all", 4), ("skip", 1)):
        assert main([*words, "--polytomies", option]) == 0
        assert f"{count} tree" in capsys.readouterr().out
    assert "1 of 2 trees have multifurcations and are resolved at random, with seed 0" in caplog.text
    assert "1 of 2 trees have multifurcations and are resolved in all ways, which makes 4 trees" in caplog.text
    assert "1 of 2 trees have multifurcations and are left out" in caplog.text
    run.write_text("[&W 0.5] (a,b,(c,d));\n(a,b,(c,d));\n")
    assert main(words) == 2
    assert "pass --weights false to count each tree once" in capsys.readouterr().err
    assert main([*words, "--weights", "false"]) == 0


WRONG = [
    (["fit", "{missing}", "--out", "{new}"], "missing.nwk: No such file or directory"),
    (["fit", "{trees}", "--out", "{new}.txt"], "--out must end in .npz"),
    (["fit", "{trees}", "--out", "{network}"], "exists; choose another name, or say --overwrite"),
    (["fit", "{trees}", "--out", "{folder}/none/sbn.npz"], "make it first"),
    (["fit", "{trees}", "--out", "{new}", "--alpha", "-1"], "alpha must be a finite number of at least 0"),
    (
        ["fit", "{trees}", "--out", "{new}", "--tolerance", "-1"],
        "tolerance must be a finite number of at least 0",
    ),
    (["fit", "{trees}", "--out", "{subfolder}", "--overwrite"], "is a folder; name a file"),
    (["fit", "{missing}", "--out", "{fifo}", "--overwrite"], "fifo.npz' is a FIFO, no regular file"),
    (["sample", "{missing}", "--out", "/dev/null", "--overwrite"], "'/dev/null' is a device, no regular file"),
    (["fit", "{empty}", "--out", "{new}"], "empty.nwk"),
    (["fit", "{trees}", "--out", "{new}", "--burnin", "1.5"], "--burnin must be a number of trees of at least 0, or a"),
    (["fit", "{trees}", "--out", "{new}", "--burnin", "half"], "--burnin takes a number, not 'half'"),
    (["fit", "{trees}", "--out", "{new}", "--burnin", "1"], "leave these out, or pass --weights false"),
    (["fit", "{trees}", "--out", "{new}", "--thin", "0"], "--thin must be an integer of at least 1, got 0"),
    (
        ["fit", "{trees}", "--out", "{new}", "--polytomies", "all", "--method", "auto"],
        "--polytomies all makes several of one: use --polytomies random",
    ),
    (
        ["fit", "{trees}", "--out", "{new}", "--polytomies", "drop"],
        "--polytomies must be one of refuse, random, zero_length, all, skip",
    ),
    (["evaluate", "{trees}", "--golden", "{trees}"], "is no file of subsplits"),
    (["evaluate", "{network}", "--golden", "{trees}", "--counts", "0"], "counts must be an integer of at least 1"),
    (["evaluate", "{network}", "--golden", "{trees}", "--top", "-1"], "--top must be an integer of at least 0, got -1"),
    (["evaluate", "{network}", "--golden", "{trees}", "--floor", "0"], "floor must be a positive, finite number"),
    (["evaluate", "{network}", "--golden", "{trees}", "--out", "{trees}"], "is a file; name a folder"),
    (["sample", "{network}", "--num", "0", "--out", "{new}.nwk"], "--num must be an integer of at least 1, got 0"),
    (["sample", "{network}", "--out", "{trees}"], "exists; choose another name"),
    (["sample", "{network}", "--out", "{new}.txt"], "end it in .nwk, .nex or .trprobs"),
    (["sample", "{network}", "--out", "{new}.nwk", "--num", "many"], "--num takes a whole number, not 'many'"),
    (["sample", "{network}", "--out", "{new}.nwk", "--sed", "3"], "--sed 3; did you mean --seed?"),
    (["fit", "{trees}", "--out", "{new}", "--method", "auto", "--alpha", "0.1"], "leave out --alpha 0.1, or name a"),
    (["fit", "{one}", "--out", "{new}", "--method", "auto"], "trees holds 1 tree of positive weight: give two or more"),
    (["summarize", "{network}", "--level", "95"], "--level must be a number in (0, 1], got 95"),
    (["summarize", "{network}", "--limit", "0"], "--limit must be an integer of at least 1, got 0"),
    (
        ["summarize", "{network}", "--limit", "1", "--out", "{new}"],
        "--limit 1 rooted trees prove the most probable tree",
    ),
    (["summarize", "{network}", "--top", "-1"], "--top must be an integer of at least 0, got -1"),
    (["summarize", "{network}", "--out", "{trees}"], "is a file; name a folder"),
    (["summarize", "{trees}"], "is no file of subsplits"),
    (["sample", "{network}"], "the following arguments are required: --out"),
    (["draw", "{network}"], "sbn has no task 'draw'; choose one of fit, evaluate, sample, summarize"),
    ([], "sbn needs a task before its options: one of fit, evaluate, sample, summarize"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_bad_input_leaves_nothing(tmp_path, trees, network, words, message, capsys):
    (tmp_path / "empty.nwk").write_text("")
    (tmp_path / "one.nwk").write_text("(a,b,(c,d));")
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "fifo.npz")
    names = {
        "fifo": tmp_path / "fifo.npz",
        "missing": tmp_path / "missing.nwk",
        "new": tmp_path / "new.npz",
        "trees": trees,
        "network": network,
        "folder": tmp_path,
        "empty": tmp_path / "empty.nwk",
        "one": tmp_path / "one.nwk",
        "subfolder": tmp_path / "folder.npz",
    }
    before = files_in(tmp_path)
    assert main(["sbn", *(word.format(**names) for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "{trees}", "--out", "{folder}/new.npz"],
        ["evaluate", "{network}", "--golden", "{trees}", "--out", "{folder}/new"],
        ["sample", "{network}", "--out", "{folder}/new.nwk"],
    ],
)
def test_without_matplotlib_nothing_is_left(tmp_path, trees, network, words, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    before = files_in(tmp_path)
    assert main(["sbn", *(word.format(trees=trees, network=network, folder=tmp_path) for word in words)]) == 2
    assert "pip install 'pyro-ext[plot]'" in capsys.readouterr().err
    assert files_in(tmp_path) == before


def test_networks_saved_in_python(tmp_path, trees, capsys):
    """Of other values than their support, in float32, and batches."""
    network = SubsplitBayesianNetwork.from_trees(read_trees(trees))
    paths = {name: str(tmp_path / f"{name}.npz") for name in ("rooted", "single", "batch")}
    network.rooted_network().save(paths["rooted"])
    SubsplitBayesianNetwork(network.subsplits, network.logits.float()).save(paths["single"])
    network.expand((2,)).save(paths["batch"])
    assert main(["sbn", "sample", paths["rooted"], "--num", "5", "--out", str(tmp_path / "a.nex")]) == 0
    assert read_trees(tmp_path / "a.nex").rooted
    for options in ([], ["--distinct", "--overwrite"]):
        assert main(["sbn", "sample", paths["single"], "--num", "3", "--out", str(tmp_path / "b.nex"), *options]) == 0
    capsys.readouterr()
    assert main(["sbn", "evaluate", paths["rooted"], "--golden", trees]) == 2
    assert "draws rooted trees by the splits of unrooted ones" in capsys.readouterr().err
    for words in (["evaluate", paths["batch"], "--golden", trees], ["sample", paths["batch"], "--out", "x.nwk"]):
        assert main(["sbn", *words]) == 2
        assert "holds a batch of networks, (2,)" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["fit"], ["evaluate"], ["sample"], ["summarize"]])
def test_help(words, capsys):
    assert main(["sbn", *words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: pyro-ext sbn {words[0] if words else 'fit|evaluate|sample|summarize'}")
    assert "(type: " not in shown


@pytest.mark.data
def test_published_divergence(tmp_path, capsys):
    """One replicate of DS3: the divergence of the network fitted by EM, as printed by the authors."""
    folder = Path(os.environ["PYRO_EXT_DATA"]) / "phylo"
    golden = sorted(str(path) for path in (folder / "golden" / "DS3").rglob("*.trprobs*"))
    (short,) = [path for path in (folder / "short_runs" / "DS3").rglob("*.trprobs*") if path.parent.name == "rep_1"]
    assert main(["sbn", "fit", str(short), "--out", str(tmp_path / "sbn.npz"), "--rooted", "false"]) == 0
    words = ["--floor", "2.220446049250313e-16", "--unnormalized", "--counts", "750001"]
    assert main(["sbn", "evaluate", str(tmp_path / "sbn.npz"), "--golden", *golden, *words]) == 0
    table = json.loads((folder / "reference" / "sbn_kl.json").read_text())
    assert kl_in(capsys.readouterr().out) == pytest.approx(table["DS3"][0]["sbn_em"], abs=3e-8)
