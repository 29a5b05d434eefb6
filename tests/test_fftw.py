"""FFTW's transforms against NumPy's."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyfftw", reason="comes with daskptycho[fftw]")

from daskptycho import fftw

NORMS = st.sampled_from(["backward", "ortho", "forward"])
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 12), st.integers(1, 12))


@settings(max_examples=80)
@given(shape=SHAPES, norm=NORMS, inverse=st.booleans(), overwrite=st.booleans(), shifted=st.integers(0, 1))
def test_transforms_are_numpys(
    shape: tuple[int, ...], norm: str, inverse: bool, overwrite: bool, shifted: int
) -> None:
    random = np.random.default_rng(sum(shape))
    # One pixel further on, the memory is not as FFTW would have it.
    memory = random.normal(size=(np.prod(shape) + shifted, 2)).astype(np.float32).view(np.complex64)
    wave = memory[shifted:].reshape(shape)
    given_, name = wave.copy(), "ifft2" if inverse else "fft2"
    found = getattr(fftw, name)(wave, norm=norm, overwrite_x=overwrite)
    expected = getattr(np.fft, name)(given_, norm=norm)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.linalg.norm(expected))
    assert found.dtype == np.complex64
    assert np.shares_memory(found, wave) == overwrite
    assert overwrite or (wave == given_).all()


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_other_numbers_keep_their_precision(dtype: type) -> None:
    wave = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(dtype)
    expected = np.fft.fft2(wave)
    found = fftw.fft2(wave, overwrite_x=True)
    assert found.dtype == np.result_type(dtype, np.complex64)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)


def test_threads_do_not_meet_in_one_plan() -> None:
    waves = np.random.default_rng(1).normal(size=(64, 2, 16, 16)).astype(np.complex64)
    expected = np.fft.fft2(waves)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(fftw.fft2, [*waves] * 8))
    for number, one in enumerate(found):
        np.testing.assert_allclose(one, expected[number % len(waves)], atol=1e-3)


def test_every_process_transforms_alike() -> None:
    """A run that goes on in another process ends with the same image."""
    told = """
import hashlib, numpy as np
from daskptycho.fftw import fft2, ifft2
wave = np.random.default_rng(0).normal(size=(2, 128, 128, 2)).astype(np.float32).view(np.complex64)[..., 0]
print(hashlib.sha256(ifft2(fft2(wave)).tobytes()).hexdigest())
"""
    runs = [subprocess.run([sys.executable, "-c", told], capture_output=True, text=True) for _ in range(3)]
    assert [run.stderr for run in runs] == ["", "", ""]
    assert len({run.stdout for run in runs}) == 1
