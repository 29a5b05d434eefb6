"""Loops over frames and pixels, compiled by Numba, which would be slow in NumPy. Called only by ``backend``.

Each kernel works on frames of one tile and releases Python's interpreter lock, so that tiles run in parallel
on threads. Shapes: ``frame`` is the number of frames of a call. ``copy`` is 1 where all frames share the
probe and ``frame`` where each frame has its own, for example shifted by the sub-pixel part of its position.
``mode`` is the number of incoherent probe modes. Corners are ``[y, x]`` in the tile's window; frames lie
inside it.

Complex numbers are handled as pairs of real numbers, since LLVM vectorises such loops but not those with
Numba's complex type.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from daskptycho.cpu_detector_kernels import project_modulus, take_amplitudes
from daskptycho.cpu_grid_kernels import solve_on_grid
from daskptycho.cpu_matrix_kernels import (
    compile_kernel,
    multiply_matrix,
    scale_matrix,
    subtract_component,
    sum_moduli,
)

__all__ = [
    "accumulate_illumination",
    "accumulate_overlap",
    "accumulate_probe_step",
    "accumulate_waves",
    "displacement_terms",
    "exit_waves",
    "field_sums",
    "filter_spectra",
    "gramian",
    "measure_turns",
    "multiply_matrix",
    "project_modulus",
    "scale_matrix",
    "solve_on_grid",
    "subtract_component",
    "sum_moduli",
    "take_amplitudes",
    "weigh_frames",
]

Array = Any


def _real(array: Array) -> Array:
    """A view of complex64 memory as pairs of float32 along the last axis."""
    return array.view(np.float32)


@compile_kernel
def _exit_waves(image, probe, corner, out):  # type: ignore[no-untyped-def]
    frames, modes, height, width2 = out.shape
    own = probe.shape[0] > 1
    for f in range(frames):
        copy = f if own else 0
        y0, x0 = corner[f, 0], 2 * corner[f, 1]
        for m in range(modes):
            for y in range(height):
                o, p, z = image[y0 + y, x0 : x0 + width2], probe[copy, m, y], out[f, m, y]
                for x in range(width2 // 2):
                    a, b, c, d = o[2 * x], o[2 * x + 1], p[2 * x], p[2 * x + 1]
                    z[2 * x] = a * c - b * d
                    z[2 * x + 1] = a * d + b * c


def exit_waves(image: Array, probe: Array, corner: Array, out: Array) -> None:
    """``out[f, m] = probe[f or 0, m] * image[window of frame f]``, (frame, mode, N, N)."""
    _exit_waves(_real(image), _real(probe), corner, _real(out))


@compile_kernel
def _filter_spectra(spectrum, factor, along_y, along_x):  # type: ignore[no-untyped-def]
    frames, modes, height, width2 = spectrum.shape
    own = np.empty(width2, dtype=np.float32)
    for f in range(frames):
        r = along_x[f]
        for y in range(height):
            k, c, s = factor[y], along_y[f, 2 * y], along_y[f, 2 * y + 1]
            for x in range(width2 // 2):
                a, b = c * r[2 * x] - s * r[2 * x + 1], c * r[2 * x + 1] + s * r[2 * x]
                own[2 * x] = a * k[2 * x] - b * k[2 * x + 1]
                own[2 * x + 1] = a * k[2 * x + 1] + b * k[2 * x]
            for m in range(modes):
                z = spectrum[f, m, y]
                for x in range(width2 // 2):
                    a, b, d, e = own[2 * x], own[2 * x + 1], z[2 * x], z[2 * x + 1]
                    z[2 * x] = a * d - b * e
                    z[2 * x + 1] = a * e + b * d


def filter_spectra(spectrum: Array, factor: Array, along_y: Array, along_x: Array) -> None:
    """``spectrum[f, m, y, x] *= factor[y, x] * along_y[f, y] * along_x[f, x]``, all complex64."""
    _filter_spectra(_real(spectrum), _real(factor), _real(along_y), _real(along_x))


@compile_kernel
def _weigh_frames(wave, probe, out, power):  # type: ignore[no-untyped-def]
    frames, modes, height, width2 = wave.shape
    own = probe.shape[0] > 1
    for f in range(frames):
        copy = f if own else 0
        total: Any = 0.0
        for y in range(height):
            u = out[f, y]
            for x in range(width2):
                u[x] = 0
            row = np.float32(0.0)
            for m in range(modes):
                p, z = probe[copy, m, y], wave[f, m, y]
                for x in range(width2 // 2):
                    a, b, c, d = p[2 * x], p[2 * x + 1], z[2 * x], z[2 * x + 1]
                    u[2 * x] += a * c + b * d
                    u[2 * x + 1] += a * d - b * c
                    row += c * c + d * d
            total += row
        power[f] = total


def weigh_frames(wave: Array, probe: Array, out: Array, power: Array) -> None:
    """``out[f] = sum_m conj(probe) * wave`` and ``power[f] = sum |wave|^2``."""
    _weigh_frames(_real(wave), _real(probe), _real(out), power)


@compile_kernel
def _accumulate_overlap(weighted, phase, corner, image):  # type: ignore[no-untyped-def]
    frames, height, width2 = weighted.shape
    for f in range(frames):
        y0, x0 = corner[f, 0], 2 * corner[f, 1]
        c, s = phase[f].real, phase[f].imag
        for y in range(height):
            o, u = image[y0 + y, x0 : x0 + width2], weighted[f, y]
            for x in range(width2 // 2):
                a, b = u[2 * x], u[2 * x + 1]
                o[2 * x] += c * a - s * b
                o[2 * x + 1] += c * b + s * a


def accumulate_overlap(weighted: Array, phase: Array, corner: Array, image: Array) -> None:
    """``image[window of frame f] += phase[f] * weighted[f]``."""
    _accumulate_overlap(_real(weighted), phase, corner, _real(image))


@compile_kernel
def _accumulate_waves(wave, probe, corner, image):  # type: ignore[no-untyped-def]
    frames, modes, height, width2 = wave.shape
    own = probe.shape[0] > 1
    for f in range(frames):
        copy = f if own else 0
        y0, x0 = corner[f, 0], 2 * corner[f, 1]
        for m in range(modes):
            for y in range(height):
                o, p, z = image[y0 + y, x0 : x0 + width2], probe[copy, m, y], wave[f, m, y]
                for x in range(width2 // 2):
                    a, b, c, d = p[2 * x], p[2 * x + 1], z[2 * x], z[2 * x + 1]
                    o[2 * x] += a * c + b * d
                    o[2 * x + 1] += a * d - b * c


def accumulate_waves(wave: Array, probe: Array, corner: Array, image: Array) -> None:
    """``image[window of frame f] += sum_m conj(probe) * wave``, without keeping the weighted frames."""
    _accumulate_waves(_real(wave), _real(probe), corner, _real(image))


@compile_kernel
def _accumulate_illumination(power, corner, image):  # type: ignore[no-untyped-def]
    own = power.shape[0] > 1
    for f in range(corner.shape[0]):
        y0, x0 = corner[f, 0], corner[f, 1]
        p = power[f if own else 0]
        for y in range(p.shape[0]):
            o, row = image[y0 + y, x0 : x0 + p.shape[1]], p[y]
            for x in range(row.size):
                o[x] += row[x]


def accumulate_illumination(probe: Array, corner: Array, image: Array) -> None:
    """``image[window of frame f] += sum_m |probe|^2``."""
    power = (probe.real**2 + probe.imag**2).sum(axis=1)
    _accumulate_illumination(power, corner, image)


@compile_kernel
def _accumulate_probe_step(image, projected, probe, corner, numerator, denominator):  # type: ignore[no-untyped-def]
    frames, modes, height, width2 = projected.shape
    own = probe.shape[0] > 1
    for f in range(frames):
        copy = f if own else 0
        y0, x0 = corner[f, 0], 2 * corner[f, 1]
        for y in range(height):
            o, d = image[y0 + y, x0 : x0 + width2], denominator[y]
            for m in range(modes):
                p, z, n = probe[copy, m, y], projected[f, m, y], numerator[m, y]
                for x in range(width2 // 2):
                    a, b, p0, p1 = o[2 * x], o[2 * x + 1], p[2 * x], p[2 * x + 1]
                    c = z[2 * x] - (a * p0 - b * p1)
                    e = z[2 * x + 1] - (a * p1 + b * p0)
                    n[2 * x] += a * c + b * e
                    n[2 * x + 1] += a * e - b * c
            for x in range(width2 // 2):
                a, b = o[2 * x], o[2 * x + 1]
                d[x] += a * a + b * b


def accumulate_probe_step(
    image: Array, projected: Array, probe: Array, corner: Array, numerator: Array, denominator: Array
) -> None:
    """Add a probe update's sums over frames, the exit waves ``probe * image`` not kept, only subtracted.

    ``numerator += conj(image) * (projected - probe * image)``, (mode, N, N), and
    ``denominator += |image|^2``, (N, N) float32, image within the window of each frame.
    """
    _accumulate_probe_step(
        _real(image), _real(projected), _real(probe), corner, _real(numerator), denominator
    )


@compile_kernel
def _gramian(first, second, pair, offset, corner, weight, out):  # type: ignore[no-untyped-def]
    height, width = first.shape[1], first.shape[2] // 2
    for k in range(pair.shape[0]):
        i, j = pair[k, 0], pair[k, 1]
        dy, dx = offset[k, 0], offset[k, 1]
        y0, x0 = max(0, dy), max(0, dx)
        rows, columns = min(height, height + dy) - y0, min(width, width + dx) - x0
        real: Any = 0.0
        imaginary: Any = 0.0
        for y in range(y0, y0 + rows):
            a = first[i, y, 2 * x0 : 2 * (x0 + columns)]
            b = second[j, y - dy, 2 * (x0 - dx) : 2 * (x0 - dx + columns)]
            start = corner[i, 1] + x0
            w = weight[corner[i, 0] + y, start : start + columns]
            row_real, row_imaginary = np.float32(0.0), np.float32(0.0)
            for x in range(columns):
                c, d, e, g = a[2 * x], a[2 * x + 1], b[2 * x], b[2 * x + 1]
                row_real += (c * e + d * g) * w[x]
                row_imaginary += (c * g - d * e) * w[x]
            real += row_real
            imaginary += row_imaginary
        out[k] = complex(real, imaginary)


def gramian(
    first: Array, second: Array, pair: Array, offset: Array, corner: Array, weight: Array, out: Array
) -> None:
    """``out[k] = sum_r conj(first[i]) second[j] weight`` over the pixels r that pair k = (i, j) shares."""
    _gramian(_real(first), _real(second), pair, offset, corner, weight, out)


@compile_kernel
def _measure_turns(first, second, out):  # type: ignore[no-untyped-def]
    for f in range(len(out)):
        total: Any = 0.0
        for row in range(first.shape[1]):
            a, b = first[f, row], second[f, row]
            turned = np.float32(0.0)
            for x in range(a.size // 2):
                turned += a[2 * x] * b[2 * x + 1] - a[2 * x + 1] * b[2 * x]
            total += turned
        out[f] = total


def measure_turns(first: Array, second: Array, out: Array) -> None:
    """``out[f] = Im sum conj(first[f]) second[f]`` of (frame, mode, N, N) waves; `out` is float64."""
    rows = (len(first), -1, 2 * first.shape[-1])
    _measure_turns(_real(first).reshape(rows), _real(second).reshape(rows), out)


@compile_kernel
def _displacement_terms(image, change, probe, corner, force, curvature):  # type: ignore[no-untyped-def]
    frames, modes, height, width2 = change.shape
    own = probe.shape[0] > 1
    weighted = np.empty(width2, dtype=np.float32)
    power = np.empty(width2 // 2, dtype=np.float32)
    for f in range(frames):
        copy = f if own else 0
        y0, x0 = corner[f, 0], 2 * corner[f, 1]
        force_y: Any = 0.0
        force_x: Any = 0.0
        yy: Any = 0.0
        yx: Any = 0.0
        xx: Any = 0.0
        for y in range(height):
            for x in range(width2):
                weighted[x] = 0
            for x in range(width2 // 2):
                power[x] = 0
            for m in range(modes):
                p, z = probe[copy, m, y], change[f, m, y]
                for x in range(width2 // 2):
                    a, b, c, d = p[2 * x], p[2 * x + 1], z[2 * x], z[2 * x + 1]
                    weighted[2 * x] += a * c + b * d
                    weighted[2 * x + 1] += a * d - b * c
                    power[x] += a * a + b * b
            above, below = image[y0 + y - 1, x0 : x0 + width2], image[y0 + y + 1, x0 : x0 + width2]
            left, right = image[y0 + y, x0 - 2 : x0 + width2 - 2], image[y0 + y, x0 + 2 : x0 + width2 + 2]
            row_y, row_x = np.float32(0.0), np.float32(0.0)
            row_yy, row_yx, row_xx = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            for x in range(width2 // 2):
                a, b = below[2 * x] - above[2 * x], below[2 * x + 1] - above[2 * x + 1]
                c, d = right[2 * x] - left[2 * x], right[2 * x + 1] - left[2 * x + 1]
                row_y += a * weighted[2 * x] + b * weighted[2 * x + 1]
                row_x += c * weighted[2 * x] + d * weighted[2 * x + 1]
                row_yy += power[x] * (a * a + b * b)
                row_yx += power[x] * (a * c + b * d)
                row_xx += power[x] * (c * c + d * d)
            force_y += row_y
            force_x += row_x
            yy += row_yy
            yx += row_yx
            xx += row_xx
        force[f, 0], force[f, 1] = force_y / 2, force_x / 2
        curvature[f, 0], curvature[f, 1], curvature[f, 2] = yy / 4, yx / 4, xx / 4


def displacement_terms(
    image: Array, change: Array, probe: Array, corner: Array, force: Array, curvature: Array
) -> None:
    """First and second derivatives of the misfit by the displacement of each frame.

    With the central differences ``D_a`` of the image along y and x, and all sums over modes and pixels:
    ``force[f] = Re sum conj(probe D_a) change``, (frame, 2), and
    ``curvature[f] = Re sum |probe|^2 conj(D_a) D_b`` for yy, yx and xx, (frame, 3); both are float64. Around
    each frame the image has at least one pixel more.
    """
    _displacement_terms(_real(image), _real(change), _real(probe), corner, force, curvature)


@compile_kernel
def _field_sums(power, fields, corner, out):  # type: ignore[no-untyped-def]
    own = power.shape[0] > 1
    height, width = power.shape[1], power.shape[2]
    for f in range(corner.shape[0]):
        copy = f if own else 0
        y0, x0 = corner[f, 0], corner[f, 1]
        for n in range(fields.shape[0]):
            total: Any = 0.0
            for y in range(height):
                p, g = power[copy, y], fields[n, y0 + y, x0 : x0 + width]
                row = np.float32(0.0)
                for x in range(width):
                    row += p[x] * g[x]
                total += row
            out[f, n] = total


def field_sums(power: Array, fields: Array, corner: Array, out: Array) -> None:
    """``out[f, n] = sum power[f or 0] * fields[n, window of frame f]``, (frame, field) float64.

    `power` is (copy, N, N) float32, `fields` (field, y, x) float32.
    """
    _field_sums(power, fields, corner, out)
