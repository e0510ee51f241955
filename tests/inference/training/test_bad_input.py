"""Each wrong call raises a ValueError with this message, and leaves nothing behind."""

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch

from pyro_ext.datasets import IndexedDataset, IndexedTuples, TwoStreams
from pyro_ext.inference.training import (
    EarlyStopping,
    ELBOObjective,
    FitSettings,
    Losses,
    LossObjective,
    OptimizerSettings,
    Player,
    SchedulerSettings,
    SumObjective,
    TrainingPlan,
    fit,
    prepare,
)
from tests.inference.training.toys import QUIET, SIZE, Guide, Model, autoencoder, splits, with_critic

SETTINGS = [
    ({"max_epochs": 0}, "max_epochs must be an integer of at least 1, got 0"),
    ({"max_epochs": 1.5}, "max_epochs must be an integer of at least 1, got 1.5"),
    ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
    ({"batch_size": True}, "batch_size must be an integer of at least 1, got True"),
    ({"checkpoint_every_n_steps": -1}, "checkpoint_every_n_steps must be an integer of at least 1, got -1"),
    ({"seed": -1}, "seed must be an integer from 0 to 2147483647, got -1"),
    ({"seed": 0.5}, "seed must be an integer from 0 to 2147483647, got 0.5"),
]

WRONG = [
    ({"resume": True}, "resume=True needs out, the folder of the run"),
    ({"resume": True, "overwrite": True}, "resume=True and overwrite=True contradict each other; choose one"),
    ({"max_steps": 3}, "max_steps is set by fit itself; see FitSettings"),
    ({"epochs": 3}, "fit has no argument 'epochs', nor has lightning's Trainer a flag of that name"),
    (
        {"devices": 0},
        "the Trainer refuses its flags: `Trainer(devices=0)` value is not a valid input using cpu accelerator.",
    ),
    (
        {"data": 3},
        "data must be Splits, arrays, a dataset with a length and items by index, or a DataLoader over one, got int; "
        "for several arrays that belong together use IndexedTuples",
    ),
    ({"data": {"training": torch.ones(3)}}, "data must have the keys 'train', 'valid' and 'test' only, got training"),
    ({"data": IndexedDataset(torch.zeros(0, 5))}, "data must hold at least one training point, got none"),
    ({"settings": {"max_epochs": 3}}, "settings must be FitSettings, got {'max_epochs': 3}"),
    ({"plan": Model(SIZE)}, "plan must be a TrainingPlan, as a model's build returns it, got Model"),
    (
        {"settings": FitSettings(early_stopping=EarlyStopping()), "plan": with_critic, "evaluate": None},
        "early_stopping needs a held-out metric: name one as monitor, of a plan that has evaluate",
    ),
    (
        {"settings": FitSettings(scheduler=SchedulerSettings("ReduceLROnPlateau")), "evaluate": None},
        "scheduler ReduceLROnPlateau follows the headline metric, and this plan has none; choose another scheduler",
    ),
    (
        {"optimizer": OptimizerSettings("Adam", lr=-1.0)},
        "optimizer: Adam refuses its options: Invalid learning rate: -1.0",
    ),
    (
        {"optimizer": OptimizerSettings("Adam", groups={"*.offset": {"lr": 1.0}})},
        "groups: no parameter has a name like '*.offset'; name parameters that there are",
    ),
]


def test_wrong_settings():
    for options, message in SETTINGS:
        with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole message is compared below
            FitSettings(**options)
        assert str(raised.value) == message


def call(function=fit, **options):
    plan = options.pop("plan", autoencoder)
    plan = plan() if callable(plan) and not isinstance(plan, torch.nn.Module) else plan
    if "evaluate" in options:
        plan.evaluate = options.pop("evaluate")
    if "optimizer" in options:
        plan = plan.with_optimizer(options.pop("optimizer"))
    settings = options.pop("settings", None) or FitSettings(max_epochs=1, batch_size=35, seed=options.pop("seed", None))
    return function(plan, options.pop("data", splits()), settings, **QUIET | options)


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_wrong_argument(tmp_path, options, message):
    out = {} if "resume" in options else {"out": tmp_path / "run"}
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        call(**options, **out)
    assert str(raised.value) == message
    assert list(tmp_path.iterdir()) == []


def objective():
    return LossObjective(lambda x: x.sum(), network=torch.nn.Linear(1, 1))


def shared_parameter():
    one = torch.nn.Parameter(torch.zeros(2))
    return TrainingPlan([Player("a", objective(), [one]), Player("b", objective(), [one])])


PLANS = [
    (lambda: TrainingPlan([]), "players must hold at least one player, got none"),
    (lambda: TrainingPlan([objective()]), "players must hold Player objects, got LossObjective("),
    (lambda: Player("a b", objective()), "name of a player must be a word of letters, digits and underscores, got"),
    (lambda: Player("a", torch.nn.Linear(1, 1)), "objective of player 'a' must be an Objective such as ELBOObjective"),
    (lambda: Player("a", objective(), every=0), "every must be an integer of at least 1, got 0"),
    (lambda: Player("a", objective(), optimizer="Adam"), "optimizer of player 'a' must be OptimizerSettings such as"),
    (
        lambda: TrainingPlan([Player("a", objective(), []), Player("a", objective())]),
        "two players are called 'a'; give each a name of its own",
    ),
    (
        lambda: TrainingPlan([Player("a", objective()), Player("b", objective())]),
        "players a and b have parameters=None; only one player may leave them open, name the parameters of the others",
    ),
    (
        shared_parameter,
        "a parameter of shape (2,) belongs to players 'a' and 'b'; each parameter is trained by one player",
    ),
    (lambda: TrainingPlan([Player("a", objective(), [3])]), "parameters of player 'a' must be nn.Parameters, got 3"),
    (
        lambda: TrainingPlan([Player("a", objective())], headline_mode="low"),
        "headline_mode must be one of min, max; got 'low'",
    ),
    (
        lambda: TrainingPlan([Player("a", objective())]).with_elbo(pyro.infer.Trace_ELBO()),
        "--elbo needs a model that is trained by one ELBO; this one has no ELBO (a)",
    ),
    (
        lambda: with_critic().with_optimizer(OptimizerSettings()),
        "--optimizer is for one player, this model has model, critic; give --players.NAME.optimizer",
    ),
    (
        lambda: with_critic().with_optimizer(OptimizerSettings(), "actor"),
        "there is no player 'actor'; this model has model, critic",
    ),
    (lambda: LossObjective(3), "loss must be a function of the batch, got 3"),
    (lambda: LossObjective(abs, network=3), "network must be a torch.nn.Module, got 3"),
    (
        lambda: LossObjective(lambda x: x)(torch.zeros(3)),
        "loss must return a scalar tensor or Losses, got (3,); take its mean or sum",
    ),
    (lambda: LossObjective(lambda x: 1.0)(0), "loss must return a scalar tensor or Losses, got float; take its mean"),
    (lambda: SumObjective({}), "parts must hold at least one objective, got none"),
    (
        lambda: SumObjective({"a": (objective(), float("nan"))}),
        "the weight of 'a' must be a finite number, got nan",
    ),
    (
        lambda: SumObjective({"a": (objective(), 1.0)}).set_weight("b", 1.0),
        "there is no part 'b'; the parts are a",
    ),
    (lambda: OptimizerSettings("Adams"), "optimizer must be an import path or one of ASGD, "),
    (lambda: OptimizerSettings("nowhere.Adam"), "optimizer: 'nowhere.Adam' cannot be imported: No module named"),
    (lambda: OptimizerSettings("torch.nn.Linear"), "optimizer must be an import path or one of ASGD, "),
    (lambda: OptimizerSettings("SGD", rate=1.0), "optimizer: SGD has no option 'rate'; it has lr, momentum"),
    (lambda: SchedulerSettings("Steps"), "scheduler must be an import path or one of ChainedScheduler, "),
    (lambda: SchedulerSettings("StepLR", interval="batch"), "interval must be one of step, epoch; got 'batch'"),
    (
        lambda: SchedulerSettings("ReduceLROnPlateau", interval="step"),
        "interval='step' does not go with ReduceLROnPlateau, which follows a metric of epochs; use 'epoch'",
    ),
    (lambda: EarlyStopping(patience=0), "patience must be an integer of at least 1, got 0"),
    (lambda: EarlyStopping(window=3, min_delta=0.1), "min_delta must be 0 with a window, got 0.1"),
    (lambda: EarlyStopping(window=0), "window must be an integer of at least 1, got 0"),
    (lambda: EarlyStopping(min_delta=-1.0), "min_delta must be a finite number of at least 0, got -1.0"),
    (lambda: EarlyStopping(mode="low"), "mode must be one of None, min, max; got 'low'"),
    (
        lambda: IndexedTuples(torch.zeros(2), torch.zeros(3)),
        "parts must be tensors of as many rows each, got (2,), (3,)",
    ),
    (lambda: TwoStreams(torch.zeros(2), torch.zeros(0, 3)), "second must hold at least one data point, got none"),
    (
        lambda: TwoStreams(torch.zeros(2), torch.zeros(2), second_batch_size=0),
        "second_batch_size must be an integer of at least 1, got 0",
    ),
    (lambda: elbo(None), "elbo must be an ELBO instance such as Trace_ELBO(), got None"),
    (
        lambda: elbo(pyro.infer.Trace_ELBO),
        "elbo must be an ELBO instance such as Trace_ELBO(), got <class 'pyro.infer.trace_elbo.Trace_ELBO'>",
    ),
    (
        lambda: elbo(pyro.infer.RenyiELBO()),
        "elbo=RenyiELBO has no differentiable_loss, so it cannot be fitted as a module; "
        "use TraceVIMCO_ELBO for a bound of several samples",
    ),
    (
        lambda: elbo(pyro.infer.TraceGraph_ELBO()),
        "elbo=TraceGraph_ELBO has no differentiable_loss, so it cannot be fitted as a module; "
        "use TraceLeaveOneOut_ELBO or TraceUnorderedSet_ELBO for discrete sites",
    ),
    (
        lambda: elbo(pyro.infer.ReweightedWakeSleep()),
        "elbo=ReweightedWakeSleep has no differentiable_loss, so it cannot be fitted as a module; "
        "use TraceVIMCO_ELBO for a bound of several samples",
    ),
    (
        lambda: elbo(pyro.infer.JitTrace_ELBO()),
        "elbo=JitTrace_ELBO compiles against Pyro's global parameter store, which fit does not use; use Trace_ELBO",
    ),
    (lambda: ELBOObjective(abs, abs, pyro.infer.Trace_ELBO(), size=0), "size must be an integer of at least 1, got 0"),
]


def elbo(given):
    return autoencoder().with_elbo(given)


@pytest.mark.parametrize(("make", "message"), PLANS, ids=[message[:40] for _, message in PLANS])
def test_wrong_plan(make, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        make()
    assert str(raised.value).startswith(message)


def test_objectives_that_return_no_scalar_and_metrics_without_the_headline():
    plan = TrainingPlan(
        [Player("a", LossObjective(lambda x, y, index, net: Losses(net(x), {}), net=torch.nn.Linear(5, 1)))]
    )
    with pytest.raises(ValueError, match=r"objective of player 'a' must return a scalar total, got shape \(35, 1\)"):
        call(plan=lambda: plan)
    with pytest.raises(ValueError, match="evaluate must return the headline metric 'neg_elbo', it returned loss"):
        call(evaluate=lambda loader: {"loss": 1.0})


def folder_errors(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "last.ckpt").write_bytes(b"PK nonsense")
    return [
        (full, False, f"out='{full}' is not empty; choose another folder, continue the run in it with resume=True"),
        (file, False, f"out='{file}' cannot be a folder: '{file}' is a file; choose another path"),
        (file / "run", False, f"out='{file}/run' cannot be a folder: '{file}' is a file; choose another path"),
        ("/proc/run", False, "out='/proc/run' cannot be written to: No such file or directory; choose another path"),
        (full, True, f"resume=True, but '{full}/last.ckpt' does not exist; start the run without resume"),
        (
            tmp_path / "no",
            True,
            f"resume=True, but '{tmp_path}/no/last.ckpt' does not exist; start the run without resume",
        ),
        (broken, True, f"'{broken}/last.ckpt' is not a checkpoint written by fit: "),
    ]


def test_wrong_folder(tmp_path):
    for out, resume, message in folder_errors(tmp_path):
        with pytest.raises(ValueError) as raised:  # noqa: PT011
            call(out=out, resume=resume)
        assert str(raised.value).startswith(message)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "file", "full"]
    assert (tmp_path / "file").read_text() == "mine"


def test_nothing_to_overwrite(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no run that could be overwritten; choose another folder"):
        call(out=tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_resume_with_other_settings(tmp_path):
    call(out=tmp_path, seed=1)
    for options, message in [
        ({"seed": 2}, "seed=2, but the run to resume began with seed=1; use the same"),
        (
            {"optimizer": OptimizerSettings("Adam", lr=0.1)},
            "optimizer.lr=0.1, but the run to resume began with optimizer.lr=0.01; use the same",
        ),
        (
            {"optimizer": OptimizerSettings("SGD", lr=0.01)},
            "optimizer.name=SGD, but the run to resume began with optimizer.name=Adam; use the same",
        ),
        (
            {"settings": FitSettings(max_epochs=2, batch_size=7)},
            "batch_size=7, but the run to resume began with batch_size=35; use the same",
        ),
        ({"data": splits(30)}, "size=30, but the run to resume began with size=70; use the same"),
        (
            {"devices": 2, "strategy": "ddp"},
            "processes=2, but the run to resume began with processes=1; use the same",
        ),
    ]:
        with pytest.raises(ValueError) as raised:  # noqa: PT011
            call(out=tmp_path, resume=True, **options)
        assert str(raised.value) == message


def test_resume_with_another_model(tmp_path):
    call(out=tmp_path)
    plan = autoencoder()
    plan.elbo_objectives[0].guide.encoder = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Linear(3, 4))
    with pytest.raises(
        ValueError, match=r"the checkpoint does not fit this model: 'objectives.model.*encoder.0.bias' has"
    ):
        call(plan=lambda: plan, out=tmp_path, resume=True)


def plain_guide(x, y, index):
    with pyro.plate("data", SIZE, subsample=index):
        pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))


def guide_with_global_param(x, y, index):
    pyro.param("offset", torch.zeros(()))
    plain_guide(x, y, index)


def of(model, guide):
    return TrainingPlan.of(model, guide, pyro.infer.Trace_ELBO())


def test_parameter_in_the_global_store():
    with pytest.raises(
        ValueError, match=r"pyro.param\('offset'\) in a plain function puts a parameter into Pyro's global"
    ):
        call(plan=lambda: of(Model(SIZE), guide_with_global_param))
    assert len(pyro.get_param_store()) == 0


def test_nothing_to_train():
    with pytest.raises(ValueError, match="player 'model' has no parameters to train; give its modules PyroParam"):
        call(plan=lambda: of(Model(SIZE).requires_grad_(False), plain_guide))


class SelfSubsampling(Guide):
    def forward(self, x, y, index):
        with pyro.plate("data", SIZE, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(*self.encoder(x).exp().chunk(2, -1)).to_event(1))


@pytest.mark.parametrize("processes", [1, 2])
def test_plate_that_draws_its_own_subsample(processes):
    plan = of(Model(SIZE), SelfSubsampling(SIZE))
    flags = {"devices": processes, "strategy": "ddp" if processes > 1 else "auto"}
    if processes == 1:
        assert call(prepare, plan=lambda: plan, **flags)
    else:
        with pytest.raises(ValueError, match="plate 'data' draws its own subsample, the same one in every process"):
            call(prepare, plan=lambda: plan, **flags)
