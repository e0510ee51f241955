"""Every plot draws on given or new axes; what it draws; files; refusals."""

import io
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyro_ext.inference.evidence import EvidenceEstimate
from pyro_ext.plotting import (
    autocorrelation_curve,
    correlation_by_depth,
    gradient_trace,
    gradient_variance,
    gradient_variance_curve,
    image_grid,
    loss_curve,
    plot_evidence,
    save,
)

DRAWINGS = {
    "loss_curve": lambda ax: loss_curve([3.0, 2.0, 1.0], ax),
    "loss_curve, labelled runs": lambda ax: loss_curve({"a": [[3.0, 2.0], [4.0, 2.5]], "b": [1.0, 0.5]}, ax),
    "image_grid": lambda ax: image_grid(torch.rand(7, 4, 6), ax),
    "gradient_variance": lambda ax: gradient_variance({"one": {"encoder": 1.0, "decoder": -2.0}}, ax),
    "gradient_trace": lambda ax: gradient_trace({"one": [1.0, -2.0], "zero": [0.0, 0.0]}, [0.0, 1.0], ax),
    "autocorrelation_curve": lambda ax: autocorrelation_curve({"a": [1.0, 0.5], "b": [[1.0, 0.2]]}, ax),
    "correlation_by_depth": lambda ax: correlation_by_depth({"a": [0.5, -0.1]}, [1, 2], {"b": lambda x: 0.5**x}, ax),
    "gradient_variance_curve": lambda ax: gradient_variance_curve({"one": [1.0, -2.0]}, [2, 4], ax),
}
ESTIMATES = {
    "ml": EvidenceEstimate(-1.0, method="ml", is_score=True),
    "bridge": EvidenceEstimate(-3.0, 0.1, method="bridge"),
    "gamma_laplus": EvidenceEstimate(-3.2, math.nan, method="gamma_laplus"),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_returns_the_axes_it_drew_on_and_saves(draw):
    ax = Figure().add_subplot()
    assert draw(ax) is ax
    new = draw(None)
    assert new is not ax
    buffer = io.BytesIO()
    new.figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_runs_are_drawn_as_mean_and_range():
    ax = loss_curve({"a": [[3.0, 2.0], [5.0, 4.0]]})
    assert ax.lines[0].get_ydata().tolist() == [4.0, 3.0]
    assert len(ax.collections) == 1
    corners = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (2.0, 5.0)


def test_single_curve_needs_no_legend():
    assert loss_curve([1.0, 0.5]).get_legend() is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gradient_trace({}, [0.0]), "gradients must hold at least one curve, got none"),
        (lambda: gradient_trace({"a": [1.0]}, [0.0, 1.0]), r"gradients\['a'\] must have shape \(2,\), that of inputs"),
        (lambda: autocorrelation_curve({}), "curves must hold at least one autocorrelation, got none"),
        (lambda: autocorrelation_curve({"a": np.zeros((1, 1, 2))}), r"curves\['a'\] must have shape \(lags,\)"),
        (lambda: correlation_by_depth({"a": [1.0]}, [1, 2]), "one value for each of 2 depths"),
    ],
)
def test_curves_of_gradients_refuse_other_shapes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_epochs_are_places():
    assert loss_curve([1.0, 0.5], epochs=[10, 20]).lines[0].get_xdata().tolist() == [10, 20]


def test_epochs_are_whole_and_one_alone_is_seen():
    ax = loss_curve([2.0, 1.0])
    assert ax.lines[0].get_marker() in ("", "None")
    assert all(tick == round(tick) for tick in ax.get_xticks())
    alone = loss_curve([2.0])
    assert alone.lines[0].get_marker() == "o"
    assert all(tick == round(tick) for tick in alone.get_xticks())


def test_image_grid_leaves_room_for_a_title():
    ax = image_grid(torch.zeros(8, 4, 4), columns=8)
    ax.set_title("what is to be seen")
    figure = ax.figure
    figure.draw_without_rendering()
    assert ax.get_window_extent().width > 0.9 * figure.bbox.width


def test_image_grid_puts_tiles_in_reading_order():
    images = torch.arange(4.0).reshape(4, 1, 1) / 3
    pixels = image_grid(images, columns=2, padding=0).images[0].get_array()
    np.testing.assert_allclose(pixels, [[0, 1 / 3], [2 / 3, 1]])


def test_image_grid_keeps_given_rows():
    rows = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    pixels = image_grid(rows, padding=0).images[0].get_array()
    np.testing.assert_array_equal(pixels, np.repeat([[0.0], [1.0]], 2, axis=0).repeat(6, axis=1))


def test_image_grid_in_colour():
    rows = torch.rand(2, 3, 4, 5, 3)
    pixels = image_grid(rows, padding=0).images[0].get_array()
    assert pixels.shape == (8, 15, 3)
    np.testing.assert_allclose(pixels[4:, 5:10], rows[1, 1])
    assert (image_grid(rows).images[0].get_array()[0] == 0.5).all()
    with pytest.raises(ValueError, match=r"perhaps followed by 3 colours, got \(2, 3, 4, 5, 2\)"):
        image_grid(rows[..., :2])


def test_rows_and_columns_of_images_are_explained():
    ax = image_grid(torch.rand(2, 3, 4, 4), title="digits", row_labels=["image", "reconstruction"], column_labels="abc")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["image", "reconstruction"]
    assert ax.get_yticks().tolist() == [2.5, 7.5]
    assert [label.get_text() for label in ax.get_xticklabels()] == [*"abc"]
    assert ax.get_title() == "digits"
    with pytest.raises(ValueError, match="there are 2 rows and 3 columns of images, got 3 row_labels and 0"):
        image_grid(torch.rand(2, 3, 4, 4), row_labels="abc")


def test_image_grid_fills_the_last_row():
    assert image_grid(np.ones((5, 2, 2)), columns=3, padding=1).images[0].get_array().shape == (7, 10)


def test_exact_gradients_are_marked_and_leave_a_gap():
    ax = gradient_variance({"exact": {"encoder": -np.inf}, "sampled": {"encoder": 1.0}})
    (exact,) = [line for line in ax.lines if line.get_marker() == "<" and len(line.get_xdata())]
    assert exact.get_transform() == ax.get_yaxis_transform()  # at the edge, whatever the range
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["exact: no variance", "encoder"]
    line = gradient_variance_curve({"set": [1.0, -np.inf]}, [4, 8]).lines[0]
    assert np.isnan(line.get_ydata()[1])


def test_variances_have_bars_of_two_standard_errors():
    values, errors = {"one": {"a": 1.0, "b": 2.0}, "other": {"a": 3.0}}, {"one": {"a": 0.1}}
    ax = gradient_variance(values, errors=errors, title="of the ELBO")
    (segment,) = ax.containers[0].lines[2][0].get_segments()
    assert segment[:, 0].tolist() == pytest.approx([0.8, 1.2])
    assert not ax.patches  # a bar from log 0 would have a length without a meaning
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "other"]
    assert ax.get_legend().get_title().get_text() == "bars: 2 standard errors"


def test_evidence_has_lines_bars_and_the_exact_value():
    ax = plot_evidence(ESTIMATES, exact=-3.1)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["bridge", "gamma_laplus"]
    low, high = ax.containers[0].lines[2][0].get_segments()[0][:, 0]
    assert (low, high) == pytest.approx((-3.2, -2.8))
    assert plot_evidence(ESTIMATES, ax) is ax


def test_bounds_and_scores_of_evidence_look_like_themselves():
    bound = EvidenceEstimate(-3.4, 0.05, method="elbo")
    assert (bound.is_lower_bound, ESTIMATES["bridge"].is_lower_bound) == (True, False)
    ax = plot_evidence(ESTIMATES | {"elbo": bound}, scores=True)
    kinds = ["score, no estimate", "estimate ± 2 standard errors", "no standard error", "lower bound"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == kinds
    assert [own.lines[0].get_marker() for own in ax.containers] == ["s", "o", "D", ">"]


def test_scores_of_evidence_only_on_demand():
    assert len(plot_evidence(ESTIMATES, scores=True).get_yticklabels()) == 3
    with pytest.raises(ValueError, match="scores=True"):
        plot_evidence({"ml": ESTIMATES["ml"]})


def test_saved_whole_or_not_at_all(tmp_path):
    path = save(loss_curve([3.0, 2.0]), tmp_path / "loss.png")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="nonsense"):
        save(loss_curve([1.0]), tmp_path / "loss.nonsense")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["loss.png"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss_curve(np.zeros((2, 2, 2))), "history"),
        (lambda: loss_curve({"a": [1.0, 2.0]}, epochs=[1]), r"history\['a'\] must have shape"),
        (lambda: image_grid(torch.zeros(3, 3)), r"images must have shape .*got \(3, 3\)"),
        (lambda: image_grid(torch.zeros(0, 3, 3)), "images must have shape"),
        (lambda: image_grid(torch.zeros(2, 3, 3), columns=0), "columns must be an integer of at least 1, got 0"),
        (lambda: gradient_variance({}), "log_variance must name at least one estimator"),
        (lambda: gradient_variance_curve({"a": [1.0]}, [1, 2]), r"log_variance\['a'\] must have shape \(2,\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.serial
def test_importing_the_package_imports_no_matplotlib_and_no_scikit_learn():
    code = (
        "import sys, pyro_ext.plotting, pyro_ext.datasets, pyro_ext.models;"
        "assert not {'matplotlib', 'sklearn', 'pooch', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
