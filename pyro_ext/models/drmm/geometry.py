"""What layers are wanted, and the sizes of the maps between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyro_ext.models.drmm.cells import SWITCHES, Switch
from pyro_ext.utils.checks import positive_int

__all__ = ["Geometry", "Layer", "plan"]


@dataclass(frozen=True)
class Layer:
    r"""One level of rendering, or one layer of a convolutional network of stride 1.

    Args:
        channels: :math:`K_l`, the number of templates.
        kernel: the height and width of a template.
        pool: p, the size of the cells within which a template may move; 1 for none.
        padding: zeros around the finer map; the rendered map is cut by as much.
        mean_pool: the size of cells of which only the mean is passed upwards; 1 for none.
        switch: the on/off values of the units, instead of the model's.

    Raises:
        ValueError: if a number is out of range, or there is no such switch.

    Example:
        >>> Layer(16, kernel=3, pool=2, padding=1).channels
        16
    """

    channels: int
    kernel: int
    pool: int = 1
    padding: int = 0
    mean_pool: int = 1
    switch: Switch | None = None

    def __post_init__(self) -> None:
        for name in ("channels", "kernel", "pool", "mean_pool"):
            positive_int(name, getattr(self, name))
        positive_int("padding", self.padding, minimum=0)
        if self.padding >= self.kernel:
            raise ValueError(f"padding must be less than kernel={self.kernel}, got {self.padding}")
        if self.switch is not None and self.switch not in SWITCHES:
            raise ValueError(f"switch must be one of {', '.join(SWITCHES)}; got {self.switch!r}")


@dataclass(frozen=True)
class Geometry:
    """The shapes ``(channels, height, width)`` around one layer, from the finest.

    Args:
        finer: of the map below, the pixels for the lowest layer.
        conv: of the convolution.
        pooled: of the units and their switches.
        coarser: of the map above, smaller than ``pooled`` where means are passed upwards.
    """

    finer: tuple[int, int, int]
    conv: tuple[int, int, int]
    pooled: tuple[int, int, int]
    coarser: tuple[int, int, int]


def plan(layers: Sequence[Layer], image_shape: Sequence[int]) -> tuple[Geometry, ...]:
    """Return the shapes around every layer, from the pixels upwards.

    Args:
        layers: from the pixels upwards.
        image_shape: channels, height and width of the images.

    Raises:
        ValueError: if there are no layers, or the image is smaller than the receptive field of a unit.

    Example:
        >>> plan([Layer(16, 3, pool=2, padding=1), Layer(32, 3, mean_pool=2)], (1, 9, 9))[-1].coarser
        (32, 1, 1)
    """
    if not layers:
        raise ValueError("layers must hold at least one Layer, got none")
    if len(image_shape) != 3:
        raise ValueError(f"image_shape must be (channels, height, width), got {tuple(image_shape)!r}")
    channels, height, width = (positive_int("image_shape", number) for number in image_shape)
    finer, found = (channels, height, width), []
    for number, layer in enumerate(layers, start=1):
        found.append(_around(finer, layer))
        finer = found[-1].coarser
        if min(finer) < 1:
            raise ValueError(
                f"image_shape {tuple(image_shape)!r} is smaller than the receptive field of layer {number}, of which "
                f"{found[-1].conv[1]} x {found[-1].conv[2]} places are left; use larger images, padding or fewer layers"
            )
    return tuple(found)


def _around(finer: tuple[int, int, int], layer: Layer) -> Geometry:
    k = layer.channels
    conv = [max(size + 2 * layer.padding - layer.kernel + 1, 0) for size in finer[1:]]
    pooled = [size // layer.pool for size in conv]
    coarser = [size // layer.mean_pool for size in pooled]
    return Geometry(finer, (k, conv[0], conv[1]), (k, pooled[0], pooled[1]), (k, coarser[0], coarser[1]))
