import csv
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import nn

from pyro_ext.cli.__main__ import main
from pyro_ext.cli.compare import job
from pyro_ext.cli.compare.arguments import Arguments, estimators
from pyro_ext.cli.compare.code import CodeUse, code_use
from pyro_ext.cli.compare.report import Row, as_csv, table
from pyro_ext.inference import (
    ELBOObjective,
    FitSettings,
    LossObjective,
    OptimizerSettings,
    Player,
    SumObjective,
    TraceLeaveOneOut_ELBO,
    TraceVIMCO_ELBO,
    TrainingPlan,
    fit,
)
from pyro_ext.inference.compare import GradientFigures, Subject

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
    *_, last = table([Row("A", FIGURES, 20.3456), Row("B", note="n/a: " + "word " * 20)], "neg_elbo").splitlines()
    assert [cell.strip() for cell in last.split("|")[1:-1]] == ["B", "", "", "", "", "", f"n/a: {'word ' * 12}..."]


def test_table_leaves_out_empty_notes():
    lines = table([Row("A", FIGURES, 20.3456), Row("BB", FIGURES)], "neg_elbo").splitlines()
    assert lines == [
        "| estimator | bias z | log var encoder | log var decoder | ms/step | final −ELBO |",
        "|:----------|-------:|----------------:|----------------:|--------:|------------:|",
        "| A         |   1.20 |     0.17 ± 0.04 |           exact |    20.0 |      20.346 |",
        "| BB        |   1.20 |     0.17 ± 0.04 |           exact |    20.0 |           - |",
    ]


def test_csv():
    assert as_csv([Row("A", note="n/a: no"), Row("B", FIGURES, 20.5)], "neg_elbo").splitlines() == [
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
    assert estimators("TraceARMS_ELBO")[0].make(5).num_samples == 5
    with pytest.raises(NotImplementedError, match="at least two draws, and --evaluations=1 gives it one"):
        estimators("TraceARMS_ELBO")[0].make(1)
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
        (["--seed", "-1"], "seed must be an integer from 0 to 2147483647, got -1"),
        (["--lr", "0"], "lr must be a positive, finite number, got 0.0"),
        (["--batch_size", "0"], "batch_size must be an integer of at least 1, got 0"),
        (["--device", "abacus"], "--device: 'abacus' cannot be used"),
        (["--checkpoint", "nowhere"], "--checkpoint: 'nowhere/last.ckpt' does not exist; name the folder of a run"),
        (["--model.num_latents", "0"], "num_latents must be an integer of at least 1, got 0"),
        (["--data", "letters"], "--data: 'letters' is no data set; those are "),
        (["--nonsense", "1"], "unrecognized arguments: --nonsense 1"),
        (["--model.num_latent", "2"], "did you mean --model.num_latents?"),
        (["--repeats", "many"], "--repeats takes a whole number, not 'many'"),
        (["--config", "nothing.yaml"], "--config: 'nothing.yaml' cannot be read: "),
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
    assert compare(tmp_path / "new", "--checkpoint", str(finished / "weights"), "--epochs", "3") == 2
    assert "give one of them" in capsys.readouterr().err
    (tmp_path / "last.ckpt").write_text("words")
    assert compare(tmp_path / "new", "--checkpoint", str(tmp_path)) == 2
    assert "is not a checkpoint written by fit" in capsys.readouterr().err


def test_model_and_data_of_a_checkpoint(finished):
    weights = str(finished / "weights")
    arguments = Arguments.parsed("categorical_vae", ["--seed", "1", f"--checkpoint={weights}"])
    assert (arguments.program.data, arguments.options.model.num_latents) == ("digits", 2)
    assert arguments.checkpoint is not None
    other = Arguments.parsed("categorical_vae", ["--checkpoint", weights, "--data=mnist", "--model.num_latents", "3"])
    assert (other.program.data, other.options.model.num_latents, other.options.model.hidden) == ("mnist", 3, (6, 5))


def test_options_of_a_comparison_can_be_given_as_a_file(finished):
    again = Arguments.parsed("categorical_vae", ["--config", str(finished / "config.yaml"), "--repeats", "5"])
    assert (again.options.repeats, again.options.seed, again.options.model.num_categories) == (5, 1, 3)
    assert again.options.elbos.endswith("TraceVIMCO_ELBO")


def test_interrupted(tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "compare_gradients", interrupted)
    out = tmp_path / "new"
    assert compare(out, "--elbos", "TraceLeaveOneOut_ELBO", "--epochs", "1") == 130
    error = capsys.readouterr().err
    assert f"pyro-ext compare categorical_vae --checkpoint {out / 'weights'} --out ANOTHER" in error
    assert error.endswith("interrupted\n")
    assert [path.name for path in out.iterdir()] == ["weights"]


def test_a_fault_on_the_way_is_no_bad_input(tmp_path, monkeypatch, capsys):
    def faulty(*args, **kwargs):
        raise ValueError("something is wrong inside")

    monkeypatch.setattr(job, "compare_gradients", faulty)
    assert compare(tmp_path / "new", "--elbos", "TraceLeaveOneOut_ELBO", "--epochs", "0") == 1
    assert "Traceback" in capsys.readouterr().err


def test_help(capsys):
    assert main(["compare", "categorical_vae", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: pyro-ext compare categorical_vae [options]\n")
    assert "--evaluations" in text
    assert "--model.num_latents" in text
    assert "\noptions of categorical_vae:\n" in text
    assert "<class" not in text
    assert "(type: " not in text
    assert main(["compare", "--help"]) == 0
    assert "categorical_vae" in capsys.readouterr().out


def test_training_by_another_estimator_starts_from_the_same_weights(tmp_path):
    words = ["--elbos", "TraceLeaveOneOut_ELBO", "--epochs", "0", "--fit_epochs", "0"]
    torch.rand(3)  # what was drawn before does not matter
    assert compare(tmp_path / "one", *words) == 0
    torch.rand(5)
    assert compare(tmp_path / "two", *words) == 0
    assert without_time(rows_in(tmp_path / "one")) == without_time(rows_in(tmp_path / "two"))
    assert isinstance(estimators(words[1])[0].make(4), TraceLeaveOneOut_ELBO)


class Mixture(PyroModule):
    """A mixture of two normal distributions."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([-1.0, 1.0]))

    def forward(self, x, y, index):
        with pyro.plate("data", 40, subsample=index):
            z = pyro.sample("z", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(self.loc[z], 1.0), obs=x)


class Weights(PyroModule):
    """A guide that knows nothing but the weights."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(self, x, y, index):
        with pyro.plate("data", 40, subsample=index):
            pyro.sample("z", dist.Categorical(logits=self.logits))


def build(data, penalised: bool = False, score: float = 3.0) -> TrainingPlan:
    """Build a plan of a test.

    Args:
        data: the data.
        penalised: whether the bound is one of two terms.
        score: the headline metric of the plan.
    """
    mixture = Mixture()
    bound = ELBOObjective(mixture, Weights(), Trace_ELBO(max_plate_nesting=1))
    penalty = LossObjective(lambda x, y, index, mixture: mixture.loc.square().sum(), mixture=mixture)
    objective = SumObjective({"bound": (bound, 1.0), "penalty": (penalty, 0.1)}) if penalised else bound
    return TrainingPlan(
        [Player("mixture", objective, optimizer=OptimizerSettings("SGD", lr=0.05))],
        evaluate=lambda loader: {"score": score + len(list(loader))},
        headline="score",
        headline_mode="max",
    )


def build_without_elbo(data) -> TrainingPlan:
    """Build a plan that is trained by a loss."""
    network = nn.Linear(1, 1)
    loss = LossObjective(lambda x, y, index, network: network(x[:, None]).sum(), network=network)
    return TrainingPlan([Player("network", loss)])


def load(held_out: int = 10):
    """Load the data of a test.

    Args:
        held_out: the number of held-out points.
    """
    x = torch.linspace(-2.0, 2.0, 50)
    return {"train": x[:40]} | ({"valid": x[40 : 40 + held_out]} if held_out else {})


OWN = ["compare", f"{__name__}:build", "--data", f"{__name__}:load", "--elbos", "Trace_ELBO,TraceUnorderedSet_ELBO"]
OWN += ["--batch_size", "20", "--repeats", "8", "--seed", "1", "--evaluations", "2"]


@pytest.mark.parametrize("penalised", ["false", "true"])
def test_a_program_of_ones_own(penalised, tmp_path, capsys):
    options = ["--model.penalised", penalised, "--epochs", "1", "--fit_epochs", "1"]
    assert main([*OWN, *options, "--out", str(tmp_path / "own")]) == 0
    assert "| final score |" in capsys.readouterr().out
    rows = rows_in(tmp_path / "own")
    assert [float(row["final_score"]) for row in rows.values()] == [4.0, 4.0]
    text = (tmp_path / "own" / "report.md").read_text()
    assert text.startswith(f"# Gradient estimators of {__name__}:build on {__name__}:load\n")
    assert "large values are good" in text
    assert "SGD at 0.05, 20, 1" in text
    again = ["--checkpoint", str(tmp_path / "own" / "weights"), "--fit_epochs", "0"]
    assert main([*OWN, *again, "--out", str(tmp_path / "again")]) == 0
    noted = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    assert noted["model"] == {"penalised": penalised == "true", "score": 3.0}
    repeated = rows_in(tmp_path / "again")["Trace_ELBO"]["log_variance_encoder"]
    assert float(repeated) == pytest.approx(float(rows["Trace_ELBO"]["log_variance_encoder"]), rel=1e-6)


def test_weights_of_a_run_in_python(tmp_path):
    """They are loaded; of its options nothing is known."""
    settings = FitSettings(max_epochs=3, batch_size=20, seed=0)
    fit(build(load()), load(), settings, out=tmp_path / "run", enable_progress_bar=False)
    arguments = Arguments.parsed(
        OWN[1], [*OWN[2:], "--checkpoint", str(tmp_path / "run"), "--out", str(tmp_path / "x")]
    )
    weights = job.Job.prepare(arguments).plan.elbo_objective("compare").model.loc
    saved = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(weights, saved["objectives.mixture.module.model.loc"])
    assert not torch.equal(weights, Mixture().loc)


def test_the_learning_rate_replaces_that_of_the_plan(tmp_path):
    words = ["--lr", "0.2", "--epochs", "0", "--fit_epochs", "1", "--data.held_out", "0"]
    assert main([*OWN, *words, "--out", str(tmp_path / "own")]) == 0
    text = (tmp_path / "own" / "report.md").read_text()
    assert "SGD at 0.2, 20, 1" in text
    assert "final metric: none" in text
    assert "final_score" not in rows_in(tmp_path / "own")["Trace_ELBO"]


def test_programs_that_cannot_be_compared(tmp_path, capsys):
    assert main(["compare", f"{__name__}:build_without_elbo", *OWN[2:], "--out", str(tmp_path / "own")]) == 2
    expected = "pyro-ext: compare needs a model that is trained by one ELBO; this one has no ELBO (network)\n"
    assert capsys.readouterr().err == expected
    assert main(["compare", f"{__name__}:build"]) == 2
    assert "--data is needed for a model of your own" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


class Skewed(PyroModule):
    """A guide of 20 out of 40 data points, or a model; a bit with the given probability and a count for each."""

    def __init__(self, prob, rate, counted):
        super().__init__()
        self.prob, self.rate = nn.Parameter(torch.tensor(prob)), nn.Parameter(torch.tensor(rate))
        self.counted = counted

    def forward(self, x):
        with pyro.plate("data", 40, subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Bernoulli(self.prob.expand(len(x), 3)).to_event(1))
            pyro.sample("c", dist.Normal(self.rate, 1.0))
            if self.counted:
                pyro.sample("n", dist.Poisson(self.rate))


def test_use_of_a_code_is_its_divergence_from_the_prior():
    """Within 4 standard errors, at 500 runs of 20 data points each."""
    subject = Subject(Skewed(0.5, 2.0, False), Skewed(0.75, 3.0, False), (torch.zeros(20),), size=40)
    use = code_use(subject, draws=500)
    divergence = 3 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    deviation = math.sqrt(3 * 0.75 * 0.25) * math.log(3)
    assert use.nats == pytest.approx(divergence, abs=4 * deviation / math.sqrt(500 * 20))
    assert use.enough == pytest.approx(0.1 * 3 * math.log(2))
    assert use.used
    assert use.complaint("wait") == ""
    many = code_use(Subject(Skewed(0.5, 2.0, True), Skewed(0.501, 2.0, True), (torch.zeros(20),), size=40))
    assert (many.enough, many.used) == (1.0, False)
    assert code_use(Subject(Skewed(0.5, 2.0, True), Skewed(0.5, 2.5, False), (torch.zeros(20),), size=40)) is None
    assert "the code has collapsed at these weights: its KL is " in many.complaint("wait")
    assert "is hardly used yet" in CodeUse(0.5, 1.0).complaint("wait")


def test_training_ends_when_the_code_is_in_use(tmp_path, monkeypatch, capsys):
    uses = iter([CodeUse(0.2, 1.0), CodeUse(1.2, 1.0), CodeUse(1.3, 1.0)])
    monkeypatch.setattr(job, "code_use", lambda subject: next(uses))
    monkeypatch.setattr(job, "LEAST_EPOCHS", 2)
    assert main([*OWN, "--fit_epochs", "0", "--out", str(tmp_path / "own")]) == 0
    text = (tmp_path / "own" / "report.md").read_text()
    assert "after 3 epochs of `TraceLeaveOneOut_ELBO`" in text
    assert "- code: 1.30 nats per data point in the discrete sites (KL); in use from 1\n" in text
    assert "note: " not in capsys.readouterr().out


def test_a_collapsed_code_is_reported(tmp_path, monkeypatch, capsys):
    """The guide of the mixture knows nothing of a data point, so that its code never says anything."""
    monkeypatch.setattr(job, "LEAST_EPOCHS", 1)
    monkeypatch.setattr(job, "MOST_EPOCHS", 2)
    assert main([*OWN, "--fit_epochs", "0", "--out", str(tmp_path / "own")]) == 0
    shown = capsys.readouterr().out
    assert "note: the code has collapsed at these weights" in shown
    assert "train for more than 2 epochs by --epochs" in shown
    text = (tmp_path / "own" / "report.md").read_text()
    assert "**Note: the code has collapsed at these weights" in text
    assert "after 2 epochs of" in text
