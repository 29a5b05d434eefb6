"""Reconstruct a scan on all GPUs of this machine, or on some of them.

    python workflows/local_cuda_cluster.py SCAN RESULT [GPUS]
    python workflows/local_cuda_cluster.py scan.zarr result.zarr 0,1

This is what ``daskptycho reconstruct SCAN RESULT --gpus 0,1`` does, laid open: take it as the beginning of a
script of your own. docs/howto-gpu.md says what to install; ``daskptycho check-gpu`` whether all is there.
"""

from __future__ import annotations

import sys

import daskptycho as dp

SWEEPS = 100


def main(scan_url: str, out: str, gpus: list[int] | None) -> None:
    # Nothing is read yet but positions and attributes: the frames are read by the workers, tile by tile.
    scan = dp.open_scan(scan_url)

    # One worker process for each GPU. CuPy takes its memory from a pool on each of them: RMM's where RMM is
    # installed, its own otherwise. The block's end closes them all, also after an error.
    with dp.cuda_cluster(gpus) as client:
        print("Dask's dashboard:", client.dashboard_link)

        # The run finds the cluster by itself. Whatever the workers have to know is in these arguments: Dask's
        # configuration in this process would not reach them.
        dp.reconstruct(
            scan,
            out,
            # Each tile's frames go to its GPU once, as counts, and stay there with image, probe and phases.
            # Where they do not fit, each sweep reads them anew; where that does not do, the run says so now.
            device="gpu",
            sweeps=SWEEPS,
            # With several GPUs, more sweeps between two exchanges of strips may pay: sync=dp.Sync(inner=2).
            callback=lambda progress: print(f"sweep {progress.sweep}: residual {progress.residual:.4g}"),
            overwrite=True,
        )

        # Did every GPU do its share? This raises if one stood idle, and if all the work was done elsewhere.
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
