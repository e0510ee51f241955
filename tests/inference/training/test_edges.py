"""Runs at the edges of the contract: each of these once gave a wrong result, lost a file, or failed late."""

from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from pyro_ext.datasets import IndexedDataset, IndexedTuples, as_dataset
from pyro_ext.inference.training import (
    EarlyStopping,
    FitDataModule,
    FitSettings,
    FitWarning,
    Losses,
    LossObjective,
    Objective,
    OptimizerSettings,
    Player,
    SchedulerSettings,
    SumObjective,
    TrainingPlan,
    load_run,
)
from pyro_ext.inference.training.metrics import Progress
from pyro_ext.utils.checks import positive_int
from tests.inference.training.toys import (
    SIZE,
    assert_same,
    autoencoder,
    broken_off_and_resumed,
    lazy,
    run,
    splits,
    with_critic,
)

X = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))


def squares(*batch, net):
    x = batch[0][0] if isinstance(batch[0], tuple | list) else batch[0]
    return net(torch.as_tensor(x)).square().mean()


def of_loss(loss=squares, **fields):
    torch.manual_seed(0)
    return TrainingPlan([Player("net", LossObjective(loss, net=torch.nn.Linear(2, 1)))], **fields)


def test_overwriting_spares_what_no_run_wrote(tmp_path):
    for name in ("metrics.csv", "report.md", "config.yaml", "figure.png"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="holds no run that could be overwritten"):
        run(of_loss(), X, out=tmp_path, overwrite=True)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine"}
    run(of_loss(), X, out=tmp_path / "run", max_epochs=1)
    (tmp_path / "run" / "holiday.png").write_text("mine")
    run(of_loss(), X, out=tmp_path / "run", max_epochs=1, overwrite=True)
    assert (tmp_path / "run" / "holiday.png").read_text() == "mine"


def test_samplers_of_loaders_count():
    rows = TensorDataset(X, torch.arange(20))
    loader = DataLoader(rows, 5, sampler=SubsetRandomSampler(range(15, 20)))
    data = FitDataModule({"train": loader, "valid": loader})
    assert data.size == 5
    (batch,) = data.held_out("valid")
    assert sorted(batch[1].tolist()) == list(range(15, 20))


def test_loaders_need_no_collation_for_labels_that_are_none():
    assert run(of_loss(), DataLoader(IndexedDataset(X), 5), max_epochs=1).history[-1]["step"] == 4


def test_a_run_that_has_stopped_early_stays_stopped(tmp_path):
    def plan():
        return of_loss(evaluate=lambda loader: {"loss": 1.0}, headline="loss")

    data = {"train": X, "valid": X}
    flags = {"early_stopping": EarlyStopping(patience=2), "out": tmp_path}
    first = run(plan(), data, max_epochs=9, **flags)
    assert len(first.history) == 3
    again = run(plan(), data, max_epochs=20, resume=True, **flags)
    assert again.history == first.history


def test_processes_agree_on_the_names_of_losses():
    progress = Progress()
    progress.add({"b": torch.tensor(2.0)}, 3)
    means = progress.means(lambda own: own + torch.tensor([[10.0, 0.0], [10.0, 0.0]]), ["a", "b"])
    assert means == {"a": 1.0, "b": 2.0}


def test_a_plan_fitted_again_takes_the_new_number_of_points():
    plan = autoencoder()
    run(plan, splits(30), max_epochs=1)
    run(plan, splits(), max_epochs=1)
    assert plan.elbo_objectives[0].num_data == SIZE


def collision(x, y, index, net):
    return Losses(net(x).square().mean(), {"loss": x.sum()})


def test_names_that_collide_are_refused():
    with pytest.raises(ValueError, match="two losses would be noted as 'train_loss'; give the term 'loss'"):
        run(of_loss(collision), X)
    for name in ("epoch", "train_loss"):
        plan = of_loss(evaluate=lambda loader, name=name: {name: 7.0})
        with pytest.raises(ValueError, match=f"evaluate must not return '{name}', the name of another column"):
            run(plan, {"train": X, "valid": X})


WINDOWS = [
    ({"accumulate_grad_batches": 0}, "accumulate_grad_batches must be an integer of at least 1, got 0"),
    ({"accumulate_grad_batches": 1.5}, "accumulate_grad_batches must be an integer of at least 1, got 1.5"),
    ({"gradient_clip_val": -1}, "gradient_clip_val must be a positive, finite number, got -1"),
    ({"gradient_clip_algorithm": "foo"}, "gradient_clip_algorithm must be one of None, norm, value; got 'foo'"),
]


@pytest.mark.parametrize("build", [autoencoder, with_critic])
@pytest.mark.parametrize(("flags", "message"), WINDOWS, ids=[message[:25] for _, message in WINDOWS])
def test_wrong_windows_of_gradients_are_refused(build, flags, message):
    with pytest.raises(ValueError, match=message):
        run(build(), splits(), **flags)


def test_lbfgs_does_not_accumulate_beside_another_player():
    plan = with_critic()
    plan.players[1] = replace(plan.players[1], optimizer=OptimizerSettings("LBFGS", lr=0.1))
    with pytest.raises(ValueError, match="accumulate_grad_batches does not go with LBFGS"):
        run(plan, splits(), accumulate_grad_batches=2)


class Wrapped(Objective):
    """An objective of a user's own, with a bound inside."""

    def __init__(self, inner):
        super().__init__()
        self.inner = torch.nn.ModuleList([inner])

    def forward(self, *batch):
        return self.inner[0](*batch)


def test_an_objective_of_ones_own_may_hold_a_bound():
    alone = run(autoencoder(), splits())
    inner = autoencoder().elbo_objectives[0]
    plan = TrainingPlan([Player("model", Wrapped(inner), optimizer=OptimizerSettings("Adam", lr=0.01))])
    assert plan.elbo_objectives == [inner]
    assert [row["train_loss"] for row in run(plan, splits()).history] == [row["train_loss"] for row in alone.history]
    stepped = []
    inner.after_step = lambda: stepped.append(True)
    plan.players[0].objective.after_step()
    assert stepped == [True]


def test_a_lazy_guide_may_belong_to_a_later_player():
    plan = lazy()
    guide = plan.elbo_objectives[0].guide
    spread = LossObjective(
        lambda x, y, index, guide, net: net(x).mean() * guide.locs.loc.sum(), guide=guide, net=torch.nn.Linear(5, 1)
    )
    plan = TrainingPlan([Player("early", spread, spread.modules_by_name["net"].parameters()), *plan.players])
    assert len(run(plan, splits(), max_epochs=1).history) == 1


def test_a_metric_that_is_no_number_is_a_warning():
    plan = of_loss(evaluate=lambda loader: {"loss": float("nan")}, headline="loss")
    with pytest.warns(FitWarning, match="the headline metric loss is nan: training has diverged"):
        run(plan, {"train": X, "valid": X}, max_epochs=1)


@pytest.mark.parametrize(
    "settings", [{"early_stopping": EarlyStopping()}, {"scheduler": SchedulerSettings("ReduceLROnPlateau")}]
)
def test_nothing_follows_held_out_data_that_there_are_not(settings):
    plan = of_loss(evaluate=lambda loader: {"loss": 1.0}, headline="loss")
    with pytest.raises(ValueError, match="follows a held-out metric, and there are no held-out data"):
        run(plan, X, **settings)


def test_a_monitor_that_is_no_metric_is_named():
    plan = of_loss(evaluate=lambda loader: {"loss": 1.0}, headline="loss")
    with pytest.raises(ValueError, match="there is no metric 'los'; monitor one of loss, train_loss"):
        run(plan, {"train": X, "valid": X}, early_stopping=EarlyStopping(monitor="los"))


def factor(step):
    return 0.9**step


def test_schedulers_with_functions_resume(tmp_path):
    def plan():
        scheduler = SchedulerSettings("LambdaLR", interval="step", lr_lambda=factor)
        return autoencoder(OptimizerSettings("Adam", lr=0.01, scheduler=scheduler))

    assert_same(broken_off_and_resumed(plan, tmp_path, 9, every=4), run(plan(), splits()))


def test_batches_of_other_kinds_resume(tmp_path):
    Pair = namedtuple("Pair", ["x", "row"])
    rows = [Pair(x, i) for i, x in enumerate(X)]

    def loader(collate=None):
        return DataLoader(rows, 5, shuffle=True, collate_fn=collate)

    for collate in (None, lambda items: (np.stack([item.x.numpy() for item in items]),)):
        name = tmp_path / str(collate is None)
        whole = run(of_loss(), loader(collate), max_epochs=2)
        run(of_loss(), loader(collate), max_epochs=1, out=name)
        assert_same(run(of_loss(), loader(collate), max_epochs=2, out=name, resume=True), whole)
        assert load_run(name, of_loss()).metrics == whole.metrics


def test_a_look_at_the_data_is_no_step_of_batch_norm():
    norm = torch.nn.BatchNorm1d(2)
    plan = TrainingPlan([Player("norm", LossObjective(lambda x, y, index, net: net(x).square().mean(), net=norm))])
    run(plan, X, max_epochs=1, batch_size=5)
    assert int(norm.num_batches_tracked) == 4


def test_weights_of_sums_are_compared_on_resuming(tmp_path):
    def plan(weight):
        objective = SumObjective({"a": (of_loss().players[0].objective, weight)})
        return TrainingPlan([Player("net", objective)])

    run(plan(1.0), X, max_epochs=1, out=tmp_path)
    with pytest.raises(ValueError, match=r"weights.a=50.0, but the run to resume began with weights.a=1.0"):
        run(plan(50.0), X, max_epochs=2, out=tmp_path, resume=True)


WRONG = [
    (lambda: Player("values", of_loss().players[0].objective), "name of a player must not be 'values', which PyTorch"),
    (
        lambda: LossObjective(squares, type=torch.nn.Linear(1, 1)),
        "name of a module must not be 'type', which PyTorch's",
    ),
    (lambda: SumObjective({"a.b": (of_loss().players[0].objective, 1.0)}), "name of a part must be a word of letters"),
    (lambda: SumObjective({"a": of_loss().players[0].objective}), "part 'a' must be a pair of an Objective and its"),
    (lambda: IndexedTuples(X, None), "parts must be tensors, got Tensor, NoneType"),
    (lambda: IndexedDataset(X.numpy()), "x and y must be tensors, got ndarray and NoneType; see as_dataset"),
    (lambda: as_dataset(np.array(["a", "b"])), "an array of type <U1 cannot be trained on; turn it into numbers"),
    (lambda: as_dataset((X, X, X)), "data must be Splits, arrays, a dataset with a length and items by index, or a"),
    (lambda: of_loss(evaluate=3), "evaluate must be functions, got 3"),
    (lambda: of_loss(schedules=[3]), "schedules must be functions, got 3"),
    (lambda: of_loss(plots=3), "plots must hold functions, got 3"),
    (lambda: of_loss(headline=4), "headline must be the name of a metric, got 4"),
    (lambda: TrainingPlan(of_loss().players[0]), "players must be a list of Player objects, got Player("),
    (lambda: FitSettings(early_stopping="x"), "early_stopping must be EarlyStopping or None, got 'x'"),
    (lambda: FitSettings(scheduler="StepLR"), "scheduler must be SchedulerSettings or None, got 'StepLR'"),
    (lambda: run(of_loss(evaluate=lambda loader: None), {"train": X, "valid": X}), "evaluate must return metrics by"),
    (
        lambda: run(of_loss(lambda x, y, index, net: Losses(net(x).sum(), {"a": 0.5})), X),
        "term 'a' of player 'net' must be a scalar tensor, got 0.5",
    ),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[message[:35] for _, message in WRONG])
def test_wrong_types_are_named(call, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the message is compared
        call()
    assert str(raised.value).startswith(message)


def test_numbers_of_numpy_and_reversed_arrays_are_fine():
    assert positive_int("batch_size", np.int64(3)) == 3
    assert FitSettings(batch_size=np.int64(3)).batch_size == 3
    assert as_dataset(np.arange(6.0).reshape(3, 2)[::-1]).x[0].tolist() == [4.0, 5.0]


def test_settings_can_be_replaced_and_hashed():
    settings = replace(OptimizerSettings("Adam", lr=0.1), name="SGD")
    assert settings == OptimizerSettings("SGD", lr=0.1)
    assert len({settings, OptimizerSettings("SGD", lr=0.1)}) == 1


def test_elbo_of_a_part_of_a_sum_can_be_replaced():
    bound = autoencoder().elbo_objectives[0]
    plan = TrainingPlan([Player("sum", SumObjective({"bound": (bound, 1.0)}))])
    elbo = Trace_ELBO(num_particles=2)
    assert plan.with_elbo(elbo).elbo_objectives[0].elbo is elbo
