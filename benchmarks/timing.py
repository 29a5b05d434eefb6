"""Time several actions fairly, in turn. The benchmarks import this module."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def fastest_seconds(actions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of the fastest round of each action; they run in turn, so that disturbances hit all alike."""
    best = dict.fromkeys(actions, np.inf)
    for _ in range(rounds):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def processor_seconds(actions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of processor time of each action in each round; they run in turn, as for `fastest_seconds`.

    Other processes on the same cores change it far less than the time of a clock.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            start = time.process_time()
            action()
            seconds[name].append(time.process_time() - start)
    return seconds
