"""Errors that a user can cause or meet. Every module may raise them; this one imports nothing."""

from __future__ import annotations

__all__ = ["FaultError", "OptionError", "ScanError", "StoreError"]


class ScanError(ValueError):
    """Data or geometry that cannot be right: says which variable, what was found and what was expected.

    A ``ValueError``. The command line shows it as one line and ends with the exit code 2.
    """


class OptionError(ValueError):
    """Options that make no sense, alone or together, or a run that does not fit into memory.

    A ``ValueError``. The command line shows it as one line and ends with the exit code 2.
    """


class StoreError(OSError):
    """A store that does not answer, or that lets nobody in: says which, and what it said.

    An ``OSError``. The command line shows it as one line and ends with the exit code 2.
    """


class FaultError(RuntimeError):
    """What a run depends on has failed it: its workers, their memory, the scheduler or a store.

    Its notes say what is kept and how to go on. The command line shows both and ends with the exit code 1.
    """
