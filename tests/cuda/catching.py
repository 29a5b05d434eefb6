"""Whether the trials of a kernel notice a fault in it."""

from __future__ import annotations

from tests.cuda.emulation import Compiled, KernelError
from tests.cuda.large_trials import LARGE_TRIALS
from tests.cuda.mutants import Mutant
from tests.cuda.shipped import kernels_on
from tests.cuda.trials import TRIALS

__all__ = ["SEEDS", "caught"]

# Of schedules: threads in order, the last one first, at random.
SEEDS = (0, 1, 2)


def caught(mutant: Mutant, compiled: Compiled) -> str | None:
    """What noticed the fault, or None."""
    for seed in SEEDS:
        if mutant.large:
            for large in LARGE_TRIALS[mutant.kernel]:
                try:
                    with kernels_on(compiled, seed, large.choose_blocks) as kernels:
                        large.run(kernels)
                except (AssertionError, KernelError) as error:
                    return _said(error, large.what)
            continue
        for trial in TRIALS[mutant.kernel]:
            try:
                with kernels_on(compiled, seed) as kernels:
                    trial.run(kernels)
            except (AssertionError, KernelError) as error:
                return _said(error, trial.what)
    return None


def _said(error: Exception, what: str) -> str:
    said = f"{error}" if isinstance(error, KernelError) else "wrong numbers"
    return f"{said}, in the trial of {what}"
