"""The algorithms: alternating projections, L-BFGS, RAAR, the difference map, and the interface of any other.

An algorithm consists of two formulas: what to project onto the data, ``p = P_a z``, and what to do with the
projection. They use the exit waves of the model, ``m_i = P_i . psi[x_i + r]``. RAAR and the difference map
also carry a stack ``s`` of waves from sweep to sweep:

===============  ======================  ==============================  ====================
algorithm        z                       the waves to overlap            the next stack
===============  ======================  ==============================  ====================
AP, L-BFGS       m                       p                               none
RAAR             s + beta m              2 p - z                         beta z + (1 - 2 beta) p
difference map   2 m - s                 s + p - m                       s + p - m
===============  ======================  ==============================  ====================

RAAR follows Luke, Inverse Problems 21, 37 (2005). Its iteration
``x' = [beta/2 (R_Q R_a + 1) + (1 - beta) P_a] x`` is split into the overlap projection, which needs all
tiles, and the other terms, which the stack holds. The difference map follows Thibault et al., Ultramicroscopy
109, 338 (2009), with beta = 1. L-BFGS makes larger steps of the object than the average of these waves
(`lbfgs`).
"""

from __future__ import annotations

import json
import numbers
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any, ClassVar, Protocol

import numpy as np

from daskptycho.errors import OptionError

__all__ = [
    "AP",
    "LBFGS",
    "RAAR",
    "Algorithm",
    "DifferenceMap",
    "describe_algorithm",
    "parse_algorithm",
    "recall_algorithm",
]

Array = Any


class Algorithm(Protocol):
    """The interface of an algorithm. `reconstruct` accepts any object that has these attributes and methods.

    All arrays are (frame, mode, N, N) complex64, NumPy's or CuPy's, and hold the exit waves of some frames of
    a tile. An algorithm must not write into them. For a run to be resumed, the algorithm has to be a
    dataclass, or a class that is created without arguments, in a module that can be imported.
    """

    @property
    def name(self) -> str:
        """A short word that stands for the algorithm in the options of a result."""

    @property
    def has_stack(self) -> bool:
        """Whether it carries a stack of waves from one sweep to the next."""

    def before(self, waves: Array, stack: Array | None) -> Array:
        """Compute the waves z to project onto the data.

        Parameters
        ----------
        waves : (frame, mode, N, N) complex64 array
            Exit waves of the model, ``m_i = P_i . psi[x_i + r]``.
        stack : (frame, mode, N, N) complex64 array or None
            None in the first sweep, and always for an algorithm without a stack.

        Returns
        -------
        (frame, mode, N, N) complex64 array
        """

    def after(
        self, waves: Array, z: Array, projected: Array, stack: Array | None
    ) -> tuple[Array, Array | None]:
        """Compute the waves to overlap, and the next stack, from the data projection.

        Parameters
        ----------
        waves : (frame, mode, N, N) complex64 array
            As for `before`.
        z : (frame, mode, N, N) complex64 array
            What `before` returned.
        projected : (frame, mode, N, N) complex64 array
            The data projection of `z`.
        stack : (frame, mode, N, N) complex64 array or None
            As for `before`.

        Returns
        -------
        waves : (frame, mode, N, N) complex64 array
            Their overlap gives the next object.
        stack : (frame, mode, N, N) complex64 array or None
            None for an algorithm without a stack.

        Notes
        -----
        A class attribute ``needs_waves = False`` declares that this method does not use `waves` and `z`,
        which may then be overwritten. That saves memory.
        """


@dataclass(frozen=True)
class AP:
    """Alternating projections, the default algorithm; by default with Nesterov momentum.

    Each sweep overlaps the data projections ``p = P_a m`` of the model's exit waves
    ``m_i = P_i . psi[x_i + r]``. No exit waves are kept from sweep to sweep.
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
class LBFGS(AP):
    """L-BFGS on the fixed point of alternating projections (`model.lbfgs`), for a probe that is known.

    Each sweep is one of `AP` without momentum. The step that it makes is combined with earlier ones into a
    quasi-Newton step of the object. No exit waves are kept from sweep to sweep, but two images for each pair.

    Raises
    ------
    OptionError
        `pairs` is not a whole number, 1 or more.
    """

    pairs: int = 5
    """Earlier steps from which a step is made. A run whose memory is short makes it from fewer."""

    name: ClassVar[str] = "lbfgs"

    def __post_init__(self) -> None:
        pairs: Any = self.pairs
        if isinstance(pairs, bool) or not isinstance(pairs, numbers.Integral) or int(pairs) < 1:
            raise OptionError(f"L-BFGS has pairs {self.pairs!r}; expected a whole number, 1 or more")
        object.__setattr__(self, "pairs", int(self.pairs))


@dataclass(frozen=True)
class RAAR:
    """Relaxed averaged alternating reflections (Luke, Inverse Problems 21, 37 (2005)).

    ``x' = [beta/2 (R_Q R_a + 1) + (1 - beta) P_a] x``, where ``R = 2 P - 1`` is the reflection that belongs
    to a projection: ``P_Q`` is the overlap projection, ``P_a`` the data projection. A stack with the exit
    waves of all frames is kept from sweep to sweep.

    Raises
    ------
    OptionError
        `beta` is not above 0 and at most 1.
    """

    beta: float = 0.75
    """Relaxation parameter, above 0 and at most 1."""

    name: ClassVar[str] = "raar"
    has_stack: ClassVar[bool] = True
    needs_waves: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.beta <= 1:
            raise OptionError(f"RAAR's beta is {self.beta}; expected above 0 and at most 1")
        # A NumPy number could not be written into the options of a result.
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

    ``x' = x + P_a (2 P_Q - 1) x - P_Q x``, where ``P_Q`` is the overlap projection and ``P_a`` the data
    projection. It explores rather than converges, which helps from a poor start. A stack with the exit waves
    of all frames is kept from sweep to sweep.
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
    kind.name: kind for kind in (AP, LBFGS, RAAR, DifferenceMap)
}


def parse_algorithm(algorithm: str | Algorithm) -> Algorithm:
    """The algorithm of this name with its default parameters; an object is tested and returned unchanged.

    Raises
    ------
    OptionError
        There is no algorithm of this name, or the object does not have the interface of `Algorithm`.
    """
    if isinstance(algorithm, str):
        if algorithm not in _NAMED:
            raise OptionError(f"algorithm is {algorithm!r}; expected one of {', '.join(_NAMED)}")
        return _NAMED[algorithm]()
    _try_algorithm(algorithm)
    return algorithm


def _try_algorithm(algorithm: Any) -> None:
    """Refuse an object that does not work as an algorithm on two frames of four pixels."""
    name, has_stack = getattr(algorithm, "name", None), getattr(algorithm, "has_stack", None)
    if not isinstance(name, str) or not isinstance(has_stack, bool):
        raise OptionError(
            f"algorithm is {algorithm!r}; expected {', '.join(_NAMED)}, or an object with a name, has_stack, "
            "before and after (daskptycho.Algorithm)"
        )
    if not is_dataclass(algorithm) and vars(algorithm):
        # A result could not name them, and a resumed run would silently have others.
        raise OptionError(
            f"algorithm {name} has attributes of its own ({', '.join(vars(algorithm))}) and is not a "
            "dataclass; expected a dataclass, whose fields are written with a result"
        )
    waves = np.ones((2, 1, 2, 2), dtype=np.complex64)
    stack: Any = None
    try:
        for _ in range(2):
            z = algorithm.before(waves, stack)
            _check_waves(name, "before", z, waves)
            found, following = algorithm.after(waves, z, waves.copy(), stack)
            _check_waves(name, "after", found, waves)
            if has_stack:
                _check_waves(name, "after, as the next stack,", following, waves)
                stack = following
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


def _check_waves(name: str, method: str, returned: Any, like: Array) -> None:
    shape, dtype = getattr(returned, "shape", None), getattr(returned, "dtype", None)
    if shape != like.shape or dtype != like.dtype:
        raise OptionError(
            f"algorithm {name}: {method} returns {type(returned).__name__} of shape {shape} and type "
            f"{dtype}; expected waves of shape {like.shape} and type {like.dtype}"
        )


def describe_algorithm(algorithm: Algorithm) -> dict[str, Any]:
    """Describe an algorithm by plain values, from which `recall_algorithm` makes the same algorithm."""
    kind: Any = type(algorithm)
    parameters = (
        {part.name: getattr(algorithm, part.name) for part in fields(kind)} if is_dataclass(kind) else {}
    )
    # A class of the user's own may have any name.
    own = _NAMED.get(algorithm.name) is not kind
    home = {"class": f"{kind.__module__}:{kind.__qualname__}"} if own else {}
    return {"name": algorithm.name, **home, **parameters}


def recall_algorithm(described: dict[str, Any]) -> Algorithm:
    """Make the algorithm that `describe_algorithm` described.

    Raises
    ------
    OptionError
        It is a user's own class that can no longer be imported or created.
    """
    parameters = {name: value for name, value in described.items() if name not in ("name", "class")}
    if "class" not in described:
        return _NAMED[described["name"]](**parameters)
    module, _, name = described["class"].partition(":")
    try:
        kind: Any = import_module(module)
        for part in name.split("."):
            kind = getattr(kind, part)
        algorithm: Algorithm = kind(**parameters)
    except Exception as error:
        raise OptionError(
            f"the run's algorithm {described['name']} is {described['class']}, which cannot be created again "
            f"({error!r}); expected it in a module that can be imported"
        ) from error
    return algorithm
