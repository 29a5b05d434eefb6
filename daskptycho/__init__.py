"""Ptychography of scans of any size: frames in Zarr, tiles on Dask, phases synchronised across the scan."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from daskptycho.version import __version__

if TYPE_CHECKING:
    from daskptycho.analysis.metrics import common_region, compare_images, relative_error
    from daskptycho.arrays import Gramian, amplitudes, gramian, phases, power_iteration, weighted_frames
    from daskptycho.cluster.client import STAY_AT_HOME
    from daskptycho.cluster.cuda_cluster import cuda_cluster, require_gpus_at_work
    from daskptycho.dashboard import LiveCell, LivePage
    from daskptycho.errors import FaultError, OptionError, ScanError, StoreError
    from daskptycho.formats import export_result, import_scan
    from daskptycho.formats.recording import record
    from daskptycho.model.algorithms import AP, LBFGS, RAAR, Algorithm, DifferenceMap
    from daskptycho.model.background import Background
    from daskptycho.model.positions import Positions
    from daskptycho.model.probe_variation import ProbeVariation
    from daskptycho.run.first_probe import guess_probe
    from daskptycho.run.history import Checkpoint, checkpoints, open_checkpoint
    from daskptycho.run.loop import Progress
    from daskptycho.run.reconstruction import reconstruct
    from daskptycho.run.result import open_result
    from daskptycho.run.resumption import resume
    from daskptycho.scan.dataset import create_scan, open_scan
    from daskptycho.scan.scan_writer import ScanWriter
    from daskptycho.scan.simulate import simulate_scan
    from daskptycho.sync.options import Sync
    from daskptycho.views.plotting import plot_comparison, plot_result

# The module of each public name, which is imported when the name is first used, so that `import daskptycho`
# is fast. No module may have the name of a function in this table: importing it would hide the function.
_MODULES = {
    "AP": "model.algorithms",
    "Algorithm": "model.algorithms",
    "Checkpoint": "run.history",
    "DifferenceMap": "model.algorithms",
    "FaultError": "errors",
    "Gramian": "arrays",
    "LiveCell": "dashboard",
    "LivePage": "dashboard",
    "OptionError": "errors",
    "Background": "model.background",
    "Positions": "model.positions",
    "ProbeVariation": "model.probe_variation",
    "Progress": "run.loop",
    "LBFGS": "model.algorithms",
    "RAAR": "model.algorithms",
    "STAY_AT_HOME": "cluster.client",
    "ScanError": "errors",
    "ScanWriter": "scan.scan_writer",
    "StoreError": "errors",
    "Sync": "sync.options",
    "amplitudes": "arrays",
    "checkpoints": "run.history",
    "common_region": "analysis.metrics",
    "compare_images": "analysis.metrics",
    "create_scan": "scan.dataset",
    "cuda_cluster": "cluster.cuda_cluster",
    "export_result": "formats",
    "gramian": "arrays",
    "guess_probe": "run.first_probe",
    "import_scan": "formats",
    "open_checkpoint": "run.history",
    "open_result": "run.result",
    "open_scan": "scan.dataset",
    "phases": "arrays",
    "plot_comparison": "views.plotting",
    "plot_result": "views.plotting",
    "power_iteration": "arrays",
    "reconstruct": "run.reconstruction",
    "record": "formats.recording",
    "relative_error": "analysis.metrics",
    "require_gpus_at_work": "cluster.cuda_cluster",
    "resume": "run.resumption",
    "simulate_scan": "scan.simulate",
    "weighted_frames": "arrays",
}

_RETURN_DATASETS = {
    "create_scan",
    "open_checkpoint",
    "open_result",
    "open_scan",
    "reconstruct",
    "record",
    "resume",
    "simulate_scan",
}

__all__ = [
    "AP",
    "LBFGS",
    "RAAR",
    "STAY_AT_HOME",
    "Algorithm",
    "Background",
    "Checkpoint",
    "DifferenceMap",
    "FaultError",
    "Gramian",
    "LiveCell",
    "LivePage",
    "OptionError",
    "Positions",
    "ProbeVariation",
    "Progress",
    "ScanError",
    "ScanWriter",
    "StoreError",
    "Sync",
    "__version__",
    "amplitudes",
    "checkpoints",
    "common_region",
    "compare_images",
    "create_scan",
    "cuda_cluster",
    "export_result",
    "gramian",
    "guess_probe",
    "import_scan",
    "open_checkpoint",
    "open_result",
    "open_scan",
    "phases",
    "plot_comparison",
    "plot_result",
    "power_iteration",
    "reconstruct",
    "record",
    "relative_error",
    "require_gpus_at_work",
    "resume",
    "simulate_scan",
    "weighted_frames",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    if name in _RETURN_DATASETS:
        # Registers ``ds.ptycho``. Imported only now, since it loads xarray.
        import_module(f"{__name__}.views.accessor")
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
