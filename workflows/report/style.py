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
PNG_DPI = 170
_COLOURS_OF_A_CHART = 8192
_UNSEEN = 0.15  # of 255: the mean difference between a pixel's colour and the nearest one of the palette
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
    """A figure as the content of a .png and a .pdf file: fonts embedded, no timestamps, so equal figures are equal."""
    options: dict[str, dict[str, Any]] = {
        # A quick compression: `smaller_png` does it again.
        ".png": {
            "format": "png",
            "dpi": PNG_DPI,
            "metadata": {"Software": None},
            "pil_kwargs": {"compress_level": 1},
        },
        ".pdf": {"format": "pdf", "dpi": 300, "metadata": _PDF_METADATA},
    }
    files = {}
    with mpl.rc_context(RC), _fonts_without_shaping():
        # Laid out and measured once for both files: either would do it again, which takes longer than drawing.
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # of "none" matplotlib draws once more before each file
        box = figure.get_tightbbox().padded(_PAD_INCHES)
        for suffix, option in options.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, bbox_inches=box, **option)
            files[suffix] = buffer.getvalue()
    return files | {".png": smaller_png(files[".png"])}


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


def smaller_png(content: bytes) -> bytes:
    """An opaque picture without its transparency, and with a palette where nobody could see the difference.

    Charts have a few colours and their blends along edges; 256 of them serve. Photographs and fields keep all colours.
    """
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    if picture.getcolors(_COLOURS_OF_A_CHART) is not None:
        indexed = picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        difference = ImageStat.Stat(ImageChops.difference(picture, indexed.convert("RGB")))
        if max(difference.mean) < _UNSEEN:
            picture = indexed
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()
