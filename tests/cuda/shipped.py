"""The functions of `daskptycho.gpu_kernels` on NumPy arrays, their kernels launched on the emulation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from daskptycho import gpu_kernels
from tests.cuda.emulation import Compiled

__all__ = ["SOURCE", "ChooseBlocks", "kernels_on"]

SOURCE = gpu_kernels.SOURCE

ChooseBlocks = Callable[[tuple[int, ...]], Sequence[int]]


@dataclass(frozen=True)
class _Module:
    """What `gpu_kernels` asks of a `cupy.RawModule`."""

    compiled: Compiled
    seed: int
    choose_blocks: ChooseBlocks | None

    def get_function(self, name: str) -> Callable[..., None]:
        def launch(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
            blocks = None if self.choose_blocks is None else self.choose_blocks(grid)
            self.compiled.launch(name, grid, block, args, seed=self.seed, blocks=blocks)

        return launch


def _cupy() -> ModuleType:
    """The little of CuPy that `gpu_kernels` uses, on NumPy arrays; new memory is full of NaN."""
    module = ModuleType("cupy")
    module.asarray = np.asarray  # type: ignore[attr-defined]
    module.empty = lambda shape, dtype: np.full(shape, np.nan, dtype)  # type: ignore[attr-defined]
    module.empty_like = lambda like: np.full(like.shape, np.nan, like.dtype)  # type: ignore[attr-defined]
    for name in ("copyto", "sqrt", "subtract"):
        setattr(module, name, getattr(np, name))
    module.cuda = SimpleNamespace(Device=lambda: SimpleNamespace(id=0))  # type: ignore[attr-defined]
    return module


@contextmanager
def kernels_on(
    compiled: Compiled, seed: int = 0, choose_blocks: ChooseBlocks | None = None
) -> Iterator[ModuleType]:
    """`gpu_kernels` with these kernels and this schedule.

    Parameters
    ----------
    compiled : Compiled
    seed : int
        See `Compiled.launch`.
    choose_blocks : callable, optional
        From a grid, the numbers of the blocks to run: for arrays too large to be run over as a whole.
    """
    module = _Module(compiled, seed, choose_blocks)
    with _imported_as_cupy(_cupy()), mock.patch.object(gpu_kernels, "_module", return_value=module):
        # Tables of another device would be no arrays here, and these none there.
        gpu_kernels._tables.cache_clear()
        yield gpu_kernels
        gpu_kernels._tables.cache_clear()


@contextmanager
def _imported_as_cupy(module: ModuleType) -> Iterator[None]:
    # `mock.patch.dict` would also forget every module that is imported meanwhile.
    before = sys.modules.get("cupy")
    sys.modules["cupy"] = module
    try:
        yield
    finally:
        del sys.modules["cupy"]
        if before is not None:
            sys.modules["cupy"] = before
