"""What ``fit`` trains, reports and leaves alone."""

import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from lightning.pytorch import Callback
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam

import pyro_ext.inference
from pyro_ext.datasets import IndexedDataset, IndexedTuples, Splits, TwoStreams, WholeObject
from pyro_ext.inference import fit
from pyro_ext.inference.training import (
    EarlyStopping,
    FitSettings,
    FitWarning,
    LocalELBOModule,
    Losses,
    LossObjective,
    OptimizerSettings,
    Player,
    SchedulerSettings,
    TrainingPlan,
    local_params,
)
from tests.inference.training.toys import (
    EPOCHS,
    QUIET,
    SIZE,
    STEPS_PER_EPOCH,
    Guide,
    Model,
    autoencoder,
    lazy,
    parameters,
    run,
    splits,
    with_critic,
)


def test_posterior_of_a_normal_mean():
    x = 1.0 + torch.randn(200, 1)

    def model(x, y, index):
        loc = pyro.sample("loc", dist.Normal(x.new_zeros(1), 10.0).to_event(1))
        with pyro.plate("data", 200, subsample=index):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    guide = AutoNormal(model)
    elbo = Trace_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=1)
    plan = TrainingPlan.of(model, guide, elbo, optimizer=OptimizerSettings("Adam", lr=0.02))
    result = run(plan, IndexedDataset(x), max_epochs=250, batch_size=200, seed=0)
    with local_params():
        posterior = guide.median()["loc"]
        scale = guide._get_loc_and_scale("loc")[1]
    exact_scale = (200 + 1 / 100) ** -0.5
    assert abs(posterior.item() - x.sum().item() * exact_scale**2) < 0.5 * exact_scale  # what Adam's steps leave
    assert scale.item() == pytest.approx(exact_scale, rel=0.15)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


def test_same_steps_as_svi():
    torch.manual_seed(0)
    data = splits()
    result = run(autoencoder(), data, batch_size=SIZE)
    other = autoencoder().elbo_objectives[0]
    svi = SVI(other.model, other.guide, Adam({"lr": 0.01}), Trace_ELBO())
    pyro.set_rng_seed(5)
    losses = []
    order = torch.Generator()
    for epoch in range(3):
        from pyro_ext.utils.random_state import mixed_seed

        rows = torch.randperm(SIZE, generator=order.manual_seed(mixed_seed(5, epoch))).tolist()
        losses.append(svi.step(*data.train.__getitems__(rows)) / SIZE)
    assert [row["train_loss"] for row in result.history] == pytest.approx(losses, rel=1e-4)


def test_global_store_stays_empty_and_models_do_not_share():
    first, second = run(lazy(), splits()), run(lazy(), splits(), seed=6)
    assert len(pyro.get_param_store()) == 0
    own, other = parameters(first), parameters(second)
    assert all(not torch.equal(own[name], other[name]) for name in own)


def test_modules_made_under_either_setting_work():
    for setting in (False, True):
        with pyro.settings.context(module_local_params=setting):
            plan = autoencoder()
        run(plan, splits())
        assert len(pyro.get_param_store()) == 0


def test_loss_is_per_datum_and_weighted_by_batch():
    def model(x, y, index):
        scale = pyro.sample("scale", dist.Delta(x.new_ones(())))
        with pyro.plate("data", 5, subsample=index):
            pyro.sample("x", dist.Laplace(x.new_zeros(()), scale), obs=x)

    class DeltaGuide(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.ones(()))

        def forward(self, x, y, index):
            pyro.sample("scale", dist.Delta(self.unused * 0 + 1))

    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    result = run(TrainingPlan.of(model, DeltaGuide(), Trace_ELBO()), IndexedDataset(x), batch_size=2)
    assert result.metrics["train_loss"] == pytest.approx(3.0 + torch.tensor(2.0).log().item())


def test_history_metrics_and_the_test_split():
    result = run(autoencoder(), splits(test=True), max_epochs=2)
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert [row["step"] for row in result.history] == [7, 14]
    assert all(row["seconds"] > 0 for row in result.history)
    # The held-out noise is the same in every epoch.
    assert result.history[0]["noise"] == result.history[1]["noise"] == result.metrics["test_noise"]


def test_evaluation_leaves_no_trace_in_training():
    quiet = autoencoder()
    quiet.evaluate = None
    expected = parameters(run(autoencoder(), splits(test=True)))
    assert all(torch.equal(value, expected[name]) for name, value in parameters(run(quiet, splits())).items())


def test_evaluation_sees_eval_mode_without_gradients():
    plan = autoencoder()
    (objective,) = plan.elbo_objectives
    seen = []

    def evaluate(loader):
        seen.append((objective.model.training, torch.is_grad_enabled(), pyro.settings.get("module_local_params")))
        return {"neg_elbo": 0.0}

    plan.evaluate = evaluate
    objective.guide.encoder.eval()
    run(plan, splits(), callbacks=[RaisesUnlessTraining(objective.model)], max_epochs=2)
    assert seen == [(False, False, True)] * 2


class RaisesUnlessTraining(Callback):
    def __init__(self, model):
        self.model = model

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        assert self.model.training


def test_evaluation_now_and_then():
    result = run(autoencoder(), splits(), max_epochs=5, check_val_every_n_epoch=2)
    assert ["neg_elbo" in row for row in result.history] == [False, True, False, True, True]


def test_early_stopping_follows_the_headline_metric():
    plan = autoencoder()
    values = iter([3.0, 1.0, 2.0, 1.5, 0.5])
    plan.evaluate = lambda loader: {"neg_elbo": next(values)}
    assert len(run(plan, splits(), max_epochs=9, early_stopping=EarlyStopping(patience=2)).history) == 4


def test_early_stopping_waits_for_evaluations_and_knows_the_mode():
    plan = autoencoder()
    plan.headline, plan.headline_mode = "accuracy", "max"
    values = iter([1.0, 2.0, 1.0, 3.0])
    plan.evaluate = lambda loader: {"accuracy": next(values)}
    result = run(plan, splits(), max_epochs=9, early_stopping=EarlyStopping(patience=1), check_val_every_n_epoch=2)
    assert len(result.history) == 6


def test_early_stopping_resumes_exactly(tmp_path):
    def plan():
        made = autoencoder()
        made.evaluate = lambda loader: {"neg_elbo": 1.0}
        return made

    early = {"early_stopping": EarlyStopping(patience=3)}
    run(plan(), splits(), max_epochs=2, out=tmp_path, **early)
    assert len(run(plan(), splits(), max_epochs=9, out=tmp_path, resume=True, **early).history) == 4


def test_each_player_trains_its_own_parameters_and_no_others():
    plan = with_critic()
    critic = plan.players[1].parameters
    before = [value.detach().clone() for value in critic]
    result = run(plan, splits())
    assert all(not torch.equal(old, new) for old, new in zip(before, critic, strict=True))
    alone = run(autoencoder(), splits())
    expected = parameters(alone)
    assert all(torch.equal(parameters(result)[name], value) for name, value in expected.items())
    assert [row["train_model"] for row in result.history] == [row["train_loss"] for row in alone.history]
    assert result.history[-1]["step"] == EPOCHS * STEPS_PER_EPOCH
    assert all(p.requires_grad for player in plan.players for p in player.objective.parameters())


def test_players_take_their_steps_every_so_often():
    plan = with_critic(every=3)
    steps = []
    plan.players[1].objective.after_step = lambda: steps.append(plan.steps_so_far)
    plan.schedules = [lambda step: setattr(plan, "steps_so_far", step)]
    run(plan, splits(), max_epochs=2)
    assert steps == [0, 3, 6, 9, 12]


def test_parameters_of_another_player_inside_the_model_are_left_to_it():
    plan = autoencoder()
    inside = plan.elbo_objectives[0].guide.encoder.bias
    before = inside.detach().clone()
    still = LossObjective(lambda x, y, index: (inside * 0).sum())
    plan.players.append(Player("still", still, [inside]))
    run(plan, splits())
    assert torch.equal(inside, before)


def test_a_two_player_game_by_hand():
    """Two players whose every step is computed by hand: order, own optimisers, turns, terms."""
    x, y = torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Parameter(torch.tensor(2.0))

    def left(batch, index_or_labels, index):
        loss = x * y.square()
        return Losses(loss, {"product": x * y})

    players = [
        Player("left", LossObjective(left), [x], OptimizerSettings("SGD", lr=0.1)),
        Player("right", LossObjective(lambda *_: x * y), [y], OptimizerSettings("SGD", lr=1.0), every=2),
    ]
    result = run(TrainingPlan(players), torch.zeros(6), batch_size=2, max_epochs=1)
    a, b, lefts, products, rights = 1.0, 2.0, [], [], []
    for step in range(3):
        lefts.append(a * b**2)
        products.append(a * b)
        a -= 0.1 * b**2
        if step % 2 == 0:
            rights.append(a * b)
            b -= a
    assert (x.item(), y.item()) == pytest.approx((a, b), rel=1e-5)
    assert result.metrics == pytest.approx(
        {"train_left": sum(lefts) / 3, "train_left_product": sum(products) / 3, "train_right": sum(rights) / 2},
        rel=1e-5,
    )


def test_optimisers_with_closures():
    """LBFGS evaluates the loss several times in a step; for one player and for one of two."""

    def plan(extra):
        weights = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
        loss = LossObjective(lambda x, y, index: ((weights - 1) * weights.new_tensor([1.0, 5.0])).square().sum())
        players = [Player("bowl", loss, [weights], OptimizerSettings("LBFGS", lr=1.0, max_iter=20))]
        if extra:
            other = torch.nn.Parameter(torch.zeros(()))
            players.append(Player("other", LossObjective(lambda *_: other), [other]))
        return TrainingPlan(players), weights

    for extra in (False, True):
        made, weights = plan(extra)
        run(made, torch.zeros(4), max_epochs=1, batch_size=4)
        assert weights.tolist() == pytest.approx([1.0, 1.0], abs=1e-4)


def test_parameter_groups_by_name():
    groups = {"*.bias": {"lr": 0.0}}
    plan = autoencoder(OptimizerSettings("SGD", lr=0.01, groups=groups))
    before = {name: p.detach().clone() for name, p in plan.players[0].objective.named_parameters()}
    run(plan, splits())
    after = dict(plan.players[0].objective.named_parameters())
    assert all(torch.equal(after[name], value) == name.endswith("bias") for name, value in before.items())


def test_the_settings_scheduler_is_for_all_players_without_their_own():
    rates = []

    class Note(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])

    falling = SchedulerSettings("StepLR", interval="step", step_size=6, gamma=0.5)
    own = OptimizerSettings("Adam", lr=0.01, scheduler=SchedulerSettings("ConstantLR", factor=1.0))
    run(with_critic(optimizer=own), splits(), scheduler=falling, max_epochs=1, callbacks=[Note()])
    assert rates == [[0.01, 0.1]] * 5 + [[0.01, 0.05]] * 2


SHAPES = {
    "triples": lambda: IndexedTuples(torch.ones(6, 2), torch.zeros(6, 2), torch.zeros(6, 3)),
    "streams": lambda: TwoStreams(torch.ones(6, 2), (torch.zeros(4, 2), torch.arange(4))),
    "object": lambda: WholeObject(torch.ones(3, 2), torch.eye(3), steps_per_epoch=4),
    "tensors": lambda: torch.utils.data.TensorDataset(torch.ones(6, 2), torch.arange(6)),
    "plain": lambda: torch.utils.data.TensorDataset(torch.ones(6, 2)),
    "loader": lambda: torch.utils.data.DataLoader(IndexedDataset(torch.ones(6, 2)), 4, collate_fn=lambda items: items),
    "array": lambda: torch.ones(6, 2).numpy(),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_data_of_every_shape_can_be_trained_on(kind):
    network = torch.nn.Linear(2, 1)
    batches = []

    def loss(*batch, network):
        batches.append(batch)
        x = batch[0][0] if isinstance(batch[0], tuple | list) else batch[0]
        return network(x).square().mean()

    plan = TrainingPlan([Player("net", LossObjective(loss, network=network))])
    if kind == "loader":
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(6, 2)), 4)
    else:
        data = SHAPES[kind]()
    result = run(plan, data, batch_size=4, max_epochs=2)
    widths = {"triples": 4, "streams": 2, "object": 2, "tensors": 2, "plain": 1, "loader": 1, "array": 3}
    assert {len(batch) for batch in batches} == {widths[kind]}
    assert result.history[-1]["step"] == (8 if kind == "object" else 4)


def test_diagnosis_becomes_a_warning():
    plan = autoencoder()
    plan.diagnose = lambda metrics: [f"noise is {metrics['noise']:.2f}"]
    with pytest.warns(FitWarning, match=r"noise is 0\.14"):
        result = run(plan, splits(), max_epochs=1)
    assert result.warnings == ["noise is 0.14"]


def test_enumerated_discrete_latents():
    def model(x, y, index):
        locs = torch.tensor([-2.0, 2.0])
        with pyro.plate("data", 40, subsample=index):
            z = pyro.sample("z", dist.Categorical(x.new_ones(2)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)

    class Amortised(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(1, 2)

        def forward(self, x, y, index):
            with pyro.plate("data", 40, subsample=index):
                logits = self.net(x[:, None])
                pyro.sample("z", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    optimizer = OptimizerSettings("Adam", lr=0.1)
    plan = TrainingPlan.of(model, Amortised(), TraceEnum_ELBO(max_plate_nesting=1), optimizer=optimizer)
    x = torch.cat([torch.randn(20) - 2, torch.randn(20) + 2])
    history = run(plan, IndexedDataset(x), max_epochs=20).history
    assert history[-1]["train_loss"] < history[0]["train_loss"] - 0.2


def test_double_precision_flag():
    plan = TrainingPlan.of(Model(SIZE), Guide(SIZE), Trace_ELBO())
    plan.evaluate = lambda loader: {"double": float(next(iter(loader))[0].dtype == torch.float64)}
    result = run(plan, splits(), precision="64-true")
    assert result.metrics["double"] == 1.0
    assert {value.dtype for value in parameters(result).values()} == {torch.float64}


def test_progress_bar_shows_the_loss(capsys):
    run(with_critic(), splits(), enable_progress_bar=True)
    shown = capsys.readouterr()
    assert "model=" in shown.out + shown.err
    assert "critic=" in shown.out + shown.err
    assert "Epoch 1/3" in shown.out + shown.err
    assert "neg_elbo=" in shown.out + shown.err


def test_fit_is_a_function_and_lightning_waits():
    assert pyro_ext.inference.fit is pyro_ext.inference.training.fit
    code = "import sys, pyro_ext.inference, pyro_ext.inference.training; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = pyro_ext.inference.training.nothing


@pytest.mark.gpu
@pytest.mark.parametrize("build", [autoencoder, with_critic])
def test_on_a_gpu_resumes_exactly(tmp_path, build):
    flags = {"accelerator": "gpu", "devices": 1}
    whole = run(build(), splits(), **flags)
    run(build(), splits(), **flags, max_epochs=1, out=tmp_path)
    assert run(build(), splits(), **flags, out=tmp_path, resume=True).metrics == whole.metrics


def test_splits_without_held_out_metrics():
    data = splits()
    plan = autoencoder()
    plan.evaluate = None
    assert run(plan, Splits("toy", data.train, data.valid)).metrics.keys() == {"train_loss"}


def test_module_is_a_plain_pytorch_module():
    (objective,) = autoencoder().elbo_objectives
    module = LocalELBOModule(objective.model, objective.guide, objective.elbo)
    module(*splits().train.__getitems__([0, 1, 2])).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_default_settings_and_data_in_plain_arrays():
    error = LossObjective(lambda x, y, index, net: (net(x)[:, 0] - y).square().mean(), net=torch.nn.Linear(2, 1))
    x = torch.randn(50, 2)
    data = (x.numpy(), (x @ x.new_tensor([1.0, -1.0])).numpy())
    result = fit(TrainingPlan([Player("net", error)]), data, FitSettings(max_epochs=2), **QUIET)
    assert result.history[1]["train_loss"] < result.history[0]["train_loss"]
