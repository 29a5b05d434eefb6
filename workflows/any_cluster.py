"""Reconstruct a scan on an existing Dask cluster.

    python workflows/any_cluster.py tcp://10.0.0.7:8786 scan.zarr result.zarr

A cluster is one scheduler and any number of workers. To start one by hand, on machines that reach each other:

    export DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING=False     # tiles stay where they are
    dask scheduler                                              # on one machine; prints the address
    dask worker tcp://10.0.0.7:8786 --nthreads 1 --nworkers 8   # on each machine that computes

Kubernetes, cloud services and dask-gateway also give an address. Every worker needs the same version of
daskptycho and has to reach SCAN under the same name, for example on a shared disk. If the run was cut off,
start this script again, and it continues.
"""

from __future__ import annotations

import sys
from pathlib import Path

from distributed import Client

import daskptycho as dp

# Number of sweeps over all frames. Watch the residual, and increase the number while it still falls.
SWEEPS = 100
# Minutes between checkpoints: no more than this is lost.
CHECKPOINT_MINUTES = 10
# Seconds to wait for the first worker.
WAIT_SECONDS = 600


def main(address: str, scan_path: str, out: Path) -> None:
    scan = dp.open_scan(scan_path)
    # While a client is open, everything that daskptycho computes runs on its cluster.
    with Client(address) as client:
        client.wait_for_workers(1, timeout=WAIT_SECONDS)
        print("Dask's dashboard:", client.dashboard_link)
        if out.exists() or has_checkpoints(out):
            # Continue an earlier run from its last checkpoint, with the options that it had.
            result = dp.resume(out, sweeps=SWEEPS, callback=report)
        else:
            result = dp.reconstruct(
                scan, out, sweeps=SWEEPS, checkpoint_minutes=CHECKPOINT_MINUTES, callback=report
            )
    print(f"residual {float(result['residual'][-1]):.4f}; look at it with: daskptycho view {out}")


def report(progress: dp.Progress) -> None:
    """Print the progress after each sweep. Return True here to stop early."""
    print(f"sweep {progress.sweep}: residual {progress.residual:.4f}, {progress.seconds:.1f} s", flush=True)


def has_checkpoints(out: Path) -> bool:
    """Whether an earlier run has left checkpoints."""
    try:
        return bool(dp.checkpoints(out))
    except dp.ScanError:
        return False


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
