"""A run that was broken off and resumed ends exactly like one left alone."""

import csv

import pyro
import pytest
import torch

from pyro_ext.inference.training import OptimizerSettings, SchedulerSettings
from tests.inference.training.toys import (
    EPOCHS,
    OPTIMIZER,
    STEPS_PER_EPOCH,
    StopAfter,
    StopError,
    assert_same,
    autoencoder,
    broken_off_and_resumed,
    lazy,
    run,
    splits,
    with_critic,
)


@pytest.fixture(scope="module")
def whole():
    return run(autoencoder(), splits(test=True))


@pytest.mark.parametrize(
    ("step", "every"), [(0, None), (0, 1), (1, 1), (6, 1), (7, None), (7, 1), (8, None), (8, 3), (13, 1), (20, 3)]
)
def test_resumed_run_equals_one_left_alone(tmp_path, whole, step, every):
    resumed = broken_off_and_resumed(autoencoder, tmp_path / "broken", step, every, splits(test=True))
    assert_same(resumed, whole)
    assert resumed.metrics.keys() == {"train_loss", "neg_elbo", "noise", "test_neg_elbo", "test_noise"}


def test_folder_does_not_change_the_run(tmp_path, whole):
    assert_same(run(autoencoder(), splits(test=True), out=tmp_path / "run"), whole)


def test_checkpoints_within_epochs_spare_replaying(tmp_path):
    with pytest.raises(StopError):
        run(autoencoder(), splits(), out=tmp_path, checkpoint_every_n_steps=3, callbacks=[StopAfter(13)])
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 12


@pytest.mark.parametrize(("step", "every", "turn"), [(12, 2, 1), (12, 2, 3), (8, None, 2)])
def test_two_players_resume_exactly(tmp_path, step, every, turn):
    whole = run(with_critic(turn), splits())
    resumed = broken_off_and_resumed(lambda: with_critic(turn), tmp_path, step, every)
    assert_same(resumed, whole)
    assert {"train_model", "train_critic", "neg_elbo"} <= resumed.metrics.keys()
    assert resumed.history[-1]["step"] == EPOCHS * STEPS_PER_EPOCH


SCHEDULERS = [
    SchedulerSettings("StepLR", interval="step", step_size=6, gamma=0.5),
    SchedulerSettings("CosineAnnealingLR", T_max=3),
    SchedulerSettings("ReduceLROnPlateau", patience=0, factor=0.1, threshold=0.9),  # no fall is large enough
]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda scheduler: scheduler.name)
@pytest.mark.parametrize("build", [autoencoder, with_critic])
def test_optimisers_and_schedulers_resume_exactly(tmp_path, build, scheduler):
    def plan(scheduler=scheduler):
        return build(optimizer=OptimizerSettings("AdamW", lr=0.02, weight_decay=0.1, scheduler=scheduler))

    whole = run(plan(), splits())
    assert_same(broken_off_and_resumed(plan, tmp_path, 9, every=4), whole)
    assert whole.metrics != run(plan(scheduler=None), splits()).metrics


def test_two_players_accumulate_clip_and_resume_exactly(tmp_path):
    flags = {"accumulate_grad_batches": 3, "gradient_clip_val": 0.05}
    whole = run(with_critic(), splits(), **flags)
    assert_same(broken_off_and_resumed(with_critic, tmp_path, step=5, every=1, **flags), whole)
    assert whole.history[-1]["step"] == EPOCHS * 3
    assert whole.metrics != run(with_critic(), splits(), accumulate_grad_batches=3).metrics


def test_accumulated_gradients_resume_exactly(tmp_path):
    whole = run(autoencoder(), splits(), accumulate_grad_batches=3)
    resumed = broken_off_and_resumed(autoencoder, tmp_path, step=5, every=1, accumulate_grad_batches=3)
    assert_same(resumed, whole)
    assert whole.history[-1]["step"] == EPOCHS * 3


@pytest.mark.parametrize("step", [2, 9])
def test_shortened_epochs_resume_exactly(tmp_path, step):
    whole = run(autoencoder(), splits(), limit_train_batches=4)
    assert_same(broken_off_and_resumed(autoencoder, tmp_path, step, 1, limit_train_batches=4), whole)


@pytest.mark.parametrize("step", [0, 8, 14])
def test_lazy_guide_resumes_exactly(tmp_path, step):
    whole = run(lazy(), splits())
    assert_same(broken_off_and_resumed(lazy, tmp_path, step, every=2), whole)


def test_many_interruptions(tmp_path, whole):
    for step in (2, 9, 10, 20):
        options = {"resume": step > 2, "callbacks": [StopAfter(step)], "checkpoint_every_n_steps": 1}
        with pytest.raises(StopError):
            run(autoencoder(), splits(test=True), **options, out=tmp_path)
    assert_same(run(autoencoder(), splits(test=True), out=tmp_path, resume=True), whole)


def test_more_epochs_continue_a_complete_run(tmp_path, whole):
    run(autoencoder(), splits(), max_epochs=1, out=tmp_path)
    assert_same(run(autoencoder(), splits(test=True), out=tmp_path, resume=True), whole)


def test_resuming_a_complete_run_gives_its_results(tmp_path, whole):
    run(autoencoder(), splits(test=True), out=tmp_path)
    assert_same(run(autoencoder(), splits(test=True), out=tmp_path, resume=True), whole)


def test_metrics_file_has_each_epoch_once(tmp_path):
    result = broken_off_and_resumed(autoencoder, tmp_path, step=16, every=1)
    rows = list(csv.DictReader(result.metrics_file.read_text().splitlines()))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == result.history
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "metrics.csv"]


def test_seed_repeats_a_run_and_global_seed_stands_in_for_it():
    def seeded(seed):
        plan = autoencoder()
        pyro.set_rng_seed(seed)
        return run(plan, splits(), seed=None)

    first, again, other = seeded(1), seeded(1), seeded(2)
    assert first.metrics == again.metrics != other.metrics
    assert run(autoencoder(), splits(), seed=first.seed).metrics == first.metrics


def test_a_run_may_be_overwritten_when_told_so(tmp_path, whole):
    run(autoencoder(OptimizerSettings("SGD", lr=1e-3)), splits(), out=tmp_path, max_epochs=1)
    (tmp_path / "loss.png").write_bytes(b"old")
    (tmp_path / "notes.txt").write_text("mine")
    assert_same(run(autoencoder(OPTIMIZER), splits(test=True), out=tmp_path, overwrite=True), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "metrics.csv", "notes.txt"]
