"""How this package puts a function into a dask task. Only `graph` and its parts call this module."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import dask.base
from dask.delayed import Delayed, delayed

__all__ = ["persisted", "place", "task"]


def task(function: Callable[..., Any], *arguments: Any, **options: Any) -> Delayed:
    """One task, named after its function so that Dask's dashboard tells what runs.

    The arguments are delayed values, lists of them, or plain Python values: hashing them to find
    equal tasks would cost more than it saves, since no task of a sweep repeats.
    """
    key = f"{function.__name__.strip('_').replace('_', '-')}-{uuid.uuid4().hex}"
    return delayed(function, pure=False)(*arguments, dask_key_name=key, **options)


def _itself(value: Any) -> Any:
    return value


def place(value: Any) -> Delayed:
    """A value put where tasks can take it from, once, rather than into every graph."""
    return task(_itself, delayed(value, traverse=False))


def persisted(state: Any) -> Any:
    """The same lists and dataclasses, their delayed values computed and kept by the scheduler in use."""
    return dask.base.persist(state)[0]
