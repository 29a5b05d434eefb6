"""Reconstruct a scan on workers that are jobs of a SLURM cluster.

    pip install ".[slurm]"   # in the folder of daskptycho's sources
    python workflows/slurm.py scan.zarr result.zarr --jobs 8 --queue short --account mx1234

This process submits the jobs, waits for the first of them and controls the run. It needs little memory and
one core, and can run on a login node or as a job of its own:

    sbatch --time=12:00:00 --mem=4G --signal=B:TERM@120 --requeue --wrap \
        "exec python workflows/slurm.py scan.zarr result.zarr --jobs 8"

SLURM then sends SIGTERM two minutes before the time limit, and the run keeps a checkpoint and ends. If it is
started again, by hand or by --requeue, it continues from there. Jobs that end, are preempted or fail are
replaced, and what they held is computed again. Jobs that fail before their worker has connected are not
replaced. SCAN and OUT have to be on a disk that all nodes reach.
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
@click.option("--jobs", default=4, show_default=True, help="Number of jobs that compute at the same time.")
@click.option("--cores", default=8, show_default=True, help="Cores of each job.")
@click.option(
    "--memory", default="32GiB", show_default=True, help="Memory of each job; see `daskptycho plan`."
)
@click.option("--walltime", default="02:00:00", show_default=True, help="Time limit of each job.")
@click.option("--queue", help="Partition; by default, that of the cluster.")
@click.option("--account", help="Account that is charged.")
@click.option("--interface", help="Network interface that connects the nodes, as in ib0; see `ip address`.")
@click.option("--sweeps", default=100, show_default=True, help="Maximum number of sweeps.")
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
        # No work stealing: moving a tile to an idle worker costs more than waiting.
        dask.config.set({"distributed.scheduler.work-stealing": False}),
        SLURMCluster(
            # A job is one worker process with one thread per core: the threads share images and frames.
            cores=cores,
            processes=1,
            memory=memory,
            walltime=walltime,
            queue=queue,
            account=account,
            interface=interface,
            # Additional threads of BLAS and FFT would only compete with those of Dask.
            job_script_prologue=["export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1"],
            # Workers write what does not fit into memory to the disk of the node, not to your home directory.
            local_directory="${TMPDIR:-/tmp}",
            # About two minutes before the end of its job, a worker hands its data to others and closes. The
            # stagger of a minute keeps workers from closing all at once.
            worker_extra_args=[
                *("--lifetime", f"{parse_walltime(walltime) - 120}s", "--lifetime-stagger", "60s"),
            ],
        ) as cluster,
        Client(cluster) as client,
    ):
        # Keep the number of jobs constant: a job that has ended is submitted again.
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
        print(cluster.job_script())
        client.wait_for_workers(1, timeout=patience)
        print("Dask's dashboard:", client.dashboard_link, flush=True)
        if out.exists() or has_checkpoints(out):
            # Continue an earlier run from its last checkpoint, with the options that it had.
            result = dp.resume(out, sweeps=sweeps, memory=memory, callback=report)
        else:
            result = dp.reconstruct(opened, out, sweeps=sweeps, memory=memory, callback=report)
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


def parse_walltime(walltime: str) -> int:
    """Number of seconds in a time limit of the form hours:minutes:seconds."""
    hours, minutes, seconds = (int(part) for part in walltime.split(":"))
    return 3600 * hours + 60 * minutes + seconds


if __name__ == "__main__":
    main()
