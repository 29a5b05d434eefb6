"""A stand-in for dask-cuda: worker processes that each see the stand-in's GPUs, their own first."""

from __future__ import annotations

import copy
from typing import Any

from distributed import LocalCluster

__all__ = ["LocalCUDACluster"]


class LocalCUDACluster(LocalCluster):
    def __init__(
        self,
        CUDA_VISIBLE_DEVICES: list[str],
        n_workers: int,
        threads_per_worker: int = 1,
        memory_limit: Any = "auto",
        dashboard_address: str | None = None,
        silence_logs: int | None = None,
    ) -> None:
        self._gpus = list(CUDA_VISIBLE_DEVICES)
        super().__init__(
            n_workers=0,
            threads_per_worker=threads_per_worker,
            processes=True,
            memory_limit=memory_limit,
            dashboard_address=dashboard_address,
            silence_logs=silence_logs,
        )
        self.scale(n_workers)
        self.sync(self._correct_state)

    def new_worker_spec(self) -> dict[Any, Any]:
        number = len(self.worker_spec)
        visible = ",".join(self._gpus[number:] + self._gpus[:number])
        spec = copy.deepcopy(self.new_spec)
        spec["options"]["env"] = {"CUDA_VISIBLE_DEVICES": visible}
        return {number: spec}
