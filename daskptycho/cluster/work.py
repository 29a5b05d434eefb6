"""Counts the sweeps over tiles in this process, to check that each GPU of a cluster has done some of them."""

from __future__ import annotations

import threading

__all__ = ["count_sweeps", "note_sweep"]

_lock = threading.Lock()
_sweeps = 0


def note_sweep() -> None:
    """Count one sweep over one tile."""
    global _sweeps
    with _lock:
        _sweeps += 1


def count_sweeps() -> int:
    """Number of sweeps over single tiles in this process so far."""
    return _sweeps
