"""Options and scans that make no sense are refused before work starts, in words that say what is expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from tests import plain

NO_SYNC = dp.Sync(method=None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sweeps": 0}, "sweeps is 0; expected a whole number, 1 or more"),
        ({"sweeps": -1}, "sweeps is -1"),
        ({"sweeps": 2.5}, "sweeps is 2.5"),
        ({"sweeps": "many"}, "sweeps is 'many'"),
        ({"algorithm": "epie"}, "algorithm is 'epie'; expected one of ap, lbfgs, raar, dm"),
        ({"opening": "epie"}, "algorithm is 'epie'; expected one of ap, lbfgs, raar, dm"),
        ({"momentum": 1}, "momentum is 1; expected 'nesterov' or a number from 0 to below 1"),
        ({"momentum": -0.1}, "momentum is -0.1"),
        ({"momentum": float("nan")}, "momentum is nan"),
        ({"momentum": "heavy"}, "momentum is 'heavy'"),
        (
            {"momentum": 0.5, "algorithm": "raar"},
            "momentum is 0.5 with raar; only algorithms without a stack take one",
        ),
        ({"momentum": "nesterov", "algorithm": "dm"}, "momentum is 'nesterov' with dm"),
        ({"start": "zeros"}, "start is 'zeros'; expected 'ones', 'random' or an array"),
        ({"start": np.ones((3, 3))}, "start has shape (3, 3); expected the canvas's"),
        ({"start": np.ones(7)}, "start has shape (7,)"),
        ({"probe": np.ones((5, 5))}, "probe has shape (1, 5, 5); expected (mode, y, x)"),
        ({"modes": 0}, "modes is 0; expected a whole number, 1 or more"),
        ({"modes": 1.5}, "modes is 1.5"),
        ({"tolerance": 0}, "tolerance is 0; expected above 0"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(
    small: xr.Dataset, tmp_path: Path, options: dict, said: str
) -> None:
    swept: list[dp.Progress] = []
    with pytest.raises(dp.OptionError) as refused:
        dp.reconstruct(small, tmp_path / "r.zarr", callback=swept.append, **options)
    assert said in str(refused.value)
    assert swept == []
    assert list(tmp_path.iterdir()) == []


def test_a_known_probe_has_to_be_known(small: xr.Dataset) -> None:
    with pytest.raises(dp.OptionError, match="the scan has no probe, and none is given; expected the known"):
        dp.reconstruct(small.drop_vars("probe"), sweeps=1, update_probe=False)


BAD_SCANS: dict[str, tuple[Any, str]] = {
    "no counts": (lambda ds: ds.assign(intensity=0 * ds["intensity"]), "intensity holds no counts at all"),
    "no frames": (lambda ds: ds.drop_vars("intensity"), "intensity is missing"),
    "no positions": (lambda ds: ds.drop_vars("position"), "position is missing"),
    "negative": (lambda ds: ds.assign(intensity=-ds["intensity"]), "negative"),
    "nan": (lambda ds: ds.assign(intensity=ds["intensity"] * np.nan), "NaN"),
    "a path": (lambda ds: "scan.zarr", "expected an xarray.Dataset, as from open_scan"),
    "an array": (lambda ds: ds["intensity"].values, "expected an xarray.Dataset"),
}


@pytest.mark.parametrize(("change", "said"), BAD_SCANS.values(), ids=BAD_SCANS.keys())
def test_scans_that_cannot_be_right_are_refused(
    small: xr.Dataset, tmp_path: Path, change: Any, said: str
) -> None:
    with pytest.raises(dp.ScanError) as refused:
        dp.reconstruct(change(small), tmp_path / "r.zarr", sweeps=1)
    assert said in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_frames_that_are_read_late_are_refused_when_they_are(small: xr.Dataset) -> None:
    ds = small.chunk({"frame": 3})
    with pytest.raises(dp.ScanError):
        dp.reconstruct(ds.assign(intensity=ds["intensity"] * np.nan), sweeps=1, sync=NO_SYNC)


WRONG: dict[str, dict[str, Any]] = {
    "start given": {"start": "given"},
    "start nan": {"start": np.full((21, 19), np.nan)},
    "seed negative": {"start": "random", "seed": -1},
    "seed fraction": {"start": "random", "seed": 1.5},
    "probe of zeros": {"probe": np.zeros((12, 10))},
    "probe of nan": {"probe": np.full((12, 10), np.nan)},
    "sync text": {"sync": "full"},
    "sync false": {"sync": False},
    "algorithm number": {"algorithm": 42},
    "tolerance text": {"tolerance": "small"},
    "callback number": {"callback": 3},
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("options", WRONG.values(), ids=WRONG.keys())
def test_more_options_that_make_no_sense_are_refused(small: xr.Dataset, options: dict) -> None:
    if "start" in options and not isinstance(options["start"], str):
        options = options | {"start": np.full(plain.tiling_of(small).window.shape, np.nan)}
    with pytest.raises(dp.OptionError):
        dp.reconstruct(small, **{"sweeps": 1} | options)


NUMPY: dict[str, dict[str, Any]] = {
    "sweeps": {"sweeps": np.int64(2)},
    "seed": {"seed": np.int64(2)},
    "tolerance": {"tolerance": np.float32(1e-9)},
    "update_probe": {"update_probe": np.bool_(True)},
    "momentum": {"momentum": np.float32(0.5)},
    "modes": {"modes": np.int64(2)},
    "beta": {"algorithm": dp.RAAR(beta=np.float32(0.75))},
}


@pytest.mark.parametrize("options", NUMPY.values(), ids=NUMPY.keys())
def test_options_may_be_numpys_numbers(small: xr.Dataset, options: dict) -> None:
    result = dp.reconstruct(small, **{"sweeps": 2} | options)
    assert isinstance(json.loads(result.attrs["options"]), dict)
