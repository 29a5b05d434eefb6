"""Sums over frames on a coarse grid, and the equations between its nodes, compiled by Numba.

They are part of `cpu_kernels`, which alone imports them. A frame lies between the four nodes around its
place, [y, x] in distances of nodes, and shares its number between them bilinearly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from daskptycho.cpu_matrix_kernels import compile_kernel

__all__ = ["solve_on_grid"]

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
                out[to, y + a // 2, x + a % 2] += power[f] * value


@compile_kernel
def _multiply_stencil(stencil, vector, out):  # type: ignore[no-untyped-def]
    dot = 0.0
    for y in range(1, vector.shape[0] - 1):
        for x in range(1, vector.shape[1] - 1):
            total = stencil[0, y, x] * vector[y - 1, x - 1] + stencil[1, y, x] * vector[y - 1, x]
            total += stencil[2, y, x] * vector[y - 1, x + 1] + stencil[3, y, x] * vector[y, x - 1]
            total += stencil[4, y, x] * vector[y, x] + stencil[5, y, x] * vector[y, x + 1]
            total += stencil[6, y, x] * vector[y + 1, x - 1] + stencil[7, y, x] * vector[y + 1, x]
            total += stencil[8, y, x] * vector[y + 1, x + 1]
            out[y, x] = total
            dot += total * vector[y, x]
    return dot


@compile_kernel
def _solve(stencil, right, steps, accuracy):  # type: ignore[no-untyped-def]
    rows, columns = right.shape
    inverse = np.zeros_like(right)
    for y in range(rows):
        for x in range(columns):
            # A node that no frame is near has no equation.
            if stencil[4, y, x] > 0:
                inverse[y, x] = 1 / stencil[4, y, x]
    found, product, residual = np.zeros_like(right), np.zeros_like(right), right.copy()
    step = inverse * residual
    square = (residual * step).sum()
    least = accuracy**2 * square
    for _ in range(steps):
        curvature = _multiply_stencil(stencil, step, product)
        if square <= least or curvature <= 0:
            break
        along, following = square / curvature, 0.0
        for y in range(rows):
            for x in range(columns):
                found[y, x] += along * step[y, x]
                residual[y, x] -= along * product[y, x]
                following += inverse[y, x] * residual[y, x] ** 2
        for y in range(rows):
            for x in range(columns):
                step[y, x] = inverse[y, x] * residual[y, x] + following / square * step[y, x]
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
) -> tuple[Array, Array]:
    """Make ``sum_f power_f (grad phi)* S (grad phi) / 2 - sum_f torque_f phi_f`` small.

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
    nodes : (row, column) float64 array
        phi of the nodes.
    found : (frame,) float64 array
        phi of the frames, from the nodes around each.
    """
    # A border of one node without equations, so that each node has eight neighbours.
    inside = place + 1
    bordered = (shape[0] + 2, shape[1] + 2)
    stencil, right = np.zeros((9, *bordered)), np.zeros(bordered)
    _add_stiffness(inside, power, *spread, stencil)
    _add_frames(inside, torque, right)
    nodes = _solve(stencil, right, steps, accuracy)
    found = np.empty(len(place))
    _interpolate(inside, nodes, found)
    return nodes[1:-1, 1:-1], found
