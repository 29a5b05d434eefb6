"""Draw axes.png: the relation between frames, positions and the laboratory axes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

BLUE, RED, GREY = "#1f4e79", "#c0504d", "#8a94a3"


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], word: str, colour: str) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2})
    along = np.asarray(end) - start
    across = "left" if along[0] > 0 else "right" if along[0] < 0 else "center"
    axes.text(*(np.asarray(end) + 0.08 * along), word, color=colour, ha=across, va="center", fontsize=12)


def draw_object(axes: Axes) -> None:
    """Draw frames on the object: a frame at position p covers p to p + N."""
    axes.add_patch(Rectangle((0, 0), 10, 9, facecolor="#eef2f7", edgecolor=GREY))
    for number, (y, x) in enumerate(((0.8, 1.2), (1.4, 4.6), (4.2, 2.2))):
        strong = number == 1
        axes.add_patch(
            Rectangle((x, y), 4, 4, fill=False, edgecolor=BLUE if strong else GREY, lw=2.5 if strong else 1)
        )
        axes.add_patch(Circle((x + 2, y + 2), 1.6, facecolor=RED, alpha=0.18 if strong else 0.08))
        axes.plot(x, y, "o", color=BLUE if strong else GREY)
    axes.annotate(
        "position p = [y, x]",
        (4.6, 1.4),
        (5.4, 0.45),
        color=BLUE,
        fontsize=11,
        arrowprops={"arrowstyle": "-", "color": BLUE},
    )
    axes.text(8.6, 5.9, "frame: p to p + N", color=BLUE, fontsize=11, va="center", ha="right")
    axes.text(6.6, 3.4, "beam", color=RED, ha="center", fontsize=11)
    arrow(axes, (-0.7, -0.7), (2.2, -0.7), "x", "black")
    arrow(axes, (-0.7, -0.7), (-0.7, 2.2), "y", "black")
    axes.set(title="The object, seen along the beam", xlim=(-1.6, 10.6), ylim=(9.6, -1.6), aspect="equal")


def draw_detector(axes: Axes) -> None:
    """Draw a frame: the same two axes, with the zero frequency at N//2."""
    y, x = np.mgrid[-8:8, -8:8]
    rings = np.exp(-(y**2 + x**2) / 14) * (1 + 0.6 * np.cos(1.9 * np.hypot(y, x)))
    axes.imshow(rings, cmap="Greys", extent=(0, 16, 16, 0), vmax=2.4)
    axes.plot(8.5, 8.5, "+", color=RED, markersize=16, markeredgewidth=2)
    axes.text(8.7, 7.5, "zero frequency\nat N//2", color=RED, fontsize=11, va="bottom")
    arrow(axes, (-1.1, -1.1), (4.2, -1.1), "qx", "black")
    arrow(axes, (-1.1, -1.1), (-1.1, 4.2), "qy", "black")
    axes.set(title="A frame, seen along the beam", xlim=(-2.6, 16.6), ylim=(16.6, -3.2), aspect="equal")


def draw_laboratory(axes: Axes) -> None:
    """Draw the axes of CXI and NeXus: y up, x to the left; the sample moves."""
    axes.add_patch(Rectangle((-1.5, -1.5), 3, 3, facecolor="#eef2f7", edgecolor=GREY))
    axes.plot(0, 0, "o", color=RED)
    axes.text(0.12, -0.12, "beam: z points\naway from you", color=RED, va="top", fontsize=11)
    arrow(axes, (0, 0), (0, 2.2), "y", BLUE)
    arrow(axes, (0, 0), (-2.2, 0), "x", BLUE)
    arrow(axes, (2.3, 1.5), (2.3, -0.3), "next row", "black")
    arrow(axes, (-1.4, -2), (0.3, -2), "next pixel", "black")
    axes.text(-1.35, 1.2, "sample", color=GREY, fontsize=11)
    axes.set(title="CXI and NeXus, seen along the beam", xlim=(-3, 3.2), ylim=(-2.7, 2.9), aspect="equal")


def main(target: Path) -> None:
    figure = Figure(figsize=(15, 5.6), layout="constrained")
    for axes, draw in zip(figure.subplots(1, 3), (draw_object, draw_detector, draw_laboratory), strict=True):
        draw(axes)
        axes.axis("off")
    figure.get_layout_engine().set(h_pad=0.15)
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("axes.png"))
