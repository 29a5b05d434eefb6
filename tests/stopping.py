"""A run that is cut off at a chosen sweep, as a crash would."""

from __future__ import annotations

from collections.abc import Callable

import daskptycho as dp


class Stop(Exception):
    """What cuts a run off."""


def stop_at(sweep: int) -> Callable[[dp.Progress], None]:
    def callback(progress: dp.Progress) -> None:
        if progress.sweep == sweep:
            raise Stop

    return callback
