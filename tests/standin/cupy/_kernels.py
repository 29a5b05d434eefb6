"""CUDA C, run on an emulation of its execution model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tests.cuda.emulation import compile_source

from ._array import behind, ndarray
from .transfers import launched

__all__ = ["RawModule"]

compiled = functools.cache(compile_source)


class RawModule:
    """A source with kernels; compiled when one of them is first launched, as CuPy does."""

    def __init__(self, *, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        self._code = code

    def get_function(self, name: str) -> Callable[..., None]:
        def kernel(grid: Sequence[int], block: Sequence[int], args: Sequence[Any]) -> None:
            launched(name)
            compiled(self._code).launch(name, grid, block, [_argument(value) for value in args])

        return kernel


def _argument(value: Any) -> Any:
    if isinstance(value, ndarray) and not value.flags.c_contiguous:
        # CuPy passes the address alone: the kernel would read other elements.
        raise ValueError("an array that is not contiguous as the argument of a kernel")
    return behind(value)
