"""dask-cuda's question whether an object holds memory of a GPU, with its answers for what is not cuDF's."""

from __future__ import annotations

from typing import Any

from dask.utils import Dispatch

is_device_object = Dispatch(name="is_device_object")


@is_device_object.register(object)
def has_an_array(held: Any) -> bool:
    return hasattr(held, "__cuda_array_interface__")


@is_device_object.register((list, tuple, set, frozenset))
def any_of(held: Any) -> bool:
    return any(map(is_device_object, held))


@is_device_object.register(dict)
def any_of_the_items(held: dict[Any, Any]) -> bool:
    return any(map(is_device_object, held.items()))
