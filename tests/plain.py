"""What the tests of the mathematical core share: references in the plainest NumPy, small scans, strategies.

Everything here is double precision and as slow as it is easy to read. Names and shapes are those of
`daskptycho.model.operators`; nothing is taken from there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from hypothesis import strategies as st
from numpy.typing import NDArray

from daskptycho.tiling import Tile, Tiling, compact_order, make_tiling, split_position

Shape = tuple[int, int]


# Operators


def shifted(probe: NDArray, fraction: NDArray) -> NDArray:
    """(frame, mode, y, x): the probe as each frame sees it."""
    qy = np.fft.fftfreq(probe.shape[-2])[:, None]
    qx = np.fft.fftfreq(probe.shape[-1])
    out = np.empty((len(fraction), *probe.shape), dtype=complex)
    for f, (dy, dx) in enumerate(fraction):
        for m, mode in enumerate(probe):
            out[f, m] = np.fft.ifft2(np.fft.fft2(mode) * np.exp(-2j * np.pi * (qy * dy + qx * dx)))
    return out


def windows(image: NDArray, corner: NDArray, frame_shape: Shape) -> NDArray:
    """(frame, y, x): the part of the image under each frame, wrapped round at its end."""
    out = np.empty((len(corner), *frame_shape), dtype=complex)
    for f, (y, x) in enumerate(corner):
        for i in range(frame_shape[0]):
            for j in range(frame_shape[1]):
                out[f, i, j] = image[(y + i) % image.shape[0], (x + j) % image.shape[1]]
    return out


def split(image: NDArray, probe: NDArray, corner: NDArray) -> NDArray:
    """Exit waves (frame, mode, y, x); `probe` is (frame, mode, y, x)."""
    return probe * windows(image, corner, probe.shape[-2:])[:, None]


def weigh(waves: NDArray, probe: NDArray) -> NDArray:
    return (probe.conj() * waves).sum(axis=1)


def overlap(frames: NDArray, corner: NDArray, shape: Shape) -> NDArray:
    """Frames added up on an image that wraps round at its end."""
    out = np.zeros(shape, dtype=frames.dtype)
    for frame, (y, x) in zip(frames, corner, strict=True):
        for i in range(frame.shape[0]):
            for j in range(frame.shape[1]):
                out[(y + i) % shape[0], (x + j) % shape[1]] += frame[i, j]
    return out


def illuminate(probe: NDArray, corner: NDArray, shape: Shape) -> NDArray:
    return overlap((abs(probe) ** 2).sum(axis=1), corner, shape)


def transform(waves: NDArray) -> NDArray:
    return np.fft.fft2(waves, norm="ortho")


def project(waves: NDArray, amplitude: NDArray) -> NDArray:
    """Waves of the measured amplitude; as they are where that is negative."""
    spectrum = transform(waves)
    modulus = np.sqrt((abs(spectrum) ** 2).sum(axis=1))
    ratio = np.divide(amplitude, modulus, out=np.zeros_like(modulus), where=modulus > 0)
    return np.fft.ifft2(spectrum * np.where(amplitude < 0, 1, ratio)[:, None], norm="ortho")


def misfit(waves: NDArray, amplitude: NDArray) -> float:
    modulus = np.sqrt((abs(transform(waves)) ** 2).sum(axis=1))
    return float(((modulus - amplitude)[amplitude >= 0] ** 2).sum())


@dataclass(frozen=True)
class Projections:
    """The two projections on the stack of all exit waves of a canvas."""

    probe: NDArray
    """(frame, mode, y, x)"""
    corner: NDArray
    amplitude: NDArray
    shape: Shape
    damping: float = 0.0

    def image(self, waves: NDArray, before: NDArray | float = 0.0) -> NDArray:
        """psi = (Q*Q + e)^-1 (Q* z + e y), which is (Q*Q)^-1 Q* z without damping."""
        lit = illuminate(self.probe, self.corner, self.shape) + self.damping
        total = overlap(weigh(waves, self.probe), self.corner, self.shape) + self.damping * before
        return np.divide(total, lit, out=np.zeros_like(total), where=lit > 0)

    def split(self, image: NDArray) -> NDArray:
        return split(image, self.probe, self.corner)

    def overlap(self, waves: NDArray) -> NDArray:
        """P_Q."""
        return self.split(self.image(waves))

    def data(self, waves: NDArray) -> NDArray:
        """P_a."""
        return project(waves, self.amplitude)


def gramian(weighted: NDArray, corner: NDArray, illumination: NDArray) -> NDArray:
    """H from every pair of frames, each put alone on a canvas as large as the illumination."""
    alone = [
        overlap(frame[None], at[None], illumination.shape) for frame, at in zip(weighted, corner, strict=True)
    ]
    inverse = np.divide(1, illumination, out=np.zeros(illumination.shape), where=illumination > 0)
    return np.array([[(first.conj() * second * inverse).sum() for second in alone] for first in alone])


# Random numbers


def complex_noise(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.complex64]:
    return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype(np.complex64)


def smooth(random: np.random.Generator, shape: Shape, scale: float = 2.0) -> NDArray:
    """Real periodic noise of about unit size without detail below `scale` pixels."""
    qy, qx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])
    blur = np.exp(-2 * (np.pi * scale) ** 2 * (qy**2 + qx**2))
    noise = np.fft.ifft2(np.fft.fft2(random.normal(size=shape)) * blur).real
    return noise / noise.std()


# A tile of noise


@dataclass(frozen=True)
class Case:
    """One tile whose arrays are noise: what an operator is tried on."""

    image: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    """(mode, y, x)"""
    corner: NDArray[np.int64]
    fraction: NDArray[np.float64]
    amplitude: NDArray[np.float32]
    waves: NDArray[np.complex64]
    """(frame, mode, y, x), any."""
    own_probe: NDArray[np.complex64]
    """(1 or frame, mode, y, x)"""

    @property
    def probes(self) -> NDArray:
        """(frame, mode, y, x)"""
        return shifted(self.probe, self.fraction)

    @property
    def frame_shape(self) -> Shape:
        return self.probe.shape[-2:]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Tiles with frames that are not square, apart or on one spot, modes, fractions, invalid pixels."""
    frame_shape = draw(st.tuples(st.integers(2, 9), st.integers(2, 9)))
    frames, modes = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    reach = draw(st.tuples(st.integers(0, 20), st.integers(0, 20)))
    fractional, invalid = draw(st.booleans()), draw(st.booleans())
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    corner = random.integers(0, np.add(reach, 1), (frames, 2))
    shape = (reach[0] + frame_shape[0], reach[1] + frame_shape[1])
    fraction = random.uniform(-0.5, 0.5, (frames, 2)) if fractional else np.zeros((frames, 2))
    probe = complex_noise(random, (modes, *frame_shape))
    amplitude = abs(random.normal(size=(frames, *frame_shape))).astype(np.float32)
    amplitude[random.random(amplitude.shape) < 0.1] = 0
    if invalid:
        amplitude[random.random(amplitude.shape) < 0.3] = -1
    own_probe = shifted(probe, fraction) if fractional else probe[None].copy()
    return Case(
        image=complex_noise(random, shape),
        probe=probe,
        corner=corner,
        fraction=fraction,
        amplitude=amplitude,
        waves=complex_noise(random, (frames, modes, *frame_shape)),
        own_probe=own_probe.astype(np.complex64),
    )


# A scan of a known object


def scan(
    frames: Shape = (4, 4),
    frame_shape: Shape = (12, 10),
    step: int = 4,
    *,
    periodic: bool = False,
    fractional: bool = False,
    modes: int = 1,
    invalid: bool = False,
    tile: int | tuple[int, ...] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """A scan in memory, made by the loops above; its frames are sorted into tiles of two by two.

    The probe shines everywhere in its frame, so that no pixel of the canvas is dark. With `tile` the
    frames are a dask array of such chunks.
    """
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in frames), indexing="ij"), axis=-1).reshape(-1, 2)
    position = grid * float(step)
    if fractional:
        position += random.uniform(-0.5, 0.5, position.shape)
    elif not periodic:
        position += random.integers(-1, 2, position.shape)
    if periodic:
        canvas = (frames[0] * step, frames[1] * step)
        position = np.mod(position, canvas)
    else:
        position -= split_position(position)[0].min(axis=0)
        canvas = tuple(split_position(position)[0].max(axis=0) + frame_shape)
    position = position[compact_order(position, 4)]
    corner, fraction = split_position(position)
    sample = (0.8 + 0.1 * smooth(random, canvas)) * np.exp(0.6j * smooth(random, canvas))
    beam = _beam(random, modes, frame_shape)
    waves = split(sample, shifted(beam, fraction), corner)
    counts = (abs(np.fft.fftshift(transform(waves), axes=(-2, -1))) ** 2).sum(axis=1)
    ds = xr.Dataset(
        {
            "intensity": (("frame", "qy", "qx"), counts),
            "position": (("frame", "axis"), position, {"units": "pixel"}),
            "probe": (("mode", "y", "x"), beam.astype(np.complex64)),
            "truth_object": (("object_y", "object_x"), sample.astype(np.complex64)),
        }
    )
    if periodic:
        ds.attrs["period"] = list(canvas)
    if invalid:
        valid = random.random(frame_shape) > 0.1
        ds["valid"] = (("qy", "qx"), valid)
        ds["intensity"] = ds["intensity"].where(ds["valid"], 12345.0)
    return ds if tile is None else ds.chunk({"frame": tile})


def _beam(random: np.random.Generator, modes: int, frame_shape: Shape) -> NDArray:
    """A soft spot of curved phase, half as wide as the frame, on a faint floor; weaker modes beside it."""
    y, x = (np.arange(n) - n / 2 for n in frame_shape)
    y, x = y[:, None] / frame_shape[0], x / frame_shape[1]
    first = (np.exp(-10 * (y**2 + x**2)) + 0.05) * np.exp(8j * (y**2 + x**2))
    beam = [first * 10]
    for _ in range(1, modes):
        beam.append(3 * first * (smooth(random, frame_shape) + 1j * smooth(random, frame_shape)))
    return np.array(beam)


def tiling_of(ds: xr.Dataset, chunks: tuple[int, ...] | None = None) -> Tiling:
    """The tiling that a run would make; one tile unless told otherwise."""
    period = ds.attrs.get("period")
    return make_tiling(
        ds["position"].values,
        (ds.sizes["qy"], ds.sizes["qx"]),
        chunks or (ds.sizes["frame"],),
        period=None if period is None else tuple(period),
    )


def illumination_of(ds: xr.Dataset) -> NDArray:
    """N on the whole canvas."""
    tiling = tiling_of(ds)
    probe = shifted(ds["probe"].values, tiling.tiles[0].fraction)
    return illuminate(probe, tiling.corner, tiling.window.shape)


def amplitudes_of(ds: xr.Dataset) -> NDArray[np.float32]:
    """Amplitudes of all frames, zero frequency in the corner, -1 where a pixel is not valid."""
    amplitude = np.sqrt(ds["intensity"].values)
    if "valid" in ds:
        amplitude[:, ~ds["valid"].values] = -1
    return np.fft.ifftshift(amplitude, axes=(-2, -1)).astype(np.float32)


def damping_of(ds: xr.Dataset, share: float = 1e-3) -> float:
    """A share of the probe's brightest pixel."""
    return share * float((abs(ds["probe"].values) ** 2).sum(axis=0).max())


def projections_of(ds: xr.Dataset, tile: Tile) -> Projections:
    """Both projections on the frames of a tile that holds the whole scan and does not wrap round."""
    return Projections(
        probe=shifted(ds["probe"].values, tile.fraction),
        corner=tile.corner,
        amplitude=amplitudes_of(ds).astype(float),
        shape=tile.window.shape,
        damping=damping_of(ds),
    )


def relative(found: NDArray, expected: NDArray) -> float:
    """Norm of the difference over the norm of what was expected."""
    return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))


def relative_up_to_a_factor(found: NDArray, expected: NDArray) -> float:
    """`relative` after the complex factor that fits best: all that a ptychographic image leaves open here."""
    factor = np.vdot(found, expected) / np.vdot(found, found)
    return relative(factor * found, expected)


def relative_where_lit(found: xr.Dataset, expected: xr.Dataset) -> float:
    """The relative difference of two results, weighed by the light that fell on each pixel."""
    weight = np.sqrt(expected["illumination"].values)
    return relative(weight * found["object"].values, weight * expected["object"].values)
