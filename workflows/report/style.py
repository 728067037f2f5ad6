"""One look for all figures: colours, fonts, sizes, and files that do not change from run to run."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec

import matplotlib as mpl
from fontTools import subset
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image, ImageChops, ImageStat

from workflows.report.colors import COLORS as COLORS
from workflows.report.colors import CYCLE as CYCLE
from workflows.report.colors import INK as INK
from workflows.report.colors import LATENT_SYMBOL as LATENT_SYMBOL
from workflows.report.colors import LINE_STYLES as LINE_STYLES
from workflows.report.colors import MUTED as MUTED
from workflows.report.colors import NOISE_SYMBOL as NOISE_SYMBOL
from workflows.report.colors import SAMPLE_SYMBOL as SAMPLE_SYMBOL

P = ParamSpec("P")

_FLARE = ("#f3d3b3", "#edb081", "#e98d6b", "#e3685c", "#d14a61", "#b13c6c", "#8f3371", "#6c2b6d", "#4b2362")
SEQUENTIAL = LinearSegmentedColormap.from_list("taba-flare", _FLARE)
DIVERGING = LinearSegmentedColormap.from_list(
    "taba-diverging", ("#1f5f99", "#8fb8da", "#f7f7f7", "#f0a787", "#b5340a")
)

TEXT_WIDTH = 7.2  # inches: the width of a page's text block
_PAD_INCHES = 0.04  # around what is drawn
PICTURE_DPI = 170
_COLOURS_OF_A_CHART = 16384
_UNSEEN = 0.15  # of 255: the mean difference between a pixel's colour and the nearest one of the palette
# A quick compression: `encoded` does it again.
_PIXELS: dict[str, Any] = {
    "format": "png",
    "dpi": PICTURE_DPI,
    "metadata": {"Software": None},
    "pil_kwargs": {"compress_level": 1},
}
# More effort than this saves 2 % of the bytes.
_WITHOUT_LOSSES: dict[str, dict[str, Any]] = {
    "webp": {"lossless": True, "quality": 50, "method": 3},
    "png": {},
}
_PDF_METADATA = {"CreationDate": None, "Creator": "taba", "Producer": "taba"}

RC: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same file on every machine
    "mathtext.fontset": "dejavusans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.labelsize": 8.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7ec",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # embed TrueType outlines; type 3 fonts are refused by most publishers
    "svg.hashsalt": "taba",
}


def styled(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a drawing function under taba's settings without changing the caller's."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(RC):
            return function(*args, **kwargs)

    return run


def new_figure(width: float = TEXT_WIDTH, height: float = 3.0) -> Figure:
    """An empty figure in inches, off screen, outside pyplot's global list, laid out automatically."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def color_of(name: str, index: int = 0) -> str:
    """The fixed colour of a known quantity ("Noise", "Plain", ...), else the index-th of the cycle."""
    return COLORS.get(name, CYCLE[index % len(CYCLE)])


def figure_files(figure: Figure) -> dict[str, bytes]:
    """A figure as the content of a .webp and a .pdf file: fonts embedded, no timestamps, so equal figures are equal."""
    pdf = {"format": "pdf", "dpi": 300, "metadata": _PDF_METADATA}
    with _laid_out(figure) as save:
        return {".webp": encoded(save(**_PIXELS), "webp"), ".pdf": save(**pdf)}


def figure_png(figure: Figure) -> bytes:
    """A figure as the content of a .png file, with the pixels of the .webp file of `figure_files`."""
    with _laid_out(figure) as save:
        return encoded(save(**_PIXELS), "png")


@contextlib.contextmanager
def _laid_out(figure: Figure) -> Iterator[Callable[..., bytes]]:
    """Lay a figure out and measure it once, and give the function that returns one of its files.

    The function takes the options of matplotlib's `savefig`.
    """
    with mpl.rc_context(RC), _fonts_without_shaping():
        # Each file would do it again, which takes longer than drawing.
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # of "none" matplotlib draws once more before each file
        box = figure.get_tightbbox().padded(_PAD_INCHES)

        def save(**options: Any) -> bytes:
            buffer = io.BytesIO()
            figure.savefig(buffer, bbox_inches=box, **options)
            return buffer.getvalue()

        yield save


@contextlib.contextmanager
def _fonts_without_shaping() -> Iterator[None]:
    """Leave out of the fonts in PDFs what shapes text, which is shaped by then: reading it takes most of the time."""
    tables = getattr(subset.Options, "_drop_tables_default", None)
    if tables is None:  # another version of fontTools: larger files, more slowly
        yield
        return
    subset.Options._drop_tables_default = [*tables, "GSUB", "GPOS", "GDEF", "BASE", "MATH"]
    try:
        yield
    finally:
        subset.Options._drop_tables_default = tables


def encoded(content: bytes, kind: str) -> bytes:
    """The content of a PNG file of an opaque picture, encoded anew without losses and without its transparency.

    A chart has a few colours and their blends along edges: it gets a palette of 256 where nobody could see the
    difference. Photographs and fields keep all colours. `kind` is "webp" or "png".
    """
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    if picture.getcolors(_COLOURS_OF_A_CHART) is not None:
        indexed = picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        difference = ImageStat.Stat(ImageChops.difference(picture, indexed.convert("RGB")))
        if max(difference.mean) < _UNSEEN:
            picture = indexed if kind == "png" else indexed.convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, kind, **_WITHOUT_LOSSES[kind])
    return buffer.getvalue()
