"""Times per step. The steps are timed in turns, so that other work on the machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from support.gradients import Step

__all__ = ["StepTime", "interleaved_times"]


@dataclass(frozen=True)
class StepTime:
    """Milliseconds per step over the rounds.

    Attributes:
        wall: the median of elapsed time, to be compared with that of a step timed in turns with this one.
        cpu: the median of processor time, summed over all threads.
        least: the least elapsed time, which estimates what a step takes if the machine does nothing else.
    """

    wall: float
    cpu: float
    least: float


def interleaved_times(steps: Mapping[str, Step], rounds: int = 20, inner: int = 3) -> dict[str, StepTime]:
    """Time all steps in turns.

    Args:
        steps: the steps by name.
        rounds: the number of turns of each step; one more at the beginning is not counted.
        inner: the number of steps in a turn.
    """
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            taken[name].append(_one_turn(step, inner))
    times = {}
    for name, turns in taken.items():
        walls, cpus = zip(*turns[1:], strict=True)
        times[name] = StepTime(median(walls), median(cpus), min(walls))
    return times


def _one_turn(step: Step, inner: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(inner):
        step()
    return (time.perf_counter() - wall) * 1e3 / inner, (time.process_time() - cpu) * 1e3 / inner
