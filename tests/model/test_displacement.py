"""Frames that are looked for around a place: found where they were measured, between pixels too."""

from __future__ import annotations

import numpy as np
import pytest

from daskptycho import backend
from daskptycho.backend import CPU_PIXELS
from daskptycho.model.displacement import look_around
from daskptycho.model.forward import FarField, Forward, NearField
from daskptycho.model.model import Model, TileModel
from daskptycho.model.positions import Positions
from daskptycho.model.probe import Probe
from daskptycho.tiling import make_tiling

SIZE, FARTHEST = 16, 3
RNG = np.random.default_rng(4)
KERNEL = np.exp(1j * RNG.uniform(0, 1, (SIZE, SIZE))).astype(np.complex64)


@pytest.mark.parametrize("forward", [FarField(), NearField(KERNEL)], ids=["far", "near"])
@pytest.mark.parametrize("pixels", [CPU_PIXELS, 5 * SIZE**2], ids=["at once", "in blocks"])
def test_a_frame_is_found_where_it_was_measured(
    forward: Forward, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "CPU_PIXELS", pixels)
    position = np.array([[0.0, 0.0], [4.3, 4.6], [8.0, 8.0]])
    tiling = make_tiling(position, (SIZE, SIZE), (3,), margin=5)
    (tile,) = tiling.tiles
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    probe = np.exp(-(y**2 + x**2) / 20).astype(np.complex64)[None]
    image = np.exp(1j * RNG.uniform(-1, 1, tile.window.shape)).astype(np.complex64)
    model = Model((Probe(fractional=True), Positions()), forward)
    at = TileModel(model, {"probe": probe}, {"positions": np.zeros((3, 2, 2))})
    view = at.view(tile, slice(1, 2))
    corner = view.corner[0] + np.array([2, -1])
    window = (slice(corner[0], corner[0] + SIZE), slice(corner[1], corner[1] + SIZE))
    waves = view.probe * image[window]
    amplitude = np.zeros((3, SIZE, SIZE), dtype=np.float32)
    detected = forward.at(view.fraction).propagate(waves)[0, 0]
    amplitude[1] = np.abs(detected) * np.sqrt(forward.at(view.fraction).scale((SIZE, SIZE)))
    found = look_around(tile, at, amplitude, image, {1: np.array([0, 0])}, FARTHEST)
    np.testing.assert_array_equal(found, [[0, 0], [2, -1], [0, 0]])
