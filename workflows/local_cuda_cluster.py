"""Reconstruct a scan on all GPUs of this machine, or on some of them.

    python workflows/local_cuda_cluster.py SCAN RESULT [GPUS]
    python workflows/local_cuda_cluster.py scan.zarr result.zarr 0,1

This is what ``daskptycho reconstruct SCAN RESULT --gpus 0,1`` does, as a starting point for a script of your
own. docs/howto-gpu.md says what to install; ``daskptycho check-gpu`` checks whether everything is present.
"""

from __future__ import annotations

import sys

import daskptycho as dp

SWEEPS = 100


def main(scan_url: str, out: str, gpus: list[int] | None) -> None:
    # This reads only positions and attributes. The workers read the frames, tile by tile.
    scan = dp.open_scan(scan_url)

    # One worker process for each GPU, on which CuPy allocates memory from a pool: that of RMM if it is
    # installed, its own otherwise. All workers are closed at the end of the block, also after an error.
    with dp.cuda_cluster(gpus) as client:
        print("Dask's dashboard:", client.dashboard_link)

        # The run finds the cluster by itself. Everything that the workers need to know is in these arguments:
        # a Dask configuration set in this process would not reach them.
        dp.reconstruct(
            scan,
            out,
            # The frames of each tile are copied to its GPU once, as counts, and stay there with image, probe
            # and phases. If they do not fit, each sweep reads them again. If that does not fit either, the
            # run raises an error before it starts.
            device="gpu",
            sweeps=SWEEPS,
            # With several GPUs, more sweeps between two exchanges may be faster: sync=dp.Sync(inner=2).
            callback=lambda progress: print(f"sweep {progress.sweep}: residual {progress.residual:.4g}"),
            overwrite=True,
        )

        # This raises an error if a GPU was idle or if the work was done elsewhere.
        for work in dp.require_gpus_at_work(client):
            print(f"{work.gpu.name}: {work.sweeps} tiles swept, memory from {work.pool}'s pool")

    print(f"Look at it with: daskptycho view {out}")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    chosen = [int(number) for number in sys.argv[3].split(",")] if len(sys.argv) == 4 else None
    try:
        main(sys.argv[1], sys.argv[2], chosen)
    except (dp.OptionError, dp.ScanError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
