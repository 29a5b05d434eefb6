"""Settings of all tests, and the stand-in for CuPy."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure, and the same commit is tested in the same way everywhere.
settings.register_profile(
    "daskptycho", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("daskptycho")

# Who runs tests side by side, or in the background, may ignore Ctrl-C; the programs that the tests
# start, and send one, would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

STANDIN = Path(__file__).parent / "standin"
STOOD_IN = ("cupy", "cupyx", "dask_cuda", "distributed.protocol.cupy")


def _forget() -> dict[str, ModuleType]:
    """Take the modules that are stood in for, and what was kept of them, out of this process."""
    from daskptycho import gpu_kernels

    gpu_kernels._module.cache_clear()
    gpu_kernels._tables.cache_clear()
    names = [name for name in sys.modules if f"{name}.".startswith(tuple(f"{own}." for own in STOOD_IN))]
    return {name: sys.modules.pop(name) for name in names}


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts at a store: they take no time, and patience is measured in them only."""
    from daskptycho.storage import retrying

    seconds: list[float] = []
    monkeypatch.setattr(retrying, "sleep", seconds.append)
    monkeypatch.setattr(retrying, "monotonic", lambda: sum(seconds))
    return seconds


@pytest.fixture(scope="module")
def standin() -> Iterator[ModuleType]:
    """The stand-in `cupy`, in place of a real one; tests/standin/README.md tells what it shows."""
    from tests.cuda.emulation import compiler_missing

    if missing := compiler_missing():
        pytest.skip(missing)
    real = _forget()
    sys.path.insert(0, str(STANDIN))
    importlib.invalidate_caches()
    try:
        yield importlib.import_module("cupy")
    finally:
        sys.path.remove(str(STANDIN))
        _forget()
        sys.modules.update(real)


@pytest.fixture(scope="module")
def card() -> ModuleType:
    """CuPy with a real card; where there is none the test is skipped, and says what is missing."""
    from daskptycho.cluster.devices import gpu_or_reason

    found = gpu_or_reason()
    if isinstance(found, str):
        pytest.skip(f"no card here: {found}")
    return importlib.import_module("cupy")
