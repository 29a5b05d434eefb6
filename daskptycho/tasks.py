"""How this package puts a function into a dask task. `graph` and its parts, and the run, call this module.

A task here knows the values it needs, and the graph, in the classes of Dask's own specification of graphs,
is written down only when something is computed.
`dask.delayed` would merge, and where a list is among the arguments also cull, all of the graph so far
at every call: time that grows as the square of a sweep's tasks.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import dask.base
from dask._task_spec import DataNode, GraphNode, List, Task, TaskRef
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.threaded import get as threaded_get

__all__ = ["cluster", "persisted", "place", "task"]


class _Node(Delayed):
    """A delayed value that knows its own task and the values that this needs."""

    __slots__ = ("_needs", "_node")

    def __init__(self, node: GraphNode, needs: Sequence[Delayed]) -> None:
        super().__init__(node.key, None)
        object.__setattr__(self, "_node", node)
        object.__setattr__(self, "_needs", needs)

    @property
    def dask(self) -> HighLevelGraph:
        return _one_layer(self.key, _graph([self]))


def _one_layer(key: str, graph: Mapping[str, Any]) -> HighLevelGraph:
    return HighLevelGraph({key: MaterializedLayer(dict(graph))}, {key: set()})


def _graph(ends: Sequence[Delayed]) -> dict[str, Any]:
    """Every task that these values need."""
    graph: dict[str, Any] = {}
    pending = list(ends)
    while pending:
        value = pending.pop()
        if value.key in graph:
            continue
        if isinstance(value, _Node):
            graph[value.key] = value._node
            pending.extend(value._needs)
        else:
            graph.update(value.dask)
    return graph


def task(function: Callable[..., Any], *arguments: Any, **options: Any) -> Delayed:
    """One task, named after its function so that Dask's dashboard tells what runs.

    The arguments are delayed values, lists of them, or plain Python values: hashing them to find
    equal tasks would cost more than it saves, since no task of a sweep repeats.
    """
    needs: list[Delayed] = []

    key = f"{function.__name__.strip('_').replace('_', '-')}-{uuid.uuid4().hex}"
    given = {name: _referred(value, needs) for name, value in options.items()}
    own = [_referred(value, needs) for value in arguments]
    return _Node(Task(key, function, *own, **given), needs)


def _referred(value: Any, needs: list[Delayed]) -> Any:
    """The value as a task names it; what it needs is noted."""
    if isinstance(value, Delayed):
        needs.append(value)
        return TaskRef(value.key)
    return List(*(_referred(part, needs) for part in value)) if isinstance(value, list) else value


def place(value: Any) -> Delayed:
    """A value put where tasks can take it from, once, rather than into every graph."""
    return _Node(DataNode(f"place-{uuid.uuid4().hex}", value), ())


def cluster() -> Any:
    """The ``distributed.Client`` that tasks run on, or None where they run in this process."""
    client = getattr(dask.base.get_scheduler(), "__self__", None)
    return client if hasattr(client, "persist") else None


class _Together:
    """Delayed values as one dask collection: persisted with one graph rather than one for each."""

    __dask_scheduler__ = staticmethod(threaded_get)
    __dask_optimize__ = None

    def __init__(self, graph: Mapping[str, Any], keys: list[str]) -> None:
        self._graph, self._keys = graph, keys

    def __dask_graph__(self) -> Mapping[str, Any]:
        return self._graph

    def __dask_keys__(self) -> list[str]:
        return self._keys

    def __dask_postcompute__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return list, ()

    def __dask_postpersist__(self) -> tuple[Callable[..., Any], tuple[list[str]]]:
        return _Together, (self._keys,)


def _delayed_in(value: Any) -> Iterator[Delayed]:
    if isinstance(value, Delayed):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _delayed_in(part)
    elif is_dataclass(value):
        for part in fields(value):
            yield from _delayed_in(getattr(value, part.name))


def _exchanged(value: Any, done: Mapping[str, Delayed]) -> Any:
    if isinstance(value, Delayed):
        return done[value.key]
    if not any(True for _ in _delayed_in(value)):
        return value
    if isinstance(value, list | tuple):
        return type(value)(_exchanged(part, done) for part in value)
    return replace(
        value, **{part.name: _exchanged(getattr(value, part.name), done) for part in fields(value)}
    )


def persisted(state: Any) -> Any:
    """The same lists and dataclasses, their delayed values computed and kept by the scheduler in use."""
    ends = {value.key: value for value in _delayed_in(state)}
    new = [value for value in ends.values() if isinstance(value, _Node)]
    (together,) = dask.base.persist(_Together(_graph(new), [value.key for value in new]))
    values = together.__dask_graph__()
    done = ends | {
        value.key: Delayed(value.key, _one_layer(value.key, {value.key: values[value.key]})) for value in new
    }
    return _exchanged(state, done)
