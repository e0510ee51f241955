"""``pyro-ext fit``: its folder of results, its options, resuming and bad input."""

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback
from pyro.infer import ELBO

import pyro_ext.inference
from pyro_ext.cli.__main__ import main
from pyro_ext.cli.choices import class_path, elbo_names
from pyro_ext.cli.fit.arguments import fit_parser
from pyro_ext.cli.program import Program
from pyro_ext.inference import load_run, local_params

ROOT = Path(__file__).parents[3]
SMALL = [
    *("--data.num_train", "300", "--model.num_latents", "2", "--model.hidden", "[16, 8]"),
    *("--model.evaluation_samples", "1", "--elbo", "Trace_ELBO", "--trainer.accelerator", "cpu"),
    *("--seed", "4"),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fit(*words):
    return main(["fit", "categorical_vae", *SMALL, *words])


def rows(folder):
    table = csv.DictReader((Path(folder) / "metrics.csv").read_text().splitlines())
    return [{name: value for name, value in row.items() if name != "seconds"} for row in table]


def test_results(capsys):
    assert fit("--name", "first", "--trainer.max_epochs", "2") == 0
    folder = Path("runs/first")
    assert capsys.readouterr().out == f"results are in {folder}\n"
    plots = {"loss.png", "reconstruction.png", "samples.png"}
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "last.ckpt",
        "metrics.csv",
        "report.md",
    } | plots
    report = (folder / "report.md").read_text()
    assert report.startswith("# categorical_vae on digits\n")
    assert "| Trace_ELBO " in report
    assert all(f"({name})" in report for name in plots)
    history = rows(folder)
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert f"{float(history[-1]['neg_elbo']):.6g} |" in report
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in plots)


def test_config_of_a_run_repeats_it():
    assert fit("--out", "one", "--trainer.max_epochs", "1", "--elbo.num_particles", "2", "--optimizer.lr", "0.01") == 0
    config = yaml.safe_load(Path("one/config.yaml").read_text())
    assert (config["seed"], config["data"]["num_train"], config["data"]["name"]) == (4, 300, "digits")
    assert config["optimizer"] == {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}
    assert config["program"] == "categorical_vae"
    assert config["elbo"] == {"class_path": "pyro.infer.Trace_ELBO", "init_args": config["elbo"]["init_args"]}
    assert config["elbo"]["init_args"]["num_particles"] == 2
    assert main(["fit", "categorical_vae", "--config", "one/config.yaml", "--out", "two"]) == 0
    assert rows("one") == rows("two")
    # Words override the file wherever they stand.
    assert main(["fit", "categorical_vae", "--seed", "5", "--config", "one/config.yaml", "--out", "three"]) == 0
    assert rows("three") != rows("one")


def test_drawn_seed_is_noted():
    words = [word for word in SMALL if word not in ("--seed", "4")]
    assert main(["fit", "categorical_vae", *words, "--out", "one", "--trainer.max_epochs", "1"]) == 0
    assert isinstance(yaml.safe_load(Path("one/config.yaml").read_text())["seed"], int)
    assert main(["fit", "categorical_vae", "--config", "one/config.yaml", "--out", "two"]) == 0
    assert rows("one") == rows("two")


def test_resume_needs_no_other_option():
    assert fit("--out", "whole", "--trainer.max_epochs", "3") == 0
    assert fit("--out", "part", "--trainer.max_epochs", "1") == 0
    assert main(["fit", "categorical_vae", "--out", "part", "--resume", "--trainer.max_epochs", "3"]) == 0
    assert rows("part") == rows("whole")
    assert yaml.safe_load(Path("part/config.yaml").read_text())["trainer"]["max_epochs"] == 3
    assert "| 3 (9 steps" in Path("part/report.md").read_text()


def test_optimisers_and_schedulers_by_name():
    words = ["--optimizer", "AdamW", "--optimizer.weight_decay", "0.1", "--scheduler", "StepLR"]
    words += ["--scheduler.step_size", "2", "--scheduler.gamma", "0.5", "--scheduler_interval", "step"]
    assert fit("--out", "whole", *words, "--trainer.max_epochs", "2") == 0
    config = yaml.safe_load(Path("whole/config.yaml").read_text())
    assert config["optimizer"] == {"class_path": "torch.optim.AdamW", "init_args": {"weight_decay": 0.1}}
    assert config["scheduler"]["class_path"] == "torch.optim.lr_scheduler.StepLR"
    assert "StepLR(step_size=2, gamma=0.5) per step" in Path("whole/report.md").read_text()
    assert fit("--out", "part", *words, "--trainer.max_epochs", "1") == 0
    assert main(["fit", "categorical_vae", "--out", "part", "--resume", "--trainer.max_epochs", "2"]) == 0
    assert rows("part") == rows("whole")


def test_early_stopping_and_loggers_by_their_own_flags():
    words = ["--early_stopping.patience", "1", "--early_stopping.min_delta", "1000", "--logger", "csv"]
    assert fit("--out", "run", *words, "--trainer.max_epochs", "9") == 0
    assert len(rows("run")) == 2
    assert [path.name for path in Path("run/logs/lightning_logs/version_0").iterdir() if path.suffix == ".csv"]


def test_overwrite_replaces_a_run():
    assert fit("--out", "run", "--trainer.max_epochs", "2") == 0
    assert fit("--out", "run", "--trainer.max_epochs", "1", "--overwrite") == 0
    assert len(rows("run")) == 1
    assert yaml.safe_load(Path("run/config.yaml").read_text())["overwrite"] is False


def test_a_run_can_be_loaded():
    assert fit("--out", "run", "--trainer.max_epochs", "1") == 0
    loaded = load_run("run")
    assert loaded.metrics["neg_elbo"] == float(rows("run")[-1]["neg_elbo"])
    assert loaded.guide.code_shape == (2, 10)
    assert loaded.settings["seed"] == 4
    with local_params():
        assert loaded.guide.encode(loaded.data.valid.x[:3]).shape == (3, 2, 10)


class PressCtrlC(Callback):
    """Sends the signal once, at the start of a step."""

    def __init__(self, step: int = 4) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if pl_module.steps == self.step:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_leaves_a_run_to_resume(capsys):
    assert fit("--out", "whole", "--trainer.max_epochs", "3") == 0
    press = f"{__name__}.PressCtrlC"
    assert fit("--out", "part", "--trainer.max_epochs", "3", f"--trainer.callbacks+={press}") == 130
    shown = capsys.readouterr().err
    assert "continue with: pyro-ext fit categorical_vae --out part --resume\ninterrupted\n" in shown
    assert len(rows("part")) == 1
    assert main(["fit", "categorical_vae", "--out", "part", "--resume"]) == 0
    assert rows("part") == rows("whole")


@pytest.mark.serial
def test_ctrl_c_in_a_process_of_its_own():
    words = [sys.executable, "-m", "pyro_ext.cli", "fit", "categorical_vae", *SMALL, "--out", "run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*words, "--trainer.max_epochs", "100000"], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        while not Path("run/metrics.csv").exists():
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.endswith("continue with: pyro-ext fit categorical_vae --out run --resume\ninterrupted\n")
    done = len(rows("run"))
    epochs = str(done + 2)
    assert main(["fit", "categorical_vae", "--out", "run", "--resume", "--trainer.max_epochs", epochs]) == 0
    assert [row["epoch"] for row in rows("run")] == [str(epoch + 1) for epoch in range(done + 2)]


def test_failure_while_training_is_not_bad_input(capsys):
    broken = f"{__name__}.Breaks"
    assert fit("--out", "run", "--trainer.max_epochs", "1", f"--trainer.callbacks+={broken}") == 1
    assert "ValueError: the model broke" in capsys.readouterr().err


class Breaks(Callback):
    """Fails in the middle of training."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        raise ValueError("the model broke")


def test_help_of_a_model_shows_all_options(capsys):
    assert main(["fit", "categorical_vae", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in (
        "--model.num_latents",
        "--data.num_train",
        "--elbo",
        "--trainer.max_epochs",
        "--optimizer",
        "--resume",
    ):
        assert option in shown
    assert "--trainer.max_steps" not in shown
    assert "<class" not in shown


def test_options_follow_the_data_set(capsys):
    assert main(["fit", "categorical_vae", "--data", "mnist", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["threshold"] == 0.5


def test_every_elbo_of_ours_has_a_short_name():
    ours = {n for n in pyro_ext.inference.__all__ if n.endswith("_ELBO")}
    assert ours <= elbo_names().keys()
    assert class_path("Trace_ELBO") == "pyro.infer.Trace_ELBO"
    assert class_path("some.module.Name") == "some.module.Name"
    assert ELBO.__name__ not in elbo_names()


WRONG = [
    (["--model.num_latents", "2.5"], "--model.num_latents takes a whole number, not '2.5'"),
    (["--model.num_latents", "0"], "--model.num_latents must be an integer of at least 1, got 0"),
    (["--model.depth", "3"], "unrecognized arguments: --model.depth 3"),
    (["--model.num_latent", "3"], "unrecognized arguments: --model.num_latent 3; did you mean --model.num_latents?"),
    (["--data", "letters"], "--data: 'letters' is no data set; those are alignment, celegans, cifar10, "),
    (["--data.num_train", "0"], "--data.num_train must be an integer from 1 to 1796, got 0"),
    (["--elbo=pyro.infer.Nothing"], "--elbo: there is no class 'pyro.infer.Nothing': module 'pyro.infer' has no attr"),
    (["--elbo", "Nothing"], "--elbo: there is no ELBO 'Nothing'; choose a class path or one of Trace"),
    (["--elbo.nothing", "3"], "--elbo.nothing: Trace_ELBO has no option 'nothing'; it has num_particles, "),
    (
        ["--elbo.num_particle", "3"],
        "--elbo.num_particle: Trace_ELBO has no option 'num_particle'; did you mean --elbo.num",
    ),
    (["--optimizer.weigt_decay", "3"], "--optimizer.weigt_decay: Adam has no option 'weigt_decay'; did you mean --opt"),
    (["--optimizer.betas", "3"], "--optimizer.betas takes a list such as [1, 2], not '3'"),
    (["--data.binarize", "x"], "--data.binarize takes threshold or dynamic, not 'x'"),
    (["--resume", "perhaps"], "--resume takes true or false, not 'perhaps'"),
    (["--trainer.gradient_clip_val", "x"], "--trainer.gradient_clip_val takes a number, not 'x'"),
    (["--elbo", "RenyiELBO"], "elbo=RenyiELBO has no differentiable_loss, so it cannot be fitted as a module; use "),
    (
        ["--elbo", "TraceUnorderedSet_ELBO", "--elbo.num_samples", "0"],
        "num_samples must be an integer of at least 1, got",
    ),
    (["--optimizer.lr", "-1"], "optimizer: Adam refuses its options: Invalid learning rate: -1.0"),
    (["--optimizer.lr", "fast"], "--optimizer.lr takes a number, not 'fast'"),
    (["--lr", "0.1"], "unrecognized arguments: --lr 0.1; did you mean --optimizer.lr?"),
    (["--optimizer", "Adamm"], "optimizer must be an import path or one of ASGD, Adadelta, "),
    (
        ["--optimizer", "SGD", "--optimizer.betas", "3"],
        "--optimizer.betas: SGD has no option 'betas'; it has lr, momentum, ",
    ),
    (["--players.critic.optimizer.lr", "1.0"], "there is no player 'critic'; this model has model"),
    (["--scheduler", "StepLR"], "--scheduler StepLR needs --scheduler.step_size"),
    (["--early_stopping.patience", "0"], "patience must be an integer of at least 1, got 0"),
    (["--logger", "paper"], "--logger must be one of csv, tensorboard, wandb, mlflow; got 'paper'"),
    (["--elbo", "TraceDisARM_ELBO"], "guide site 'z' is a OneHotCategorical: TraceDisARM_ELBO takes Bernoulli and "),
    (["--elbo.num_particles", "many"], "--elbo.num_particles must be an integer of at least 1, got 'many'"),
    (["--resume", "--overwrite"], "--resume and --overwrite contradict each other; choose one"),
    (["--overwrite", "--out", "full"], "--out full holds no run that could be overwritten; choose another folder"),
    (
        ["--config", "typo.yaml"],
        "--config: 'typo.yaml' has an option 'model.num_latent' that there is not; did you mean",
    ),
    (["--config", "other.yaml"], "--config: the options are for the model 'drmm', not for 'categorical_vae'"),
    (["--trainer.device", "2"], "unrecognized arguments: --trainer.device=2; did you mean --trainer.devices?"),
    (["--data.num_train", "0"], "--data.num_train must be an integer from 1 to 1796, got 0"),
    (["--data.threshold", "99"], "--data.threshold must be a number in [0, 16), got 99.0"),
    (["--seed", "-1"], "--seed must be an integer from 0 to 2147483647, got -1"),
    (["--batch_size", "0"], "--batch_size must be an integer of at least 1, got 0"),
    (["--trainer.max_epochs", "0"], "max_epochs must be an integer of at least 1, got 0"),
    (["--trainer.max_epochs", "many"], "--trainer.max_epochs takes a whole number, not 'many'"),
    (["--trainer.devices", "0"], "the Trainer refuses its flags: `Trainer(devices="),
    (["--trainer.max_steps", "3"], "unrecognized arguments: --trainer.max_steps=3"),
    (["--config", "nothing.yaml"], "--config: 'nothing.yaml' cannot be read: [Errno 2] No such file or directory: "),
    (["--config", "list.yaml"], "--config: 'list.yaml' must hold options by name, as --print_config prints them"),
    (["--resume"], "--resume, but 'run/last.ckpt' does not exist; start the run without resume"),
    (["--out", "full"], "--out full is not empty; choose another folder, continue the run in it with --resume"),
    (["--out", "list.yaml/run"], "--out list.yaml/run cannot be a folder: '"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_bad_input_is_one_line_and_leaves_nothing(capsys, words, message):
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    Path("list.yaml").write_text("[1, 2]")
    Path("typo.yaml").write_text("model: {num_latent: 3}")
    Path("other.yaml").write_text("program: drmm")
    assert fit("--out", "run", *words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"pyro-ext: {message}")
    assert shown.err.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["full", "list.yaml", "other.yaml", "typo.yaml"]
    assert [path.name for path in Path("full").iterdir()] == ["notes.txt"]


def test_an_elbos_option_needs_an_elbo(capsys):
    assert main(["fit", "categorical_vae", "--elbo.num_particles", "3"]) == 2
    expected = "pyro-ext: --elbo.num_particles needs --elbo NAME, the ELBO whose option it is\n"
    assert capsys.readouterr().err == expected


PAGE = (ROOT / "docs" / "own_model.md").read_text()
OWN, BY_HAND = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_a_program_of_ones_own_with_two_players(capsys, monkeypatch):
    assert sum(bool(line.strip()) for line in OWN.splitlines()) <= 40
    Path("circle_gan.py").write_text(OWN)
    words = ["fit", "circle_gan:build", "--data", "circle_gan:load", "--data.num_points", "80", "--model.hidden", "6"]
    words += ["--players.generator.optimizer", "RMSprop", "--players.generator.optimizer.lr", "0.005", "--seed", "3"]
    words += ["--batch_size", "20", "--trainer.accelerator", "cpu"]
    assert main([*words, "--out", "whole", "--trainer.max_epochs", "3"]) == 0
    assert rows("whole")[-1].keys() == {"epoch", "step", "train_critic", "train_generator"}
    report = Path("whole/report.md").read_text()
    assert "optimiser of generator" in report
    assert "RMSprop(lr=0.005)" in report
    assert main([*words, "--out", "part", "--trainer.max_epochs", "1"]) == 0
    assert main(["fit", "circle_gan:build", "--out", "part", "--resume", "--trainer.max_epochs", "3"]) == 0
    assert rows("part") == rows("whole")
    with pytest.raises(ValueError, match="which is not part of pyro_ext; pass what your build returns"):
        load_run("part")
    assert main(["fit", "circle_gan:build", "--data", "circle_gan:load", "--elbo", "Trace_ELBO", "--out", "no"]) == 2
    assert "--elbo needs a model that is trained by one ELBO; this one has no ELBO" in capsys.readouterr().err
    assert main(["fit", "circle_gan:build", "--data", "circle_gan:load", "--optimizer.lr", "1", "--out", "no"]) == 2
    assert "--optimizer is for one player, this model has critic, generator" in capsys.readouterr().err
    assert main(["fit", "circle_gan:built", "--data", "circle_gan:load"]) == 2
    assert main(["fit", "circle_gan:build"]) == 2
    assert main(["fit", "nowhere:build", "--data", "digits"]) == 2
    shown = capsys.readouterr().err
    assert "MODEL: module 'circle_gan' has no function 'built'" in shown
    assert "--data is needed for a model of your own" in shown
    assert "MODEL: 'nowhere:build' cannot be imported: No module named 'nowhere'" in shown
    assert not Path("no").exists()
    monkeypatch.syspath_prepend(".")
    exec(compile(BY_HAND, "own_model.md", "exec"), {})
    assert Path("runs/by_hand/last.ckpt").is_file()


def test_a_mapping_of_arrays_is_data_of_ones_own(tmp_path):
    Path("stripes.py").write_text(
        "import numpy as np\n"
        "def load(number: int = 20):\n"
        '    x = (np.arange(64) % np.arange(2, 2 + number)[:, None] == 0).astype("float32")\n'
        '    return {"train": x, "valid": x[:5]}\n'
    )
    words = ["fit", "categorical_vae", "--data", "stripes:load", "--data.number", "30", "--out", "stripes"]
    assert main([*words, "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]) == 0
    assert len(rows("stripes")) == 1


def test_lines_instead_of_a_bar_where_there_is_no_terminal(capsys):
    assert fit("--out", "run", "--trainer.max_epochs", "2") == 0
    shown = capsys.readouterr().err
    assert shown.count("epoch 2/2: train_loss ") == 1
    assert len(shown.splitlines()) <= 3


def test_a_long_run_says_how_long_it_takes(capsys, monkeypatch):
    monkeypatch.setattr("pyro_ext.cli.fit.progress._LONG", 0.0)
    monkeypatch.setattr("pyro_ext.cli.fit.progress._MEASURED", 3)
    assert fit("--out", "run", "--trainer.max_epochs", "2", "--batch_size", "10") == 0
    assert "2 epochs of 30 steps: about 0 minutes on this machine" in capsys.readouterr().err


def test_defaults_of_data_are_for_the_data_set_that_the_model_names():
    def defaults(model, data):
        return fit_parser(Program.named(model, data)).get_defaults()

    assert defaults("drmm", "digits")["data.binarize"] is None
    assert defaults("categorical_vae", "digits")["data.binarize"] == "threshold"
    assert defaults("drmm", "mnist")["data.binarize"] == "threshold"
    assert defaults("drmm", "mnist")["trainer.max_epochs"] == 40


def test_curves_say_what_they_are_of(tmp_path, monkeypatch):
    from pyro_ext.cli.fit import report

    ax = report._curves([{"epoch": 1, "a": 0.5}], {"a": "accuracy"}, "share", "of images")
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(), ax.get_legend()) == ("epoch", "share", "of images", None)
    monkeypatch.chdir(tmp_path)
    seen = {}
    note = lambda history, metrics, label, title, **rest: seen.setdefault((*metrics,), (label, title))  # noqa: E731
    monkeypatch.setattr(report, "_curves", note)
    words = ["fit", "geco_vae", "--trainer.max_epochs", "1", "--data.num_train", "100", "--out", "run"]
    main([*words, "--trainer.accelerator", "cpu"])
    assert seen[("train_multiplier_x",)] == ("multiplier", "geco_vae: multiplier x")


def test_long_curves_alone_may_begin_outside():
    from pyro_ext.cli.fit import report

    def seen(number, zoom=True):
        rows = [{"epoch": at + 1, "a": 100.0 if at == 0 else 1.0 + at / number} for at in range(number)]
        ax = report._curves(rows, {"a": "a"}, "nats", "bound", zoom=zoom)
        return ax.get_ylim()[1], ax.get_title()

    assert seen(3)[0] > 100
    assert seen(30, zoom=False)[0] > 100
    top, title = seen(30)
    assert top < 10
    assert title == "bound (early values lie outside)"


@pytest.mark.parametrize(
    ("model", "options", "label", "held_out"),
    [
        ("categorical_vae", {}, "−ELBO per data point (nats)", True),
        ("structured_output", {"units": 2}, "−bound of 5 samples per data point (nats)", False),
        (
            "geco_vae",
            {"likelihood": "bernoulli"},
            "−ELBO without constraints + multipliers × constraints, per data point",
            False,
        ),
    ],
)
def test_losses_are_named_and_not_drawn_beside_others(model, options, label, held_out):
    from pyro_ext.cli.fit import report
    from pyro_ext.datasets import load
    from pyro_ext.models.registry import builder

    plan = builder(model)(load("digits", num_train=20), **options)
    history = [{"epoch": at, "train_loss": 30.0, "neg_elbo": 31.0} for at in (1, 2)]
    (draw,) = report._loss_plots(model, plan, history).values()
    ax = draw()
    assert ax.get_ylabel().replace("\n", " ") == label
    assert ax.get_title() == f"{model}: training loss"
    assert len(ax.lines) == 1 + held_out
    assert ("minus the bound per training point" in report._losses(plan)) == held_out


def test_each_player_has_a_plot_of_its_own_loss():
    from pyro_ext.cli.fit import report
    from pyro_ext.datasets import load
    from pyro_ext.models.registry import builder

    plan = builder("disentangling")(load("digits", num_train=20, binarize=None))
    history = [{"epoch": at, "train_autoencoder": 90.0 - at, "train_discriminator": 2.0} for at in (1, 2)]
    labels = {
        name: draw().get_ylabel().replace("\n", " ") for name, draw in report._loss_plots("m", plan, history).items()
    }
    assert labels == {
        "loss_autoencoder": "weighted sum of −ELBO, swap, adversarial",
        "loss_discriminator": "cross-entropy of real and decoded images (nats per image)",
    }
