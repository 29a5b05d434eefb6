"""What a run has found besides object and probe: a sentence for each, and which of it is worth a picture.

The command line, `facts` and `plotting` call this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from daskptycho.views.beam import describe_gain, draw_gain
from daskptycho.views.moves import describe_moves, draw_moves, find_moves_in_pixels
from daskptycho.views.run_options import read_refined
from daskptycho.views.variation import describe_variation, draw_variation

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

__all__ = ["describe_found", "draw_found", "list_drawable"]


def describe_found(result: xr.Dataset) -> list[str]:
    """A sentence on each thing that was refined, such as "Beam: decays by 30 % over the scan."."""
    sentences, visible = [], list_drawable(result)
    for name, series, thing, describe in (
        ("position_given", "position", "Positions", describe_moves),
        ("gain_changed", "gain", "Beam", describe_gain),
        ("probe_weight", "variation", "Probe", describe_variation),
    ):
        if name not in result:
            continue
        if name in visible or _is_tested(result, f"{series}_significance"):
            sentences.append(describe(result))
        else:
            sentences.append(
                f"{thing}: not tested: {result.sizes['sweep']} sweeps, or the counts, are too few."
            )
    if read_refined(result, "background") is not None:
        sentences.append(_describe_background(result))
    return sentences


def _is_tested(result: xr.Dataset, significance: str) -> bool:
    return significance not in result or bool(result[significance].notnull().any())


def _describe_background(result: xr.Dataset) -> str:
    mean = float(result["background"].mean())
    return f"Background: {mean:.2g} counts per pixel." if mean > 0 else "Background: none."


def list_drawable(result: xr.Dataset) -> list[str]:
    """Names of the variables that `draw_found` draws: those with anything to see."""
    drawable = {
        "position_given": lambda: find_moves_in_pixels(result).any(),
        "gain_changed": lambda: (result["gain_changed"].values > 0).any(),
        "probe_weight": lambda: result["probe_weight"].fillna(0).values.any(),
    }
    return [name for name, is_visible in drawable.items() if name in result and is_visible()]


def draw_found(figure: FigureBase, result: xr.Dataset, name: str) -> None:
    """Draw what a run has found, named by a variable of its result, which `list_drawable` lists."""
    if name == "probe_weight":
        draw_variation(figure, result)
    else:
        draw = draw_moves if name == "position_given" else draw_gain
        draw(figure.subplots(), result)
