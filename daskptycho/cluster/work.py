"""How many tiles this process has swept: on a cluster of GPUs, whether each of them did its part."""

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
    """Sweeps over tiles in this process so far."""
    return _sweeps
