"""The texts and numbers of a live view, as small pieces of HTML, and the style sheet that goes with them.

`page` and `live_cell` show them. Every name that comes from outside is escaped here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from daskptycho.dashboard.view import View
from daskptycho.views.quantities import UNKNOWN, format_duration

__all__ = [
    "COLOURS",
    "assign_colours",
    "read_asset",
    "render_headline",
    "render_numbers",
    "render_workers",
]

# One for each worker; they can also be distinguished by those who cannot tell red from green.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#994f00")


def read_asset(name: str) -> str:
    """Read a style sheet or template of this folder."""
    return files("daskptycho.dashboard").joinpath(name).read_text("utf-8")


def render_headline(view: View) -> str:
    """Write the name of the scan, the status of the run, its note and a progress bar."""
    name = escape(view.scan) or "A run of daskptycho"
    share = 100 * min(1.0, view.sweeps_done / view.sweeps) if view.sweeps else 0
    status = view.status
    return (
        f"<h1>{name}<span class='status {status}'>{status}</span></h1>"
        f"<div class='note'>{escape(view.note)}</div>"
        f"<div class='bar'><div class='{status}' style='width: {share:.1f}%'></div></div>"
    )


def render_numbers(view: View) -> str:
    """Write the numbers that one looks for first, each with its label."""
    synchronised = [value for value in view.disagreement if math.isfinite(value)]
    pace = view.seconds_per_sweep
    running = view.status in ("waiting", "running")
    time_label, seconds = ("left", view.seconds_left) if running else ("taken", sum(view.seconds))
    shown = [
        (f"{view.sweeps_done}" + (f" of {view.sweeps}" if view.sweeps else ""), "sweeps"),
        (format_duration(seconds), time_label),
        (f"{view.residual[-1]:.4g}" if view.residual else UNKNOWN, "residual R²"),
        (f"{synchronised[-1]:.3g}" if synchronised else UNKNOWN, "disagreement 1 - λ"),
        (format_duration(pace), "per sweep"),
        (f"{view.frames / pace:,.0f}" if view.frames and pace > 0 else UNKNOWN, "frames per second"),
        (f"{view.frames:,}" if view.frames else UNKNOWN, "frames"),
        (f"{view.tile_count:,}" if view.tile_count else UNKNOWN, "tiles"),
    ]
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for value, name in shown)
    return f"<div class='numbers'>{cells}</div>"


def assign_colours(homes: Sequence[str]) -> dict[str, str]:
    """Assign a colour to each worker; where there are more workers than colours, colours repeat."""
    return {home: COLOURS[number % len(COLOURS)] for number, home in enumerate(sorted(set(homes)))}


def render_workers(view: View) -> str:
    """Write a table of the workers with their numbers of tiles and frames."""
    tiles = view.tiles
    if tiles is None:
        return "<table><tr><th>Workers appear after the first sweep.</th></tr></table>"
    colours = assign_colours(tiles.homes)
    number = Counter(tiles.homes)
    frames: Counter[str] = Counter()
    for home, own in zip(tiles.homes, tiles.frames, strict=True):
        frames[home] += int(own)
    rows = "".join(
        f"<tr><td><i style='background: {colour}'></i>{escape(home) or 'threads of this process'}</td>"
        f"<td>{number[home]:,}</td><td>{frames[home]:,}</td></tr>"
        for home, colour in colours.items()
    )
    return f"<table><tr><th>where</th><th>tiles</th><th>frames</th></tr>{rows}</table>"
