"""``daskptycho plan``: what a run would take, before it is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.terminal import show_facts
from daskptycho.views.quantities import format_number

if TYPE_CHECKING:
    from daskptycho.run.memory import Needs

__all__ = ["command"]


@click.command(
    "plan",
    cls=CommandWithExamples,
    short_help="Say what a run would take.",
    examples=("daskptycho plan scan.zarr --workers 8 --memory 16GiB",),
)
@click.argument("scan", metavar="SCAN")
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Worker processes; this one unless given."
)
@click.option("--threads", type=click.IntRange(1), help="Of each worker; one unless given, or all cores.")
@click.option("--memory", metavar="BYTES", help="That each worker may take, as 16GiB; this machine's share.")
@click.option("--algorithm", type=click.Choice(["ap", "raar", "dm"]), default="ap", show_default=True)
@click.option(
    "--sync", type=click.Choice(["two-level", "full", "none"]), default="two-level", show_default=True
)
@click.option("--update-probe/--known-probe", default=True, show_default=True)
@click.option("--modes", type=click.IntRange(1), help="Of the probe; as many as the scan's unless given.")
def command(
    scan: str,
    workers: int | None,
    threads: int | None,
    memory: str | None,
    algorithm: str,
    sync: str,
    update_probe: bool,
    modes: int | None,
) -> None:
    """Say what reconstructing SCAN would take: tiles, tasks, and bytes held, read and exchanged.

    Ends with an error where it would not fit, and says what would.
    """
    from dataclasses import replace

    from daskptycho.cluster.workers import find_workers
    from daskptycho.model.algorithms import parse_algorithm
    from daskptycho.run.memory import Recipe, count_sweep_tasks, estimate_needs
    from daskptycho.scan.dataset import open_scan, position_in_pixels, scan_period, tile_chunks
    from daskptycho.sync.phases import Sync
    from daskptycho.tiling import make_tiling

    opened = open_scan(scan)
    who = find_workers(memory)
    if workers is not None:
        # Dask gives a worker of one thread one core's share, also where others stay idle.
        shares = max(workers, who.threads) if memory is None else 1
        share = None if who.memory is None else who.memory // shares
        who = replace(who, count=workers, threads=1, memory=share)
    if threads is not None:
        who = replace(who, threads=threads)
    tiling = make_tiling(
        position_in_pixels(opened),
        (opened.sizes["qy"], opened.sizes["qx"]),
        tile_chunks(opened),
        period=scan_period(opened),
    )
    has_stack = parse_algorithm(algorithm).has_stack
    recipe = Recipe(
        modes=modes or (opened.sizes["mode"] if "probe" in opened else 1),
        method=Sync(None if sync == "none" else sync).method,  # type: ignore[arg-type]
        has_stack=has_stack,
        momentum=not has_stack,
        update_probe=update_probe,
    )
    needs = estimate_needs(opened, tiling, who, recipe)
    tasks = count_sweep_tasks(opened, tiling, recipe, waves_twice=needs.waves_twice, workers=who.count)
    show_facts(f"A run of {scan}", _facts(needs, tasks))


def _facts(needs: Needs, tasks: int) -> list[list[tuple[str, str]]]:
    from dask.utils import format_bytes

    def told(size: int) -> str:
        return format_bytes(size) if size else "nothing"

    who = needs.workers
    limit = "" if who.memory is None else f" of {format_bytes(who.memory)}"
    read = f"{told(needs.read)} a sweep, from the store" if needs.streamed else "once, then held"
    held = "" if needs.images_on_disk else ": images, illumination, frames that stay"
    twice = "; waves are computed twice a sweep" if needs.waves_twice else ""
    traffic = f"{told(needs.disk_traffic)} written and read a sweep"
    disk = [("on disk", f"{told(needs.on_disk)} of images and illumination; {traffic}")]
    return [
        [
            ("workers", f"{who.count} with {who.threads} thread{'s' if who.threads > 1 else ''} each"),
            ("tiles", f"{format_number(needs.tiles)}, {format_number(needs.frames)} frames"),
            ("tasks", f"{format_number(tasks)} a sweep, {tasks / needs.tiles:.3g} a tile"),
        ],
        [
            ("amplitudes", f"{told(needs.amplitudes)} as float32; read {read}"),
            ("held", f"{told(needs.held)} from sweep to sweep{held}"),
            *(disk if needs.images_on_disk else []),
            ("waiting", f"{told(needs.waiting)} inside a sweep{twice}"),
            ("largest task", told(needs.task)),
            ("exchanged", f"{told(needs.strips)} a sweep, in strips between workers"),
        ],
        [
            ("result", f"{told(needs.result)} at the end, in the process that began the run"),
            ("each worker", f"{told(needs.worker)}{limit}, the interpreter and its libraries included"),
        ],
    ]
