"""The options of a run: their checks, and their descriptions in results and checkpoints."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from daskptycho.errors import OptionError
from daskptycho.model.algorithms import (
    AP,
    LBFGS,
    RAAR,
    Algorithm,
    describe_algorithm,
    parse_algorithm,
    recall_algorithm,
)
from daskptycho.model.background import Background
from daskptycho.model.gain import Gain
from daskptycho.model.parameter import Parameter
from daskptycho.model.positions import Positions
from daskptycho.model.probe import Probe
from daskptycho.model.probe_variation import ProbeVariation
from daskptycho.sync.gains import GainPace
from daskptycho.sync.options import Sync
from daskptycho.sync.positions import Pace

__all__ = [
    "GIVEN",
    "Recipe",
    "Refined",
    "RunOptions",
    "check_options",
    "parse_refine",
    "require_positive",
    "require_whole",
    "resolve_algorithm",
    "resolve_momentum",
]

Refined = Positions | Gain | ProbeVariation | Background
# What `reconstruct` can refine besides object and probe, by name.
REFINED: dict[str, type[Refined]] = {
    Positions.name: Positions,
    Gain.name: Gain,
    ProbeVariation.name: ProbeVariation,
    Background.name: Background,
}
# The words for it, and pixels over which a smooth background is averaged.
SMOOTH = 3.0
WORDS: dict[str, Refined] = {
    "positions": Positions(),
    "gain": Gain(refined=True),
    "probe-variation": ProbeVariation(),
    "background": Background(),
    "smooth-background": Background(SMOOTH),
}
# The value of the option start in a result if the run started from an array.
GIVEN = "given"
# Most sweeps of the opening from a constant object.
OPENING_SWEEPS = 15
# Beta of RAAR in that opening: with a smaller one, frames at the corners of a scan get stuck more often.
FADING_BETA = 0.85
# Most sweeps of the polish at the end. In more, the image would drift where counts determine little.
POLISH_SWEEPS = 20


@dataclass(frozen=True)
class RunOptions:
    """The options of a run, checked and with defaults resolved; see `reconstruct`."""

    sweeps: int
    algorithm: Algorithm
    opening: Algorithm | None
    opening_sweeps: int
    momentum: float | Literal["nesterov"]
    sync: Sync
    update_probe: bool
    start: str
    seed: int
    tolerance: float | Literal["auto"] | None
    polish: bool | Literal["auto"]
    polish_sweeps: int
    subpixel: bool
    checkpoint_every: int | None
    checkpoint_minutes: float | None
    refine: tuple[Refined, ...] = ()
    follow: bool = False
    leave_out: tuple[int, ...] = ()
    """Numbers of the frames that a run leaves out of a scan that it follows: some may be still to come."""
    likelihood: Literal["amplitude", "poisson"] = "amplitude"

    def __post_init__(self) -> None:
        if not isinstance(self.sync, Sync):
            raise OptionError(f"sync is {self.sync!r}; expected a Sync, as Sync(method=None) for none")
        parameters = describe_algorithm(self.algorithm).keys() - {"name"}
        taken = sorted(parameters & {field.name for field in fields(self)})
        if taken:
            raise OptionError(
                f"algorithm {self.algorithm.name} has a parameter called {taken[0]}, as an option of the run "
                "is; expected another name"
            )
        if self.positions is not None and not self.subpixel:
            raise OptionError("positions are refined with subpixel off (--whole-pixel); expected it on")
        if self.start not in ("ones", "random", GIVEN):
            raise OptionError(f"start is {self.start!r}; expected 'ones', 'random' or an array")

    @property
    def has_stack(self) -> bool:
        """Whether any sweep of the run passes a stack of waves on to the next."""
        grows = self.start == "random" and self.sync.method is not None
        opens = self.opening is not None and (grows or self.opening_sweeps > 0)
        return self.algorithm.has_stack or (opens and self.opening is not None and self.opening.has_stack)

    @property
    def positions(self) -> Positions | None:
        """How positions are refined; None if they are not."""
        return next((refined for refined in self.refine if isinstance(refined, Positions)), None)

    def margin(self, frame_shape: tuple[int, int]) -> int:
        """Margin of the windows of tiles, in pixels, within which frames of this shape may move.

        One pixel more than they may move, for derivatives at the edges of frames and values between pixels.
        """
        moving = [refined for refined in self.refine if refined.between_sweeps]
        return max((1 + refined.reach(frame_shape) for refined in moving), default=0)

    def pace(self) -> Pace | None:
        """The pace of the refinement of positions at the start of a run; None if they are not refined."""
        if self.positions is None:
            return None
        assert self.positions.start is not None
        assert self.positions.every is not None
        return Pace.begin(self.positions.start, self.positions.every)

    def gain_pace(self) -> GainPace | None:
        """The pace of the refinement of gains at the start of a run; None if they are not refined."""
        return GainPace() if any(isinstance(refined, Gain) for refined in self.refine) else None

    def recipe(self, modes: int, parameters: tuple[Parameter, ...]) -> Recipe:
        """The part of the options on which memory depends, with this number of modes and these parameters."""
        pairs = self.algorithm.pairs if isinstance(self.algorithm, LBFGS) else 0
        return Recipe(modes, self.sync.method, self.has_stack, self.momentum != 0, parameters, pairs)

    def describe(self) -> dict[str, Any]:
        """Describe the options by names and plain values, for the attributes of a result."""
        return self.describe_attributes(self.to_attributes())

    @staticmethod
    def describe_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
        """What `describe` returns, from what `to_attributes` returned; no algorithm is created."""
        algorithm, opening = attributes["algorithm"], attributes["opening"]
        options = attributes | {
            **algorithm,
            "algorithm": algorithm["name"],
            "opening": None if opening is None else opening["name"],
        }
        return {name: value for name, value in options.items() if value is not None and name != "name"}

    def to_attributes(self) -> dict[str, Any]:
        """Describe the options by plain values, for a checkpoint; `from_attributes` makes them again."""
        opening = None if self.opening is None else describe_algorithm(self.opening)
        refine = {refined.name: asdict(refined) for refined in self.refine}
        described = {"algorithm": describe_algorithm(self.algorithm), "opening": opening}
        return (
            asdict(self) | described | {"refine": refine or None, "leave_out": list(self.leave_out) or None}
        )

    @staticmethod
    def from_attributes(attributes: dict[str, Any]) -> RunOptions:
        """Make the options that `to_attributes` described."""
        opening = attributes["opening"]
        made: dict[str, Any] = {
            "algorithm": recall_algorithm(attributes["algorithm"]),
            "opening": None if opening is None else recall_algorithm(opening),
            "sync": Sync(**attributes["sync"]),
            "refine": tuple(
                REFINED[name](**values) for name, values in (attributes.get("refine") or {}).items()
            ),
            "leave_out": tuple(attributes.get("leave_out") or ()),
        }
        return RunOptions(**attributes | made)


@dataclass(frozen=True)
class Recipe:
    """The part of a run's options on which the memory that it needs depends."""

    modes: int = 1
    method: Literal["two-level", "full"] | None = "two-level"
    has_stack: bool = False
    momentum: bool = True
    parameters: tuple[Parameter, ...] = (Probe(),)
    pairs: int = 0
    """Pairs of images that L-BFGS keeps; 0 without it."""

    @property
    def recovers(self) -> bool:
        """Whether any parameter that frames are weighed by is updated."""
        return any(own.weighs_frames and own.schedule is not None for own in self.parameters)


def check_options(
    *,
    sweeps: Any = 100,
    algorithm: Any = None,
    opening: Any = "raar",
    momentum: Any = None,
    sync: Sync | None = None,
    update_probe: Any = True,
    refine: Any = (),
    start: str = "ones",
    seed: Any = 0,
    tolerance: Any = None,
    polish: Any = "auto",
    likelihood: Any = "amplitude",
    subpixel: Any = True,
    checkpoint_every: Any = None,
    checkpoint_minutes: Any = 10.0,
    follow: Any = False,
) -> RunOptions:
    """Check the options of a run and resolve their defaults; see `reconstruct`.

    Raises
    ------
    OptionError
        An option is impossible, alone or with others.
    """
    sync = Sync() if sync is None else sync
    refined = parse_refine(refine, update_probe=bool(update_probe))
    drifts = any(one.between_sweeps or isinstance(one, ProbeVariation) for one in refined)
    chosen = resolve_algorithm(algorithm, momentum, sync, recovers=bool(update_probe), refines=drifts)
    others = [one.name for one in refined if not one.moves_frames]
    if chosen.has_stack and others:
        raise OptionError(
            f"{others[0]} is refined with algorithm {chosen.name}, whose waves are not those of the model; "
            "expected one without a stack, as 'ap'"
        )
    sweeps = require_whole("sweeps", sweeps, least=1)
    polish_sweeps = min(POLISH_SWEEPS, sweeps // 3) if polish and isinstance(chosen, LBFGS) else 0
    opens = isinstance(chosen, LBFGS) and opening is not None and start == "ones"
    if polish not in (True, False, "auto"):
        raise OptionError(f"polish is {polish!r}; expected True, False or 'auto'")
    if polish is True and not isinstance(chosen, LBFGS):
        raise OptionError(f"polish is True with algorithm {chosen.name}; expected 'lbfgs', for a known probe")
    if likelihood not in ("amplitude", "poisson"):
        raise OptionError(f"likelihood is {likelihood!r}; expected 'amplitude' or 'poisson'")
    if likelihood == "poisson" and not (polish and isinstance(chosen, LBFGS)):
        if polish and drifts:
            found = f"{', '.join(one.name for one in refined)} refined"
            raise OptionError(
                f"likelihood is 'poisson' with {found}; expected no such refine: it needs algorithm 'ap', "
                "and the likelihood that of a polish with 'lbfgs'"
            )
        found = f"algorithm {chosen.name}" if polish else "no polish"
        raise OptionError(
            f"likelihood is 'poisson' with {found}; expected algorithm 'lbfgs', for a known probe, and a "
            "polish"
        )
    if (polish is True or likelihood == "poisson") and not polish_sweeps:
        asked = "polish is True" if polish is True else "likelihood is 'poisson'"
        raise OptionError(
            f"{asked} with sweeps={sweeps}, of which the polish makes a third; expected 3 or more"
        )
    return RunOptions(
        sweeps=sweeps,
        algorithm=chosen,
        opening=_resolve_opening(opening, fades=opens),
        opening_sweeps=min(OPENING_SWEEPS, sweeps // 2) if opens else 0,
        momentum=resolve_momentum(momentum, chosen),
        sync=sync,
        update_probe=bool(update_probe),
        refine=refined,
        start=start,
        seed=require_whole("seed", seed, least=0),
        tolerance=tolerance if tolerance in (None, "auto") else require_positive("tolerance", tolerance),
        polish=polish,
        polish_sweeps=polish_sweeps,
        subpixel=bool(subpixel),
        checkpoint_every=None
        if checkpoint_every is None
        else require_whole("checkpoint_every", checkpoint_every, least=1),
        checkpoint_minutes=None
        if checkpoint_minutes is None
        else require_positive("checkpoint_minutes", checkpoint_minutes),
        follow=bool(follow),
        likelihood=likelihood,
    )


def _resolve_opening(opening: Any, *, fades: bool) -> Algorithm | None:
    """The option opening; RAAR by its name has another beta where its penalty fades."""
    if opening == RAAR.name and fades:
        return RAAR(FADING_BETA)
    return None if opening is None else parse_algorithm(opening)


def resolve_algorithm(
    algorithm: Any, momentum: Any, sync: Any, *, recovers: bool, refines: bool = False
) -> Algorithm:
    """Check the option algorithm; its default is L-BFGS where it can be used, and else `AP`.

    L-BFGS needs a model that does not change, and the same object on all tiles that hold a pixel.
    """
    inner = isinstance(sync, Sync) and sync.inner > 1
    if algorithm is None:
        return AP() if recovers or refines or inner or momentum is not None else LBFGS()
    chosen = parse_algorithm(algorithm)
    if isinstance(chosen, LBFGS) and (recovers or refines or inner):
        found, expected = "parameters that are refined", "no refine"
        if inner or recovers:
            found = "sync inner above 1" if inner else "a probe that is recovered"
            expected = "inner=1" if inner else "update_probe=False"
        raise OptionError(f"algorithm is lbfgs with {found}; expected {expected}, or algorithm 'ap'")
    return chosen


def parse_refine(refine: Any, *, update_probe: bool) -> tuple[Refined, ...]:
    """Make the parameters to refine from words or from parameters, with their defaults resolved."""
    known = ", ".join(map(repr, WORDS))
    if not isinstance(refine, str | Refined | Sequence):
        raise OptionError(
            f"refine is {refine!r}; expected one of {known}, a Positions, a ProbeVariation, a Background, or "
            "a list of these"
        )
    given = list(refine) if isinstance(refine, Sequence) and not isinstance(refine, str) else [refine]
    chosen: dict[str, Refined] = {}
    words: dict[str, str] = {}
    for one in given:
        parameter = WORDS.get(one) if isinstance(one, str) else one
        if not isinstance(parameter, Refined):
            raise OptionError(
                f"refine holds {one!r}; expected one of {known}, a Positions, a ProbeVariation or a "
                "Background"
            )
        word, earlier = one if isinstance(one, str) else repr(one), words.get(parameter.name)
        if earlier is not None:
            both = f"{earlier} and {word}, two ways to refine one {parameter.name}"
            raise OptionError(
                f"refine holds {f'{word} twice' if word == earlier else both}; expected it once"
            )
        words[parameter.name] = word
        if isinstance(parameter, Positions | Gain):
            parameter = parameter.resolve(update_probe=update_probe)
        chosen[parameter.name] = parameter
    return tuple(chosen.values())


def resolve_momentum(momentum: Any, algorithm: Algorithm) -> float | Literal["nesterov"]:
    """Check the option momentum; its default is "nesterov", and 0 for a stack or L-BFGS."""
    without = algorithm.has_stack or isinstance(algorithm, LBFGS)
    if momentum is None:
        return 0.0 if without else "nesterov"
    if momentum != "nesterov" and not (isinstance(momentum, numbers.Real) and 0 <= float(momentum) < 1):
        raise OptionError(f"momentum is {momentum!r}; expected 'nesterov' or a number from 0 to below 1")
    if without and momentum != 0:
        who = "only algorithms without a stack take one" if algorithm.has_stack else "expected algorithm 'ap'"
        raise OptionError(f"momentum is {momentum!r} with {algorithm.name}; {who}")
    return "nesterov" if momentum == "nesterov" else float(momentum)


def require_whole(name: str, value: Any, *, least: int) -> int:
    """Check that an option is a whole number, `least` or more."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise OptionError(f"{name} is {value!r}; expected a whole number, {least} or more")
    return int(value)


def require_positive(name: str, value: Any) -> float:
    """Check that an option is a number above zero."""
    if not isinstance(value, numbers.Real) or not float(value) > 0:
        raise OptionError(f"{name} is {value!r}; expected above 0")
    return float(value)
