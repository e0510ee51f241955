"""Plots as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["save"]


def save(ax: Axes, path: str | Path, dpi: float = 150.0) -> Path:
    """Write the figure that ``ax`` belongs to into a file, whole or not at all.

    Args:
        ax: axes, such as a plot returns.
        path: the file; its ending says which format.
        dpi: dots per inch, for formats made of dots.

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
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    # A canvas belongs to the whole figure also where the axes lie in a part of it.
    try:
        ax.figure.canvas.print_figure(partial, dpi=dpi)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
