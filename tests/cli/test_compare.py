import csv
import math

import pytest
import torch
import yaml
from pyro_ext.cli.compare_arguments import checkpoint_in, estimators, with_data_of_run
from pyro_ext.cli.compare_report import Row, as_csv, table

from pyro_ext.cli import compare_job
from pyro_ext.cli.__main__ import main
from pyro_ext.inference import TraceLeaveOneOut_ELBO, TraceVIMCO_ELBO
from pyro_ext.inference.compare import GradientFigures

FIGURES = GradientFigures({"encoder": 0.17, "decoder": -math.inf}, {"encoder": 0.04, "decoder": 0.0}, 20.0, 1.2)
SMALL = ["--model.num_latents", "2", "--model.num_categories", "3", "--model.hidden", "[6, 5]", "--repeats", "8"]
SMALL += ["--device", "cpu", "--batch_size", "400", "--seed", "1", "--max_leaves", "9"]


def compare(out, *words):
    return main(["compare", "categorical_vae", *SMALL, *words, "--out", str(out)])


def rows_in(folder):
    with (folder / "compare.csv").open(newline="") as file:
        return {row["estimator"]: row for row in csv.DictReader(file)}


def without_time(rows):
    return {name: {k: v for k, v in row.items() if k != "ms_per_step"} for name, row in rows.items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A comparison with everything in it."""
    out = tmp_path_factory.mktemp("runs") / "new" / "compare"
    elbos = "Trace_ELBO,TraceUnorderedSet_ELBO,TraceUnorderedSet_ELBO:baseline=false,TraceDisARM_ELBO,TraceVIMCO_ELBO"
    assert compare(out, "--elbos", elbos, "--epochs", "2", "--fit_epochs", "1") == 0
    return out


def test_table_shortens_notes():
    *_, last = table([Row("A", FIGURES, 20.3456), Row("B", note="n/a: " + "word " * 20)]).splitlines()
    assert [cell.strip() for cell in last.split("|")[1:-1]] == ["B", "", "", "", "", "", f"n/a: {'word ' * 12}..."]


def test_table_leaves_out_empty_notes():
    lines = table([Row("A", FIGURES, 20.3456), Row("BB", FIGURES)]).splitlines()
    assert lines == [
        "| estimator | bias z | log var encoder | log var decoder | ms/step | final −ELBO |",
        "|-----------|--------|-----------------|-----------------|---------|-------------|",
        "| A         |   1.20 |     0.17 ± 0.04 |           exact |    20.0 |      20.346 |",
        "| BB        |   1.20 |     0.17 ± 0.04 |           exact |    20.0 |           - |",
    ]


def test_csv():
    assert as_csv([Row("A", note="n/a: no"), Row("B", FIGURES, 20.5)]).splitlines() == [
        "estimator,note,bias_z,log_variance_encoder,log_variance_decoder,"
        "log_variance_encoder_error,log_variance_decoder_error,ms_per_step,final_neg_elbo",
        "A,n/a: no,,,,,,,",
        "B,,1.2,0.17,-inf,0.04,0.0,20.0,20.5",
    ]


def test_estimators_spend_equally():
    names = "Trace_ELBO, TraceUnorderedSet_ELBO:baseline=no,TraceDisARM_ELBO,pyro_ext.inference.TraceVIMCO_ELBO"
    trace, unordered, disarm, vimco = (each.make(6, 1) for each in estimators(names))
    assert (trace.num_particles, trace.vectorize_particles, trace.max_plate_nesting) == (
        6,
        True,
        2,
    )  # with the particles' own
    assert (unordered.options.num_samples, unordered.num_particles, unordered.baseline) == (6, 1, False)
    assert (disarm.num_particles, disarm.vectorize_particles) == (3, True)
    assert isinstance(vimco, TraceVIMCO_ELBO)
    assert vimco.num_particles == 6
    with pytest.raises(NotImplementedError, match="--evaluations=5 is odd"):
        estimators("TraceDisARM_ELBO")[0].make(5)
    assert estimators("Trace_ELBO")[0].make(1).vectorize_particles is False


def test_every_result_is_there(finished):
    assert {path.name for path in finished.iterdir()} == {
        "compare.csv",
        "config.yaml",
        "report.md",
        "variance.png",
        "weights",
    }
    rows = rows_in(finished)
    for name in ("Trace_ELBO", "TraceUnorderedSet_ELBO", "TraceUnorderedSet_ELBO:baseline=false", "TraceVIMCO_ELBO"):
        assert float(rows[name]["ms_per_step"]) > 0
        assert 10 < float(rows[name]["final_neg_elbo"]) < 60
        assert math.isfinite(float(rows[name]["log_variance_decoder"]))
    gain = float(rows["Trace_ELBO"]["log_variance_encoder"]) - float(
        rows["TraceUnorderedSet_ELBO"]["log_variance_encoder"]
    )
    assert gain > 3
    assert float(rows["TraceUnorderedSet_ELBO"]["bias_z"]) < 10  # eight gradients: heavy tails
    assert rows["TraceVIMCO_ELBO"]["bias_z"] == ""
    assert rows["TraceVIMCO_ELBO"]["note"] == "a bound other than the ELBO"
    assert rows["TraceDisARM_ELBO"]["note"].startswith("n/a: guide site 'z' is a ")
    assert rows["TraceDisARM_ELBO"]["log_variance_encoder"] == ""


def test_report(finished):
    text = (finished / "report.md").read_text()
    assert text.startswith("# Gradient estimators of categorical_vae on digits\n")
    assert "| TraceUnorderedSet_ELBO " in text
    assert "after 2 epochs of `TraceLeaveOneOut_ELBO` (`weights/last.ckpt`)" in text
    assert "exact gradient: by enumeration" in text
    assert "8 of each estimator, on one batch of 400" in text
    assert "- `TraceDisARM_ELBO`: n/a: guide site 'z' is a " in text
    assert "![log gradient variance](variance.png)" in text


def test_options_repeat_the_comparison(finished, tmp_path, capsys):
    """From the weights left behind, whose model and data are noted beside them."""
    elbos = "TraceUnorderedSet_ELBO,Trace_ELBO"
    words = ["--elbos", elbos, "--fit_epochs", "0", "--repeats", "8", "--batch_size", "400", "--seed", "1"]
    weights = ["--checkpoint", str(finished / "weights"), "--out", str(tmp_path / "again")]
    assert main(["compare", "categorical_vae", *words, *weights]) == 0
    assert "results are in" in capsys.readouterr().out
    first, again = without_time(rows_in(finished)), without_time(rows_in(tmp_path / "again"))
    assert list(again) == elbos.split(",")
    for name, row in again.items():
        assert row["final_neg_elbo"] == ""
        for column in ("log_variance_encoder", "log_variance_decoder", "bias_z"):
            if row[column]:
                assert float(row[column]) == pytest.approx(float(first[name][column]), rel=1e-6)
    noted = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    assert noted["model"]["num_latents"] == 2
    assert "those of " in (tmp_path / "again" / "report.md").read_text()


def test_fresh_weights_too_many_to_enumerate(tmp_path, capsys):
    words = ["--elbos", "TraceLeaveOneOut_ELBO", "--epochs", "0", "--fit_epochs", "0", "--max_leaves", "8"]
    assert compare(tmp_path / "fresh", *words) == 0
    assert "| TraceLeaveOneOut_ELBO |      - |" in capsys.readouterr().out
    assert not (tmp_path / "fresh" / "weights").exists()
    assert "exact gradient: none: " in (tmp_path / "fresh" / "report.md").read_text()


def test_enough_evaluations_are_exact(tmp_path, capsys):
    words = ["--elbos", "TraceUnorderedSet_ELBO", "--evaluations", "9", "--epochs", "0", "--fit_epochs", "0"]
    assert compare(tmp_path / "new", *words) == 0
    assert "|           exact |           exact |" in capsys.readouterr().out
    row = rows_in(tmp_path / "new")["TraceUnorderedSet_ELBO"]
    assert row["log_variance_encoder"] == "-inf"
    assert float(row["bias_z"]) < 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--elbos", "Trace_ELBOW"], "--elbos: there is no ELBO 'Trace_ELBOW'; choose class paths or from "),
        (["--elbos", ","], "--elbos must name at least one ELBO"),
        (["--elbos", "Trace_ELBO,Trace_ELBO"], "--elbos names Trace_ELBO twice"),
        (["--elbos", "torch.nothing"], "--elbos: 'torch.nothing' cannot be imported"),
        (["--elbos", "torch.nn.Module"], "--elbos: 'torch.nn.Module' is not an ELBO"),
        (
            ["--elbos", "Trace_ELBO:baseline"],
            "--elbos: Trace_ELBO:baseline: 'baseline' must have the form option=value",
        ),
        (["--elbos", "Trace_ELBO:num_particles=3"], "num_particles is set by --evaluations"),
        (["--elbos", "Trace_ELBO:baseline=no"], "--elbos: Trace_ELBO:baseline=no: "),
        (["--elbos", "TraceDisARM_ELBO"], "--elbos: no estimator applies to this model. TraceDisARM_ELBO: guide site"),
        (["--evaluations", "0"], "evaluations must be an integer of at least 1, got 0"),
        (["--repeats", "3"], "repeats must be an integer of at least 4, got 3"),
        (["--epochs", "-1"], "epochs must be an integer of at least 0, got -1"),
        (["--fit_epochs", "-1"], "fit_epochs must be an integer of at least 0, got -1"),
        (["--max_leaves", "0"], "max_leaves must be an integer of at least 1, got 0"),
        (["--seed", "-1"], "seed must be an integer from 0 to 2**31 - 1, got -1"),
        (["--lr", "0"], "lr must be a positive number, got 0.0"),
        (["--batch_size", "0"], "batch_size must be an integer of at least 1, got 0"),
        (["--device", "abacus"], "--device: 'abacus' cannot be used"),
        (["--checkpoint", "nowhere"], "--checkpoint: 'nowhere/last.ckpt' does not exist; name the folder of a run"),
        (["--checkpoint", "nowhere", "--epochs", "3"], "give one of them"),
        (["--model.num_latents", "0"], "num_latents must be an integer of at least 1, got 0"),
        (["--data", "letters"], "--data: there is no data set 'letters'"),
        (["--nonsense", "1"], "nonsense"),
    ],
)
def test_bad_input(words, message, tmp_path, capsys):
    assert compare(tmp_path / "new", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_unknown_model_and_no_model(capsys):
    assert main(["compare", "nothing"]) == 2
    assert "there is no model 'nothing'" in capsys.readouterr().err
    assert main(["compare"]) == 2
    assert "compare needs a MODEL before its options" in capsys.readouterr().err


def test_results_are_never_overwritten(finished, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert compare(finished) == 2
    assert f"--out: '{finished}' is not empty; choose another folder" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before
    assert compare(finished / "compare.csv") == 2
    assert "is a file" in capsys.readouterr().err


def test_checkpoint_of_another_model(finished, tmp_path, capsys):
    assert compare(tmp_path / "new", "--checkpoint", str(finished / "weights"), "--model.num_latents", "3") == 2
    assert "--checkpoint: the weights do not fit this model: " in capsys.readouterr().err
    (tmp_path / "last.ckpt").write_text("words")
    assert compare(tmp_path / "new", "--checkpoint", str(tmp_path)) == 2
    assert "is not a checkpoint written by fit" in capsys.readouterr().err


def test_model_and_data_of_a_checkpoint(tmp_path):
    (tmp_path / "config.yaml").write_text("data: {name: mnist}\nmodel: {num_latents: 2}\nlr: 0.1\n")
    run = str(tmp_path)
    assert checkpoint_in(["--seed", "1", f"--checkpoint={run}"]) == run
    assert with_data_of_run(["--checkpoint", run]) == ["--data", "mnist", "--checkpoint", run]
    assert with_data_of_run(["--checkpoint", run, "--data=digits"]) == ["--checkpoint", run, "--data=digits"]
    assert with_data_of_run(["--seed", "1"]) == ["--seed", "1"]


def test_interrupted(tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare_job, "compare_gradients", interrupted)
    out = tmp_path / "new"
    assert compare(out, "--elbos", "TraceLeaveOneOut_ELBO", "--epochs", "1") == 130
    error = capsys.readouterr().err
    assert f"pyro-ext compare categorical_vae --checkpoint {out / 'weights'} --out ANOTHER" in error
    assert error.endswith("interrupted\n")
    assert [path.name for path in out.iterdir()] == ["weights"]


def test_a_fault_on_the_way_is_no_bad_input(tmp_path, monkeypatch, capsys):
    def faulty(*args, **kwargs):
        raise ValueError("something is wrong inside")

    monkeypatch.setattr(compare_job, "compare_gradients", faulty)
    assert compare(tmp_path / "new", "--elbos", "TraceLeaveOneOut_ELBO", "--epochs", "0") == 1
    assert "Traceback" in capsys.readouterr().err


def test_help(capsys):
    assert main(["compare", "categorical_vae", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--evaluations" in text
    assert "--model.num_latents" in text


def test_training_by_another_estimator_starts_from_the_same_weights(tmp_path):
    words = ["--elbos", "TraceLeaveOneOut_ELBO", "--epochs", "0", "--fit_epochs", "0"]
    torch.rand(3)  # what was drawn before does not matter
    assert compare(tmp_path / "one", *words) == 0
    torch.rand(5)
    assert compare(tmp_path / "two", *words) == 0
    assert without_time(rows_in(tmp_path / "one")) == without_time(rows_in(tmp_path / "two"))
    assert isinstance(estimators(words[1])[0].make(4), TraceLeaveOneOut_ELBO)
