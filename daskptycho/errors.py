"""Errors that a user can cause or meet. Every module may raise them; this one imports nothing."""

from __future__ import annotations

__all__ = ["FaultError", "OptionError", "ScanError", "StoreError"]


class ScanError(ValueError):
    """Data or geometry are impossible: names the variable, what was found and what was expected.

    It is a ``ValueError``. The command line shows it in one line and exits with code 2.
    """


class OptionError(ValueError):
    """Options are impossible, alone or together, or a run does not fit into memory.

    It is a ``ValueError``. The command line shows it in one line and exits with code 2.
    """


class StoreError(OSError):
    """A store does not answer, or denies access: names the store, and what the server answered.

    It is an ``OSError``. The command line shows it in one line and exits with code 2.
    """


class FaultError(RuntimeError):
    """Something that a run depends on failed: its workers, their memory, the scheduler or a store.

    Its notes say what has been kept and how to resume the run. The command line shows both and exits with
    code 1.
    """
