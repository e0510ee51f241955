import csv
import json
import math

import pytest
import torch

from pyro_ext.cli.demo import race
from pyro_ext.cli.demo.__main__ import main
from pyro_ext.cli.demo.report import Outcome, compare, metrics_csv, report

OUTCOMES = [
    Outcome("Trace_ELBO", 0, [26.0, 25.0], [26.5, 25.4], 12.0, "runs/a/last.ckpt"),
    Outcome("Trace_ELBO", 1, [26.0, 25.0], [26.5, 25.2], 12.0, "runs/b/last.ckpt", ("the code has collapsed",)),
    Outcome("TraceLeaveOneOut_ELBO", 0, [24.0, 21.0], [24.5, 20.9], 10.0, "runs/e/last.ckpt"),
    Outcome("TraceLeaveOneOut_ELBO", 1, [24.0, 21.0], [24.5, 20.1], 10.0, "runs/f/last.ckpt"),
    Outcome("TraceUnorderedSet_ELBO", 0, [24.0, 20.0], [24.5, 20.2], 9.0, "runs/c/last.ckpt"),
    Outcome("TraceUnorderedSet_ELBO", 1, [24.0, 20.0], [24.5, 20.6], 9.0, "runs/d/last.ckpt"),
]


def cells(text, first, second):
    """The cells of the only row of a table that begins like this."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    (row,) = [row for row in rows if row[:2] == [first, second]]
    return row


def test_comparison():
    comparison = compare([25.4, 25.2], [20.2, 20.6])
    assert comparison.means == pytest.approx((25.3, 20.4))
    assert comparison.gain == pytest.approx(4.9)
    assert comparison.noise == pytest.approx(math.sqrt(0.02 / 2 + 0.08 / 2))
    assert comparison.ratio == pytest.approx(4.9 / math.sqrt(0.05))
    assert compare([2.0, 2.0], [1.0, 1.0]).ratio == math.inf


def test_report_says_what_was_measured():
    text = report(OUTCOMES, "The setting.", "the command")
    first, second = (line for line in text.splitlines() if line.startswith("**"))
    better = (
        "**`TraceUnorderedSet_ELBO` is better than `Trace_ELBO` by 4.90 nats per held-out image** (20.40 against 25.30)"
    )
    assert first.startswith(better)
    assert "21.9 times the standard error of the difference, 0.224, taken over 2 seeds of each" in first
    assert first.endswith("the difference is outside the noise.")
    assert "better than `TraceLeaveOneOut_ELBO` by 0.10 nats" in second
    assert second.endswith("the difference is within the noise.")
    assert cells(text, "`Trace_ELBO`", "1") == ["`Trace_ELBO`", "1", "25.200", "25.000", "12.0"]
    assert cells(text, "`TraceLeaveOneOut_ELBO`", "20.500") == ["`TraceLeaveOneOut_ELBO`", "20.500", "0.566", "2"]
    assert "`Trace_ELBO`, seed 1: the code has collapsed." in text
    assert "![reconstructions](reconstruction.png)" in text


def test_report_does_not_flatter():
    text = report(OUTCOMES[4:] + OUTCOMES[:2], "The setting.", "the command")
    assert "`Trace_ELBO` is worse than `TraceUnorderedSet_ELBO` by 4.90 nats" in text


def test_metrics_have_a_row_per_epoch():
    rows = list(csv.DictReader(metrics_csv(OUTCOMES).splitlines()))
    assert len(rows) == 12
    assert rows[1] == {
        "estimator": "Trace_ELBO",
        "seed": "0",
        "epoch": "2",
        "train_neg_elbo": "25.000000",
        "valid_neg_elbo": "25.400000",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "demo: epochs must be an integer of at least 1, got 0"),
        (["--seeds", "1"], "demo: seeds must be an integer of at least 2, got 1"),
        (["--seed", "-1"], "demo: seed must be an integer of at least 0, got -1"),
        (["--num_latents", "0"], "demo: num_latents must be an integer of at least 1, got 0"),
        (["--threads", "0"], "demo: threads must be an integer of at least 1, got 0"),
        (["--epochs", "many"], "demo: argument --epochs: invalid int value: 'many'"),
        (["--latents", "3"], "demo: unrecognized arguments: --latents 3"),
    ],
)
def test_bad_numbers(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err == message + "\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_folder_of_something_else_is_left_alone(overwrite, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("words")
    assert main(["--out", str(tmp_path), *overwrite]) == 2
    assert "holds files of something else; choose another --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_in_place_of_the_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("words")
    assert main(["--out", str(tmp_path / "file")]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            json.dumps({"epochs": 7}),
            "holds a demonstration with {'epochs': 7}; choose another --out, or --overwrite it",
        ),
        ("{", "settings.json is damaged"),
    ],
)
def test_other_demonstration_is_left_alone(content, message, tmp_path, capsys):
    (tmp_path / "settings.json").write_text(content)
    assert main(["--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "settings.json").read_text() == content


TINY = ["--epochs", "1", "--num_latents", "1"]


@pytest.mark.slow
def test_tiny_demonstration_is_resumed_kept_and_replaced(tmp_path, capsys, monkeypatch):
    out = tmp_path / "demo"
    arguments = ["--out", str(out), *TINY]
    runs = []
    real = race.fit

    def stopping_fit(*args, **kwargs):
        if len(runs) == 2:
            raise KeyboardInterrupt
        runs.append(real(*args, **kwargs))
        return runs[-1]

    monkeypatch.setattr(race, "fit", stopping_fit)
    assert main(arguments) == 130
    assert not (out / "report.md").exists()
    monkeypatch.setattr(race, "fit", real)
    assert main(arguments) == 0
    assert {path.name for path in out.iterdir()} == {
        "settings.json",
        "metrics.csv",
        "report.md",
        *race._PLOTS,
        "runs",
    }
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert [(row["estimator"], row["seed"]) for row in rows] == [
        (name, seed) for name in race._ESTIMATORS for seed in "01"
    ]
    assert float(rows[0]["valid_neg_elbo"]) == pytest.approx(runs[0].metrics["neg_elbo"], abs=1e-6)
    assert len([torch.load(path, weights_only=True) for path in out.glob("runs/*/last.ckpt")]) == 6
    assert "nats per held-out image" in capsys.readouterr().out

    (out / "notes.txt").write_text("mine")
    finished = (out / "report.md").stat().st_mtime_ns
    assert main(arguments) == 0
    assert "finished before" in capsys.readouterr().out
    assert (out / "report.md").stat().st_mtime_ns == finished
    before = (out / "metrics.csv").read_text()
    assert main([*arguments, "--overwrite"]) == 0
    assert (out / "report.md").stat().st_mtime_ns > finished
    assert (out / "metrics.csv").read_text() == before
    assert (out / "notes.txt").read_text() == "mine"
