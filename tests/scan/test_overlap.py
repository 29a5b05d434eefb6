"""The overlap of beams, against discs whose overlap is counted pixel by pixel."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import daskptycho as dp
from daskptycho.cli import daskptycho
from daskptycho.scan.overlap import describe_sparse, measure_overlap

SIZE, RADIUS = 64, 15.0
OFF = np.hypot(*np.meshgrid(*[np.arange(SIZE) - SIZE // 2] * 2, indexing="ij"))
DISC = (OFF <= RADIUS).astype(complex)[None]
# From dense to sparse: what is said of each, if anything.
STEPS = {
    2: "",
    4: "",
    6: "",
    9: "",
    11: "",
    13: "may be",
    15: "may be",
    18: "image",
    24: "image",
    33: "do not",
}


def raster(rows: float, columns: float, span: float = 132.0) -> np.ndarray:
    """Positions row by row, with these steps along y and x."""
    y, x = np.meshgrid(np.arange(0, span, rows), np.arange(0, span, columns), indexing="ij")
    return np.column_stack([y.ravel(), x.ravel()])


@pytest.mark.parametrize("step", STEPS)
def test_ten_scans_from_dense_to_sparse(step: int) -> None:
    found = measure_overlap(raster(step, step), DISC)
    assert found is not None
    assert found.diameter == pytest.approx(2 * RADIUS, rel=0.02)
    assert found.step == pytest.approx(step)
    assert found.linear == pytest.approx(max(0.0, 1 - step / (2 * RADIUS)), abs=0.02)
    disc = DISC[0].real
    moved = np.zeros_like(disc)
    moved[step:] = disc[: SIZE - step]
    assert found.area == pytest.approx((disc * moved).sum() / disc.sum(), abs=0.03)
    # Far from the rim of the scan, each point has a beam for each step's square.
    assert found.frames <= np.pi * RADIUS**2 / step**2 + 4
    said, expected = describe_sparse(found), STEPS[step]
    if expected:
        assert said is not None
        assert expected in said
    else:
        assert said is None


def test_faint_tails_do_not_make_a_beam_wider() -> None:
    tails = DISC + 0.02
    wide, narrow = (measure_overlap(raster(10, 10), probe) for probe in (tails, DISC))
    assert wide is not None
    assert narrow is not None
    assert wide.diameter == pytest.approx(narrow.diameter, rel=0.02)


def test_dense_lines_that_lie_apart_do_not_overlap() -> None:
    apart = measure_overlap(raster(40, 2), DISC)
    assert apart is not None
    assert apart.step == pytest.approx(40)
    assert "beams do not overlap" in str(describe_sparse(apart))
    # The same for positions that are not exactly on lines.
    shaken = raster(40, 2) + np.random.default_rng(0).uniform(-0.4, 0.4, raster(40, 2).shape)
    found = measure_overlap(shaken, DISC)
    assert found is not None
    assert found.step == pytest.approx(40, rel=0.05)


@pytest.mark.parametrize("places", [[[0, 0]], [[0, 0], [0, 9]], [[0, 0], [0, 9], [0, 18]], [[3, 3]] * 5])
def test_few_frames_and_frames_on_a_line(places: list[list[float]]) -> None:
    found = measure_overlap(np.array(places, dtype=float), DISC)
    if len(places) == 1:
        assert found is None
    else:
        assert found is not None
        assert found.step == pytest.approx(9 if places[0] != places[1] else 0)


@pytest.mark.parametrize(("step", "overlap"), [(6, "80 % linear, 7"), (33, "none; 1 beams per point")])
def test_info_says_it_of_the_probe(step: int, overlap: str, tmp_path: Path) -> None:
    """Frames that overlap by half say nothing of beams that do not meet."""
    position = raster(step, step, 100)
    counts = np.random.default_rng(0).poisson(9, (len(position), SIZE, SIZE))
    dp.create_scan(tmp_path / "s.zarr", counts, position, probe=DISC, position_unit="pixel")
    shown = CliRunner().invoke(daskptycho, ["info", str(tmp_path / "s.zarr")])
    assert shown.exit_code == 0
    assert re.search(r"beam +(29|30)[.\d]* pixels wide", shown.stdout)
    assert f"{overlap}" in shown.stdout
    assert ("beams do not overlap" in shown.stderr) is (step == 33)
