"""How this package puts functions into Dask tasks: values that know their task, and a graph when needed.

`task` makes a value from a function and other values; `persist` writes the graph of all that its argument
needs, in the classes of Dask's own specification of graphs, and has the scheduler in use compute it.
`dask.delayed` would merge, and where a list is among the arguments also cull, all of the graph so far at
every call: time that grows as the square of a sweep's tasks.

On a cluster every tile has a home: a task runs where the first of its arguments lives that has one, unless
that worker is gone. Left to itself the scheduler sends whole tiles to whoever is idle for a moment, several
times the bytes of the strips (docs/scale.md); a scheduler that is started with `STAY_AT_HOME` does not.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
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
    "find_workers_of",
    "futures_in",
    "in_one_process",
    "persist",
    "place",
    "substitute",
    "task",
    "values_in",
]


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A value that a task computes, or that the scheduler in use has.

    Attributes
    ----------
    key : str
        Of the task.
    node : GraphNode
        The task; None where the value is kept.
    needs : tuple of Value
        The values that the task needs.
    home : Home or None
        Where it is computed.
    kept : future or any value
        What the scheduler has, or is about to have.
    """

    key: Any
    node: GraphNode | None
    needs: tuple[Value, ...] = ()
    home: Home | None = None
    kept: Any = None


def task(
    function: Callable[..., Any], *arguments: Any, home: Home | None = None, name: str | None = None
) -> Value:
    """One task, named after its function so that Dask's dashboard shows what runs.

    Parameters
    ----------
    function : callable
    *arguments : any
        Values, lists and named tuples of them, or plain Python values: hashing these to find equal tasks
        would cost more than it saves, since no task of a sweep repeats.
    home : Home, optional
        Where it runs; where the first of the arguments lives that has one, unless given.
    name : str, optional
        In place of the function's.
    """
    needs: list[Value] = []
    given = [_reference(argument, needs) for argument in arguments]
    if home is None:
        home = next((own.home for own in needs if own.home is not None), None)
    key = _make_key(name or function.__name__.strip("_").replace("_", "-"))
    return Value(key, Task(key, function, *given), tuple(needs), home)


def _reference(argument: Any, needs: list[Value]) -> Any:
    """The argument as a task names it; what it needs is noted."""
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
    """A value put where tasks can take it from, once, rather than into every graph."""
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
    """The same lists, tuples, dictionaries and dataclasses with what is done in place of its values."""
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
    """Every value that these need, themselves among them."""
    needed: dict[Any, Value] = {}
    pending = list(ends)
    while pending:
        value = pending.pop()
        if value.key not in needed:
            needed[value.key] = value
            pending.extend(value.needs)
    return needed


def count_tasks(content: Any, given: Any) -> int:
    """Tasks that the values in `content` need beyond what is `given`."""
    before = _collect_needed(list(values_in(given)))
    return len(set(_collect_needed(list(values_in(content)))) - set(before))


class _Collection:
    """Values as one Dask collection: persisted with one graph rather than one for each."""

    __dask_scheduler__ = staticmethod(threaded_get)

    def __init__(self, graph: Mapping[Any, Any], keys: list[Any]) -> None:
        self._graph, self._keys = graph, keys
        self._name = uuid.uuid4().hex

    @staticmethod
    def __dask_optimize__(graph: Any, keys: Any, **options: Any) -> Any:
        # Every task is wanted as it is, where it is.
        return graph

    def __dask_tokenize__(self) -> str:
        # Without a name of its own, Dask would pickle every array of the graph to make one, at every sweep.
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
    """The value in a graph: its task, or what is kept of it."""
    if value.node is not None:
        return value.node
    return value.kept if isinstance(value.kept, Future) else DataNode(value.key, value.kept)


def _make_graph(needed: Mapping[Any, Value], homes: Homes | None) -> HighLevelGraph:
    """The tasks of each worker as a layer that runs there, and one for those without a home."""
    by_address: dict[str, dict[Any, Any]] = {}
    for value in needed.values():
        at_home = homes is not None and value.home is not None and value.node is not None
        address = (
            homes.address(value.home) if at_home and homes is not None and value.home is not None else ""
        )
        by_address.setdefault(address, {})[value.key] = _make_entry(value)
    layers = {
        # Whoever has lost its worker may run elsewhere.
        address or "anywhere": MaterializedLayer(
            tasks, annotations={"workers": [address], "allow_other_workers": True} if address else None
        )
        for address, tasks in by_address.items()
    }
    return HighLevelGraph(layers, {name: set() for name in layers})


def persist(content: Any) -> Any:
    """The same lists, tuples and dataclasses, their values computed and kept by the scheduler in use."""
    ends = {value.key: value for value in values_in(content)}
    new = [value for value in ends.values() if value.node is not None]
    if not new:
        return content
    needed = _collect_needed(new)
    homes = find_homes() if any(value.home is not None for value in new) else None
    (together,) = dask.base.persist(_Collection(_make_graph(needed, homes), [value.key for value in new]))
    found = together.__dask_graph__()
    done = {value.key: Value(value.key, None, (), value.home, found[value.key]) for value in new}
    return substitute(content, ends | done)


def futures_in(content: Any) -> dict[Any, Any]:
    """What the scheduler in use keeps of values that are persisted, by key."""
    return {value.key: value.kept for value in values_in(content)}


def find_workers_of(values: Sequence[Value]) -> list[str]:
    """Address of the worker where each persisted value lies, as far as a cluster knows; else empty."""
    client = current_client()
    if client is None:
        return [""] * len(values)
    found = client.who_has([value.kept for value in values])
    return [next(iter(found.get(value.key, ())), "") for value in values]


def in_one_process(tiles: int) -> Callable[[int, int], bool]:
    """A function that says whether two of this number of tiles are at home in one process now."""
    homes = find_homes()
    return lambda first, second: (
        homes is None or homes.address(Home(first, tiles)) == homes.address(Home(second, tiles))
    )
