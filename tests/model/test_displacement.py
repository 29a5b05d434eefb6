"""Frames that are looked for around a place, and images that follow frames that move."""

from __future__ import annotations

import numpy as np
import pytest

from daskptycho import backend
from daskptycho.backend import CPU_PIXELS
from daskptycho.model.displacement import carry_image, look_around, sum_moves
from daskptycho.model.forward import FarField, Forward, NearField
from daskptycho.model.model import Model, TileModel
from daskptycho.model.operators import illuminate
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


def test_an_image_follows_frames_that_move_alike() -> None:
    """What frames see stays the same: a smooth image comes to where its Fourier series puts it."""
    grid = np.stack(np.meshgrid(np.arange(5) * 6.0, np.arange(5) * 6.0, indexing="ij"), axis=-1).reshape(
        -1, 2
    )
    tiling = make_tiling(grid, (SIZE, SIZE), (25,), margin=6)
    (tile,) = tiling.tiles
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    probe = np.exp(-(y**2 + x**2) / 20).astype(np.complex64)[None]
    model = Model((Probe(fractional=True), Positions()), FarField())
    at = TileModel(model, {"probe": probe}, {"positions": np.zeros((25, 2, 2))})
    light = illuminate(probe[None], tile.corner, tile.window.shape)
    rows, columns = np.indices(tile.window.shape)

    def paint(down: float, right: float) -> np.ndarray:
        return np.exp(1j * (0.5 * np.sin((rows - down) / 2.5) + np.cos((columns - right) / 3)))

    by = (0.3, -1.6)
    moves = sum_moves(tile, at, np.tile(by, (25, 1)))
    found = carry_image(paint(0, 0).astype(np.complex64), moves, light, np.float32(1e-6))
    lit = light > 0.3 * light.max()
    assert found.dtype == np.complex64
    assert abs(found - paint(*by))[lit].max() < 0.01
    assert abs(paint(0, 0) - paint(*by))[lit].max() > 0.5
    still = carry_image(paint(0, 0).astype(np.complex64), 0 * moves, light, np.float32(1e-6))
    np.testing.assert_allclose(still, paint(0, 0), atol=1e-6)
