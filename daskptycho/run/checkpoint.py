"""Checkpoints of a run: its state, written from the workers into a store and read back to them.

Tasks write and read the data of each tile on its worker. If the workers cannot access the store's folder,
this process writes and reads them, one tile after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.backend import Device, to_device, to_host
from daskptycho.model import model
from daskptycho.model.positions import Positions
from daskptycho.model.sweep import Stack
from daskptycho.run.checkpoint_parts import (
    ANCHOR,
    IMAGES,
    PHASES,
    PREVIOUS,
    STACKS,
    collect_parts,
    describe_values,
    is_image,
    is_tiled,
    pair_names,
    take_prefixed,
)
from daskptycho.run.guard import Anchor
from daskptycho.run.lbfgs_state import (
    describe_joined,
    is_remembered,
    recall_joined,
    recall_memory,
    remembered_names,
)
from daskptycho.run.loop import Loop
from daskptycho.run.options import RunOptions
from daskptycho.run.standing import Standing
from daskptycho.scan.dataset import frame_numbers, frames_used, pixel_size, take_used
from daskptycho.scan.tiles import lay_out_tiles
from daskptycho.storage.checkpoint_tiles import StoreNotVisibleError, read_tile, write_tile
from daskptycho.storage.checkpoints import CheckpointStore, Part
from daskptycho.storage.store import Location
from daskptycho.sync.options import Sync
from daskptycho.tasks.layout import Layout
from daskptycho.tasks.spec import Home, Value, place, task, values_in
from daskptycho.tasks.state import (
    State,
    TileState,
    light_tiles,
    model_on_tiles,
)
from daskptycho.tasks.waiting import compute, persist
from daskptycho.tiling import Tiling

__all__ = [
    "Checkpoints",
    "Kept",
    "location_of",
    "make_header",
    "per_frame_names",
    "read_tiling",
]

Array = Any


def location_of(out: Location) -> Location:
    """The location of the checkpoints of a result: beside it."""
    return out.with_name(f"{out.name}.checkpoints")


def per_frame_names() -> list[str]:
    """Names of the parameters that can have a value for each frame."""
    return [kind.name for kind in model.PARAMETERS if kind.per_frame]


def make_header(scan: xr.Dataset) -> xr.Dataset:
    """A scan without its frames: all that identifies it, and all that its result needs."""
    header = xr.Dataset(
        {
            "position": scan["position"].variable.load(),
            "frame_number": ("frame", frame_numbers(scan)),
            "frame_used": ("frame", frames_used(scan)),
            **{name: scan[name].variable.load() for name in per_frame_names() if name in scan},
        },
        coords={axis: np.arange(scan.sizes[axis]) for axis in ("qy", "qx")},
        attrs=scan.attrs,
    )
    if pixel_size(scan) is not None:
        header.attrs["pixel_size_m"] = list(pixel_size(scan) or ())
    source = scan.encoding.get("source")
    if source is not None:
        header.attrs["opened_from"] = str(source)
    return header.drop_encoding()


def read_tiling(header: xr.Dataset, fixed: Mapping[str, Any]) -> Tiling:
    """The tiling of a run, from the header and the constants of its store."""
    return lay_out_tiles(
        take_used(header),
        tuple(fixed["tiles"]),
        whole_pixel=not fixed["subpixel"],
        margin=fixed.get("margin", 0),
    )


class Kept(NamedTuple):
    """The content of a checkpoint; see `State` and `Standing`."""

    shared: Value
    previous_shared: Value | None
    tiles: list[dict[str, Value]]
    """For each tile its parts, by name."""
    standing: Standing
    """Without its state."""
    joined: Value | None = None
    """The `Joined` of the last sweep, if it was one of L-BFGS."""


class Checkpoints:
    """The checkpoints of one run.

    Parameters
    ----------
    store : CheckpointStore
    tiling : Tiling
    device : "cpu" or "gpu"
        The device on which a state that is read is put.
    """

    def __init__(self, store: CheckpointStore, tiling: Tiling, device: Device = "cpu") -> None:
        self.store = store
        self.tiling = tiling
        self.device = device
        self._workers_see_store = True

    @staticmethod
    def create(location: Location, scan: xr.Dataset, loop: Loop, state: State) -> Checkpoints:
        """Create a store for the checkpoints of a run, which replaces an existing one once it is settled.

        Parameters
        ----------
        location : Location
        scan : xarray.Dataset
        loop : Loop
            Its counts are stored, to distinguish scans with the same positions.
        state : State
            Any state of the run, for the shapes of its values.
        """
        layout = loop.layout
        tiling = layout.tiling
        models = model_on_tiles(layout, state.shared, [state.tiles[0].own])
        modes, per_frame = compute(task(describe_values, *models))
        fixed = {
            "subpixel": loop.options.subpixel,
            "frame_shape": list(tiling.frame_shape),
            "tiles": [len(tile) for tile in tiling.tiles],
            "counts": loop.counts,
            "expected": loop.expected,
            "modes": modes,
            "ended": loop.is_last,
            "margin": loop.options.margin(tiling.frame_shape),
        }
        window = tuple(max(sizes) for sizes in zip(*(t.window.shape for t in tiling.tiles), strict=True))
        frames = max(map(len, tiling.tiles))
        parts = {
            "images": Part(window, "complex64"),
            "illuminations": Part(window, "float32"),
            "previous_images": Part(window, "complex64"),
            STACKS: Part((frames, modes, *tiling.frame_shape), "complex64"),
            PHASES: Part((frames,), "complex64"),
            **{name: Part(window, "complex64") for name in remembered_names(loop.options.algorithm)},
            **{name: Part((frames, *shape), dtype) for name, (shape, dtype) in per_frame.items()},
        }
        parts |= {f"{ANCHOR}{name}": parts[name] for name in ("images", *per_frame)}
        store = CheckpointStore.create(location, make_header(scan), fixed, parts, len(tiling.tiles))
        return Checkpoints(store, tiling, layout.device)

    def save(self, loop: Loop, standing: Standing, *, temporary: bool = False) -> str:
        """Write a checkpoint.

        Parameters
        ----------
        loop : Loop
        standing : Standing
        temporary : bool
            Whether it is kept only until the next checkpoint.

        Returns
        -------
        str
            The id of the checkpoint.
        """
        layout, anchor = loop.layout, standing.anchor
        state = light_tiles(layout, standing.state)
        session = self.store.begin(standing.sweep, temporary=temporary)
        models = model_on_tiles(layout, state.shared, [tile.own for tile in state.tiles])
        nothing: list[Any] = [None] * len(models)
        anchored = nothing if anchor is None else zip(anchor.images, anchor.own, strict=True)
        of_tiles = list(zip(layout.tiles, state.tiles, models, anchored, strict=True))
        written = self._run_where_store_is_visible(
            lambda: compute(
                [
                    task(
                        *(_write, self.store.location, session.fork(), index, *of_tile),
                        home=layout.home(index),
                    )
                    for index, of_tile in enumerate(of_tiles)
                ]
            ),
            lambda: [
                _write_parts(
                    self.store.location, session.fork(), index, compute(task(collect_parts, *of_tile))
                )
                for index, of_tile in enumerate(of_tiles)
            ],
        )
        forks, names = zip(*written, strict=True)
        joined = None if state.joined is None else compute(task(describe_joined, state.joined))
        values = {"": state.shared, PREVIOUS: state.previous_shared}
        values[ANCHOR] = None if anchor is None else anchor.shared
        kept = {prefix: shared for prefix, shared in values.items() if shared is not None}
        fetched = compute([task(_to_host, shared) for shared in kept.values()])
        small = {
            f"{prefix}{name}": value
            for prefix, shared in zip(kept, fetched, strict=True)
            for name, value in shared.items()
        }
        return self.store.commit(
            session,
            list(forks),
            small,
            {
                "options": loop.options.to_attributes(),
                "parts": [*names[0], *small],
                "lbfgs": joined,
                **standing.to_attributes(),
            },
            np.array(standing.history),
        )

    def options(self, snapshot: str) -> RunOptions:
        """The options of the run at a checkpoint."""
        return RunOptions.from_attributes(self.store.read_attributes(snapshot)["options"])

    def restore(self, snapshot: str, layout: Layout) -> Standing:
        """Read the standing of the run; its state is persisted on the workers and needs no earlier tasks."""
        standing: Standing = self._run_where_store_is_visible(
            lambda: self._restore_on_workers(layout, self.read(snapshot)),
            lambda: self._persist_state(layout, self.read(snapshot, here=True)),
        )
        return standing

    def read(self, snapshot: str, *, here: bool = False) -> Kept:
        """Read the content of a checkpoint.

        The data of tiles are values whose tasks read them; with `here` they are read in this process now.
        """
        attributes = self.store.read_attributes(snapshot)
        names = attributes["parts"]
        tiled = [name for name in names if is_tiled(name) or name.removeprefix(ANCHOR) in per_frame_names()]
        tiles = [
            {name: self._make_part(snapshot, name, index, here) for name in tiled}
            for index in range(len(self.tiling.tiles))
        ]
        small = {name: self.store.read_small(snapshot, name) for name in names if name not in tiled}
        now = {name: value for name, value in small.items() if not name.startswith((PREVIOUS, ANCHOR))}
        before, of_anchor = take_prefixed(small, PREVIOUS), take_prefixed(small, ANCHOR)
        anchored = [take_prefixed(parts, ANCHOR) for parts in tiles]
        # Not the options as a whole: an algorithm of the user's own need not be created for this.
        sync = Sync(**attributes["options"]["sync"])
        return Kept(
            self._move_to_device(place(now)),
            self._move_to_device(place(before)) if before else None,
            [{name: part for name, part in own.items() if not name.startswith(ANCHOR)} for own in tiles],
            replace(
                Standing.from_attributes(attributes, sync, self.store.read_small(snapshot, "history")),
                anchor=Anchor(
                    attributes["anchor"],
                    [parts.pop("images") for parts in anchored],
                    self._move_to_device(place(of_anchor)),
                    [task(pair_names, list(own), list(own.values())) if own else {} for own in anchored],
                )
                if of_anchor
                else None,
            ),
            None if attributes["lbfgs"] is None else place(recall_joined(attributes["lbfgs"])),
        )

    def _make_part(self, snapshot: str, name: str, index: int, here: bool) -> Value:
        tile = self.tiling.tiles[index]
        # The leading axes, along which the store is padded to the size of the largest tile.
        shape = tile.window.shape if is_image(name) else (len(tile),)
        source = (self.store.location, snapshot, name, index, shape)
        home = Home(index, len(self.tiling.tiles))
        device = "cpu" if name.removeprefix(ANCHOR) == Positions.name else self.device
        if not here:
            return task(_read_tile, *source, device, home=home)
        value = place(read_tile(*source), home)
        return value if device == "cpu" else task(to_device, value, device)

    def _move_to_device(self, values: Value) -> Value:
        return values if self.device == "cpu" else task(_to_device, values, self.device)

    def _persist_state(self, layout: Layout, kept: Kept) -> Standing:
        """Assemble and persist the state of a checkpoint, and its anchor."""
        anchor = kept.standing.anchor
        if anchor is not None and layout.residency.images_on_disk:
            read = layout.storing(_read_image)
            anchor = replace(anchor, images=[task(read, image) for image in anchor.images])
        state, anchor = persist((_assemble_state(kept, layout), anchor))
        return replace(kept.standing, state=state, anchor=anchor)

    def _restore_on_workers(self, layout: Layout, kept: Kept) -> Standing:
        """Assemble and persist the state of a checkpoint, and wait until all of it has been read."""
        restored = self._persist_state(layout, kept)
        compute([task(_wait_for, value) for value in values_in([restored.state, restored.anchor])])
        return restored

    def _run_where_store_is_visible(self, there: Callable[[], Any], here: Callable[[], Any]) -> Any:
        """Call `there`, which uses the workers; or `here`, once a worker could not see the store."""
        if self._workers_see_store:
            try:
                return there()
            except StoreNotVisibleError:
                self._workers_see_store = False
        return here()


def _assemble_state(kept: Kept, layout: Layout) -> State:
    """Assemble the state of a checkpoint, with its images on disk if the layout keeps them there."""
    tiles = []
    for parts in kept.tiles:
        images = {
            name: task(layout.storing(_read_image), parts[name])
            if layout.residency.images_on_disk
            else parts[name]
            for name in IMAGES
            if name in parts
        }
        own = {name: value for name, value in parts.items() if not is_tiled(name)}
        stack = Stack(parts[STACKS], parts.get(PHASES)) if STACKS in parts else None
        remembered = [parts[name] for name in sorted(parts) if is_remembered(name)]
        tiles.append(
            TileState(
                images["images"],
                images["illuminations"],
                task(pair_names, list(own), list(own.values())) if own else {},
                images.get("previous_images"),
                stack,
                task(recall_memory, remembered) if remembered else None,
            )
        )
    return State(kept.shared, tiles, kept.previous_shared, kept.joined)


def _read_image(image: Array) -> Array:
    return image[...]


def _write_parts(
    location: Location, fork: Any, tile: int, parts: dict[str, NDArray]
) -> tuple[Any, list[str]]:
    return write_tile(location, fork, tile, parts), list(parts)


def _write(location: Location, fork: Any, index: int, *of_tile: Any) -> tuple[Any, list[str]]:
    return _write_parts(location, fork, index, collect_parts(*of_tile))


def _read_tile(
    location: Location, snapshot: str, name: str, tile: int, shape: tuple[int, ...], device: Device
) -> Any:
    return to_device(read_tile(location, snapshot, name, tile, shape), device)


def _to_host(values: dict[str, Array]) -> dict[str, NDArray]:
    return {name: to_host(value) for name, value in values.items()}


def _to_device(values: dict[str, Array], device: Device) -> dict[str, Array]:
    return {name: to_device(value, device) for name, value in values.items()}


def _wait_for(value: Any) -> None:
    """Do nothing, in a task that runs once the value has been computed."""
