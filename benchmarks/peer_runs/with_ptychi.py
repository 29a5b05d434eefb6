"""pty-chi's least-squares maximum likelihood (LSQML). See `recording`.

Tuned: batches of frames that are spread over the scan, each a thirtieth of it but 32 at least, and half of
momentum, where its defaults are 100 at random and none. With the probe known, its scale is kept.
"""

from __future__ import annotations

import logging

import numpy as np
import ptychi.api as api
import torch
from ptychi.api.task import PtychographyTask
from recording import Problem, read_problem

# Pixels around the canvas, for the patches of frames at its rim.
RIM = 4


def make_task(problem: Problem, frames: int) -> PtychographyTask:
    """The task for the first frames."""
    given, height = problem.options, problem.counts.shape[-1]
    known = given["known"]
    options = api.LSQMLOptions()
    options.reconstructor_options.num_epochs = given["iterations"]
    options.reconstructor_options.batch_size = given.get("batch", max(32, frames // 30))
    options.reconstructor_options.batching_mode = api.BatchingModes(given.get("batching", "uniform"))
    options.reconstructor_options.momentum_acceleration_gain = given.get("momentum", 0.5)
    options.reconstructor_options.default_device = api.Devices.CPU
    options.reconstructor_options.rescale_probe_intensity_in_first_epoch = not known
    options.reconstructor_options.noise_model = api.NoiseModels.GAUSSIAN
    options.object_options.remove_object_probe_ambiguity.enabled = False
    options.object_options.determine_position_origin_coords_by = api.ObjectPosOriginCoordsMethods.SPECIFIED
    # The centre of a frame of even size lies between pixels.
    options.object_options.position_origin_coords = np.full(2, RIM + (height - 1) / 2)
    options.object_options.patch_interpolation_method = api.PatchInterpolationMethods.FOURIER
    options.probe_options.optimizable = not known
    options.probe_position_options.optimizable = given.get("positions", False)
    options.opr_mode_weight_options.optimizable = False
    corner = problem.corner[:frames].astype(np.float32)
    shape = (1, problem.shape[0] + 2 * RIM, problem.shape[1] + 2 * RIM)
    return PtychographyTask(
        options,
        diffraction_data=problem.counts[:frames],
        object_data=torch.ones(shape, dtype=torch.complex64),
        # Its Fourier transform has no factor.
        probe_data=torch.from_numpy(problem.probe / height)[None, None],
        probe_position_x_px=corner[:, 1],
        probe_position_y_px=corner[:, 0],
    )


def main() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    problem, recorder = read_problem()
    make_task(problem, 32).run(1)
    recorder.restart()
    task = make_task(problem, len(problem.corner))
    for iteration in range(1, problem.options["iterations"] + 1):
        task.run(1)
        image = task.get_data_to_cpu("object", as_numpy=True)[0][RIM:-RIM, RIM:-RIM]
        positions = None
        if problem.options.get("positions"):
            positions = task.get_data_to_cpu("probe_positions", as_numpy=True)
        if recorder.add(iteration, image, positions):
            break


if __name__ == "__main__":
    main()
