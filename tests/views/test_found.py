"""What the end of a run, `info` and the picture of a result say of what was refined."""

from __future__ import annotations

from typing import Any

import pytest
import xarray as xr
from matplotlib.text import Text

import daskptycho as dp
from daskptycho.views.facts import result_facts
from daskptycho.views.found import describe_found, list_drawable

ALL = ["positions", "gain", "probe-variation", "background"]


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    where = tmp_path_factory.mktemp("found") / "scan.zarr"
    return dp.simulate_scan(where, frames=(6, 6), frame_size=24, step=4, jitter=1, photons=1e5).load()


def reconstruct(scan: xr.Dataset, **options: Any) -> xr.Dataset:
    return dp.reconstruct(scan, **{"sweeps": 24, "update_probe": False} | options)


def test_what_a_good_scan_does_not_have_is_said_and_not_drawn(scan: xr.Dataset) -> None:
    result = reconstruct(scan, refine=ALL)
    said = describe_found(result)
    assert [sentence.split(":")[0] for sentence in said] == ["Positions", "Beam", "Probe", "Background"]
    assert list_drawable(result) == []
    labels = [text.get_text() for text in dp.plot_result(result).findobj(Text)]
    assert not any("variation" in label or "moves" in label or label == "beam" for label in labels)


def test_what_was_never_tested_is_not_said_to_fit(scan: xr.Dataset) -> None:
    (said,) = describe_found(reconstruct(scan, refine="positions", sweeps=5))
    assert said == "Positions: not tested: 5 sweeps, or the counts, are too few."


def test_a_background_is_said_in_counts(scan: xr.Dataset) -> None:
    bright = scan.assign(intensity=scan["intensity"] + 20)
    (said,) = describe_found(reconstruct(bright, refine="background"))
    name, counts, *unit = said.split()
    assert (name, *unit) == ("Background:", "counts", "per", "pixel.")
    assert float(counts) == pytest.approx(20, rel=0.1)


def test_a_given_background_is_not_said_to_be_found(scan: xr.Dataset) -> None:
    given = scan.assign(background=(("qy", "qx"), 0 * scan["intensity"][0].values + 1.0))
    assert describe_found(reconstruct(given)) == []


def test_info_says_the_same_and_names_what_was_refined(scan: xr.Dataset) -> None:
    result = reconstruct(scan, refine=["positions", "gain"])
    facts = dict(fact for group in result_facts(result) for fact in group)
    assert facts["positions"] == "the given ones fit, and were kept"
    assert facts["beam"] == "no change that is significant"
    assert "positions (every " in facts["refine"]
    assert "_" not in facts["refine"]
