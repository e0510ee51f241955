"""Autoencoders: layers of discrete units, few labels, constraints, hard attention."""

import argparse
import importlib
import math

import torch

from pyro_ext.datasets import IndexedDataset


def test_finished_rows_of_structured_output_are_skipped(tmp_path):
    structured_output, runs = (
        importlib.import_module(name) for name in ("structured_output", "support.structured_runs")
    )
    options = argparse.Namespace(seeds=1, numbers=[5], nets=["lower half"], methods=[*runs.METHODS])
    path = tmp_path / "rows.csv"
    rows = runs.finished_runs(path)
    planned = list(structured_output.planned("digits", options, rows))
    assert [run.method for run in planned] == list(runs.METHODS)
    values = {"epochs": 50, "train_nll": "1.500", "curve": "10:9.123 20:8.5"}
    for at, run in enumerate(planned):
        rows.get(run.key(), lambda at=at: values | {"nll": 9.0 - at})
    with path.open("a") as file:
        file.write("digits,lower half,VIM")  # an interrupted run
    again = runs.finished_runs(path)
    assert all(again.find(run.key())["nll"] == 9.0 - at for at, run in enumerate(planned))
    assert again.find(planned[0].key())["curve"] == "10:9.123 20:8.5"
    assert again.find(runs.Run("digits", "lower half", "VIMCO", 50, 0).key()) is None
    assert runs.mean_of(again, planned) == 7.0
    assert structured_output.best(again) == ["unordered set", "leave-one-out", "VIMCO"]
    assert [run.method for run in structured_output.planned("full", options, again)] == structured_output.best(again)


def test_tables_of_few_labels_have_paired_differences(tmp_path, capsys, monkeypatch):
    script = importlib.import_module("semi_supervised")
    report = importlib.import_module("support.report").Report("semi_supervised", "title")
    finished = importlib.import_module("support.rows").FinishedRuns(tmp_path / "runs.csv", ("p", "e", "s"))
    accuracies = {
        "all ten classes": [0.90, 0.92],
        "labelled images only": [0.90, 0.87],
        "sum-and-sample": [0.91, 0.925],
    }
    monkeypatch.setattr(
        script,
        "train",
        lambda data, protocol, estimator, seed: {
            "accuracy": accuracies[estimator][seed],
            "accuracy_of_data": 0.5,
            "neg_elbo": 20.0,
            "cpu_ms_per_step": 7.0,
            "steps": 3.0,
        },
    )
    protocol = script.Protocol(lambda: None, 20, 1, 100, 0, 2, tuple(accuracies))
    monkeypatch.setitem(script.PROTOCOLS, "digits", protocol)
    data = argparse.Namespace(train=[0] * 50, valid=[0] * 9, test=None)
    script.compare(report, finished, data, "digits", [*accuracies])
    shown = capsys.readouterr().out
    assert "+0.75 +- 0.25" in shown
    assert "FAIL: digits: sum-and-sample within .5 points of the sum over all classes: +0.75" in shown
    assert "PASS: digits: points that unlabelled images add to what the labelled ones teach: +2.50" in shown


def test_few_labels_train_on_all_images_and_on_the_labelled_ones(monkeypatch):
    script = importlib.import_module("semi_supervised")
    data = script.load("digits", num_train=40)
    data.valid.x, data.valid.y = data.valid.x[:9], data.valid.y[:9]
    further = script.IndexedDataset(data.valid.x[:3], data.valid.y[:3])
    protocol = script.Protocol(lambda: data, 20, 1, 10, 1, 1, (), further=lambda: further)
    for name in script.ESTIMATORS:
        results = script.train(data, protocol, name, 0)
        assert results["steps"] == 2
        assert math.isfinite(results["neg_elbo"])
        right = round(9 * results["accuracy_of_data"])
        assert round(12 * results["accuracy"]) - right in range(4)


def test_constrained_autoencoders_are_tabulated_as_far_as_they_are_finished(tmp_path, capsys):
    script = importlib.import_module("geco")
    x = torch.rand(40, 16, generator=torch.Generator().manual_seed(0))
    data = script.Splits("images", *(IndexedDataset(part) for part in x.split(20)), image_shape=(4, 4))
    small = {"hidden": (4,), "num_latents": 2}
    runs = {"constrained": small | {"tolerance": 0.1}, "usual": small | script.NO_CONSTRAINT}
    finished = script.FinishedRuns(tmp_path / "runs.csv")
    report = importlib.import_module("support.report").Report("geco", "title")
    script.autoencoders(report, finished, data, runs, "images", 2, 1)
    again = script.FinishedRuns(tmp_path / "runs.csv")
    metrics = script.autoencoders(report, again, None, runs | {"other": small}, "images", 2, 3)
    assert [len(each) for each in metrics.values()] == [1, 1]
    assert metrics["constrained"][0]["largest multiplier"] == metrics["constrained"][0]["multiplier"] > 1
    rows = [row.split("|")[1:] for row in capsys.readouterr().out.splitlines() if row.startswith(("| con", "| usu"))]
    assert len(rows) == 4
    assert rows[1][-2].strip() == "-"


def test_hard_attention_trains_for_a_given_time(tmp_path):
    script = importlib.import_module("hard_attention")
    data = script.load("moving_digits", canvas=28, num_train=4, num_valid=3)
    for name in script.ESTIMATORS:
        results = script.train(data, name, 0, 1e-3, tmp_path / "work")
        assert results["steps"] == results["half_steps"] == 1
        assert math.isfinite(results["neg_elbo"])
    assert len([*(tmp_path / "work").glob("*.png")]) == 2 * len(script.ESTIMATORS)


def test_hard_attention_compares_networks(capsys, monkeypatch):
    script = importlib.import_module("hard_attention")
    monkeypatch.setattr(script, "STEPS", 2)
    data = script.load("moving_digits", canvas=20, digit_size=16, num_train=4, num_valid=3)
    runs = {
        (network, name, 0): script.train_steps(data, name, 0, network)
        for network in script.NETWORKS
        for name in script.BY_NETWORK
    }
    report = importlib.import_module("support.report").Report("hard_attention", "title")
    script.tabulate_networks(report, runs, 1)
    shown = capsys.readouterr().out
    assert "| dense " in shown
    assert "-ELBO after 1 steps" in shown
    assert script.paired([1.0, 4.0], [0.0, 1.0]) == "+2.0 +- 1.0"
