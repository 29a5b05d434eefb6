"""Ptychography of any size: frames in Zarr, tiles on Dask, phases synchronised across the whole scan."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskptycho.algorithms import AP, RAAR, DifferenceMap
    from daskptycho.checkpoint_history import Checkpoint, checkpoints, open_checkpoint
    from daskptycho.dashboard import LiveCell, LivePage
    from daskptycho.errors import FaultError, OptionError, ScanError, StoreError
    from daskptycho.formats import export_result, import_scan
    from daskptycho.loop import Progress
    from daskptycho.metrics import compare_images, relative_error
    from daskptycho.plotting import plot_result
    from daskptycho.result import open_result
    from daskptycho.resumption import resume
    from daskptycho.run import reconstruct
    from daskptycho.scan import create_scan, open_scan
    from daskptycho.simulate import simulate_scan
    from daskptycho.synchronise import Sync

try:
    __version__ = version("daskptycho")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

# Where each public name lives: it is imported when it is first asked for, so that `import daskptycho`
# costs nothing. No module may bear the name of a function here: importing it would hide the function.
_HOME = {
    "AP": "algorithms",
    "Checkpoint": "checkpoint_history",
    "DifferenceMap": "algorithms",
    "FaultError": "errors",
    "LiveCell": "dashboard",
    "LivePage": "dashboard",
    "OptionError": "errors",
    "Progress": "loop",
    "RAAR": "algorithms",
    "ScanError": "errors",
    "StoreError": "errors",
    "Sync": "synchronise",
    "checkpoints": "checkpoint_history",
    "compare_images": "metrics",
    "create_scan": "scan",
    "export_result": "formats",
    "import_scan": "formats",
    "open_checkpoint": "checkpoint_history",
    "open_result": "result",
    "open_scan": "scan",
    "plot_result": "plotting",
    "reconstruct": "run",
    "relative_error": "metrics",
    "resume": "resumption",
    "simulate_scan": "simulate",
}

_HAND_OUT_DATASETS = {
    "create_scan",
    "open_checkpoint",
    "open_result",
    "open_scan",
    "reconstruct",
    "resume",
    "simulate_scan",
}

__all__ = [
    "AP",
    "RAAR",
    "Checkpoint",
    "DifferenceMap",
    "FaultError",
    "LiveCell",
    "LivePage",
    "OptionError",
    "Progress",
    "ScanError",
    "StoreError",
    "Sync",
    "__version__",
    "checkpoints",
    "compare_images",
    "create_scan",
    "export_result",
    "import_scan",
    "open_checkpoint",
    "open_result",
    "open_scan",
    "plot_result",
    "reconstruct",
    "relative_error",
    "resume",
    "simulate_scan",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _HAND_OUT_DATASETS:
        # Their ``ds.ptycho``; importing it earlier would load xarray with the package.
        import_module(f"{__name__}.accessor")
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
