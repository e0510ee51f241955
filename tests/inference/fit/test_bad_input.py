"""Each wrong call raises a ValueError with this message, and leaves nothing behind."""

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch

from pyro_ext.datasets import IndexedDataset
from pyro_ext.inference.fit import Built, fit
from pyro_ext.inference.fit.engine import prepare
from tests.inference.fit.toys import QUIET, SIZE, Guide, Model, autoencoder, splits

WRONG = [
    ({"max_epochs": 0}, "max_epochs must be an integer of at least 1, got 0"),
    ({"max_epochs": 1.5}, "max_epochs must be an integer of at least 1, got 1.5"),
    ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
    ({"batch_size": True}, "batch_size must be an integer of at least 1, got True"),
    ({"checkpoint_every_n_steps": -1}, "checkpoint_every_n_steps must be an integer of at least 1, got -1"),
    ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
    ({"lr": float("nan")}, "lr must be a positive number, got nan"),
    ({"lr": "fast"}, "lr must be a positive number, got 'fast'"),
    ({"lr_decay": -0.5}, "lr_decay must be a positive number, got -0.5"),
    ({"lr_decay_every": 0}, "lr_decay_every must be an integer of at least 1, got 0"),
    ({"seed": -1}, "seed must be an integer from 0 to 2**31 - 1, got -1"),
    ({"seed": 0.5}, "seed must be an integer from 0 to 2**31 - 1, got 0.5"),
    ({"resume": True}, "resume=True needs out, the folder of the run to continue"),
    ({"max_steps": 3}, "max_steps is set by fit itself; see its own arguments"),
    ({"epochs": 3}, "fit has no argument 'epochs', nor has lightning's Trainer a flag of that name"),
    (
        {"devices": 0},
        "the Trainer refuses its flags: `Trainer(devices=0)` value is not a valid input using cpu accelerator.",
    ),
    ({"data": 3}, "data must be Splits or a dataset with a length, got int"),
    ({"data": IndexedDataset(torch.zeros(0, 5))}, "data must hold at least one training point, got none"),
    ({"elbo": None}, "elbo must be an ELBO instance such as Trace_ELBO(), got None"),
    (
        {"elbo": pyro.infer.Trace_ELBO},
        "elbo must be an ELBO instance such as Trace_ELBO(), got <class 'pyro.infer.trace_elbo.Trace_ELBO'>",
    ),
    (
        {"elbo": pyro.infer.RenyiELBO()},
        "elbo=RenyiELBO has no differentiable_loss, so it cannot be fitted as a module; "
        "use TraceVIMCO_ELBO for a bound of several samples",
    ),
    (
        {"elbo": pyro.infer.TraceGraph_ELBO()},
        "elbo=TraceGraph_ELBO has no differentiable_loss, so it cannot be fitted as a module; "
        "use TraceLeaveOneOut_ELBO or TraceUnorderedSet_ELBO for discrete sites",
    ),
    (
        {"elbo": pyro.infer.ReweightedWakeSleep()},
        "elbo=ReweightedWakeSleep has no differentiable_loss, so it cannot be fitted as a module; "
        "use TraceVIMCO_ELBO for a bound of several samples",
    ),
    (
        {"elbo": pyro.infer.JitTrace_ELBO()},
        "elbo=JitTrace_ELBO compiles against Pyro's global parameter store, which fit does not use; use Trace_ELBO",
    ),
]


def call(function=fit, **options):
    built = autoencoder()
    if "elbo" in options:
        built.elbo = options.pop("elbo")
    return function(built, options.pop("data", splits()), **{"max_epochs": 1, "batch_size": 35} | QUIET | options)


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_wrong_argument(tmp_path, options, message):
    out = {} if "resume" in options else {"out": tmp_path / "run"}
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole message is compared below
        call(**options, **out)
    assert str(raised.value) == message
    assert list(tmp_path.iterdir()) == []


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
        (full, False, f"out='{full}' is not empty; choose another folder, or continue the run in it with resume=True"),
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


def test_resume_with_other_settings(tmp_path):
    call(out=tmp_path, seed=1)
    for options, message in [
        ({"seed": 2}, "seed=2, but the run to resume began with seed=1; use the same"),
        ({"lr": 0.1}, "lr=0.1, but the run to resume began with lr=0.001; use the same"),
        ({"batch_size": 7}, "batch_size=7, but the run to resume began with batch_size=35; use the same"),
        ({"data": splits(30)}, "size=30, but the run to resume began with size=70; use the same"),
        (
            {"devices": 2, "strategy": "ddp"},
            "processes=2, but the run to resume began with processes=1; use the same",
        ),
    ]:
        with pytest.raises(ValueError) as raised:  # noqa: PT011
            call(out=tmp_path, resume=True, max_epochs=2, **options)
        assert str(raised.value) == message


def test_resume_with_another_model(tmp_path):
    call(out=tmp_path)
    built = autoencoder()
    built.guide.encoder = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Linear(3, 4))
    with pytest.raises(
        ValueError, match=r"the checkpoint does not fit this model: 'elbo.guide.encoder.0.bias' has shape"
    ):
        fit(built, splits(), max_epochs=2, batch_size=35, out=tmp_path, resume=True, **QUIET)


def plain_guide(x, y, index):
    with pyro.plate("data", SIZE, subsample=index):
        pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))


def guide_with_global_param(x, y, index):
    pyro.param("offset", torch.zeros(()))
    plain_guide(x, y, index)


def test_parameter_in_the_global_store():
    built = Built(Model(SIZE), guide_with_global_param, pyro.infer.Trace_ELBO())
    with pytest.raises(
        ValueError, match=r"pyro.param\('offset'\) in a plain function puts a parameter into Pyro's global"
    ):
        fit(built, splits(), max_epochs=1, **QUIET)
    assert len(pyro.get_param_store()) == 0


def test_nothing_to_train():
    model = Model(SIZE).requires_grad_(False)
    with pytest.raises(ValueError, match="model and guide hold no parameters to train; give them PyroParam"):
        fit(Built(model, plain_guide, pyro.infer.Trace_ELBO()), splits(), max_epochs=1, **QUIET)


class SelfSubsampling(Guide):
    def forward(self, x, y, index):
        with pyro.plate("data", SIZE, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(*self.encoder(x).exp().chunk(2, -1)).to_event(1))


@pytest.mark.parametrize("processes", [1, 2])
def test_plate_that_draws_its_own_subsample(processes):
    built = Built(Model(SIZE), SelfSubsampling(SIZE), pyro.infer.Trace_ELBO())
    flags = QUIET | {"devices": processes, "strategy": "ddp" if processes > 1 else "auto"}
    if processes == 1:
        assert prepare(built, splits(), max_epochs=1, batch_size=10, **flags)
    else:
        with pytest.raises(ValueError, match="plate 'data' draws its own subsample, the same one in every process"):
            prepare(built, splits(), max_epochs=1, batch_size=10, **flags)
