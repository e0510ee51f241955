"""Times per step, taken in turns so that a busy machine slows all alike."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from support.gradients import Step

__all__ = ["StepTime", "interleaved_times"]


@dataclass(frozen=True)
class StepTime:
    """Medians per step over the rounds.

    Attributes:
        wall: milliseconds on the clock.
        cpu: milliseconds of processor time, of all threads together.
    """

    wall: float
    cpu: float


def interleaved_times(steps: Mapping[str, Step], rounds: int = 20, inner: int = 3) -> dict[str, StepTime]:
    """Time all steps in turns.

    Args:
        steps: name -> a step.
        rounds: how many turns each gets, after one that is not counted.
        inner: steps per turn.
    """
    taken: dict[str, list[StepTime]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            taken[name].append(_one_turn(step, inner))
    return {
        name: StepTime(median(turn.wall for turn in turns[1:]), median(turn.cpu for turn in turns[1:]))
        for name, turns in taken.items()
    }


def _one_turn(step: Step, inner: int) -> StepTime:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(inner):
        step()
    return StepTime((time.perf_counter() - wall) * 1e3 / inner, (time.process_time() - cpu) * 1e3 / inner)
