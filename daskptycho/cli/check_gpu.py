"""``daskptycho check-gpu``: whether a reconstruction would run on a GPU here, and what is missing if not."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import click

from daskptycho.cli.examples import CommandWithExamples

__all__ = ["command"]

# Frames, modes and pixels of the kernel's trial: odd, so that no block of threads is full.
TRIAL = (5, 2, 33, 31)
# What float32 and another order of a sum can make of it.
CLOSE = 1e-5
INSTALL_DRIVER = "install NVIDIA's driver: https://www.nvidia.com/drivers"


@dataclass(frozen=True)
class Finding:
    """What one look has found."""

    name: str
    found: str
    cure: str | None = None
    """What to do where it is missing; None where it is there."""
    needed: bool = True


@click.command(
    "check-gpu",
    cls=CommandWithExamples,
    short_help="Say whether a run on GPUs would work here.",
    examples=("daskptycho check-gpu",),
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Look for a driver, GPUs, CUDA, CuPy and dask-cuda, run one kernel and compare it with NumPy.

    Each line that fails says what to do. The exit code is 0 only where a run with --gpu would work.
    """
    missing = False
    for finding in findings():
        missing |= finding.cure is not None and finding.needed
        mark = "ok" if finding.cure is None else "missing" if finding.needed else "optional"
        colour = {"ok": "green", "missing": "red", "optional": "yellow"}[mark]
        click.echo(f"{click.style(f'{mark:<8}', fg=colour)} {finding.name:<12} {finding.found}")
        if finding.cure is not None:
            click.echo(f"{'':<21} -> {finding.cure}")
    if missing:
        click.echo("No run on a GPU would work here: see what is missing above.", err=True)
        ctx.exit(2)
    click.echo("A run with --gpu would work here.")


def findings() -> Iterator[Finding]:
    """One after the other; what rests on something that is missing is not looked for."""
    from daskptycho.cluster.devices import cupy_or_reason

    yield _driver()
    cupy = cupy_or_reason()
    if isinstance(cupy, str):
        yield Finding("CuPy", cupy.partition(";")[0], _extra())
    else:
        yield _cupy(cupy)
        gpus = _gpus(cupy)
        yield gpus
        if gpus.cure is None:
            yield _attempt("CUDA", _compiler, cupy)
            yield _attempt("memory", _memory, cupy)
            yield _attempt("kernel", _kernel, cupy)
    yield _installed("dask-cuda", "dask_cuda")
    yield _installed("RMM", "rmm", needed=False)


def _extra() -> str:
    """The extra that suits the driver."""
    cuda = _cuda_of_driver()
    extra = "gpu-cuda13" if cuda is not None and cuda >= 13000 else "gpu-cuda12"
    return f"pip install 'daskptycho[{extra}]'"


def _cuda_of_driver() -> int | None:
    """The newest CUDA that the driver knows, 12040 for 12.4; None without a driver."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    return version.value if library.cuDriverGetVersion(ctypes.byref(version)) == 0 else None


def _told(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _driver() -> Finding:
    cuda = _cuda_of_driver()
    if cuda is None:
        return Finding("driver", "no libcuda on this machine", INSTALL_DRIVER)
    return Finding("driver", f"for CUDA up to {_told(cuda)}")


def _cupy(cupy: ModuleType) -> Finding:
    wheels = sorted(
        name
        for name in ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")
        if _version(name) is not None
    )
    if len(wheels) > 1:
        return Finding("CuPy", " and ".join(wheels), f"pip uninstall {' '.join(wheels)}, then {_extra()}")
    return Finding("CuPy", cupy.__version__)


def _gpus(cupy: ModuleType) -> Finding:
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
        named = [runtime.getDeviceProperties(number) for number in range(count)]
    except runtime.CUDARuntimeError as error:
        return Finding("GPUs", f"none ({error})", f"{INSTALL_DRIVER}, and see what nvidia-smi says")
    names = ", ".join(f"{own['name'].decode()} (sm_{own['major']}{own['minor']})" for own in named)
    return Finding("GPUs", f"{count}: {names}")


def _attempt(name: str, look: Callable[[ModuleType], str], cupy: ModuleType) -> Finding:
    """What it found; whatever goes wrong in a library below is told, not raised."""
    try:
        return Finding(name, look(cupy))
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        return Finding(name, f"{type(error).__name__}: {said}", _extra())


def _compiler(cupy: ModuleType) -> str:
    major, minor = cupy.cuda.nvrtc.getVersion()
    return f"runtime {_told(cupy.cuda.runtime.runtimeGetVersion())}, compiler {major}.{minor}"


def _memory(cupy: ModuleType) -> str:
    from dask.utils import format_bytes

    free, total = cupy.cuda.runtime.memGetInfo()
    return f"{format_bytes(free)} free of {format_bytes(total)} on the first GPU"


def _kernel(cupy: ModuleType) -> str:
    """A data projection on the device against the one on the host: compiler, kernel and cuFFT."""
    import numpy as np

    from daskptycho.backend import to_device, to_host
    from daskptycho.model.operators import project_data

    random = np.random.default_rng(0)
    waves = (random.normal(size=TRIAL) + 1j * random.normal(size=TRIAL)).astype(np.complex64)
    amplitude = random.random((TRIAL[0], *TRIAL[2:]), dtype=np.float32)
    found, misfit = project_data(to_device(waves, "gpu"), to_device(amplitude, "gpu"))
    expected, expected_misfit = project_data(waves, amplitude)
    difference = float(np.linalg.norm(to_host(found) - expected) / np.linalg.norm(expected))
    if not difference < CLOSE or not np.isclose(float(misfit), expected_misfit, rtol=CLOSE):
        raise RuntimeError(f"compiled, but its result differs from NumPy's by {difference:.1e}")
    return f"compiled and run; differs from NumPy by {difference:.1e}, as rounding does"


def _installed(name: str, module: str, *, needed: bool = True) -> Finding:
    if importlib.util.find_spec(module) is None:
        cure = _extra() if needed else "pip install rmm-cu12, or rmm-cu13; CuPy's own pool is used without it"
        return Finding(name, "not installed", cure, needed)
    try:
        importlib.import_module(module)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        return Finding(name, f"cannot be imported: {said}", _extra(), needed)
    return Finding(name, _version(name) or "installed", needed=needed)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
