"""What ``fit`` trains, reports and leaves alone."""

import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam

import pyro_ext.inference
from pyro_ext.datasets import IndexedDataset, Splits
from pyro_ext.inference.fit import Built, ExtraLoss, LocalELBOModule, fit, local_params
from tests.inference.fit.toys import QUIET, SIZE, Guide, Model, autoencoder, lazy, parameters, splits

OPTIONS = {"max_epochs": 2, "batch_size": 10, "seed": 5, "lr": 0.01} | QUIET


def test_posterior_of_a_normal_mean():
    x = 1.0 + torch.randn(200, 1)

    def model(x, y, index):
        loc = pyro.sample("loc", dist.Normal(x.new_zeros(1), 10.0).to_event(1))
        with pyro.plate("data", 200, subsample=index):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    guide = AutoNormal(model)
    elbo = Trace_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=1)
    result = fit(Built(model, guide, elbo), IndexedDataset(x), max_epochs=250, batch_size=200, lr=0.02, seed=0, **QUIET)
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
    built = autoencoder()
    result = fit(built, data, **OPTIONS | {"batch_size": SIZE, "max_epochs": 3})
    other = autoencoder()
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
    first, second = fit(lazy(), splits(), **OPTIONS), fit(lazy(), splits(), **OPTIONS | {"seed": 6})
    assert len(pyro.get_param_store()) == 0
    own, other = parameters(first), parameters(second)
    assert all(not torch.equal(own[name], other[name]) for name in own)


def test_modules_made_under_either_setting_work():
    for setting in (False, True):
        with pyro.settings.context(module_local_params=setting):
            built = autoencoder()
        fit(built, splits(), **OPTIONS)
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
    result = fit(Built(model, DeltaGuide(), Trace_ELBO()), IndexedDataset(x), **OPTIONS | {"batch_size": 2})
    assert result.metrics["train_loss"] == pytest.approx(3.0 + torch.tensor(2.0).log().item())


def test_history_metrics_and_the_test_split():
    result = fit(autoencoder(), splits(test=True), **OPTIONS)
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert [row["step"] for row in result.history] == [7, 14]
    assert all(row["seconds"] > 0 for row in result.history)
    # The held-out noise is the same in every epoch.
    assert result.history[0]["noise"] == result.history[1]["noise"] == result.metrics["test_noise"]


def test_evaluation_does_not_disturb_training():
    quiet = autoencoder()
    quiet.evaluate = None
    expected = parameters(fit(autoencoder(), splits(test=True), **OPTIONS))
    assert all(
        torch.equal(value, expected[name]) for name, value in parameters(fit(quiet, splits(), **OPTIONS)).items()
    )


def test_evaluation_sees_eval_mode_without_gradients():
    built = autoencoder()
    seen = []

    def evaluate(loader):
        seen.append((built.model.training, torch.is_grad_enabled(), pyro.settings.get("module_local_params")))
        return {}

    built.evaluate = evaluate
    built.guide.encoder.eval()
    fit(built, splits(), **OPTIONS, callbacks=[RaisesUnlessTraining(built.model)])
    assert seen == [(False, False, True)] * 2


class RaisesUnlessTraining(Callback):
    def __init__(self, model):
        self.model = model

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        assert self.model.training


def test_evaluation_now_and_then():
    result = fit(autoencoder(), splits(), **OPTIONS | {"max_epochs": 5}, check_val_every_n_epoch=2)
    assert ["neg_elbo" in row for row in result.history] == [False, True, False, True, True]


def test_early_stopping_sees_held_out_metrics():
    stop = EarlyStopping("noise", patience=2)  # which never falls
    assert len(fit(autoencoder(), splits(), **OPTIONS | {"max_epochs": 9}, callbacks=[stop]).history) == 3


def test_extra_loss_trains_its_own_parameters_and_no_others():
    built = autoencoder(extra=True)
    (extra,) = built.extra_losses
    extra.parameters = critic = list(extra.parameters)
    before = [value.detach().clone() for value in critic]
    with_critic = fit(built, splits(), **OPTIONS)
    assert all(not torch.equal(old, new) for old, new in zip(before, critic, strict=True))
    alone = parameters(fit(autoencoder(), splits(), **OPTIONS))
    assert all(torch.equal(value, alone[name]) for name, value in parameters(with_critic).items())
    assert with_critic.history[-1]["step"] == 14


def test_parameters_of_an_extra_loss_inside_the_model_are_left_to_it():
    built = autoencoder()
    inside = built.guide.encoder.bias
    before = inside.detach().clone()
    built.extra_losses = [ExtraLoss("still", lambda x, y, index: (inside * 0).sum(), [inside])]
    fit(built, splits(), **OPTIONS)
    assert torch.equal(inside, before)


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

    built = Built(model, Amortised(), TraceEnum_ELBO(max_plate_nesting=1))
    x = torch.cat([torch.randn(20) - 2, torch.randn(20) + 2])
    history = fit(built, IndexedDataset(x), **OPTIONS | {"max_epochs": 20, "lr": 0.1}).history
    assert history[-1]["train_loss"] < history[0]["train_loss"] - 0.2


def test_double_precision_flag():
    built = Built(Model(SIZE), Guide(SIZE), Trace_ELBO())
    built.evaluate = lambda loader: {"double": float(next(iter(loader))[0].dtype == torch.float64)}
    result = fit(built, splits(), **OPTIONS, precision="64-true")
    assert result.metrics["double"] == 1.0
    assert {value.dtype for value in result.elbo.parameters()} == {torch.float64}


def test_progress_bar_shows_the_loss(capsys):
    fit(autoencoder(), splits(), **OPTIONS | {"enable_progress_bar": True})
    shown = capsys.readouterr()
    assert "loss=" in shown.out + shown.err
    assert "neg_elbo=" in shown.out + shown.err


def test_package_is_the_function_and_lightning_waits():
    assert pyro_ext.inference.fit(autoencoder(), splits(), **OPTIONS).metrics
    code = (
        "import sys, pyro_ext.inference.fit as engine; engine.Built; engine.LocalELBOModule;"
        "sys.exit('lightning' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = pyro_ext.inference.fit.nothing


@pytest.mark.gpu
def test_on_a_gpu_resumes_exactly(tmp_path):
    flags = OPTIONS | {"accelerator": "gpu", "devices": 1}
    whole = fit(autoencoder(), splits(), **flags)
    fit(autoencoder(), splits(), **flags | {"max_epochs": 1}, out=tmp_path)
    resumed = fit(autoencoder(), splits(), **flags, out=tmp_path, resume=True)
    assert resumed.metrics == whole.metrics


def test_splits_without_held_out_metrics():
    data = splits()
    built = autoencoder()
    built.evaluate = None
    assert fit(built, Splits("toy", data.train, data.valid), **OPTIONS).metrics.keys() == {"train_loss"}


def test_module_is_a_plain_pytorch_module():
    built = autoencoder()
    module = LocalELBOModule(built.model, built.guide, built.elbo)
    module(*splits().train.__getitems__([0, 1, 2])).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
