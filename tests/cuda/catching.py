"""Whether the trials of the kernels notice a fault in them."""

from __future__ import annotations

import itertools

from tests.cuda.emulation import Compiled, KernelError
from tests.cuda.large_trials import LARGE_TRIALS
from tests.cuda.mutants import Mutant
from tests.cuda.shipped import kernels_on
from tests.cuda.trials import TRIALS

__all__ = ["SEEDS", "caught"]

# Of schedules: the first warp runs ahead, the last one does, whichever is drawn.
SEEDS = (0, 1, 2)


def caught(mutant: Mutant, compiled: Compiled) -> dict[str, str | None]:
    """What noticed the fault in each of the kernels that have it, or None."""
    return {kernel: _noticed(kernel, compiled, mutant.large) for kernel in mutant.kernels}


def _noticed(kernel: str, compiled: Compiled, large: bool) -> str | None:
    for seed, trial in itertools.product(SEEDS, (LARGE_TRIALS if large else TRIALS)[kernel]):
        try:
            with kernels_on(compiled, seed, trial.choose_blocks) as kernels:
                trial.run(kernels)
        except KernelError as error:
            return f"{error}, schedule {seed}, in the trial of {trial.what}"
        except AssertionError:
            return f"wrong numbers, schedule {seed}, in the trial of {trial.what}"
    return None
