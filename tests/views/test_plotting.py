"""Pictures show what they claim, and appear on the disk completely or not at all."""

from __future__ import annotations

import itertools
import json
import operator
import re
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from daskptycho.analysis.metrics import compare_images, relative_error
from daskptycho.errors import OptionError
from daskptycho.views.drawing import resize_figure
from daskptycho.views.plotting import (
    complex_to_rgb,
    plot_comparison,
    plot_result,
    plot_sync_difference,
)
from daskptycho.views.saving import save_figure

SHAPE = (72, 96)


def make_object(noise: float = 0.0, slow: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    stripes = np.sign(np.sin(12 * np.arctan2(y, x)))
    values = (1 - 0.2 * stripes) * np.exp(0.4j * stripes + 1j * slow * np.sin(2 * x))
    return values + noise * (rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE))


def make_result(
    values: np.ndarray, *, units: str = "m", modes: int = 2, sweeps: int = 20, sync: bool = True
) -> xr.Dataset:
    y, x = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    illumination = np.clip(1.2 - np.hypot(y, x), 0, 1)
    illumination[:, :6] = 0
    step = 1.0 if units == "pixel" else 5e-9
    probe = np.stack([np.full((16, 16), 1j) * 0.5**mode for mode in range(modes)])
    sweep = np.arange(sweeps)
    return xr.Dataset(
        {
            "object": (("y", "x"), values.astype(np.complex64)),
            "illumination": (("y", "x"), illumination.astype(np.float32)),
            "probe": (("mode", "probe_y", "probe_x"), probe.astype(np.complex64)),
            "position": (("frame", "axis"), np.zeros((36, 2))),
            "residual": ("sweep", 0.3 * 0.8**sweep + 0.01),
            "disagreement": (
                "sweep",
                np.where(sweep < 8, 0.1 * 0.5**sweep, np.nan) if sync else sweep * np.nan,
            ),
            "seconds": ("sweep", sweep * 0.1),
        },
        coords={
            "y": ("y", np.arange(SHAPE[0]) * step, {"units": units}),
            "x": ("x", np.arange(SHAPE[1]) * step, {"units": units}),
        },
        attrs={
            "options": json.dumps({"algorithm": "ap", "momentum": "nesterov"}),
            "version": "0",
            "source": "scan.zarr",
        },
    )


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def find_panel(figure: Figure, title: str):
    (found,) = [axes for axes in figure.axes if axes.get_title() == title]
    return found


def find_by_label(figure: Figure, ylabel: str):
    return [axes for axes in figure.axes if ylabel in axes.get_ylabel()]


def test_result_shows_amplitude_phase_modes_and_convergence() -> None:
    result = make_result(make_object(noise=0.01))
    figure = plot_result(result)
    assert titles(figure) == ["amplitude", "phase", "1: 80.0 %", "2: 20.0 %", "2\nmodes"]
    headline = figure.get_suptitle()
    for word in ("36 frames", "AP with momentum and sync", "20 sweeps", "0.0143"):
        assert word in headline
    (residual,) = find_by_label(figure, "residual")
    np.testing.assert_allclose(residual.lines[0].get_ydata(), result["residual"])
    np.testing.assert_allclose(residual.lines[0].get_xdata(), np.arange(1, 21))
    assert residual.get_xscale() == residual.get_yscale() == "log"
    (disagreement,) = find_by_label(figure, "disagreement")
    np.testing.assert_allclose(disagreement.lines[0].get_ydata(), result["disagreement"][:8])


def test_result_draws_only_the_lit_part() -> None:
    result = make_result(make_object(), units="pixel")
    amplitude, phase = (find_panel(plot_result(result), name).images[0] for name in ("amplitude", "phase"))
    light = result["illumination"].values
    lit = light > 0.1 * np.percentile(light[light > 0], 90)
    columns = np.flatnonzero(lit.any(axis=0))
    assert amplitude.get_extent()[0] == columns[0] - 0.5 == 5.5
    drawn = amplitude.get_array()
    assert drawn.mask.any()
    np.testing.assert_allclose(
        drawn.compressed(), np.abs(result["object"].values)[lit].astype(float), rtol=1e-6
    )
    assert np.ma.getmaskarray(phase.get_array()).sum() == np.ma.getmaskarray(drawn).sum()
    grey = amplitude.get_cmap().get_bad()
    assert max(grey[:3]) - min(grey[:3]) < 0.1
    # The map is cyclic only if the range is the full circle.
    assert phase.get_cmap().name.startswith("viridis")
    low, high = phase.get_clim()
    inside = (phase.get_array().compressed() >= low) & (phase.get_array().compressed() <= high)
    assert inside.mean() > 0.98


def test_result_without_sync_or_physical_scale() -> None:
    figure = plot_result(make_result(make_object(), units="pixel", modes=1, sync=False))
    assert titles(figure) == ["amplitude", "phase", "probe"]
    assert "sync" not in figure.get_suptitle()
    assert not find_by_label(figure, "disagreement")
    assert find_panel(figure, "amplitude").get_xlabel() == "x (pixel)"


def test_result_of_many_modes_and_one_sweep_says_so() -> None:
    figure = plot_result(make_result(make_object(), modes=9, sweeps=1))
    assert [title.split(":")[0] for title in titles(figure)[2:]] == [
        "1", "2", "3", "4", "5", "6", "6 of 9\nmodes",
    ]  # fmt: skip
    save_nothing = plot_result(make_result(make_object()).isel(sweep=slice(0, 0)))
    assert "sweeps" not in save_nothing.get_suptitle()


def test_titles_of_modes_stand_apart_and_their_scale_bar_covers_none() -> None:
    # The narrowest panels: of eight modes, beside the moves of the frames.
    result = make_result(make_object(), modes=8)
    at = np.stack(np.mgrid[:6, :6], axis=-1).reshape(36, 2) * 4.0
    result["position_given"] = (("frame", "axis"), at)
    result["position"] = (("frame", "axis"), at + np.random.default_rng(1).normal(size=at.shape))
    figure = plot_result(result)
    figure.canvas.draw()
    panels = [axes for axes in figure.axes if re.match(r"\d: ", axes.get_title())]
    assert len(panels) == 6
    extents = [axes.title.get_window_extent() for axes in panels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(extents, 2))
    (bar,) = [artist for axes in panels for artist in axes.artists if isinstance(artist, AnchoredSizeBar)]
    for axes in panels:
        assert not axes.images[0].get_window_extent().padded(-1).overlaps(bar.get_window_extent())


@pytest.mark.parametrize("only", [None, "phase", "probe"])
def test_texts_and_lines_follow_the_width(only: Any) -> None:
    result = make_result(make_object())
    whole, half = plot_result(result, only=only), plot_result(result, only=only)
    resize_figure(half, whole.get_figwidth() / 2)
    assert half.get_size_inches() == pytest.approx(whole.get_size_inches() / 2)
    for figure in (whole, half):
        figure.canvas.draw()
    # Everything lies where it was.
    for own, other in zip(whole.axes, half.axes, strict=True):
        np.testing.assert_allclose(other.get_position().bounds, own.get_position().bounds, atol=0.05)
        for name in ("title", "xaxis.label", "yaxis.label"):
            text = operator.attrgetter(name)
            assert 2 * text(other).get_fontsize() == pytest.approx(text(own).get_fontsize())


def test_a_ramp_is_removed_where_the_probe_was_recovered() -> None:
    ramp = np.exp(0.4j * np.arange(SHAPE[1]))

    def phase(values: np.ndarray, update_probe: bool, **options) -> np.ndarray:
        result = make_result(values)
        result.attrs["options"] = json.dumps({"update_probe": update_probe})
        return find_panel(plot_result(result, **options), "phase").images[0].get_array()

    straight = phase(make_object(), True)
    for tilted in (phase(make_object() * ramp, True), phase(make_object() * ramp, False, remove_ramp=True)):
        assert np.abs(np.angle(np.exp(1j * (straight - tilted)))).max() < 0.05
    # With a known probe, a ramp belongs to the object.
    assert np.abs(np.angle(np.exp(1j * (straight - phase(make_object() * ramp, False))))).max() > 1


def test_drawing_leaves_pyplot_alone() -> None:
    before, figures = dict(mpl.rcParams), plt.get_fignums()
    plot_result(make_result(make_object()))
    assert plt.get_fignums() == figures
    assert dict(mpl.rcParams) == before


def test_comparison_shows_what_was_compared() -> None:
    reference = make_result(make_object())
    rng = np.random.default_rng(2)
    noise = 0.3 * (rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE))
    target = reference["object"]
    image = 3j * np.roll(target.values + noise, 1, axis=0)
    comparison = compare_images(image, target.values, reference["illumination"].values, 5e-9)
    figure = plot_comparison(comparison, target, names=("A", "B"))
    assert titles(figure) == [
        "A, amplitude", "B, amplitude", "difference", "A, phase", "B, phase", "Fourier ring correlation",
    ]  # fmt: skip
    assert f"{comparison.error:.3g}" in figure.get_suptitle()
    # Both have the same scale, and the image is drawn after registration, which divides it by three.
    left, right = (find_panel(figure, f"{name}, amplitude").images[0] for name in "AB")
    assert left.get_clim() == right.get_clim()
    assert 0.8 < left.get_array().mean() / right.get_array().mean() < 1.3
    curves = find_panel(figure, "Fourier ring correlation")
    correlation, threshold = curves.lines[:2]
    np.testing.assert_allclose(correlation.get_ydata(), comparison.frc.correlation)
    np.testing.assert_allclose(threshold.get_ydata(), comparison.frc.threshold)
    assert "1/nm" in curves.get_xlabel()
    crossing = comparison.frc.crossing
    assert crossing is not None
    assert curves.lines[2].get_xdata()[0] == pytest.approx(crossing * 1e-9)
    assert any(f"{1e9 / crossing:.3g} nm" in text.get_text() for text in curves.get_legend().get_texts())


def test_comparison_in_pixels_and_without_crossing() -> None:
    target = make_result(make_object(), units="pixel")["object"]
    comparison = compare_images(target.values, target.values)
    figure = plot_comparison(comparison, target)
    curves = find_panel(figure, "Fourier ring correlation")
    assert "1/pixel" in curves.get_xlabel()
    assert len(curves.get_legend().get_texts()) == 2


def test_sync_difference_shows_both_beside_the_truth() -> None:
    truth = make_result(make_object())["object"].pad(y=(4, 2), x=(3, 3), constant_values=1)
    truth = truth.assign_coords(
        y=("y", (np.arange(truth.sizes["y"]) - 4) * 5e-9, {"units": "m"}),
        x=("x", (np.arange(truth.sizes["x"]) - 3) * 5e-9, {"units": "m"}),
    )
    plain, synchronised = make_result(1j * make_object(slow=2)), make_result(-1j * make_object(noise=0.01))
    sweeps = np.arange(1, 31)
    errors = (sweeps**-0.2, sweeps**-1.5)
    figure = plot_sync_difference(plain, synchronised, truth, *errors)
    panels = titles(figure)
    assert panels[0].startswith("without sync: error 0.51 after 30 sweeps")
    assert panels[1].startswith("with sync: error 0.0061 after 30 sweeps")
    assert panels[2] == "truth"
    shown = [find_panel(figure, title).images[0] for title in panels]
    assert len({image.get_clim() for image in shown}) == 1
    assert len({tuple(np.round(image.get_extent(), 12)) for image in shown}) == 1
    # A global phase does not count: the image with sync is close to the truth in every pixel.
    phases = [np.exp(1j * image.get_array()).filled(0) for image in shown]
    assert relative_error(phases[1], phases[2]) < 0.05 < relative_error(phases[0], phases[2])
    assert np.abs(phases[1] - phases[2]).mean() < 0.05
    (curves,) = find_by_label(figure, "relative error")
    assert curves.get_yscale() == "log"
    for line, error in zip(curves.lines, errors, strict=True):
        np.testing.assert_allclose(line.get_ydata(), error)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "PNG"])
def test_saved_picture_is_the_only_new_file(tmp_path, suffix) -> None:
    target = tmp_path / f"picture.{suffix}"
    target.write_text("an older picture")
    figure = Figure()
    figure.subplots().plot([0, 1])
    assert save_figure(figure, target, dpi=60) == target
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert target.stat().st_size > 2000


def test_saved_picture_is_not_blank(tmp_path) -> None:
    path = save_figure(plot_result(make_result(make_object())), tmp_path / "picture.png", dpi=60)
    pixels = plt.imread(path)
    assert pixels.shape[1] == 13 * 60
    # Both panels show both tones of the stripes; the phase and the probe are colourful.
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 500
    colourful = np.ptp(pixels[..., :3], axis=-1) > 0.2
    assert colourful[: colourful.shape[0] // 2, colourful.shape[1] // 2 :].mean() > 0.1
    assert colourful[colourful.shape[0] // 2 :, : colourful.shape[1] // 2].any()


def test_a_failed_picture_leaves_the_old_one(tmp_path, monkeypatch) -> None:
    figure = plot_result(make_result(make_object()))
    target = tmp_path / "picture.png"
    target.write_text("an older picture")

    def fail(file, **_) -> None:
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="no space"):
        save_figure(figure, target)
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    assert target.read_text() == "an older picture"


@pytest.mark.parametrize("name", ["picture.zarr", "picture"])
def test_unknown_format_names_the_known_ones(tmp_path, name) -> None:
    with pytest.raises(OptionError, match=r"expected one of .*\.pdf.*\.png"):
        save_figure(Figure(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_missing_folder_is_named(tmp_path) -> None:
    with pytest.raises(OptionError, match="is not a folder"):
        save_figure(Figure(), tmp_path / "nowhere" / "picture.png")


def test_complex_to_rgb_is_public_here() -> None:
    assert complex_to_rgb(np.ones((2, 2))).shape == (2, 2, 3)
