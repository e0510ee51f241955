"""Mutation matrices of tumours: labels, and flips that remove conflicts."""

import argparse
import importlib
import math

import pytest
import torch


def test_networks_of_tumours_are_tabulated(tmp_path, capsys, monkeypatch):
    script = importlib.import_module("support.tumour_labels")
    report = importlib.import_module("support.report").Report("tumour", "title")
    finished = importlib.import_module("support.rows").FinishedRuns(
        tmp_path / "runs.csv", ("part", "run", "setting", "seed")
    )
    axes = importlib.import_module("pyro_ext.plotting").given_or_new

    def branching(options, rate, num_train, epochs, seed):
        accuracy = 0.97 if "sort" not in options else 0.9 + 0.1 * seed
        return {"accuracy": accuracy, "curve": [accuracy] * 8, "cpu_seconds": 2.0, "tnbc": 0.125}

    def noise(options, num_train, seed):
        accuracy = 0.7 + num_train / 1e6 if options.get("sort") == "mutations" else 0.75
        return {
            "accuracy": accuracy,
            **dict.fromkeys(("train_accuracy", "sensitivity", "specificity", "cpu_seconds"), 1),
        }

    def real(name, network, with_errors, num_train, epochs, seed):
        return {"probability": 0.25 + 0.5 * seed, "held_out_accuracy": 0.9, "cpu_seconds": 1.0}

    matrix = script.MutationMatrix.of([[1, 0], [1, 1], [0, 0]])
    monkeypatch.setattr(script, "_real_matrices", lambda: {"tnbc": matrix})
    monkeypatch.setattr(script, "train_for_matrix", real)
    monkeypatch.setattr(script, "train_branching", branching)
    monkeypatch.setattr(script, "train_noise", noise)
    monkeypatch.setattr(script, "_NUM_TEST", 20)
    numbers = {"num_train": 10, "epochs": 1, "num_real": 5, "epochs_real": 1}
    options = argparse.Namespace(seeds=2, sizes=[20_000, 50_000], **numbers)
    script.branching_part(report, finished, options, axes(None))
    script.real_part(report, finished, options)
    script.noise_part(report, finished, options, axes(None))
    shown = capsys.readouterr().out
    assert "PASS: two layers, sorted: at least .95 with every seed: 0.9700" in shown
    assert "Without sorting the rows and columns the least of the same network is 0.9000." in shown
    assert "FAIL: rectifier 2 x 400, sorted mutations: mean of 2 seeds at least .73: 0.720" in shown
    assert "PASS: rectifier 2 x 400, sorted mutations: rising with the number of matrices, but for" in shown
    assert "FAIL: rectifier 2 x 400, sorted mutations and cells: rising" in shown
    assert "| tnbc   | 3 x 2 |" in shown
    assert "0.500 |   0.250 to 0.750 |" in shown
    assert "0.125 |   0.125 to 0.125 |" in shown


@pytest.mark.filterwarnings("ignore:only .* are classified correctly")
def test_a_network_of_branches_is_trained_and_tested_with_errors(monkeypatch):
    script = importlib.import_module("support.tumour_labels")
    monkeypatch.setattr(script, "_NUM_TEST", 40)
    results = script.train_branching(script.BRANCHING["pairs"], 0.3, 20, 1, 0)
    assert len(results["curve"]) == 8
    assert 0 <= results["accuracy"] <= 1


@pytest.mark.slow
def test_noise_elimination_is_tabulated(tmp_path, capsys, monkeypatch):
    script, runs = (importlib.import_module(f"support.elimination_{name}") for name in ("parts", "runs"))
    report = importlib.import_module("support.report").Report("tumour", "title")
    monkeypatch.setitem(runs.NETWORKS, script.SEES, {"width": 4, "num_heads": 2, "num_blocks": 0, "state": True})
    small = {"steps": 2, "batch": 4, "options": script.COLD}
    settings = tuple(runs.Setting(script.SEES, name, 3, **small) for name in (script.LEAVE_ONE_OUT, script.CRITIC))
    monkeypatch.setattr(script, "SMALL_SETTINGS", settings)
    monkeypatch.setattr(script, "LARGE", settings[0])
    monkeypatch.setattr(script, "has_scistree", lambda: False)
    script.oracle_4x4(report, tmp_path, number=12)
    script.elimination_10x10(report, tmp_path, number=3)
    script.variance(report, tmp_path, repeats=2, critic_steps=1)
    shown = capsys.readouterr().out
    assert "PASS: no cost is below the oracle's" in shown
    assert "| exact optimum (MaxSAT)" in shown
    assert "| network, 128 sequences, T = 3" in shown
    assert shown.count("| unordered beam of 4") == 2
    script.oracle_4x4(report, tmp_path, number=12)
    assert "..." not in capsys.readouterr().out  # finished rows are not carried out again


def test_oracle_of_small_matrices():
    script = importlib.import_module("support.elimination_runs")
    x = script.random_matrices(3, 4, seed=0)
    assert torch.equal(x, script.random_matrices(3, 4, seed=0))
    free = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]])
    nats = -(12 * math.log(0.998) + 4 * math.log(0.9))
    assert script.oracle_costs(free).item() == pytest.approx(0.04 * nats, rel=1e-4)


@pytest.mark.slow
def test_sequences_without_replacement_have_less_variance_than_a_critic(tmp_path):
    """30 gradients each, for 16 matrices 4 x 4 at the weights of the start; variances differ by a factor of two."""
    script, runs = (importlib.import_module(f"support.elimination_{name}") for name in ("parts", "runs"))
    x = runs.random_matrices(16, 4, seed=3)
    options = {**script.COLD, "false_positive": runs.FALSE_POSITIVE, "false_negative": runs.FALSE_NEGATIVE}
    policy = script._start(runs.Setting(script.SEES, script.LEAVE_ONE_OUT, 6, 1, 1, options=options), x)
    results = {}
    for name in runs.ESTIMATORS:
        setting = runs.Setting(script.SEES, name, 6, 1, 1, options=script.COLD)
        results[name] = runs.gradient_variance(setting, x, policy, critic_steps=150, repeats=30)
        print(name, results[name])
    beam, critic = (results[name]["variance"] for name in ("unordered beam of 4", script.CRITIC))
    assert beam < critic / 2
