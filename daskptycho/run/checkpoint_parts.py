"""The parts of a checkpoint: their names, and what a tile's task writes of its state."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from daskptycho.backend import to_host
from daskptycho.model.model import TileModel
from daskptycho.run.lbfgs_state import describe_memory, is_remembered
from daskptycho.tasks.layout import TileData
from daskptycho.tasks.state import TileState, memory_of, merge_image, previous_image, stack_of

__all__ = [
    "ANCHOR",
    "IMAGES",
    "PHASES",
    "PREVIOUS",
    "STACKS",
    "collect_parts",
    "describe_values",
    "is_image",
    "is_tiled",
    "pair_names",
    "take_prefixed",
]

Array = Any

# Names in the store of a tile's data other than parameters of the model.
IMAGES = ("images", "illuminations", "previous_images")
STACKS, PHASES = "stacks", "phases"
PREVIOUS, ANCHOR = "previous_", "anchor_"


def is_image(name: str) -> bool:
    """Whether a part of this name holds an image of each tile."""
    return name.removeprefix(ANCHOR) in IMAGES or is_remembered(name)


def is_tiled(name: str) -> bool:
    """Whether a part of this name holds data of tiles other than parameters of the model."""
    return is_image(name) or name in (STACKS, PHASES)


def take_prefixed(parts: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The parts whose names begin so, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in parts.items() if name.startswith(prefix)}


def pair_names(names: list[str], values: list[Array]) -> dict[str, Array]:
    """Values by their names."""
    return dict(zip(names, values, strict=True))


def describe_values(at: TileModel) -> tuple[int, dict[str, tuple[tuple[int, ...], str]]]:
    """Number of probe modes, and shape and type of a frame's value of each per-frame parameter, by name."""
    return len(at.probe), {name: (value.shape[1:], str(value.dtype)) for name, value in at.own.items()}


def collect_parts(
    data: TileData, state: TileState, at: TileModel, anchored: tuple[Array, dict[str, Array]] | None
) -> dict[str, NDArray]:
    """The data of a tile for a checkpoint, on the host, by name."""
    image, own = (None, {}) if anchored is None else anchored
    stack = stack_of(data, state)
    parts = {
        "images": merge_image(data, state, at),
        "illuminations": state.illumination[...],
        "previous_images": previous_image(state),
        STACKS: None if stack is None else stack.waves,
        PHASES: None if stack is None else stack.phase,
        **state.own,
        f"{ANCHOR}images": None if image is None else image[...],
        **{f"{ANCHOR}{name}": value for name, value in own.items()},
    }
    memory = memory_of(state)
    if memory is not None:
        parts |= describe_memory(memory)
    return {name: to_host(value) for name, value in parts.items() if value is not None}
