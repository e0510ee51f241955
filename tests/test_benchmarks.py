"""The benchmark scripts' own arithmetic, and the part of them that takes no time and needs no peer."""

import argparse
import importlib
import math
from pathlib import Path

import pytest
import torch

from pyro_ext.datasets import IndexedDataset, digits
from pyro_ext.inference import TraceLeaveOneOut_ELBO
from pyro_ext.models.drmm.build import build as build_drmm
from tests.inference.training.toys import StopAfter, StopError

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """Import from the folder that a script run by path imports from."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


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
    fit = runs.fit

    def interrupted(plan, data, settings, **options):
        fit(plan, data, settings, **options, callbacks=[StopAfter(1)])

    monkeypatch.setattr(runs, "fit", interrupted)
    with pytest.raises(StopError):
        runs.run("small", part, "supervised", 0, tmp_path / "parts")
    monkeypatch.setattr(runs, "fit", fit)
    again = runs.run("small", part, "supervised", 0, tmp_path / "parts")
    assert again["curve"] == whole["curve"]
    assert again["error"] == whole["error"]


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
    fit = runs.fit
    monkeypatch.setattr(runs, "fit", lambda *args, **options: fit(*args, **options, callbacks=[StopAfter(5)]))
    with pytest.raises(StopError):
        runs.train(data, "ARMS + linear", 2, 0, 8, tmp_path / "parts", width=5)
    assert runs.curve(tmp_path / "parts", None, "ARMS + linear", 2, 0) == [(4, pytest.approx(whole["curve"][0][1]))]
    monkeypatch.setattr(runs, "fit", fit)
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
    fit = runs.fit

    def interrupted(*args, callbacks, **options):
        fit(*args, callbacks=[*callbacks, StopAfter(3)], **options)

    monkeypatch.setattr(runs, "fit", interrupted)
    with pytest.raises(StopError):
        runs.train(data, "leave-one-out", 0, tmp_path, epochs=2)
    monkeypatch.setattr(runs, "fit", fit)
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
