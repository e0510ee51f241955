"""The training plan of a phylogeny: annealing, metrics, files, exact resume, bad input."""

import math

import pyro
import pytest
import torch
from lightning.pytorch import Callback

from pyro_ext.datasets import Splits, alignment
from pyro_ext.distributions import SubsplitBayesianNetwork, tree_kl
from pyro_ext.inference import OptimizerSettings, SchedulerSettings, TraceUnorderedSet_ELBO, TraceVIMCO_ELBO
from pyro_ext.models.phylo import AnnealedELBO, build
from pyro_ext.models.phylo.evaluation import FLOOR
from pyro_ext.phylo import SubsplitSupport, TreeSet, parse_trees, read_trees, write_trees
from tests.inference.training.toys import assert_same, broken_off_and_resumed, run
from tests.models.phylo.six_taxa import TAXA, TREES, write_files

SMALL = {"evaluation_samples": 100, "evaluation_repeats": 3, "annealing_steps": 12, "num_particles": 4}


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return write_files(folder)


def plan_of(files, **options):
    pyro.set_rng_seed(0)
    return build(alignment(files[0], steps_per_epoch=5), [files[1]], **SMALL | options)


def inverse_temperature(plan):
    return float(plan.elbo_objectives[0].model.inverse_temperature)


def test_the_plan(files):
    plan = plan_of(files)
    (objective,) = plan.elbo_objectives
    assert isinstance(objective, AnnealedELBO)
    assert isinstance(objective.elbo, TraceVIMCO_ELBO)
    assert objective.elbo.num_particles == 4
    assert (plan.headline, plan.headline_mode) == ("lower_bound_10", "max")
    assert {p.dtype for p in objective.guide.parameters()} == {torch.float32}
    in_double = plan_of(files, dtype="float64")
    assert {p.dtype for p in in_double.elbo_objectives[0].guide.parameters()} == {torch.float64}
    assert inverse_temperature(plan) == pytest.approx(0.001)
    assert inverse_temperature(plan_of(files, annealing_steps=0)) == 1.0


def test_published_optimiser(files):
    (player,) = plan_of(files).players
    scheduler = SchedulerSettings("StepLR", interval="step", step_size=20_000, gamma=0.75)
    assert player.optimizer == OptimizerSettings("Adam", lr=1e-3, scheduler=scheduler)


class NoteTemperature(Callback):
    """Notes the inverse temperature of each step, in the middle of it."""

    def __init__(self):
        self.noted = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.noted.append(round(inverse_temperature(pl_module.plan), 5))


def test_the_likelihood_gets_its_weight_step_by_step(files):
    note, data = NoteTemperature(), alignment(files[0], steps_per_epoch=5)
    result = run(plan_of(files), data, callbacks=[note])
    expected = [min(1.0, 0.001 + step / 12) for step in range(15)]
    assert note.noted == [round(value, 5) for value in expected]
    assert [row["step"] for row in result.history] == [5, 10, 15]
    means = [sum(expected[begin : begin + 5]) / 5 for begin in (0, 5, 10)]
    assert [row["train_inverse_temperature"] for row in result.history] == pytest.approx(means)


def test_metrics_are_those_of_the_posterior_itself(files):
    """Whatever the inverse temperature; and they leave no trace in random states or in Pyro's store."""
    plan = plan_of(files)
    before = torch.get_rng_state()
    annealed = plan.evaluate(None)
    assert torch.equal(before, torch.get_rng_state())
    assert len(pyro.get_param_store()) == 0
    assert inverse_temperature(plan) == pytest.approx(0.001)
    plan.elbo_objectives[0].model.inverse_temperature.fill_(1.0)
    assert plan.evaluate(None) == annealed
    assert annealed.keys() == {
        *("lower_bound_1", "lower_bound_1_error", "lower_bound_10", "lower_bound_10_error"),
        *("log_evidence", "log_evidence_sd"),
    }
    assert annealed["lower_bound_1"] < annealed["lower_bound_10"] < annealed["log_evidence"] < 0


@pytest.mark.parametrize("elbo", ["vimco", "unordered_set"])
def test_training_tightens_the_bound(files, elbo):
    """By more than 8 nats in 40 steps, far from what 300 draws leave uncertain (about 1 nat)."""
    plan = plan_of(files, annealing_steps=0).with_optimizer(OptimizerSettings("Adam", lr=0.05))
    if elbo == "unordered_set":
        plan = plan.with_elbo(TraceUnorderedSet_ELBO(8, max_plate_nesting=0))
    before = plan.evaluate(None)["lower_bound_1"]
    result = run(plan, alignment(files[0], steps_per_epoch=40), max_epochs=1, seed=1)
    assert result.metrics["lower_bound_1"] > before + 8


def test_plots_need_no_reference_sample(files):
    plan = plan_of(files)
    assert plan.plots.keys() == {"topologies", "branch_lengths"}
    for draw in plan.plots.values():
        assert draw().figure.axes
    assert len(pyro.get_param_store()) == 0


def test_resumed_run_equals_an_unbroken_one(files, tmp_path):
    """Annealing and learning rate depend on the step alone: a break between or within epochs leaves no trace."""
    scheduler = SchedulerSettings("StepLR", interval="step", step_size=4, gamma=0.5)
    optimizer = OptimizerSettings("Adam", lr=0.02, scheduler=scheduler)
    data = alignment(files[0], steps_per_epoch=5)

    def plan():
        return plan_of(files).with_optimizer(optimizer)

    whole = run(plan(), data, seed=2)
    assert_same(broken_off_and_resumed(plan, tmp_path / "run", step=8, every=2, data=data, seed=2), whole)


def support_of(plan):
    return plan.elbo_objectives[0].guide.lengths.support


def network_of(plan):
    return SubsplitBayesianNetwork(support_of(plan), plan.elbo_objectives[0].guide.logits.detach().double())


def test_golden_sample_is_compared_with(files, tmp_path):
    golden = str(tmp_path / "golden.nwk")
    write_trees(golden, TreeSet(TAXA, TREES[:4], weights=torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)))
    few = str(tmp_path / "few.nwk")
    write_trees(few, TreeSet(TAXA, TREES[:3]))
    plan = build(alignment(files[0]), [few], golden=[golden, golden], **SMALL)
    network = network_of(plan)
    metrics = plan.evaluate(None)
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    assert metrics["kl"] == pytest.approx(float(tree_kl(TREES[:4], network, weights, floor=FLOOR)))
    inside = network.log_prob(TREES[:4]) > -math.inf
    assert metrics["golden_in_support"] == pytest.approx(float(weights[inside].sum()))
    assert {"kl"} <= plan.curves.keys()
    assert plan.plots["golden"]().get_xlabel() == "frequency in the reference sample"
    (network_line, golden_line) = plan.plots["topologies"]().get_lines()
    assert sum(golden_line.get_ydata()) <= 1 + 1e-9
    assert list(network_line.get_ydata()) == sorted(network_line.get_ydata(), reverse=True)


def test_files_are_of_use_elsewhere(files, tmp_path):
    plan = plan_of(files)
    guide = plan.elbo_objectives[0].guide
    with torch.no_grad():
        guide.logits.normal_()
    for name, write in plan.files.items():
        write(tmp_path / name)
    network = SubsplitBayesianNetwork.load(tmp_path / "network.npz")
    torch.testing.assert_close(network.log_prob(TREES), network_of(plan).log_prob(TREES))
    trees = read_trees(tmp_path / "topologies.nex")
    torch.testing.assert_close(trees.weights, network.log_prob(trees.parents).exp())
    lengths = guide.lengths(trees.parents[:1]).base_dist
    torch.testing.assert_close(trees.branch_lengths[0], lengths.icdf(torch.tensor(0.5))[0].double())
    # A file of a network is a file of its support, too.
    again = build(alignment(files[0]), [str(tmp_path / "network.npz")], **SMALL)
    assert support_of(again) == support_of(plan)


def test_supports_of_several_files_are_united(files, tmp_path):
    parts = [TREES[:3], TREES[50:52], TREES[70:71]]
    names = [str(tmp_path / name) for name in ("first.nwk", "second.nex", "third.npz")]
    for name, trees in zip(names[:2], parts[:2], strict=True):
        write_trees(name, TreeSet(TAXA, trees))
    SubsplitSupport.from_trees(parts[2], taxa=TAXA).save(names[2])
    plan = build(alignment(files[0]), names, **SMALL)
    assert support_of(plan) == SubsplitSupport.from_trees(torch.cat(parts), taxa=TAXA)


def test_roots_can_be_forgotten(files, tmp_path):
    rooted = tmp_path / "rooted.nwk"
    rooted.write_text("((a,b),((c,d),(e,f)));")
    plan = build(alignment(files[0]), [str(rooted)], unroot=True, **SMALL)
    tree = parse_trees("(a,b,((c,d),(e,f)));", rooted=False)
    assert support_of(plan) == SubsplitSupport.from_trees(tree)


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
    ({"annealing_start": 0.0}, r"annealing_start must be a number in \(0, 1\], got 0.0"),
    ({"branch_rate": 0.0}, r"branch_rate must be a number in \[1e-06, 1e\+09\], got 0.0"),
    ({"branch_rate": float("inf")}, "branch_rate must be a number in .*, got inf"),
    ({"dtype": "float16"}, "dtype must be one of float32, float64; got 'float16'"),
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
        build(Splits("digits", torch.zeros(2, 64)), [files[1]])


class TestTreesToBeRead:
    """What is left out of files, and what becomes of multifurcations."""

    def test_burnin_and_thinning(self, files, tmp_path):
        whole = read_trees(files[1])
        every_other = SubsplitSupport.from_trees(TreeSet(TAXA, whole.parents[53::2]))
        plan = plan_of(files, burnin=53, thin=2)
        assert plan.elbo_objectives[0].guide.lengths.support == every_other

    def test_multifurcations(self, files, tmp_path):
        path = tmp_path / "multifurcating.nwk"
        path.write_text("(a,b,(c,d),(e,f));\n(a,b,((c,d),(e,f)));\n")
        with pytest.raises(ValueError, match="polytomies"):
            plan_of((files[0], str(path)))
        plan_of((files[0], str(path)), polytomies="random")
        plan = plan_of((files[0], str(path)), polytomies="skip")
        assert plan.elbo_objectives[0].guide.lengths.support == SubsplitSupport.from_trees(
            parse_trees("(a,b,((c,d),(e,f)));")
        )
