"""``daskptycho check-gpu``: check whether a run on GPUs would work here, and say what is missing."""

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
from daskptycho.errors import how_to_install

__all__ = ["command"]

# Frames, modes and pixels in the trial of the kernel: odd numbers, so that no block of threads is full.
TRIAL_SHAPE = (5, 2, 33, 31)
# Relative difference that float32 and another order of summation can cause.
TOLERANCE = 1e-5
INSTALL_DRIVER = "install NVIDIA's driver: https://www.nvidia.com/drivers"


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    name: str
    result: str
    remedy: str | None = None
    """What to do if it is missing; None if it is present."""
    required: bool = True


@click.command(
    "check-gpu",
    cls=CommandWithExamples,
    short_help="Check whether a run on GPUs would work here.",
    examples=("daskptycho check-gpu",),
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Check driver, GPUs, CUDA, CuPy and dask-cuda, run one kernel and compare its result with NumPy.

    Each check that fails says what to do. The exit code is 0 only if a run with --gpu would work.
    """
    missing = False
    for finding in run_checks():
        missing |= finding.remedy is not None and finding.required
        mark = "ok" if finding.remedy is None else "missing" if finding.required else "optional"
        colour = {"ok": "green", "missing": "red", "optional": "yellow"}[mark]
        click.echo(f"{click.style(f'{mark:<8}', fg=colour)} {finding.name:<12} {finding.result}")
        if finding.remedy is not None:
            click.echo(f"{'':<21} -> {finding.remedy}")
    if missing:
        click.echo("A run with --gpu would not work here: see above what is missing.", err=True)
        ctx.exit(2)
    click.echo("A run with --gpu would work here.")


def run_checks() -> Iterator[Finding]:
    """Run the checks one after the other; skip those that depend on something that is missing."""
    from daskptycho.cluster.devices import cupy_or_reason

    yield _check_driver()
    cupy = cupy_or_reason()
    if isinstance(cupy, str):
        yield Finding("CuPy", cupy.partition(";")[0], _install_command())
    else:
        yield _check_cupy(cupy)
        gpus = _check_gpus(cupy)
        yield gpus
        if gpus.remedy is None:
            yield _try_check("CUDA", _describe_cuda, cupy)
            yield _try_check("memory", _describe_memory, cupy)
            yield _try_check("kernel", _check_kernel, cupy)
    yield _check_installed("dask-cuda", "dask_cuda")
    yield _check_installed("RMM", "rmm", required=False)


def _install_command() -> str:
    """Command that installs the extra for the CUDA version of the driver."""
    cuda = _driver_cuda_version()
    extra = "gpu-cuda13" if cuda is not None and cuda >= 13000 else "gpu-cuda12"
    return how_to_install(extra)


def _driver_cuda_version() -> int | None:
    """Newest CUDA version that the driver supports, 12040 for 12.4; None without a driver."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    return version.value if library.cuDriverGetVersion(ctypes.byref(version)) == 0 else None


def _format_version(version: int) -> str:
    """Write 12040 as 12.4."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _check_driver() -> Finding:
    cuda = _driver_cuda_version()
    if cuda is None:
        return Finding("driver", "no libcuda on this machine", INSTALL_DRIVER)
    return Finding("driver", f"for CUDA up to {_format_version(cuda)}")


def _check_cupy(cupy: ModuleType) -> Finding:
    wheels = sorted(
        name
        for name in ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")
        if _installed_version(name) is not None
    )
    if len(wheels) > 1:
        return Finding(
            "CuPy", " and ".join(wheels), f"pip uninstall {' '.join(wheels)}, then {_install_command()}"
        )
    return Finding("CuPy", cupy.__version__)


def _check_gpus(cupy: ModuleType) -> Finding:
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
        properties = [runtime.getDeviceProperties(number) for number in range(count)]
    except runtime.CUDARuntimeError as error:
        return Finding("GPUs", f"none ({error})", f"{INSTALL_DRIVER}, and check it with nvidia-smi")
    names = ", ".join(f"{own['name'].decode()} (sm_{own['major']}{own['minor']})" for own in properties)
    return Finding("GPUs", f"{count}: {names}")


def _try_check(name: str, check: Callable[[ModuleType], str], cupy: ModuleType) -> Finding:
    """Run a check; an error in a library is reported as its result instead of being raised."""
    try:
        return Finding(name, check(cupy))
    except Exception as error:
        message = " ".join(str(error).split())[:200]
        return Finding(name, f"{type(error).__name__}: {message}", _install_command())


def _describe_cuda(cupy: ModuleType) -> str:
    major, minor = cupy.cuda.nvrtc.getVersion()
    return f"runtime {_format_version(cupy.cuda.runtime.runtimeGetVersion())}, compiler {major}.{minor}"


def _describe_memory(cupy: ModuleType) -> str:
    from dask.utils import format_bytes

    free, total = cupy.cuda.runtime.memGetInfo()
    return f"{format_bytes(free)} free of {format_bytes(total)} on the first GPU"


def _check_kernel(cupy: ModuleType) -> str:
    """Compare a data projection on the device with one on the host: this tests compiler, kernel and cuFFT."""
    import numpy as np

    from daskptycho.backend import to_device, to_host
    from daskptycho.model.operators import project_data

    random = np.random.default_rng(0)
    waves = (random.normal(size=TRIAL_SHAPE) + 1j * random.normal(size=TRIAL_SHAPE)).astype(np.complex64)
    amplitude = random.random((TRIAL_SHAPE[0], *TRIAL_SHAPE[2:]), dtype=np.float32)
    result, misfit = project_data(to_device(waves, "gpu"), to_device(amplitude, "gpu"))
    expected, expected_misfit = project_data(waves, amplitude)
    difference = float(np.linalg.norm(to_host(result) - expected) / np.linalg.norm(expected))
    if not difference < TOLERANCE or not np.isclose(float(misfit), expected_misfit, rtol=TOLERANCE):
        raise RuntimeError(f"compiled, but its result differs from that of NumPy by {difference:.1e}")
    return f"compiled and run; differs from NumPy by {difference:.1e}, which is rounding"


def _check_installed(name: str, module: str, *, required: bool = True) -> Finding:
    """Check that a module can be imported."""
    if importlib.util.find_spec(module) is None:
        remedy = (
            _install_command()
            if required
            else "pip install rmm-cu12, or rmm-cu13; without it, CuPy uses a memory pool of its own"
        )
        return Finding(name, "not installed", remedy, required)
    try:
        importlib.import_module(module)
    except Exception as error:
        message = " ".join(str(error).split())[:200]
        return Finding(name, f"cannot be imported: {message}", _install_command(), required)
    return Finding(name, _installed_version(name) or "installed", required=required)


def _installed_version(distribution: str) -> str | None:
    """Version of an installed distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
