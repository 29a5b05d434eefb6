"""Runs on several GPUs, check-gpu, and what they say where there is no GPU."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.fft
import xarray as xr
from click.testing import CliRunner, Result

import daskptycho as dp
from daskptycho import backend
from daskptycho.cli import check_gpu, daskptycho
from daskptycho.cluster import cuda_cluster
from daskptycho.cluster.cuda_cluster import GpuWork, require_gpus_at_work
from daskptycho.cluster.devices import Gpu
from daskptycho.errors import FaultError, how_to_install
from daskptycho.model.amplitudes import Amplitudes
from daskptycho.sync.gramian import Border
from daskptycho.sync.phases import Phases
from tests.conftest import STANDIN

ROOT = Path(__file__).resolve().parents[2]
without_cupy = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is not None, reason="CuPy is installed: this is about its absence"
)
# Standing in for two GPUs in a process of its own, and in its workers.
STOOD_IN = os.environ | {"PYTHONPATH": os.pathsep.join([str(STANDIN), str(ROOT)])}


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(daskptycho, [str(argument) for argument in arguments], prog_name="daskptycho")


def refused(*arguments: object) -> str:
    """The one line in which a command refuses."""
    result = invoke(*arguments)
    assert result.exit_code == 2, f"{result.output}\n{result.exception!r}"
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("Warning: ")]
    return line


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan") / "scan.zarr"
    dp.simulate_scan(folder, frames=(4, 4), frame_size=12, step=3, tile_frames=4, jitter=1)
    return folder


# Without a GPU


@without_cupy
@pytest.mark.parametrize("options", [("--gpu",), ("--gpus", "0"), ("--gpus", "0,1")], ids=" ".join)
@pytest.mark.parametrize("command", ["reconstruct", "resume"])
def test_without_a_gpu_a_command_ends_in_one_sentence(
    scan: Path, tmp_path: Path, command: str, options: tuple[str, ...]
) -> None:
    out = tmp_path / "result.zarr"
    arguments: tuple[object, ...] = (scan, out)
    if command == "resume":
        dp.reconstruct(dp.open_scan(scan), out, sweeps=1)
        arguments = (out, "--sweeps", 2)
    before = sorted(tmp_path.iterdir())
    assert refused(command, *arguments, *options) == (
        "Error: no GPU can be used here: CuPy is not installed; install it by "
        "pip install '.[gpu-cuda12]' in the folder of daskptycho's sources, or [gpu-cuda13] with a driver of "
        "CUDA 13; "
        "'daskptycho check-gpu' gives details"
    )
    assert sorted(tmp_path.iterdir()) == before


@without_cupy
def test_without_a_gpu_python_says_so_too(scan: Path, tmp_path: Path) -> None:
    opened = dp.open_scan(scan)
    with pytest.raises(dp.OptionError, match="no GPU can be used here: CuPy is not installed"):
        dp.reconstruct(opened, tmp_path / "r.zarr", device="gpu")
    with pytest.raises(dp.OptionError, match="no GPU can be used here"), cuda_cluster.cuda_cluster():
        pass
    assert list(tmp_path.iterdir()) == []


@without_cupy
def test_workers_without_a_gpu_are_named(scan: Path, tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
        pytest.raises(
            dp.OptionError, match=r"the worker at inproc://\S+ cannot use a GPU: CuPy is not installed"
        ),
    ):
        dp.reconstruct(dp.open_scan(scan), device="gpu")


def test_a_device_that_is_none_is_refused(scan: Path) -> None:
    with pytest.raises(dp.OptionError, match="device is 'tpu'; expected 'cpu' or 'gpu'"):
        dp.reconstruct(dp.open_scan(scan), device="tpu")  # type: ignore[arg-type]


@without_cupy
def test_check_gpu_names_what_is_missing_and_what_to_do() -> None:
    result = invoke("check-gpu")
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    found = {line.split()[1]: line.split()[0] for line in lines if not line.startswith(" ")}
    assert found["CuPy"] == found["dask-cuda"] == "missing"
    # Every line that fails is followed by a cure.
    for number, line in enumerate(lines):
        assert line.startswith(("ok", " ")) or lines[number + 1].strip().startswith("-> ")
    assert "pip install '.[gpu-cuda1" in result.stdout
    assert result.stderr == "A run with --gpu would not work here: see above what is missing.\n"


@pytest.mark.parametrize(
    ("cuda", "extra"), [(None, "gpu-cuda12"), (12080, "gpu-cuda12"), (13000, "gpu-cuda13")]
)
def test_the_extra_suits_the_driver(monkeypatch: pytest.MonkeyPatch, cuda: int | None, extra: str) -> None:
    monkeypatch.setattr(check_gpu, "_driver_cuda_version", lambda: cuda)
    assert check_gpu._install_command() == how_to_install(extra)


# Options that make no sense together

BAD_OPTIONS: dict[tuple[object, ...], str] = {
    ("--gpus", "0,1", "--workers", 2): "--workers and --gpus are both given",
    ("--gpus", "0", "--scheduler", "tcp://127.0.0.1:1"): "--scheduler and --gpus are both given",
    ("--gpu", "--workers", 2): "--workers with --gpu; expected --gpus",
    ("--gpu", "--scheduler", "tcp://127.0.0.1:1", "--memory", "1GiB"): "--memory with --gpu and --scheduler",
    ("--gpus", "one"): "'one' is not a list of whole numbers; expected numbers as in 0,1",
    ("--gpus", "0,1,2,3,4"): "5 GPUs for 4 tiles; expected at most as many GPUs as tiles",
}


@pytest.mark.parametrize(("options", "said"), BAD_OPTIONS.items(), ids=lambda value: str(value)[:40])
def test_options_that_make_no_sense_are_refused(
    scan: Path, tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    assert said in refused("reconstruct", scan, tmp_path / "r.zarr", *options)
    assert list(tmp_path.iterdir()) == []


# With the stand-in's two GPUs


@pytest.mark.parametrize(
    ("gpus", "visible", "said"),
    [
        ((0, 5), None, "GPUs 0, 5 are asked for; expected one or more of 0, 1, each once"),
        ((0, 0), None, "GPUs 0, 0 are asked for"),
        ((), None, "GPUs none are asked for"),
        ((0,), "1", "GPUs 0 are asked for; expected one or more of 1, each once"),
        (None, "", "CuPy finds no GPU"),
    ],
)
@pytest.mark.usefixtures("standin")
def test_gpus_that_are_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch, gpus: tuple[int, ...] | None, visible: str | None, said: str
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(dp.OptionError, match=said), cuda_cluster.cuda_cluster(gpus):
        pass


def test_parts_of_a_gpu_are_called_as_the_batch_system_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_cluster, "require_gpu", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-12, MIG-34")
    assert cuda_cluster._chosen(None) == ["MIG-12", "MIG-34"]


def work_of(*sweeps: int) -> list[GpuWork]:
    return [GpuWork(Gpu("H100", f"uuid-{number}", 1), "CuPy", own) for number, own in enumerate(sweeps)]


@pytest.mark.parametrize(
    ("work", "used"), [(work_of(3, 0), 1), (work_of(0, 0), 0), ([*work_of(3), *work_of(4)], 1)]
)
def test_gpus_that_stood_idle_are_told(
    monkeypatch: pytest.MonkeyPatch, work: list[GpuWork], used: int
) -> None:
    monkeypatch.setattr(cuda_cluster, "gpus_at_work", lambda _: work)
    with pytest.raises(
        FaultError, match=f"2 GPUs were asked for and {used} did the work.*the result is written"
    ):
        require_gpus_at_work(SimpleNamespace())  # type: ignore[arg-type]
    monkeypatch.setattr(cuda_cluster, "gpus_at_work", lambda _: work_of(3, 4))
    assert require_gpus_at_work(SimpleNamespace()) == work_of(3, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("has_rmm", [False, True])
def test_cupy_is_given_a_pool(standin: ModuleType, monkeypatch: pytest.MonkeyPatch, has_rmm: bool) -> None:
    def allocator(size: int) -> Any: ...

    if has_rmm:
        monkeypatch.setattr(cuda_cluster.importlib.util, "find_spec", lambda name: name == "rmm")
        monkeypatch.setitem(sys.modules, "rmm.allocators.cupy", SimpleNamespace(rmm_cupy_allocator=allocator))
    assert cuda_cluster._set_pool() == ("RMM" if has_rmm else "CuPy")
    assert (standin.cuda.allocator is allocator) == has_rmm
    assert standin.cuda.allocator is not None


def test_dask_cuda_counts_what_dataclasses_hold_as_memory_of_the_gpu(standin: ModuleType) -> None:
    cuda_cluster._count_as_device_memory()
    is_device_object = importlib.import_module("dask_cuda.is_device_object").is_device_object
    counts, phase = np.ones((2, 4, 4), np.uint16), np.ones(2, np.complex64)
    for on_gpu in (False, True):
        held = standin.asarray if on_gpu else np.asarray
        assert is_device_object(Amplitudes(held(counts))) == on_gpu
        assert is_device_object(Phases(held(phase), 0.0, 0.0, 1.0)) == on_gpu
        assert is_device_object(Border(held(phase), held(phase))) == on_gpu
        assert is_device_object([Amplitudes(held(counts))]) == on_gpu
        assert is_device_object(held(phase)) == on_gpu


@pytest.mark.usefixtures("standin")
def test_check_gpu_is_content_where_a_run_would_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_gpu, "_driver_cuda_version", lambda: 12090)
    result = invoke("check-gpu")
    assert result.exit_code == 0, result.output
    assert "kernel       compiled and run; differs from NumPy by" in result.stdout
    assert "GPUs         2: stand-in (sm_90), stand-in (sm_90)" in result.stdout
    assert "4.00 GiB free" in result.stdout


@pytest.mark.usefixtures("standin")
@pytest.mark.parametrize("fault", [lambda wave: wave * 1.001, lambda wave: 1 / 0], ids=["wrong", "broken"])
def test_check_gpu_does_not_trust_a_kernel_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[Any], Any]
) -> None:
    from cupyx.scipy import fft

    own = fft.ifft2
    monkeypatch.setattr(check_gpu, "_driver_cuda_version", lambda: 12090)
    monkeypatch.setattr(fft, "ifft2", lambda wave, **options: fault(own(wave, **options)))
    result = invoke("check-gpu")
    assert result.exit_code == 2
    assert "missing  kernel" in result.stdout


@without_cupy
def test_without_a_gpu_the_workflow_says_so(scan: Path, tmp_path: Path) -> None:
    script = ROOT / "workflows" / "local_cuda_cluster.py"
    done = subprocess.run(
        [sys.executable, str(script), str(scan), str(tmp_path / "result.zarr")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: no GPU can be used here: CuPy is not installed")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.usefixtures("standin")
def test_the_workflow_runs_on_two_gpus(scan: Path, tmp_path: Path) -> None:
    code = "import local_cuda_cluster as own, sys; own.SWEEPS = 3; own.main(*sys.argv[1:], [1, 0])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(scan), str(tmp_path / "result.zarr")],
        capture_output=True,
        text=True,
        cwd=ROOT / "workflows",
        env=STOOD_IN,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("stand-in: 6 tiles swept, memory from CuPy's pool") == 2
    assert dp.open_result(tmp_path / "result.zarr").sizes["sweep"] == 3


@pytest.mark.long
@pytest.mark.usefixtures("standin")
def test_a_run_on_two_gpus_ends_with_the_cpus_image(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_host_fft", lambda: scipy.fft)
    out = tmp_path / "result.zarr"
    command = [sys.executable, "-m", "daskptycho"]
    done = subprocess.run(
        [*command, "reconstruct", scan, out, "--sweeps", "4", "--gpus", "0,1", "--checkpoint-every", "2"],
        capture_output=True,
        text=True,
        env=STOOD_IN,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Four tiles, swept four times.
    assert "2 GPUs at work: stand-in swept 8 tiles, stand-in swept 8 tiles" in done.stderr
    expected = dp.reconstruct(dp.open_scan(scan), sweeps=4)
    found = xr.open_zarr(out)
    weight = expected["illumination"].values
    apart = weight * abs(found["object"].values - expected["object"].values) ** 2
    assert np.sqrt(apart.sum() / (weight * abs(expected["object"].values) ** 2).sum()) < 1e-5
