"""What changes in the course of training: the learning rate, and whatever a model's schedules set."""

import pytest
from lightning.pytorch import Callback

from pyro_ext.inference.training import SchedulerSettings
from tests.inference.training.toys import (
    EPOCHS,
    STEPS_PER_EPOCH,
    autoencoder,
    broken_off_and_resumed,
    run,
    splits,
    with_critic,
)

FALLING = SchedulerSettings("StepLR", interval="step", step_size=6, gamma=0.5)


class NoteRates(Callback):
    """Notes the learning rates before each step."""

    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])


def test_learning_rate_falls_by_a_factor_every_so_many_steps():
    note = NoteRates()
    run(autoencoder(), splits(), scheduler=FALLING, callbacks=[note])
    expected = [0.01 * 0.5 ** (step // 6) for step in range(EPOCHS * STEPS_PER_EPOCH)]
    assert [rate for (rate,) in note.rates] == pytest.approx(expected)


def test_schedulers_of_epochs_step_after_each_epoch():
    for plan in (autoencoder(), with_critic()):
        note = NoteRates()
        run(plan, splits(), scheduler=SchedulerSettings("StepLR", step_size=1, gamma=0.5), callbacks=[note])
        assert [rates[0] for rates in note.rates] == pytest.approx([0.01] * 7 + [0.005] * 7 + [0.0025] * 7)


def test_another_scheduler_is_refused_on_resuming(tmp_path):
    run(autoencoder(), splits(), max_epochs=1, scheduler=FALLING, out=tmp_path)
    other = SchedulerSettings("StepLR", interval="step", step_size=6, gamma=0.25)
    with pytest.raises(ValueError, match=r"scheduler.gamma=0.25, but the run to resume began with scheduler.gamma=0.5"):
        run(autoencoder(), splits(), scheduler=other, out=tmp_path, resume=True)


def test_schedules_are_told_the_step_before_it_is_taken(tmp_path):
    told = []

    def build():
        plan = autoencoder()
        plan.schedules = [told.append]
        return plan

    run(build(), splits(), max_epochs=2)
    assert told == [*range(2 * STEPS_PER_EPOCH)]
    told.clear()
    broken_off_and_resumed(build, tmp_path, 9, every=3)
    steps = EPOCHS * STEPS_PER_EPOCH
    assert told in ([*range(10), *range(9, steps)], [*range(9), *range(9, steps)])


def test_accumulated_gradients_are_one_step_to_a_schedule():
    told = []
    for plan in (autoencoder(), with_critic()):
        told.clear()
        plan.schedules = [told.append]
        run(plan, splits(), max_epochs=1, accumulate_grad_batches=3)
        assert told == [0, 0, 0, 1, 1, 1, 2]
