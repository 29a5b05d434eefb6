"""The iterations: alternating projections, RAAR and the difference map, and what any other has to offer.

Every algorithm is two formulas around the data projection ``p = P_a z``. With the waves of the model,
``m_i = P_i . psi[x_i + r]``, and the stack ``s`` that RAAR and the difference map carry from sweep to sweep:

===============  ======================  ==============================  ====================
algorithm        z                       the frames to overlap           the next stack
===============  ======================  ==============================  ====================
AP               m                       p                               none
RAAR             s + beta m              2 p - z                         beta z + (1 - 2 beta) p
difference map   2 m - s                 s + p - m                       s + p - m
===============  ======================  ==============================  ====================

RAAR after Luke, Inverse Problems 21, 37 (2005), with ``x' = [beta/2 (R_Q R_a + 1) + (1 - beta) P_a] x``
split where the overlap needs all tiles: the stack holds what does not wait for it. The difference map
after Thibault et al., Ultramicroscopy 109, 338 (2009), with beta = 1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any, ClassVar, Protocol

import numpy as np

from daskptycho.errors import OptionError

__all__ = [
    "AP",
    "RAAR",
    "Algorithm",
    "DifferenceMap",
    "describe_algorithm",
    "parse_algorithm",
    "recall_algorithm",
]

Array = Any


class Algorithm(Protocol):
    """What an algorithm has to offer: `reconstruct` takes any object that does so.

    All arrays are (frame, mode, N, N) complex64, NumPy's or CuPy's, some frames of a tile at a time. It must
    not write into them.
    """

    @property
    def name(self) -> str:
        """In the options of a result, a short word."""

    @property
    def has_stack(self) -> bool:
        """Whether it carries a stack of waves from one sweep to the next."""

    def before(self, waves: Array, stack: Array | None) -> Array:
        """The waves z to project onto the data, from the model's waves ``P_i . psi`` and the stack.

        The stack is None in the first sweep, and always for algorithms that have none.
        """

    def after(
        self, waves: Array, z: Array, projected: Array, stack: Array | None
    ) -> tuple[Array, Array | None]:
        """The waves to overlap, which make the next object, and the next stack (None without one).

        An attribute ``needs_waves = False`` says that `waves` and `z` are not looked at here, which saves
        memory.
        """


@dataclass(frozen=True)
class AP:
    """Alternating projections; with momentum the default of the package. Keeps the object alone as state.

    Each sweep overlaps the data projections ``p = P_a m`` of the model ``m_i = P_i . psi[x_i + r]``.
    """

    name: ClassVar[str] = "ap"
    has_stack: ClassVar[bool] = False
    needs_waves: ClassVar[bool] = False

    def before(self, waves: Array, stack: Array | None) -> Array:
        return waves

    def after(
        self, waves: Array, z: Array, projected: Array, stack: Array | None
    ) -> tuple[Array, Array | None]:
        return projected, None


@dataclass(frozen=True)
class RAAR:
    """Relaxed averaged alternating reflections (Luke, Inverse Problems 21, 37 (2005)).

    ``x' = [beta/2 (R_Q R_a + 1) + (1 - beta) P_a] x`` with the reflections ``R = 2 P - 1`` at overlap and
    data. Keeps the exit waves of all frames from sweep to sweep.
    """

    beta: float = 0.75
    """Relaxation, above 0 and up to 1."""

    name: ClassVar[str] = "raar"
    has_stack: ClassVar[bool] = True
    needs_waves: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.beta <= 1:
            raise OptionError(f"RAAR's beta is {self.beta}; expected above 0 and at most 1")
        # A NumPy number would not be written with a result's options.
        object.__setattr__(self, "beta", float(self.beta))

    def before(self, waves: Array, stack: Array | None) -> Array:
        return waves if stack is None else stack + np.float32(self.beta) * waves

    def after(
        self, waves: Array, z: Array, projected: Array, stack: Array | None
    ) -> tuple[Array, Array | None]:
        beta = np.float32(self.beta)
        return 2 * projected - z, beta * z + (1 - 2 * beta) * projected


@dataclass(frozen=True)
class DifferenceMap:
    """The difference map with beta = 1 (Thibault et al., Ultramicroscopy 109, 338 (2009)).

    ``x' = x + P_a (2 P_Q - 1) x - P_Q x``. It explores rather than settles: for hard starts. Keeps the exit
    waves of all frames from sweep to sweep.
    """

    name: ClassVar[str] = "dm"
    has_stack: ClassVar[bool] = True
    needs_waves: ClassVar[bool] = True

    def before(self, waves: Array, stack: Array | None) -> Array:
        return waves if stack is None else 2 * waves - stack

    def after(
        self, waves: Array, z: Array, projected: Array, stack: Array | None
    ) -> tuple[Array, Array | None]:
        following = projected if stack is None else stack + projected - waves
        return following, following


_NAMED: dict[str, type[AP] | type[RAAR] | type[DifferenceMap]] = {
    kind.name: kind for kind in (AP, RAAR, DifferenceMap)
}


def parse_algorithm(algorithm: str | Algorithm) -> Algorithm:
    """The algorithm of this name with its usual parameters; an object is tried, and returned as it is.

    Raises
    ------
    OptionError
        No such name, or an object that does not do what `Algorithm` says.
    """
    if isinstance(algorithm, str):
        if algorithm not in _NAMED:
            raise OptionError(f"algorithm is {algorithm!r}; expected one of {', '.join(_NAMED)}")
        return _NAMED[algorithm]()
    _try_algorithm(algorithm)
    return algorithm


def _try_algorithm(algorithm: Any) -> None:
    """Refuse an object that does not do what an algorithm does, on two frames of four pixels."""
    name, has_stack = getattr(algorithm, "name", None), getattr(algorithm, "has_stack", None)
    if not isinstance(name, str) or not isinstance(has_stack, bool):
        raise OptionError(
            f"algorithm is {algorithm!r}; expected {', '.join(_NAMED)}, or an object with a name, has_stack, "
            "before and after (daskptycho.Algorithm)"
        )
    waves = np.ones((2, 1, 2, 2), dtype=np.complex64)
    stack: Any = None
    try:
        for _ in range(2):
            z = algorithm.before(waves, stack)
            _check_waves(name, "before", z, waves)
            found, stack = algorithm.after(waves, z, waves.copy(), stack)
            _check_waves(name, "after", found, waves)
            if has_stack:
                _check_waves(name, "after, as the next stack,", stack, waves)
    except OptionError:
        raise
    except Exception as error:
        raise OptionError(f"algorithm {name} fails on two frames of four pixels: {error!r}") from error
    try:
        json.dumps(describe_algorithm(algorithm))
    except TypeError as error:
        raise OptionError(
            f"algorithm {name} has parameters that cannot be written with a result ({error}); "
            "expected plain numbers and words"
        ) from error


def _check_waves(name: str, method: str, found: Any, like: Array) -> None:
    shape, dtype = getattr(found, "shape", None), getattr(found, "dtype", None)
    if shape != like.shape or dtype != like.dtype:
        raise OptionError(
            f"algorithm {name}: {method} returns {type(found).__name__} of shape {shape} and type {dtype}; "
            f"expected waves of shape {like.shape} and type {like.dtype}"
        )


def describe_algorithm(algorithm: Algorithm) -> dict[str, Any]:
    """Plain values from which `recall_algorithm` makes the same algorithm."""
    kind: Any = type(algorithm)
    parameters = (
        {part.name: getattr(algorithm, part.name) for part in fields(kind)} if is_dataclass(kind) else {}
    )
    # A class of the user's own may have any name.
    own = _NAMED.get(algorithm.name) is not kind
    home = {"class": f"{kind.__module__}:{kind.__qualname__}"} if own else {}
    return {"name": algorithm.name, **home, **parameters}


def recall_algorithm(described: dict[str, Any]) -> Algorithm:
    """The algorithm that `describe_algorithm` described.

    Raises
    ------
    OptionError
        It is a class of the user's own that cannot be imported any more.
    """
    parameters = {name: value for name, value in described.items() if name not in ("name", "class")}
    if "class" not in described:
        return _NAMED[described["name"]](**parameters)
    module, _, name = described["class"].partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        algorithm: Algorithm = found(**parameters)
    except Exception as error:
        raise OptionError(
            f"the run's algorithm, {described['name']}, was {described['class']}, which cannot be made again "
            f"({error!r}); expected it in a module that can be imported"
        ) from error
    return algorithm
