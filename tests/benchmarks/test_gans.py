"""Improved GANs: runs, tables, and runs that were interrupted."""

import importlib

import pytest

from pyro_ext.datasets import IndexedDataset
from tests.inference.training.toys import StopAfter, StopError


@pytest.mark.filterwarnings("ignore:the generator")
def test_improved_gans_are_run_and_tabulated(tmp_path, capsys):
    script, runs = importlib.import_module("gan"), importlib.import_module("support.gan_runs")
    data = importlib.import_module("semi_supervised").load("digits", binarize=None, num_train=60)
    data.valid.x, data.valid.y = data.valid.x[:20], data.valid.y[:20]
    further = IndexedDataset(data.valid.x[:5], data.valid.y[:5])
    options = {"width": 0.1, "evaluation_samples": 10}
    part = runs.Part(lambda seed: data, 20, 2, 2, ("supervised", "feature matching"), options, 1, lambda: further)
    finished = script.FinishedRuns(tmp_path / "runs.csv", ("part", "method", "seed"))
    script.carry_out(finished, "small", part, part.methods, range(1), tmp_path)
    row = finished.find(("small", "feature matching", 0))
    assert [epoch for epoch, _ in row["curve"]] == [1, 2]
    assert 0 <= row["error_of_more"] <= 100
    assert (tmp_path / "small" / "feature-matching-0" / "samples.png").exists()
    report = importlib.import_module("support.report").Report("gan", "title")
    again = script.FinishedRuns(tmp_path / "runs.csv", ("part", "method", "seed"))
    script.tabulate(report, "small", part, script.found(again, "small", part))
    shown = capsys.readouterr().out
    assert "small: 20 labels, 2 epochs, 20 held-out images" in shown
    assert "points that a generator takes off the error" in shown
    assert script.spread_of([1.0, 3.0]) == "2.00 +- 1.00"


def test_an_interrupted_run_of_improved_gans_continues(tmp_path, monkeypatch):
    runs = importlib.import_module("support.gan_runs")
    data = importlib.import_module("semi_supervised").load("digits", binarize=None, num_train=60)
    part = runs.Part(lambda seed: data, 20, 2, 1, ("supervised",), {"width": 0.1}, 1)
    whole = runs.run("small", part, "supervised", 0, tmp_path / "whole")
    rows = importlib.import_module("support.rows")
    fit = rows.fit

    def interrupted(plan, data, settings, **options):
        fit(plan, data, settings, **options, callbacks=[StopAfter(1)])

    monkeypatch.setattr(rows, "fit", interrupted)
    with pytest.raises(StopError):
        runs.run("small", part, "supervised", 0, tmp_path / "parts")
    monkeypatch.setattr(rows, "fit", fit)
    again = runs.run("small", part, "supervised", 0, tmp_path / "parts")
    assert again["curve"] == whole["curve"]
    assert again["error"] == whole["error"]
