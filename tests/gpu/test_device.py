"""What a real card has to show: the kernels, cuFFT, cuSPARSE, cuSOLVER and a whole run against the host.

Each test also runs on the stand-in for CuPy, so that it is in order when a card is there.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from daskptycho import backend, gpu_kernels
from daskptycho.sync.eigensolvers import lanczos, lobpcg, power
from daskptycho.sync.phases import normalise
from tests.cuda.trials import COMPOSED, TRIALS, Trial
from tests.plain import relative_where_lit

# A card's FFT rounds otherwise than FFTW.
CLOSE = 1e-4


@pytest.fixture(scope="module", params=[pytest.param("card", marks=pytest.mark.gpu), "stand-in"])
def cupy(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("card" if request.param == "card" else "standin")


class OnDevice:
    """The functions of `gpu_kernels` for NumPy arrays, which are moved to the device and back."""

    def __init__(self, cupy: ModuleType) -> None:
        self._cupy = cupy

    def __getattr__(self, name: str) -> Any:
        function = getattr(gpu_kernels, name)

        def call(*arguments: Any) -> Any:
            names = inspect.signature(function).parameters
            there = [
                # Corners are the host's.
                value if own == "corner" or not isinstance(value, np.ndarray) else self._cupy.asarray(value)
                for own, value in zip(names, arguments, strict=False)
            ]
            result = function(*there)
            for value, moved in zip(arguments, there, strict=True):
                if moved is not value and value.flags.writeable:
                    value[...] = moved.get()
            return None if result is None else float(result)

        return call


@pytest.mark.parametrize(
    ("kernel", "trial"),
    [
        pytest.param(kernel, trial, id=f"{kernel}-{trial.what}")
        for kernel, trials in (TRIALS | COMPOSED).items()
        for trial in trials
        # The others have arrays that no card has room for.
        if trial.choose_blocks is None
    ],
)
def test_a_kernel_computes_what_numpy_does(cupy: ModuleType, kernel: str, trial: Trial) -> None:
    trial.run(OnDevice(cupy))


@pytest.mark.parametrize("size", [(3, 1, 31, 33), (2, 3, 64, 64), (1, 1, 1, 1)])
@pytest.mark.parametrize("unitary", [True, False])
@pytest.mark.usefixtures("cupy")
def test_transforms_are_those_of_numpy(size: tuple[int, ...], unitary: bool) -> None:
    random = np.random.default_rng(0)
    waves = (random.normal(size=size) + 1j * random.normal(size=size)).astype(np.complex64)
    there = backend.to_device(waves, "gpu")
    found = backend.to_host(backend.transform(there.copy(), unitary=unitary))
    expected = np.fft.fft2(waves, norm="ortho" if unitary else "backward")
    np.testing.assert_allclose(found, expected, atol=1e-5 * abs(expected).max())
    back = backend.inverse_transform(backend.transform(there.copy(), unitary=unitary), unitary=unitary)
    factor = 1 if unitary else size[-1] * size[-2]
    np.testing.assert_allclose(backend.to_host(back), factor * waves, rtol=1e-4, atol=1e-5 * factor)


@pytest.mark.parametrize("solver", [lanczos, lobpcg, power])
def test_eigensolvers_find_what_they_find_on_the_host(cupy: ModuleType, solver: Any) -> None:
    frames, reach = 40, 3
    random = np.random.default_rng(0)
    phase = np.exp(1j * random.uniform(-np.pi, np.pi, frames))
    apart = np.arange(frames)[:, None] - np.arange(frames)
    dense = np.where(abs(apart) <= reach, np.exp(-(apart**2) / 4), 0) * np.outer(phase, phase.conj())
    row, column = np.nonzero(dense)
    of_frame = random.uniform(1, 2, frames)
    found = {}
    for device in ("cpu", "gpu"):
        given = (dense[row, column], row, column, of_frame)
        values, i, j, own = (backend.to_device(part, device) for part in given)  # type: ignore[arg-type]
        h = backend.sparse_module(values).csr_array((values, (i, j)), shape=dense.shape)
        normalised = normalise(h, own, "degree")
        pair = solver(normalised.matrix, normalised.consensus.astype(np.complex128), 20)
        found[device] = (pair.value, backend.to_host(pair.vector))
    assert found["gpu"][0] == pytest.approx(found["cpu"][0], abs=1e-6)
    assert abs(np.vdot(found["gpu"][1], found["cpu"][1])) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"sync": dp.Sync("full", every=1)}, {"algorithm": "raar"}],
    ids=["default", "full", "raar"],
)
@pytest.mark.usefixtures("cupy")
def test_a_run_ends_with_the_cpus_image(scan: xr.Dataset, options: dict[str, Any]) -> None:
    # From an object with detail the waves are nowhere zero at the detector: where they are, their phases are
    # what the FFT library's rounding makes them.
    canvas = dp.reconstruct(scan, sweeps=1)["object"].shape
    start = np.exp(1j * np.random.default_rng(0).random(canvas))
    expected = dp.reconstruct(scan, sweeps=5, start=start, **options)
    found = dp.reconstruct(scan, sweeps=5, start=start, device="gpu", **options)
    assert relative_where_lit(found, expected) < CLOSE
    np.testing.assert_allclose(found["residual"], expected["residual"], rtol=1e-2)
