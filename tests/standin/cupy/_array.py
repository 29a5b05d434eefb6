"""Device arrays: NumPy arrays behind a wall."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from .transfers import moved, serialised

__all__ = ["behind", "ndarray", "uploaded", "wrapped"]

UFUNCS = {
    *("absolute", "add", "angle", "bitwise_and", "bitwise_or", "conjugate", "equal", "exp", "greater"),
    *(
        "greater_equal",
        "invert",
        "less",
        "less_equal",
        "log1p",
        "logical_not",
        "matmul",
        "maximum",
        "minimum",
    ),
    *("multiply", "negative", "not_equal", "power", "sqrt", "square", "subtract"),
    *("true_divide", "divide"),
}


class ndarray(NDArrayOperatorsMixin):
    """An array on the device. Made by `wrapped`, never by its constructor's arguments in CuPy."""

    def __init__(self, cells: np.ndarray) -> None:
        self._cells = cells

    # What would let NumPy in.

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or ufunc.__name__ not in UFUNCS:
            raise TypeError(f"the stand-in has no {ufunc.__name__}.{method}")
        out = options.pop("out", None)
        given = [behind(value) for value in inputs]
        if out is not None:
            ufunc(*given, out=tuple(behind(array) for array in out), **options)
            return out[0]
        return wrapped(ufunc(*given, **options))

    # Shape and type.

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self._cells.shape, "typestr": self._cells.dtype.str, "version": 3}

    shape = property(lambda self: self._cells.shape)
    dtype = property(lambda self: self._cells.dtype)
    ndim = property(lambda self: self._cells.ndim)
    size = property(lambda self: self._cells.size)
    nbytes = property(lambda self: self._cells.nbytes)
    itemsize = property(lambda self: self._cells.itemsize)
    flags = property(lambda self: self._cells.flags)
    T = property(lambda self: ndarray(self._cells.T))
    real = property(lambda self: ndarray(self._cells.real))
    imag = property(lambda self: ndarray(self._cells.imag))

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, index: Any) -> ndarray:
        return wrapped(self._cells[_index(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._cells[_index(index)] = behind(value)

    # What stays on the device.

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        return ndarray(self._cells.astype(dtype, copy=copy))

    def view(self, dtype: Any) -> ndarray:
        return ndarray(self._cells.view(dtype))

    def copy(self) -> ndarray:
        return ndarray(self._cells.copy())

    def conj(self) -> ndarray:
        return ndarray(self._cells.conj())

    def reshape(self, *shape: Any) -> ndarray:
        return ndarray(self._cells.reshape(*shape))

    def sum(self, axis: Any = None, dtype: Any = None, out: ndarray | None = None) -> ndarray:
        total = wrapped(self._cells.sum(axis=axis, dtype=dtype))
        if out is None:
            return total
        out._cells[...] = total._cells
        return out

    def mean(self) -> ndarray:
        return wrapped(self._cells.mean())

    def max(self) -> ndarray:
        return wrapped(self._cells.max())

    def any(self) -> ndarray:
        return wrapped(self._cells.any())

    # What goes to the host.

    def get(self) -> np.ndarray:
        moved("to host", self.nbytes)
        return self._cells.copy()

    def item(self) -> Any:
        return self.get().item()

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __complex__(self) -> complex:
        return complex(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def __reduce__(self) -> tuple[Any, ...]:
        with serialised():
            return _unpickled, (self.get(),)

    def __repr__(self) -> str:
        return f"stand-in {self._cells!r}"


def _unpickled(cells: np.ndarray) -> ndarray:
    with serialised():
        return uploaded(cells)


def uploaded(array: Any, dtype: Any = None) -> ndarray:
    """A NumPy array, or numbers, copied to the device."""
    cells = np.array(array, dtype=dtype, order="C")
    if not cells.dtype.isnative:
        raise TypeError(f"a GPU knows its own byte order alone; found {cells.dtype.str}")
    moved("to device", cells.nbytes)
    return ndarray(cells)


def behind(value: Any) -> Any:
    """What a device function works on: the cells of device arrays, and scalars as they are."""
    if isinstance(value, ndarray):
        return value._cells
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, list | tuple):
        return type(value)(behind(part) for part in value)
    return value


def wrapped(value: Any) -> Any:
    """A result on the device; what NumPy gives as a scalar is an array without axes."""
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(np.asarray(value))
    return type(value)(wrapped(part) for part in value) if isinstance(value, list | tuple) else value


def _index(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_index(part) for part in index)
    if isinstance(index, np.ndarray):
        # CuPy takes it, and copies it to the device.
        moved("to device", index.nbytes)
        return index
    if isinstance(index, ndarray):
        if index.dtype == bool:
            # How large the result is has to be known on the host.
            moved("to host", 8)
        return index._cells
    return index
