"""A run that was broken off and resumed ends exactly like one left alone."""

import csv

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_ext.inference.fit import FitModule, LocalELBOModule, fit
from tests.inference.fit.toys import (
    QUIET,
    StopAfter,
    StopError,
    autoencoder,
    lazy,
    parameters,
    splits,
    without_seconds,
)

EPOCHS, STEPS_PER_EPOCH = 3, 7
OPTIONS = {"max_epochs": EPOCHS, "batch_size": 10, "seed": 5, "lr": 0.01} | QUIET


def assert_same(resumed, whole):
    assert resumed.metrics == whole.metrics
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    expected = parameters(whole)
    assert all(torch.equal(value, expected[name]) for name, value in parameters(resumed).items())


def broken_off_and_resumed(build, out, step, every=None, data=None, **options):
    data = data or splits()
    flags = OPTIONS | {"out": out, "checkpoint_every_n_steps": every} | options
    with pytest.raises(StopError):
        fit(build(), data, **flags | {"callbacks": [StopAfter(step)]})
    pyro.set_rng_seed(99)  # a new process has other random states
    return fit(build(), data, **flags, resume=True)


@pytest.fixture(scope="module")
def whole():
    return fit(autoencoder(), splits(test=True), **OPTIONS)


@pytest.mark.parametrize(
    ("step", "every"), [(0, None), (0, 1), (1, 1), (6, 1), (7, None), (7, 1), (8, None), (8, 3), (13, 1), (20, 3)]
)
def test_resumed_run_equals_undisturbed_one(tmp_path, whole, step, every):
    resumed = broken_off_and_resumed(autoencoder, tmp_path / "broken", step, every, splits(test=True))
    assert_same(resumed, whole)
    assert resumed.metrics.keys() == {"train_loss", "neg_elbo", "noise", "test_neg_elbo", "test_noise"}


def test_folder_does_not_change_the_run(tmp_path, whole):
    assert_same(fit(autoencoder(), splits(test=True), **OPTIONS, out=tmp_path / "run"), whole)


def test_checkpoints_within_epochs_spare_replaying(tmp_path):
    with pytest.raises(StopError):
        fit(autoencoder(), splits(), **OPTIONS, out=tmp_path, checkpoint_every_n_steps=3, callbacks=[StopAfter(13)])
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 12


def test_extra_losses_resume_exactly(tmp_path):
    whole = fit(autoencoder(extra=True), splits(), **OPTIONS)
    resumed = broken_off_and_resumed(lambda: autoencoder(extra=True), tmp_path, step=12, every=2)
    assert_same(resumed, whole)
    assert "train_critic" in resumed.metrics
    assert resumed.history[-1]["step"] == EPOCHS * STEPS_PER_EPOCH


def test_accumulated_gradients_resume_exactly(tmp_path):
    whole = fit(autoencoder(), splits(), **OPTIONS, accumulate_grad_batches=3)
    resumed = broken_off_and_resumed(autoencoder, tmp_path, step=5, every=1, accumulate_grad_batches=3)
    assert_same(resumed, whole)
    assert whole.history[-1]["step"] == EPOCHS * 3


@pytest.mark.parametrize("step", [2, 9])
def test_shortened_epochs_resume_exactly(tmp_path, step):
    whole = fit(autoencoder(), splits(), **OPTIONS, limit_train_batches=4)
    assert_same(broken_off_and_resumed(autoencoder, tmp_path, step, 1, limit_train_batches=4), whole)


@pytest.mark.parametrize("step", [0, 8, 14])
def test_lazy_guide_resumes_exactly(tmp_path, step):
    whole = fit(lazy(), splits(), **OPTIONS)
    assert_same(broken_off_and_resumed(lazy, tmp_path, step, every=2), whole)


def test_many_interruptions(tmp_path, whole):
    for step in (2, 9, 10, 20):
        options = OPTIONS | {"resume": step > 2, "callbacks": [StopAfter(step)]}
        with pytest.raises(StopError):
            fit(autoencoder(), splits(test=True), **options, out=tmp_path, checkpoint_every_n_steps=1)
    assert_same(fit(autoencoder(), splits(test=True), **OPTIONS, out=tmp_path, resume=True), whole)


def test_more_epochs_continue_a_complete_run(tmp_path, whole):
    fit(autoencoder(), splits(), **OPTIONS | {"max_epochs": 1}, out=tmp_path)
    assert_same(fit(autoencoder(), splits(test=True), **OPTIONS, out=tmp_path, resume=True), whole)


def test_resuming_a_complete_run_gives_its_results(tmp_path, whole):
    fit(autoencoder(), splits(test=True), **OPTIONS, out=tmp_path)
    assert_same(fit(autoencoder(), splits(test=True), **OPTIONS, out=tmp_path, resume=True), whole)


def test_metrics_file_has_each_epoch_once(tmp_path):
    result = broken_off_and_resumed(autoencoder, tmp_path, step=16, every=1)
    rows = list(csv.DictReader(result.metrics_file.read_text().splitlines()))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == result.history
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "metrics.csv"]


def test_loads_into_a_cold_guide_without_data(tmp_path):
    result = fit(lazy(), splits(), **OPTIONS, out=tmp_path)
    built = lazy()
    elbo = LocalELBOModule(built.model, built.guide, Trace_ELBO())
    assert not list(elbo.parameters())
    FitModule.load_from_checkpoint(result.checkpoint, elbo=elbo, weights_only=True)
    expected = parameters(result)
    assert expected
    assert all(torch.equal(value, expected[name]) for name, value in elbo.named_parameters())


def test_seed_repeats_a_run_and_global_seed_stands_in_for_it():
    without = OPTIONS | {"seed": None}

    def seeded(seed):
        built = autoencoder()
        pyro.set_rng_seed(seed)
        return fit(built, splits(), **without)

    first, again, other = seeded(1), seeded(1), seeded(2)
    assert first.metrics == again.metrics != other.metrics
    assert fit(autoencoder(), splits(), **OPTIONS | {"seed": first.seed}).metrics == first.metrics
