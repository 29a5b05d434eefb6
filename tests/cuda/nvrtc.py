"""NVIDIA's run-time compiler through ctypes: what CuPy would compile, without CuPy, a driver or a GPU.

It comes with the wheel `nvidia-cuda-nvrtc-cu12` of the extra `nvrtc`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Resources", "compile_ptx", "compiler_missing", "compiler_version", "resources_of"]

# What CuPy passes on for a RawModule with `options=("-std=c++17",)`, and the report on registers.
OPTIONS = ["-std=c++17", "-default-device", "--ptxas-options=-v"]


@dataclass(frozen=True)
class Resources:
    """What the assembler gave a kernel."""

    registers: int
    """A thread."""
    shared_bytes: int
    """A block."""
    stack_bytes: int
    spill_bytes: int
    """Stored to and loaded from memory for want of registers, a thread."""


def _library_path() -> Path | None:
    found = importlib.util.find_spec("nvidia")
    folders = [] if found is None else list(found.submodule_search_locations or ())
    paths = [path for folder in folders for path in Path(folder).glob("*/lib/libnvrtc.so.1*")]
    return min(paths, default=None)


def compiler_missing() -> str | None:
    """Why nothing can be compiled here, or None."""
    return None if _library_path() else "NVRTC is not installed (pip install '.[nvrtc]')"


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    path = _library_path()
    if path is None:
        raise ImportError(compiler_missing())
    return ctypes.CDLL(str(path))


def compiler_version() -> str:
    """Of CUDA, such as 12.9."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def compile_ptx(source: str, architecture: int) -> str:
    """The PTX of a source for ``compute_<architecture>``."""
    return _compile(source, f"compute_{architecture}", "PTX")[0]


def resources_of(source: str, architecture: int) -> dict[str, Resources]:
    """What each kernel takes on ``sm_<architecture>``: assembled for the chip, and not run."""
    log = _compile(source, f"sm_{architecture}", "CUBIN")[1]
    found = {}
    for part in log.split("Compiling entry function '")[1:]:

        def number(pattern: str, part: str = part) -> int:
            match = re.search(pattern, part)
            return int(match[1]) if match else 0

        found[part[: part.index("'")]] = Resources(
            registers=number(r"Used (\d+) registers"),
            shared_bytes=number(r"(\d+) bytes smem"),
            stack_bytes=number(r"(\d+) bytes stack frame"),
            spill_bytes=number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        )
    return found


def _compile(source: str, architecture: str, result: str) -> tuple[str, str]:
    """Compiled code (as text, for PTX alone) and the log; RuntimeError with the log where it fails."""
    nvrtc = _nvrtc()
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    options = [option.encode() for option in (f"-arch={architecture}", *OPTIONS)]
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    log = _text(program, "ProgramLog")
    if failed:
        raise RuntimeError(log)
    code = _text(program, result) if result == "PTX" else ""
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return code, log


def _text(program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    getattr(_nvrtc(), f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(_nvrtc(), f"nvrtcGet{what}")(program, buffer)
    return buffer.value.decode()
