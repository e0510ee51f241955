"""Progress where there is no terminal: lines now and then, none of them twice."""

import sys

from pyro_ext.cli.progress import ProgressLines, progress_bar


def test_lines_now_and_then(capsys):
    with ProgressLines(3, "epoch", "weights", every=0.0) as lines:
        lines.update()
        lines.set_description("others")
        lines.set_postfix_str("loss 2.5", refresh=False)
        lines.update(2)
    shown = capsys.readouterr().err.splitlines()
    assert shown == ["weights: 1/3 epochs", "others: 3/3 epochs, loss 2.5"]


def test_one_line_at_the_end_of_short_work(capsys):
    with progress_bar(200, "gradient") as bar:
        for _ in range(200):
            bar.update()
    assert capsys.readouterr().err == "200/200 gradients\n"


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar(2, "epoch", "weights") as bar:
        bar.update(2)
    assert "weights: 100%" in capsys.readouterr().err
