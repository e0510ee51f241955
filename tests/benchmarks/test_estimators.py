"""Estimators on the whole of MNIST: bits, categorical codes, linear surrogates."""

import argparse
import importlib
import math

import pytest
import torch

from tests.inference.training.toys import StopAfter, StopError


def few_images(script):
    return script.load("digits", binarize="dynamic", num_train=150)


def test_estimators_for_bits_are_measured_and_tabulated(tmp_path, capsys):
    script, rows = importlib.import_module("binary_vae"), importlib.import_module("support.rows")
    options = argparse.Namespace(before=2, width=5, repeats=4, rounds=1)
    measured = rows.FinishedRuns(tmp_path / "variance.csv", ("weights",))
    script._measure_missing(measured, few_images(script), options)
    again = rows.FinishedRuns(tmp_path / "variance.csv", ("weights",))
    script._measure_missing(again, None, options)  # there is nothing left to do
    assert all(len(values) == 7 for values in again.find("4000").values())
    assert set(again.find("4000")) == {script.label(m, 2) for m in ("leave-one-out", "ARMS", "double CV", "RODEO")}
    values = {name: [0.5, 0.03, 0.7, 0.04, 9.0, 8.0, 7.0] for name in again.find("2000")}
    values["leave-one-out, K = 4"] = [0.65, 0.04, 0.75, 0.03, 5.0, 4.0, 3.0]
    made = rows.FinishedRuns(tmp_path / "made.csv", ("weights",))
    made.get("2000", lambda: values)
    capsys.readouterr()
    script.tabulate_variance(importlib.import_module("support.report").Report("binary_vae", "title"), made)
    shown = capsys.readouterr().out
    assert "PASS: ARMS, K = 4 at least 0.12 below leave-one-out, after 2000 steps: 0.15 +- 0.05" in shown
    assert "FAIL: ARMS + linear, K = 4 at least 0.2 below leave-one-out, after 2000 steps: 0.15 +- 0.05" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("| 4 | double CV ")]
    assert [cell.strip() for cell in line.split("|")[3:-1]] == ["0.50", "-0.15 +- 0.05", "-0.05 +- 0.05", "8.0", "2.00"]


def test_an_interrupted_curve_of_bits_continues(tmp_path, monkeypatch):
    script, runs = importlib.import_module("binary_vae"), importlib.import_module("support.binary_runs")
    data = few_images(script)
    whole = runs.train(data, "ARMS + linear", 2, 0, 8, tmp_path / "whole", width=5)
    assert [step for step, _ in whole["curve"]] == [4, 8]
    rows = importlib.import_module("support.rows")
    fit = rows.fit
    monkeypatch.setattr(rows, "fit", lambda *args, **options: fit(*args, **options, callbacks=[StopAfter(5)]))
    with pytest.raises(StopError):
        runs.train(data, "ARMS + linear", 2, 0, 8, tmp_path / "parts", width=5)
    assert runs.curve(tmp_path / "parts", None, "ARMS + linear", 2, 0) == [(4, pytest.approx(whole["curve"][0][1]))]
    monkeypatch.setattr(rows, "fit", fit)
    again = runs.train(data, "ARMS + linear", 2, 0, 8, tmp_path / "parts", width=5)
    assert again["curve"] == whole["curve"]
    assert again["valid_neg_elbo"] == whole["valid_neg_elbo"]


def test_which_estimator_of_bits_is_first(tmp_path, capsys):
    script, rows = importlib.import_module("binary_vae"), importlib.import_module("support.rows")
    finished = rows.FinishedRuns(tmp_path / "curves.csv", ("method", "k", "seed"))
    for seed in range(2):
        finished.get(("leave-one-out", 4, seed), lambda: {"curve": [[1000, 120.0], [2000, 110.0]]})
        finished.get(("ARMS", 4, seed), lambda seed=seed: {"curve": [[1000, 120.0 - 6 * seed], [2000, 100.0]]})
    finished.get(("ARMS", 2, 0), lambda: {"curve": [[1000, 109.0]]})
    measured = rows.FinishedRuns(tmp_path / "variance.csv", ("weights",))
    ms = {"leave-one-out, K = 4": 10.0, "ARMS, K = 4": 20.0, "DisARM, K = 2": 5.0}
    measured.get("2000", lambda: {name: [0.0] * 5 + [value, 0.0] for name, value in ms.items()})
    report = importlib.import_module("support.report").Report("binary_vae", "title")
    (plot,) = script.tabulate_curves(report, finished, measured, tmp_path, 2)
    assert plot.is_file()
    shown = capsys.readouterr().out
    assert (
        "First in steps, 2 seeds: ARMS, K = 4 at 0.70, then leave-one-out, K = 4 at 1.00." in shown
    )  # 1,500 and 1,286 of 2,000 steps
    assert "First in time, 2 seeds: leave-one-out, K = 4 at 1.00, then ARMS, K = 4 at 1.39." in shown
    assert math.isnan(script.steps_to([(1000, 3.0), (2000, 2.0)], 1.0))
    assert list(script.planned(["ARMS", "RODEO"], [4, 2], 1)) == [("ARMS", 4, 0), ("ARMS", 2, 0), ("RODEO", 2, 0)]


@pytest.mark.filterwarnings("ignore:the latent code has collapsed")
def test_categorical_autoencoders_of_mnist_are_trained_kept_and_tabulated(tmp_path, capsys, monkeypatch):
    script, runs = importlib.import_module("mnist_vae"), importlib.import_module("support.mnist_runs")
    data = script.digits(num_train=250)
    data.valid.x, data.valid.y = data.valid.x[:20], data.valid.y[:20]
    monkeypatch.setattr(runs, "METHODS", {name: runs.METHODS[name] for name in ("leave-one-out", *script.PUBLISHED)})
    whole = runs.train(data, "leave-one-out", 0, tmp_path / "whole", epochs=2)
    rows = importlib.import_module("support.rows")
    fit = rows.fit

    def interrupted(*args, callbacks, **options):
        fit(*args, callbacks=[*callbacks, StopAfter(3)], **options)

    monkeypatch.setattr(rows, "fit", interrupted)
    with pytest.raises(StopError):
        runs.train(data, "leave-one-out", 0, tmp_path, epochs=2)
    monkeypatch.setattr(rows, "fit", fit)
    finished = script.FinishedRuns(tmp_path / "runs.csv", ("method", "seed"))
    for name, epochs in (("leave-one-out", 2), ("straight-through Gumbel", 2)):
        finished.get((name, 0), lambda name=name, epochs=epochs: runs.train(data, name, 0, tmp_path, epochs))
    assert finished.find(("leave-one-out", 0))["curve"] == whole["curve"]
    assert runs.kept_epochs(tmp_path, 0) == [1, 2]
    along = script.FinishedRuns(tmp_path / "along.csv", ("epoch", "seed"))
    along.get((1, 0), lambda: runs.variances(data, 1, 0, tmp_path, 4))
    report = importlib.import_module("support.report").Report("mnist_vae", "title")
    capsys.readouterr()
    plots = [*script.tabulate_bounds(report, finished, tmp_path, 1), *script.tabulate_along(report, along, tmp_path)]
    assert all(plot.is_file() for plot in plots)
    shown = capsys.readouterr().out
    assert "70.4 / 89.8" in shown
    assert "sum and sample" in shown


def test_the_best_linear_surrogate_is_what_linear_costs_are():
    """Costs that are linear in the code leave nothing; the others have less variance than without."""
    script = importlib.import_module("support.linear_surrogates")
    vae = importlib.import_module("support.vae")
    data = importlib.import_module("mnist_vae").digits(num_train=150)
    results = script.measure(data, 1, 2, 4, 1)
    assert list(results) == [f"{name}, {each}" for name in script.ESTIMATORS for each in script.SURROGATES]
    assert results["leave-one-out, best linear"][0] < results["leave-one-out, plain"][0]
    plan = vae.autoencoder(data, 2)
    model, guide = vae.bound(plan).model, vae.bound(plan).guide
    x = data.train.x[:3]

    class Linear(torch.nn.Module):
        def forward(self, z):
            return torch.zeros(*z.shape[:-1], x.shape[-1])

    model.decoder = Linear()  # the cost is minus log q and a constant
    slopes = script.BestLinear.of(model, guide, x).slopes
    log_q = guide.encode(x).log_softmax(-1)
    torch.testing.assert_close(slopes - slopes[..., :1], log_q[..., :1] - log_q, atol=1e-4, rtol=0)
