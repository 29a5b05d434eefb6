"""Waiting for what has to happen: as long as it takes, up to the limit that every test has."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

__all__ = ["wait_until"]


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[Any] | None = None) -> None:
    """Return once the condition holds; where a process is to bring it about, that must still run."""
    while not condition():
        assert process is None or process.poll() is None, f"{process.args} ended with {process.returncode}"
        time.sleep(0.01)
