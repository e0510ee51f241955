"""What a run leaves behind, read back: tables of metrics, trained modules, and folders that hold no run."""

import pytest
import torch

from pyro_ext.inference import FitSettings, LossObjective, Player, TrainingPlan, fit, load_run

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def plan():
    network = torch.nn.Linear(1, 1)
    loss = LossObjective(lambda x, y, index, network: (network(x) - 3 * x).square().mean(), network=network)
    return TrainingPlan([Player("network", loss)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    x = torch.linspace(-1, 1, 20)[:, None]
    return fit(plan(), {"train": x, "valid": x[::2]}, FitSettings(max_epochs=3, batch_size=5, seed=0), out=out, **QUIET)


def test_frame_of_a_result(run):
    pytest.importorskip("pandas")
    frame = run.to_frame()
    assert frame.index.name == "epoch"
    assert frame.index.tolist() == [1, 2, 3]
    assert frame["step"].tolist() == [4, 8, 12]
    assert frame["step"].dtype == "int64"
    assert frame["train_loss"].tolist() == [row["train_loss"] for row in run.history]
    assert set(frame) == set(run.history[0]) - {"epoch"}


def test_loaded_run_has_the_same_frame_and_modules(run):
    pandas = pytest.importorskip("pandas")
    loaded = load_run(run.checkpoint.parent, plan())
    pandas.testing.assert_frame_equal(loaded.to_frame(), run.to_frame())
    x = torch.ones(2, 1)
    ours, theirs = (p.players[0].objective.modules_by_name["network"](x) for p in (loaded.plan, run.plan))
    assert torch.equal(ours, theirs)
    assert loaded.settings["batch_size"] == 5


def test_metrics_that_some_epochs_lack(run):
    pytest.importorskip("pandas")
    rows = [{"epoch": 1, "step": 4, "train_loss": 1.0}, {"epoch": 2, "step": 8, "train_loss": 0.5, "error": 3.0}]
    frame = type(run)({}, rows, run.plan, 0).to_frame()
    assert frame.columns.tolist() == ["step", "train_loss", "error"]
    assert frame["error"].isna().tolist() == [True, False]
    assert len(type(run)({}, [], run.plan, 0).to_frame()) == 0


def test_without_pandas(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="to_frame needs pandas: pip install pandas"):
        run.to_frame()


def test_metrics_file_is_not_needed(run):
    run.metrics_file.rename(run.metrics_file.with_suffix(".gone"))
    try:
        assert load_run(run.checkpoint.parent, plan()).history == run.history
    finally:
        run.metrics_file.with_suffix(".gone").rename(run.metrics_file)


def test_folders_that_hold_no_run(run, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"last\.ckpt' does not exist; name the folder of a run"):
            load_run(folder, plan())
    (tmp_path / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"last\.ckpt"):
        load_run(tmp_path, plan())


def test_plans_that_do_not_fit(run):
    with pytest.raises(ValueError, match=r"does not say how its plan was built; pass it: load_run\(folder, plan\)"):
        load_run(run.checkpoint.parent)
    deeper = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Linear(3, 1))
    loss = LossObjective(lambda x, y, index, network: network(x).mean(), network=deeper)
    with pytest.raises(ValueError, match="the checkpoint does not fit the plan"):
        load_run(run.checkpoint.parent, TrainingPlan([Player("network", loss)]))
    with pytest.raises(ValueError, match="the run has the players network, the plan has other"):
        load_run(run.checkpoint.parent, TrainingPlan([Player("other", loss)]))
