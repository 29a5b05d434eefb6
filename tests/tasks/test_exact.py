"""Synchronisation over all tiles, as tasks."""

from __future__ import annotations

from typing import Any

import pytest

import daskptycho as dp
from daskptycho.tasks import blockwise
from tests import plain


@pytest.mark.parametrize("eigensolver", ["power", "lobpcg"])
def test_solver_on_blocks_takes_more_steps_than_python_nests_calls(
    eigensolver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = plain.scan(frames=(2, 3), tile=3)
    options: dict[str, Any] = {"sweeps": 1, "update_probe": False, "start": "random", "opening": None}
    assembled = dp.reconstruct(scan, sync=dp.Sync("full", iterations=100), **options)
    # Each step is a task that needs the one before.
    monkeypatch.setattr(blockwise, "MOST_ASSEMBLED", 0)
    sync = dp.Sync("full", eigensolver=eigensolver, iterations=600)
    found = dp.reconstruct(scan, sync=sync, **options)
    assert plain.relative(found["object"].values, assembled["object"].values) < 1e-4
    assert float(found["disagreement"][0]) == pytest.approx(float(assembled["disagreement"][0]), abs=1e-8)
