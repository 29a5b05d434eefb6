"""How device arrays travel between Dask workers: through the host, as CuPy's do over TCP."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from distributed.protocol.serialize import dask_deserialize, dask_serialize

from ._array import ndarray, uploaded
from .transfers import serialised

__all__ = ["serialise"]


# In place of distributed's own code for CuPy, which asks for pointers into a GPU.
sys.modules["distributed.protocol.cupy"] = sys.modules[__name__]


@dask_serialize.register(ndarray)
def serialise(array: ndarray) -> tuple[dict[str, Any], list[memoryview]]:
    with serialised():
        cells = np.ascontiguousarray(array.get())
    return {"shape": cells.shape, "dtype": cells.dtype.str}, [memoryview(cells.reshape(-1).view(np.uint8))]


@dask_deserialize.register(ndarray)
def _arrived(header: dict[str, Any], frames: list[Any]) -> ndarray:
    (frame,) = frames
    cells = np.frombuffer(frame, dtype=header["dtype"]).reshape(header["shape"])
    with serialised():
        return uploaded(cells)
