"""Dask tasks as values: `task` puts a function into a task, and `persist` has the scheduler compute values.

A `Value` refers to its task and to the values that this needs. `persist` makes one graph of all tasks that
its argument needs, in the classes of Dask's task specification. `dask.delayed` would merge, and for lists of
arguments also cull, the whole graph at every call, in a time proportional to the square of the number of
tasks.

On a cluster every tile has a home, which is one of the workers. A task runs at the home of the first of its
arguments that has one, unless that worker is gone. By default Dask's scheduler moves whole tiles to workers
that are idle for a moment, several times the bytes of the strips (docs/scale.md). A scheduler started with
`STAY_AT_HOME` does not.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import groupby
from typing import Any

import dask.base
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.task_spec import DataNode, GraphNode, List, Task, TaskRef
from dask.threaded import get as threaded_get
from distributed import Future

from daskptycho.cluster.client import Home, Homes, current_client, find_homes

__all__ = [
    "Home",
    "Value",
    "count_tasks",
    "find_processes",
    "find_workers_of",
    "flatten",
    "futures_in",
    "gather",
    "persist",
    "place",
    "substitute",
    "task",
    "values_in",
]


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A value that a task computes, or that is persisted.

    Attributes
    ----------
    key : str
        Key of the task.
    node : GraphNode or None
        The task; None if the value is persisted.
    needs : tuple of Value
        The values that the task needs.
    home : Home or None
        Where it is computed.
    kept : distributed.Future or any value
        The persisted value: a future on a cluster, the value itself without one.
    """

    key: Any
    node: GraphNode | None
    needs: tuple[Value, ...] = ()
    home: Home | None = None
    kept: Any = None


def task(
    function: Callable[..., Any], *arguments: Any, home: Home | None = None, name: str | None = None
) -> Value:
    """Put a function into a task, named after the function for Dask's dashboard.

    Parameters
    ----------
    function : callable
    *arguments : any
        Values, lists and named tuples of them, or plain Python objects. Arguments are not hashed to find
        equal tasks, since no task of a sweep is repeated.
    home : Home, optional
        Where it runs; by default the home of the first argument that has one.
    name : str, optional
        Name in place of the function's.
    """
    needs: list[Value] = []
    references = [_reference(argument, needs) for argument in arguments]
    if home is None:
        home = next((need.home for need in needs if need.home is not None), None)
    key = _make_key(name or function.__name__.strip("_").replace("_", "-"))
    return Value(key, Task(key, function, *references), tuple(needs), home)


def _reference(argument: Any, needs: list[Value]) -> Any:
    """The argument with references in place of values, which are added to `needs`."""
    if isinstance(argument, Value):
        needs.append(argument)
        return TaskRef(argument.key)
    if isinstance(argument, list):
        return List(*(_reference(part, needs) for part in argument))
    if isinstance(argument, tuple) and any(True for _ in values_in(argument)):
        parts = [_reference(part, needs) for part in argument]
        return Task(None, type(argument), *parts) if hasattr(argument, "_fields") else List(*parts)
    return argument


def place(content: Any, home: Home | None = None) -> Value:
    """Make a value of an object, so that it is sent once rather than with every task that uses it."""
    key = _make_key("place")
    return Value(key, DataNode(key, content), (), home)


def _make_key(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex}"


def values_in(content: Any) -> Iterator[Value]:
    """The values among lists, tuples, dictionaries and dataclasses of them."""
    if isinstance(content, Value):
        yield content
    elif isinstance(content, list | tuple):
        for part in content:
            yield from values_in(part)
    elif isinstance(content, dict):
        for part in content.values():
            yield from values_in(part)
    elif is_dataclass(content):
        for part in fields(content):
            yield from values_in(getattr(content, part.name))


def substitute(content: Any, done: Mapping[Any, Any]) -> Any:
    """Replace values among lists, tuples, dictionaries and dataclasses by the entries of `done`, by key."""
    if isinstance(content, Value):
        return done[content.key]
    if not any(True for _ in values_in(content)):
        return content
    if isinstance(content, list):
        return [substitute(part, done) for part in content]
    if isinstance(content, tuple):
        parts = [substitute(part, done) for part in content]
        return type(content)(*parts) if hasattr(content, "_fields") else tuple(parts)
    if isinstance(content, dict):
        return {name: substitute(part, done) for name, part in content.items()}
    changed = {part.name: substitute(getattr(content, part.name), done) for part in fields(content)}
    return replace(content, **changed)


def _collect_needed(ends: Sequence[Value]) -> dict[Any, Value]:
    """These values and all values that they need, by key."""
    needed: dict[Any, Value] = {}
    pending = list(ends)
    while pending:
        value = pending.pop()
        if value.key not in needed:
            needed[value.key] = value
            pending.extend(value.needs)
    return needed


def count_tasks(content: Any, given: Any) -> int:
    """Number of tasks that the values in `content` need in addition to those in `given`."""
    before = _collect_needed(list(values_in(given)))
    return len(set(_collect_needed(list(values_in(content)))) - set(before))


class _Collection:
    """Several values as one Dask collection, to be persisted in one graph."""

    __dask_scheduler__ = staticmethod(threaded_get)

    def __init__(self, graph: Mapping[Any, Any], keys: list[Any]) -> None:
        self._graph, self._keys = graph, keys
        self._name = uuid.uuid4().hex

    @staticmethod
    def __dask_optimize__(graph: Any, keys: Any, **options: Any) -> Any:
        # Tasks must not be fused: each has its home.
        return graph

    def __dask_tokenize__(self) -> str:
        # Without this name, Dask would pickle every array of the graph to make one, at every sweep.
        return self._name

    def __dask_graph__(self) -> Mapping[Any, Any]:
        return self._graph

    def __dask_layers__(self) -> tuple[str, ...]:
        return tuple(self._graph.layers) if isinstance(self._graph, HighLevelGraph) else ()

    def __dask_keys__(self) -> list[Any]:
        return self._keys

    def __dask_postcompute__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return list, ()

    def __dask_postpersist__(self) -> tuple[Callable[..., Any], tuple[list[Any]]]:
        return _Collection, (self._keys,)


def _make_entry(value: Value) -> Any:
    """The entry of a value in a graph: its task, or the persisted value."""
    if value.node is not None:
        return value.node
    return value.kept if isinstance(value.kept, Future) else DataNode(value.key, value.kept)


def _make_graph(needed: Mapping[Any, Value], homes: Homes | None) -> HighLevelGraph:
    """Make a graph with one layer for the tasks of each worker, and one for tasks without a home."""
    by_address: dict[str, dict[Any, Any]] = {}
    for value in needed.values():
        at_home = homes is not None and value.home is not None and value.node is not None
        address = (
            homes.address(value.home) if at_home and homes is not None and value.home is not None else ""
        )
        by_address.setdefault(address, {})[value.key] = _make_entry(value)
    layers = {
        # Other workers are allowed, in case this one is lost.
        address or "anywhere": MaterializedLayer(
            tasks, annotations={"workers": [address], "allow_other_workers": True} if address else None
        )
        for address, tasks in by_address.items()
    }
    return HighLevelGraph(layers, {name: set() for name in layers})


def persist(content: Any) -> Any:
    """Have the scheduler in use compute all values among lists, tuples, dictionaries and dataclasses.

    Returns
    -------
    The same content with persisted values. On a cluster their computation has only begun.
    """
    ends = {value.key: value for value in values_in(content)}
    new = [value for value in ends.values() if value.node is not None]
    if not new:
        return content
    needed = _collect_needed(new)
    homes = find_homes() if any(value.home is not None for value in new) else None
    (together,) = dask.base.persist(_Collection(_make_graph(needed, homes), [value.key for value in new]))
    results = together.__dask_graph__()
    done = {value.key: Value(value.key, None, (), value.home, results[value.key]) for value in new}
    return substitute(content, ends | done)


def futures_in(content: Any) -> dict[Any, Any]:
    """The future, or without a cluster the result, of each persisted value, by key."""
    return {value.key: value.kept for value in values_in(content)}


def find_workers_of(values: Sequence[Value]) -> list[str]:
    """Address of a worker that holds each persisted value; an empty string if that is not known."""
    client = current_client()
    if client is None:
        return [""] * len(values)
    holders = client.who_has([value.kept for value in values])
    return [next(iter(holders.get(value.key, ())), "") for value in values]


def find_processes(tiles: int) -> list[str]:
    """Address of the worker that is the home of each of so many tiles now; empty strings without a cluster.

    Tiles of the same worker follow each other.
    """
    homes = find_homes()
    return ["" if homes is None else homes.address(Home(tile, tiles)) for tile in range(tiles)]


def gather(values: list[Value], shorten: Callable[[list[Any]], list[Any]]) -> list[Value]:
    """Make the input of one task for all tiles, which `flatten` turns into one entry for each tile.

    Parameters
    ----------
    values : list of Value
        One for each tile.
    shorten : callable
        Makes a list of what is sent from a list of such values. It runs in one task for each process but that
        of the first tile, whose values are taken as they are.
    """
    gathered: list[Value] = []
    of_tiles = zip(find_processes(len(values)), values, strict=True)
    for _, group in groupby(of_tiles, key=lambda of_tile: of_tile[0]):
        own = [value for _, value in group]
        gathered += [task(shorten, own)] if gathered else own
    return gathered


def flatten(gathered: list[Any]) -> list[Any]:
    """The entries of all tiles, in the task that `gather` has made its input for."""
    return [entry for part in gathered for entry in (part if isinstance(part, list) else [part])]
