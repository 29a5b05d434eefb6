"""What is said to the user who imports a file: warnings that point to the line that called this package."""

from __future__ import annotations

import sys
import warnings

__all__ = ["say"]


def say(message: str) -> None:
    """Warn the user, at the line outside of this package that called it."""
    package = __name__.partition(".")[0]
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level - 1)
