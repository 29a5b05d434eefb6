"""A run that follows a scan while it grows: it goes in stages, each with the frames that are there.

A stage takes up tiles that have come since the one before. Of many it takes only some, and the next stage
follows at once, so that each is seen soon. The last stage begins once no more frames will come, and makes the
sweeps that were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskptycho.cluster.workers import Workers
from daskptycho.errors import ScanError
from daskptycho.run.first_probe import guess_probe
from daskptycho.run.growth import Watch, take_some_tiles
from daskptycho.run.keeper import Keeper
from daskptycho.run.laying_out import Setting, choose_setting
from daskptycho.run.loop import Loop
from daskptycho.run.options import RunOptions
from daskptycho.run.standing import Standing
from daskptycho.run.start import place_values
from daskptycho.run.taking_up import carry_over, match_tiles
from daskptycho.scan.dataset import frame_numbers, frames_used, take_used
from daskptycho.scan.tiles import lay_out_tiles
from daskptycho.sync.options import Cadence
from daskptycho.tasks.waiting import persist

__all__ = ["Follower", "stage_settings"]

# Sweeps over the same frames after which a run waits for more, rather than improve an image that will change.
IDLE_SWEEPS = 30
# Detector pixels that a stage takes up at most, but for one tile on each thread: a second's work of a core.
STAGE_PIXELS = 2**25


def stage_settings(
    options: RunOptions, workers: Workers, *, probe: ArrayLike | None = None, modes: Any = None
) -> Callable[[xr.Dataset], Setting]:
    """What makes the setting of a stage from the scan with the frames of then; see `choose_setting`."""
    guessed: list[NDArray] = []

    def choose(scan: xr.Dataset) -> Setting:
        used = take_used(scan)
        own = probe
        if own is None and "probe" not in scan and options.update_probe:
            if not guessed:
                # From the first tile; later stages go on with the probe so far.
                guessed.append(guess_probe(used))
            own = guessed[0]
        tiling = lay_out_tiles(used, whole_pixel=not options.subpixel)
        return choose_setting(used, tiling, options, workers, probe=own, modes=modes)

    return choose


class Follower:
    """Lays out the stages of a run that follows a scan.

    Parameters
    ----------
    watch : Watch
    choose : callable
        Makes the `Setting` of a stage from the scan with the frames of then.
    keeper : Keeper
    """

    def __init__(self, watch: Watch, choose: Callable[[xr.Dataset], Setting], keeper: Keeper) -> None:
        self._watch, self._choose, self._keeper = watch, choose, keeper
        self._setting: Setting | None = None

    def lay_out(self) -> Loop:
        """The loop of the stage that the keeper has a checkpoint of, or of the frames that are there.

        Waits for the first frames.

        Raises
        ------
        ScanError
            The scan has ended, and none of its frames is used.
        """
        kept = self._keeper.scan_of_checkpoint
        scan = self._wait_for_frames() if kept is None else kept
        self._keeper.begin_stage(scan, kept=kept is not None)
        self._setting = self._choose(scan)
        loop = self._setting.lay_out()
        growth = self._watch.growth(scan)
        if kept is not None:
            self._watch.look()
            growth = self._watch.growth(scan)
            # `grow` takes up what has come since, so that the run goes on as if it had never been cut off.
            is_complete = growth.taken_up == int(frames_used(self._watch.open()).sum())
            measured = growth.measured if is_complete else growth.taken_up
            growth = growth._replace(ended=self._keeper.ended_at_checkpoint, measured=measured)
        return replace(loop, growth=growth)

    def _wait_for_frames(self) -> xr.Dataset:
        """The scan, once it has frames to begin with."""
        self._watch.look()
        while not self._watch.measured or not frames_used(scan := self._watch.open()).any():
            if self._watch.ended:
                raise ScanError(
                    f"the scan has ended with {self._watch.measured:,} frames in its store, and none of them "
                    "is used; expected frames to reconstruct"
                )
            self._watch.wait()
        return scan

    def begin(self, loop: Loop) -> Standing:
        """The standing before the first sweep."""
        assert self._setting is not None
        return self._setting.begin(loop)

    def grow(self, loop: Loop, standing: Standing) -> Iterator[tuple[Loop, Standing]]:
        """The loop and the standing of each new stage to go on with, after a sweep.

        Stages begin if frames have come, or if the scan has ended. A run that has improved the image for
        long, or has diverged too often, waits for that.
        """
        if loop.is_last or not self._has_news(loop, standing):
            return
        scan, is_last, rest = self._watch.open(), self._watch.ended, True
        while rest:
            part, rest = take_some_tiles(scan, self._keeper.scan, self._most_tiles(scan))
            loop, standing = self._begin_stage(part, loop, standing, is_last=is_last and not rest)
            yield loop, standing

    def _has_news(self, loop: Loop, standing: Standing) -> bool:
        """Whether there is anything new to take up; waits for it if the run has nothing else to do."""
        new = self._watch.look()
        growth = loop.growth
        assert growth is not None
        if not new and not self._watch.ended and self._watch.measured <= growth.measured:
            if len(standing.recent) < IDLE_SWEEPS and not standing.guard.exhausted:
                return False
            self._watch.wait()
        return True

    def _most_tiles(self, scan: xr.Dataset) -> int:
        """Number of new tiles that a stage takes up at most."""
        assert self._setting is not None
        workers, (frames, *pixels) = self._setting.workers, scan["intensity"].data.chunksize
        return max(STAGE_PIXELS // (frames * pixels[0] * pixels[1]), workers.count * workers.threads)

    def _begin_stage(
        self, scan: xr.Dataset, loop: Loop, standing: Standing, *, is_last: bool
    ) -> tuple[Loop, Standing]:
        before = self._setting
        assert before is not None
        setting = self._choose(scan)
        same = match_tiles(
            *(setting.tiling, frame_numbers(setting.scan)), *(before.tiling, frame_numbers(before.scan))
        )
        same_mask = "valid" not in scan or bool((setting.scan["valid"] == before.scan["valid"]).all())
        following = setting.lay_out(loop, same if same_mask else {})
        following = replace(following, growth=self._watch.growth(scan)._replace(ended=is_last))
        _, own = place_values(following.layout, setting.first_values(following))
        state = persist(carry_over(loop, standing.state, following, own, same))
        self._setting = setting
        self._keeper.begin_stage(scan)
        cadence = Cadence.begin(setting.options.sync, growing=False)
        return following, Standing(state, cadence, history=standing.history, stage=standing.sweep)
