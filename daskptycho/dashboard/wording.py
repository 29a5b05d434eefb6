"""What the live page says in words and numbers, as small pieces of HTML.

`page` and the cell of a notebook show them; every name that comes from outside is escaped here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape

from daskptycho.dashboard.view import View

__all__ = ["COLOURS", "duration", "facts", "headline", "home_colours", "workers_table"]

# Of workers: told apart by eye, also where red and green are not.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#994f00")
UNKNOWN = "-"


def duration(seconds: float) -> str:
    """A time as one says it: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def headline(view: View) -> str:
    """What is reconstructed, how the run stands, and how far it is."""
    name = escape(view.scan) or "A run of daskptycho"
    done = view.sweep[-1] if view.sweep else 0
    share = 100 * min(1.0, done / view.sweeps) if view.sweeps else 0
    status = view.status
    return (
        f"<h1>{name}<span class='status {status}'>{status}</span></h1>"
        f"<div class='note'>{escape(view.note)}</div>"
        f"<div class='bar'><div class='{status}' style='width: {share:.1f}%'></div></div>"
    )


def facts(view: View) -> str:
    """The numbers that one looks for first."""
    done = view.sweep[-1] if view.sweep else 0
    synchronised = [value for value in view.consensus if math.isfinite(value)]
    pace = view.pace
    running = view.status in ("waiting", "running")
    shown = [
        (f"{done} of {view.sweeps}" if view.sweeps else f"{done}", "sweeps"),
        (duration(view.left) if running else duration(sum(view.seconds)), "left" if running else "taken"),
        (f"{view.residual[-1]:.4g}" if view.residual else UNKNOWN, "residual R²"),
        (f"{synchronised[-1]:.3g}" if synchronised else UNKNOWN, "consensus 1 - λ"),
        (duration(pace), "a sweep"),
        (f"{view.frames / pace:,.0f}" if view.frames and pace > 0 else UNKNOWN, "frames a second"),
        (f"{view.frames:,}" if view.frames else UNKNOWN, "frames"),
        (f"{view.tile_count:,}" if view.tile_count else UNKNOWN, "tiles"),
    ]
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for value, name in shown)
    return f"<div class='facts'>{cells}</div>"


def home_colours(homes: Sequence[str]) -> dict[str, str]:
    """A colour for each worker; beyond as many as can be told apart they come again."""
    return {home: COLOURS[number % len(COLOURS)] for number, home in enumerate(sorted(set(homes)))}


def workers_table(view: View) -> str:
    """Which worker has how many tiles and frames."""
    tiles = view.tiles
    if tiles is None:
        return "<table><tr><th>Workers appear after the first sweep.</th></tr></table>"
    colours = home_colours(tiles.homes)
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
