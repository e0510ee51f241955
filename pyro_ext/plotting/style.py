"""What all plots have in common: colours, sizes of text, legends, ticks of epochs and of narrow logarithmic axes."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "DASHES", "MARKERS", "finish", "integer_ticks", "log_ticks", "prepare", "use_style"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The colours of Okabe and Ito but yellow, which can be told apart with each kind of colour blindness."""

DASHES = ("-", "--", "-.", ":", (0, (6, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
"""The strokes of lines, one for each colour, so that lines that cover each other are still seen."""

MARKERS = "osD^vP*X<>"
"""The markers of things that have no order, and so no line."""

_TITLE, _LABEL, _TICK = 9, 9, 8  # points
_GRID: dict[str, Any] = {"color": "#e4e4e4", "linewidth": 0.6}
_CHARACTERS = 12.0  # of a title, per inch
_SHARE = 0.9  # what axes take up at first, 0.775 of a figure, in parts of the room there is for text beside them
_INSIDE = 6  # labels; a longer legend stands beside the axes


def prepare(ax: Axes) -> Axes:
    """Give empty axes the colours, the grid and the sizes of text that all plots share; others stay as they are.

    Args:
        ax: the axes.

    Returns:
        The same axes.
    """
    if ax.has_data():
        return ax
    from cycler import cycler

    ax.set_prop_cycle(cycler(color=list(COLOURS)) + cycler(linestyle=list(DASHES)))
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, **_GRID)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=_TICK)
    return ax


def finish(
    ax: Axes,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    *,
    legend: bool = True,
    legend_title: str = "",
    **place: Any,
) -> Axes:
    """Write labels, a title and, where two or more things are named, a legend.

    Args:
        ax: the axes.
        xlabel: what the x axis shows, and its unit; empty to leave it.
        ylabel: what the y axis shows, and its unit; empty to leave it.
        title: the title, broken where it is wider than the axes; empty to leave it.
        legend: whether there is one.
        legend_title: what stands above its entries, such as what bars mean.
        **place: further arguments of the legend. Without them a long one stands beside the axes.

    Returns:
        The same axes.

    Example:
        >>> from pyro_ext.plotting import given_or_new
        >>> ax = given_or_new(None)
        >>> for name in ("train", "held out"):
        ...     lines = ax.plot([2.0, 1.0], label=name)
        >>> finish(ax, "epoch", "loss (nats)").get_legend() is not None
        True
    """
    if xlabel:
        ax.set_xlabel(xlabel, fontsize=_LABEL)
    if ylabel:
        ax.set_ylabel(_wrapped(ylabel, ax.bbox.height / ax.figure.dpi), fontsize=_LABEL)
    if title:
        ax.set_title(_wrapped(title, ax.bbox.width / ax.figure.dpi), fontsize=_TITLE)
    _, labels = ax.get_legend_handles_labels()
    if legend and len(labels) > 1:
        beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if len(labels) > _INSIDE else {}
        titled = {"title": legend_title, "title_fontsize": _TICK} if legend_title else {}
        ax.legend(frameon=False, fontsize=_TICK, **(titled | beside | place))
    return ax


def _wrapped(text: str, inches: float) -> str:
    """Return a text in lines that fit beside axes of a length, before a layout gives them the margins' room."""
    return "\n".join(textwrap.wrap(text, max(20, int(_CHARACTERS * inches / _SHARE))))


def integer_ticks(ax: Axes, which: str = "x") -> Axes:
    """Put ticks at whole numbers, such as epochs.

    Args:
        ax: the axes.
        which: ``"x"``, ``"y"`` or ``"both"``.

    Returns:
        The same axes.
    """
    from matplotlib.ticker import MaxNLocator

    for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
        if which in (name, "both"):
            axis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    return ax


def log_ticks(ax: Axes, low: float, high: float, which: str = "both") -> Axes:
    """Make axes logarithmic, with plain numbers at 1, 2 and 5 where few powers of ten lie between the ends.

    Args:
        ax: the axes.
        low: the smallest value shown.
        high: the largest value shown.
        which: ``"x"``, ``"y"`` or ``"both"``.

    Returns:
        The same axes.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    decades = math.log10(high / low) if 0 < low < high else 0.0
    for name in ("x", "y"):
        if which not in (name, "both"):
            continue
        getattr(ax, f"set_{name}scale")("log")
        if decades < 2.5 and low > 1e-4:
            axis = getattr(ax, f"{name}axis")
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades > 0.7 else (1.0, 1.5, 2, 3, 4, 5, 6, 8)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
    return ax


def use_style() -> None:
    """Give figures of pyplot the colours, strokes and sizes of text that the plots of this package have.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> with plt.rc_context():
        ...     use_style()
        ...     plt.rcParams["axes.titlesize"]
        9.0
    """
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=list(COLOURS)) + cycler(linestyle=list(DASHES)),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titlesize": _TITLE,
            "axes.labelsize": _LABEL,
            "xtick.labelsize": _TICK,
            "ytick.labelsize": _TICK,
            "legend.fontsize": _TICK,
            "legend.frameon": False,
            "grid.color": _GRID["color"],
            "grid.linewidth": _GRID["linewidth"],
        }
    )
