"""``daskptycho plan``: estimate what a run needs before it is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.options import algorithm_option, refine_option, sync_option, update_probe_option
from daskptycho.cli.terminal import show_facts
from daskptycho.views.quantities import format_number, pluralise

if TYPE_CHECKING:
    from daskptycho.run.memory import Needs

__all__ = ["command"]


@click.command(
    "plan",
    cls=CommandWithExamples,
    short_help="Estimate what a run needs.",
    examples=("daskptycho plan scan.zarr --workers 8 --memory 16GiB",),
)
@click.argument("scan", metavar="SCAN")
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Number of worker processes; by default, this process only.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads per worker; by default 1, or all cores without --workers.",
)
@click.option(
    "--memory",
    metavar="BYTES",
    help="Memory of each worker, as in 16GiB; by default, its share of this machine.",
)
@algorithm_option
@sync_option
@update_probe_option
@click.option("--modes", type=click.IntRange(1), help="Number of probe modes; by default, that of the scan.")
@refine_option
def command(
    scan: str,
    workers: int | None,
    threads: int | None,
    memory: str | None,
    algorithm: str | None,
    sync: str,
    update_probe: bool,
    modes: int | None,
    refine: tuple[str, ...],
) -> None:
    """Estimate what reconstructing SCAN needs: tiles, tasks, and bytes held, read and exchanged.

    If the run would not fit into memory, the command ends with an error that says what would fit.
    """
    from dataclasses import replace

    import numpy as np

    from daskptycho.cluster.workers import find_workers
    from daskptycho.model.forward import FarField
    from daskptycho.model.model import choose_model
    from daskptycho.run.fitting import describe_method, fit_options, fit_tiles
    from daskptycho.run.memory import count_sweep_tasks
    from daskptycho.run.options import check_options
    from daskptycho.scan.dataset import open_scan, take_used
    from daskptycho.scan.tiles import lay_out_tiles
    from daskptycho.sync.options import Sync

    opened = take_used(open_scan(scan))
    found = find_workers(memory)
    if workers is not None:
        # Dask gives a worker with one thread the share of one core, even if other cores stay idle.
        shares = max(workers, found.threads) if memory is None else 1
        share = None if found.memory is None else found.memory // shares
        found = replace(found, count=workers, threads=1, memory=share)
    if threads is not None:
        found = replace(found, threads=threads)
    asked = check_options(
        algorithm=algorithm,
        sync=Sync(None if sync == "none" else sync),  # type: ignore[arg-type]
        update_probe=update_probe,
        refine=refine,
    )
    frame_shape = opened.sizes["qy"], opened.sizes["qx"]
    tiling = lay_out_tiles(opened, margin=asked.margin(frame_shape))
    options = {
        "modes": modes,
        "update_probe": update_probe,
        "refine": asked.refine,
        "fractional": not all(tile.is_whole_pixel for tile in tiling.tiles),
        # Only its shape matters.
        "probe": None if "probe" in opened else np.ones(frame_shape),
    }
    parameters = choose_model(opened, options, FarField())[0].parameters
    of_frame = modes or (opened.sizes["mode"] if "probe" in opened else 1)
    stored, tiling = len(tiling.tiles), fit_tiles(opened, tiling, found, asked, parameters, of_frame)
    fitted, needs = fit_options(opened, tiling, found, asked, parameters, of_frame)
    recipe = fitted.recipe(of_frame, parameters)
    tasks = count_sweep_tasks(opened, tiling, recipe, residency=needs.residency, workers=found.count)
    facts = _needs_facts(needs, tasks, describe_method(fitted, asked), stored)
    show_facts(f"Reconstruction of {scan}", facts)


def _needs_facts(needs: Needs, tasks: int, method: str, stored: int) -> list[list[tuple[str, str]]]:
    """What a run needs, in groups: work, memory, end of the run."""
    from dask.utils import format_bytes

    def format_size(size: int) -> str:
        return format_bytes(size) if size else "nothing"

    workers = needs.workers
    joined = f", joined from {format_number(stored)} of the scan" if stored != needs.tiles else ""
    limit = "" if workers.memory is None else f" of {format_bytes(workers.memory)}"
    read = (
        f"{format_size(needs.read)} per sweep from the store"
        if needs.residency.streamed
        else "once, then held"
    )
    held = "" if needs.residency.images_on_disk else ": images, illumination, frames"
    twice = "; waves are computed twice per sweep" if needs.residency.waves_twice else ""
    traffic = f"{format_size(needs.disk_traffic)} written and read per sweep"
    disk = [("on disk", f"{format_size(needs.on_disk)} of images and illumination; {traffic}")]
    return [
        [
            ("workers", f"{workers.count} with {pluralise(workers.threads, 'thread')} each"),
            ("algorithm", method),
            (
                "tiles",
                f"{format_number(needs.tiles)} with {format_number(needs.frames)} frames in all{joined}",
            ),
            ("tasks", f"{format_number(tasks)} per sweep, {tasks / needs.tiles:.3g} per tile"),
        ],
        [
            ("amplitudes", f"{format_size(needs.amplitudes)} as float32; read {read}"),
            ("held", f"{format_size(needs.held)} from sweep to sweep{held}"),
            *(disk if needs.residency.images_on_disk else []),
            ("waiting", f"{format_size(needs.waiting)} within a sweep{twice}"),
            ("largest task", format_size(needs.task)),
            ("exchanged", f"{format_size(needs.strips)} per sweep, in strips between workers"),
        ],
        [
            ("result", f"{format_size(needs.result)} at the end, in the process that started the run"),
            (
                "each worker",
                f"{format_size(needs.worker)}{limit}, including the interpreter and its libraries",
            ),
        ],
    ]
