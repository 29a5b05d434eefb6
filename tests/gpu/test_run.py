"""The whole reconstruction on the stand-in for CuPy: the CPU's image, and nothing crosses but scalars.

The kernels are the shipped CUDA C on an emulation. What this shows, and what it does not, stands in
tests/standin/README.md and docs/gpu.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import dask.array as da
import numpy as np
import pytest
import scipy.fft
import xarray as xr

import daskptycho as dp
from daskptycho import backend, gpu_kernels
from daskptycho.model.algorithms import RAAR
from daskptycho.model.amplitudes import Amplitudes
from daskptycho.run import fitting
from daskptycho.scan.tiles import lay_out_tiles
from daskptycho.sync.eigensolvers import LANCZOS_BASIS
from daskptycho.tasks import two_level
from daskptycho.tasks.layout import Layout, Residency
from daskptycho.tasks.state import merge_images
from daskptycho.tasks.waiting import compute
from daskptycho.tiling import Tile, Tiling
from tests import islands
from tests.plain import relative_where_lit
from tests.varying import make_varying

pytestmark = [pytest.mark.usefixtures("standin")]

SWEEPS = 6
# The same rounding errors in another order; the FFT is the same library's on both sides.
CLOSE = 1e-5

# What may go to the host within a sweep, by the function that asks for it: numbers that the client or the
# next step needs, and how large a choice of pairs is. None has more than one for each strip of a tile.
SCALARS = {
    "model.sweep.sweep_tile": "misfit",
    "sync.eigensolvers._conclude": "eigenvalue and its residual",
    "sync.parts.find_links": "number of frames that are linked to no earlier one",
    "sync.phases.extract_phases": "spread",
    "sync.phases.localisation": "localisation",
    "sync.phases.measure_gain": "gain",
    "sync.two_level.galerkin_row": "a row of G",
    "sync.two_level.synchronise_tile": "power",
    "sync.phases.solve": "whether any frame has a count",
    "sync.eigensolvers.read": "two numbers a step",
    "sync.eigensolvers.advance": "inner products of three vectors",
    "sync.eigensolvers.lobpcg": "norm of the residual",
    "model.shifted_fit._inner": "slope and curvature of the step of the probe",
    "model.lbfgs.measure_products": "inner products",
    "tasks.lbfgs._measure": "penalty of a polish",
    "tasks.lbfgs._measure_roughness": "two sums",
    "tasks.lbfgs.prepare_polish": "brightest pixel of the probe",
}
# Bytes of the inner products of L-BFGS: three rows for five pairs.
PRODUCTS = 8 * 3 * 11


@pytest.fixture(autouse=True)
def _scipy_fft(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in's FFT is SciPy's: FFTW would leave other phases where there is no light."""
    monkeypatch.setattr(backend, "_host_fft", lambda: scipy.fft)


NEAR: dict[str, Any] = {
    "propagation": "near-field",
    "energy_eV": 17_000,
    "source_distance_m": 0.005,
    "detector_distance_m": 0.095,
    "detector_pixel_size_m": 4e-6,
}


def simulated(folder: Path, name: str, **options: Any) -> xr.Dataset:
    given: dict[str, Any] = {"frames": (4, 4), "frame_size": 12, "step": 3, "tile_frames": 4, "photons": 1e4}
    return dp.simulate_scan(folder / f"{name}.zarr", **given | options)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, xr.Dataset]:
    folder = tmp_path_factory.mktemp("scans")
    raster = simulated(folder, "raster", jitter=1)
    masked = raster.copy()
    valid = np.ones((12, 12), dtype=bool)
    valid[3, 5:9] = False
    masked["valid"] = (("qy", "qx"), valid)
    masked["background"] = (("qy", "qx"), np.full((12, 12), 0.1))
    drifting = raster.copy()
    drifting["gain"] = ("frame", np.linspace(0.7, 1.3, raster.sizes["frame"]))
    return {
        "raster": raster,
        "drifting": drifting,
        "fractional": simulated(folder, "fractional", jitter=1, subpixel=True, modes=2),
        "periodic": simulated(folder, "periodic", frames=(8, 8), periodic=True, tile_frames=16),
        "masked": masked,
        "near field": simulated(folder, "near", **NEAR),
        "near field, fractional": simulated(folder, "between", jitter=1, subpixel=True, modes=2, **NEAR),
    }


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("raster", {}),
    "known probe": ("raster", {"update_probe": False}),
    "no sync": ("raster", {"sync": dp.Sync(None)}),
    "fractions and modes": ("fractional", {}),
    "fractions, known probe": ("fractional", {"update_probe": False}),
    "invalid pixels and background": ("masked", {}),
    "likelihood of counts": ("masked", {"update_probe": False, "likelihood": "poisson"}),
    "periodic, random start": ("periodic", {"start": "random", "update_probe": False}),
    "near field": ("near field", {}),
    "near field, fractions and modes": ("near field, fractional", {}),
    "near field, fractions, random start": (
        "near field, fractional",
        {"start": "random", "update_probe": False},
    ),
    "gain": ("drifting", {"sync": dp.Sync(every=1)}),
    "gain, known probe": ("drifting", {"update_probe": False}),
    "inner sweeps": ("raster", {"sync": dp.Sync(inner=2, every=1), "update_probe": False}),
    "full, Lanczos": ("raster", {"sync": dp.Sync("full", every=1)}),
    "full, LOBPCG": ("raster", {"sync": dp.Sync("full", eigensolver="lobpcg", every=1)}),
    "full, power": ("raster", {"sync": dp.Sync("full", eigensolver="power", iterations=5, every=1)}),
    "RAAR": ("raster", {"algorithm": RAAR(0.8), "sync": dp.Sync(every=1)}),
    "difference map, full": ("raster", {"algorithm": "dm", "sync": dp.Sync("full", every=1)}),
}


def on_gpu(
    standin: ModuleType, scan: xr.Dataset, sweeps: int = SWEEPS, **options: Any
) -> tuple[xr.Dataset, list[list[Any]]]:
    """The result, and what crossed: up to the end of the first sweep, in each of the others, at the end."""
    # What an earlier test has moved would not be seen.
    gpu_kernels._tables.cache_clear()
    ends: list[int] = []
    with standin.transfers.noted() as log:
        result = dp.reconstruct(
            scan,
            sweeps=sweeps,
            device="gpu",
            callback=lambda _: ends.append(len(log.transfers)),
            **options,
        )
    ends.append(len(log.transfers))
    return result, [log.transfers[first:last] for first, last in zip([0, *ends], ends, strict=False)]


def total(transfers: list[Any], direction: str) -> Counter[str]:
    """Bytes that crossed in one direction, by the function that asked for it."""
    found: Counter[str] = Counter()
    for transfer in transfers:
        if transfer.direction == direction:
            found[transfer.cause] += transfer.nbytes
    return found


@pytest.mark.parametrize(("scan", "options"), RUNS.values(), ids=RUNS.keys())
def test_the_image_is_the_cpus_and_a_sweep_moves_scalars_alone(
    standin: ModuleType,
    scans: dict[str, xr.Dataset],
    scan: str,
    options: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = dp.reconstruct(scans[scan], sweeps=SWEEPS, **options)
    found, (_, *sweeps, _) = on_gpu(standin, scans[scan], **options)

    apart = relative_where_lit(found, expected)
    assert apart < CLOSE
    # The light of all modes: how it is shared out among modes of like power is rounding's choice.
    light = [(abs(result["probe"]) ** 2).sum("mode").values for result in (found, expected)]
    np.testing.assert_allclose(*light, atol=10 * CLOSE * light[1].max())
    np.testing.assert_allclose(found["residual"], expected["residual"], rtol=1e-4)
    np.testing.assert_allclose(found["disagreement"], expected["disagreement"], rtol=1e-2, atol=1e-6)
    assert all(isinstance(found[name].data, np.ndarray) for name in found)

    strips = Counter(strip.target for strip in tiling_of(scans[scan]).strips)
    for number, transfers in enumerate(sweeps, start=2):
        # Tables of positions go up when a kernel first meets them, the last with the first synchronisation.
        # A round of Lanczos sends up the shares of its vectors, a step of LOBPCG two sets of three.
        up = total(transfers, "to device")
        assert up.pop("sync.eigensolvers._lanczos_round", 0) <= 8 * LANCZOS_BASIS * len(
            tiling_of(scans[scan]).tiles
        )
        assert up.pop("sync.eigensolvers.advance", 0) <= 2 * 3 * 16 * dp.Sync().steps(
            scans[scan].sizes["frame"]
        )
        assert set(up) <= ({"gpu_kernels._tables"} if number <= 3 else set())
        assert set(total(transfers, "to host")) <= set(SCALARS)
        most = max(transfer.nbytes for transfer in transfers if transfer.direction == "to host")
        # A row of G, or the inner products of LOBPCG's three vectors, or those of L-BFGS.
        assert most <= max(PRODUCTS, 16 * max(9, 1 + max(strips.values())))
    moved = max(sum(transfer.nbytes for transfer in transfers) for transfers in sweeps[2:])
    with capsys.disabled():
        print(f"\n{moved} bytes a sweep to the host, none to the device; image {apart:.0e} apart", end=" ")


@pytest.mark.parametrize("asked", ["background", "smooth-background"])
@pytest.mark.parametrize("update_probe", [False, True])
def test_a_background_that_is_found_is_that_of_the_cpu(
    standin: ModuleType, scans: dict[str, xr.Dataset], asked: str, update_probe: bool
) -> None:
    scan = scans["masked"]
    counts = scan["intensity"] + np.random.default_rng(2).poisson(0.3, scan["intensity"].shape)
    given = {"sweeps": 10, "refine": asked, "update_probe": update_probe}
    expected = dp.reconstruct(scan.assign(intensity=counts), **given)
    found, _ = on_gpu(standin, scan.assign(intensity=counts), **given)
    assert relative_where_lit(found, expected) < CLOSE
    assert expected["background"].std() > 0
    np.testing.assert_allclose(found["background"], expected["background"], atol=1e-4)


@pytest.mark.filterwarnings("ignore:the scan falls into")
@pytest.mark.parametrize(
    "sync",
    [
        dp.Sync(every=1),
        dp.Sync(inner=2, every=1),
        dp.Sync("full", every=1),
        dp.Sync("full", eigensolver="power", iterations=5, every=1),
    ],
    ids=["two-level", "inner", "full", "power"],
)
@pytest.mark.parametrize("algorithm", ["ap", "raar"])
def test_scans_that_fall_into_parts_give_the_cpus_image(
    standin: ModuleType, tmp_path: Path, sync: dp.Sync, algorithm: str
) -> None:
    """Tiles hold frames of both teeth of a comb, and one that was parked."""
    corner = islands.comb(teeth=2, length=3)
    corner = np.insert(corner, 5, corner.max(axis=0) + 99, axis=0)
    scan = islands.simulate(tmp_path / "scan.zarr", corner, 1e4, 7)
    options: dict[str, Any] = {"sync": sync, "algorithm": algorithm, "update_probe": False}
    expected = dp.reconstruct(scan, sweeps=4, **options)
    found, _ = on_gpu(standin, scan, sweeps=4, **options)
    assert relative_where_lit(found, expected) < CLOSE
    np.testing.assert_array_equal(found["part"], expected["part"])
    assert expected["part"].max() == 1


def tiling_of(scan: xr.Dataset) -> Tiling:
    return lay_out_tiles(scan)


def test_frames_are_moved_once_and_as_counts(standin: ModuleType, scans: dict[str, xr.Dataset]) -> None:
    scan = scans["raster"]
    assert scan["intensity"].dtype == np.uint16
    _, parts = on_gpu(standin, scan)
    up = total([transfer for part in parts for transfer in part], "to device")
    assert up.pop("model.amplitudes.prepare") == scan["intensity"].size * 2
    assert set(up) == {
        "sync.gramian.to",
        "run.start._constant",
        "run.start._move_values",
        "gpu_kernels._tables",
    }
    assert up["run.start._move_values"] == scan["probe"].values.nbytes
    # At the end the image, the illumination and the probe come back.
    windows = sum(np.prod(tile.window.shape) for tile in tiling_of(scan).tiles)
    assert total(parts[-1], "to host") == {
        # By tasks, which run in the thread that asked for them.
        "tasks.spec.persist": windows * (8 + 4),
        "run.result._to_host": scan["probe"].values.nbytes,
        # Four numbers of each frame: its misfit and counts, its light, and what of it is its own.
        "model.sweep.measure_tile": scan.sizes["frame"] * 4 * 8,
    }


@pytest.mark.parametrize("algorithm", ["ap", "raar"])
def test_every_array_of_a_run_is_on_the_device(
    standin: ModuleType, scans: dict[str, xr.Dataset], algorithm: str
) -> None:
    scan = scans["drifting"]
    # The frames are read as a dask array of NumPy's. There is no other, and the values of tasks are CuPy's.
    assert isinstance(scan["intensity"].data, da.Array)
    assert type(scan["intensity"].data._meta) is np.ndarray
    layouts: list[Layout] = []

    def on_device(value: Any, dtype: Any) -> None:
        assert type(value) is standin.ndarray
        assert value.dtype == dtype

    def look(progress: dp.Progress) -> None:
        state, layout = progress._state, progress._layout
        assert state is not None
        layouts.append(layout)
        for values in compute([state.shared, state.previous_shared]):
            on_device(values["probe"], np.complex64)
        for image in compute(merge_images(layout, state)):
            on_device(image, np.complex64)
        for tile in compute(state.tiles):
            on_device(tile.illumination, np.float32)
            on_device(tile.own["gain"], np.float32)
            swept, pieces, phases = tile.image
            for array in (swept.left.image_sum, swept.left.found.phase):
                on_device(array, np.complex64)
            # What momentum needs of the sweep, or what the algorithm carries.
            kept, other = (swept.image, swept.carried)[:: 1 if algorithm == "ap" else -1]
            on_device(kept, np.complex64)
            assert other is None
            assert {type(piece) for piece in pieces} == {type(swept)}
            # A phase for each tile is a number of the host's.
            assert type(phases.phase) is np.ndarray

    dp.reconstruct(scan, sweeps=4, device="gpu", algorithm=algorithm, sync=dp.Sync(every=1), callback=look)
    for data in compute(layouts[0].tiles):
        assert isinstance(data.amplitudes, Amplitudes)
        assert type(data.amplitudes.counts) is standin.ndarray
        block = data.pairs
        assert {type(block.pair), type(block.offset), type(block.border)} == {standin.ndarray}


def test_pairs_of_one_h_are_on_the_device(standin: ModuleType, scans: dict[str, xr.Dataset]) -> None:
    layouts: list[Layout] = []

    def look(progress: dp.Progress) -> None:
        layouts.append(progress._layout)

    dp.reconstruct(scans["raster"], sweeps=1, device="gpu", sync=dp.Sync("full", every=1), callback=look)
    blocks = compute(layouts[0].blocks)
    assert len(blocks) > 4
    for block in blocks:
        assert {type(block.pair), type(block.offset), type(block.border)} == {standin.ndarray}


@pytest.fixture
def small_gpu(standin: ModuleType) -> Iterator[ModuleType]:
    """The stand-in's runtime, whose memory a test may set."""
    runtime = standin.cuda.runtime
    before = runtime.memory
    try:
        yield runtime
    finally:
        runtime.memory = before


def test_batches_are_bounded_by_memory_and_plans_recur(
    standin: ModuleType, scans: dict[str, xr.Dataset], small_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dp.reconstruct(scans["raster"], sweeps=4)
    with standin.transfers.noted() as log:
        dp.reconstruct(scans["raster"], sweeps=4, device="gpu")
    # A tile of four frames at once.
    assert log.plans == {((4, 1, 12, 12), "complex64")}
    # Three would go into this share of its memory: two times two are as many batches, of one size.
    monkeypatch.setattr(backend, "GPU_SHARE", 3 * 12**2 * 8 / small_gpu.memory)
    with standin.transfers.noted() as log:
        found = dp.reconstruct(scans["raster"], sweeps=4, device="gpu")
    assert log.plans == {((2, 1, 12, 12), "complex64")}
    assert relative_where_lit(found, expected) < CLOSE


def test_frames_that_do_not_fit_are_read_anew(
    standin: ModuleType, scans: dict[str, xr.Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dp.reconstruct(scans["raster"], sweeps=3)
    estimate = fitting.estimate_needs
    monkeypatch.setattr(
        fitting,
        "estimate_needs",
        lambda *given, **of: replace(estimate(*given, **of), residency=Residency.STREAMED),
    )
    found, (_, *sweeps, _) = on_gpu(standin, scans["raster"], sweeps=3)
    assert relative_where_lit(found, expected) < CLOSE
    for transfers in sweeps:
        up = total(transfers, "to device")
        # With the probe recovered, frames are swept twice.
        assert up.pop("model.amplitudes.prepare") == 2 * scans["raster"]["intensity"].size * 2
        assert set(up) <= {"gpu_kernels._tables"}


def test_a_gpu_that_is_too_small_is_refused(scans: dict[str, xr.Dataset], small_gpu: Any) -> None:
    small_gpu.memory = 2**20
    with pytest.raises(dp.OptionError, match=r"the run needs .* they have 1.00 MiB"):
        dp.reconstruct(scans["raster"], sweeps=2, device="gpu")


@pytest.mark.parametrize("options", [{}, {"algorithm": "raar", "sync": dp.Sync(every=1)}], ids=["ap", "raar"])
def test_a_run_goes_on_on_the_other_device(
    scans: dict[str, xr.Dataset], tmp_path: Path, options: dict[str, Any]
) -> None:
    expected = dp.reconstruct(scans["raster"], sweeps=SWEEPS, **options)
    for begins, goes_on in (("gpu", "gpu"), ("gpu", "cpu"), ("cpu", "gpu")):
        out = tmp_path / f"{begins}-{goes_on}.zarr"
        dp.reconstruct(scans["raster"], out, sweeps=4, device=begins, **options)
        found = dp.resume(out, sweeps=SWEEPS, device=goes_on)
        assert relative_where_lit(found, expected) < CLOSE


def test_a_run_that_is_cut_off_says_to_go_on_on_the_gpu(scans: dict[str, xr.Dataset], tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"

    def interrupt(progress: dp.Progress) -> None:
        if progress.sweep == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as interrupted:
        dp.reconstruct(scans["raster"], out, sweeps=SWEEPS, device="gpu", callback=interrupt)
    (note,) = interrupted.value.__notes__
    assert note.endswith(f"resume with: daskptycho resume {out} --gpu")
    with pytest.raises(dp.ScanError, match=rf"resume \(daskptycho resume {out} --gpu\)"):
        dp.reconstruct(scans["raster"], out, sweeps=SWEEPS, device="gpu")


def test_starts_from_an_image(scans: dict[str, xr.Dataset]) -> None:
    shape = tiling_of(scans["raster"]).window.shape
    start = np.exp(1j * np.random.default_rng(0).random(shape))
    expected = dp.reconstruct(scans["raster"], sweeps=2, start=start)
    assert (
        relative_where_lit(dp.reconstruct(scans["raster"], sweeps=2, start=start, device="gpu"), expected)
        < CLOSE
    )


def test_frames_in_memory_and_of_a_foreign_byte_order(scans: dict[str, xr.Dataset]) -> None:
    scan = scans["raster"].load().copy()
    scan["intensity"] = scan["intensity"].astype(">u2")
    expected = dp.reconstruct(scan, sweeps=2)
    assert relative_where_lit(dp.reconstruct(scan, sweeps=2, device="gpu"), expected) < CLOSE


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("raster", {"update_probe": False}),
        ("fractional", {}),
        ("raster", {"algorithm": "raar", "sync": dp.Sync("full", every=1)}),
        ("raster", {"update_probe": False, "sync": dp.Sync(inner=2, every=1)}),
    ],
    ids=["known probe", "modes", "RAAR, full", "inner sweeps"],
)
def test_refined_positions_are_those_of_the_cpu(
    standin: ModuleType, scans: dict[str, xr.Dataset], name: str, options: dict[str, Any]
) -> None:
    scan = scans[name].copy()
    wrong = np.random.default_rng(3).uniform(-1, 1, scan["position"].shape)
    scan["position"] = scan["position"] + wrong
    scan["position"].attrs["units"] = "pixel"
    given = {"refine": dp.Positions(start=2, every=1, hold=None), "sweeps": 4} | options
    expected = dp.reconstruct(scan, **given)
    found, _ = on_gpu(standin, scan, **given)
    moved = (expected["position"] - expected["position_given"]).values
    assert abs(moved).max() > 0.1
    np.testing.assert_allclose(found["position"], expected["position"], atol=1e-3)
    assert relative_where_lit(found, expected) < 1e-3


@pytest.mark.filterwarnings("ignore:R2 is .*, where counting")
@pytest.mark.parametrize("jitter", [0.0, 0.5], ids=["whole pixels", "fractions"])
@pytest.mark.parametrize("update_probe", [False, True], ids=["held", "recovered"])
def test_a_probe_that_varies_is_that_of_the_cpu(
    standin: ModuleType, jitter: float, update_probe: bool
) -> None:
    known = make_varying(side=6, size=16, step=2.5, jitter=jitter, seed=3, tile_frames=12, share=0.2)
    given: dict[str, Any] = {"refine": "probe-variation", "sweeps": 15, "update_probe": update_probe}
    expected = dp.reconstruct(known.scan, **given)
    assert expected["probe_weight"].values.any()
    found, _ = on_gpu(standin, known.scan, **given)
    np.testing.assert_allclose(found["variation_share"], expected["variation_share"], rtol=1e-2)
    assert relative_where_lit(found, expected) < 1e-2


@pytest.mark.parametrize("algorithm", ["lbfgs", "ap", "raar"])
def test_phases_from_a_coarse_grid_are_those_of_the_cpu(
    tmp_path: Path, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = dp.simulate_scan(tmp_path / "s.zarr", frames=(8, 8), frame_size=16, step=4, jitter=1, seed=2)
    modules: list[str] = []
    solve = two_level.synchronise_coarsely

    def note(tile: Tile, grid: Any, swept: Any, image: Any, *others: Any, **given: Any) -> Any:
        modules.append(backend.array_module(image).__name__)
        return solve(tile, grid, swept, image, *others, **given)

    monkeypatch.setattr(two_level, "synchronise_coarsely", note)
    options: dict[str, Any] = {"algorithm": algorithm, "sweeps": SWEEPS, "update_probe": False}
    expected, found = dp.reconstruct(scan, **options), dp.reconstruct(scan, device="gpu", **options)
    assert set(modules) == {"numpy", "cupy"}
    assert relative_where_lit(found, expected) < CLOSE
