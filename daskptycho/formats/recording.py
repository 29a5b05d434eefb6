"""`daskptycho.record`: writes frames that are still being measured into a scan that grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskptycho.errors import OptionError, ScanError, warn_caller
from daskptycho.formats.arriving_frames import FrameSource, open_source
from daskptycho.formats.position_file import read_position_file
from daskptycho.formats.units import is_pixels, to_si
from daskptycho.scan.dataset import create_scan, open_scan
from daskptycho.scan.left_out import list_numbers
from daskptycho.scan.scan_writer import ScanWriter
from daskptycho.storage.store import exists, open_dataset, parse_location

__all__ = ["record"]

# Seconds between two looks at the source.
PAUSE = 0.1
# Seconds without a frame after which it is said what is lacking.
SILENT = 5.0


def record(
    source: str | Path,
    scan: str | Path,
    plan: str | Path,
    *,
    plan_columns: Sequence[str] | None = None,
    position_unit: str | None = None,
    intensity_key: str | None = None,
    first_number: int = 0,
    probe: ArrayLike | str | Path | None = None,
    wait_seconds: float = 60.0,
    mask_value: float | Sequence[float] = (),
    clip_negative: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
    **geometry: Any,
) -> xr.Dataset:
    """Write the frames of a running measurement into a scan, until all planned ones have come.

    A scan that is there already, of an earlier recording that was cut off, goes on.

    Parameters
    ----------
    source : str or Path
        An HDF5 file that is being written (SWMR, an Eiger's master file, or any that can be read meanwhile),
        or a folder into which numbered files fall, one a frame (.npy, TIFF).
    scan : str or Path
        Where to write the scan.
    plan : str or Path
        File with the planned positions, in the order of acquisition.
    plan_columns : sequence of str, optional
        Names or numbers of its two columns of positions.
    position_unit : str, optional
        Their unit: "m", "mm", "um", "nm" or "pixel"; that of the file, or "m".
    intensity_key : str, optional
        Path of the frames in an HDF5 file; usual names are found.
    first_number : int
        Number in the name of the first file of a folder.
    probe : (mode, y, x) or (y, x) array, str or Path, optional
        First guess of the probe, or a .npy file, a scan or a result that has one. Without one, the run that
        follows guesses it from the first tile.
    wait_seconds : float
        End the scan if no frame has come for so long.
    mask_value : float or sequence of float, optional
        See `create_scan`.
    clip_negative : bool
        See `create_scan`.
    overwrite : bool
        See `create_scan`.
    progress : callable, optional
        Called with (frames that have come, all frames).
    **geometry
        See `create_scan`: energy, distances, pixel sizes, `tile_frames`.

    Returns
    -------
    xarray.Dataset
        The scan, as `open_scan` returns it.

    Warns
    -----
    UserWarning
        As `ScanWriter`; frames have come that are beyond the plan; or nothing has come for some seconds: what
        it waits for.

    Raises
    ------
    ScanError
        The plan or the frames cannot be read or do not fit, or no frame has come.
    OptionError
        Options are impossible.
    """
    if not wait_seconds > 0:
        raise OptionError(f"wait_seconds is {wait_seconds!r}; expected above 0")
    path = Path(source).expanduser()
    position, unit = _read_plan(plan, plan_columns, position_unit)
    if overwrite or not exists(parse_location(scan)):
        first = _wait_for_first(open_source(path, intensity_key), wait_seconds, source)
        create_scan(
            scan,
            planned_position=position,
            frame_shape=first.shape[1:],
            dtype=_stored_type(first.dtype),
            position_unit=unit,
            probe=_read_probe(probe),
            overwrite=overwrite,
            **geometry,
        )
    elif open_scan(scan).sizes["frame"] != len(position):
        raise ScanError(
            f"{scan} has {open_scan(scan).sizes['frame']} frames, and the plan {len(position)}; expected the "
            "scan of this plan, or overwrite=True (--overwrite)"
        )
    with ScanWriter(scan, mask_value=mask_value, clip_negative=clip_negative) as writer:
        frames = open_source(path, intensity_key, first_number)
        beyond = _record_until_complete(frames, writer, len(position), wait_seconds, progress)
    if beyond:
        warn_caller(
            f"{list_numbers(beyond)} of {source} {'is' if len(beyond) == 1 else 'are'} beyond the plan of "
            f"{len(position)} positions, and left out"
        )
    return open_scan(scan)


class _Patience:
    """Looks at a source until nothing has come for long; says what it waits for."""

    def __init__(self, source: FrameSource, seconds: float) -> None:
        self._source, self._seconds, self._said = source, seconds, ""
        self._latest = time.monotonic()

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self._latest >= self._seconds

    def note_frames(self) -> None:
        self._latest = time.monotonic()

    def wait(self) -> None:
        """Wait for a moment; say what for, if that has taken some seconds and was not said yet."""
        if time.monotonic() - self._latest >= SILENT:
            lacking = self._source.describe_lack()
            if lacking != self._said:
                warn_caller(f"record waits: {lacking} (for {self._seconds:g} s at most)")
                self._said = lacking
        time.sleep(PAUSE)


def _record_until_complete(
    source: FrameSource,
    writer: ScanWriter,
    planned: int,
    wait_seconds: float,
    progress: Callable[[int, int], object] | None,
) -> list[int]:
    """Record until all planned frames have come; the numbers of those that have come beyond the plan."""
    wanted = np.zeros(planned, dtype=bool)
    wanted[writer.missing] = True
    beyond: set[int] = set()

    def take() -> bool:
        came = False
        for numbers, counts in source.arrived(wanted):
            inside = numbers < planned
            beyond.update(numbers[~inside].tolist())
            if inside.any():
                writer.write(counts[inside], numbers[inside])
                wanted[numbers[inside]] = False
                came = True
                if progress is not None:
                    progress(planned - int(wanted.sum()), planned)
        return came

    patience = _Patience(source, wait_seconds)
    while wanted.any() and not patience.is_over:
        if take():
            patience.note_frames()
        else:
            patience.wait()
    # What has come beside the last frame.
    take()
    return sorted(beyond)


def _wait_for_first(source: FrameSource, wait_seconds: float, name: object) -> NDArray[Any]:
    """The first frames that have come."""
    patience = _Patience(source, wait_seconds)
    while not patience.is_over:
        for _, counts in source.arrived(np.zeros(0, dtype=bool)):
            return counts
        patience.wait()
    raise ScanError(
        f"no frame has come from {name} for {wait_seconds:g} s: {source.describe_lack()}; expected frames"
    )


def _read_plan(
    plan: str | Path, columns: Sequence[str] | None, unit: str | None
) -> tuple[NDArray[np.float64], str]:
    """The planned positions, [y, x], and the unit of the scan, "m" or "pixel"."""
    found = read_position_file(plan, columns)
    values = found.values[:, ::-1] if found.order == "xy" else found.values
    used = found.unit or unit or "m"
    if unit is not None and found.unit is not None and unit != found.unit:
        raise OptionError(f"{plan} is in {found.unit}, and position_unit is {unit}; expected one unit")
    if is_pixels(used):
        return values, "pixel"
    return to_si(values, used, "length", f"positions of {plan}"), "m"


def _stored_type(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "f":
        return "float32"
    return "uint16" if dtype.itemsize <= 2 else "uint32"


def _read_probe(probe: ArrayLike | str | Path | None) -> Any:
    """The first guess of the probe, from an array or a file."""
    if not isinstance(probe, str | Path):
        return probe
    if str(probe).endswith(".npy"):
        return np.load(Path(probe).expanduser(), allow_pickle=False)
    stored = open_dataset(parse_location(probe))
    if "probe" not in stored:
        raise ScanError(f"{probe} has no probe; expected a .npy file, or a scan or result that has one")
    return stored["probe"].values
