"""Checkpoints of a run: where it stands, from the workers into the store and from the store back to them.

`keeper` and `resume` call this module; it calls `checkpoint_store` from tasks, which run where the tiles are.
Where the workers do not see the store's folder, tile after tile goes through this process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from dask.delayed import Delayed

from daskptycho.backend import Device, to_device, to_host
from daskptycho.graph import State
from daskptycho.run.loop import Progress, Standing
from daskptycho.run.options import RunOptions
from daskptycho.scan.dataset import frame_numbers, pixel_size, position_in_pixels, scan_period, tile_chunks
from daskptycho.storage.checkpoint_tiles import StoreNotVisibleError, read_tile, write_tile
from daskptycho.storage.checkpoints import HISTORY, CheckpointStore, Part
from daskptycho.storage.store import Location
from daskptycho.sync.phases import Cadence
from daskptycho.tasks.plan import Plan
from daskptycho.tasks.spec import Home, place, task
from daskptycho.tasks.waiting import computed, persisted
from daskptycho.tiling import Tile, Tiling, make_tiling

__all__ = ["Checkpoints", "header_of", "location_of", "tiling_of"]

# Parts of the state with a value for each tile, and those with one alone.
IMAGES = ("images", "illuminations", "previous_images")
TILED = (*IMAGES, "stacks", "phases")
SMALL = ("probe", "previous_probe")


def location_of(out: Location) -> Location:
    """Where the checkpoints of a result lie: beside it."""
    return out.with_name(f"{out.name}.checkpoints")


def header_of(scan: xr.Dataset) -> xr.Dataset:
    """A scan without its frames: what tells it from other scans, and what its result needs of it."""
    header = xr.Dataset(
        {
            "position": scan["position"].variable.load(),
            "frame_number": ("frame", frame_numbers(scan)),
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


def tiling_of(header: xr.Dataset, fixed: Mapping[str, Any]) -> Tiling:
    """The tiles of a run, from what its store keeps."""
    return make_tiling(
        position_in_pixels(header),
        tuple(fixed["frame_shape"]),
        tuple(fixed["tiles"]),
        period=scan_period(header),
        whole_pixel=not fixed["subpixel"],
    )


class Checkpoints:
    """The checkpoints of one run.

    Parameters
    ----------
    store : Store
    tiling : Tiling
    device : "cpu" or "gpu"
        Where the state goes that is read.
    """

    def __init__(self, store: CheckpointStore, tiling: Tiling, device: Device = "cpu") -> None:
        self.store = store
        self.tiling = tiling
        self.device = device
        self._seen = True

    @staticmethod
    def create(
        location: Location,
        scan: xr.Dataset,
        options: RunOptions,
        tiling: Tiling,
        modes: int,
        counts: float,
        *,
        device: Device = "cpu",
    ) -> Checkpoints:
        """A new store for a run; one that lies there is replaced.

        Parameters
        ----------
        location : Location
        scan : xarray.Dataset
        options : RunOptions
        tiling : Tiling
        modes : int
            Of the probe.
        counts : float
            sum a^2 over all valid pixels, which tells one scan from another with the same positions.
        device : "cpu" or "gpu"
            Where the state goes that is read.
        """
        fixed = {
            "subpixel": options.subpixel,
            "frame_shape": list(tiling.frame_shape),
            "tiles": list(tile_chunks(scan)),
            "counts": counts,
            "modes": modes,
        }
        window = tuple(max(sizes) for sizes in zip(*(t.window.shape for t in tiling.tiles), strict=True))
        frames = max(map(len, tiling.tiles))
        parts = {
            "images": Part(window, "complex64"),
            "illuminations": Part(window, "float32"),
            "previous_images": Part(window, "complex64"),
            "stacks": Part((frames, modes, *tiling.frame_shape), "complex64"),
            "phases": Part((frames,), "complex64"),
        }
        store = CheckpointStore.create(location, header_of(scan), fixed, parts, len(tiling.tiles))
        return Checkpoints(store, tiling, device)

    def save(self, options: RunOptions, standing: Standing, *, passing: bool = False) -> str:
        """Keep where a run stands; the checkpoint's id.

        Parameters
        ----------
        options : RunOptions
        standing : Standing
        passing : bool
            Until the next checkpoint only.
        """
        state = standing.state
        assert state is not None
        tiled = {name: getattr(state, name) for name in TILED if getattr(state, name) is not None}
        small = {name: getattr(state, name) for name in SMALL if getattr(state, name) is not None}
        session = self.store.begin(standing.sweep, temporary=passing)
        of_tiles = [
            {name: values[index] for name, values in tiled.items()} for index in range(len(self.tiling.tiles))
        ]
        forks = self._where_seen(
            lambda: computed(
                [
                    task(
                        _write,
                        self.store.location,
                        session.fork(),
                        index,
                        list(own),
                        list(own.values()),
                        home=Home(index, len(of_tiles)),
                    )
                    for index, own in enumerate(of_tiles)
                ]
            ),
            lambda: [
                _write(
                    *(self.store.location, session.fork(), index, list(own)),
                    computed([task(to_host, value) for value in own.values()]),
                )
                for index, own in enumerate(of_tiles)
            ],
        )
        values = computed([task(to_host, value) for value in small.values()])
        return self.store.commit(
            session,
            forks,
            dict(zip(small, values, strict=True)),
            {
                "options": options.kept(),
                "parts": [*tiled, *small],
                "step": standing.step,
                "growing": standing.cadence.growing,
                "interval": standing.cadence.interval,
                "due_in": standing.cadence.due_in,
            },
            np.array([[getattr(sweep, name) for name in HISTORY] for sweep in standing.history]),
        )

    def options(self, snapshot: str) -> RunOptions:
        """The options that the run had then."""
        return RunOptions.remembered(self.store.read_attributes(snapshot)["options"])

    def load(self, snapshot: str) -> Standing:
        """Where the run stood; the values of its state are tasks that read them."""
        attributes = self.store.read_attributes(snapshot)
        options = self.options(snapshot)
        cadence = Cadence(options.sync, attributes["growing"])
        cadence.interval, cadence.due_in = attributes["interval"], attributes["due_in"]
        history = tuple(
            Progress(
                number,
                **dict(zip(HISTORY, map(float, found), strict=True)),
                options=options,
                _tiling=self.tiling,
                _state=None,
            )
            for number, found in enumerate(self.store.read_small(snapshot, "history"), start=1)
        )
        standing = Standing(None, cadence, attributes["step"], history)
        return standing.moved(self._read(snapshot, self._there))

    def state(self, snapshot: str, plan: Plan) -> State:
        """The state of that time, back where the plan keeps it and without a past of its own."""
        return self._where_seen(
            lambda: _settled(persisted(_kept(plan, self._read(snapshot, self._there)))),
            lambda: persisted(_kept(plan, self._read(snapshot, self._here))),
        )

    def _there(self, home: Home, *given: Any) -> Delayed:
        return task(_read_tile, *given, self.device, home=home)

    def _here(self, home: Home, *given: Any) -> Delayed:
        return self._moved(place(read_tile(*given), home))

    def _moved(self, value: Delayed) -> Delayed:
        return value if self.device == "cpu" else task(to_device, value, self.device)

    def _read(self, snapshot: str, one: Callable[..., Delayed]) -> State:
        parts = self.store.read_attributes(snapshot)["parts"]
        found: dict[str, Any] = {
            name: [
                one(
                    Home(tile.index, len(self.tiling.tiles)),
                    self.store.location,
                    snapshot,
                    name,
                    tile.index,
                    _shape(name, tile),
                )
                for tile in self.tiling.tiles
            ]
            for name in TILED
            if name in parts
        }
        for name in SMALL:
            if name in parts:
                found[name] = self._moved(place(self.store.read_small(snapshot, name)))
        return State(**found)

    def _where_seen(self, there: Callable[[], Any], here: Callable[[], Any]) -> Any:
        """Do it where the tiles are, or in this process once a worker has not seen the store."""
        if self._seen:
            try:
                return there()
            except StoreNotVisibleError:
                self._seen = False
        return here()


def _shape(name: str, tile: Tile) -> tuple[int, ...]:
    """The axes along which a tile's value may be smaller than the largest tile's."""
    return (len(tile),) if name in ("stacks", "phases") else tile.window.shape


def _read_tile(
    location: Location, snapshot: str, name: str, tile: int, shape: tuple[int, ...], device: Device
) -> Any:
    return to_device(read_tile(location, snapshot, name, tile, shape), device)


def _write(location: Location, fork: Any, tile: int, names: list[str], values: list[Any]) -> Any:
    named = zip(names, values, strict=True)
    return write_tile(location, fork, tile, {name: to_host(value[...]) for name, value in named})


def _whole(image: Any) -> Any:
    return image[...]


def _kept(plan: Plan, state: State) -> State:
    """The same state, its images where the plan keeps them."""
    if not plan.images_on_disk:
        return state
    keep = plan.leaving(_whole)
    kept: dict[str, Any] = {
        name: [task(keep, image) for image in images] for name in IMAGES if (images := getattr(state, name))
    }
    return replace(state, **kept)


def _there(value: Any) -> None:
    """Nothing: whoever waits for it knows that the value has been computed."""


def _settled(state: State) -> State:
    """The same state once every value of it is there."""
    values = [value for name in TILED for value in getattr(state, name) or ()]
    computed([task(_there, value) for value in values])
    return state
