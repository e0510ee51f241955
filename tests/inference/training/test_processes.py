"""Runs in processes of their own: killed ones, and several that share one run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.inference.training import toys
from tests.inference.training.script import TOYS
from tests.inference.training.toys import assert_same, parameters, splits, without_seconds

pytestmark = pytest.mark.serial
ROOT = Path(__file__).parents[3]
DDP = {"strategy": "ddp", "devices": 2}
TIMEOUT = 240  # seconds; starting takes most of it on a busy machine


def start(options, **kwargs):
    command = [sys.executable, "-m", "tests.inference.training.script", json.dumps(options)]
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


def kill_at(step, toy, options):
    with start(options | {"toy": toy, "announce": True}, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if line.strip() == f"step {step}":
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("toy", "every"), [("autoencoder", None), ("gan", 2)])
def test_killed_run_resumes_exactly(tmp_path, toy, every):
    options = {"checkpoint_every_n_steps": every}
    kill_at(10, toy, options | {"out": str(tmp_path)})
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["_extra_state"]["steps"]
    assert saved == 7 if every is None else saved >= 8
    assert_same(toys.run(TOYS[toy](), splits(), **options, out=tmp_path, resume=True), toys.run(TOYS[toy](), splits()))


@pytest.mark.parametrize("toy", ["fixed_noise", "gan"])
def test_two_processes_equal_one_with_the_doubled_batch(tmp_path, toy):
    report = tmp_path / "report.json"
    code, _, errors = run(DDP | {"toy": toy, "batch_size": 5, "report": str(report)})
    assert code == 0, errors
    shared = json.loads(report.read_text())
    single = toys.run(TOYS[toy](), splits())
    for name, value in parameters(single).items():
        torch.testing.assert_close(torch.tensor(shared["parameters"][name]), value, rtol=1e-6, atol=1e-6)
    losses = [list(without_seconds(history)[-1].values()) for history in (shared["history"], single.history)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert (tmp_path / "noise0").read_text() != (tmp_path / "noise1").read_text()


@pytest.mark.slow
def test_two_processes_resume_exactly(tmp_path):
    options = DDP | {"toy": "autoencoder", "batch_size": 5}
    reports = []
    for name, epochs, resume in (("whole", 2, False), ("broken", 1, False), ("broken", 2, True)):
        report = tmp_path / f"{name}.json"
        run_options = {"out": str(tmp_path / name), "report": str(report), "max_epochs": epochs, "resume": resume}
        code, _, errors = run(options | run_options)
        assert code == 0, errors
        reports.append(json.loads(report.read_text()))
    assert reports[0]["parameters"] == reports[2]["parameters"]
    assert without_seconds(reports[0]["history"]) == without_seconds(reports[2]["history"])
