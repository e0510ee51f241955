"""Runs in processes of their own: killed ones, and several that share one run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyro_ext.inference.fit import fit
from tests.inference.fit.script import TOYS
from tests.inference.fit.toys import QUIET, autoencoder, parameters, splits, without_seconds

pytestmark = pytest.mark.serial
ROOT = Path(__file__).parents[3]
OPTIONS = {"max_epochs": 3, "batch_size": 10, "seed": 5, "lr": 0.01}
DDP = {"strategy": "ddp", "devices": 2}
TIMEOUT = 240  # seconds; starting takes most of it on a busy machine


def start(options, **kwargs):
    command = [sys.executable, "-m", "tests.inference.fit.script", json.dumps(options)]
    # Lightning chooses a free port for its processes as long as nobody names one.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MASTER_", "PL_", "LOCAL_RANK"))}
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, start_new_session=True, **kwargs)


def finish(process):
    try:
        return process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def run(options):
    process = start(options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = finish(process)
    return process.returncode, output, errors


def kill_at(step, options):
    with start(options | {"toy": "autoencoder", "announce": True}, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if line.strip() == f"step {step}":
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("every", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_run_resumes_exactly(tmp_path, every):
    options = OPTIONS | {"checkpoint_every_n_steps": every}
    kill_at(10, options | {"out": str(tmp_path)})
    step = torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"]
    assert step == 7 if every is None else step >= 8
    resumed = fit(autoencoder(), splits(), **options | QUIET, out=tmp_path, resume=True)
    whole = fit(autoencoder(), splits(), **OPTIONS | QUIET)
    assert resumed.metrics == whole.metrics
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    expected = parameters(whole)
    assert all(torch.equal(value, expected[name]) for name, value in parameters(resumed).items())


def test_two_processes_equal_one_with_the_doubled_batch(tmp_path):
    report = tmp_path / "report.json"
    code, _, errors = run(OPTIONS | DDP | {"toy": "fixed_noise", "batch_size": 5, "report": str(report)})
    assert code == 0, errors
    shared = json.loads(report.read_text())
    single = fit(TOYS["fixed_noise"](), splits(), **OPTIONS | QUIET)
    for name, value in parameters(single).items():
        torch.testing.assert_close(torch.tensor(shared["parameters"][name]), value, rtol=1e-6, atol=1e-6)
    losses = [[row["train_loss"] for row in history] for history in (shared["history"], single.history)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert (tmp_path / "noise0").read_text() != (tmp_path / "noise1").read_text()


@pytest.mark.slow
def test_two_processes_resume_exactly(tmp_path):
    options = OPTIONS | DDP | {"toy": "autoencoder", "batch_size": 5}
    reports = []
    for name, epochs, resume in (("whole", 2, False), ("broken", 1, False), ("broken", 2, True)):
        report = tmp_path / f"{name}.json"
        run_options = {"out": str(tmp_path / name), "report": str(report), "max_epochs": epochs, "resume": resume}
        code, _, errors = run(options | run_options)
        assert code == 0, errors
        reports.append(json.loads(report.read_text()))
    assert reports[0]["parameters"] == reports[2]["parameters"]
    assert without_seconds(reports[0]["history"]) == without_seconds(reports[2]["history"])
