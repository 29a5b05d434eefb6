"""What L-BFGS remembers, as parts of a checkpoint: images of each tile, and the numbers of the last step."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from daskptycho.model.algorithms import LBFGS, Algorithm
from daskptycho.model.lbfgs import Memory, Step
from daskptycho.tasks.state import Joined, Measured

__all__ = [
    "describe_joined",
    "describe_memory",
    "is_remembered",
    "recall_joined",
    "recall_memory",
    "remembered_names",
]

Array = Any

PREFIX = "remembered_"


def is_remembered(name: str) -> bool:
    """Whether a part of this name is an image that L-BFGS remembers."""
    return name.startswith(PREFIX)


def remembered_names(algorithm: Algorithm) -> list[str]:
    """Names of the parts that a run with this algorithm may have, in order; none without L-BFGS."""
    pairs = algorithm.pairs if isinstance(algorithm, LBFGS) else -1
    return [_name_part(number) for number in range(2 * pairs + 2)]


def _name_part(number: int) -> str:
    return f"{PREFIX}{number:03}"


def describe_memory(memory: Memory) -> dict[str, Array]:
    """The images of a tile, by name: the object before the last step, its change, and the pairs."""
    images = [memory.image, memory.change, *(array for pair in memory.pairs for array in pair)]
    return {_name_part(number): image for number, image in enumerate(images)}


def recall_memory(images: list[Array]) -> Measured:
    """The memory of a tile from its images, in order, in the form that a sweep needs."""
    image, change, *arrays = images
    memory = Memory(image, change, list(zip(arrays[::2], arrays[1::2], strict=True)))
    return Measured(memory, np.zeros((0, 0)), 0.0)


def describe_joined(joined: Joined) -> dict[str, Any]:
    """Describe the last step by plain values."""
    return asdict(joined.step) | {"roughness": joined.roughness}


def recall_joined(described: dict[str, Any]) -> Joined:
    """The last step that `describe_joined` described."""
    numbers = {name: tuple(described[name]) for name in ("coefficients", "kept", "misfits")}
    gram = tuple(map(tuple, described["gram"]))
    step = Step(**numbers, gram=gram, turned=described["turned"])
    return Joined(step, 0.0, roughness=described["roughness"])
