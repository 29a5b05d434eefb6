"""A run that follows a scan while it grows: it goes in stages, each with the frames that are there.

A stage takes up tiles that have come since the one before. Of many it takes only some, and the next stage
follows at once, so that each is seen soon. The last stage begins once no more frames will come, and makes the
sweeps that were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskptycho.cluster.workers import Workers
from daskptycho.errors import ScanError, warn_caller
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
# Seconds after which a run that waits says how far the scan is.
REPORT = 5.0
# Detector pixels that a stage takes up at most, but for one tile on each thread: a second's work of a core.
STAGE_PIXELS = 2**25


def stage_settings(
    options: RunOptions,
    find_workers: Callable[[], Workers],
    *,
    probe: ArrayLike | None = None,
    modes: Any = None,
) -> Callable[[xr.Dataset], Setting]:
    """What makes the setting of a stage from the scan with the frames of then; see `choose_setting`.

    Workers may join from stage to stage. Memory is planned for as many as there have been at most: those that
    a cluster lets go while there is little to do come again.
    """
    guessed: list[NDArray] = []
    most = 0

    def choose(scan: xr.Dataset) -> Setting:
        nonlocal most
        used, workers = take_used(scan), find_workers()
        most = max(most, workers.count)
        own = probe
        if own is None and "probe" not in scan and options.update_probe:
            if not guessed:
                # From the first tile; later stages go on with the probe so far.
                guessed.append(guess_probe(used))
            own = guessed[0]
        tiling = lay_out_tiles(used, whole_pixel=not options.subpixel)
        return choose_setting(used, tiling, options, replace(workers, count=most), probe=own, modes=modes)

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
        # What was written when the stage began; None if not all of that is taken up.
        self._of_stage: NDArray[np.int64] | None = None
        self._has_warned = False

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
        taken_up = int(frames_used(scan).sum())
        self._of_stage, ended = self._watch.written, self._watch.ended
        if kept is not None:
            self._watch.look()
            # `grow` takes up what has come since, so that the run goes on as if it had never been cut off.
            is_complete = taken_up == int(frames_used(self._watch.open()).sum())
            self._of_stage = self._watch.written if is_complete else None
            ended = self._keeper.ended_at_checkpoint
        return replace(loop, growth=self._watch.growth(taken_up)._replace(ended=ended))

    def _wait_for_frames(self) -> xr.Dataset:
        """The scan, once it has frames to begin with."""
        self._watch.look()
        while not self._watch.measured or not frames_used(scan := self._watch.open()).any():
            if self._watch.ended:
                raise ScanError(
                    f"the scan has ended with {self._watch.measured:,} frames in its store, and none of them "
                    "is used; expected frames to reconstruct"
                )
            self._wait()
        return scan

    def _wait(self) -> bool:
        """Wait for frames, for some seconds at most; whether any have come. It is said if that takes long."""
        new = self._watch.wait(REPORT)
        if (silence := self._watch.describe_silence()) and not self._has_warned:
            warn_caller(f"the run waits: {silence} (Ctrl-C ends it)")
        self._has_warned = not new and (self._has_warned or bool(silence))
        return new

    def begin(self, loop: Loop) -> Standing:
        """The standing before the first sweep."""
        assert self._setting is not None
        return self._setting.begin(loop)

    def look(self, loop: Loop) -> Loop:
        """The same loop, with how far the scan has grown by now."""
        assert loop.growth is not None
        self._watch.look()
        growth = self._watch.growth(loop.growth.taken_up)
        return replace(loop, growth=growth._replace(ended=loop.is_last))

    def grow(self, loop: Loop, standing: Standing) -> Iterator[tuple[Loop, Standing]]:
        """The loop and the standing of each new stage to go on with, after a sweep.

        Stages begin if frames have come, or if the scan has ended. A run that has improved the image for
        long, or has diverged too often, waits for that; meanwhile the same loop comes now and then, with how
        far the scan is.
        """
        if loop.is_last:
            return
        self._watch.look()
        while not self._watch.ended and self._of_stage is not None:
            if not np.array_equal(self._watch.written, self._of_stage):
                break
            if len(standing.recent) < IDLE_SWEEPS and not standing.guard.exhausted:
                return
            if not self._wait():
                yield self.look(loop), standing
        self._of_stage, is_last, rest = self._watch.written, self._watch.ended, True
        scan = self._watch.open()
        while rest:
            part, rest = take_some_tiles(scan, self._keeper.scan, self._most_tiles(scan))
            loop, standing = self._begin_stage(part, loop, standing, is_last=is_last and not rest)
            yield loop, standing

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
        growth = self._watch.growth(int(frames_used(scan).sum()))
        following = replace(following, growth=growth._replace(ended=is_last))
        _, own = place_values(following.layout, setting.first_values(following))
        state = persist(carry_over(loop, standing.state, following, own, same))
        self._setting = setting
        self._keeper.begin_stage(scan)
        cadence = Cadence.begin(setting.options.sync, growing=False)
        return following, Standing(state, cadence, history=standing.history, stage=standing.sweep)
