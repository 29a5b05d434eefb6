"""The most memory that processes have taken while something ran. Other benchmarks import this module."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import psutil

__all__ = ["PeakMemory"]


class PeakMemory:
    """Record the most memory of each of some processes, checked ten times per second.

    Parameters
    ----------
    pids : iterable of int
    with_children : bool
        Whether the memory of a process is that of all its children too.
    """

    def __init__(self, pids: Iterable[int], *, with_children: bool = False) -> None:
        self.peak: dict[int, int] = dict.fromkeys(pids, 0)
        self._with_children = with_children
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._check, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _check(self) -> None:
        while not self._ended.wait(0.1):
            for pid in self.peak:
                self.peak[pid] = max(self.peak[pid], self._measure(pid))

    def _measure(self, pid: int) -> int:
        """Bytes of a process now; zero of one that has ended."""
        try:
            process = psutil.Process(pid)
            family = [process, *process.children(recursive=True)] if self._with_children else [process]
        except psutil.NoSuchProcess:
            return 0
        taken = 0
        for member in family:
            try:
                taken += member.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return int(taken)
