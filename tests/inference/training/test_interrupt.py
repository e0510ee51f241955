"""Ctrl-C: a resumable checkpoint, a KeyboardInterrupt, and the process's own handler back in place."""

import signal
import threading

import pytest
import torch
from lightning.pytorch import Callback

from tests.inference.training.toys import assert_same, autoencoder, run, splits, with_critic


class PressCtrlC(Callback):
    """Sends the signal at the start of a step, so often."""

    def __init__(self, step, times=1):
        self.step, self.times = step, times

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if pl_module.steps == self.step:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("step", "times", "saved"),
    [(0, 1, 1), (9, 1, 10), (13, 1, 14), (9, 2, 7), (0, 2, 0)],
    ids=["first step", "mid-epoch", "last of epoch", "twice", "twice at once"],
)
def test_interrupted_run_resumes_exactly(tmp_path, capsys, step, times, saved):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(autoencoder(), splits(), out=tmp_path, callbacks=[PressCtrlC(step, times)])
    assert signal.getsignal(signal.SIGINT) is handler
    assert "stopping after this step; press Ctrl-C again to stop at once" in capsys.readouterr().err
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == saved
    whole = run(autoencoder(), splits())
    assert_same(run(autoencoder(), splits(), out=tmp_path, resume=True), whole)


def test_interrupted_players_resume_exactly(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(with_critic(2), splits(), out=tmp_path, callbacks=[PressCtrlC(9)])
    assert_same(run(with_critic(2), splits(), out=tmp_path, resume=True), run(with_critic(2), splits()))


def test_without_a_folder_it_stops_at_once(capsys):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(autoencoder(), splits(), callbacks=[PressCtrlC(2)])
    assert signal.getsignal(signal.SIGINT) is handler
    assert "stopping" not in capsys.readouterr().err


def test_fit_runs_in_a_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(autoencoder(), splits(), out=tmp_path)))
    thread.start()
    thread.join()
    assert len(results[0].history) == 3
