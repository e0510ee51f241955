"""What changes in the course of training: the learning rate, and whatever a model's schedules set."""

import pytest
from lightning.pytorch import Callback

from pyro_ext.inference.fit import fit
from tests.inference.fit.test_resume import EPOCHS, STEPS_PER_EPOCH, assert_same, broken_off_and_resumed
from tests.inference.fit.toys import QUIET, autoencoder, splits

OPTIONS = {"max_epochs": EPOCHS, "batch_size": 10, "seed": 5, "lr": 0.01} | QUIET
DECAY = {"lr_decay": 0.5, "lr_decay_every": 6}


class NoteRates(Callback):
    """Notes the learning rates with which each step is taken."""

    def __init__(self):
        self.rates = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])


def test_learning_rate_falls_by_a_factor_every_so_many_steps():
    note = NoteRates()
    fit(autoencoder(), splits(), **OPTIONS, **DECAY, callbacks=[note])
    expected = [0.01 * 0.5 ** (step // 6) for step in range(EPOCHS * STEPS_PER_EPOCH)]
    assert [rate for (rate,) in note.rates] == pytest.approx(expected)


def test_learning_rates_of_extra_losses_fall_too():
    note = NoteRates()
    fit(autoencoder(extra=True), splits(), **OPTIONS | {"max_epochs": 1}, **DECAY, callbacks=[note])
    assert note.rates == [[0.01, 0.1]] * 6 + [[0.005, 0.05]]


@pytest.mark.parametrize("step", [5, 9, 14])
def test_falling_rate_resumes_exactly(tmp_path, step):
    whole = fit(autoencoder(), splits(), **OPTIONS, **DECAY)
    assert_same(broken_off_and_resumed(autoencoder, tmp_path, step, every=4, **DECAY), whole)
    assert whole.metrics != fit(autoencoder(), splits(), **OPTIONS).metrics


def test_another_decay_is_refused_on_resuming(tmp_path):
    fit(autoencoder(), splits(), **OPTIONS | {"max_epochs": 1}, **DECAY, out=tmp_path)
    with pytest.raises(ValueError, match=r"lr_decay=0.25, but the run to resume began with lr_decay=0.5; use the same"):
        fit(autoencoder(), splits(), **OPTIONS, **DECAY | {"lr_decay": 0.25}, out=tmp_path, resume=True)


def test_schedules_are_told_the_step_before_it_is_taken(tmp_path):
    told = []

    def build():
        built = autoencoder()
        built.schedules = [told.append]
        return built

    fit(build(), splits(), **OPTIONS | {"max_epochs": 2})
    assert told == [*range(2 * STEPS_PER_EPOCH)]
    told.clear()
    broken_off_and_resumed(build, tmp_path, 9, every=3)
    steps = EPOCHS * STEPS_PER_EPOCH
    assert told in ([*range(10), *range(9, steps)], [*range(9), *range(9, steps)])


def test_accumulated_gradients_are_one_step_to_a_schedule():
    told = []
    built = autoencoder()
    built.schedules = [told.append]
    fit(built, splits(), **OPTIONS | {"max_epochs": 1}, accumulate_grad_batches=3)
    assert told == [0, 0, 0, 1, 1, 1, 2]
