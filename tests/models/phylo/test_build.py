"""A phylogeny for the fit engine: annealing, metrics, files, exact resume, bad input."""

import math

import pyro
import pytest
import torch
from lightning.pytorch import Callback

from pyro_ext.datasets import alignment, load
from pyro_ext.distributions import SubsplitBayesianNetwork, tree_kl
from pyro_ext.inference import TraceUnorderedSet_ELBO, TraceVIMCO_ELBO
from pyro_ext.inference.fit import fit
from pyro_ext.models.phylo import build
from pyro_ext.models.phylo.assessment import FLOOR
from pyro_ext.phylo import SubsplitSupport, TreeSet, parse_trees, read_trees, write_trees
from tests.inference.fit.toys import QUIET, StopAfter, StopError, parameters, without_seconds
from tests.models.phylo.six_taxa import TAXA, TREES, write_files

SMALL = {"evaluation_samples": 100, "evaluation_repeats": 3, "annealing_steps": 12, "num_particles": 4}


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return write_files(folder)


def built_from(files, **options):
    pyro.set_rng_seed(0)
    return build(alignment(files[0], steps_per_epoch=5), [files[1]], **SMALL | options)


def test_what_is_built(files):
    built = built_from(files)
    assert isinstance(built.elbo, TraceVIMCO_ELBO)
    assert built.elbo.num_particles == 4
    assert {p.dtype for p in built.guide.parameters()} == {torch.float32}
    assert {p.dtype for p in built_from(files, dtype="float64").guide.parameters()} == {torch.float64}
    assert float(built.model.inverse_temperature) == pytest.approx(0.001)
    assert float(built_from(files, annealing_steps=0).model.inverse_temperature) == 1.0


class NoteTemperature(Callback):
    """Notes the inverse temperature of each step, in the middle of it."""

    def __init__(self):
        self.seen = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.seen.append(round(float(pl_module.elbo.model.inverse_temperature), 5))


def test_the_likelihood_gets_its_weight_step_by_step(files):
    built, note = built_from(files), NoteTemperature()
    result = fit(built, alignment(files[0], steps_per_epoch=5), max_epochs=3, seed=0, callbacks=[note], **QUIET)
    assert note.seen == [round(min(1.0, 0.001 + step / 12), 5) for step in range(15)]
    assert [row["step"] for row in result.history] == [5, 10, 15]
    assert [round(row["inverse_temperature"], 3) for row in result.history] == [0.334, 0.751, 1.0]


def test_metrics_are_those_of_the_posterior_itself(files):
    """Whatever the inverse temperature; on hand-made draws the bounds are what their definitions say."""
    built = built_from(files)
    before = torch.get_rng_state()
    cold = built.evaluate(None)
    assert torch.equal(before, torch.get_rng_state())
    assert float(built.model.inverse_temperature) == pytest.approx(0.001)
    built.model.inverse_temperature.fill_(1.0)
    hot = built.evaluate(None)
    assert cold.pop("inverse_temperature") == pytest.approx(0.001)
    assert hot.pop("inverse_temperature") == 1.0
    assert cold == hot
    assert cold.keys() == {
        *("lower_bound_1", "lower_bound_1_error", "lower_bound_10", "lower_bound_10_error"),
        *("log_evidence", "log_evidence_sd"),
    }
    assert cold["lower_bound_1"] < cold["lower_bound_10"] < cold["log_evidence"] < 0


@pytest.mark.parametrize("elbo", ["vimco", "unordered_set"])
def test_training_tightens_the_bound(files, elbo):
    """By more than 8 nats in 40 steps, far from what 300 draws leave uncertain (about 1 nat)."""
    built = built_from(files, annealing_steps=0)
    if elbo == "unordered_set":
        built.elbo = TraceUnorderedSet_ELBO(8, max_plate_nesting=0)
    before = built.evaluate(None)["lower_bound_1"]
    result = fit(built, alignment(files[0], steps_per_epoch=40), max_epochs=1, seed=1, lr=0.05, **QUIET)
    assert result.metrics["lower_bound_1"] > before + 8
    assert built.plots.keys() == {"topologies", "branch_lengths"}
    for draw in built.plots.values():
        assert draw().figure.axes


def test_resumed_run_equals_undisturbed_one(files, tmp_path):
    """Annealing and learning rate depend on the step alone: a break between or within epochs leaves no trace."""
    data = alignment(files[0], steps_per_epoch=5)
    options = {"max_epochs": 3, "seed": 2, "lr": 0.02, "lr_decay": 0.5, "lr_decay_every": 4} | QUIET
    whole = fit(built_from(files), data, **options)
    with pytest.raises(StopError):
        fit(
            built_from(files),
            data,
            **options,
            out=tmp_path / "run",
            checkpoint_every_n_steps=2,
            callbacks=[StopAfter(8)],
        )
    pyro.set_rng_seed(99)
    resumed = fit(built_from(files), data, **options, out=tmp_path / "run", resume=True)
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    expected = parameters(whole)
    assert all(torch.equal(value, expected[name]) for name, value in parameters(resumed).items())


def test_golden_sample_is_compared_with(files, tmp_path):
    golden = str(tmp_path / "golden.nwk")
    write_trees(golden, TreeSet(TAXA, TREES[:4], weights=torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)))
    few = str(tmp_path / "few.nwk")
    write_trees(few, TreeSet(TAXA, TREES[:3]))
    built = build(alignment(files[0]), [few], golden=[golden, golden], **SMALL)
    network = SubsplitBayesianNetwork(built.guide.lengths.support, built.guide.logits.detach().double())
    found = built.evaluate(None)
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    assert found["kl"] == pytest.approx(float(tree_kl(TREES[:4], network, weights, floor=FLOOR)))
    inside = network.log_prob(TREES[:4]) > -math.inf
    assert found["golden_in_support"] == pytest.approx(float(weights[inside].sum()))
    assert {"kl"} <= built.curves.keys()
    assert built.plots["golden"]().get_xlabel() == "frequency in the reference"
    (network_line, golden_line) = built.plots["topologies"]().get_lines()
    assert sum(golden_line.get_ydata()) <= 1 + 1e-9
    assert list(network_line.get_ydata()) == sorted(network_line.get_ydata(), reverse=True)


def test_files_are_of_use_elsewhere(files, tmp_path):
    built = built_from(files)
    with torch.no_grad():
        built.guide.logits.normal_()
    for name, write in built.files.items():
        write(tmp_path / name)
    network = SubsplitBayesianNetwork.load(tmp_path / "network.npz")
    own = SubsplitBayesianNetwork(built.guide.lengths.support, built.guide.logits.detach().double())
    torch.testing.assert_close(network.log_prob(TREES), own.log_prob(TREES))
    trees = read_trees(tmp_path / "topologies.nex")
    torch.testing.assert_close(trees.weights, network.log_prob(trees.parents).exp())
    law = built.guide.lengths(trees.parents[:1]).base_dist
    torch.testing.assert_close(trees.branch_lengths[0], law.icdf(torch.tensor(0.5))[0].double())
    # A network is a support, too.
    again = build(alignment(files[0]), [str(tmp_path / "network.npz")], **SMALL)
    assert again.guide.lengths.support == built.guide.lengths.support


def test_supports_of_several_files_are_united(files, tmp_path):
    parts = [TREES[:3], TREES[50:52], TREES[70:71]]
    names = [str(tmp_path / name) for name in ("first.nwk", "second.nex", "third.npz")]
    for name, trees in zip(names[:2], parts[:2], strict=True):
        write_trees(name, TreeSet(TAXA, trees))
    SubsplitSupport.from_trees(parts[2], taxa=TAXA).save(names[2])
    built = build(alignment(files[0]), names, **SMALL)
    assert built.guide.lengths.support == SubsplitSupport.from_trees(torch.cat(parts), taxa=TAXA)


def test_roots_can_be_forgotten(files, tmp_path):
    rooted = tmp_path / "rooted.nwk"
    rooted.write_text("((a,b),((c,d),(e,f)));")
    built = build(alignment(files[0]), [str(rooted)], unroot=True, **SMALL)
    tree = parse_trees("(a,b,((c,d),(e,f)));", rooted=False)
    assert built.guide.lengths.support == SubsplitSupport.from_trees(tree)


def write(folder, name, text):
    (folder / name).write_text(text)
    return str(folder / name)


TREE = "(a,b,((c,d),(e,f)));"
WRONG = [
    ({"trees": []}, r"trees must be a list of one or more files of trees, got \[\]"),
    ({"trees": "six.nwk"}, "trees must be a list of one or more files of trees, got 'six.nwk'"),
    ({"trees": ["no.nwk"]}, "trees: there is no file 'no.nwk'"),
    ({"golden": ["no.nwk"]}, "golden: there is no file 'no.nwk'"),
    ({"trees": "rooted"}, "trees: the trees in '.*rooted' are rooted, those of the model are not; forget the roots"),
    ({"golden": "rooted"}, "golden: the trees in '.*rooted' are rooted"),
    ({"trees": "others"}, "trees: '.*others' and the alignment must have the same taxa; only one of them has f, g"),
    ({"golden": "others"}, "golden: '.*others' and the alignment must have the same taxa; only one of them has f, g"),
    ({"trees": "empty"}, "empty: the file is empty"),
    ({"trees": "bad.npz"}, "bad.npz is no file of subsplits, or damaged"),
    ({"num_particles": 0}, "num_particles must be an integer of at least 1, got 0"),
    ({"annealing_steps": -1}, "annealing_steps must be an integer of at least 0, got -1"),
    ({"annealing_start": 0.0}, r"annealing_start must be an inverse temperature in \(0, 1\], got 0.0"),
    ({"branch_rate": 0.0}, "branch_rate must lie between .*, got 0.0"),
    ({"branch_rate": float("inf")}, "branch_rate must lie between .*, got inf"),
    ({"dtype": "float16"}, "dtype must be 'float32' or 'float64', got 'float16'"),
    ({"evaluation_samples": 15}, "evaluation_samples must be a multiple of 10, got 15"),
    ({"evaluation_repeats": 1}, "evaluation_repeats must be an integer of at least 2, got 1"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[str(options) for options, _ in WRONG])
def test_bad_options(files, tmp_path, options, message):
    texts = {"rooted": "((a,b),((c,d),(e,f)));", "others": TREE.replace("f", "g"), "empty": "", "bad.npz": "PK"}
    given = {
        name: [write(tmp_path, value, texts[value])] if isinstance(value, str) and value in texts else value
        for name, value in options.items()
    }
    with pytest.raises(ValueError, match=message):
        build(alignment(files[0]), **{"trees": [files[1]]} | SMALL | given)


def test_other_data_are_refused(files):
    with pytest.raises(ValueError, match="data must be an alignment, got 'digits'; load it by 'alignment'"):
        build(load("digits"), [files[1]])
