"""A reconstruction on a Dask cluster that is already there, whoever started it.

    python workflows/any_cluster.py tcp://10.0.0.7:8786 scan.zarr result.zarr

A cluster is one scheduler and any number of workers. To start one by hand, on machines that see each other:

    export DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING=False     # tiles stay where they are
    dask scheduler                                              # on one machine; prints the address
    dask worker tcp://10.0.0.7:8786 --nthreads 1 --nworkers 8   # on each machine that computes

Kubernetes, cloud services and dask-gateway give an address too. Every worker needs daskptycho in the same
version, and has to see SCAN under the same name: a shared disk. Start it once more after it was cut off, and
it goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from distributed import Client

import daskptycho as dp

# Sweeps over all frames: watch the residual, and take more while it still falls.
SWEEPS = 100
# The run is kept that often, so that no more is lost than that.
CHECKPOINT_MINUTES = 10
# Seconds that it waits for a first worker.
PATIENCE = 600


def main(address: str, scan_path: str, out: Path) -> None:
    scan = dp.open_scan(scan_path)
    # While a client is open, everything that daskptycho computes runs on its cluster.
    with Client(address) as client:
        client.wait_for_workers(1, timeout=PATIENCE)
        print("Dask's dashboard:", client.dashboard_link)
        if out.exists() or checkpointed(out):
            # Cut off before, or done already: on from its last checkpoint, with the options that it had.
            result = dp.resume(out, sweeps=SWEEPS, callback=tell)
        else:
            result = dp.reconstruct(
                scan, out, sweeps=SWEEPS, checkpoint_minutes=CHECKPOINT_MINUTES, callback=tell
            )
    print(f"residual {float(result['residual'][-1]):.4f}; look at it with: daskptycho view {out}")


def tell(progress: dp.Progress) -> None:
    """Called after each sweep. Return True here to stop early."""
    print(f"sweep {progress.sweep}: residual {progress.residual:.4f}, {progress.seconds:.1f} s", flush=True)


def checkpointed(out: Path) -> bool:
    """Whether an earlier run left where it stood."""
    try:
        return bool(dp.checkpoints(out))
    except dp.ScanError:
        return False


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
