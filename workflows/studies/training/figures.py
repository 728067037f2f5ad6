"""Figures 16 to 21, and the loss and the held-out errors of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from taba_core.metrics.extractor import extractor_named
from workflows.analysis.findings import item_context, item_id
from workflows.analysis.presentation import Figure, Row
from workflows.analysis.published import LARGE_SIDE
from workflows.report import plots
from workflows.report.colors import CYCLE

if TYPE_CHECKING:
    import xarray as xr

_SHARES = (-0.03, 1.05)  # ends of an axis of shares
_LINES = ("-", "--", "-.", ":")  # lines that coincide stay visible
# Curves of a panel: label -> stored name and coordinates.
_Lines = Mapping[str, tuple[str, Mapping[str, Any]]]
_ANGLES: _Lines = {
    r"at $x^0$": ("angle", {"vertex": "image"}),
    r"at $x^T$": ("angle", {"vertex": "noise"}),
    r"at $\hat{x}^T$": ("angle", {"vertex": "latent"}),
}
_DISTANCES: _Lines = {
    r"$\|x^T - \hat{x}^T\|$": ("distance", {"distance_between": "noise_latent"}),
    r"$\|x^0 - \hat{x}^T\|$": ("distance", {"distance_between": "image_latent"}),
}
_MAPPING: _Lines = {
    r"$x^0 \to x^T$": ("accuracy", {"direction": "image_noise"}),
    r"$x^T \to x^0$": ("accuracy", {"direction": "noise_image"}),
}


def figures_of(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Figure, ...]:
    """All figures of one result."""
    made = _Maker(label, result, index, results)
    return tuple(
        figure
        for figure in (
            made.triangle(),
            made.mapping(),
            made.alignment(),
            made.differences(),
            made.difference_power(),
            made.grid(),
            made.loss(),
            made.held_out(),
        )
        if figure is not None
    )


class _Maker:
    """The figures of one result, each with its number."""

    def __init__(self, label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> None:
        self.label, self.result, self.index, self.results = label, result, index, results
        self.images = result["images"].values
        self.several = len(result["training_seed"]) > 1
        self.bands = (
            "Lines are means over the trainings, thin lines the trainings themselves; bands are 95 % intervals over "
            "images, averaged over the trainings."
            if self.several
            else "Bands are 95 % intervals over images, of one training."
        )

    def triangle(self) -> Figure:
        """Figure 16."""
        return self._curves(
            "fig16",
            "Noise, image and latent over the training",
            "Images of the final network inverted by every checkpoint: mean angles of the triangle of noise, image and "
            "latent, and the lengths of two of its sides. The dotted line is 10 % of the training.",
            {"angle, degrees": _ANGLES, "distance": _DISTANCES},
            shares=(0.1,),
        )

    def mapping(self) -> Figure:
        """Figure 17."""
        return self._curves(
            "fig17",
            "Smallest-distance mapping over the training",
            "Share of the images of every checkpoint whose nearest noise is their own, and of the noises whose nearest "
            "image is.",
            {"share found": _MAPPING},
            bounds=(_SHARES,),
        )

    def alignment(self) -> Figure:
        """Figure 18."""
        extractor = extractor_named(str(self.result["extractor"].item()))
        names = {
            "cka": "CKA",
            "cka_unbiased": "CKA, unbiased",
            "svcca": "SVCCA",
            "features": "features (for DINO)",
            "ssim": "SSIM",
        }
        lines: _Lines = {text: (name, {}) for name, text in names.items() if name in self.result}
        return self._curves(
            "fig18",
            "Generations beside the final ones over the training",
            "How alike the images of every checkpoint and of the final network are, from the same noise. The dotted "
            f"line is 20 % of the training. Features: {extractor.title}.",
            {"alignment with the final images": lines},
            shares=(0.2,),
            proxy="DINO",
        )

    def difference_power(self) -> Figure:
        """The numbers of Figure 19."""
        return self._curves(
            "fig19-power",
            "Where the power of the difference lies",
            "Radial power of the difference of a checkpoint's images to the final ones, above half the Nyquist "
            "frequency over that below it: 1 for white noise, near 0 for smooth differences. The dotted line is 10 % "
            "of the training.",
            {"power high / low": {"ratio": ("power_ratio", {})}},
            shares=(0.1,),
            log=(True,),
        )

    def held_out(self) -> Figure | None:
        """What the network has learned of the cleanest levels."""
        if "held_out" not in self.result:
            return None
        lines: _Lines = {
            f"level {level}": ("held_out", {"level": level}) for level in self.result["level"].values.tolist()
        }
        return self._curves(
            "training-held-out",
            "Errors on held-out crops over the training",
            "Mean squared error of the predicted noise on crops that were never trained on, at the cleanest levels of "
            "50 steps; 1 is no knowledge. The first steps of an inversion are predicted at these levels.",
            {"squared error": lines},
            log=(True,),
            intervals=False,
        )

    def loss(self) -> Figure | None:
        """The training's own curve."""
        if "loss" not in self.result:
            return None
        result = self.result

        def draw() -> Any:
            seeds = result["training_seed"].values.tolist()
            curves = [
                plots.Curve(f"training seed {s}", result["loss"].sel(training_seed=s).values) for s in seeds
            ]
            # Losses of all seeds are read at the same steps: their recipe is one.
            seen = result["loss_images"].isel(training_seed=0).values
            return plots.progress_curves({"training loss": curves}, seen, ylabels=("loss",), log=(True,))

        last = result["loss"].isel(entry=-1)
        return self._figure(
            "training-loss",
            "Loss over the training",
            "The recipe's objective, each point the mean over the steps since the one before.",
            draw,
            values=tuple(
                Row(f"{self.label}, training seed {seed}", "last loss", float(last.sel(training_seed=seed)))
                for seed in result["training_seed"].values.tolist()
            ),
        )

    def grid(self) -> Figure:
        """Figure 20 (64 pixels and more) or 21."""
        result, large = self.result, int(self.result["side"]) >= LARGE_SIDE

        def draw() -> Any:
            pictures = result["picture"].transpose("example", "shown", ...).values
            return plots.image_grid(list(pictures), self._noises(), self._columns())

        return self._figure(
            "fig20" if large else "fig21",
            "Images from the same noise over the training",
            "A row a noise, a column a checkpoint (images seen); the last column is the final network."
            + self._of_seed(),
            draw,
        )

    def differences(self) -> Figure | None:
        """Figure 19."""
        result = self.result
        if "difference" not in result:
            return None

        def draw() -> Any:
            states = result["difference"].values
            tiled = [plots.latent_tiles(of) for of in states]
            columns = [
                f"{text}\n±{limit:.2g}" for text, (_, limit) in zip(self._columns()[:-1], tiled, strict=True)
            ]
            rows = np.stack([tiles for tiles, _ in tiled], axis=1)
            return plots.tile_grid(list(rows), self._noises(), columns)

        return self._figure(
            "fig19",
            "Differences to the final images over the training",
            "Image of a checkpoint minus that of the final network from the same noise, every column on its own scale "
            "(beside ±); grey is no difference." + self._of_seed(),
            draw,
        )

    def _noises(self) -> list[str]:
        return [f"noise {int(i)}" for i in self.result["example_id"].values]

    def _columns(self) -> list[str]:
        return [f"{int(images):,}" for images in self.result["shown_images"].values]

    def _of_seed(self) -> str:
        return f" Of training seed {int(self.result['training_seed'][0])}." if self.several else ""

    def _curves(
        self,
        base: str,
        title: str,
        caption: str,
        panels: Mapping[str, _Lines],
        *,
        intervals: bool = True,
        proxy: str = "",
        **axes: Any,
    ) -> Figure:
        """Lines over the images seen, a panel a group; `axes` are options of `progress_curves`."""

        def draw() -> Any:
            curves = {title: self._drawn(lines, intervals) for title, lines in panels.items()}
            return plots.progress_curves(curves, self.images, **axes)

        told = f"{caption} {self.bands}" if intervals else caption
        lines = {text: line for of in panels.values() for text, line in of.items()}
        return self._figure(base, title, told, draw, values=self._values(lines), proxy=proxy)

    def _drawn(self, lines: _Lines, intervals: bool) -> list[plots.Curve]:
        curves = []
        for number, (text, (name, where)) in enumerate(lines.items()):
            color = CYCLE[number % len(CYCLE)]
            bounds = [self._mean(name + end, where) if intervals else None for end in ("_low", "_high")]
            curves.append(
                plots.Curve(
                    text,
                    self._mean(name, where),
                    bounds[0],
                    bounds[1],
                    color=color,
                    line=_LINES[number % len(_LINES)],
                )
            )
            if self.several:
                each = self.result[name].sel(where).transpose("training_seed", "checkpoint").values
                curves += [plots.Curve("_", own, color=color) for own in each]
        return curves

    def _mean(self, name: str, where: Mapping[str, Any]) -> Any:
        return self.result[name].sel(where).mean("training_seed").values

    def _values(self, lines: _Lines) -> tuple[Row, ...]:
        """The final and the first value of every line, of every training."""
        result, rows = self.result, []
        for text, (name, where) in lines.items():
            for seed in result["training_seed"].values.tolist():
                for step in (result["checkpoint"].values[0], result["checkpoint"].values[-1]):
                    at = {**where, "training_seed": seed, "checkpoint": step}
                    value = float(result[name].sel(at))
                    if np.isfinite(value):
                        row = f"{self.label}, training seed {seed}, step {int(step)}"
                        rows.append(Row(row, _plain(text), value, ci95=self._interval(name, at)))
        return tuple(rows)

    def _interval(self, name: str, at: Mapping[str, Any]) -> tuple[float, float] | None:
        if f"{name}_low" not in self.result:
            return None
        return float(self.result[f"{name}_low"].sel(at)), float(self.result[f"{name}_high"].sel(at))

    def _figure(self, base: str, title: str, caption: str, draw: Any, **more: Any) -> Figure:
        return Figure(
            item_id(base, self.index, self.results),
            f"{title}, {self.label}",
            caption,
            draw,
            **item_context(self.result),
            **more,
        )


def _plain(text: str) -> str:
    """A label of a curve without the marks of mathematics."""
    for mark, plain in (("$", ""), (r"\hat{x}", "x̂"), (r"\to", "→"), (r"\|", "‖")):
        text = text.replace(mark, plain)
    return text
