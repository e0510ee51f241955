"""Deep networks without skip connections, and graph convolution."""

import argparse
import importlib

import torch


def test_accuracies_of_deep_networks_are_tabulated(tmp_path, capsys, monkeypatch):
    script = importlib.import_module("looks_linear")
    report = importlib.import_module("support.report").Report("looks_linear", "title")
    finished = importlib.import_module("support.rows").FinishedRuns(tmp_path / "runs.csv", ("network", "depth", "seed"))

    def train(data, options, seed):
        accuracy = {"looks_linear": 0.97, "relu": 0.2 + 0.2 * seed}.get(options["kind"], 0.5)
        return {"accuracy": accuracy, "autocorrelation_1": 1.0, "autocorrelation_15": 0.5, "cpu_seconds": 3.0}

    monkeypatch.setattr(script, "train", train)
    script.classifiers(report, finished, argparse.Namespace(depths=[200], seeds=2))
    shown = capsys.readouterr().out
    assert "PASS: looks-linear, 200 layers: at least .96 with every seed: 0.970" in shown
    assert "FAIL: rectifiers, 200 layers: less than .3 with every seed: 0.400" in shown
    assert "0.200 to 0.400" in shown


def test_a_narrow_laplace_approximation_is_the_most_probable_weights():
    runs = importlib.import_module("support.gcn_runs")
    data = importlib.import_module("gcn").load("karate_club")
    gcn, guide = runs.trained(data, 0, 20)
    with runs.local_params():
        exact, _ = importlib.import_module("gcn").class_probabilities(gcn, guide)
    narrow, wide = (runs.laplace_probabilities(gcn, guide, data, precision, 30) for precision in (1e8, 1e-2))
    torch.testing.assert_close(narrow, exact, atol=1e-3, rtol=0)
    assert abs(wide.max(-1).values.mean() - exact.max(-1).values.mean()) > 0.01


def test_steps_of_graph_convolution_learn():
    runs = importlib.import_module("support.gcn_runs")
    data = runs.random_graph(60, nodes=400, words=50)
    assert data.adjacency.shape == (400, 400)
    _, step = runs.plain_step(data, 0)
    losses = [step() for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
