"""The options of a run: checked, described in its result, and kept in its checkpoints.

`run` makes them of what the user gave and `resume` of what a checkpoint kept; `loop` follows them.
"""

from __future__ import annotations

import numbers
from dataclasses import asdict, dataclass
from typing import Any, Literal

from daskptycho.errors import OptionError
from daskptycho.model.algorithms import Algorithm, parse_algorithm
from daskptycho.run.memory import Recipe
from daskptycho.sync.phases import Sync

__all__ = ["GIVEN", "RunOptions", "checked_momentum", "positive", "whole"]

# What the options of a run call a start from an array.
GIVEN = "given"


@dataclass(frozen=True)
class RunOptions:
    """The options of a run, checked."""

    sweeps: int
    algorithm: Algorithm
    opening: Algorithm | None
    momentum: float | Literal["nesterov"]
    sync: Sync
    update_probe: bool
    start: str
    seed: int
    tolerance: float | None
    subpixel: bool
    checkpoint_every: int | None
    checkpoint_minutes: float | None

    def __post_init__(self) -> None:
        if not isinstance(self.sync, Sync):
            raise OptionError(f"sync is {self.sync!r}; expected a Sync, as Sync(method=None) for none")
        if self.start not in ("ones", "random", GIVEN):
            raise OptionError(f"start is {self.start!r}; expected 'ones', 'random' or an array")

    @property
    def has_stack(self) -> bool:
        """Whether a sweep of the run leaves a stack of frames to the next."""
        opens = self.start == "random" and self.sync.method is not None and self.opening is not None
        return self.algorithm.has_stack or (opens and self.opening is not None and self.opening.has_stack)

    def recipe(self, modes: int) -> Recipe:
        """What of them decides about memory, with so many probe modes."""
        return Recipe(modes, self.sync.method, self.has_stack, self.momentum != 0, self.update_probe)

    def described(self) -> dict[str, Any]:
        """For the attributes of a result: names and plain values."""
        opening = None if self.opening is None else self.opening.name
        options = asdict(self) | {
            "algorithm": self.algorithm.name,
            "opening": opening,
            **asdict(self.algorithm),
        }
        return {name: value for name, value in options.items() if value is not None}

    def kept(self) -> dict[str, Any]:
        """For a checkpoint: plain values from which `remembered` makes the same options."""
        return asdict(self) | {"algorithm": _kept(self.algorithm), "opening": _kept(self.opening)}

    @staticmethod
    def remembered(kept: dict[str, Any]) -> RunOptions:
        """The options that `kept` described."""
        algorithm = _remembered(kept["algorithm"])
        assert algorithm is not None
        return RunOptions(
            **kept
            | {
                "algorithm": algorithm,
                "opening": _remembered(kept["opening"]),
                "sync": Sync(**kept["sync"]),
            }
        )


def _kept(algorithm: Algorithm | None) -> dict[str, Any] | None:
    return None if algorithm is None else {"name": algorithm.name, **asdict(algorithm)}


def _remembered(kept: dict[str, Any] | None) -> Algorithm | None:
    if kept is None:
        return None
    parameters = {name: value for name, value in kept.items() if name != "name"}
    return type(parse_algorithm(kept["name"]))(**parameters)


def checked_momentum(momentum: Any, algorithm: Algorithm) -> float | Literal["nesterov"]:
    """A number or the name of the sequence; what suits the algorithm where nothing is given."""
    if momentum is None:
        return 0.0 if algorithm.has_stack else "nesterov"
    if momentum != "nesterov" and not (isinstance(momentum, numbers.Real) and 0 <= float(momentum) < 1):
        raise OptionError(f"momentum is {momentum!r}; expected 'nesterov' or a number from 0 to below 1")
    if algorithm.has_stack and momentum != 0:
        raise OptionError(f"momentum is {momentum!r} with {algorithm.name}; only ap takes a momentum")
    return "nesterov" if momentum == "nesterov" else float(momentum)


def whole(name: str, value: Any, *, least: int) -> int:
    """A whole number of at least so much."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise OptionError(f"{name} is {value!r}; expected a whole number, {least} or more")
    return int(value)


def positive(name: str, value: Any) -> float:
    """A number above zero."""
    if not isinstance(value, numbers.Real) or not float(value) > 0:
        raise OptionError(f"{name} is {value!r}; expected above 0")
    return float(value)
