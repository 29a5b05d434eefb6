"""Draw the pictures of the documentation, from small runs of the package itself.

    python docs/pictures.py [FOLDER]

The pictures are written to docs/pictures, or to another folder. This takes a minute or two on two cores.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import scipy.sparse as sp
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

import daskptycho as dp
from daskptycho.demo import run_demo
from daskptycho.scan.dataset import tile_chunks
from daskptycho.scan.tiles import lay_out_tiles
from daskptycho.sync.options import Sync
from daskptycho.sync.phases import extract_phases, normalise, solve
from daskptycho.tiling import Tiling
from daskptycho.views.drawing import show_phase
from daskptycho.views.moves import draw_moves
from daskptycho.views.panels import FIRST, SECOND, style_axes
from daskptycho.views.plotting import complex_to_rgb, make_result_picture
from daskptycho.views.saving import save_figure

HERE = Path(__file__).parent
# Number of colours in the palette of a picture, so that its file is small.
COLOURS = 256


def main(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for draw in (scan, convergence, gramian, normalisations, positions, demo, tutorial):
            draw(work, target)


def scan(work: Path, target: Path) -> None:
    """Draw the positions over the object, the probe, and one frame."""
    opened = dp.simulate_scan(work / "scan.zarr", (12, 12), 48, step=12, jitter=2, photons=1e6)
    figure = sheet(11, 3.9)
    over, beam, detector = figure.subplots(1, 3)
    over.imshow(np.abs(opened["truth_object"].values), cmap="gray")
    y, x = opened["position"].values.T
    over.scatter(x + 24, y + 24, s=6, color="white", linewidth=0)
    for number in (52, 53, 64):
        over.add_patch(Rectangle((x[number], y[number]), 48, 48, fill=False, ec=SECOND, lw=2))
    over.set_title("object, centres of frames, three frames")
    beam.imshow(complex_to_rgb(opened["truth_probe"].values[0]))
    beam.set_title("probe")
    detector.imshow(np.log1p(opened["intensity"][52].values), cmap="magma")
    detector.set_title("a frame, logarithm of its counts")
    for axes in (over, beam, detector):
        axes.set_axis_off()
    save(figure, target / "scan.png")


def convergence(work: Path, target: Path) -> None:
    """Draw the error against sweeps at three sizes."""
    figure = sheet(11, 3.7)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, side in zip(panels, (12, 24, 48), strict=True):
        opened = dp.simulate_scan(work / f"{side}.zarr", (side, side), 32, step=8, jitter=1)
        for sync, name, colour in (
            (Sync(method=None), "without sync", FIRST),
            (Sync(), "with sync", SECOND),
        ):
            error: list[float] = []
            dp.reconstruct(
                opened, sweeps=60, sync=sync, update_probe=False, callback=record_errors(error, opened)
            )
            axes.semilogy(np.arange(1, len(error) + 1), error, color=colour, linewidth=2.2, label=name)
        axes.set_title(f"{side}x{side} frames")
        axes.set_xlabel("sweep")
        style_axes(axes)
    panels[0].set_ylabel("relative error")
    panels[0].legend(frameon=False)
    save(figure, target / "convergence.png")


def record_errors(error: list[float], opened: xr.Dataset) -> Callable[[dp.Progress], None]:
    """Return a callback that appends the illumination-weighted error of the image after each sweep."""
    truth = opened["truth_object"].values
    probe = opened["truth_probe"].values
    corner = np.rint(opened["position"].values).astype(int)
    light = np.zeros(truth.shape)
    size = probe.shape[-1]
    for y, x in corner:
        light[y : y + size, x : x + size] += (np.abs(probe) ** 2).sum(axis=0)

    def note(state: dp.Progress) -> None:
        error.append(dp.relative_error(state.object(), truth, light))

    return note


def gramian(work: Path, target: Path) -> None:
    """Draw the entries of H, the phases applied to the frames and the phases found."""
    opened = dp.simulate_scan(work / "small.zarr", (12, 12), 32, step=8, jitter=1, tile_frames=36)
    tiling = lay_out_tiles(opened)
    y, x = (tiling.corner / np.ptp(tiling.corner, axis=0)).T
    put = 1.4 * np.sin(2 * np.pi * x) * np.cos(np.pi * y)
    put -= put.mean()
    h, power = compute_gramian(opened, angle=put)
    found = extract_phases(solve(normalise(h, power, "degree"), Sync(iterations=60)), power)
    figure = sheet(11, 3.9)
    entries, before, after = figure.subplots(1, 3)
    values = np.abs(h.toarray()) / np.sqrt(np.outer(h.diagonal().real, h.diagonal().real))
    entries.imshow(np.where(values > 0, values, np.nan), cmap="viridis_r", vmin=0, vmax=1)
    for edge in np.cumsum(tile_chunks(opened))[:-1]:
        entries.axhline(edge - 0.5, color="0.6", linewidth=0.8)
        entries.axvline(edge - 0.5, color="0.6", linewidth=0.8)
    entries.set_title(f"|H|: {len(power)}x{len(power)}, {h.nnz / len(power):.0f} entries per row")
    entries.set_xlabel("frame")
    entries.set_ylabel("frame")
    draw_at_positions(before, tiling, put, "phases applied to the frames", "RdBu", -1.5, 1.5)
    shown = draw_at_positions(after, tiling, np.angle(found.phase), "phases found", "RdBu", -1.5, 1.5)
    figure.colorbar(shown, ax=after, label="rad", shrink=0.8)
    save(figure, target / "gramian.png")


def normalisations(work: Path, target: Path) -> None:
    """Draw the modulus of the leading eigenvectors of K and L after a start from random phases."""
    opened = dp.simulate_scan(work / "random.zarr", (32, 32), 16, step=4, periodic=True)
    state: dict[str, Any] = {}

    def note(progress: dp.Progress) -> bool:
        state["image"] = progress.object()
        return True

    dp.reconstruct(
        opened, start="random", sync=Sync(method=None), opening=None, update_probe=False, callback=note
    )
    h, power = compute_gramian(opened, state["image"])
    figure = sheet(8.6, 3.9)
    for axes, name, title in zip(
        figure.subplots(1, 2), ("frame", "degree"), ("K: frames' power", "L: degree"), strict=True
    ):
        vector = np.abs(solve(normalise(h, power, name), Sync(iterations=60)).vector)
        shown = draw_at_positions(axes, lay_out_tiles(opened), vector / vector.max(), title, "magma", 0, 1)
    figure.colorbar(shown, ax=axes, label="|v|, largest one", shrink=0.8)
    save(figure, target / "normalisations.png")


def compute_gramian(
    opened: xr.Dataset, image: Any = None, angle: float | NDArray[np.float64] = 0.0
) -> tuple[sp.csr_array, NDArray[np.float64]]:
    """H and the power of each frame, for waves with the measured amplitudes and the phases of an image.

    The image is the true object unless one is given. Each frame is turned by its `angle`.
    """
    image = opened["truth_object"].values if image is None else image
    probe = opened["truth_probe"].values
    turn = np.exp(1j * np.broadcast_to(angle, opened.sizes["frame"])).astype(np.complex64)
    frames = dp.weighted_frames(opened, image, probe=probe) * turn[:, None, None]
    power = (da.maximum(dp.amplitudes(opened), 0).astype(float) ** 2).sum(axis=(1, 2))
    return dp.gramian(opened, frames, probe=probe).matrix(), power.compute()


def draw_at_positions(
    axes: Axes, tiling: Tiling, values: Any, title: str, colours: str, low: float, high: float
) -> Any:
    """Draw one value per frame at the position of the frame."""
    y, x = tiling.corner.T
    size = 2.6e4 / len(y)
    shown = axes.scatter(x, y, c=values, cmap=colours, vmin=low, vmax=high, s=size, marker="s", linewidth=0)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set_title(title)
    axes.set_axis_off()
    return shown


def positions(work: Path, target: Path) -> None:
    """Draw a scan with a drift of ten pixels, without and with refinement, and the moves found."""
    opened = dp.simulate_scan(
        work / "drift.zarr", (16, 16), 64, step=12, jitter=1, photons=1e6, subpixel=True, seed=3
    )
    time = opened["frame_number"].values / opened.sizes["frame"]
    drift = np.stack([10 * (0.4 * time + 0.6 * time**2), 5 * np.sin(np.pi * time)], axis=1)
    opened["position"] = opened["position"] - drift
    opened["position"].attrs["units"] = "pixel"
    figure = sheet(13, 4.9)
    panels = figure.subplots(1, 3)
    for axes, refine, title in zip(panels, ((), "positions"), ("given positions", "refined"), strict=False):
        result = dp.reconstruct(opened, sweeps=100, update_probe=False, refine=refine)
        picture = make_result_picture(result)
        show_phase(axes, picture, (-1.5, 1.5))
        axes.set_title(f"{title}: $R^2$ = {float(result['residual'][-1]):.2g}")
        axes.set_axis_off()
    draw_moves(panels[2], result)
    save(figure, target / "positions.png")


def demo(work: Path, target: Path) -> None:
    """Draw the picture of `daskptycho demo`."""
    found = run_demo(work / "demo")
    shrink(found.picture, target / "sync.png", 1000)


def tutorial(work: Path, target: Path) -> None:
    """Draw the pictures that the commands of the tutorial write."""
    opened = dp.simulate_scan(work / "tutorial.zarr", (24, 24), 32, step=8, jitter=1, photons=1e5)
    given: dict[str, Any] = {"start": "random", "update_probe": False}
    without = dp.reconstruct(opened, sweeps=40, sync=Sync(method=None), **given)
    dp.reconstruct(opened, work / "result.zarr", sweeps=40, **given)
    result = dp.resume(work / "result.zarr", sweeps=60)
    for one, name in ((without, "tutorial-without-sync"), (result, "tutorial-result")):
        large = save_figure(dp.plot_result(one), work / f"{name}.png")
        shrink(large, target / f"{name}.png", 900)
    truth = opened["truth_object"].rename(object_y="y", object_x="x")
    image, reference = dp.common_region(result["object"], truth)
    light, _ = dp.common_region(result["illumination"], truth)
    compared = dp.compare_images(image.values, reference.values, light.values)
    large = save_figure(
        dp.plot_comparison(compared, reference, names=("result.zarr", "truth")), work / "comparison.png"
    )
    shrink(large, target / "tutorial-comparison.png", 900)


def sheet(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def save(figure: Figure, path: Path) -> None:
    large = save_figure(figure, path, dpi=100)
    shrink(large, path, 1100)


def shrink(source: Path, path: Path, width: int) -> None:
    """Scale a picture to the width of a page and reduce it to a palette: a tenth of the bytes."""
    picture = Image.open(source).convert("RGB")
    height = round(picture.height * min(1.0, width / picture.width))
    picture = picture.resize((min(width, picture.width), height), Image.Resampling.LANCZOS)
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path} ({path.stat().st_size // 1024} kB)")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "pictures")
