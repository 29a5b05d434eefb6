"""CUDA C source compiled by g++ and run on NumPy arrays, on the execution model of `execution.h`.

    compiled = compile_source(source)
    compiled.launch("kernel", grid, block, arguments, seed=2)

The source is the very string that a GPU's compiler gets. Arguments are held to what CuPy asks for: arrays
contiguous and of the parameter's type, scalars as wide as the parameter. Each array is moved to memory of
its own with nothing beside it for the time of the launch, so that a kernel which leaves it fails.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.cuda.memory import fenced, is_fenced

__all__ = ["Compiled", "KernelError", "compile_source", "compiler_missing", "kernel_names"]

HERE = Path(__file__).parent

# What a GPU's compiler may do in its own way must not hide a fault: no vectors, no fused multiply-add.
FLAGS = ["-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-ffp-contract=off", "-fno-strict-aliasing"]
FLAGS += ["-w", "-U_FORTIFY_SOURCE", f"-I{HERE}"]
# Without its library UBSan traps, which the execution model turns into an error with its line. Code that is
# not optimised is compiled sooner and loses nothing that could be noticed.
SANITISE = ["-O0", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]

MOST_THREADS = 1024
MOST_BLOCKS = (2**31 - 1, 65535, 65535)

# A library has one set of fibers, and the handlers of faults belong to the process.
_one_at_a_time = threading.Lock()
_folder = tempfile.TemporaryDirectory(prefix="emulated-cuda-")
_numbers = iter(range(10**9))


class KernelError(Exception):
    """A kernel that does not compile, is called wrongly, or did what a GPU leaves undefined."""


def compiler_missing() -> str | None:
    """Why nothing can be compiled here, or None."""
    if sys.platform != "linux":
        return "the emulation of CUDA needs Linux"
    return None if shutil.which("g++") else "g++ is not installed (Debian's package g++)"


def kernel_names(source: str) -> list[str]:
    """Names of the kernels in a source, in their order."""
    return re.findall(r'extern "C" __global__ void\s+(?:__launch_bounds__\([\d, ]+\)\s+)?(\w+)\s*\(', source)


@dataclass(frozen=True)
class Compiled:
    """Kernels that can be launched."""

    path: Path
    library: ctypes.CDLL
    names: list[str]

    def parameters(self, name: str) -> list[str]:
        """Kinds of a kernel's parameters in NumPy's codes, such as i4, c8* and const c8*."""
        buffer = ctypes.create_string_buffer(1024)
        self.library[f"parameters_of_{name}"](buffer, ctypes.c_size_t(len(buffer)))
        return [kind for kind in buffer.value.decode().split(",") if kind]

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        *,
        seed: int = 0,
        blocks: Sequence[int] | None = None,
    ) -> None:
        """Run a kernel; arrays are written in place.

        Parameters
        ----------
        name : str
        grid, block : up to three numbers
        args : arrays and NumPy scalars
        seed : int
            Of the schedule. 0: blocks, warps and lanes in their order, 1: in the opposite one, else at
            random.
        blocks : sequence of int, optional
            Run these blocks of the grid alone, by their number with x the fastest.
        """
        if name not in self.names:
            raise KernelError(f"no kernel {name!r}; there are {', '.join(self.names)}")
        sizes = _launch_sizes(name, grid, block)
        kinds = self.parameters(name)
        if len(args) != len(kinds):
            raise KernelError(f"{name}: {len(args)} arguments for {len(kinds)} parameters")
        for number, (value, kind) in enumerate(zip(args, kinds, strict=True)):
            _check(f"{name}, argument {number}", value, kind)
        order = _order(np.prod(sizes[0]), blocks, seed)
        held = [_on_device(value) for value in args]
        cells = [_cell(value) for value in held]
        values = (ctypes.c_void_p * len(cells))(*(ctypes.addressof(cell) for cell in cells))
        launch = self.library[f"launch_{name}"]
        launch.restype = ctypes.c_bool
        with _one_at_a_time:
            well = launch(
                values,
                (ctypes.c_uint * 3)(*sizes[0]),
                (ctypes.c_uint * 3)(*sizes[1]),
                order.ctypes.data_as(ctypes.c_void_p),
                ctypes.c_int64(len(order)),
                ctypes.c_uint(seed),
            )
            said = "" if well else self._said()
        if said:
            raise KernelError(f"{name}: {said}")
        for value, copy, kind in zip(args, held, kinds, strict=True):
            if _is_output(value, kind) and value is not copy:
                value[...] = copy

    def _said(self) -> str:
        message, fault = self.library.emulated_message, self.library.emulated_fault
        message.restype, fault.restype = ctypes.c_char_p, ctypes.c_uint64
        said = message().decode()
        if at := fault():
            found = subprocess.run(
                ["addr2line", "-e", str(self.path), hex(at)], capture_output=True, text=True, check=False
            )
            said += f" at {Path(found.stdout.strip()).name}"
        return said


def compile_source(source: str, *, sanitise: bool = False) -> Compiled:
    """Compile CUDA C source for the execution model.

    Parameters
    ----------
    source : str
    sanitise : bool
        Have UBSan watch over it.

    Raises
    ------
    KernelError
        With what the compiler said.
    """
    names = kernel_names(source)
    text = "\n".join(
        ['#include "language.h"', '#line 1 "kernel.cu"', source, *(f"EMULATED({name})" for name in names)]
    )
    path = Path(_folder.name) / f"{next(_numbers)}.so"
    done = subprocess.run(
        ["g++", *FLAGS, *(SANITISE if sanitise else []), "-xc++", "-", "-o", str(path), "-ldl"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise KernelError(done.stderr[:4000])
    return Compiled(path, ctypes.CDLL(str(path)), names)


def _launch_sizes(
    name: str, grid: Sequence[int], block: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    blocks = (*map(int, grid), 1, 1)[:3]
    threads = (*map(int, block), 1, 1)[:3]
    if not all(0 < own <= most for own, most in zip(blocks, MOST_BLOCKS, strict=True)):
        raise KernelError(f"{name}: a grid of {blocks} blocks; expected at least one and up to {MOST_BLOCKS}")
    if not 0 < np.prod(threads) <= MOST_THREADS:
        raise KernelError(f"{name}: blocks of {threads} threads; expected 1 to {MOST_THREADS} in all")
    return blocks, threads


def _order(count: int, blocks: Sequence[int] | None, seed: int) -> NDArray[np.int64]:
    order = np.arange(count) if blocks is None else np.asarray(blocks, dtype=np.int64)
    if seed == 1:
        order = order[::-1]
    elif seed > 1:
        order = np.random.default_rng(seed).permutation(order)
    return np.ascontiguousarray(order)


def _check(where: str, value: Any, kind: str) -> None:
    """Hold an argument to its parameter, as a real launch does not."""
    if kind.endswith("*"):
        element = kind.removeprefix("const ").removesuffix("*")
        if not isinstance(value, np.ndarray):
            raise KernelError(f"{where}: a {type(value).__name__} for a pointer")
        if element != "any" and value.dtype != np.dtype(element):
            raise KernelError(f"{where}: an array of {value.dtype} for a pointer to {np.dtype(element)}")
        if not value.flags.c_contiguous:
            raise KernelError(f"{where}: an array that is not contiguous")
    elif not isinstance(value, np.generic):
        # CuPy would pass a Python number in 64 bits.
        raise KernelError(f"{where}: a {type(value).__name__}; expected a NumPy scalar of {np.dtype(kind)}")
    elif value.dtype != np.dtype(kind):
        raise KernelError(f"{where}: a scalar of {value.dtype} for a parameter of {np.dtype(kind)}")


def _is_output(value: Any, kind: str) -> bool:
    if not kind.endswith("*") or kind.startswith("const"):
        return False
    # Where the parameter does not tell what is written to, the array may.
    return kind != "any*" or value.flags.writeable


def _on_device(value: Any) -> Any:
    if not isinstance(value, np.ndarray) or is_fenced(value):
        return value
    copy = fenced(value.shape, value.dtype)
    copy[...] = value
    return copy


def _cell(value: Any) -> Any:
    """Memory that holds a parameter's value: an address or a scalar."""
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    return ctypes.create_string_buffer(value.tobytes(), value.nbytes)
