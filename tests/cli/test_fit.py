"""``pyro-ext fit``: its folder of results, its options, resuming and bad input."""

import csv
import os
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
from pyro_ext.cli.elbos import class_path, elbo_names

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--data.num_train", "300", "--model.num_latents", "2", "--model.hidden", "[16, 8]"),
    *("--model.evaluation_samples", "1", "--elbo", "Trace_ELBO", "--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false", "--seed", "4"),
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
    pictures = {"loss.png", "reconstruction.png", "samples.png"}
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "last.ckpt",
        "metrics.csv",
        "report.md",
    } | pictures
    report = (folder / "report.md").read_text()
    assert report.startswith("# categorical_vae on digits\n")
    assert "| ELBO | Trace_ELBO |" in report
    assert all(f"({name})" in report for name in pictures)
    found = rows(folder)
    assert [row["epoch"] for row in found] == ["1", "2"]
    assert f"| neg_elbo | {float(found[-1]['neg_elbo']):.6g} |" in report
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


def test_config_of_a_run_repeats_it():
    assert fit("--out", "one", "--trainer.max_epochs", "1", "--elbo.num_particles", "2", "--lr", "0.01") == 0
    config = yaml.safe_load(Path("one/config.yaml").read_text())
    assert (config["seed"], config["lr"], config["data"]["num_train"], config["data"]["name"]) == (
        4,
        0.01,
        300,
        "digits",
    )
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
    assert "| epochs | 3 (9 steps" in Path("part/report.md").read_text()


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
    for option in ("--model.num_latents", "--data.num_train", "--elbo", "--trainer.max_epochs", "--lr", "--resume"):
        assert option in shown
    assert "--trainer.max_steps" not in shown


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
    (["--model.num_latents", "2.5"], "--model.num_latents: Expected a <class 'int'>. Got value: 2.5"),
    (["--model.num_latents", "0"], "num_latents must be an integer of at least 1, got 0"),
    (["--model.depth", "3"], "unrecognized arguments: --model.depth 3"),
    (["--data", "letters"], "--data: there is no data set 'letters'; choose one of alignment, celegans, cifar10, "),
    (["--data.num_train", "0"], "num_train must be an integer from 1 to 1796, got 0"),
    (["--elbo=pyro.infer.Nothing"], "--elbo: Problem with given class_path 'pyro.infer.Nothing': "),
    (["--elbo", "Nothing"], "--elbo: there is no ELBO 'Nothing'; choose a class path or one of Trace"),
    (["--elbo.nothing", "3"], "--elbo: Problem with given class_path 'pyro.infer.Trace_ELBO': Option 'nothing' is not"),
    (["--elbo", "RenyiELBO"], "elbo=RenyiELBO has no differentiable_loss, so it cannot be fitted as a module; use "),
    (
        ["--elbo", "TraceUnorderedSet_ELBO", "--elbo.num_samples", "0"],
        "num_samples must be an integer of at least 1, got",
    ),
    (["--lr", "-1"], "lr must be a positive number, got -1.0"),
    (["--seed", "-1"], "seed must be an integer from 0 to 2**31 - 1, got -1"),
    (["--batch_size", "0"], "batch_size must be an integer of at least 1, got 0"),
    (["--trainer.max_epochs", "0"], "max_epochs must be an integer of at least 1, got 0"),
    (["--trainer.max_epochs", "many"], "--trainer.max_epochs: Expected a <class 'int'>. Got value: many"),
    (["--trainer.devices", "0"], "the Trainer refuses its flags: `Trainer(devices="),
    (["--trainer.max_steps", "3"], "unrecognized arguments: --trainer.max_steps 3"),
    (["--config", "nothing.yaml"], "--config: 'nothing.yaml' cannot be read: [Errno 2] No such file or directory: "),
    (["--config", "list.yaml"], "--config: 'list.yaml' must hold options by name, as --print_config prints them"),
    (["--resume"], "resume=True, but 'run/last.ckpt' does not exist; start the run without resume"),
    (["--out", "full"], "out='full' is not empty; choose another folder, or continue the run in it with resume=True"),
    (["--out", "list.yaml/run"], "out='list.yaml/run' cannot be a folder: '"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_bad_input_is_one_line_and_leaves_nothing(capsys, words, message):
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    Path("list.yaml").write_text("[1, 2]")
    assert fit("--out", "run", *words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"pyro-ext: {message}")
    assert shown.err.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["full", "list.yaml"]
    assert [path.name for path in Path("full").iterdir()] == ["notes.txt"]


def test_an_elbos_option_needs_an_elbo(capsys):
    assert main(["fit", "categorical_vae", "--elbo.num_particles", "3"]) == 2
    expected = "pyro-ext: --elbo.num_particles needs --elbo NAME, the ELBO whose option it is\n"
    assert capsys.readouterr().err == expected
