"""What the scripts share: gradients, rows of finished runs, reports, peers written by hand, the sheet of plots."""

import argparse
import importlib
import math

import pytest
import torch

from pyro_ext.datasets import digits
from pyro_ext.inference import TraceLeaveOneOut_ELBO
from pyro_ext.models.drmm.build import build as build_drmm
from tests.benchmarks.conftest import BENCHMARKS


def test_moments_are_those_of_all_gradients_at_once():
    gradients = importlib.import_module("support.gradients")
    torch.manual_seed(0)
    sample, direction = torch.randn(50, 3, dtype=torch.float64), torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    moments = gradients.Moments(direction)
    for row in sample:
        moments.add(row)
    torch.testing.assert_close(moments.mean, sample.mean(0))
    assert moments.variance == pytest.approx(sample.var(0).sum().item())
    component = sample @ direction
    assert moments.component == pytest.approx((component.mean().item(), component.std().item() / math.sqrt(50)))


def test_a_certain_and_wrong_estimate_has_a_large_z_score():
    gradients = importlib.import_module("support.gradients")
    assert gradients.z_score(1.1, 0.05, 1.0) == pytest.approx(2)
    assert gradients.z_score(1.1, 0.0, 1.0) > 1e3
    assert gradients.z_score(1.0, 0.0, 1.0) == 0


@pytest.mark.parametrize(("eta", "gradient"), [(0.0, -0.045), (-4.0, -0.00317928712)])
def test_true_gradient_of_the_toy(eta, gradient):
    toy = importlib.import_module("support.toy")
    assert toy.true_gradient(eta) == pytest.approx(gradient, rel=1e-6)


def test_our_side_of_the_toy_runs_alone(capsys):
    estimators = importlib.import_module("estimators")
    report = importlib.import_module("support.report").Report("estimators", "title")
    biases = estimators.compare_on_toy(report, None, argparse.Namespace(repeats=2, rounds=1))
    rows = [row.split("|")[1:4] for row in capsys.readouterr().out.splitlines() if row.startswith(("| 0 ", "| -4 "))]
    covering = [name.split() == ["unordered", "set"] and int(k) == 8 for _, k, name in rows]
    exact = [bias.relative for bias, covers in zip(biases, covering, strict=True) if covers]
    assert exact == pytest.approx([0.0, 0.0], abs=1e-5)  # float32


def test_finished_runs_are_not_carried_out_again(tmp_path):
    rows = importlib.import_module("support.rows")
    finished = rows.FinishedRuns(tmp_path / "work" / "runs.csv", ("estimator", "seed"))
    assert finished.get(("exact", 0), lambda: {"accuracy": 0.5, "steps": 3}) == {"accuracy": 0.5, "steps": 3}

    def never():
        raise AssertionError("this run has finished")

    again = rows.FinishedRuns(tmp_path / "work" / "runs.csv", ("estimator", "seed"))
    assert again.get(("exact", 0), never) == {"accuracy": 0.5, "steps": 3}
    again.get(("exact", 1), lambda: {"accuracy": 0.25, "steps": 4})
    path = tmp_path / "work" / "runs.csv"
    lines = path.read_text().splitlines()
    assert lines == ["estimator,seed,accuracy,steps", "exact,0,0.5,3", "exact,1,0.25,4"]
    with path.open("a") as file:
        file.write("exact,2,0.7,")  # an interrupted run
    third = rows.FinishedRuns(path, ("estimator", "seed"))
    assert third.get(("exact", 2), lambda: {"accuracy": 0.75, "steps": 5}) == {"accuracy": 0.75, "steps": 5}
    assert rows.FinishedRuns(path, ("estimator", "seed")).get(("exact", 2), never) == {"accuracy": 0.75, "steps": 5}


def test_runs_with_other_columns_share_a_file(tmp_path):
    rows = importlib.import_module("support.rows")
    (tmp_path / "runs.jsonl").write_text('{"key": "a, b", "value": {"error": 0.5}}\n{"key": "c", "value": 2.5}\n{"key"')
    finished = rows.FinishedRuns(tmp_path / "runs.csv")
    assert finished.find("c") == {"value": 2.5}
    finished.get("d", lambda: {"errors": [3.25, 1.0], "note": "x, y", "missing": math.nan})
    finished.get("e", lambda: {"error": 4})
    again = rows.FinishedRuns(tmp_path / "runs.csv")
    (tmp_path / "runs.jsonl").unlink()
    for each in (finished, again, rows.FinishedRuns(tmp_path / "runs.csv")):
        assert each.find("a, b") == {"error": 0.5}
        assert each.find("d")["errors"] == [3.25, 1.0]
        assert each.find("d")["note"] == "x, y"
        assert math.isnan(each.find("d")["missing"])
        assert each.find("e") == {"error": 4.0}
        assert each.find("f") is None
    assert (tmp_path / "runs.csv").read_text().splitlines()[0] == "run,errors,note,missing,error,value"


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("structured_output-*.csv", ("data", "net", "method", "m", "seed")),
        ("semi_supervised-*.csv", ("protocol", "estimator", "seed")),
        ("hard_attention-*[!s].csv", ("data", "seconds", "estimator", "seed")),
        ("hard_attention-*-networks.csv", ("data", "network", "estimator", "seed")),
    ],
)
def test_saved_rows_can_be_read(pattern, key):
    rows = importlib.import_module("support.rows")
    paths = sorted((BENCHMARKS / "results").glob(pattern))
    assert paths
    for path in paths:
        finished = rows.FinishedRuns(path, key)
        assert len(finished.rows) == len(path.read_text().splitlines()) - 1 > 0
        results = [finished.find(words) for words in finished.rows]
        assert all(isinstance(value, float) for row in results for column, value in row.items() if column != "curve")


def test_reports_keep_what_was_written_by_hand(tmp_path, monkeypatch):
    report = importlib.import_module("support.report")
    monkeypatch.setattr(report, "_FOLDER", tmp_path)
    path = report.Report("some", "title").save()
    before = path.read_text()
    assert report.Report("some", "title").save().read_text().count("\n") == before.count("\n")
    path.write_text("# title\n\nold\n\n## Reading\n\nThis is why.\n\n### More\n\nAnd this.\n\n## Other\n\nold\n")
    for _ in range(2):
        text = report.Report("some", "title").save().read_text()
        assert text.endswith("\n\n## Reading\n\nThis is why.\n\n### More\n\nAnd this.\n")
        assert text.count("Reading") == 1
        assert "old" not in text


def test_reports_are_saved_with_rows_and_plots(tmp_path, monkeypatch):
    report = importlib.import_module("support.report")
    monkeypatch.setattr(report, "_FOLDER", tmp_path / "results")
    for name in ("runs.csv", "curve.png"):
        (tmp_path / name).write_text(name)
    missing = tmp_path / "not_run.csv"
    path = report.Report("some", "title").save(tmp_path / "runs.csv", {"curve.png": tmp_path / "curve.png"})
    assert path.with_suffix(".csv").read_text() == "runs.csv"
    assert path.with_name(f"{path.stem}-curve.png").read_text() == "curve.png"
    report.Report("other", "title").save(missing, {"not_run.csv": missing})
    assert len(list(path.parent.glob("other-*"))) == 1


def test_steps_written_by_hand_have_our_gradients():
    vae = importlib.import_module("support.vae")
    by_hand = importlib.import_module("support.hand_written").HAND_WRITTEN["leave-one-out"]
    plain_total = importlib.import_module("support.plain_drmm").plain_total
    splits = digits()
    plan = vae.autoencoder(splits, 20)
    bound, x = vae.bound(plan), splits.train.x[:10]
    elbo = TraceLeaveOneOut_ELBO(4, analytic_kl=True, max_plate_nesting=1)
    torch.manual_seed(0)
    vae.step(plan, elbo, (x, None, torch.arange(10)))()
    ours = [p.grad.clone() for p in bound.parameters()]
    assert all(gradient.abs().sum() > 0 for gradient in ours)
    torch.manual_seed(0)
    bound.zero_grad()
    by_hand(bound.guide.encoder, bound.model.decoder, x, 4).backward()
    torch.testing.assert_close([p.grad for p in bound.parameters()], ours, atol=1e-5, rtol=1e-4)
    objective = build_drmm(splits).players[0].objective
    torch.testing.assert_close(plain_total(objective, x), objective(x).total)


def test_the_sheet_of_plots_has_every_command_and_every_file(tmp_path, monkeypatch, capsys):
    from pyro_ext.cli.__main__ import COMMANDS
    from pyro_ext.models import MODELS
    from pyro_ext.plotting import loss_curve, save

    sheet = importlib.import_module("support.contact_sheet")
    assert sheet.FIT.keys() == MODELS.keys()
    assert {"fit", *(name.split(",")[0].split()[0] for name in sheet.OTHERS)} - {"demo"} == COMMANDS.keys() - {
        "models",
        "completion",
    }
    for name in ("a/loss.png", "b/loss.png"):
        (tmp_path / name).parent.mkdir()
        save(loss_curve([2.0, 1.0]), tmp_path / name, dpi=20)
    sheet.draw(sorted(tmp_path.rglob("*.png")), tmp_path, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    monkeypatch.chdir(tmp_path)
    assert not sheet.run("fit", "fit nothing")
    assert "there is no model" in capsys.readouterr().err
