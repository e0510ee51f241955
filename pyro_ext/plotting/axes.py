"""The axes that a plot draws on, and the files that figures go to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyro_ext.plotting.style import prepare
from pyro_ext.utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["given_or_new", "save"]


def given_or_new(ax: Axes | None, width: float = 6.0, height: float = 4.0) -> Axes:
    """Return ``ax``, or the only axes of a new figure of ``width`` x ``height`` inches, outside pyplot.

    Axes on which nothing has been drawn get the colours and the grid that all plots share.

    Raises:
        ImportError: if matplotlib is not installed.

    Example:
        >>> ax = given_or_new(None, width=3, height=2)
        >>> ax.figure.get_size_inches().tolist(), given_or_new(ax) is ax
        ([3.0, 2.0], True)
    """
    if ax is not None:
        return prepare(ax)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'pyro-ext[plot]'") from error
    return prepare(Figure(figsize=(width, height), layout="constrained").add_subplot())


def save(ax: Axes, path: str | Path, dpi: float = 150.0) -> Path:
    """Write the figure that ``ax`` belongs to into a file, whole or not at all.

    Args:
        ax: the axes, such as a plot returns.
        path: the file; its ending chooses the format.
        dpi: dots per inch, for formats that store pixels.

    Returns:
        The path.

    Raises:
        ValueError: if matplotlib does not know the format.

    Example:
        >>> import tempfile
        >>> from pyro_ext.plotting import loss_curve
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(loss_curve([3.0, 2.0]), f"{folder}/elbo.png").name
        'elbo.png'
    """
    path = Path(path)
    with replacing(path) as partial:
        # A canvas belongs to the whole figure also where the axes lie in a part of it.
        ax.figure.canvas.print_figure(partial, dpi=dpi)
    return path
