"""A probe that varies from frame to frame is found along, whatever the tiles, workers and options."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from daskptycho.views.variation import describe_variation
from tests.elsewhere import images_on_disk, two_workers
from tests.stopping import Stop, stop_at
from tests.varying import Varying, make_varying

GIVEN: dict[str, Any] = {"sweeps": 50, "update_probe": False, "refine": "probe-variation"}


pytestmark = pytest.mark.filterwarnings("ignore:R2 is .*, where counting")


@cache
def varying(**options: Any) -> Varying:
    return make_varying(**{"side": 9, "step": 5.0, "tile_frames": 27, "seed": 31} | options)


def small() -> Varying:
    return varying(side=6, size=16, step=2.5, tile_frames=18, share=0.2)


@pytest.mark.parametrize("jitter", [0.0, 0.5], ids=["whole pixels", "fractions"])
@pytest.mark.parametrize("recovered", [False, True], ids=["held", "recovered"])
def test_variation_is_found(jitter: float, recovered: bool) -> None:
    known = varying(jitter=jitter)
    result = dp.reconstruct(known.scan, **GIVEN | {"update_probe": recovered})
    assert (known.correlations(result) > 0.95).all()
    assert result["variation_share"].values[-1] == pytest.approx(0.1, rel=0.3)
    with pytest.warns(UserWarning, match="where counting photons would leave"):
        plain = dp.reconstruct(
            known.scan, **GIVEN | {"update_probe": recovered, "refine": (), "algorithm": "ap"}
        )
    assert "probe_weight" not in plain
    assert known.image_error(result) < known.image_error(plain) / 2


def test_modes_of_the_result_are_orthogonal() -> None:
    result = dp.reconstruct(varying().scan, **GIVEN)
    probe = result["probe"].values[0].ravel()
    modes = np.stack([probe, *result["probe_variation"].values.reshape(2, -1)]) / np.linalg.norm(probe)
    np.testing.assert_allclose(modes @ modes.conj().T, np.eye(3), atol=1e-5)
    weights = result["probe_weight"].values
    moments = weights.conj().T @ weights / len(weights)
    assert abs(moments[0, 1]) < 1e-3 * moments[1, 1].real
    assert moments[0, 0].real > moments[1, 1].real


@pytest.mark.parametrize("photons", [1e4, 1e6])
@pytest.mark.parametrize("recovered", [False, True], ids=["held", "recovered"])
def test_a_steady_probe_is_left_alone(photons: float, recovered: bool) -> None:
    known = varying(share=0.0, photons=photons)
    result = dp.reconstruct(known.scan, **GIVEN | {"update_probe": recovered})
    assert not result["probe_weight"].values.any()
    assert not (result["variation_share"] > 0).any()
    assert np.isfinite(result["variation_significance"]).sum() > 40
    assert describe_variation(result) == "Probe: does not vary significantly."


def test_end_of_run_says_what_was_found() -> None:
    said = describe_variation(dp.reconstruct(varying().scan, **GIVEN))
    assert said.startswith("Probe: varies, ")
    assert said.endswith(" % of the power in 2 modes.")


def test_slow_weights_are_found_under_more_noise() -> None:
    known = varying(photons=1e3, white=False, share=0.2)
    free, smooth = (
        dp.reconstruct(known.scan, **GIVEN | {"refine": dp.ProbeVariation(modes=1, smooth=width)})
        for width in (None, 2.0)
    )
    assert known.correlations(smooth)[0] > known.correlations(free)[0]


def test_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    scan, given = small().scan, GIVEN | {"sweeps": 24, "update_probe": True}
    expected = dp.reconstruct(scan, **given)
    assert expected["probe_weight"].values.any()
    for sweep in (3, 14, 18):
        with pytest.raises(Stop):
            dp.reconstruct(scan, tmp_path / "r.zarr", callback=stop_at(sweep), overwrite=True, **given)
        found = dp.resume(tmp_path / "r.zarr", scan=scan)
        xr.testing.assert_equal(found.drop_vars("seconds"), expected.drop_vars("seconds"))
        assert found.attrs == expected.attrs


@pytest.mark.timeout(100)
def test_worker_processes_change_nothing() -> None:
    scan, given = small().scan, GIVEN | {"sweeps": 16, "update_probe": True}
    expected = dp.reconstruct(scan, **given)
    assert expected["probe_weight"].values.any()
    with two_workers():
        found = dp.reconstruct(scan, **given)
    xr.testing.assert_equal(found.drop_vars("seconds"), expected.drop_vars("seconds"))


def test_little_memory_changes_nothing(tmp_path: Path) -> None:
    """Images on disk, and amplitudes read from the store in each sweep."""
    known = small()
    named = {name: known.scan[name].values for name in ("intensity", "position", "probe", "frame_number")}
    ds = dp.create_scan(tmp_path / "scan.zarr", **named, position_unit="pixel", tile_frames=18)
    given = GIVEN | {"sweeps": 18}
    expected = dp.reconstruct(ds, **given)
    assert expected["probe_weight"].values.any()
    with images_on_disk():
        found = dp.reconstruct(ds, **given)
    xr.testing.assert_equal(found.drop_vars("seconds"), expected.drop_vars("seconds"))


@pytest.mark.parametrize("algorithm", ["raar", "dm"])
def test_algorithms_with_a_stack_refine_no_variation(algorithm: str) -> None:
    with pytest.raises(dp.OptionError, match=f"probe_variation is refined with algorithm {algorithm}"):
        dp.reconstruct(varying().scan, **GIVEN | {"algorithm": algorithm})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"modes": 0}, "modes of ProbeVariation is 0; expected a whole number, 1 or more"),
        ({"start": 1.5}, "start of ProbeVariation is 1.5; expected a whole number, 1 or more"),
        ({"smooth": -1.0}, "smooth of ProbeVariation is -1.0; expected frames above 0, or None"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(dp.OptionError, match=said):
        dp.ProbeVariation(**options)
