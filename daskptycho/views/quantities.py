"""Numbers, counts and lengths as a reader wants them.

`facts`, `drawing`, the dashboard and the command line call this module, which is quick to import.
"""

from __future__ import annotations

import math

__all__ = ["UNKNOWN", "format_duration", "format_length", "format_number", "length_unit", "pluralise"]

# Instead of a number that is not known.
UNKNOWN = "-"

UNITS = ((1.0, "m"), (1e-3, "mm"), (1e-6, "µm"), (1e-9, "nm"), (1e-12, "pm"))


def format_number(number: float) -> str:
    """Write a number with commas between thousands and no more digits than a reader wants: 1,024 or 3.14."""
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.3g}"


def pluralise(number: int, name: str) -> str:
    """Write a number and the name of what is counted: 1 tile, 4 tiles."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def length_unit(length: float) -> tuple[float, str]:
    """The unit, in metres and by name, in which a length in metres reads as 1 to 1000."""
    return next((unit for unit in UNITS if abs(length) >= 0.9999 * unit[0]), UNITS[-1])


def format_length(metres: float) -> str:
    """Write a length in the unit in which it reads as 1 to 1000."""
    unit, name = length_unit(metres)
    return f"{metres / unit:.4g} {name}"


def format_duration(seconds: float) -> str:
    """Write a time as people do: 4.2 s, 3 min 20 s, 2 h 5 min; a dash for NaN."""
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
