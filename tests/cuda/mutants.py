"""Faults put into the kernels one at a time: what the trials and the checkers have to notice.

A fault is a piece of a function's text that another one replaces. Most are wrong numbers or forbidden steps
on the emulation of the source. Some are right there and wrong on a GPU, because threads of the emulation
take turns at barriers alone and g++ fuses no products: those are seen in PTX, most by the race checker.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tests.cuda.shipped import SOURCE

__all__ = ["MUTANTS", "Mutant"]


class Mutant(NamedTuple):
    """One fault."""

    kernels: tuple[str, ...]
    """Each of which has to notice it."""
    what: str
    function: str
    """Whose text is changed: the kernel itself, or one that it calls."""
    before: str
    after: str
    in_ptx: bool = False
    """Right on the emulation of the source."""
    large: bool = False
    """Wrong beyond 2^31 elements alone."""

    def source(self) -> str:
        """The kernels with this fault and what they call, without the others."""
        kept = []
        changed = 0
        # No function has an empty line in it: a paragraph is a function and what is said about it.
        for paragraph in SOURCE.split("\n\n"):
            if 'extern "C"' in paragraph and not any(_defines(paragraph, kernel) for kernel in self.kernels):
                continue
            if _defines(paragraph, self.function):
                changed += paragraph.count(self.before)
                kept.append(paragraph.replace(self.before, self.after))
            else:
                kept.append(paragraph)
        assert changed == 1, f"{self.function} has {self.before!r} {changed} times; expected once"
        return "\n\n".join(kept)


def _defines(paragraph: str, function: str) -> bool:
    return re.search(rf"^(?:\s*__device__ .*\b)?{function}\(", paragraph, re.MULTILINE) is not None


def _in(
    function: str,
    *faults: tuple[str, str, str],
    kernels: tuple[str, ...] = (),
    in_ptx: bool = False,
    large: bool = False,
) -> list[Mutant]:
    """Mutants of a function from (what, before, after)."""
    return [
        Mutant(kernels or (function,), what, function, before, after, in_ptx, large)
        for what, before, after in faults
    ]


SUMS = ("project_modulus", "weigh_frames", "gramian")
GATHERS = ("accumulate_overlap", "accumulate_waves", "accumulate_illumination")

FRAME_IN_32_BITS = ("frame number in 32 bits", "const int64 f = blockIdx.x;", "const int f = blockIdx.x;")
ONE_PIXEL_MORE = ("a pixel beyond the frame", "t < pixels;", "t <= pixels;")
OWN_PROBE_IGNORED = ("first probe for all", "(own ? f * modes * pixels : 0)", "0")
FIRST_MODE_ALONE = ("first mode alone", "m < modes;", "m < 1;")
# Each block of a frame does the whole frame: the same numbers, written by several blocks.
EVERY_BLOCK_DOES_ALL = (
    "blocks of a frame write the same pixels",
    "for (int t = first_pixel(); t < pixels; t += next_pixel())",
    "for (int t = threadIdx.x; t < pixels; t += blockDim.x)",
)

# Neighbours share two pixels, and each adds every other frame to both of them.
GATHERED = (
    SOURCE[SOURCE.index("  const int row = patch") : SOURCE.index("  pixel = sum;\n")] + "  pixel = sum;\n"
)
SCATTERED = """\
  const int row = patch / across * 8 + threadIdx.x / 32;
  for (int side = 0; side < 2; ++side) {
    const int column = patch % across * 32 + threadIdx.x % 32 / 2 * 2 + side;
    if (row >= cover.rows || column >= cover.columns) continue;
    Value& pixel = image[(int64)row * cover.columns + column];
    for (int64 n = cover.start[patch] + threadIdx.x % 2; n < cover.start[patch + 1]; n += 2) {
      const Touching own = cover.list[n];
      const int y = row - own.y, x = column - own.x;
      if (y < 0 || y >= cover.height || x < 0 || x >= cover.width) continue;
      add_frame(pixel, own.frame, y * cover.width + x);
    }
  }
"""

MATRIX_SUMS = ("multiply_matrix", "subtract_component")
ROWS_BEYOND = ("rows beyond the last one", "min(first + each, rows)", "first + each")

MUTANTS: list[Mutant] = [
    *_in(
        "warp_sum",
        ("half of each warp", "int step = 16", "int step = 8"),
        ("segments of 16 lanes", "value, step)", "value, step, 16)"),
        ("mask of half a warp", "0xffffffffu", "0x0000ffffu"),
        kernels=(*SUMS, "sum_moduli", "multiply_matrix"),
    ),
    *_in(
        "block_sum",
        ("first barrier dropped", "  __syncthreads();\n  double total", "  double total"),
        ("first lane not summed up", "threadIdx.x % 32 == 0", "threadIdx.x % 32 == 1"),
        ("last warp left out", "warp < 8", "warp < 7"),
        ("sum in single precision", "double block_sum(double value)", "double block_sum(float value)"),
        kernels=SUMS,
    ),
    *_in(
        "block_sum",
        (
            "unsynchronised accumulation",
            "  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;\n",
            "  if (threadIdx.x < 8) part[threadIdx.x] = 0.0;\n"
            "  __syncthreads();\n"
            "  if (threadIdx.x % 32 == 0) part[0] += value;\n",
        ),
        kernels=SUMS,
        in_ptx=True,
    ),
    *_in(
        "block_sum",
        ("second barrier dropped", "  __syncthreads();\n  return", "  return"),
        kernels=("gramian",),
    ),
    *_in(
        "Place",
        ("row of the first pixel", "y(first / width)", "y(0)"),
        ("columns that a step goes across", "across(next % width)", "across(0)"),
        kernels=("exit_waves", "filter_spectra", "gramian"),
    ),
    *_in(
        "move_on",
        ("column beyond the row", "x >= width", "x > width"),
        ("row not moved on", "++y;", ";"),
        kernels=("exit_waves", "filter_spectra", "gramian"),
    ),
    *_in(
        "exit_waves",
        (
            "axes of the corner swapped",
            "corner[2 * f] * stride + corner[2 * f + 1]",
            "corner[2 * f + 1] * stride + corner[2 * f]",
        ),
        ("axes of the frame swapped", "next_pixel(), width)", "next_pixel(), height)"),
        ("rows of the image as long as the frame's", "(int64)at.y * stride", "(int64)at.y * width"),
        ("conjugate image", "times(under, ", "conj_times(under, "),
        ("modes a row apart", "p[(int64)m * pixels + t]", "p[(int64)m * width + t]"),
        ONE_PIXEL_MORE,
        OWN_PROBE_IGNORED,
        FIRST_MODE_ALONE,
    ),
    *_in("exit_waves", EVERY_BLOCK_DOES_ALL, in_ptx=True),
    *_in(
        "exit_waves",
        FRAME_IN_32_BITS,
        (
            "place in the image in 32 bits",
            "image + corner[2 * f] * stride",
            "image + (int)corner[2 * f] * stride",
        ),
        large=True,
    ),
    *_in(
        "filter_spectra",
        ("first frame's factors along y for all", "along_y + f * height", "along_y"),
        ("first frame's factors along x for all", "along_x + f * width", "along_x"),
        ("frames of y as far apart as those of x", "along_y + f * height", "along_y + f * width"),
        ("frames of x as far apart as those of y", "along_x + f * width", "along_x + f * height"),
        ("axes of the factors swapped", "down[at.y], across[at.x]", "down[at.x], across[at.y]"),
        ("axes of the frame swapped", "next_pixel(), width)", "next_pixel(), height)"),
        ("conjugate factor along y", "times(down", "conj_times(down"),
        ("conjugate factor", "times(factor[t]", "conj_times(factor[t]"),
        ("conjugate product", "times(whole, own)", "conj_times(whole, own)"),
        ("first row's factor for all", "factor[t]", "factor[at.x]"),
        ("modes a row apart", "z[(int64)m * pixels + t]", "z[(int64)m * width + t]"),
        ONE_PIXEL_MORE,
        FIRST_MODE_ALONE,
        EVERY_BLOCK_DOES_ALL,
    ),
    *_in("filter_spectra", FRAME_IN_32_BITS, large=True),
    *_in(
        "project_modulus",
        ("dark measurement not valid", "measured >= 0.0f", "measured > 0.0f"),
        ("invalid pixels not scaled", "float factor = scale;", "float factor = 1.0f;"),
        ("power not scaled", "power * scale", "power"),
        ("last misfit alone", "total += difference", "total = difference"),
        ("misfit in single precision", "double total = 0.0;", "float total = 0.0f;"),
        (
            "waves not shifted, dark ones not finite",
            "power * scale + (of_pixels ? shifts[t] : shift)",
            "power * scale",
        ),
        ("modulus of each mode alone", "power += square", "power = square"),
        ("parts of the misfit upon each other", "f * gridDim.y + blockIdx.y", "f + blockIdx.y"),
        ("every thread leaves its misfit", "if (threadIdx.x == 0) misfit", "misfit"),
        ("waves left as they are", "factor * own.x, factor * own.y", "own.x, own.y"),
        ("faint waves not scaled to the measurement", ": shift)", ": shift + 1e-12f)"),
        ("background of the first pixel", "shifts[t]", "shifts[0]"),
        ("background ignored", "of_pixels ? shifts[t] : shift", "shift"),
        ("NaN taken for a measurement", "measured >= 0.0f", "!(measured < 0.0f)"),
        ("a negative measurement", "measured >= 0.0f", "measured > -0.75f"),
        ONE_PIXEL_MORE,
    ),
    *_in("project_modulus", FRAME_IN_32_BITS, large=True),
    *_in(
        "weigh_frames",
        ("probe not conjugated", "conj_times(p", "times(p"),
        ("power of the last mode", "total += square", "total = square"),
        ("power in single precision", "double total = 0.0;", "float total = 0.0f;"),
        ("parts of the power upon each other", "f * gridDim.y + blockIdx.y", "f * gridDim.y"),
        ("weighted frames as far apart as waves", "out[f * pixels + t]", "out[f * modes * pixels + t]"),
        ONE_PIXEL_MORE,
        OWN_PROBE_IGNORED,
        FIRST_MODE_ALONE,
        EVERY_BLOCK_DOES_ALL,
    ),
    *_in("weigh_frames", FRAME_IN_32_BITS, large=True),
    *_in(
        "gather",
        ("pixels above the frame", "y >= 0 && ", ""),
        ("a row below the frame", "y < cover.height", "y <= cover.height"),
        ("a column beside the frame", "x < cover.width", "x <= cover.width"),
        (
            "axes of the corner swapped",
            "y = row - own->y, x = column - own->x",
            "y = row - own->x, x = column - own->y",
        ),
        ("last frame of a patch missing", "own < last", "own < last - 1"),
        (
            "first frame of a patch missing",
            "own = cover.list + cover.start[patch];",
            "own = cover.list + cover.start[patch] + 1;",
        ),
        ("place in the list taken for the frame", "own->frame", "(int)(own - cover.list)"),
        ("image not added to", "Value sum = pixel;", "Value sum = Value();"),
        (
            "patches across rounded down",
            "(cover.columns + 31) / 32",
            "cover.columns / 32 + !(cover.columns / 32)",
        ),
        ("pixels beyond the image", "row >= cover.rows || ", ""),
        ("patches of half the height", "patch / across * 8", "patch / across * 4"),
        kernels=GATHERS,
    ),
    *_in("gather", ("two threads add to a pixel", GATHERED, SCATTERED), kernels=GATHERS, in_ptx=True),
    *_in(
        "gather",
        ("pixel of the image in 32 bits", "(int64)row * cover.columns", "row * cover.columns"),
        kernels=("accumulate_overlap", "accumulate_illumination"),
        large=True,
    ),
    *_in(
        "accumulate_overlap",
        ("conjugate phase", "times(phase[f], ", "conj_times(phase[f], "),
        ("first phase for all", "phase[f], ", "phase[0], "),
    ),
    *_in("accumulate_overlap", ("frames in 32 bits", "(int64)f * pixels", "f * pixels"), large=True),
    *_in(
        "accumulate_waves",
        ("probe not conjugated", "conj_times(p", "times(p"),
        ("one mode fewer", "m < modes;", "m < modes - 1;"),
        ("modes in each other's place", "z[(int64)m * pixels]", "z[(int64)(modes - 1 - m) * pixels]"),
        ("first probe for all", "(own ? (int64)f * all : 0)", "0"),
    ),
    *_in(
        "accumulate_waves",
        ("waves in 32 bits", "wave + (int64)f * all", "wave + f * all"),
        ("probes in 32 bits", "own ? (int64)f * all", "own ? f * all"),
        large=True,
    ),
    *_in(
        "accumulate_illumination",
        ("first frame's power for all", "(own ? (int64)f * pixels : 0)", "0"),
        ("a power for each frame", "(own ? (int64)f * pixels : 0)", "(int64)f * pixels"),
    ),
    *_in(
        "accumulate_probe",
        ("image not conjugated", "conj_times(under, ", "times(under, "),
        ("a pixel beyond the probe", "t >= pixels", "t > pixels"),
        ("last group beyond the last frame", "min(first + group, (int64)frames)", "first + group"),
        ("every group from the first frame", "(int64)blockIdx.y * group, last", "0, last"),
        (
            "groups upon each other",
            "numerator[((int64)blockIdx.y * modes + m) * pixels + t] = sum",
            "numerator[m * pixels + t] = sum",
        ),
        (
            "axes of the corner swapped",
            "(corner[2 * f] + y) * stride + corner[2 * f + 1] + x",
            "(corner[2 * f + 1] + y) * stride + corner[2 * f] + x",
        ),
        ("modes upon each other", "(f * modes + m) * pixels", "f * modes * pixels"),
        ("own numerators summed up", "if (own)\n", "if (0)\n"),
    ),
    *_in("accumulate_probe", ("every mode leaves the denominator", "if (m == 0) ", ""), in_ptx=True),
    *_in(
        "accumulate_probe",
        ("waves in 32 bits", "const int64 at =", "const int at ="),
        ("place in the image in 32 bits", "image[(corner[2 * f] + y)", "image[(int)(corner[2 * f] + y)"),
        large=True,
    ),
    *_in(
        "gramian",
        ("first frame not conjugated", "(u.x * v.x + u.y * v.y)", "(u.x * v.x - u.y * v.y)"),
        (
            "second frame conjugated instead",
            "__fmul_rn(u.x, v.y) - __fmul_rn(u.y, v.x)",
            "__fmul_rn(u.y, v.x) - __fmul_rn(u.x, v.y)",
        ),
        (
            "axes of the offset swapped",
            "dy = offset[2 * k], dx = offset[2 * k + 1]",
            "dy = offset[2 * k + 1], dx = offset[2 * k]",
        ),
        ("offset the other way", "(y0 - dy) * width + x0 - dx", "(y0 + dy) * width + x0 + dx"),
        ("pixels from the top of the first", "y0 = max(0, dy)", "y0 = 0"),
        ("rows to the end of the first", "min(height, height + dy) - y0", "height - y0"),
        (
            "overlap of frames far apart",
            "rows = max(0, min(height, height + dy) - y0), columns = max(0, min(width, width + dx) - x0)",
            "rows = min(height, height + dy) - y0, columns = min(width, width + dx) - x0",
        ),
        ("rows for columns", "max(1, columns)", "max(1, rows)"),
        (
            "frames of the pair swapped",
            "i = pair[2 * k], j = pair[2 * k + 1]",
            "i = pair[2 * k + 1], j = pair[2 * k]",
        ),
        (
            "weight of the second frame's place",
            "(corner[2 * i] + y0) * stride + corner[2 * i + 1]",
            "(corner[2 * j] + y0) * stride + corner[2 * j + 1]",
        ),
        ("weight's rows as long as the frame's", "(int64)place.y * stride", "(int64)place.y * width"),
        ("second frame's rows as long as the overlap's", "b[place.y * width", "b[place.y * columns"),
        (
            "sum in single precision",
            "double real = 0.0, imaginary = 0.0;",
            "float real = 0.0f, imaginary = 0.0f;",
        ),
        ("last pixel left out", "t < rows * columns", "t < rows * columns - 1"),
    ),
    *_in(
        "gramian",
        ("products fused", "__fmul_rn(u.x, v.y) - __fmul_rn(u.y, v.x)", "u.x * v.y - u.y * v.x"),
        in_ptx=True,
    ),
    *_in(
        "gramian",
        ("first frame in 32 bits", "first + i * height", "first + (int)i * height"),
        ("second frame in 32 bits", "second + j * height", "second + (int)j * height"),
        ("weight in 32 bits", "(corner[2 * i] + y0) * stride", "(int)(corner[2 * i] + y0) * stride"),
        large=True,
    ),
    *_in(
        "displacement_terms",
        (
            "axes of the corner swapped",
            "corner[2 * f] * stride + corner[2 * f + 1]",
            "corner[2 * f + 1] * stride + corner[2 * f]",
        ),
        ("probe not conjugated", "conj_times(lit, z", "times(lit, z"),
        ("neighbours above and below swapped", "above = here[-stride]", "above = here[stride]"),
        ("left neighbour of the pixel itself", "left = here[-1]", "left = here[0]"),
        ("differences not halved", "along_y / 2", "along_y"),
        ("curvature halved once", "xx / 4", "xx / 2"),
        ("cross term of one axis", "y.x * x.x + y.y * x.y", "y.x * y.x + y.y * x.y"),
        ("power of the last mode", "power += square(lit)", "power = square(lit)"),
        ("parts upon each other", "5 * (f * gridDim.y + blockIdx.y)", "5 * f"),
        ("sums of the first warp", "along_x = block_sum(along_x);", ""),
        ONE_PIXEL_MORE,
        OWN_PROBE_IGNORED,
        FIRST_MODE_ALONE,
    ),
    *_in(
        "field_sums",
        (
            "axes of the corner swapped",
            "+ corner[2 * f]) * stride + corner[2 * f + 1]",
            "+ corner[2 * f + 1]) * stride + corner[2 * f]",
        ),
        ("first field for all", "((int64)blockIdx.y * rows + corner", "(corner"),
        ("rows of the field as long as the frame's", "(int64)at.y * stride", "(int64)at.y * width"),
        ("last pixel alone", "total += p[t]", "total = p[t]"),
        ("fields upon each other", "out[f * gridDim.y + blockIdx.y]", "out[f * gridDim.y]"),
        ("first power for all", "(own ? f * pixels : 0)", "0"),
        ("power for each frame", "(own ? f * pixels : 0)", "f * pixels"),
        ONE_PIXEL_MORE,
    ),
    *_in(
        "sum_moduli",
        ("squares of moduli", "sqrt(data[e].x * data[e].x + data[e].y * data[e].y)", "data[e].x * data[e].x"),
        ("every other entry of a long row", "e += 32", "e += 64"),
        ("imaginary parts left out", " + data[e].y * data[e].y", ""),
        ("every lane leaves its sum", "threadIdx.x % 32 == 0", "threadIdx.x % 32 < 2"),
        ("a row beyond the last one", "  if (r < rows)\n", "  if (r <= rows)\n"),
    ),
    *_in(
        "scale_matrix",
        ("columns not scaled", "factor[r] * factor[index[e]]", "factor[r] * factor[r]"),
        ("rows not scaled", "factor[r] * factor[index[e]]", "factor[index[e]]"),
        ("imaginary part not scaled", "data[e].y * by", "data[e].y"),
        ("real part not scaled", "data[e].x * by", "data[e].x"),
        ("rows scaled twice", "factor[r] * factor[index[e]]", "factor[r] * factor[r] * factor[index[e]]"),
        ("half of the lanes", "threadIdx.x % 32; e", "threadIdx.x % 16; e"),
        ("every other entry of a long row", "e += 32", "e += 64"),
        ("a row beyond the last one", "r >= rows", "r > rows"),
    ),
    *_in(
        "sum_of_parts",
        ("first 256 parts", "k < parts;", "k < min(parts, 256);"),
        ("first thread alone knows it", "return total", "return value"),
        kernels=MATRIX_SUMS,
    ),
    *_in(
        "sum_of_parts",
        (
            "read before it is written",
            "  if (threadIdx.x == 0) total = value;\n  __syncthreads();\n",
            "  if (threadIdx.x == 0) total = value;\n",
        ),
        kernels=MATRIX_SUMS,
        in_ptx=True,
    ),
    *_in("one_over_root", ("zero divided by", "square > 0.0 ? ", "true ? "), kernels=("multiply_matrix",)),
    *_in(
        "multiply_matrix",
        ("matrix conjugated", "h.x * v.x - h.y * v.y", "h.x * v.x + h.y * v.y"),
        ("imaginary part of the conjugate", "h.x * v.y + h.y * v.x", "h.x * v.y - h.y * v.x"),
        ("product not normalised", "x = x * scale -", "x = x -"),
        ("another vector always subtracted", "if (with_before) back", "back"),
        ("inner product not normalised", "+ vector[r].y * y) * scale", "+ vector[r].y * y)"),
        ("imaginary part of the inner product", "vector[r].x * x + vector[r].y * y", "vector[r].x * y"),
        ("other vector not normalised", "sqrt(square) * one_over_root(", "sqrt(square) * ("),
        ("every other entry of a long row", "e += 32", "e += 64"),
        ("every other row of a long part", "r += 8", "r += 16"),
        ROWS_BEYOND,
    ),
    *_in(
        "subtract_component",
        ("component not normalised", "sum_of_parts(dots, parts) * scale", "sum_of_parts(dots, parts)"),
        ("imaginary part left as it is", "out[r].y - by * vector[r].y", "out[r].y"),
        ("component added", "out[r].x - by * vector[r].x", "out[r].x + by * vector[r].x"),
        ("norm of the vector before", "power += x * x + y * y", "power += x * x"),
        ROWS_BEYOND,
    ),
]
