"""cdtools' L-BFGS, with the loss of amplitudes or of Poisson's counts. See `recording`.

Tuned: a line search, a first step of one and ten pairs, where its defaults are no search, 0.1 and two; chunks
of 128 frames, where it has 10. An iteration is an evaluation of the loss and its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from cdtools.datasets import Ptycho2DDataset
from cdtools.models import SimplePtycho
from cdtools.reconstructors import LBFGSReconstructor
from cdtools.tools import losses
from recording import Problem, read_problem


def make_solver(problem: Problem, frames: int) -> tuple[SimplePtycho, LBFGSReconstructor]:
    """The model and its solver, for the first frames."""
    # A pixel is a metre; axes are [x, y, z], and those of the image point against them.
    basis = torch.tensor([[0.0, -1.0], [-1.0, 0.0], [0.0, 0.0]])
    corner = problem.corner[:frames]
    translation = np.zeros((frames, 3), dtype=np.float32)
    translation[:, :2] = -corner[:, ::-1]
    dataset = Ptycho2DDataset(translation, problem.counts[:frames], wavelength=1.0)
    model = SimplePtycho(1.0, basis, problem.probe, np.ones(problem.shape, dtype=np.complex64))
    model.probe.requires_grad = not problem.options["known"]
    if problem.options.get("loss") == "poisson":
        model.loss, model.loss_normalizer = losses.poisson_nll, None
    solver = LBFGSReconstructor(model, dataset)
    # Iterations between two images.
    solver.optimizer.param_groups[0]["max_iter"] = 5
    return model, solver


def optimise(solver: LBFGSReconstructor, iterations: int) -> Iterator[float]:
    return solver.optimize(
        iterations,
        lr=1.0,
        history_size=10,
        thread=False,
        calculation_width=128,
        line_search_fn="strong_wolfe",
    )


def main() -> None:
    torch.set_num_threads(1)
    problem, recorder = read_problem()
    # The first step of a process takes a second for libraries.
    list(optimise(make_solver(problem, 16)[1], 1))
    recorder.restart()
    model, solver = make_solver(problem, len(problem.corner))
    evaluated, forward = 0, model.forward

    def count(*inputs: torch.Tensor) -> torch.Tensor:
        nonlocal evaluated
        evaluated += len(inputs[0])
        return forward(*inputs)

    model.forward = count
    for _ in optimise(solver, problem.options["iterations"]):
        passes = round(evaluated / len(problem.corner))
        if recorder.add(passes, model.obj.detach().numpy()) or passes >= problem.options["iterations"]:
            break


if __name__ == "__main__":
    main()
