"""A reconstruction whose workers are jobs of a SLURM cluster.

    pip install daskptycho[slurm]
    python workflows/slurm.py scan.zarr result.zarr --jobs 8 --queue short --account mx1234

This process sends the jobs, waits for the first of them, and drives the run; it needs little memory and one
core, and may run on a login node or as a job of its own:

    sbatch --time=12:00:00 --mem=4G --signal=B:TERM@120 --requeue --wrap \
        "exec python workflows/slurm.py scan.zarr result.zarr --jobs 8"

There SLURM sends SIGTERM two minutes before the time is up: the run keeps a checkpoint and ends. Started once
more, by hand or by --requeue, it goes on from there. Jobs that end, are preempted or die are replaced, and
what they had is computed anew; not those that die before they have answered. SCAN and OUT have to lie on a
disk that all nodes see.
"""

from __future__ import annotations

from pathlib import Path

import click
import dask
from dask_jobqueue import SLURMCluster
from distributed import Client

import daskptycho as dp


@click.command(help=__doc__)
@click.argument("scan", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--jobs", default=4, show_default=True, help="Jobs that compute at the same time.")
@click.option("--cores", default=8, show_default=True, help="Of each job.")
@click.option("--memory", default="32GiB", show_default=True, help="Of each job; see `daskptycho plan`.")
@click.option("--walltime", default="02:00:00", show_default=True, help="Of each job.")
@click.option("--queue", help="Partition; the cluster's default unless given.")
@click.option("--account", help="That the hours are taken from.")
@click.option("--interface", help="Network that the nodes share, as ib0; see `ip address`.")
@click.option("--sweeps", default=100, show_default=True)
@click.option("--patience", default=3600, show_default=True, help="Seconds to wait for the first job.")
def main(
    scan: Path,
    out: Path,
    jobs: int,
    cores: int,
    memory: str,
    walltime: str,
    queue: str | None,
    account: str | None,
    interface: str | None,
    sweeps: int,
    patience: int,
) -> None:
    opened = dp.open_scan(scan)
    with (
        # A job with nothing to do for a moment leaves the others their tiles: fetching one costs more.
        dask.config.set({"distributed.scheduler.work-stealing": False}),
        SLURMCluster(
            # A job is one worker process with a thread for each core: its threads share images and frames.
            cores=cores,
            processes=1,
            memory=memory,
            walltime=walltime,
            queue=queue,
            account=account,
            interface=interface,
            # Threads of BLAS and FFT beside those of Dask would only get in each other's way.
            job_script_prologue=["export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1"],
            # Where workers put what does not fit into memory: the node's own disk, not your home.
            local_directory="${TMPDIR:-/tmp}",
            # A worker that knows that its time is coming hands over what it has, and leaves in peace. Two
            # minutes before the job's end, give or take one: not all of them at once.
            worker_extra_args=[
                *("--lifetime", f"{seconds(walltime) - 120}s", "--lifetime-stagger", "60s"),
            ],
        ) as cluster,
        Client(cluster) as client,
    ):
        # As many jobs as that, always: one that is gone is sent anew.
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
        print(cluster.job_script())
        client.wait_for_workers(1, timeout=patience)
        print("Dask's dashboard:", client.dashboard_link, flush=True)
        if out.exists() or checkpointed(out):
            # Cut off before: on from its last checkpoint, with the options that it had.
            result = dp.resume(out, sweeps=sweeps, memory=memory, callback=tell)
        else:
            result = dp.reconstruct(opened, out, sweeps=sweeps, memory=memory, callback=tell)
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


def seconds(walltime: str) -> int:
    """Of SLURM's hours:minutes:seconds."""
    hours, minutes, rest = (int(part) for part in walltime.split(":"))
    return 3600 * hours + 60 * minutes + rest


if __name__ == "__main__":
    main()
