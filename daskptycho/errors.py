"""The errors that a user can cause or meet. Every module may raise them; this one imports nothing."""

from __future__ import annotations

__all__ = ["OptionError", "ScanError", "StoreError"]


class ScanError(ValueError):
    """Data or geometry that cannot be right: says which variable, what was found and what was expected."""


class OptionError(ValueError):
    """Options that make no sense, alone or together."""


class StoreError(OSError):
    """A store that does not answer, or that lets nobody in: says which, and what it said."""
