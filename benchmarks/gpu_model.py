"""Model the time of a sweep on an H100; nothing here runs on a GPU.

    python benchmarks/gpu_model.py
    python benchmarks/gpu_model.py --write docs/gpu.md

NVIDIA's compiler reports the registers of each kernel. Its reads, writes and operations are counted while its
PTX runs on the emulation of the tests, on the frames of a raster whose neighbours overlap by three quarters.
The modelled time is that of the bytes at the full bandwidth of the memory or that of the operations at full
speed, whichever is longer. The script needs the extra `nvrtc` and g++.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.cuda.emulation import compile_source
from tests.cuda.nvrtc import Resources, compile_ptx, compiler_version, resources_of
from tests.cuda.ptx import translate
from tests.cuda.shipped import SOURCE, kernels_on
from tests.cuda.traffic import Counting, Launch

ARCHITECTURE = 90
THREADS = 256


@dataclass(frozen=True)
class Card:
    """Peaks from NVIDIA's data sheet, limits from its table of compute capabilities."""

    name: str = "H100 SXM5 80 GB"
    bandwidth: float = 3.35e12
    single: float = 67e12
    double: float = 34e12
    registers: int = 65536
    warps: int = 64
    blocks: int = 32
    shared_bytes: int = 228 * 1024
    launch_seconds: float = 5e-6
    """Time between the end of one kernel and the start of the next that waits for it: assumed."""

    def seconds(self, moved: float, single: float, double: float = 0) -> float:
        """Time of memory and arithmetic, which overlap: the slower one counts."""
        return max(moved / self.bandwidth, single / self.single + double / self.double)

    def occupancy(self, kernel: Resources) -> float:
        """Fraction of the warps of a multiprocessor that can be active.

        The formula is that of NVIDIA's occupancy calculator: a warp gets registers in units of 256, and a
        block gets shared memory in units of 128 bytes and 1 KiB in addition.
        """
        warps = THREADS // 32
        registers = math.ceil(kernel.registers * 32 / 256) * 256 * warps
        shared = math.ceil((kernel.shared_bytes + 1024) / 128) * 128
        fitting = min(
            self.registers // registers, self.shared_bytes // shared, self.warps // warps, self.blocks
        )
        return fitting * warps / self.warps


@dataclass(frozen=True)
class Cost:
    """Bytes and operations of one kernel for one frame."""

    name: str
    bytes: float
    single: float
    double: float = 0

    def seconds(self, card: Card) -> float:
        return card.seconds(self.bytes, self.single, self.double)

    def times(self, factor: float) -> Cost:
        return Cost(self.name, factor * self.bytes, factor * self.single, factor * self.double)


def count_costs(size: int, step: int) -> dict[str, Cost]:
    """Count the cost of each kernel per frame on a raster of 3x3; that of the Gramian covers all pairs."""
    counting = Counting(compile_source(translate(compile_ptx(SOURCE, ARCHITECTURE))))
    random = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) + 1j).astype(np.complex64)

    corner = np.array([*itertools.product(range(3), repeat=2)]) * step
    frames, window = len(corner), (size + 2 * step, size + 2 * step)
    image, probe, waves = noise(*window), noise(1, 1, size, size), noise(frames, 1, size, size)
    ramps = noise(frames, size), noise(frames, size)
    amplitude = random.random((frames, size, size)).astype(np.float32)
    weighted, power = np.empty_like(waves[:, 0]), np.empty(frames)
    pairs = [(dy, dx) for dy, dx in pair_offsets(size / step)]
    with kernels_on(counting) as kernels:
        kernels.exit_waves(image, probe, corner, waves)
        kernels.filter_spectra(waves, probe[0, 0], *ramps)
        kernels.project_modulus(waves, amplitude, 1 / size**2)
        kernels.accumulate_waves(waves, probe, corner, image)
        kernels.weigh_frames(waves, probe, weighted, power)
        kernels.accumulate_overlap(weighted, np.ones(frames, np.complex64), corner, image)
        kernels.accumulate_illumination(probe, corner, image.real.copy())
        kernels.accumulate_probe(
            image, waves, corner, np.zeros_like(probe), np.zeros((size, size), np.float32)
        )
        kernels.gramian(
            weighted,
            weighted,
            np.zeros((len(pairs), 2), np.int64),
            np.array(pairs) * step,
            np.zeros((1, 2), np.int64),
            np.ones(window, np.float32),
            np.empty(len(pairs), np.complex128),
        )
    costs = {launch.kernel: cost_per_frame(launch, frames, window, step) for launch in counting.launches}
    # Each pair reads frames and weights again, as if there were no cache.
    gramian = counting.launches[-1]
    moved = sum(
        array.asked if array.shape[0] in (frames, window[0]) else array.once for array in gramian.arrays
    )
    costs["gramian"] = Cost("gramian", moved, gramian.single, gramian.double)
    return costs


def pair_offsets(reach: float) -> Iterator[tuple[int, int]]:
    """Steps from a frame of a raster to itself and to the later frames that overlap it."""
    most = math.ceil(reach) - 1
    for dy, dx in itertools.product(range(most + 1), range(-most, most + 1)):
        if (dy, dx) >= (0, 0):
            yield dy, dx


def cost_per_frame(launch: Launch, frames: int, window: tuple[int, int], step: int) -> Cost:
    """Cost per frame of an infinite raster: stacks count by frame, images by pixel, the probe not at all."""
    moved = 0.0
    for array in launch.arrays:
        if array.shape == window:
            moved += array.once / math.prod(window) * step**2
        elif array.shape and array.shape[0] == frames:
            moved += array.once / frames
    return Cost(launch.kernel, moved, launch.single / frames, launch.double / frames)


def cached_gramian_cost(costs: dict[str, Cost], size: int) -> Cost:
    """Cost of the Gramian with a cache that holds a frame until its last pair: each frame is read once."""
    return Cost("gramian", 8 * size**2, costs["gramian"].single, costs["gramian"].double)


def fourier_cost(size: int) -> Cost:
    """Cost of a transform by cuFFT: two passes over the waves, and 5 n log2 n operations."""
    return Cost("fft", 4 * 8 * size**2, 5 * size**2 * math.log2(size**2))


def square_root_cost(size: int) -> Cost:
    """Cost of converting counts of 16 bits to amplitudes by CuPy."""
    return Cost("root", (2 + 4) * size**2, size**2)


def fused_sweep(costs: dict[str, Cost], size: int, synchronised: bool = False) -> list[Cost]:
    """Kernels of a sweep with a known probe; its frames are kept if the Gramian is computed."""
    names = ["exit_waves", "project_modulus"]
    names += ["weigh_frames", "accumulate_overlap"] if synchronised else ["accumulate_waves"]
    return [*(costs[name] for name in names), square_root_cost(size), fourier_cost(size), fourier_cost(size)]


# The same sweep with one array operation per step: bytes read and written and operations, per pixel.
UNFUSED = {
    "window of each frame": (8, 0),
    "times the probe": (16, 6),
    "factor of the transform": (16, 2),
    "root of the counts": (6, 1),
    "modulus": (12, 4),
    "misfit": (8, 3),
    "amplitude over modulus": (12, 1),
    "waves times that ratio": (20, 2),
    "factor of the inverse": (16, 2),
    "conjugate probe times waves": (16, 6),
    "overlap sum": (8, 2),
}


def unfused_sweep(size: int) -> list[Cost]:
    """Array operations of a sweep with a known probe."""
    steps = [Cost(name, moved * size**2, single * size**2) for name, (moved, single) in UNFUSED.items()]
    return [*steps, fourier_cost(size), fourier_cost(size)]


def add_up(costs: list[Cost], card: Card) -> tuple[float, float, float]:
    """Add up the bytes, operations and seconds of kernels that run one after the other."""
    return (
        sum(cost.bytes for cost in costs),
        sum(cost.single + cost.double for cost in costs),
        sum(cost.seconds(card) for cost in costs),
    )


def thousands(number: float) -> str:
    return f"{number / 1000:,.0f}".replace(",", " ")


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Format a table in Markdown whose first column is text and whose others are numbers."""
    return [
        "| " + " | ".join(header) + " |",
        "|---|" + "---:|" * (len(header) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def kernel_table(card: Card, costs: dict[str, Cost], size: int) -> list[str]:
    resources = resources_of(SOURCE, ARCHITECTURE)
    rows = []
    for name, cost in costs.items():
        own = resources[name]
        rows.append(
            [
                f"`{name}`",
                str(own.registers),
                f"{card.occupancy(own):.0%}",
                thousands(cost.bytes),
                thousands(cost.single + cost.double),
                f"{1e6 * cost.seconds(card):.3f}",
            ]
        )
    for name, cost in (
        ("`gramian`, each frame read once", cached_gramian_cost(costs, size)),
        ("one FFT (cuFFT)", fourier_cost(size)),
        ("square root of the counts (CuPy)", square_root_cost(size)),
    ):
        rows.append(
            [name, "", "", thousands(cost.bytes), thousands(cost.single), f"{1e6 * cost.seconds(card):.3f}"]
        )
    header = ["kernel", "registers", "occupancy", "kB per frame", "kflop per frame", "us per frame"]
    return table(header, rows)


def sweep_table(card: Card, costs: dict[str, Cost], size: int, factors: tuple[int, ...]) -> list[str]:
    """Table of sweeps for frames of `size` and larger ones; the cost of a kernel scales with their area."""
    rows = []
    for factor in factors:
        larger = {name: cost.times(factor**2) for name, cost in costs.items()}
        own = factor * size
        for name, sweep in (
            ("fused", fused_sweep(larger, own)),
            ("unfused", unfused_sweep(own)),
            ("fused, with the Gramian", [*fused_sweep(larger, own, synchronised=True), larger["gramian"]]),
        ):
            moved, operations, seconds = add_up(sweep, card)
            figures = [thousands(moved), thousands(operations), f"{1e6 * seconds:.2f}"]
            rows.append([f"{own}x{own}, {name}", str(len(sweep)), *figures])
    return table(["frame and sweep", "kernels", "kB per frame", "kflop per frame", "us per frame"], rows)


def poster_table(card: Card) -> list[str]:
    """Table for 16384 frames of 32x32 on 637x637 pixels, 100 sweeps, each synchronised by 100 power steps."""
    frames, size, sweeps, steps = 16384, 32, 100, 100
    step = (637 - size) / (math.isqrt(frames) - 1)
    costs = count_costs(size, round(step))
    offsets = list(pair_offsets(size / step))
    share = sum((1 - abs(dy) * step / size) * (1 - abs(dx) * step / size) for dy, dx in offsets)
    # Each pixel of a pair needs two complex numbers, a weight and 12 operations.
    gramian = card.seconds(20 * size**2 * share * frames, 12 * size**2 * share * frames)
    sweep = fused_sweep(costs, size, synchronised=True)
    # A product with H in double precision reads value and column of each entry, and four vectors.
    entries = frames * (2 * len(offsets) - 1)
    matrix = card.seconds(entries * (16 + 4) + 4 * 16 * frames, 0, 8 * entries)
    # A step launches product, norm and division one after the other.
    power = matrix + 3 * card.launch_seconds
    rows = [
        ["sweeps", f"{1e3 * frames * sum(cost.seconds(card) for cost in sweep):.2f}", str(sweeps)],
        ["Gramian", f"{1e3 * gramian:.2f}", str(sweeps)],
        ["power steps", f"{1e3 * power:.3f}", str(sweeps * steps)],
    ]
    rows = [[*row, f"{float(row[1]) * int(row[2]) / 1e3:.2f}"] for row in rows]
    rows.append(["total", "", "", f"{sum(float(row[3]) for row in rows):.2f}"])
    return table(["", "ms each", "number", "s"], rows)


def make_report(quick: bool) -> str:
    card = Card()
    size = 32 if quick else 128
    costs = count_costs(size, size // 4)
    lines = [
        f"Modelled, not measured: {card.name} with {card.bandwidth / 1e12} TB/s,"
        f" {card.single / 1e12:.0f} Tflop/s in single and {card.double / 1e12:.0f} in double precision;"
        f" sm_{ARCHITECTURE}, NVRTC {compiler_version()}.",
        "",
        f"Frames of {size}x{size}, one mode, a step of {size // 4} pixels; the Gramian of the"
        f" {len(list(pair_offsets(4)))} pairs that begin at a frame, each of which reads all of its data:",
        "",
        *kernel_table(card, costs, size),
        "",
        "The whole sweep with a known probe:",
        "",
        *sweep_table(card, costs, size, (1,) if quick else (1, 2, 4)),
    ]
    if not quick:
        lines += ["", "The poster's example, 16384 frames of 32x32:", "", *poster_table(card)]
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Only frames of 32x32.")
@click.option(
    "--write", type=click.Path(path_type=Path, exists=True), help="Write the tables into this page."
)
def main(quick: bool, write: Path | None) -> None:
    text = make_report(quick)
    if write is None:
        print(text)
        return
    page = re.sub(
        r"(?<=<!-- model -->\n).*?(?=<!-- end of model -->)",
        lambda _: f"\n{text}\n\n",
        write.read_text(),
        flags=re.DOTALL,
    )
    write.write_text(page)


if __name__ == "__main__":
    main()
