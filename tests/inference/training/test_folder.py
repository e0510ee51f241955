"""What a run promises of its folder: whole files, nothing lost, nothing mixed, nothing left behind."""

import errno
import os
import random
import signal
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from pyro_ext.cli.__main__ import main
from pyro_ext.inference import TraceLeaveOneOut_ELBO
from pyro_ext.inference.training import prepare
from pyro_ext.inference.training.folder import RunFolder
from tests.inference.training import toys
from tests.inference.training.toys import assert_same, autoencoder, run, splits, with_critic


def in_a_child(action):
    """Run an action in a forked process; return the signal that killed it, or minus its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        except ValueError as error:
            print(error, file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.serial
def test_the_last_row_is_written_after_a_kill_before_it(tmp_path, monkeypatch):
    write = RunFolder.write_metrics

    def killed(self, history):
        return die() if len(history) == toys.EPOCHS else write(self, history)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_metrics", killed)
        assert in_a_child(lambda: run(autoencoder(), splits(), out=tmp_path)) == signal.SIGKILL
    resumed = run(autoencoder(), splits(), out=tmp_path, resume=True)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + toys.EPOCHS
    assert_same(resumed, run(autoencoder(), splits()))


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_broken_off_before_its_first_checkpoint_begins_anew(tmp_path, resume):
    (tmp_path / "config.yaml").write_text("seed: 1")
    assert_same(run(autoencoder(), splits(), out=tmp_path, resume=resume), run(autoencoder(), splits()))


def flipped(path):
    """Flip a bit of the first tensor in a checkpoint."""
    with zipfile.ZipFile(path) as archive:
        info = next(each for each in archive.infolist() if each.filename.endswith("data/0"))
        archive.fp.seek(info.header_offset + 26)
        lengths = archive.fp.read(4)
    at = info.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    content = bytearray(path.read_bytes())
    content[at + 2] ^= 0x40
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    run(autoencoder(), splits(), out=tmp_path, max_epochs=1)
    flipped(tmp_path / "last.ckpt")
    before = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match=r"last.ckpt' is damaged: the checksum of its part '.*data/0' is wrong"):
        run(autoencoder(), splits(), out=tmp_path, resume=True)
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_two_runs_do_not_share_a_folder(tmp_path):
    flags = {"out": tmp_path / "run", **toys.QUIET}
    settings = toys.FitSettings(**toys.SETTINGS)
    first, second = (prepare(autoencoder(), splits(), settings, **flags) for _ in range(2))
    with first.folder.taken(), pytest.raises(ValueError, match="is being written to by another run; choose another"):
        second.train()
    assert_same(first.train(), run(autoencoder(), splits()))
    assert sorted(path.name for path in flags["out"].iterdir()) == ["last.ckpt", "metrics.csv"]


def other_data():
    data = splits()
    data.train.x = data.train.x + 1
    return data


CHANGED = [
    (
        lambda: autoencoder().with_elbo(TraceLeaveOneOut_ELBO(2)),
        splits,
        {},
        "elbo.name=TraceLeaveOneOut_ELBO, but the run",
    ),
    (autoencoder, other_data, {}, "the data differ from those that the run to resume began with: the first batch is"),
    (
        autoencoder,
        splits,
        {"accumulate_grad_batches": 2},
        "accumulate_grad_batches=2, but the run to resume began with",
    ),
    (autoencoder, splits, {"gradient_clip_val": 1.0}, "gradient_clip_val=1.0, but the run to resume began with"),
    (autoencoder, splits, {"precision": "64-true"}, "precision=64-true, but the run to resume began with precision=32"),
]


@pytest.mark.parametrize(("build", "data", "flags", "message"), CHANGED, ids=[message[:20] for *_, message in CHANGED])
def test_what_has_changed_is_named_on_resuming(tmp_path, build, data, flags, message):
    run(autoencoder(), splits(), out=tmp_path, max_epochs=1)
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the message is compared
        run(build(), data(), out=tmp_path, resume=True, **flags)
    assert str(raised.value).startswith(message)


def test_no_folder_for_temporary_files_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    assert_same(run(autoencoder(), splits(), out=tmp_path / "run"), run(autoencoder(), splits()))


def test_links_to_nowhere_and_long_names_are_refused(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match="is a link to nowhere; remove it or choose another path"):
        run(autoencoder(), splits(), out=link)
    with pytest.raises(ValueError, match="cannot be written to: File name too long; choose another path"):
        run(autoencoder(), splits(), out=tmp_path / ("x" * 300))


def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "last.ckpt")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "save", full)
    small = [
        "--model.num_latents",
        "2",
        "--model.hidden",
        "[8, 8]",
        "--data.num_train",
        "50",
        "--trainer.max_epochs",
        "1",
    ]
    assert main(["fit", "categorical_vae", *small, "--trainer.accelerator", "cpu", "--out", "run"]) == 1
    shown = capsys.readouterr().err
    assert shown == ("pyro-ext: writing failed: No space left on device: last.ckpt; --resume continues once it works\n")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "categorical_vae", "--trainer.accelerator", "cpu", "--out", "run", "--resume"]) == 0


def test_empty_data_in_a_file_of_options_is_no_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("options.yaml").write_text("data: null\nbatch_size: 0\n")
    assert main(["fit", "categorical_vae", "--config", "options.yaml"]) == 2
    assert capsys.readouterr().err == "pyro-ext: --batch_size must be an integer of at least 1, got 0\n"


class KillAtOperation:
    """Kills the process at its n-th operation on a file below a folder; counts them where n is None."""

    EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")

    def __init__(self, folder: Path, number: int | None) -> None:
        self.folder, self.number, self.count = str(folder), number, 0

    def __call__(self, event, arguments):
        if event in self.EVENTS and str(arguments[0]).startswith(self.folder):
            if self.count == self.number:
                die()
            self.count += 1


def short_run(build, out, number, counter=None, resume=False):
    hook = KillAtOperation(out.parent, number)
    sys.addaudithook(hook)
    run(build(), splits(), out=out, resume=resume, max_epochs=2, checkpoint_every_n_steps=3)
    if counter is not None:
        counter.write_text(str(hook.count))


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("build", [autoencoder, with_critic])
def test_a_kill_at_any_moment_loses_nothing_and_leaves_nothing(tmp_path, build):
    """At every operation on a file of a short run, and at random moments of several."""
    whole = run(build(), splits(), out=tmp_path / "whole" / "run", max_epochs=2, checkpoint_every_n_steps=3)
    counter = tmp_path / "count"
    (tmp_path / "counted").mkdir()
    assert in_a_child(lambda: short_run(build, tmp_path / "counted" / "run", None, counter)) == 0
    operations = int(counter.read_text())
    assert operations > 20
    for number in range(operations):
        out = tmp_path / str(number) / "run"
        out.parent.mkdir()
        assert in_a_child(lambda out=out, number=number: short_run(build, out, number)) == signal.SIGKILL
        began = (out / "last.ckpt").is_file()
        resumed = run(build(), splits(), out=out, resume=began, max_epochs=2, checkpoint_every_n_steps=3)
        assert_same(resumed, whole)
        assert sorted(path.name for path in out.iterdir()) == ["last.ckpt", "metrics.csv"]
        assert [path.name for path in out.parent.iterdir()] == ["run"]
    for seed in range(10):
        out = tmp_path / f"random{seed}" / "run"
        killed_after(random.Random(seed).uniform(0.0, 0.4), lambda out=out: short_run(build, out, None))
        resumed = run(build(), splits(), out=out, resume=(out / "last.ckpt").is_file(), max_epochs=2)
        assert_same(resumed, whole)


def killed_after(seconds, action):
    pid = os.fork()
    if pid == 0:
        signal.setitimer(signal.ITIMER_REAL, seconds + 1e-3)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        try:
            action()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
