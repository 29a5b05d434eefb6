"""The standing of a run between two sweeps, and the scalars of the sweeps that are done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskptycho.run.guard import Anchor, Guard
from daskptycho.sync.gains import GainPace
from daskptycho.sync.options import Cadence, Sync
from daskptycho.sync.positions import Pace
from daskptycho.tasks.spec import place
from daskptycho.tasks.state import State

__all__ = ["Standing", "SweepRecord"]


class SweepRecord(NamedTuple):
    """The scalars of a sweep that are kept in the history of a run; see `Progress`."""

    residual: float
    disagreement: float
    spread: float
    seconds: float
    significance: float = np.nan
    """T of the positions; NaN if the sweep did not test them. See `sync.positions.Moves`."""
    moved: float = 0.0
    """How far frames moved after the sweep: root mean square along an axis, in pixels."""
    gain_significance: float = np.nan
    """T of the gains; NaN if the sweep did not test them. See `sync.gains.Gains`."""
    gain_changed: float = 0.0
    """How much ``log g`` changed after the sweep: root mean square."""
    variation_significance: float = np.nan
    """T of the variation of the probe; NaN if the sweep did not fit its weights. See `sync.variation`."""
    variation_share: float = np.nan
    """Power of the variation relative to the probe's; NaN likewise."""


@dataclass(frozen=True)
class Standing:
    """The standing of a run between two sweeps: all that the next sweep depends on.

    Attributes
    ----------
    state : State
        Image, probe and all other data on the workers.
    cadence : Cadence
        When to synchronise next.
    step : float or None
        t of Nesterov's sequence; None before its first step.
    history : tuple of SweepRecord
        One record for each sweep done.
    pace : Pace or None
        When to update positions next; None if they are not refined.
    gain_pace : GainPace or None
        When to update gains next; None if they are not refined.
    guard : Guard
    anchor : Anchor or None
        What the run goes back to if it diverges; None before the first sweep.
    """

    state: State
    cadence: Cadence
    step: float | None = None
    history: tuple[SweepRecord, ...] = ()
    change: float = np.nan
    """Relative change of the object in the sweep before the last; NaN if it was not measured."""
    polished_from: int | None = None
    """Number of sweeps after which the polish began; None before it."""
    guard: Guard = field(default_factory=Guard)
    anchor: Anchor | None = None
    pace: Pace | None = None
    stage: int = 0
    """Number of sweeps done when the last frames came in; 0 but in a run that follows a scan."""
    gain_pace: GainPace | None = None

    @property
    def sweep(self) -> int:
        """Number of sweeps done."""
        return len(self.history)

    @property
    def drifts(self) -> bool:
        """Whether frames move, gains change or the probe varies."""
        moves = self.pace is not None and self.pace.moving
        return moves or self.varies or (self.gain_pace is not None and self.gain_pace.changing)

    @property
    def varies(self) -> bool:
        """Whether the probe has been found to vary."""
        return bool(self.history) and self.history[-1].variation_share > 0

    @property
    def waits(self) -> bool:
        """Whether positions or gains are to be refined, and have not been tested yet."""
        tested = any(not np.isnan(done.significance) for done in self.history)
        if self.pace is not None and not tested:
            return True
        return self.gain_pace is not None and not self.gain_pace.is_decided

    @property
    def recent(self) -> tuple[SweepRecord, ...]:
        """The sweeps done with the frames of now."""
        return self.history[self.stage :]

    def to_attributes(self) -> dict[str, Any]:
        """Describe all but the state and the history by plain values, for a checkpoint."""
        return {
            "step": self.step,
            "growing": self.cadence.growing,
            "interval": self.cadence.interval,
            "due_in": self.cadence.due_in,
            "near_pairs": self.cadence.near_pairs,
            "coarse": self.cadence.coarse,
            "change": None if np.isnan(self.change) else self.change,
            "polished_from": self.polished_from,
            "guard": asdict(self.guard),
            "anchor": None if self.anchor is None else self.anchor.sweep,
            "stage": self.stage,
            "pace": None if self.pace is None else asdict(self.pace),
            "gain_pace": None if self.gain_pace is None else asdict(self.gain_pace),
        }

    @staticmethod
    def from_attributes(attributes: Mapping[str, Any], sync: Sync, history: NDArray) -> Standing:
        """Make the standing that `to_attributes` described, with a state that is still empty."""
        return Standing(
            State(place({}), []),
            Cadence(
                sync,
                attributes["growing"],
                attributes["interval"],
                attributes["due_in"],
                # Checkpoints of earlier releases lack these.
                attributes.get("near_pairs", False),
                attributes.get("coarse", False),
            ),
            attributes["step"],
            tuple(SweepRecord(*map(float, row)) for row in history),
            np.nan if attributes["change"] is None else attributes["change"],
            attributes["polished_from"],
            Guard(**attributes["guard"]),
            stage=attributes.get("stage", 0),
            pace=_recall_pace(Pace, attributes.get("pace")),
            gain_pace=_recall_pace(GainPace, attributes.get("gain_pace")),
        )


def _recall_pace(kind: Any, described: Mapping[str, Any] | None) -> Any:
    if described is None:
        return None
    # Checkpoints of earlier releases lack the tests of positions.
    return kind(**{**described, "tests": tuple(described.get("tests", ()))})
