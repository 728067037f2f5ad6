"""Plots show what they are given: scales, colours, shaded steps, and clear refusals."""

import io

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from workflows.report import plots, style
from workflows.report.grids import MISSING

rng = np.random.default_rng(0)
STATES = rng.normal(size=(4, 3, 8, 8))
SEQUENCES = [plots.Curve("Plain", np.linspace(1, 0, 50)), plots.Curve("Non-plain", np.linspace(0.5, 0, 50))]


def test_model_space_maps_to_black_grey_and_white():
    values = np.array([-1.0, 0.0, 1.0])
    tiles = plots.image_tiles(np.broadcast_to(values[:, None, None, None], (3, 3, 2, 2)))
    assert tiles.shape == (3, 2, 2, 3)
    assert tiles[:, 0, 0, 0].tolist() == [0, 0.5, 1]


def test_byte_images_and_their_model_space_values_look_the_same():
    images = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    states = np.moveaxis(images / 127.5 - 1, -1, 1)
    np.testing.assert_allclose(plots.image_tiles(images), plots.image_tiles(states), atol=1e-12)


def test_an_unwritten_value_is_grey_not_black():
    images = np.zeros((1, 3, 2, 2))
    images[0, 1, 0, 0] = np.nan
    np.testing.assert_allclose(plots.image_tiles(images)[0, 0, 0], MISSING)


def test_a_rows_latents_share_one_symmetric_scale():
    tiles, limit = plots.latent_tiles(STATES)
    assert limit == np.percentile(np.abs(STATES), 99.5)
    half, _ = plots.latent_tiles(0.5 * STATES)
    np.testing.assert_allclose(half, tiles)  # own scale: a smaller spread looks the same ...
    same, _ = plots.latent_tiles(0.5 * STATES, limit)
    assert same.std() < 0.6 * tiles.std()  # ... and paler on the scale of the other row


def test_four_channels_show_their_first_three_or_reduce_to_three():
    states = rng.normal(size=(2, 4, 8, 8)) * np.array([4.0, 3.0, 2.0, 1e-6])[None, :, None, None]
    np.testing.assert_array_equal(
        plots.latent_tiles(states, 3.0)[0], plots.latent_tiles(states[:, :3], 3.0)[0]
    )
    reduced = plots.principal_channels(states)
    assert reduced.shape == (2, 3, 8, 8)
    # The fourth channel carries nothing, so three components keep the whole variance.
    assert np.isclose(reduced.var((0, 2, 3)).sum(), states.var((0, 2, 3)).sum(), rtol=1e-6)
    assert np.all(np.diff(reduced.var((0, 2, 3))) < 0)


def test_plain_pixels_are_tinted_and_the_rest_stay_grey():
    masks = np.zeros((1, 4, 4), bool)
    masks[0, :2] = True
    tiles = plots.mask_tiles(np.zeros((1, 3, 4, 4)), masks)
    assert np.ptp(tiles[0, 3, 0]) == 0
    assert tiles[0, 0, 0, 0] > tiles[0, 0, 0, 2] + 0.3
    figure = plots.mask_overlay_grid(np.zeros((1, 3, 4, 4)), masks)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["50% plain"]


def test_grids_refuse_rows_and_labels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"same number of tiles, got \[4, 3\]"):
        plots.image_grid([STATES, STATES[:3]])
    with pytest.raises(ValueError, match="2 column labels for 4 columns"):
        plots.image_grid([STATES], col_labels=["a", "b"])


def test_difference_maps_share_one_scale():
    figure = plots.difference_maps([np.full((2, 4, 4), 0.5), np.full((2, 4, 4), 1.0)])
    bar = figure.axes[-1]
    assert bar.get_ylim() == (0, 1)


def test_the_shade_covers_exactly_the_first_tenth_of_the_steps():
    figure = plots.step_curves({"model": SEQUENCES}, "error")
    shade = next(patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle))
    # Steps 1 to 5 of 50, each the centre of a unit interval: 0.5 to 5.5.
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (0.5, 5.5)


def test_known_quantities_keep_their_colour():
    figure = plots.step_curves({"a": SEQUENCES, "b": SEQUENCES[::-1]}, "error", first_fraction=None)
    for axis in figure.axes:
        assert {line.get_label(): line.get_color() for line in axis.lines} == {
            "Plain": style.COLORS["Plain"],
            "Non-plain": style.COLORS["Non-plain"],
        }


def test_sweeps_space_cases_evenly_and_draw_the_floor():
    curves = [plots.Curve("exact", [0.7, 0.3, 0.26]), plots.Curve("matched", [0.7, 0.27, 0.25])]
    figure = plots.sweep_curves({"correlation": curves}, [0, 1, 10], floors=[0.252])
    axis = figure.axes[0]
    assert axis.get_xticks().tolist() == [0, 1, 2]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1", "10"]
    assert axis.lines[-1].get_ydata() == [0.252, 0.252]


def test_bars_show_intervals_floor_and_paper():
    figure = plots.bars_with_ci(
        ["ADM-64"], {"Latent": [0.4]}, {"Latent": [(0.35, 0.5)]}, floors=[0.25], paper={"Latent": [0.126]}
    )
    axis = figure.axes[0]
    drawn = [
        line.get_ydata().tolist() if hasattr(line.get_ydata(), "tolist") else line.get_ydata()
        for line in axis.lines
    ]
    assert [0.126] in drawn
    assert any(list(values) == [0.25, 0.25] for values in drawn)
    segment = axis.collections[0].get_segments()[0]
    np.testing.assert_allclose(segment[:, 1], [0.35, 0.5])


def test_the_heat_map_scales_each_step_and_marks_the_nearest_point():
    lambdas = np.linspace(0, 1, 5)
    distance = np.abs(lambdas[None] - np.array([0.0, 0.5, 1.0])[:, None]) * [[1], [4], [9]]
    figure = plots.heat_map({"model": distance}, lambdas)
    scaled, raw = (axis.get_images()[0].get_array() for axis in figure.axes[:2])
    np.testing.assert_allclose(scaled.min(0), 0)
    np.testing.assert_allclose(scaled.max(0), 1)
    np.testing.assert_allclose(raw, distance.T)
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0.0, 0.5, 1.0]


def test_drawing_leaves_the_callers_settings_alone():
    before = dict(mpl.rcParams)
    plots.step_curves({"model": SEQUENCES}, "error")
    assert dict(mpl.rcParams) == before


def test_progress_has_room_for_no_images_and_a_legend_of_what_is_named():
    seen = [0, 320, 3200, 32000]
    curves = [plots.Curve("found", [1, 0.9, 0.7, 0.5], low=[0.9, 0.8, 0.6, 0.4], high=[1, 1, 0.8, 0.6])]
    curves += [plots.Curve("lost", [0, 0.1, 0.3, 0.5]), plots.Curve("_", [0, 0.2, 0.4, 0.4], color="#000000")]
    figure = plots.progress_curves({"share": curves}, seen, shares=(0.1,), bounds=((0, 1.05),))
    (axis,) = figure.axes
    drawn = [line for line in axis.lines if len(line.get_xdata()) == len(seen)]
    assert [line.get_label() for line in drawn] == ["found", "lost", "_"]
    assert drawn[2].get_linewidth() < drawn[0].get_linewidth()
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["found", "lost"]
    assert axis.get_xlim()[0] == 0 and axis.get_ylim() == (0, 1.05)
    (mark,) = [line for line in axis.lines if line not in drawn]
    assert mark.get_xdata()[0] == 3200
    # 0 stands as far from the first images as one decade does at most, and every tick is a number of images.
    places = axis.transData.transform([(x, 0) for x in seen])[:, 0]
    assert 0 < places[1] - places[0] < places[2] - places[1] == pytest.approx(places[3] - places[2])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1k", "3k", "10k", "30k"]


def test_progress_of_nothing_positive_is_drawn_without_a_logarithm():
    figure = plots.progress_curves({"ratio": [plots.Curve("ratio", [np.nan])]}, [0], log=(True,))
    assert figure.axes[0].get_yscale() == "linear"
    steep = plots.progress_curves({"e": [plots.Curve("e", [1.0, 0.9])]}, [0, 10], log=(True,))
    steep.canvas.draw()
    assert steep.axes[0].get_yscale() == "log"
    named = [label.get_text() for label in steep.axes[0].get_yticklabels(minor=True)]
    assert named and not any("times" in text for text in named)


def test_a_chart_has_a_palette_that_nobody_sees_and_a_picture_keeps_every_colour():
    chart = plots.step_curves({"model": SEQUENCES}, "error")
    images = np.clip(rng.normal(size=(6, 3, 32, 32)), -1, 1)
    pictures = plots.image_grid([images])
    for figure, mode in ((chart, "P"), (pictures, "RGB")):
        content, png = style.figure_files(figure)[".webp"], style.figure_png(figure)
        assert Image.open(io.BytesIO(png)).mode == mode
        assert np.array_equal(_rgb(content), _rgb(png)) and len(content) < len(png)
        plain = io.BytesIO()
        with mpl.rc_context(style.RC):
            box = figure.get_tightbbox().padded(style._PAD_INCHES)
            figure.savefig(plain, format="png", dpi=style.PICTURE_DPI, bbox_inches=box)
        difference = np.abs(_rgb(content).astype(int) - _rgb(plain.getvalue()))
        assert difference.mean() < 0.15 if mode == "P" else not difference.any()
        assert len(png) < len(plain.getvalue())


def _rgb(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
