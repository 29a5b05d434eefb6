"""Waiting for what has to happen: as long as it takes, up to the limit that every test has."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["wait_until"]

T = TypeVar("T")


def wait_until(condition: Callable[[], T], process: subprocess.Popen[Any] | None = None) -> T:
    """What the condition returns once it holds; where a process is to bring it about, that must still run."""
    while not (found := condition()):
        assert process is None or process.poll() is None, f"{process.args} ended with {process.returncode}"
        time.sleep(0.02)
    return found
