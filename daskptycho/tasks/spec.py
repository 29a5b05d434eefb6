"""How this package puts a function into a dask task. `graph` and its parts, and the run, call this module.

A task here knows the values it needs, and the graph, in the classes of Dask's own specification of graphs,
is written down only when something is computed.
`dask.delayed` would merge, and where a list is among the arguments also cull, all of the graph so far
at every call: time that grows as the square of a sweep's tasks.

On a cluster every tile has a home: a task runs where the first of its arguments lives that has one, unless
that worker is gone. Left to itself the scheduler sends whole tiles to whoever is idle for a moment, several
times the bytes of the strips (docs/scale.md); a scheduler that is started with `STAY_AT_HOME` does not.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple

import dask.base
from dask._task_spec import DataNode, GraphNode, List, Task, TaskRef
from dask.base import annotate
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.threaded import get as threaded_get
from distributed import Client, span

from daskptycho.tiling import assign_worker

__all__ = [
    "STAY_AT_HOME",
    "Home",
    "as_one_run",
    "count_tasks",
    "current_client",
    "exchanged",
    "futures_in",
    "homes",
    "persisted",
    "place",
    "task",
    "together",
]

# Dask's settings for a scheduler whose workers share a run's tiles evenly.
STAY_AT_HOME = {"distributed.scheduler.work-stealing": False}


class Home(NamedTuple):
    """Beside which tile a task runs, and of how many."""

    tile: int
    tiles: int


class _Node(Delayed):
    """A delayed value that knows its own task and the values that this needs."""

    __slots__ = ("_home", "_needs", "_node")

    def __init__(self, node: GraphNode, needs: Sequence[Delayed], home: Home | None) -> None:
        super().__init__(node.key, None)
        object.__setattr__(self, "_node", node)
        object.__setattr__(self, "_needs", needs)
        object.__setattr__(self, "_home", home)

    @property
    def dask(self) -> HighLevelGraph:
        return _one_layer(self.key, _graph([self]))


class _Done(Delayed):
    """A delayed value that the scheduler has, or is about to."""

    __slots__ = ("_home",)

    def __init__(self, key: str, value: Any, home: Home | None) -> None:
        super().__init__(key, _one_layer(key, {key: value}))
        object.__setattr__(self, "_home", home)


def _home_of(value: Any) -> Home | None:
    return value._home if isinstance(value, _Node | _Done) else None


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


def count_tasks(values: Any, given: Any) -> int:
    """Tasks that `values`, lists and dataclasses of delayed values, need beyond what is `given`."""
    there = _graph(list(_delayed_in(given)))
    return len(set(_graph(list(_delayed_in(values)))) - set(there))


def task(function: Callable[..., Any], *arguments: Any, home: Home | None = None, **options: Any) -> Delayed:
    """One task, named after its function so that Dask's dashboard tells what runs.

    The arguments are delayed values, lists of them, or plain Python values: hashing them to find
    equal tasks would cost more than it saves, since no task of a sweep repeats. `home` is where it
    runs, if none of the arguments tells.
    """
    needs: list[Delayed] = []

    if home is None:
        home = next((own for own in map(_home_of, arguments) if own is not None), None)
    key = _key(function.__name__.strip("_").replace("_", "-"), home)
    given = {name: _referred(value, needs) for name, value in options.items()}
    own = [_referred(value, needs) for value in arguments]
    return _Node(Task(key, function, *own, **given), needs, home)


def _referred(value: Any, needs: list[Delayed]) -> Any:
    """The value as a task names it; what it needs is noted."""
    if isinstance(value, Delayed):
        needs.append(value)
        return TaskRef(value.key)
    return List(*(_referred(part, needs) for part in value)) if isinstance(value, list) else value


def place(value: Any, home: Home | None = None) -> Delayed:
    """A value put where tasks can take it from, once, rather than into every graph.

    `home` is where it belongs.
    """
    return _Node(DataNode(_key("place", home), value), (), home)


def _key(name: str, home: Home | None) -> str:
    return f"{name}-{uuid.uuid4().hex}" + ("" if home is None else f"-{home.tile}-{home.tiles}")


def current_client() -> Client | None:
    """Of the cluster that computes, if one does."""
    client = getattr(dask.base.get_scheduler(), "__self__", None)
    return client if isinstance(client, Client) else None


def as_one_run() -> AbstractContextManager[Any]:
    """What is computed in the block is one span of the cluster in use.

    Dask's dashboard then shows its times together. Without, the scheduler would open one for each sweep and
    keep them all.
    """
    return nullcontext() if current_client() is None else span("daskptycho")


def homes(values: Sequence[Delayed]) -> list[str]:
    """Address of the worker where each persisted value lies, as far as a cluster knows."""
    client = current_client()
    if client is None:
        return [""] * len(values)
    found = client.who_has([value.dask[value.key] for value in values])
    return [next(iter(found.get(value.key, ())), "") for value in values]


@dataclass(frozen=True)
class _Homes:
    """The worker of each tile: it has a run of them."""

    workers: tuple[str, ...]
    """Addresses, one for each thread."""

    def __call__(self, key: Any) -> list[str]:
        """Where the task of this key belongs; the scheduler asks."""
        numbers = key.rsplit("-", 2)[1:] if isinstance(key, str) else []
        at_home = len(numbers) == 2 and all(number.isdecimal() for number in numbers)
        return [self.of(Home(*map(int, numbers)))] if at_home else []

    def of(self, home: Home) -> str:
        """Address of its worker."""
        return self.workers[assign_worker(home.tile, home.tiles, len(self.workers))]


def _homes_now() -> _Homes | None:
    """None without a cluster, or without workers."""
    client = current_client()
    if client is None:
        return None
    # A client that looks for its scheduler again knows of none.
    workers = client.scheduler_info(n_workers=-1).get("workers", {})
    threads = tuple(address for address in sorted(workers) for _ in range(workers[address]["nthreads"]))
    return _Homes(threads) if threads else None


def together(tiles: int) -> Callable[[int, int], bool]:
    """Tells of two of so many tiles whether they are at home in one process, as far as is known now."""
    homes = _homes_now()
    return lambda first, second: (
        homes is None or (homes.of(Home(first, tiles)) == homes.of(Home(second, tiles)))
    )


def _at_home(nodes: Sequence[_Node]) -> AbstractContextManager[Any]:
    homes = _homes_now() if any(node._home is not None for node in nodes) else None
    return nullcontext() if homes is None else annotate(workers=homes, allow_other_workers=True)


class _Together:
    """Delayed values as one dask collection: persisted with one graph rather than one for each."""

    __dask_scheduler__ = staticmethod(threaded_get)
    __dask_optimize__ = None

    def __init__(self, graph: Mapping[str, Any], keys: list[str]) -> None:
        self._graph, self._keys = graph, keys
        self._name = uuid.uuid4().hex

    def __dask_tokenize__(self) -> str:
        # Without a name of its own, Dask would pickle every array of the graph to make one, at every sweep.
        return self._name

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


def exchanged(value: Any, done: Mapping[str, Any]) -> Any:
    """The same lists and dataclasses with what has been done in place of their delayed values."""
    if isinstance(value, Delayed):
        return done[value.key]
    if not any(True for _ in _delayed_in(value)):
        return value
    if isinstance(value, list | tuple):
        return type(value)(exchanged(part, done) for part in value)
    return replace(value, **{part.name: exchanged(getattr(value, part.name), done) for part in fields(value)})


def persisted(state: Any) -> Any:
    """The same lists and dataclasses, their delayed values computed and kept by the scheduler in use."""
    ends = {value.key: value for value in _delayed_in(state)}
    new = [value for value in ends.values() if isinstance(value, _Node)]
    if not new:
        return state
    with _at_home(new):
        (together,) = dask.base.persist(_Together(_graph(new), [value.key for value in new]))
    values = together.__dask_graph__()
    done = ends | {value.key: _Done(value.key, values[value.key], value._home) for value in new}
    return exchanged(state, done)


def futures_in(state: Any) -> dict[str, Any]:
    """What the scheduler in use keeps of values that are persisted, by key."""
    return {value.key: value.dask[value.key] for value in _delayed_in(state)}
