"""Errors and warnings that a user can cause or meet. Every module may use them; this one imports none."""

from __future__ import annotations

import inspect
import warnings

__all__ = ["FaultError", "OptionError", "ScanError", "StoreError", "how_to_install", "warn_caller"]


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


def how_to_install(extra: str) -> str:
    """The command that installs an extra. The package comes from its sources and is in no registry."""
    return f"pip install '.[{extra}]' in the folder of daskptycho's sources"


def warn_caller(message: str) -> None:
    """Warn on behalf of the code outside of this package that called it: a `UserWarning` at its line."""
    package = __name__.partition(".")[0]
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
