"""Sums over frames on a coarse grid, and the equations between its nodes, compiled by Numba.

They are part of `cpu_kernels`, which alone imports them. A frame lies between the four nodes around its
place, [y, x] in distances of nodes, and shares its number between them bilinearly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from daskptycho.cpu_matrix_kernels import compile_kernel

__all__ = ["count_linked_parts", "solve_on_grid"]

Array = Any


@compile_kernel
def _corner_of(place, f):  # type: ignore[no-untyped-def]
    y, x = int(np.floor(place[f, 0])), int(np.floor(place[f, 1]))
    return y, x, place[f, 0] - y, place[f, 1] - x


@compile_kernel
def _add_frames(place, number, out):  # type: ignore[no-untyped-def]
    for f in range(len(number)):
        y, x, t, s = _corner_of(place, f)
        out[y, x] += (1 - t) * (1 - s) * number[f]
        out[y, x + 1] += (1 - t) * s * number[f]
        out[y + 1, x] += t * (1 - s) * number[f]
        out[y + 1, x + 1] += t * s * number[f]


@compile_kernel
def _interpolate(place, nodes, out):  # type: ignore[no-untyped-def]
    for f in range(len(out)):
        y, x, t, s = _corner_of(place, f)
        upper = (1 - s) * nodes[y, x] + s * nodes[y, x + 1]
        lower = (1 - s) * nodes[y + 1, x] + s * nodes[y + 1, x + 1]
        out[f] = (1 - t) * upper + t * lower


@compile_kernel
def _add_stiffness(place, power, yy, yx, xx, out):  # type: ignore[no-untyped-def]
    down, across = np.empty(4), np.empty(4)
    for f in range(len(power)):
        y, x, t, s = _corner_of(place, f)
        down[0], down[1], down[2], down[3] = s - 1, -s, 1 - s, s
        across[0], across[1], across[2], across[3] = t - 1, 1 - t, -t, t
        for a in range(4):
            for b in range(4):
                value = yy * down[a] * down[b] + xx * across[a] * across[b]
                value += yx * (down[a] * across[b] + across[a] * down[b])
                # The neighbour of the first node that the second one is, row by row.
                to = 3 * (b // 2 - a // 2 + 1) + b % 2 - a % 2 + 1
                out[y + a // 2, x + a % 2, to] += power[f] * value


@compile_kernel
def _multiply_stencil(stencil, vector, out):  # type: ignore[no-untyped-def]
    rows, columns = vector.shape
    for y in range(rows):
        for x in range(columns):
            total = 0.0
            for down in range(max(-1, -y), min(2, rows - y)):
                for across in range(max(-1, -x), min(2, columns - x)):
                    total += stencil[y, x, 3 * down + across + 4] * vector[y + down, x + across]
            out[y, x] = total


@compile_kernel
def _solve(stencil, right, steps, accuracy):  # type: ignore[no-untyped-def]
    inverse = np.empty_like(right)
    for y in range(right.shape[0]):
        for x in range(right.shape[1]):
            own = stencil[y, x, 4]
            # A node that no frame is near has no equation.
            inverse[y, x] = 1 / own if own > 0 else 0.0
    found, product = np.zeros_like(right), np.empty_like(right)
    residual = right.copy()
    step = inverse * residual
    square = (residual * step).sum()
    least = accuracy**2 * square
    for _ in range(steps):
        if square <= least:
            break
        _multiply_stencil(stencil, step, product)
        curvature = (step * product).sum()
        if curvature <= 0:
            break
        found += (square / curvature) * step
        residual -= (square / curvature) * product
        following = (inverse * residual * residual).sum()
        step = inverse * residual + (following / square) * step
        square = following
    return found


def solve_on_grid(
    place: Array,
    shape: tuple[int, int],
    power: Array,
    spread: tuple[float, float, float],
    torque: Array,
    steps: int,
    accuracy: float,
) -> Array:
    """Solve ``sum_f power_f (grad phi)* S (grad phi) / 2 - sum_f torque_f phi_f -> least`` on the nodes.

    Parameters
    ----------
    place : (frame, 2) float64 array
    shape : (int, int)
        Number of nodes along y and x.
    power, torque : (frame,) float64 arrays
    spread : (float, float, float)
        S: its elements yy, yx, and xx, for gradients per distance of nodes.
    steps : int
        Most steps of conjugate gradients, which begin with zeros.
    accuracy : float
        Share of the first residual at which they end.

    Returns
    -------
    (frame,) float64 array
        phi of each frame, between the nodes around it.
    """
    stencil, right = np.zeros((*shape, 9)), np.zeros(shape)
    _add_stiffness(place, power, *spread, stencil)
    _add_frames(place, torque, right)
    found = np.empty(len(place))
    _interpolate(place, _solve(stencil, right, steps, accuracy), found)
    return found


@compile_kernel
def _root_of(parent, f):  # type: ignore[no-untyped-def]
    while parent[f] != f:
        parent[f] = parent[parent[f]]
        f = parent[f]
    return f


@compile_kernel
def _count_linked_parts(pair, offset, light, least, frames):  # type: ignore[no-untyped-def]
    height, width = light.shape
    parent = np.arange(frames)
    parts = frames
    for k in range(len(pair)):
        if light[offset[k, 0] % height, offset[k, 1] % width] > least:
            first, second = _root_of(parent, pair[k, 0]), _root_of(parent, pair[k, 1])
            if first != second:
                parent[max(first, second)] = min(first, second)
                parts -= 1
    return parts


def count_linked_parts(pair: Array, offset: Array, light: Array, least: float, frames: int) -> int:
    """Number of parts that frames fall into if pairs link them that share more light than `least`.

    Parameters
    ----------
    pair, offset : (pair, 2) int64 arrays
    light : (2 N, 2 N) float64 array
        Light that two frames share, by their offset; negative offsets count from the end.
    least : float
    frames : int
    """
    return int(_count_linked_parts(pair, offset, light, least, frames))
